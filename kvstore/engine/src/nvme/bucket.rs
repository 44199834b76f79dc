//! A rate of bytes per second, as tokens that come with time. Exact: counted in bytes times nanoseconds.

use std::time::{Duration, Instant};

const SECOND: u128 = 1_000_000_000;
/// Most seconds that are owed for what had to be taken before it was there.
const DEBT_SECONDS: i128 = 2;

/// Tokens for one device and one purpose.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    rate: Option<u64>,
    /// Tokens times 10⁹; below 0 for what had to be taken before it was there, down to what a few seconds bring.
    level: i128,
    at: Option<Instant>,
}

impl Bucket {
    /// A bucket with one second's worth in it; no rate: never empty.
    pub(crate) fn new(rate: Option<u64>) -> Self {
        Self {
            rate,
            level: rate.map_or(0, |rate| i128::from(rate) * SECOND.cast_signed()),
            at: None,
        }
    }

    /// Another rate from now on.
    pub(crate) fn set_rate(&mut self, rate: Option<u64>) {
        if self.rate.is_none() || rate.is_none() {
            *self = Self::new(rate);
        }
        self.rate = rate;
        self.forgive();
    }

    /// The rate.
    pub(crate) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// Whether there is enough for `bytes`. At most one second's worth is kept, or `bytes` if that is more.
    pub(crate) fn has(&mut self, now: Instant, bytes: u64) -> bool {
        let Some(rate) = self.rate else { return true };
        let passed = self
            .at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let most = i128::from(rate.max(bytes)) * SECOND.cast_signed();
        let came = i128::from(rate).saturating_mul(passed.as_nanos().cast_signed());
        self.level = self.level.saturating_add(came).min(most);
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        self.level >= need(bytes)
    }

    /// Takes tokens, whether or not they are there. What is owed then is at most what two seconds bring: the rest is
    /// forgiven, so that nobody waits longer for what others took.
    pub(crate) fn take(&mut self, bytes: u64) {
        if self.rate.is_some() {
            self.level = self.level.saturating_sub(need(bytes));
            self.forgive();
        }
    }

    fn forgive(&mut self) {
        if let Some(rate) = self.rate {
            self.level = self.level.max(-DEBT_SECONDS * need(rate));
        }
    }

    /// When there will be enough for `bytes`. None: there is, or time alone does not bring it.
    pub(crate) fn ready_at(&self, bytes: u64) -> Option<Instant> {
        let (rate, at) = (self.rate?, self.at?);
        let missing = u128::try_from(need(bytes) - self.level)
            .ok()
            .filter(|&missing| missing > 0)?;
        let nanos = u64::try_from(missing.div_ceil(u128::from(rate))).unwrap_or(u64::MAX);
        at.checked_add(Duration::from_nanos(nanos))
    }
}

fn need(bytes: u64) -> i128 {
    i128::from(bytes) * SECOND.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_exactly_when_said() {
        let mut bucket = Bucket::new(Some(1000));
        let start = Instant::now();
        assert!(bucket.has(start, 900));
        bucket.take(900);
        assert!(!bucket.has(start, 300));
        let ready = bucket.ready_at(300).unwrap();
        assert_eq!(ready - start, Duration::from_millis(200));
        assert!(!bucket.has(ready.checked_sub(Duration::from_nanos(1)).unwrap(), 300));
        assert!(bucket.has(ready, 300));
    }

    #[test]
    fn one_block_may_be_more_than_a_second_brings() {
        let mut bucket = Bucket::new(Some(1000));
        let start = Instant::now();
        assert!(!bucket.has(start, 5000));
        let ready = bucket.ready_at(5000).unwrap();
        assert_eq!(ready - start, Duration::from_secs(4));
        assert!(bucket.has(ready, 5000));
    }

    /// Carried-over blocks used to leave a debt of their whole size: at 1 MiB/s half a segment of them held new blocks up
    /// for minutes.
    #[test]
    fn a_debt_is_over_after_two_seconds() {
        let mut bucket = Bucket::new(Some(1000));
        let start = Instant::now();
        assert!(bucket.has(start, 1000));
        bucket.take(100_000);
        bucket.take(u64::MAX);
        let ready = bucket.ready_at(500).unwrap();
        assert_eq!(ready - start, Duration::from_millis(2500));
        // Nor does a lower rate make it longer.
        bucket.set_rate(Some(100));
        assert_eq!(bucket.ready_at(100).unwrap() - start, Duration::from_secs(3));
        assert!(!bucket.has(start + Duration::from_secs(2), 100));
        assert!(bucket.has(start + Duration::from_secs(3), 100));
    }

    #[test]
    fn without_a_rate_there_is_always_enough() {
        let mut bucket = Bucket::new(None);
        assert!(bucket.has(Instant::now(), u64::MAX));
        bucket.take(u64::MAX);
        assert_eq!(bucket.ready_at(1), None);
    }
}
