//! What happened in a run, over all daemons that there were.

use super::Summary;
use super::world::World;

impl World {
    /// What happened.
    pub(super) fn summary(&self) -> Summary {
        let (before, counters) = (self.tally, self.engine.counters());
        let removed = counters.evicted_for_space
            + counters.evicted_for_watermark
            + counters.removed_arena_moved
            + counters.removed_namespace_dropped
            + counters.removed_on_request;
        let corrupt = counters.nvme_corrupt_header
            + counters.nvme_corrupt_foreign
            + counters.nvme_corrupt_place
            + counters.nvme_corrupt_key
            + counters.nvme_corrupt_payload
            + counters.nvme_corrupt_truncated;
        Summary {
            published: before.published + counters.published,
            removed: before.removed + removed,
            holds_lost: before.holds_lost + counters.holds_taken_back,
            no_space: before.no_space + counters.reserves_no_space,
            cut_offs: before.cut_offs + counters.cut_offs,
            quarantined: before.quarantined + counters.quarantined,
            arenas_moved: before.arenas_moved + counters.arenas_moved,
            written: before.written + counters.nvme_written,
            promoted: before.promoted + counters.nvme_read,
            late: before.late + counters.nvme_promotions_late,
            reclaimed: before.reclaimed + counters.nvme_reclaimed_blocks,
            carried_over: before.carried_over + counters.nvme_carried_over,
            scrubbed: before.scrubbed + counters.nvme_scrubbed,
            corrupt: before.corrupt + corrupt,
            requested: before.requested
                + counters.removed_on_request
                + counters.nvme_removed_on_request
                + counters.remote_removed_on_request,
            described_late: self.listeners.described,
            snapshots: self.listeners.snapshots,
            remote_stored: before.remote_stored + counters.remote_stored,
            remote_found: before.remote_found + counters.remote_found,
            remote_fetched: before.remote_fetched + counters.remote_fetched,
            remote_gone: before.remote_gone + counters.remote_fetch_missing + counters.remote_fetch_corrupt,
            remote_hit_blocks: before.remote_hit_blocks + counters.remote_hit_blocks,
            remote_late: before.remote_late + counters.remote_lookups_late,
            remote_forgotten: before.remote_forgotten + counters.remote_forgotten,
            ..before
        }
    }
}
