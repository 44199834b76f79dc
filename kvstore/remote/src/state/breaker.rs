//! Whether the store is asked at all.
//!
//! ```text
//!            failures in a row, or one that is certain
//!   Closed ──────────────────────────────────────────▶ Open ◀──────────┐
//!     ▲                                                  │ its time has come
//!     │                                                  ▼             │ the probe failed:
//!     └───────────────── the probe succeeded ◀──────── Probing ────────┘ twice as long, up to a bound
//! ```
//!
//! Probes are our own requests, never a client's: no look-up waits for a store that is known to be out of service.

use std::time::{Duration, Instant};

use crate::FaultKind;

/// How the breaker behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open for the first time.
    pub open_min: Duration,
    /// And at most.
    pub open_max: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            failures: 5,
            open_min: Duration::from_secs(1),
            open_max: Duration::from_secs(30),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    Probing,
}

/// The breaker of one store.
#[derive(Debug)]
pub(crate) struct Breaker {
    policy: BreakerPolicy,
    state: State,
    open_for: Duration,
    opened: Option<Instant>,
    closed: Option<Instant>,
}

/// What a result changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It opened.
    Opened(FaultKind),
    /// It closed, having been open for so long; `None`: for the first time.
    Closed(Option<Duration>),
}

impl Breaker {
    /// An open one, whose first probe is due: a store is in service when it has been asked.
    pub(crate) fn new(policy: BreakerPolicy, now: Instant) -> Self {
        Self {
            policy,
            state: State::Open { until: now },
            open_for: policy.open_min,
            opened: None,
            closed: None,
        }
    }

    /// Whether orders may go to the store.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// When the next probe is due.
    pub(crate) fn probe_at(&self) -> Option<Instant> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed { .. } | State::Probing => None,
        }
    }

    /// Whether a probe is to be sent now. Then its result has to be told, however long it takes.
    pub(crate) fn begin_probe(&mut self, now: Instant) -> bool {
        let is_due = matches!(self.state, State::Open { until } if until <= now);
        if is_due {
            self.state = State::Probing;
        }
        is_due
    }

    /// An order went well. What was begun before the breaker opened closes nothing: the probe does.
    pub(crate) fn succeeded(&mut self) {
        if let State::Closed { failures } = &mut self.state {
            *failures = 0;
        }
    }

    /// An order failed. `retry_after` is how long the store asked to be left alone.
    pub(crate) fn failed(
        &mut self,
        now: Instant,
        kind: FaultKind,
        retry_after: Option<Duration>,
    ) -> Option<Change> {
        let State::Closed { failures } = &mut self.state else {
            return None;
        };
        if kind == FaultKind::NameTaken {
            return None;
        }
        *failures = failures.saturating_add(if kind.is_certain() {
            self.policy.failures
        } else {
            1
        });
        if *failures < self.policy.failures {
            return None;
        }
        // A store that answers probes and nothing else is asked less and less often.
        let is_new = self
            .closed
            .is_none_or(|closed| now.saturating_duration_since(closed) >= self.policy.open_max);
        self.open_for = if is_new {
            self.policy.open_min
        } else {
            (self.open_for * 2).min(self.policy.open_max)
        };
        self.opened = Some(now);
        self.open(now, retry_after);
        Some(Change::Opened(kind))
    }

    /// The probe was answered.
    pub(crate) fn probed(
        &mut self,
        now: Instant,
        result: Result<(), (FaultKind, Option<Duration>)>,
    ) -> Option<Change> {
        if self.state != State::Probing {
            return None;
        }
        match result {
            Ok(()) => {
                self.state = State::Closed { failures: 0 };
                let open = self
                    .opened
                    .take()
                    .map(|opened| now.saturating_duration_since(opened));
                // The first time is the end of no outage.
                self.closed = open.map(|_| now);
                Some(Change::Closed(open))
            }
            Err((_, retry_after)) => {
                self.open_for = (self.open_for * 2).min(self.policy.open_max);
                self.open(now, retry_after);
                None
            }
        }
    }

    fn open(&mut self, now: Instant, retry_after: Option<Duration>) {
        // A store that asks for more than the bound is asked again all the same: once in a while does not hurt it.
        let wait = retry_after
            .unwrap_or_default()
            .max(self.open_for)
            .min(self.policy.open_max);
        self.state = State::Open { until: now + wait };
    }
}

