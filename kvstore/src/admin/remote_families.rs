//! The metrics of the remote tier.

use kvstore_remote::{Direction, FaultKind, OperationKind, OperationStats, RemoteStats, Room};
use kvstore_types::Corruption;

use super::exposition::{Kind, Writer};
use super::scrape::TenantScrape;
use crate::remote::RemoteView;

pub(super) fn write(writer: &mut Writer, tenants: &[TenantScrape]) {
    service(writer, tenants);
    operations(writer, tenants);
    queues(writer, tenants);
    room(writer, tenants);
    blocks(writer, tenants);
    faults(writer, tenants);
    sweep(writer, tenants);
}

/// Every tenant that has a remote tier.
fn each(tenants: &[TenantScrape]) -> impl Iterator<Item = (&TenantScrape, &RemoteView)> {
    let of_tenant = |tenant| {
        let tenant: &TenantScrape = tenant;
        Some((tenant, tenant.summary.remote.as_ref()?))
    };
    tenants.iter().filter_map(of_tenant)
}

/// Several numbers of each remote tier, told apart by one label.
fn labelled(
    writer: &mut Writer,
    tenants: &[TenantScrape],
    (name, kind, help): (&'static str, Kind, &str),
    label: &'static str,
    numbers: impl Fn(&TenantScrape, &RemoteStats) -> Vec<(&'static str, u64)>,
) {
    writer.family(name, kind, help);
    for (tenant, view) in each(tenants) {
        for (value, number) in numbers(tenant, &view.stats) {
            writer.number(&[("tenant", &tenant.name), (label, value)], number);
        }
    }
}

fn both(numbers: [u64; 2]) -> Vec<(&'static str, u64)> {
    Direction::ALL.iter().map(|way| way.name()).zip(numbers).collect()
}

fn service(writer: &mut Writer, tenants: &[TenantScrape]) {
    writer.family("kvtier_remote", Kind::Info, "What a remote tier is.");
    for (tenant, view) in each(tenants) {
        let labels = [
            ("tenant", tenant.name.as_str()),
            ("store", &view.stats.description),
            ("node", &view.stats.node),
        ];
        writer.number(&labels, 1);
    }
    let family = (
        "kvtier_remote_in_service",
        Kind::Gauge,
        "1 if a remote tier is in service, by direction; while it is not, everything that way is a miss at once.",
    );
    labelled(writer, tenants, family, "direction", |_, stats| {
        both(stats.in_service.map(u64::from))
    });
    let family = (
        "kvtier_remote_outages",
        Kind::Counter,
        "How often a remote tier went out of service, by direction.",
    );
    labelled(writer, tenants, family, "direction", |_, stats| {
        both(stats.outages)
    });
    writer.family(
        "kvtier_remote_outage",
        Kind::Gauge,
        "1 for the cause of the outage that is going on, by direction: what failed first. 0 for all others.",
    );
    for (tenant, view) in each(tenants) {
        for (way, outage) in Direction::ALL.iter().zip(&view.stats.outage) {
            for cause in FaultKind::ALL {
                let is_cause = outage.as_ref().is_some_and(|outage| outage.cause == cause);
                let labels = [
                    ("tenant", tenant.name.as_str()),
                    ("direction", way.name()),
                    ("cause", cause.name()),
                ];
                writer.number(&labels, u64::from(is_cause));
            }
        }
    }
    let family = (
        "kvtier_remote_failed_probes",
        Kind::Counter,
        "Probes of a remote tier out of service that failed, by direction.",
    );
    labelled(writer, tenants, family, "direction", |_, stats| {
        both(stats.probes_failed)
    });
}

#[expect(clippy::cast_precision_loss, reason = "seconds are shown, not counted with")]
fn operations(writer: &mut Writer, tenants: &[TenantScrape]) {
    writer.family(
        "kvtier_remote_operations",
        Kind::Counter,
        "Orders to a remote tier, by what they are for and how they came out. A look-up is one question for many blocks.",
    );
    for (tenant, view) in each(tenants) {
        for kind in OperationKind::ALL {
            for (outcome, count) in outcomes(view.stats.operation(kind)) {
                let labels = [
                    ("tenant", tenant.name.as_str()),
                    ("kind", kind.name()),
                    ("outcome", outcome),
                ];
                writer.number(&labels, count);
            }
        }
    }
    writer.family(
        "kvtier_remote_operation_bytes",
        Kind::Counter,
        "Bytes of blocks that were moved.",
    );
    for (tenant, view) in each(tenants) {
        for kind in OperationKind::ALL {
            let labels = [("tenant", tenant.name.as_str()), ("kind", kind.name())];
            writer.number(&labels, view.stats.operation(kind).bytes);
        }
    }
    writer.family(
        "kvtier_remote_operation_seconds",
        Kind::Counter,
        "Time from order to answer, of all orders together; divide its growth by that of kvtier_remote_operations.",
    );
    for (tenant, view) in each(tenants) {
        for kind in OperationKind::ALL {
            let labels = [("tenant", tenant.name.as_str()), ("kind", kind.name())];
            writer.float(&labels, view.stats.operation(kind).latency_us_sum as f64 / 1e6);
        }
    }
}

fn outcomes(stats: &OperationStats) -> [(&'static str, u64); 7] {
    [
        ("done", stats.done),
        ("already-present", stats.already_present),
        ("missing", stats.missing),
        ("corrupt", stats.corrupt),
        ("unavailable", stats.unavailable),
        ("timed-out", stats.timed_out),
        ("refused", stats.refused),
    ]
}

fn queues(writer: &mut Writer, tenants: &[TenantScrape]) {
    const LANES: [&str; 3] = ["reads", "writes", "questions"];
    let lanes = |numbers: [u64; 3]| LANES.into_iter().zip(numbers).collect();
    let family = (
        "kvtier_remote_waiting_orders",
        Kind::Gauge,
        "Orders that wait for their turn at a remote tier.",
    );
    labelled(writer, tenants, family, "lane", |_, stats| lanes(stats.waiting));
    let family = (
        "kvtier_remote_orders_under_way",
        Kind::Gauge,
        "Operations that a remote tier is not done with, answered or not.",
    );
    labelled(writer, tenants, family, "lane", |_, stats| lanes(stats.under_way));
    writer.family(
        "kvtier_remote_store_queue_blocks",
        Kind::Gauge,
        "Blocks that wait to be stored.",
    );
    for (tenant, _) in each(tenants) {
        let queue = tenant.summary.occupancy.remote_queue;
        writer.number(&[("tenant", &tenant.name)], queue);
    }
}

/// The file systems, of remote tiers that are on one and have heard of it.
fn room(writer: &mut Writer, tenants: &[TenantScrape]) {
    for (name, help, value) in [
        (
            "kvtier_remote_file_system_bytes",
            "Bytes of the file system of a remote tier, as of the last look at it.",
            (|room| room.bytes) as fn(&Room) -> u64,
        ),
        (
            "kvtier_remote_file_system_free_bytes",
            "Bytes of it that may still be written.",
            |room| room.free_bytes,
        ),
        (
            "kvtier_remote_file_system_reserve_bytes",
            "Bytes of it that are to stay free, remote.reserve; nothing is stored below that.",
            |room| room.reserve_bytes,
        ),
    ] {
        writer.family(name, Kind::Gauge, help);
        for (tenant, view) in each(tenants) {
            if let Some(room) = &view.stats.room {
                writer.number(&[("tenant", &tenant.name)], value(room));
            }
        }
    }
}

fn blocks(writer: &mut Writer, tenants: &[TenantScrape]) {
    let family = (
        "kvtier_remote_refused_store_blocks",
        Kind::Counter,
        "Blocks that were not stored, by cause.",
    );
    labelled(writer, tenants, family, "cause", |tenant, _| {
        let counters = &tenant.summary.counters;
        vec![
            ("admission", counters.remote_not_admitted),
            ("queue-full", counters.remote_store_queue_full),
            ("stale", counters.remote_store_stale),
            ("left", counters.remote_left_unstored),
            ("failed", counters.remote_store_failed),
            ("no-space", counters.remote_store_no_space),
            ("late", counters.remote_store_late),
            ("refused", counters.remote_store_refused),
        ]
    });
    let family = (
        "kvtier_remote_missed_fetch_blocks",
        Kind::Counter,
        "Blocks that were known to be there and were not fetched, by cause; each is a miss.",
    );
    labelled(writer, tenants, family, "cause", |tenant, _| {
        let counters = &tenant.summary.counters;
        vec![
            ("missing", counters.remote_fetch_missing),
            ("corrupt", counters.remote_fetch_corrupt),
            ("failed", counters.remote_fetch_failed),
            ("late", counters.remote_fetch_late),
            ("refused", counters.remote_fetch_refused),
            ("no-space", counters.remote_fetch_no_space),
            ("over-bound", counters.remote_fetch_over_bound),
        ]
    });
    let family = (
        "kvtier_remote_asked_blocks",
        Kind::Counter,
        "Blocks that look-ups asked a remote tier for, all of them and those that are there.",
    );
    labelled(writer, tenants, family, "what", |tenant, _| {
        let counters = &tenant.summary.counters;
        vec![("asked", counters.remote_asked), ("found", counters.remote_found)]
    });
    writer.family(
        "kvtier_remote_late_lookups",
        Kind::Counter,
        "Look-ups answered at their deadline, before a remote tier had said what is there.",
    );
    for (tenant, _) in each(tenants) {
        let late = tenant.summary.counters.remote_lookups_late;
        writer.number(&[("tenant", &tenant.name)], late);
    }
}

fn faults(writer: &mut Writer, tenants: &[TenantScrape]) {
    let family = (
        "kvtier_remote_faults",
        Kind::Counter,
        "Attempts at a remote tier that failed, by what was wrong.",
    );
    labelled(writer, tenants, family, "kind", |_, stats| {
        let kinds = FaultKind::ALL.iter().map(|kind| kind.name());
        kinds.zip(stats.faults).collect()
    });
    let family = (
        "kvtier_remote_corrupt_blocks",
        Kind::Counter,
        "Blocks of a remote tier found damaged, by what was wrong; each is a miss.",
    );
    labelled(writer, tenants, family, "kind", |_, stats| {
        let kinds = Corruption::ALL.iter().map(|kind| kind.name());
        kinds.zip(stats.corrupt).collect()
    });
    writer.family(
        "kvtier_remote_retries",
        Kind::Counter,
        "Attempts at a remote tier that were repeated.",
    );
    for (tenant, view) in each(tenants) {
        writer.number(&[("tenant", &tenant.name)], view.stats.retries);
    }
}

fn sweep(writer: &mut Writer, tenants: &[TenantScrape]) {
    for (name, kind, help, value) in [
        (
            "kvtier_remote_sweep_holder",
            Kind::Gauge,
            "1 if this node is the one that sweeps a remote tier.",
            (|stats| u64::from(stats.sweep.is_holder)) as fn(&RemoteStats) -> u64,
        ),
        (
            "kvtier_remote_sweeps",
            Kind::Counter,
            "Sweeps of a remote tier that came to their end.",
            |stats| stats.sweep.sweeps,
        ),
        (
            "kvtier_remote_broken_sweeps",
            Kind::Counter,
            "Sweeps of a remote tier that ended early.",
            |stats| stats.sweep.broken,
        ),
        (
            "kvtier_remote_swept_blocks",
            Kind::Counter,
            "Blocks that this node's sweeps removed.",
            |stats| stats.sweep.blocks_removed,
        ),
        (
            "kvtier_remote_swept_bytes",
            Kind::Counter,
            "Bytes of those.",
            |stats| stats.sweep.bytes_removed,
        ),
    ] {
        writer.family(name, kind, help);
        for (tenant, view) in each(tenants) {
            writer.number(&[("tenant", &tenant.name)], value(&view.stats));
        }
    }
}
