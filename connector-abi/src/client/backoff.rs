//! How long to wait between attempts.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LAST: Duration = Duration::from_secs(2);

/// Doubles from 50 ms to 2 s; each wait is drawn from the upper half, so that the clients of one daemon spread out.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The next wait. `random` is any number.
    pub(super) fn wait(&mut self, random: u64) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(LAST);
        let half = whole / 2;
        let micros = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_micros(random % micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_stay_within_their_upper_half() {
        let mut backoff = Backoff::new();
        for whole_ms in [50_u64, 100, 200, 400, 800, 1600, 2000, 2000] {
            let wait = backoff.wait(whole_ms * 7919);
            let whole = Duration::from_millis(whole_ms);
            assert!(whole / 2 <= wait && wait < whole, "{wait:?} of {whole:?}");
        }
    }
}
