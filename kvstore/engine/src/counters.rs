//! What the engine counts and what it shows of its state.

use std::time::Instant;

use kvstore_types::{DeviceIndex, EngineGroupId, NamespaceId, ProcessId, SessionId};

use crate::event::Role;

/// Numbers that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Look-ups answered, of whatever outcome.
    pub lookups: u64,
    /// Keys that look-ups named.
    pub lookup_blocks: u64,
    /// Blocks that made hits, and were held.
    pub hit_blocks: u64,
    /// Tokens of all hits.
    pub hit_tokens: u64,
    /// Look-ups that found something.
    pub lookups_hit: u64,
    /// Look-ups that found nothing.
    pub lookups_missed: u64,
    /// Look-ups answered `NotReady`.
    pub lookups_not_ready: u64,
    /// Look-ups answered `QuotaExceeded`.
    pub lookups_over_quota: u64,
    /// Loads committed with at least one lease.
    pub loads: u64,
    /// Blocks leased.
    pub load_blocks: u64,
    /// Bytes of them, each as long as its slot without a header page.
    pub load_bytes: u64,
    /// Blocks of loads whose hold was lost.
    pub load_blocks_lost: u64,
    /// Reserve: slots handed out.
    pub reserves_granted: u64,
    /// Reserve: keys that were present.
    pub reserves_present: u64,
    /// Reserve: keys that another reservation was filling.
    pub reserves_filling: u64,
    /// Reserve: keys that found no space. The store was dropped.
    pub reserves_no_space: u64,
    /// Reserve: keys refused because the daemon was shutting down.
    pub reserves_draining: u64,
    /// Reserve: keys refused because not all ranks had attached.
    pub reserves_not_ready: u64,
    /// Blocks that have no descriptor, because it would be longer than may be.
    pub descriptors_too_long: u64,
    /// Blocks that were announced without a descriptor and got one later.
    pub descriptors_late: u64,
    /// Parts sealed by workers.
    pub parts_sealed: u64,
    /// Blocks published.
    pub published: u64,
    /// Bytes of them, each as long as its slot without a header page.
    pub published_bytes: u64,
    /// Parts or whole reservations given back.
    pub aborted: u64,
    /// Slots named in a seal or an abort that had nothing to seal or abort in.
    pub stale: u64,
    /// Reservations that were lost because a session they needed ended, or its engine was reset.
    pub reservations_lost: u64,
    /// Blocks evicted because a slot was wanted.
    pub evicted_for_space: u64,
    /// Blocks evicted because the watermark was passed.
    pub evicted_for_watermark: u64,
    /// Blocks removed because their arena went to another slot size.
    pub removed_arena_moved: u64,
    /// Blocks removed because their namespace made room for the descriptor of another.
    pub removed_namespace_dropped: u64,
    /// Blocks that left host memory because somebody asked for it.
    pub removed_on_request: u64,
    /// Arenas that moved from one slot size to another.
    pub arenas_moved: u64,
    /// Holds that eviction took back.
    pub holds_taken_back: u64,
    /// Releases of look-ups or leases that were not alive.
    pub releases_unknown: u64,
    /// Sessions let in.
    pub sessions_admitted: u64,
    /// Sessions refused.
    pub sessions_refused: u64,
    /// Sessions that closed cleanly.
    pub sessions_closed: u64,
    /// Sessions that hung up; cut-offs included.
    pub sessions_hung_up: u64,
    /// Sessions that broke the protocol.
    pub cut_offs: u64,
    /// Events that named a session which is not attached.
    pub events_unknown_session: u64,
    /// Slots (and leased blocks) that came under quarantine.
    pub quarantined: u64,
    /// Slots (and leased blocks) that came back from quarantine.
    pub quarantine_lifted: u64,
    /// Resets.
    pub resets: u64,
    /// Resets that left their engine without a namespace, because it could have no new one.
    pub resets_without_namespace: u64,
    /// Look-ups that waited for NVMe or the remote tier.
    pub lookups_pending: u64,
    /// Blocks written to NVMe.
    pub nvme_written: u64,
    /// Bytes of them, headers included.
    pub nvme_written_bytes: u64,
    /// Blocks read from NVMe into host memory.
    pub nvme_read: u64,
    /// Bytes of them, headers included.
    pub nvme_read_bytes: u64,
    /// Blocks that arrived from NVMe for look-ups that then hit.
    pub nvme_hit_blocks: u64,
    /// Look-ups that were answered at their deadline, with blocks still on their way.
    pub nvme_promotions_late: u64,
    /// Blocks that were not promoted because no slot could be had.
    pub nvme_promotions_no_space: u64,
    /// Blocks that were not promoted because as much as may be was on its way.
    pub nvme_promotions_over_bound: u64,
    /// Sealed blocks that admission did not let in when they were sealed.
    pub nvme_not_admitted: u64,
    /// Blocks that do not fit into a segment.
    pub nvme_too_large: u64,
    /// Blocks that were not written because the queue was full.
    pub nvme_write_queue_full: u64,
    /// Blocks in the queue that had left host memory, or had a copy, when their turn came.
    pub nvme_write_stale: u64,
    /// Writes that failed.
    pub nvme_write_failed: u64,
    /// Writes that found no room on the file system.
    pub nvme_no_space: u64,
    /// Segment files that could not be made.
    pub nvme_segments_not_created: u64,
    /// Reads that failed.
    pub nvme_read_failed: u64,
    /// Copies whose header was none, or bad.
    pub nvme_corrupt_header: u64,
    /// Copies whose header was another directory's.
    pub nvme_corrupt_foreign: u64,
    /// Copies whose header was another place's.
    pub nvme_corrupt_place: u64,
    /// Copies whose header was another block's.
    pub nvme_corrupt_key: u64,
    /// Copies whose payload was not what was written.
    pub nvme_corrupt_payload: u64,
    /// Copies whose file ended before they did.
    pub nvme_corrupt_truncated: u64,
    /// Segments reclaimed.
    pub nvme_reclaimed_segments: u64,
    /// Copies that left with their segment.
    pub nvme_reclaimed_blocks: u64,
    /// Copies carried over to another segment.
    pub nvme_carried_over: u64,
    /// Copies that left because somebody asked for it.
    pub nvme_removed_on_request: u64,
    /// Copies that the scrubber found good.
    pub nvme_scrubbed: u64,
    /// Bytes of them.
    pub nvme_scrubbed_bytes: u64,
    /// Copies that the scrubber found bad.
    pub nvme_scrub_corrupt: u64,
    /// Copies found at start.
    pub nvme_blocks_loaded: u64,
    /// Copies found at start that cannot be used, or that are at another place too.
    pub nvme_blocks_dropped: u64,
    /// Copies found at a start of which the device had a newer one, carried over to another segment.
    pub nvme_blocks_superseded: u64,
    /// Namespaces found at start whose blocks cannot be used.
    pub nvme_namespaces_dropped: u64,
    /// Copies on NVMe that were to be kept and went: bad, evicted by request, lost with their device, or without any room.
    pub kept_copies_lost: u64,
    /// Devices taken out of service.
    pub nvme_devices_lost: u64,
    /// What devices said that no order or no state of theirs explains.
    pub nvme_events_unknown: u64,
    /// Look-ups for which the remote tier was asked.
    pub remote_lookups: u64,
    /// Blocks it was asked for.
    pub remote_asked: u64,
    /// Those of them that are there.
    pub remote_found: u64,
    /// Look-ups that were answered at their deadline, before the remote tier had said what is there.
    pub remote_lookups_late: u64,
    /// Blocks that arrived from the remote tier for look-ups that then hit.
    pub remote_hit_blocks: u64,
    /// Blocks fetched into host memory.
    pub remote_fetched: u64,
    /// Bytes of their slots.
    pub remote_fetched_bytes: u64,
    /// Fetches of blocks that are not there any more.
    pub remote_fetch_missing: u64,
    /// Fetches that found something else than the block.
    pub remote_fetch_corrupt: u64,
    /// Fetches that failed.
    pub remote_fetch_failed: u64,
    /// Fetches whose deadline passed.
    pub remote_fetch_late: u64,
    /// Fetches that were never begun.
    pub remote_fetch_refused: u64,
    /// Blocks that were not fetched because no slot could be had.
    pub remote_fetch_no_space: u64,
    /// Blocks that were not fetched because as much as may be was on its way.
    pub remote_fetch_over_bound: u64,
    /// Blocks stored.
    pub remote_stored: u64,
    /// Bytes of their slots.
    pub remote_stored_bytes: u64,
    /// Blocks that were to be stored and were there already.
    pub remote_store_present: u64,
    /// Stores that failed.
    pub remote_store_failed: u64,
    /// Stores that the remote tier had no room for. The blocks are tried again when it has.
    pub remote_store_no_space: u64,
    /// Stores whose deadline passed.
    pub remote_store_late: u64,
    /// Stores that were never begun.
    pub remote_store_refused: u64,
    /// Blocks that were not stored because the queue was full.
    pub remote_store_queue_full: u64,
    /// Blocks in the queue that had left host memory, or were stored, when their turn came.
    pub remote_store_stale: u64,
    /// Sealed blocks that admission did not let in when they were sealed.
    pub remote_not_admitted: u64,
    /// Blocks that had to leave host memory before they could be stored, with admission `on-eviction`.
    pub remote_left_unstored: u64,
    /// Blocks in the remote tier that were forgotten because as many as may be were known.
    pub remote_forgotten: u64,
    /// Blocks that left the remote tier because somebody asked for it here, as far as they were known here.
    pub remote_removed_on_request: u64,
    /// What the remote tier said that no order explains.
    pub remote_events_unknown: u64,
}

