//! How many blocks of a prefix are there: the search that every look-up makes.

use kvstore_types::BlockHash;

use super::{BlockIndex, BlockState, Blocks, CHUNK_BLOCKS, CHUNK_SHIFT, Reach, Space};

const BATCH: usize = 32;

/// Where a look-up is among the records: the last one found and the way to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trail {
    last: BlockIndex,
    stride: u32,
    reach: Reach,
    /// Whether a block was found that is not resident.
    pub(crate) is_cold: bool,
}

impl Trail {
    /// Nothing found yet.
    pub(crate) const fn new(reach: Reach) -> Self {
        Self {
            last: BlockIndex::NONE,
            stride: 0,
            reach,
            is_cold: false,
        }
    }
}

impl Blocks {
    /// Finds the present blocks among `hashes`, as far as the trail reaches; what is not present becomes `NONE`. `trail`
    /// goes from one part of a sequence to the next.
    ///
    /// Blocks of one prefix were stored one after the other, so their records mostly are neighbours. As long as they
    /// are, the next record is guessed and compared, at the speed of reading memory in order and without the table.
    /// Where the guess fails, a batch goes through the table in three passes, so that its cache misses overlap
    /// instead of queueing up behind each other: table entries, then the records they name, then the comparison.
    pub(crate) fn find_present(
        &self,
        space: Space,
        hashes: &[BlockHash],
        found: &mut [BlockIndex],
        trail: &mut Trail,
    ) {
        let mut done = 0;
        while done < hashes.len() {
            done += self.follow(space, &hashes[done..], &mut found[done..], trail);
            let end = hashes.len().min(done + BATCH);
            self.find_batch(space, &hashes[done..end], &mut found[done..end], trail);
            if let &[.., before, last] = &found[..end] {
                trail.last = last;
                trail.stride = last.0.wrapping_sub(before.0);
            }
            done = end;
        }
    }

    /// Compares one record after the other with what is looked for, until one differs. The answer is how many matched.
    fn follow(
        &self,
        space: Space,
        hashes: &[BlockHash],
        found: &mut [BlockIndex],
        trail: &mut Trail,
    ) -> usize {
        let (mut count, reach, mut is_cold) = (0, trail.reach, false);
        for (hash, found) in hashes.iter().zip(found) {
            let guess = BlockIndex(trail.last.0.wrapping_add(trail.stride));
            let Some(chunk) = self.chunks.get((guess.0 >> CHUNK_SHIFT) as usize) else {
                break;
            };
            let block = &chunk[guess.0 as usize % CHUNK_BLOCKS];
            if block.hash != *hash || block.space != space || !reach.includes(block.state) {
                break;
            }
            is_cold |= block.state != BlockState::Resident;
            (*found, trail.last) = (guess, guess);
            count += 1;
        }
        trail.is_cold |= is_cold;
        count
    }

    /// How many blocks are looked for at a time where the first miss ends the search.
    pub(crate) const BATCH: usize = BATCH;

    fn find_batch(&self, space: Space, hashes: &[BlockHash], found: &mut [BlockIndex], trail: &mut Trail) {
        let (mut prints, mut entries, mut firsts) = ([0_u32; BATCH], [0_u64; BATCH], [0_u8; BATCH]);
        for (i, hash) in hashes.iter().enumerate() {
            prints[i] = self.print(space, hash);
            entries[i] = self.table.home_entry(prints[i]);
        }
        for i in 0..hashes.len() {
            let candidate = self.table.candidate(prints[i], entries[i]);
            found[i] = candidate.map_or(BlockIndex::NONE, BlockIndex);
            if candidate.is_some() {
                // Reading one byte brings in the whole record; the next pass then compares without waiting.
                firsts[i] = self.get(found[i]).hash.0[0];
            }
        }
        for (i, hash) in hashes.iter().enumerate() {
            let index = found[i];
            if index == BlockIndex::NONE {
                continue;
            }
            let same = firsts[i] == hash.0[0] && self.matches(index, space, hash);
            let index = if same { Some(index) } else { self.find(space, hash) };
            let present = index.filter(|&index| {
                let state = self.get(index).state;
                let is_present = trail.reach.includes(state);
                trail.is_cold |= is_present && state != BlockState::Resident;
                is_present
            });
            found[i] = present.unwrap_or(BlockIndex::NONE);
        }
    }
}
