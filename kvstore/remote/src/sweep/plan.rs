//! What goes, decided from how old blocks are and how many bytes they have. Pure.
//!
//! Blocks are counted by age in epochs, not kept: a namespace may have many millions of them. So what goes is "everything
//! not used for so many epochs or more".

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::SweepLimits;

/// How fine ages are told apart: as fine as records of accesses are written, by default.
pub(super) const EPOCH: Duration = Duration::from_mins(10);

/// Blocks of one namespace, by age.
#[derive(Clone, Debug, Default)]
pub(super) struct Ages {
    bytes_by_age: BTreeMap<u64, u64>,
    pub(super) blocks: u64,
    pub(super) bytes: u64,
}

/// The age of something, in epochs. What seems to come from the future was used just now.
pub(super) fn age(now: SystemTime, used: SystemTime) -> u64 {
    let age = now.duration_since(used).unwrap_or_default();
    age.as_secs() / EPOCH.as_secs()
}

impl Ages {
    /// Counts one block.
    pub(super) fn add(&mut self, age: u64, bytes: u64) {
        *self.bytes_by_age.entry(age).or_default() += bytes;
        self.blocks += 1;
        self.bytes += bytes;
    }

    /// From which age on blocks go; `None`: none does.
    pub(super) fn cut(&self, limits: &SweepLimits) -> Option<u64> {
        let by_age = limits.age_max.map(|most| most.as_secs() / EPOCH.as_secs());
        let oldest = self.bytes_by_age.keys().next_back();
        let by_age = by_age.filter(|cut| oldest.is_some_and(|oldest| oldest >= cut));
        let by_bytes = limits.bytes_max.and_then(|most| self.cut_to(most));
        [by_age, by_bytes].into_iter().flatten().min()
    }

    fn cut_to(&self, most: u64) -> Option<u64> {
        if self.bytes <= most {
            return None;
        }
        let wanted = most - most / 10;
        let mut kept = self.bytes;
        for (age, bytes) in self.bytes_by_age.iter().rev() {
            kept -= bytes;
            if kept <= wanted {
                return Some(*age);
            }
        }
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(bytes_max: Option<u64>, age_max_epochs: Option<u32>) -> SweepLimits {
        SweepLimits {
            bytes_max,
            age_max: age_max_epochs.map(|epochs| EPOCH * epochs),
        }
    }

    fn ages(blocks: &[(u64, u64)]) -> Ages {
        let mut ages = Ages::default();
        for (age, bytes) in blocks {
            ages.add(*age, *bytes);
        }
        ages
    }

    #[test]
    fn what_goes_is_what_was_not_used_for_longest() {
        let some = ages(&[(0, 40), (1, 30), (1, 10), (5, 20), (9, 10)]);
        let cases = [
            (limits(None, None), None),
            (limits(Some(110), None), None),
            (limits(Some(109), None), Some(5)),
            (limits(Some(100), None), Some(5)),
            (limits(Some(80), None), Some(1)),
            (limits(Some(40), None), Some(0)),
            (limits(Some(0), None), Some(0)),
            (limits(None, Some(10)), None),
            (limits(None, Some(9)), Some(9)),
            (limits(None, Some(2)), Some(2)),
            (limits(Some(100), Some(9)), Some(5)),
            (limits(Some(100), Some(1)), Some(1)),
        ];
        for (limits, cut) in cases {
            assert_eq!(some.cut(&limits), cut, "{limits:?}");
        }
        assert_eq!(ages(&[]).cut(&limits(Some(0), Some(0))), None);
    }

    #[test]
    fn what_is_written_by_a_clock_ahead_of_ours_is_new() {
        let now = SystemTime::UNIX_EPOCH + EPOCH * 100;
        assert_eq!(age(now, now + EPOCH * 7), 0);
        assert_eq!(age(now, now - EPOCH * 7), 7);
        assert_eq!(age(now, now - EPOCH + Duration::from_secs(1)), 0);
    }
}