/// What is where at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Slots of assigned arenas that are free.
    pub slots_free: u64,
    /// Slots that are being filled.
    pub slots_filling: u64,
    /// Slots with a usable block, leased ones included.
    pub slots_resident: u64,
    /// Slots with a usable block that at least one lease protects.
    pub slots_leased: u64,
    /// Slots whose block is lost and that a worker may still be writing to.
    pub slots_quarantined: u64,
    /// Bytes of all slots that are not free.
    pub bytes_used: u64,
    /// Arenas of the region.
    pub arenas_total: u32,
    /// Arenas that are cut into slots.
    pub arenas_assigned: u32,
    /// Sessions attached.
    pub sessions: usize,
    /// Engine groups known.
    pub engine_groups: usize,
    /// Namespaces known.
    pub namespaces: usize,
    /// Holds alive on blocks.
    pub holds: u64,
    /// Blocks known, of whatever tier, those being filled included.
    pub blocks: u64,
    /// Those that have a descriptor.
    pub blocks_described: u64,
    /// Bytes of all descriptors.
    pub descriptor_bytes: u64,
    /// Look-ups that wait for blocks on their way from NVMe.
    pub lookups_pending: usize,
    /// Copies on NVMe.
    pub nvme_blocks: u64,
    /// Bytes they take, headers included.
    pub nvme_bytes_used: u64,
    /// Segment files there are.
    pub nvme_segments_total: u64,
    /// Those that hold nothing.
    pub nvme_segments_free: u64,
    /// Those that take no more writes.
    pub nvme_segments_full: u64,
    /// Blocks that wait to be written.
    pub nvme_queue: u64,
    /// Writes under way, carried-over blocks included.
    pub nvme_writes_in_flight: u64,
    /// Reads into host memory under way.
    pub nvme_reads_in_flight: u64,
    /// Blocks that are known to be in the remote tier.
    pub remote_blocks: u64,
    /// Bytes of their slots.
    pub remote_bytes: u64,
    /// Those of them that are nowhere else here.
    pub remote_only_blocks: u64,
    /// Blocks that wait to be stored in the remote tier.
    pub remote_queue: u64,
    /// Stores without an answer.
    pub remote_stores_in_flight: u64,
    /// Fetches without an answer.
    pub remote_fetches_in_flight: u64,
    /// Questions which blocks there are, without an answer.
    pub remote_questions_in_flight: u64,
    /// Blocks that an administrator keeps in host memory.
    pub kept_host_blocks: u64,
    /// Bytes they take there, each with its share of its arena.
    pub kept_host_bytes: u64,
    /// Bytes they may take.
    pub kept_host_bytes_max: u64,
    /// Copies that an administrator keeps on NVMe.
    pub kept_nvme_blocks: u64,
    /// Bytes they take there, headers included.
    pub kept_nvme_bytes: u64,
    /// Bytes they may take.
    pub kept_nvme_bytes_max: u64,
    /// Leases alive, quarantined ones not counted.
    pub leases: usize,
    /// Blocks whose lease waits for proof that its engine's processes are dead or done.
    pub leases_quarantined: usize,
    /// When the oldest lease began, quarantined ones included.
    pub lease_oldest_since: Option<Instant>,
}

