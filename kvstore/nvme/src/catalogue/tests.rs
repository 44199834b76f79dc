use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use kvstore_types::{BlockHash, GroupIndex, NamespaceId, SegmentGeneration};
use tempfile::TempDir;

use super::*;

const TIER: [u8; 16] = [7; 16];
const BYTES_MAX: u64 = 256 << 20;

fn segment(index: u32, generation: u64) -> SegmentRef {
    SegmentRef {
        index,
        generation: SegmentGeneration(generation),
    }
}

fn block(segment: SegmentRef, page: u32) -> FoundBlock {
    let mut hash = [1; 32];
    hash[..4].copy_from_slice(&segment.index.to_le_bytes());
    hash[4..8].copy_from_slice(&page.to_le_bytes());
    let key = BlockKey {
        namespace: NamespaceId([9; 16]),
        group: GroupIndex(2),
        hash: BlockHash(hash),
    };
    let extent = Extent {
        segment,
        page,
        pages: 3,
    };
    FoundBlock {
        key,
        extent,
        descriptor: DescriptorBytes::kept(&[5; 10]),
    }
}

fn entered(segment: SegmentRef, page: u32) -> Change {
    let FoundBlock {
        key,
        extent,
        descriptor,
    } = block(segment, page);
    let descriptor = descriptor.unwrap().as_bytes().to_vec();
    Change::Block {
        extent,
        key,
        descriptor,
    }
}

fn open(path: &Path) -> (Catalogue, Condition) {
    Catalogue::open(path, TIER, BYTES_MAX).unwrap()
}

fn why_new(condition: Condition) -> String {
    match condition {
        Condition::New { why } => why,
        Condition::Good => panic!("the catalogue was found good"),
    }
}

fn pages(catalogue: &Catalogue, segment: SegmentRef) -> Vec<u32> {
    let mut blocks = catalogue.blocks().unwrap();
    blocks
        .of(segment)
        .map(|block| block.unwrap().extent.page)
        .collect()
}

/// A catalogue with a full segment 3 and an open segment 4, closed.
fn closed() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let (mut catalogue, condition) = open(&place.path().join("catalogue"));
    assert_eq!(why_new(condition), "there was none");
    let (full, growing) = (segment(3, 5), segment(4, 6));
    let mut changes = vec![Change::OpenSegment(full), Change::OpenSegment(growing)];
    changes.extend([1, 4, 7].map(|page| entered(full, page)));
    changes.extend([1, 300].map(|page| entered(growing, page)));
    assert_eq!(catalogue.write(&changes).unwrap(), Applied::Whole);
    assert_eq!(
        catalogue.write(&[Change::SegmentFull(full)]).unwrap(),
        Applied::Whole
    );
    catalogue.flush().unwrap();
    place
}

#[test]
fn what_was_entered_is_found_again_in_order_of_place() {
    let place = closed();
    let (catalogue, condition) = open(&place.path().join("catalogue"));
    assert_eq!(condition, Condition::Good);
    let record = |generation, full_tail| SegmentRecord {
        generation: SegmentGeneration(generation),
        full_tail,
    };
    assert_eq!(
        catalogue.segments().unwrap(),
        [(3, record(5, Some(10))), (4, record(6, None))]
    );
    let full = segment(3, 5);
    let mut cursor = catalogue.blocks().unwrap();
    let found: Vec<_> = cursor.of(full).map(Result::unwrap).collect();
    assert_eq!(found, [block(full, 1), block(full, 4), block(full, 7)]);
    let found: Vec<_> = cursor.of(segment(4, 6)).map(Result::unwrap).collect();
    assert_eq!(found, [block(segment(4, 6), 1), block(segment(4, 6), 300)]);
    assert_eq!(cursor.of(segment(5, 1)).count(), 0);
}

#[test]
fn a_segments_next_use_forgets_what_was_in_it_and_nothing_else() {
    let place = closed();
    let (mut catalogue, _) = open(&place.path().join("catalogue"));
    // The last segment there can be: no key of a next one ends its range.
    let last = segment(u32::MAX, 1);
    let changes = [
        Change::OpenSegment(last),
        entered(last, 1),
        entered(last, u32::MAX - 3),
    ];
    catalogue.write(&changes).unwrap();
    assert_eq!(pages(&catalogue, last), [1, u32::MAX - 3]);
    catalogue
        .write(&[
            Change::OpenSegment(segment(3, 8)),
            Change::SegmentDeleted(u32::MAX),
            entered(segment(3, 8), 2),
        ])
        .unwrap();
    assert_eq!(pages(&catalogue, segment(3, 5)), [0; 0]);
    assert_eq!(pages(&catalogue, segment(3, 8)), [2]);
    assert_eq!(pages(&catalogue, segment(4, 6)), [1, 300]);
    assert_eq!(pages(&catalogue, last), [0; 0]);
    let known: Vec<u32> = catalogue
        .segments()
        .unwrap()
        .iter()
        .map(|&(index, _)| index)
        .collect();
    assert_eq!(known, [3, 4]);
}

