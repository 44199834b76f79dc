//! Records are found, reused and told apart.

use super::*;

fn hash(number: u64) -> BlockHash {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&crate::hash::mix(number).to_le_bytes());
    bytes[8..16].copy_from_slice(&number.to_le_bytes());
    BlockHash(bytes)
}

fn slot(page: u32) -> SlotRef {
    SlotRef { page, generation: 1 }
}

#[test]
fn equal_hashes_of_different_spaces_are_different_blocks() {
    let mut blocks = Blocks::new(7);
    let (one, two) = (Space::new(0, 0), Space::new(0, 1));
    let first = blocks.insert(one, hash(7), slot(1), 0);
    assert_eq!(blocks.find(two, &hash(7)), None);
    let second = blocks.insert(two, hash(7), slot(2), 0);
    assert_eq!(
        (blocks.find(one, &hash(7)), blocks.find(two, &hash(7))),
        (Some(first), Some(second))
    );
}

#[test]
fn a_batch_finds_resident_blocks_and_no_others() {
    let mut blocks = Blocks::new(7);
    let space = Space::new(3, 0);
    for number in 0..10_000 {
        let index = blocks.insert(space, hash(number), slot(1), 0);
        if number % 3 == 0 {
            blocks.get_mut(index).state = BlockState::Resident;
        }
    }
    let hashes: Vec<_> = (0..20_000).map(hash).collect();
    let mut found = vec![BlockIndex::NONE; hashes.len()];
    blocks.find_present(space, &hashes, &mut found, &mut Trail::new(Reach::Host));
    for (number, &index) in (0_u64..).zip(&found) {
        assert_eq!(
            index != BlockIndex::NONE,
            number < 10_000 && number % 3 == 0,
            "block {number}"
        );
        assert!(index == BlockIndex::NONE || blocks.get(index).hash == hash(number));
    }
}

#[test]
fn records_are_reused() {
    let mut blocks = Blocks::new(7);
    let space = Space::new(0, 0);
    let index = blocks.insert(space, hash(1), slot(1), 0);
    assert_eq!(blocks.remove(index).slot, slot(1));
    assert_eq!(blocks.find(space, &hash(1)), None);
    assert_eq!(blocks.insert(space, hash(2), slot(2), 0), index);
    assert_eq!(blocks.len(), 1);
}
