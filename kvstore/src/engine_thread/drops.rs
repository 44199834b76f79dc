//! Tells of stores that were dropped, at most once in a while, and never by waking a thread for it.

use std::time::{Duration, Instant};

use kvstore_engine::Counters;
use tracing::warn;

const EVERY: Duration = Duration::from_secs(10);

/// What has been told so far.
#[derive(Debug, Default)]
pub(super) struct Drops {
    told: Causes,
    last: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Causes {
    no_space: u64,
    draining: u64,
    not_ready: u64,
    lost: u64,
}

impl Causes {
    fn of(counters: &Counters) -> Self {
        Self {
            no_space: counters.reserves_no_space,
            draining: counters.reserves_draining,
            not_ready: counters.reserves_not_ready,
            lost: counters.reservations_lost,
        }
    }
}

impl Drops {
    /// Writes a line if stores were dropped since the last one and that is long enough ago.
    pub(super) fn tell(&mut self, tenant: &str, now: Instant, counters: &Counters) {
        if self.last.is_none_or(|last| now.duration_since(last) >= EVERY) {
            self.tell_now(tenant, now, counters);
        }
    }

    /// Writes a line if stores were dropped since the last one.
    pub(super) fn tell_now(&mut self, tenant: &str, now: Instant, counters: &Counters) {
        let causes = Causes::of(counters);
        if causes == self.told {
            return;
        }
        warn!(
            tenant,
            no_space = causes.no_space - self.told.no_space,
            draining = causes.draining - self.told.draining,
            not_ready = causes.not_ready - self.told.not_ready,
            reservation_lost = causes.lost - self.told.lost,
            "stores were dropped"
        );
        (self.told, self.last) = (causes, Some(now));
    }
}