#[test]
fn a_block_of_another_use_is_passed_over() {
    let place = closed();
    let (mut catalogue, _) = open(&place.path().join("catalogue"));
    catalogue.write(&[entered(segment(4, 5), 100)]).unwrap();
    assert_eq!(pages(&catalogue, segment(4, 6)), [1, 300]);
    assert_eq!(pages(&catalogue, segment(4, 5)), [100]);
}

#[test]
fn a_forgotten_block_is_gone() {
    let place = closed();
    let (mut catalogue, _) = open(&place.path().join("catalogue"));
    catalogue
        .write(&[Change::Forget(block(segment(3, 5), 4).extent)])
        .unwrap();
    assert_eq!(pages(&catalogue, segment(3, 5)), [1, 7]);
}

#[test]
fn an_empty_segment_can_be_full() {
    let place = closed();
    let (mut catalogue, _) = open(&place.path().join("catalogue"));
    let empty = segment(9, 1);
    catalogue
        .write(&[Change::OpenSegment(empty), Change::SegmentFull(empty)])
        .unwrap();
    let (_, record) = catalogue.segments().unwrap()[2];
    assert_eq!(record.full_tail, Some(1));
}

/// The image that a killed process leaves: the files as the page cache has them, while the database is open.
#[test]
fn a_killed_process_loses_no_change() {
    let place = closed();
    let (mut catalogue, _) = open(&place.path().join("catalogue"));
    let growing = segment(4, 6);
    for page in 400..1000 {
        catalogue.write(&[entered(growing, page * 4)]).unwrap();
    }
    let image = place.path().join("image");
    copy(&place.path().join("catalogue"), &image);
    let (catalogue, condition) = open(&image);
    assert_eq!(condition, Condition::Good);
    assert_eq!(pages(&catalogue, growing).len(), 602);
}

#[test]
fn what_is_no_catalogue_of_this_tier_is_replaced_by_an_empty_one() {
    type Damage = fn(&Path);
    let cases: [(Damage, &str); 6] = [
        (
            |path| {
                fs::remove_dir_all(path).unwrap();
                fs::write(path, "a file").unwrap();
            },
            "file in its place",
        ),
        (|path| fs::remove_dir_all(path).unwrap(), "there was none"),
        (|path| fs::remove_file(path.join("CURRENT")).unwrap(), "CURRENT"),
        (
            |path| fs::remove_file(newest(path, "MANIFEST-")).unwrap(),
            "MANIFEST",
        ),
        (
            |path| fs::write(path.join("CURRENT"), "nonsense").unwrap(),
            "CURRENT",
        ),
        (|path| fs::remove_file(newest(path, ".sst")).unwrap(), ".sst"),
    ];
    for (damage, expected) in cases {
        let place = closed();
        let path = place.path().join("catalogue");
        damage(&path);
        let (mut catalogue, condition) = open(&path);
        let why = why_new(condition);
        assert!(why.contains(expected), "{why:?} should contain {expected:?}");
        assert_eq!(catalogue.segments().unwrap(), []);
        catalogue.write(&[Change::OpenSegment(segment(1, 1))]).unwrap();
        drop(catalogue);
        assert_eq!(open(&path).1, Condition::Good);
    }
}

#[test]
fn another_tiers_or_another_versions_catalogue_is_not_used() {
    let place = closed();
    let path = place.path().join("catalogue");
    let (catalogue, condition) = Catalogue::open(&path, [8; 16], BYTES_MAX).unwrap();
    assert!(why_new(condition).contains("another tier"));
    assert_eq!(catalogue.segments().unwrap(), []);
    let mut later = identity([8; 16]);
    later[0] = VERSION + 1;
    catalogue.db.put(super::TIER, later).unwrap();
    drop(catalogue);
    let (_, condition) = Catalogue::open(&path, [8; 16], BYTES_MAX).unwrap();
    assert!(why_new(condition).contains("version"));
}

