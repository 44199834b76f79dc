//! Names of blocks that left not long ago, as fingerprints.
//!
//! The table of the S3-FIFO paper: buckets of four entries, each a fingerprint and the time it was put in, counted
//! in insertions. An entry counts while it is younger than the number of blocks the policy keeps; nothing is ever
//! removed, an expired or the oldest entry of a bucket is overwritten.

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    fingerprint: u32,
    /// Insertion it came with; 0 is an empty entry.
    time: u32,
}

/// A bounded, approximate set of fingerprints.
#[derive(Debug)]
pub(crate) struct Ghost {
    buckets: Vec<[Entry; 4]>,
    now: u32,
}

impl Ghost {
    /// Remembers nothing.
    pub(crate) fn new() -> Self {
        Self {
            buckets: vec![[Entry::default(); 4]; 4],
            now: 0,
        }
    }

    /// Remembers a fingerprint among the last `capacity` ones.
    pub(crate) fn insert(&mut self, fingerprint: u32, capacity: usize) {
        if capacity > self.buckets.len() * 4 {
            self.grow(capacity);
        }
        self.now = self.now.checked_add(1).unwrap_or_else(|| {
            // After four billion insertions all is forgotten at once.
            self.buckets.fill([Entry::default(); 4]);
            1
        });
        self.put(Entry {
            fingerprint,
            time: self.now,
        });
    }

    /// Whether a fingerprint is among the last `capacity` ones.
    pub(crate) fn contains(&self, fingerprint: u32, capacity: usize) -> bool {
        let bucket = &self.buckets[self.bucket(fingerprint)];
        let found = bucket
            .iter()
            .find(|entry| entry.time != 0 && entry.fingerprint == fingerprint);
        found.is_some_and(|entry| ((self.now - entry.time) as usize) < capacity)
    }

    fn put(&mut self, entry: Entry) {
        let bucket = self.bucket(entry.fingerprint);
        let bucket = &mut self.buckets[bucket];
        let same = bucket
            .iter()
            .position(|old| old.time != 0 && old.fingerprint == entry.fingerprint);
        let oldest = (0..bucket.len()).min_by_key(|&way| bucket[way].time).unwrap_or(0);
        bucket[same.unwrap_or(oldest)] = entry;
    }

    fn bucket(&self, fingerprint: u32) -> usize {
        // The lower bits: the table of names uses the upper ones, and any will do.
        fingerprint as usize & (self.buckets.len() - 1)
    }

    fn grow(&mut self, capacity: usize) {
        let buckets = capacity.div_ceil(4).next_power_of_two();
        let old = std::mem::replace(&mut self.buckets, vec![[Entry::default(); 4]; buckets]);
        old.into_iter()
            .flatten()
            .filter(|entry| entry.time != 0)
            .for_each(|entry| self.put(entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_remembered_and_older_ones_are_not() {
        let mut ghost = Ghost::new();
        (0..1000).for_each(|number: u32| ghost.insert(number.wrapping_mul(0x9e37_79b1), 100));
        let known = |number: u32| ghost.contains(number.wrapping_mul(0x9e37_79b1), 100);
        assert!((0..900).all(|number| !known(number)));
        assert!((900..1000).filter(|&number| known(number)).count() > 70);
        assert!(known(999));
    }
}
