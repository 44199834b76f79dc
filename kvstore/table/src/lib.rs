//! An open-addressing table from fingerprints of block names to record numbers: 8 bytes an entry.
//!
//! ```text
//! entry   fingerprint (upper 32 bits) | record number + 1 (lower 32 bits)      0 is empty
//! home    the upper bits of the fingerprint; linear probing from there; backward-shift deletion, no tombstones
//! ```
//!
//! An entry's home follows from the entry alone. So growing needs no record: it streams through the old table and
//! writes the new one in the same order, some 2 ns an entry. Insertions grow the table; who calls [`Table::reserve`] before
//! chooses when that pause comes (10 ms for 4 M entries).
//!
//! A name's fingerprint is the caller's: 32 bits that depend on all of the name and on a number that clients do not know, or
//! they could aim their names at one place and make each probe a long one.
//!
//! A table of many entries is cold nearly everywhere. Who has several names to look for reads the entries at their homes first
//! ([`Table::home_entry`]): these reads do not wait for each other.

#![forbid(unsafe_code)]

/// The table.
#[derive(Debug)]
pub struct Table {
    entries: Vec<u64>,
    /// 32 − log2 of the number of entries.
    shift: u32,
    len: usize,
}

const ENTRIES_MIN: usize = 64;

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl Table {
    /// An empty table.
    pub fn new() -> Self {
        Self {
            entries: vec![0; ENTRIES_MIN],
            shift: 32 - ENTRIES_MIN.trailing_zeros(),
            len: 0,
        }
    }

    /// Names in it.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes room for `count` names in all, at a load of at most three quarters.
    pub fn reserve(&mut self, count: usize) {
        let want = (count + count / 3 + 1).next_power_of_two();
        if want > self.entries.len() {
            self.grow(want);
        }
    }

    /// The entry at a fingerprint's home: the load that a batch starts with.
    pub fn home_entry(&self, print: u32) -> u64 {
        self.entries[self.home(print)]
    }

    /// The first record whose fingerprint equals `print`, where `home` is what stands at its home.
    pub fn candidate(&self, print: u32, home: u64) -> Option<u32> {
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
    pub fn find(&self, print: u32, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
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

    /// Adds a name that is not there yet. A record's number is below `u32::MAX`.
    pub fn insert(&mut self, print: u32, record: u32) {
        self.reserve(self.len + 1);
        self.place(u64::from(print) << 32 | u64::from(record + 1));
        self.len += 1;
    }

    /// Removes a record's name and closes the gap.
    pub fn remove(&mut self, print: u32, number: u32) {
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
}
