//! What goes, decided from how old blocks are and how many bytes they have. Pure.
//!
//! Blocks are counted by age in steps, not kept: a namespace may have many millions of them. So what goes is "everything
//! older than this, and of what is just that old as many bytes as are too much".

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::SweepLimits;

/// Up to this age a step is a second.
const FINE: Duration = Duration::from_hours(1);
/// Later it is this: as fine as records of accesses are written, by default.
const STEP: Duration = Duration::from_mins(10);

/// Blocks of one namespace, by age.
#[derive(Clone, Debug, Default)]
pub(super) struct Ages {
    bytes_by_age: BTreeMap<u64, u64>,
    pub(super) blocks: u64,
    pub(super) bytes: u64,
}

/// What goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Everything older, in steps.
    age: u64,
    /// Of what is just that old, blocks of so many bytes, the last one whole.
    bytes: u64,
}

/// The age of something, in steps. What seems to come from the future was used just now.
pub(super) fn age(now: SystemTime, used: SystemTime) -> u64 {
    steps(now.duration_since(used).unwrap_or_default(), |rest, step| {
        rest / step
    })
}

fn steps(age: Duration, divide: fn(u64, u64) -> u64) -> u64 {
    let fine = age.min(FINE).as_secs();
    fine + divide(age.saturating_sub(FINE).as_secs(), STEP.as_secs())
}

impl Ages {
    /// Counts one block.
    pub(super) fn add(&mut self, age: u64, bytes: u64) {
        *self.bytes_by_age.entry(age).or_default() += bytes;
        self.blocks += 1;
        self.bytes += bytes;
    }

    /// What goes; `None`: nothing does.
    pub(super) fn cut(&self, limits: &SweepLimits) -> Option<Cut> {
        let by_age = limits.age_max.map(|most| Cut {
            age: steps(most, u64::div_ceil),
            bytes: u64::MAX,
        });
        let oldest = self.bytes_by_age.keys().next_back();
        let by_age = by_age.filter(|cut| oldest.is_some_and(|oldest| *oldest >= cut.age));
        let by_bytes = limits.bytes_max.and_then(|most| self.cut_to(most));
        let both = [by_age, by_bytes].into_iter().flatten();
        both.min_by_key(|cut| (cut.age, Reverse(cut.bytes)))
    }

    /// Down to nine tenths, so that not every sweep has something to do.
    fn cut_to(&self, most: u64) -> Option<Cut> {
        if self.bytes <= most {
            return None;
        }
        let wanted = most - most / 10;
        let mut kept = self.bytes;
        for (&age, bytes) in self.bytes_by_age.iter().rev() {
            if kept - bytes <= wanted {
                let bytes = kept - wanted;
                return Some(Cut { age, bytes });
            }
            kept -= bytes;
        }
        None
    }
}

impl Cut {
    /// Whether a block goes. Called once for each.
    pub(super) fn takes(&mut self, age: u64, bytes: u64) -> bool {
        if age != self.age {
            return age > self.age;
        }
        let takes = self.bytes > 0;
        self.bytes = self.bytes.saturating_sub(bytes);
        takes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(bytes_max: Option<u64>, age_max_seconds: Option<u64>) -> SweepLimits {
        SweepLimits {
            bytes_max,
            age_max: age_max_seconds.map(Duration::from_secs),
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
        let all = u64::MAX;
        let cases = [
            (limits(None, None), None),
            (limits(Some(110), None), None),
            (limits(Some(109), None), Some((5, 1))),
            (limits(Some(100), None), Some((5, 10))),
            (limits(Some(80), None), Some((1, 8))),
            (limits(Some(40), None), Some((0, 4))),
            (limits(Some(0), None), Some((0, 40))),
            (limits(None, Some(10)), None),
            (limits(None, Some(9)), Some((9, all))),
            (limits(None, Some(2)), Some((2, all))),
            (limits(Some(100), Some(9)), Some((5, 10))),
            (limits(Some(100), Some(5)), Some((5, all))),
            (limits(Some(100), Some(1)), Some((1, all))),
        ];
        for (limits, cut) in cases {
            let cut = cut.map(|(age, bytes)| Cut { age, bytes });
            assert_eq!(some.cut(&limits), cut, "{limits:?}");
        }
        assert_eq!(ages(&[]).cut(&limits(Some(0), Some(0))), None);
    }

    /// A store that filled within one step used to be emptied.
    #[test]
    fn of_blocks_of_one_age_no_more_go_than_have_to() {
        let blocks = vec![(3, 10); 100];
        let mut cut = ages(&blocks).cut(&limits(Some(900), None)).unwrap();
        let gone = blocks
            .iter()
            .filter(|(age, bytes)| cut.takes(*age, *bytes))
            .count();
        assert_eq!(gone, 19, "down to 810 bytes");
        assert!(cut.takes(4, 10) && !cut.takes(2, 10));
    }

    #[test]
    fn ages_are_told_apart_by_seconds_and_later_by_ten_minutes_and_nothing_goes_early() {
        let of = |seconds| steps(Duration::from_secs(seconds), |rest, step| rest / step);
        assert_eq!((of(59), of(60), of(3600)), (59, 60, 3600));
        assert_eq!((of(4199), of(4200), of(86_400)), (3600, 3601, 3738));
        for seconds in [60, 540, 900, 3600, 4000, 86_400] {
            let limits = limits(None, Some(seconds));
            let young = ages(&[(of(seconds - 1), 1)]);
            assert_eq!(young.cut(&limits), None, "{seconds}");
            let old = ages(&[(of(seconds.next_multiple_of(600)), 1)]);
            assert!(old.cut(&limits).is_some(), "{seconds}");
        }
    }

    #[test]
    fn what_is_written_by_a_clock_ahead_of_ours_is_new() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(100);
        assert_eq!(age(now, now + Duration::from_mins(7)), 0);
        assert_eq!(age(now, now - Duration::from_secs(7)), 7);
    }
}
