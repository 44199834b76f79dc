//! Tells of what was dropped or damaged, at most once in a while, and never by waking a thread for it.

use std::time::{Duration, Instant};

use kvstore_engine::Counters;
use tracing::warn;

const EVERY: Duration = Duration::from_secs(10);

/// What has been told so far.
#[derive(Debug, Default)]
pub(super) struct Drops {
    told: Counters,
    last: Option<Instant>,
}

impl Drops {
    /// Writes lines if something was dropped since the last ones and that is long enough ago.
    pub(super) fn tell(&mut self, tenant: &str, now: Instant, counters: &Counters) {
        if self.last.is_none_or(|last| now.duration_since(last) >= EVERY) {
            self.tell_now(tenant, now, counters);
        }
    }

    /// Writes lines if something was dropped since the last ones.
    pub(super) fn tell_now(&mut self, tenant: &str, now: Instant, counters: &Counters) {
        let told = self.told;
        // Each has to be looked at, so none is skipped for the one before it.
        let lines = [
            stores(tenant, &told, counters),
            writes(tenant, &told, counters),
            damage(tenant, &told, counters),
            remote_stores(tenant, &told, counters),
        ];
        if lines.contains(&true) {
            (self.told, self.last) = (*counters, Some(now));
        }
    }
}

/// Since the last line: whether any of these numbers grew.
fn grew(numbers: &[u64]) -> bool {
    numbers.iter().any(|number| *number > 0)
}

fn stores(tenant: &str, told: &Counters, now: &Counters) -> bool {
    let no_space = now.reserves_no_space - told.reserves_no_space;
    let draining = now.reserves_draining - told.reserves_draining;
    let not_ready = now.reserves_not_ready - told.reserves_not_ready;
    let reservation_lost = now.reservations_lost - told.reservations_lost;
    let any = grew(&[no_space, draining, not_ready, reservation_lost]);
    if any {
        warn!(
            tenant,
            no_space, draining, not_ready, reservation_lost, "stores were dropped"
        );
    }
    any
}

/// What admission kept out is no loss, and a block that left memory before its turn came is only worth a counter.
fn writes(tenant: &str, told: &Counters, now: &Counters) -> bool {
    let queue_full = now.nvme_write_queue_full - told.nvme_write_queue_full;
    let failed = now.nvme_write_failed - told.nvme_write_failed;
    let no_space = now.nvme_no_space - told.nvme_no_space;
    let any = grew(&[queue_full, failed, no_space]);
    if any {
        warn!(
            tenant,
            queue_full, failed, no_space, "blocks were not written to NVMe"
        );
    }
    any
}

/// What fails at the store is told by those who see how.
fn remote_stores(tenant: &str, told: &Counters, now: &Counters) -> bool {
    let queue_full = now.remote_store_queue_full - told.remote_store_queue_full;
    let refused = now.remote_store_refused - told.remote_store_refused;
    let left = now.remote_left_unstored - told.remote_left_unstored;
    let any = grew(&[queue_full, refused, left]);
    if any {
        warn!(
            tenant,
            queue_full, refused, left, "blocks were not stored in the remote tier"
        );
    }
    any
}

fn damage(tenant: &str, told: &Counters, now: &Counters) -> bool {
    let header = now.nvme_corrupt_header - told.nvme_corrupt_header;
    let foreign = now.nvme_corrupt_foreign - told.nvme_corrupt_foreign;
    let place = now.nvme_corrupt_place - told.nvme_corrupt_place;
    let key = now.nvme_corrupt_key - told.nvme_corrupt_key;
    let payload = now.nvme_corrupt_payload - told.nvme_corrupt_payload;
    let truncated = now.nvme_corrupt_truncated - told.nvme_corrupt_truncated;
    let unreadable = now.nvme_read_failed - told.nvme_read_failed;
    let scrubbed = now.nvme_scrub_corrupt - told.nvme_scrub_corrupt;
    let any = grew(&[
        header, foreign, place, key, payload, truncated, unreadable, scrubbed,
    ]);
    if any {
        warn!(
            tenant,
            header,
            foreign,
            place,
            key,
            payload,
            truncated,
            unreadable,
            scrubbed,
            "blocks on NVMe were damaged; they are misses and can be stored again"
        );
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_been_told_is_not_told_again() {
        let mut drops = Drops::default();
        let now = Instant::now();
        let mut counters = Counters::default();
        drops.tell("t", now, &counters);
        assert_eq!(drops.last, None);
        counters.nvme_corrupt_payload = 1;
        drops.tell("t", now, &counters);
        assert_eq!(drops.last, Some(now));
        let later = now + EVERY;
        drops.tell("t", later, &counters);
        assert_eq!(drops.last, Some(now));
        counters.reserves_no_space = 1;
        // Too soon after the last line.
        drops.tell("t", now + EVERY / 2, &counters);
        assert_eq!(drops.told.reserves_no_space, 0);
        drops.tell("t", later, &counters);
        assert_eq!((drops.last, drops.told), (Some(later), counters));
    }
}
