//! The metrics of the NVMe tier and of its devices.

use kvstore_nvme::{DeviceStats, LATENCY_BOUNDS_US, OperationKind, OperationStats};

use super::exposition::{Kind, Writer};
use super::families::{each, each_of};
use super::scrape::TenantScrape;
use crate::nvme::DeviceView;

/// States of a device.
const STATES: [&str; 3] = ["loading", "serving", "lost"];

pub(super) fn write(writer: &mut Writer, tenants: &[TenantScrape]) {
    tier(writer, tenants);
    damage(writer, tenants);
    segments(writer, tenants);
    places(writer, tenants);
    states(writer, tenants);
    room(writer, tenants);
    device_segments(writer, tenants);
    operations(writer, tenants);
    catalogue(writer, tenants);
}

fn tier(writer: &mut Writer, tenants: &[TenantScrape]) {
    let family = (
        "kvtier_nvme_written_bytes",
        Kind::Counter,
        "Bytes of blocks written, headers included.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.nvme_written_bytes
    });
    let family = (
        "kvtier_nvme_read_bytes",
        Kind::Counter,
        "Bytes of blocks read into host memory, headers included.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.nvme_read_bytes
    });
    let family = (
        "kvtier_nvme_promoted_blocks",
        Kind::Counter,
        "Blocks read into host memory.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.nvme_read
    });
    let family = (
        "kvtier_nvme_refused_promotion_blocks",
        Kind::Counter,
        "Blocks that were asked for and not read, by cause.",
    );
    each_of(writer, tenants, family, "cause", |tenant| {
        let counters = &tenant.summary.counters;
        vec![
            ("no-space", counters.nvme_promotions_no_space),
            ("over-bound", counters.nvme_promotions_over_bound),
        ]
    });
    let family = (
        "kvtier_nvme_late_lookups",
        Kind::Counter,
        "Look-ups answered at their deadline, with blocks still on their way.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.nvme_promotions_late
    });
    let family = (
        "kvtier_nvme_refused_write_blocks",
        Kind::Counter,
        "Blocks that were not written, by cause.",
    );
    each_of(writer, tenants, family, "cause", |tenant| {
        let counters = &tenant.summary.counters;
        vec![
            ("admission", counters.nvme_not_admitted),
            ("too-large", counters.nvme_too_large),
            ("queue-full", counters.nvme_write_queue_full),
            ("stale", counters.nvme_write_stale),
            ("failed", counters.nvme_write_failed),
            ("no-space", counters.nvme_no_space),
        ]
    });
    let family = (
        "kvtier_nvme_write_queue_blocks",
        Kind::Gauge,
        "Blocks that wait to be written.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.occupancy.nvme_queue
    });
}

fn damage(writer: &mut Writer, tenants: &[TenantScrape]) {
    let family = (
        "kvtier_nvme_corrupt_blocks",
        Kind::Counter,
        "Copies found damaged, by what was wrong; each is a miss.",
    );
    each_of(writer, tenants, family, "kind", |tenant| {
        let counters = &tenant.summary.counters;
        vec![
            ("header", counters.nvme_corrupt_header),
            ("foreign", counters.nvme_corrupt_foreign),
            ("place", counters.nvme_corrupt_place),
            ("key", counters.nvme_corrupt_key),
            ("payload", counters.nvme_corrupt_payload),
            ("truncated", counters.nvme_corrupt_truncated),
        ]
    });
    let family = (
        "kvtier_nvme_unreadable_blocks",
        Kind::Counter,
        "Copies that could not be read.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.nvme_read_failed
    });
    let family = (
        "kvtier_nvme_scrubbed_blocks",
        Kind::Counter,
        "Copies that were verified, by outcome.",
    );
    each_of(writer, tenants, family, "outcome", |tenant| {
        let counters = &tenant.summary.counters;
        vec![
            ("good", counters.nvme_scrubbed),
            ("corrupt", counters.nvme_scrub_corrupt),
        ]
    });
    let family = (
        "kvtier_nvme_scrubbed_bytes",
        Kind::Counter,
        "Bytes of copies that were verified and good.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.nvme_scrubbed_bytes
    });
}

