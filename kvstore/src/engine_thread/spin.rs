//! How long to look for work before sleeping.
//!
//! A wake-up costs tens of microseconds on both sides, so a client that asks again at once is served without one.
//! Spinning that finds nothing is cut in half each time, and comes back when a sleep turns out to have been short.

use std::time::{Duration, Instant};

const LONGEST: Duration = Duration::from_micros(50);
const SHORTEST: Duration = Duration::from_micros(3);

/// The current patience.
#[derive(Debug)]
pub(super) struct Spin {
    patience: Duration,
    until: Option<Instant>,
}

impl Spin {
    /// Patience is small until it proves useful.
    pub(super) const fn new() -> Self {
        Self {
            patience: SHORTEST,
            until: None,
        }
    }

    /// Work was found. If it was found while spinning, spinning was right.
    pub(super) fn worked(&mut self) {
        if self.until.take().is_some() {
            self.patience = (self.patience * 2).min(LONGEST);
        }
    }

    /// Nothing was found: whether to look again at once.
    pub(super) fn look_again(&mut self, now: Instant) -> bool {
        let until = *self.until.get_or_insert(now + self.patience);
        if now < until {
            return true;
        }
        self.until = None;
        self.patience = (self.patience / 2).max(SHORTEST);
        false
    }

    /// A sleep is over, with work to do.
    pub(super) fn slept(&mut self, duration: Duration) {
        if duration < LONGEST {
            self.patience = LONGEST;
        }
        self.until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_when_it_pays_and_shrinks_when_it_does_not() {
        let mut spin = Spin::new();
        let now = Instant::now();
        for _ in 0..10 {
            assert!(spin.look_again(now));
            spin.worked();
        }
        assert_eq!(spin.patience, LONGEST);
        assert!(spin.look_again(now + LONGEST));
        assert!(!spin.look_again(now + LONGEST * 3));
        assert_eq!(spin.patience, LONGEST / 2);
        for _ in 0..10 {
            let _ = spin.look_again(now);
            let _ = spin.look_again(now + LONGEST * 2);
        }
        assert_eq!(spin.patience, SHORTEST);
        spin.slept(LONGEST * 2);
        assert_eq!(spin.patience, SHORTEST);
        spin.slept(LONGEST / 2);
        assert_eq!(spin.patience, LONGEST);
    }
}
