//! Durations counted in fixed buckets: an array that is incremented, so that it costs nothing to speak of where it is
//! counted. Whoever shows it adds up.

use std::time::Duration;

/// The buckets' upper bounds, in nanoseconds; what is longer than the last one has a bucket of its own.
pub const HISTOGRAM_BOUNDS_NS: [u64; 20] = [
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
];

/// How often something took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How often it took no longer than the bound of the same place, and longer than the one before; the last one has no
    /// bound.
    pub counts: [u64; HISTOGRAM_BOUNDS_NS.len() + 1],
    /// All of it together.
    pub sum_ns: u64,
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, duration: Duration) {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let place = HISTOGRAM_BOUNDS_NS.partition_point(|&bound| bound < ns);
        self.counts[place] += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_at_the_first_bound_that_covers_it() {
        let mut histogram = Histogram::default();
        for ns in [0, 500, 501, 1_000_000_000, 1_000_000_001] {
            histogram.record(Duration::from_nanos(ns));
        }
        assert_eq!((histogram.counts[0], histogram.counts[1]), (2, 1));
        assert_eq!((histogram.counts[19], histogram.counts[20]), (1, 1));
        assert_eq!(histogram.counts.iter().sum::<u64>(), 5);
        assert_eq!(histogram.sum_ns, 2_000_001_002);
        histogram.record(Duration::MAX);
        assert_eq!(histogram.sum_ns, u64::MAX);
    }
}