fn segments(writer: &mut Writer, tenants: &[TenantScrape]) {
    let family = (
        "kvtier_nvme_reclaimed_segments",
        Kind::Counter,
        "Segments that were emptied to be written anew.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.nvme_reclaimed_segments
    });
    let family = (
        "kvtier_nvme_carried_over_blocks",
        Kind::Counter,
        "Copies that were moved on when their segment was reclaimed.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.nvme_carried_over
    });
    let family = (
        "kvtier_nvme_found_blocks",
        Kind::Counter,
        "Copies found at start, by what became of them.",
    );
    each_of(writer, tenants, family, "outcome", |tenant| {
        let counters = &tenant.summary.counters;
        vec![
            ("loaded", counters.nvme_blocks_loaded),
            ("dropped", counters.nvme_blocks_dropped),
        ]
    });
}

/// Every device with its labels.
fn each_device(tenants: &[TenantScrape]) -> impl Iterator<Item = ([(&'static str, String); 2], &DeviceView)> {
    tenants.iter().flat_map(|tenant| {
        let devices = tenant.summary.devices.iter();
        devices.map(|device| {
            let labels = [
                ("tenant", tenant.name.clone()),
                ("device", device.usage.device.0.to_string()),
            ];
            (labels, device)
        })
    })
}

fn places(writer: &mut Writer, tenants: &[TenantScrape]) {
    writer.family(
        "kvtier_nvme_device",
        Kind::Info,
        "Where a device is and how it is used.",
    );
    for ([tenant, number], device) in each_device(tenants) {
        let directory = device.directory.display().to_string();
        let stats = device.stats.as_ref();
        let direct = stats.map_or("", |stats| if stats.direct { "yes" } else { "no" });
        let labels = [
            (tenant.0, tenant.1.as_str()),
            (number.0, &number.1),
            ("directory", &directory),
            ("io", stats.map_or("", |stats| stats.engine)),
            ("direct", direct),
        ];
        writer.number(&labels, 1);
    }
}

/// What each device can hold, by the configuration and by its file system.
fn room(writer: &mut Writer, tenants: &[TenantScrape]) {
    let number = |writer: &mut Writer, bytes: fn(&DeviceView) -> Option<u64>| {
        for ([tenant, number], device) in each_device(tenants) {
            if let Some(bytes) = bytes(device) {
                writer.number(&[(tenant.0, tenant.1.as_str()), (number.0, &number.1)], bytes);
            }
        }
    };
    let help = "What the segments of a device may hold at most.";
    writer.family("kvtier_nvme_device_capacity_bytes", Kind::Gauge, help);
    number(writer, |device| Some(device.capacity_bytes()));
    let help = "What they can hold now: those that there are, and what the file system has room for.";
    writer.family("kvtier_nvme_device_usable_bytes", Kind::Gauge, help);
    number(writer, DeviceView::usable_bytes);
}

fn states(writer: &mut Writer, tenants: &[TenantScrape]) {
    writer.family(
        "kvtier_nvme_device_state",
        Kind::Gauge,
        "1 for the state a device is in.",
    );
    for ([tenant, number], device) in each_device(tenants) {
        for state in STATES {
            let labels = [
                (tenant.0, tenant.1.as_str()),
                (number.0, &number.1),
                ("state", state),
            ];
            writer.number(&labels, u64::from(device.usage.state == state));
        }
    }
    for (name, help, value) in [
        (
            "kvtier_nvme_device_writes_suspended",
            "1 if writing has failed and is tried again later.",
            (|device| u64::from(device.usage.writes_suspended)) as fn(&DeviceView) -> u64,
        ),
        (
            "kvtier_nvme_device_used_bytes",
            "Bytes of blocks on a device.",
            |device| device.usage.bytes_used,
        ),
        ("kvtier_nvme_device_blocks", "Blocks on a device.", |device| {
            device.usage.blocks
        }),
        (
            "kvtier_nvme_device_segments_max",
            "Segments a device may have.",
            |device| u64::from(device.usage.segments_max),
        ),
    ] {
        writer.family(name, Kind::Gauge, help);
        for ([tenant, number], device) in each_device(tenants) {
            writer.number(&[(tenant.0, &tenant.1), (number.0, &number.1)], value(device));
        }
    }
}

fn device_segments(writer: &mut Writer, tenants: &[TenantScrape]) {
    writer.family(
        "kvtier_nvme_device_segments",
        Kind::Gauge,
        "Segments of a device, by state.",
    );
    for ([tenant, number], device) in each_device(tenants) {
        let usage = &device.usage;
        let other = usage
            .segments
            .saturating_sub(usage.segments_free + usage.segments_full);
        for (state, count) in [
            ("free", usage.segments_free),
            ("full", usage.segments_full),
            ("other", other),
        ] {
            let labels = [
                (tenant.0, tenant.1.as_str()),
                (number.0, &number.1),
                ("state", state),
            ];
            writer.number(&labels, u64::from(count));
        }
    }
}

/// Every kind of operation of every device that could be opened, with its labels.
fn each_operation(
    tenants: &[TenantScrape],
) -> impl Iterator<Item = ([(&'static str, String); 3], &OperationStats)> {
    each_device(tenants).flat_map(|([tenant, number], device)| {
        let stats: Option<&DeviceStats> = device.stats.as_ref();
        stats.into_iter().flat_map(move |stats| {
            let (tenant, number) = (tenant.clone(), number.clone());
            OperationKind::ALL.iter().map(move |kind| {
                let labels = [tenant.clone(), number.clone(), ("kind", kind.name().to_owned())];
                (labels, stats.operation(*kind))
            })
        })
    })
}

#[expect(clippy::cast_precision_loss, reason = "seconds are shown, not counted with")]
fn operations(writer: &mut Writer, tenants: &[TenantScrape]) {
    writer.family(
        "kvtier_nvme_operations",
        Kind::Counter,
        "Operations at a device, by what they are for and how they came out.",
    );
    for ([tenant, number, kind], stats) in each_operation(tenants) {
        for (outcome, count) in [
            ("done", stats.done),
            ("corrupt", stats.corrupt),
            ("no-space", stats.no_space),
            ("failed", stats.failed),
        ] {
            let labels = [
                (tenant.0, tenant.1.as_str()),
                (number.0, &number.1),
                (kind.0, &kind.1),
                ("outcome", outcome),
            ];
            writer.number(&labels, count);
        }
    }
    writer.family(
        "kvtier_nvme_operation_bytes",
        Kind::Counter,
        "Bytes of operations that came out well.",
    );
    for (labels, stats) in each_operation(tenants) {
        let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
        writer.number(&labels, stats.bytes);
    }
    writer.family(
        "kvtier_nvme_operation_queue",
        Kind::Gauge,
        "Operations now, by state.",
    );
    for ([tenant, number, kind], stats) in each_operation(tenants) {
        for (state, count) in [("waiting", stats.waiting), ("under-way", stats.under_way)] {
            let labels = [
                (tenant.0, tenant.1.as_str()),
                (number.0, &number.1),
                (kind.0, &kind.1),
                ("state", state),
            ];
            writer.number(&labels, count);
        }
    }
    writer.family(
        "kvtier_nvme_operation_seconds",
        Kind::Histogram,
        "Time from order to answer; a promotion is a read of kind demand, a write back one of kind write.",
    );
    let bounds = LATENCY_BOUNDS_US.map(|bound| bound as f64 / 1e6);
    for (labels, stats) in each_operation(tenants) {
        let labels = labels.each_ref().map(|(name, value)| (*name, value.as_str()));
        let sum = stats.latency_us_sum as f64 / 1e6;
        writer.histogram(&labels, bounds, &stats.latency_counts, sum);
    }
}

fn catalogue(writer: &mut Writer, tenants: &[TenantScrape]) {
    for (name, kind, help, value) in [
        (
            "kvtier_nvme_catalogue_used_bytes",
            Kind::Gauge,
            "Size of a device's catalogue.",
            (|stats| stats.maintenance.catalogue_bytes) as fn(&DeviceStats) -> u64,
        ),
        (
            "kvtier_nvme_catalogue_waiting_changes",
            Kind::Gauge,
            "Changes that a device's catalogue does not know yet.",
            |stats| stats.maintenance.waiting,
        ),
        (
            "kvtier_nvme_catalogue_dropped_changes",
            Kind::Counter,
            "Changes that it will not know; the next start reads headers instead.",
            |stats| stats.maintenance.changes_dropped,
        ),
        (
            "kvtier_nvme_catalogue_errors",
            Kind::Counter,
            "Failures of a device's catalogue.",
            |stats| stats.maintenance.catalogue_errors,
        ),
    ] {
        writer.family(name, kind, help);
        for ([tenant, number], device) in each_device(tenants) {
            if let Some(stats) = &device.stats {
                writer.number(&[(tenant.0, &tenant.1), (number.0, &number.1)], value(stats));
            }
        }
    }
}
