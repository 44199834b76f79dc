//! What engine threads answer, as messages.

use std::collections::BTreeMap;

use kvstore_engine::{Counters, HISTOGRAM_BOUNDS_NS, Histogram, NamespaceUsage, Role};
use kvstore_events::WatchSource;
use kvstore_nvme::{DeviceStats, OperationKind};
use kvstore_types::Corruption;
use kvtier_proto::v1;

use super::show_remote::remote;
use crate::engine_thread::counters::{Numbers, counter_numbers, occupancy_numbers};
use crate::engine_thread::inquiry::{SessionView, Summary};
use crate::nvme::{DeviceView, quantile};

fn map(numbers: Numbers) -> BTreeMap<String, u64> {
    let entries = numbers.into_iter();
    entries.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What a tenant holds and counts.
pub(super) fn tenant(name: &str, summary: &Summary) -> v1::TenantStatus {
    let oldest = summary.occupancy.lease_oldest_since;
    v1::TenantStatus {
        tenant: name.to_owned(),
        draining: summary.draining,
        region_bytes: summary.region_bytes,
        lease_oldest_seconds: oldest.map(|since| summary.now.saturating_duration_since(since).as_secs_f64()),
        occupancy: map(occupancy_numbers(&summary.occupancy)),
        counters: map(counter_numbers(&summary.counters)),
        devices: summary.devices.iter().map(|view| device(name, view)).collect(),
        remote: remote(name, summary),
        latencies: [
            ("look-up", &summary.lookups),
            ("look-up, waiting", &summary.lookup_waits),
            ("load", &summary.loads),
            ("store", &summary.stores),
        ]
        .map(|(name, histogram)| latency(name, histogram))
        .to_vec(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds are shown, not counted with")]
fn latency(name: &str, histogram: &Histogram) -> v1::LatencyStatus {
    v1::LatencyStatus {
        name: name.to_owned(),
        counts: histogram.counts.to_vec(),
        bounds_seconds: HISTOGRAM_BOUNDS_NS.map(|bound| bound as f64 / 1e9).to_vec(),
        sum_seconds: histogram.sum_ns as f64 / 1e9,
    }
}

/// What the announcer counts.
pub(super) fn events(source: &WatchSource) -> BTreeMap<String, u64> {
    map(source.count().named().into())
}

/// Each tier of a tenant.
pub(super) fn tiers(name: &str, summary: &Summary) -> Vec<v1::TierStatus> {
    let (counters, occupancy) = (&summary.counters, &summary.occupancy);
    let host = v1::TierStatus {
        tenant: name.to_owned(),
        tier: v1::Tier::Host.into(),
        capacity_bytes: u64::from(occupancy.arenas_total) * summary.arena_bytes,
        used_bytes: occupancy.bytes_used,
        blocks: occupancy.slots_resident,
        hit_blocks: host_hits(counters),
        admitted_blocks: counters.published + counters.nvme_read + counters.remote_fetched,
        removed_blocks: map(host_removals(counters)),
        usable_bytes: Some(u64::from(occupancy.arenas_total) * summary.arena_bytes),
        state: if summary.draining { "draining" } else { "serving" }.to_owned(),
    };
    let remote = summary.remote.as_ref().map(|view| v1::TierStatus {
        tenant: name.to_owned(),
        tier: v1::Tier::Remote.into(),
        // What is there belongs to all nodes, and no one of them counts it.
        capacity_bytes: 0,
        used_bytes: 0,
        blocks: occupancy.remote_blocks,
        hit_blocks: counters.remote_hit_blocks,
        admitted_blocks: remote_admissions(counters),
        removed_blocks: map(remote_removals(counters)),
        usable_bytes: None,
        state: view.state(),
    });
    if summary.devices.is_empty() {
        return std::iter::once(host).chain(remote).collect();
    }
    let capacity = summary
        .devices
        .iter()
        .filter(|device| device.usage.state != "lost");
    let capacity = capacity.map(DeviceView::capacity_bytes);
    let nvme = v1::TierStatus {
        tenant: name.to_owned(),
        tier: v1::Tier::Nvme.into(),
        capacity_bytes: capacity.sum(),
        used_bytes: occupancy.nvme_bytes_used,
        blocks: occupancy.nvme_blocks,
        hit_blocks: counters.nvme_hit_blocks,
        admitted_blocks: counters.nvme_written + counters.nvme_blocks_loaded,
        removed_blocks: map(nvme_removals(counters)),
        usable_bytes: summary.devices.iter().map(DeviceView::usable_bytes).sum(),
        state: nvme_state(&summary.devices),
    };
    [host, nvme].into_iter().chain(remote).collect()
}

/// Blocks of hits that lay in host memory.
pub(super) fn host_hits(counters: &Counters) -> u64 {
    let brought = counters.nvme_hit_blocks + counters.remote_hit_blocks;
    counters.hit_blocks.saturating_sub(brought)
}

/// Blocks that this node put into the remote tier or found there.
pub(super) fn remote_admissions(counters: &Counters) -> u64 {
    counters.remote_stored + counters.remote_store_present + counters.remote_found
}

/// Why blocks are not known to be in the remote tier any more, and how many.
pub(super) fn remote_removals(counters: &Counters) -> Numbers {
    vec![
        ("missing", counters.remote_fetch_missing),
        ("corrupt", counters.remote_fetch_corrupt),
        ("forgotten", counters.remote_forgotten),
        ("requested", counters.remote_removed_on_request),
    ]
}

/// Why blocks left host memory, and how many.
pub(super) fn host_removals(counters: &Counters) -> Numbers {
    vec![
        ("space", counters.evicted_for_space),
        ("watermark", counters.evicted_for_watermark),
        ("arena-moved", counters.removed_arena_moved),
        ("namespace-dropped", counters.removed_namespace_dropped),
        ("requested", counters.removed_on_request),
    ]
}

/// Why blocks left NVMe, and how many. Damaged copies are counted by what was wrong with them.
pub(super) fn nvme_removals(counters: &Counters) -> Numbers {
    vec![
        ("reclaimed", counters.nvme_reclaimed_blocks),
        ("requested", counters.nvme_removed_on_request),
    ]
}

fn nvme_state(devices: &[DeviceView]) -> String {
    let count = |state: &str| {
        devices
            .iter()
            .filter(|device| device.usage.state == state)
            .count()
    };
    let suspended = devices
        .iter()
        .filter(|device| device.usage.writes_suspended)
        .count();
    let all = devices.len();
    let mut parts = Vec::new();
    for (number, what) in [
        (count("lost"), "lost"),
        (count("loading"), "loading"),
        (suspended, "not writing"),
    ] {
        if number > 0 {
            parts.push(format!("{number} of {all} {what}"));
        }
    }
    if parts.is_empty() {
        "serving".to_owned()
    } else {
        parts.join(", ")
    }
}

/// One device.
pub(super) fn device(tenant: &str, view: &DeviceView) -> v1::DeviceStatus {
    let usage = &view.usage;
    let mut status = v1::DeviceStatus {
        tenant: tenant.to_owned(),
        index: u32::from(usage.device.0),
        directory: view.directory.display().to_string(),
        state: usage.state.to_owned(),
        lost_reason: view.lost.clone().unwrap_or_default(),
        writes_suspended: usage.writes_suspended,
        segment_bytes: usage.segment_bytes,
        segments_max: usage.segments_max,
        segments: usage.segments,
        segments_free: usage.segments_free,
        segments_full: usage.segments_full,
        blocks: usage.blocks,
        used_bytes: usage.bytes_used,
        reads_in_flight: usage.reads_in_flight,
        writes_in_flight: usage.writes_in_flight,
        capacity_bytes: view.capacity_bytes(),
        usable_bytes: view.usable_bytes(),
        ..v1::DeviceStatus::default()
    };
    if let Some(stats) = &view.stats {
        add_stats(&mut status, stats);
    }
    status
}

fn add_stats(status: &mut v1::DeviceStatus, stats: &DeviceStats) {
    stats.engine.clone_into(&mut status.io);
    status.io_reason = stats.engine_reason.clone().unwrap_or_default();
    status.direct = stats.direct;
    status.direct_reason.clone_from(&stats.direct_reason);
    let kinds = OperationKind::ALL.iter();
    status.operations = kinds.map(|kind| operation(*kind, stats)).collect();
    let corrupt = Corruption::ALL.iter().zip(stats.corrupt);
    status.corrupt = corrupt
        .map(|(kind, count)| (kind.name().to_owned(), count))
        .collect();
    let maintenance = &stats.maintenance;
    status.catalogue = Some(v1::CatalogueStatus {
        there: maintenance.has_catalogue,
        bytes: maintenance.catalogue_bytes,
        waiting: maintenance.waiting,
        changes_written: maintenance.changes_written,
        changes_dropped: maintenance.changes_dropped,
        errors: maintenance.catalogue_errors,
    });
}

fn operation(kind: OperationKind, stats: &DeviceStats) -> v1::OperationStatus {
    let stats = stats.operation(kind);
    v1::OperationStatus {
        kind: kind.name().to_owned(),
        done: stats.done,
        bytes: stats.bytes,
        failed: stats.failed,
        no_space: stats.no_space,
        corrupt: stats.corrupt,
        waiting: stats.waiting,
        under_way: stats.under_way,
        latency_us_p50: quantile(&stats.latency_counts, 50),
        latency_us_p99: quantile(&stats.latency_counts, 99),
        ..v1::OperationStatus::default()
    }
}

/// One namespace.
pub(super) fn namespace(
    tenant: &str,
    usage: &NamespaceUsage,
    descriptor: BTreeMap<String, String>,
) -> v1::NamespaceStatus {
    v1::NamespaceStatus {
        tenant: tenant.to_owned(),
        namespace: usage.namespace.to_string(),
        blocks: usage.blocks,
        host_blocks: usage.host_blocks,
        nvme_blocks: usage.nvme_blocks,
        engines: usage.engine_groups,
        lookups: usage.traffic.lookups,
        lookups_missed: usage.traffic.lookups_missed,
        hit_blocks: usage.traffic.hit_blocks,
        nvme_hit_blocks: usage.traffic.nvme_hit_blocks,
        published: usage.traffic.published,
        remote_blocks: usage.remote_blocks,
        remote_bytes: usage.remote_bytes,
        remote_hit_blocks: usage.traffic.remote_hit_blocks,
        remote_read_bytes: usage.traffic.remote_read_bytes,
        remote_written_bytes: usage.traffic.remote_written_bytes,
        descriptor,
    }
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// One session.
pub(super) fn session(tenant: &str, view: &SessionView) -> v1::SessionStatus {
    let usage = &view.usage;
    let (role, rank) = match usage.role {
        Role::Scheduler => ("scheduler", None),
        Role::Worker(rank) => ("worker", Some(u32::from(rank.0))),
        Role::Observer => ("observer", None),
    };
    let age = |since| view.now.saturating_duration_since(since).as_secs_f64();
    v1::SessionStatus {
        tenant: tenant.to_owned(),
        session: usage.session.0,
        engine_group: usage.engine_group.to_string(),
        engine_name: view.engine_name.clone(),
        pod: view.pod.clone(),
        model: view.model.clone(),
        role: role.to_owned(),
        rank,
        pid: view.credentials.pid,
        uid: view.credentials.uid,
        gid: view.credentials.gid,
        attached_seconds: age(view.since),
        namespace: usage.namespace.map(|id| id.to_string()).unwrap_or_default(),
        lookups: number(usage.lookups),
        lookups_pending: number(usage.lookups_pending),
        blocks_held: number(usage.blocks_held),
        leases: number(usage.leases),
        leased_blocks: number(usage.leased_blocks),
        lease_oldest_seconds: usage.lease_oldest_since.map(age),
    }
}
