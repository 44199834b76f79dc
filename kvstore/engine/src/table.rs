//! An open-addressing table from block names to record numbers: 8 bytes an entry.
//!
//! ```text
//! entry   fingerprint (upper 32 bits) | record number + 1 (lower 32 bits)      0 is empty
//! home    the upper bits of the fingerprint; linear probing from there; backward-shift deletion, no tombstones
//! ```
//!
//! An entry's home follows from the entry alone. So growing needs no record: it streams through the old table and
//! writes the new one in the same order, some 2 ns an entry. The owner calls [`Table::reserve`] when arenas are cut
//! into slots; a look-up or an insertion never grows the table, and the pause (10 ms for 4 M entries) falls on the
//! step that takes a new arena while the cache is still filling for the first time.

use kvstore_types::BlockHash;

use crate::block::Space;
use crate::hash::mix;

/// What the table knows of a block's name: two multiplications folded, as in wyhash, over all of the hash. A client
/// chooses its hashes but does not know the seed, so it cannot aim them at one place and make each probe a long one.
pub(crate) fn fingerprint(seed: u64, space: Space, hash: &BlockHash) -> u32 {
    let [a, b, c, d] = hash.words();
    let folded = fold(a ^ seed, b ^ FOLD[0]) ^ fold(c ^ seed.rotate_left(32), d ^ FOLD[1]);
    (mix(folded ^ u64::from(space.bits())) >> 32) as u32
}

/// Odd numbers with as many ones as zeros.
const FOLD: [u64; 2] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db];

#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves of a product are folded together"
)]
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    product as u64 ^ (product >> 64) as u64
}

/// The table.
#[derive(Debug)]
pub(crate) struct Table {
    entries: Vec<u64>,
    /// 32 − log2 of the number of entries.
    shift: u32,
    len: usize,
}

const ENTRIES_MIN: usize = 64;

impl Table {
    /// An empty table.
    pub(crate) fn new() -> Self {
        Self {
            entries: vec![0; ENTRIES_MIN],
            shift: 32 - ENTRIES_MIN.trailing_zeros(),
            len: 0,
        }
    }

    /// Makes room for `count` names in all, at a load of at most three quarters.
    pub(crate) fn reserve(&mut self, count: usize) {
        let want = (count + count / 3 + 1).next_power_of_two();
        if want > self.entries.len() {
            self.grow(want);
        }
    }

    /// The entry at a fingerprint's home: the load that a batch starts with.
    pub(crate) fn home_entry(&self, print: u32) -> u64 {
        self.entries[self.home(print)]
    }

    /// The first record whose fingerprint equals `print`, where `home` is what stands at its home.
    pub(crate) fn candidate(&self, print: u32, home: u64) -> Option<u32> {
        if (home >> 32) as u32 == print && home != 0 {
            return Some(record(home));
        }
        if home == 0 {
            None
        } else {
            self.find(print, |_| true)
        }
    }

    /// The first record whose fingerprint equals `print` and that `matches`.
    pub(crate) fn find(&self, print: u32, matches: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.home(print);
        loop {
            let entry = self.entries[at];
            if entry == 0 {
                return None;
            }
            if (entry >> 32) as u32 == print && matches(record(entry)) {
                return Some(record(entry));
            }
            at = self.next(at);
        }
    }

    /// Adds a name that is not there yet.
    pub(crate) fn insert(&mut self, print: u32, record: u32) {
        // The owner reserves; this keeps the table correct, not fast, should it ever forget to.
        self.reserve(self.len + 1);
        self.place(u64::from(print) << 32 | u64::from(record + 1));
        self.len += 1;
    }

    /// Removes a record's name and closes the gap.
    pub(crate) fn remove(&mut self, print: u32, number: u32) {
        let mut hole = self.home(print);
        while self.entries[hole] != (u64::from(print) << 32 | u64::from(number + 1)) {
            if self.entries[hole] == 0 {
                debug_assert!(false, "record {number} is not in the table");
                return;
            }
            hole = self.next(hole);
        }
        let mut at = self.next(hole);
        while self.entries[at] != 0 {
            let home = self.home((self.entries[at] >> 32) as u32);
            // An entry may move into the hole unless its home lies behind it.
            if self.distance(home, at) >= self.distance(hole, at) {
                self.entries[hole] = self.entries[at];
                hole = at;
            }
            at = self.next(at);
        }
        self.entries[hole] = 0;
        self.len -= 1;
    }

    fn grow(&mut self, entries: usize) {
        let old = std::mem::replace(&mut self.entries, vec![0; entries]);
        self.shift = 32 - entries.trailing_zeros();
        old.into_iter()
            .filter(|&entry| entry != 0)
            .for_each(|entry| self.place(entry));
    }

    fn place(&mut self, entry: u64) {
        let mut at = self.home((entry >> 32) as u32);
        while self.entries[at] != 0 {
            at = self.next(at);
        }
        self.entries[at] = entry;
    }

    fn home(&self, print: u32) -> usize {
        (print >> self.shift) as usize
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.entries.len() - 1)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.entries.len() - 1)
    }
}

fn record(entry: u64) -> u32 {
    (entry & 0xffff_ffff) as u32 - 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_share_a_home_wrap_around_the_end() {
        let mut table = Table::new();
        for number in 0..10 {
            table.insert(u32::MAX - number % 2, number);
        }
        assert_eq!(table.find(u32::MAX, |record| record == 8), Some(8));
        table.remove(u32::MAX, 0);
        assert_eq!(table.find(u32::MAX, |record| record == 8), Some(8));
        assert_eq!(table.find(u32::MAX, |record| record == 0), None);
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_map(
            steps in proptest::collection::vec((any::<bool>(), 0_u32..200, 0_u32..3), 0..800)
        ) {
            let mut table = Table::new();
            let mut model = BTreeMap::new();
            for (insert, number, spread) in steps {
                // Few fingerprints, crowded at both ends of the table.
                let print = (number % 20).wrapping_mul(0x0300_0000).wrapping_sub(spread << 26);
                if let Some(print) = model.remove(&number) {
                    table.remove(print, number);
                } else if insert {
                    table.insert(print, number);
                    model.insert(number, print);
                }
                for (&number, &print) in &model {
                    prop_assert_eq!(table.find(print, |record| record == number), Some(number));
                }
                prop_assert_eq!(table.entries.iter().filter(|&&entry| entry != 0).count(), model.len());
            }
        }
    }

    #[test]
    fn hashes_that_differ_in_a_few_bits_anywhere_are_spread() {
        let space = Space::new(1, 0);
        for word in 0..4 {
            let mut prints = std::collections::BTreeSet::new();
            for number in 0..10_000_u64 {
                let mut bytes = [0x5a; 32];
                bytes[word * 8..][..8].copy_from_slice(&number.to_le_bytes());
                prints.insert(fingerprint(0x1234_5678_9abc_def1, space, &BlockHash(bytes)));
            }
            // Ten thousand random numbers of 32 bits collide 0.01 times.
            assert!(prints.len() > 9_990, "word {word}: {} prints", prints.len());
        }
    }
}