/// One NVMe device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NvmeUsage {
    /// Which.
    pub device: DeviceIndex,
    /// `loading`, `serving` or `lost`.
    pub state: &'static str,
    /// Bytes of each segment.
    pub segment_bytes: u64,
    /// Segment files there may be.
    pub segments_max: u32,
    /// Segment files there are.
    pub segments: u32,
    /// Those that hold nothing.
    pub segments_free: u32,
    /// Those that take no more writes.
    pub segments_full: u32,
    /// Copies.
    pub blocks: u64,
    /// Bytes they take, headers included.
    pub bytes_used: u64,
    /// Whether writing has failed and is tried again later.
    pub writes_suspended: bool,
    /// Reads into host memory under way.
    pub reads_in_flight: u32,
    /// Writes under way, carried-over blocks included.
    pub writes_in_flight: u32,
}

/// One namespace's blocks, of whatever tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamespaceUsage {
    /// Which.
    pub namespace: NamespaceId,
    /// Blocks that are usable, being filled or on their way.
    pub blocks: u64,
    /// Copies in host memory.
    pub host_blocks: u64,
    /// Copies on NVMe.
    pub nvme_blocks: u64,
    /// Blocks that are known to be in the remote tier.
    pub remote_blocks: u64,
    /// Bytes of their slots.
    pub remote_bytes: u64,
    /// Engine groups attached to it.
    pub engine_groups: u32,
    /// What its engines did, as long as it has been known.
    pub traffic: Traffic,
}

