//! Whether and when an attempt is repeated.

use std::time::{Duration, Instant};

use crate::FaultKind;

/// How attempts are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most attempts, the first one included.
    pub attempts: u32,
    /// The wait before the second one, at most: waits are drawn between half of it and all of it.
    pub wait_min: Duration,
    /// Each wait is twice as long as the last one, up to this.
    pub wait_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 3,
            wait_min: Duration::from_millis(50),
            wait_max: Duration::from_secs(2),
        }
    }
}

/// The attempts of one operation.
#[derive(Debug)]
pub(crate) struct Retry {
    policy: RetryPolicy,
    deadline: Instant,
    attempts: u32,
}

impl Retry {
    pub(crate) fn new(policy: RetryPolicy, deadline: Instant) -> Self {
        Self {
            policy,
            deadline,
            attempts: 1,
        }
    }

    /// How long to wait before the next attempt; `None`: this failure is the answer. `draw` is between 0 and 1.
    pub(crate) fn after(
        &mut self,
        now: Instant,
        kind: FaultKind,
        retry_after: Option<Duration>,
        draw: f64,
    ) -> Option<Duration> {
        if !kind.is_retryable() || self.attempts >= self.policy.attempts {
            return None;
        }
        let doublings = (self.attempts - 1).min(20);
        let longest = (self.policy.wait_min * (1 << doublings)).min(self.policy.wait_max);
        let wait = longest
            .mul_f64(0.5 + draw.clamp(0.0, 1.0) / 2.0)
            .max(retry_after.unwrap_or_default());
        // An attempt that would begin at the deadline has no time to succeed.
        if now + wait >= self.deadline {
            return None;
        }
        self.attempts += 1;
        Some(wait)
    }
}

impl FaultKind {
    /// Whether the same request may succeed a moment later.
    pub(crate) fn is_retryable(self) -> bool {
        match self {
            Self::Stalled
            | Self::Connection
            | Self::Resolve
            | Self::Throttled
            | Self::Server
            | Self::Truncated => true,
            Self::OutOfService
            | Self::Denied
            | Self::Credentials
            | Self::NotThere
            | Self::NoSpace
            | Self::Protocol
            | Self::NameTaken => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        attempts: 4,
        wait_min: Duration::from_millis(100),
        wait_max: Duration::from_millis(250),
    };

    #[test]
    fn waits_grow_are_drawn_and_end_with_the_attempts() {
        let now = Instant::now();
        let far = now + Duration::from_hours(1);
        let waits = |draw: f64| {
            let mut retry = Retry::new(POLICY, far);
            let mut waits = Vec::new();
            while let Some(wait) = retry.after(now, FaultKind::Server, None, draw) {
                waits.push(wait.as_millis());
            }
            waits
        };
        assert_eq!(waits(1.0), [100, 200, 250]);
        assert_eq!(waits(0.0), [50, 100, 125]);
    }

    #[test]
    fn a_store_that_asks_for_time_gets_it_if_the_deadline_allows() {
        let now = Instant::now();
        let mut retry = Retry::new(POLICY, now + Duration::from_secs(3));
        let asked = Some(Duration::from_secs(2));
        assert_eq!(retry.after(now, FaultKind::Throttled, asked, 0.5), asked);
        let later = now + Duration::from_secs(2);
        assert_eq!(retry.after(later, FaultKind::Throttled, asked, 0.5), None);
        let last = now + Duration::from_millis(2990);
        assert_eq!(retry.after(last, FaultKind::Server, None, 0.0), None);
    }

    #[test]
    fn what_repeating_cannot_mend_is_not_repeated() {
        let now = Instant::now();
        for kind in [FaultKind::Denied, FaultKind::NotThere, FaultKind::NoSpace] {
            let mut retry = Retry::new(POLICY, now + Duration::from_hours(1));
            assert_eq!(retry.after(now, kind, None, 0.5), None, "{kind:?}");
        }
    }
}