impl FaultKind {
    /// Whether one of these says enough: asking the same again would only bring the same answer.
    pub(crate) fn is_certain(self) -> bool {
        matches!(
            self,
            Self::Denied | Self::Credentials | Self::NotThere | Self::NoSpace
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BreakerPolicy = BreakerPolicy {
        failures: 3,
        open_min: Duration::from_secs(1),
        open_max: Duration::from_secs(5),
    };

    fn closed(policy: BreakerPolicy, now: Instant) -> Breaker {
        let mut breaker = Breaker::new(policy, now);
        assert!(!breaker.is_closed() && breaker.begin_probe(now));
        assert_eq!(breaker.probed(now, Ok(())), Some(Change::Closed(None)));
        breaker
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let now = Instant::now();
        let mut breaker = closed(POLICY, now);
        for _ in 0..10 {
            assert_eq!(breaker.failed(now, FaultKind::Server, None), None);
            assert_eq!(breaker.failed(now, FaultKind::Server, None), None);
            breaker.succeeded();
        }
        assert_eq!(breaker.failed(now, FaultKind::Server, None), None);
        assert_eq!(breaker.failed(now, FaultKind::Server, None), None);
        assert_eq!(
            breaker.failed(now, FaultKind::Stalled, None),
            Some(Change::Opened(FaultKind::Stalled))
        );
        assert!(!breaker.is_closed());
        assert_eq!(breaker.failed(now, FaultKind::Server, None), None);
    }

    #[test]
    fn what_is_wrong_with_one_name_is_not_wrong_with_the_store() {
        let now = Instant::now();
        let mut breaker = closed(POLICY, now);
        for _ in 0..100 {
            assert_eq!(breaker.failed(now, FaultKind::NameTaken, None), None);
        }
        assert_eq!(breaker.failed(now, FaultKind::Server, None), None);
        assert_eq!(breaker.failed(now, FaultKind::NameTaken, None), None);
        assert_eq!(breaker.failed(now, FaultKind::Server, None), None);
        assert!(
            breaker.failed(now, FaultKind::Server, None).is_some(),
            "nor does it mend a row"
        );
    }

    #[test]
    fn a_fault_that_repeating_cannot_mend_opens_it_at_once() {
        for kind in FaultKind::ALL {
            let now = Instant::now();
            let opened = closed(POLICY, now).failed(now, kind, None).is_some();
            let certain = [
                FaultKind::Denied,
                FaultKind::Credentials,
                FaultKind::NotThere,
                FaultKind::NoSpace,
            ];
            assert_eq!(opened, certain.contains(&kind), "{kind:?}");
        }
    }

    #[test]
    fn one_probe_at_a_time_each_later_than_the_last_until_one_succeeds() {
        let start = Instant::now();
        let mut breaker = closed(POLICY, start);
        breaker.failed(start, FaultKind::Denied, None);
        let mut now = start;
        for wait in [1, 2, 4, 5, 5] {
            assert_eq!(breaker.probe_at(), Some(after(now, wait)));
            assert!(!breaker.begin_probe(after(now, wait - 1) + Duration::from_millis(999)));
            now = after(now, wait);
            assert!(breaker.begin_probe(now));
            assert!(!breaker.begin_probe(now));
            breaker.succeeded();
            assert!(!breaker.is_closed(), "only the probe closes it");
            assert_eq!(breaker.probed(now, Err((FaultKind::Denied, None))), None);
        }
        now = after(now, 5);
        assert!(breaker.begin_probe(now));
        let open = now.duration_since(start);
        assert_eq!(breaker.probed(now, Ok(())), Some(Change::Closed(Some(open))));
        assert!(breaker.is_closed());
        let mut open_again = |now: Instant, wait| {
            breaker.failed(now, FaultKind::Denied, None);
            assert_eq!(breaker.probe_at(), Some(after(now, wait)));
            let now = after(now, wait);
            assert!(breaker.begin_probe(now));
            breaker.probed(now, Ok(()));
            now
        };
        // At once it is the same outage, much later a new one.
        now = open_again(now, 5);
        now = open_again(after(now, 5), 1);
        now = open_again(now, 2);
        open_again(now, 4);
    }

    #[test]
    fn it_waits_as_long_as_the_store_asks_but_not_for_ever() {
        let now = Instant::now();
        for (asked, waits) in [(0, 1), (3, 3), (3600, 5)] {
            let mut breaker = closed(
                BreakerPolicy {
                    failures: 1,
                    ..POLICY
                },
                now,
            );
            breaker.failed(now, FaultKind::Throttled, Some(Duration::from_secs(asked)));
            assert_eq!(breaker.probe_at(), Some(after(now, waits)));
        }
    }
}