/// What the engines of a namespace did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Look-ups answered.
    pub lookups: u64,
    /// Those that found nothing.
    pub lookups_missed: u64,
    /// Blocks of hits.
    pub hit_blocks: u64,
    /// Those of them that had to be brought from NVMe.
    pub nvme_hit_blocks: u64,
    /// Those that had to be brought from the remote tier.
    pub remote_hit_blocks: u64,
    /// Bytes of slots that were filled from the remote tier.
    pub remote_read_bytes: u64,
    /// Bytes of slots that the remote tier took.
    pub remote_written_bytes: u64,
    /// Blocks published.
    pub published: u64,
}

/// One session and what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionUsage {
    /// Which.
    pub session: SessionId,
    /// The process behind it.
    pub process: ProcessId,
    /// Its engine.
    pub engine_group: EngineGroupId,
    /// What it does there.
    pub role: Role,
    /// The namespace of its engine, while all ranks are attached.
    pub namespace: Option<NamespaceId>,
    /// Look-ups whose holds are alive.
    pub lookups: usize,
    /// Look-ups that wait for blocks on their way.
    pub lookups_pending: usize,
    /// Blocks held and leased, and those that waiting look-ups may come to hold.
    pub blocks_held: usize,
    /// Leases alive.
    pub leases: usize,
    /// Blocks of them.
    pub leased_blocks: usize,
    /// When the oldest began.
    pub lease_oldest_since: Option<Instant>,
}

/// Where usable copies of one block are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residency {
    /// In the host region.
    pub host: bool,
    /// In a segment on NVMe.
    pub nvme: bool,
    /// In the remote tier.
    pub remote: bool,
}