/// Every byte of every file, one at a time: what is read afterwards is what was entered, or an error, or nothing.
#[test]
fn a_flipped_byte_is_an_error_or_changes_nothing() {
    let place = closed();
    let path = place.path().join("catalogue");
    drop(open(&path));
    let files: Vec<_> = fs::read_dir(&path)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    let image = place.path().join("image");
    let full = segment(3, 5);
    let good = [block(full, 1), block(full, 4), block(full, 7)];
    let mut unlike = 0;
    for file in files {
        let length = fs::metadata(&file).unwrap().len();
        // Enough places in every file; each costs an opening.
        for at in (0..length).step_by(usize::try_from(length / 6).unwrap().max(1)) {
            copy(&path, &image);
            flip(&image.join(file.file_name().unwrap()), at);
            let (catalogue, condition) = open(&image);
            let mut cursor = catalogue.blocks().unwrap();
            let found: Result<Vec<_>, _> = cursor.of(full).collect();
            match (condition, found) {
                (Condition::Good, Ok(found)) => {
                    let records = catalogue.segments().unwrap_or_default();
                    let is_full =
                        |&(index, record): &(u32, SegmentRecord)| index == 3 && record.full_tail.is_some();
                    assert!(
                        found == good || !records.iter().any(is_full),
                        "{} at {at}: {found:?} of a full segment",
                        file.display()
                    );
                }
                (Condition::New { .. }, Ok(found)) => assert_eq!(found, []),
                (_, Err(_)) => unlike += 1,
            }
        }
    }
    assert!(unlike > 0, "no flip was met by the reader");
}

#[test]
fn it_stays_within_its_bytes_and_takes_blocks_again_when_others_are_gone() {
    let bytes_max = 8 << 20;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("catalogue");
    let (mut catalogue, _) = Catalogue::open(&path, TIER, bytes_max).unwrap();
    let mut index = 0;
    // Far more than there is room for.
    let refused = loop {
        index += 1;
        assert!(index < 1000, "nothing was ever refused");
        let using = segment(index, 1);
        catalogue.write(&[Change::OpenSegment(using)]).unwrap();
        let changes: Vec<_> = (0..1000).map(|number| entered(using, 1 + number * 3)).collect();
        let applied = catalogue.write(&changes).unwrap();
        let bytes = room::bytes_of(&path);
        assert!(bytes <= bytes_max, "segment {index}: {bytes} bytes on disk");
        if applied == Applied::WithoutBlocks {
            break index;
        }
    };
    assert!(refused > 10, "no more than {refused} segments had room");
    assert_eq!(pages(&catalogue, segment(refused, 1)), [0; 0]);
    assert_eq!(pages(&catalogue, segment(1, 1)).len(), 1000);
    // Segments are used anew with few blocks in them: room comes back.
    for index in 1..refused {
        catalogue
            .write(&[Change::OpenSegment(segment(index, 2))])
            .unwrap();
    }
    let mut tries = 0;
    while catalogue.write(&[entered(segment(1, 2), 1)]).unwrap() == Applied::WithoutBlocks {
        tries += 1;
        assert!(tries < 1000, "there is no room again");
    }
    assert_eq!(pages(&catalogue, segment(1, 2)), [1]);
    assert!(room::bytes_of(&path) <= bytes_max);
}

#[test]
fn many_uses_of_the_same_segments_do_not_make_it_grow() {
    let bytes_max = 16 << 20;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("catalogue");
    let (mut catalogue, _) = Catalogue::open(&path, TIER, bytes_max).unwrap();
    for generation in 1..=60 {
        for index in 0..8 {
            let using = segment(index, generation);
            let mut changes = vec![Change::OpenSegment(using)];
            changes.extend((0..1000).map(|number| entered(using, 1 + number * 3)));
            assert_eq!(catalogue.write(&changes).unwrap(), Applied::Whole);
        }
    }
    assert!(room::bytes_of(&path) <= bytes_max);
    for index in 0..8 {
        assert_eq!(pages(&catalogue, segment(index, 60)).len(), 1000);
    }
}

fn newest(path: &Path, part: &str) -> PathBuf {
    let files = fs::read_dir(path).unwrap().map(|file| file.unwrap().path());
    let of_kind = files.filter(|file| file.to_string_lossy().contains(part));
    of_kind.max().expect("there is such a file")
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}
