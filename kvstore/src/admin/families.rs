//! The metrics: what they are called and where their numbers come from. docs/metrics.md is for those who read them; a test
//! compares.

use kvstore_engine::{HISTOGRAM_BOUNDS_NS, Histogram};

use crate::nvme::DeviceView;

use super::event_families;
use super::exposition::{Format, Kind, Label, Writer};
use super::nvme_families;
use super::owner_families;
use super::remote_families;
use super::scrape::{Scrape, TenantScrape};
use super::show::{host_hits, host_removals, nvme_removals, remote_admissions, remote_removals};
use super::tls_families;
use super::trace_families;

/// All of it as text.
pub(super) fn write(scrape: &Scrape, format: Format) -> String {
    let mut writer = Writer::new(format);
    daemon(&mut writer, scrape);
    tiers(&mut writer, &scrape.tenants);
    lookups(&mut writer, &scrape.tenants);
    stores(&mut writer, &scrape.tenants);
    transfers(&mut writer, &scrape.tenants);
    pins(&mut writer, &scrape.tenants);
    memory(&mut writer, &scrape.tenants);
    sessions(&mut writer, &scrape.tenants);
    owner_families::write(&mut writer, &scrape.tenants);
    nvme_families::write(&mut writer, &scrape.tenants);
    remote_families::write(&mut writer, &scrape.tenants);
    event_families::write(&mut writer, scrape.events.as_ref());
    tls_families::write(&mut writer, scrape.certificates.as_ref());
    trace_families::write(&mut writer, scrape.traces.as_ref());
    writer.finish()
}

fn daemon(writer: &mut Writer, scrape: &Scrape) {
    writer
        .family("kvtier_build", Kind::Info, "The daemon's version.")
        .number(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    writer
        .family(
            "kvtier_uptime_seconds",
            Kind::Gauge,
            "Time since the daemon started.",
        )
        .float(&[], scrape.uptime_seconds);
    writer
        .family(
            "kvtier_ready",
            Kind::Gauge,
            "1 if clients are let in, 0 while the daemon starts or drains.",
        )
        .number(&[], u64::from(scrape.is_ready));
    let help = "1 if stores are refused.";
    each(
        writer,
        &scrape.tenants,
        ("kvtier_draining", Kind::Gauge, help),
        |tenant| u64::from(tenant.summary.draining),
    );
}

/// One number of each tenant.
pub(super) fn each(
    writer: &mut Writer,
    tenants: &[TenantScrape],
    (name, kind, help): (&'static str, Kind, &str),
    number: impl Fn(&TenantScrape) -> u64,
) {
    writer.family(name, kind, help);
    for tenant in tenants {
        writer.number(&[("tenant", &tenant.name)], number(tenant));
    }
}

/// Several numbers of each tenant, told apart by one label.
pub(super) fn each_of(
    writer: &mut Writer,
    tenants: &[TenantScrape],
    (name, kind, help): (&'static str, Kind, &str),
    label: &'static str,
    numbers: impl Fn(&TenantScrape) -> Vec<(&'static str, u64)>,
) {
    writer.family(name, kind, help);
    for tenant in tenants {
        for (value, number) in numbers(tenant) {
            writer.number(&[("tenant", &tenant.name), (label, value)], number);
        }
    }
}

/// The numbers of the tiers that there are. `remote`: none if nobody knows it.
pub(super) fn of_tiers(
    tenant: &TenantScrape,
    host: u64,
    nvme: u64,
    remote: Option<u64>,
) -> Vec<(&'static str, u64)> {
    let mut numbers = vec![("host", host)];
    if !tenant.summary.devices.is_empty() {
        numbers.push(("nvme", nvme));
    }
    let remote = remote.filter(|_| tenant.summary.remote.is_some());
    numbers.extend(remote.map(|number| ("remote", number)));
    numbers
}

fn tiers(writer: &mut Writer, tenants: &[TenantScrape]) {
    let family = ("kvtier_tier_capacity_bytes", Kind::Gauge, "What a tier may hold.");
    each_of(writer, tenants, family, "tier", |tenant| {
        let summary = &tenant.summary;
        let host = u64::from(summary.occupancy.arenas_total) * summary.arena_bytes;
        let serving = summary
            .devices
            .iter()
            .filter(|device| device.usage.state != "lost");
        of_tiers(tenant, host, serving.map(DeviceView::capacity_bytes).sum(), None)
    });
    let family = (
        "kvtier_tier_used_bytes",
        Kind::Gauge,
        "What a tier holds, blocks being stored included.",
    );
    each_of(writer, tenants, family, "tier", |tenant| {
        let occupancy = &tenant.summary.occupancy;
        of_tiers(tenant, occupancy.bytes_used, occupancy.nvme_bytes_used, None)
    });
    let family = (
        "kvtier_tier_blocks",
        Kind::Gauge,
        "Usable copies in a tier; of the remote tier, those that this node knows of.",
    );
    each_of(writer, tenants, family, "tier", |tenant| {
        let occupancy = &tenant.summary.occupancy;
        let remote = Some(occupancy.remote_blocks);
        of_tiers(tenant, occupancy.slots_resident, occupancy.nvme_blocks, remote)
    });
    let family = (
        "kvtier_tier_admitted_blocks",
        Kind::Counter,
        "Copies that came into a tier.",
    );
    each_of(writer, tenants, family, "tier", |tenant| {
        let counters = &tenant.summary.counters;
        let host = counters.published + counters.nvme_read + counters.remote_fetched;
        let nvme = counters.nvme_written + counters.nvme_blocks_loaded;
        of_tiers(tenant, host, nvme, Some(remote_admissions(counters)))
    });
    removals(writer, tenants);
    let family = (
        "kvtier_hit_blocks",
        Kind::Counter,
        "Blocks of hits, by the tier they came from.",
    );
    each_of(writer, tenants, family, "tier", |tenant| {
        let counters = &tenant.summary.counters;
        let remote = Some(counters.remote_hit_blocks);
        of_tiers(tenant, host_hits(counters), counters.nvme_hit_blocks, remote)
    });
}

fn removals(writer: &mut Writer, tenants: &[TenantScrape]) {
    writer.family(
        "kvtier_tier_removed_blocks",
        Kind::Counter,
        "Copies that left a tier, by cause. Damaged copies: kvtier_nvme_corrupt_blocks.",
    );
    for tenant in tenants {
        let counters = &tenant.summary.counters;
        for (tier, causes) in [
            ("host", host_removals(counters)),
            ("nvme", nvme_removals(counters)),
            ("remote", remote_removals(counters)),
        ] {
            let is_there = match tier {
                "nvme" => !tenant.summary.devices.is_empty(),
                "remote" => tenant.summary.remote.is_some(),
                _ => true,
            };
            if !is_there {
                continue;
            }
            for (cause, count) in causes {
                writer.number(
                    &[("tenant", &tenant.name), ("tier", tier), ("cause", cause)],
                    count,
                );
            }
        }
    }
}

fn lookups(writer: &mut Writer, tenants: &[TenantScrape]) {
    let family = ("kvtier_lookups", Kind::Counter, "Look-ups answered, by outcome.");
    each_of(writer, tenants, family, "outcome", |tenant| {
        let counters = &tenant.summary.counters;
        vec![
            ("hit", counters.lookups_hit),
            ("miss", counters.lookups_missed),
            ("not-ready", counters.lookups_not_ready),
            ("over-quota", counters.lookups_over_quota),
        ]
    });
    let family = (
        "kvtier_lookup_blocks",
        Kind::Counter,
        "Blocks that look-ups asked for.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.lookup_blocks
    });
    let family = ("kvtier_hit_tokens", Kind::Counter, "Tokens of all hits.");
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.hit_tokens
    });
    let family = (
        "kvtier_lookups_pending",
        Kind::Gauge,
        "Look-ups that wait for NVMe or the remote tier.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.occupancy.lookups_pending as u64
    });
    writer.family(
        "kvtier_lookup_seconds",
        Kind::Histogram,
        "Time the engine thread took for a look-up that needed no device.",
    );
    for tenant in tenants {
        histogram(writer, &[("tenant", &tenant.name)], &tenant.summary.lookups);
    }
    writer.family(
        "kvtier_lookup_wait_seconds",
        Kind::Histogram,
        "Time look-ups waited for NVMe or the remote tier.",
    );
    for tenant in tenants {
        histogram(writer, &[("tenant", &tenant.name)], &tenant.summary.lookup_waits);
    }
    let family = ("kvtier_loads", Kind::Counter, "Loads that engines committed to.");
    each(writer, tenants, family, |tenant| tenant.summary.counters.loads);
    let family = (
        "kvtier_load_blocks",
        Kind::Counter,
        "Blocks of loads, by outcome.",
    );
    each_of(writer, tenants, family, "outcome", |tenant| {
        let counters = &tenant.summary.counters;
        vec![
            ("leased", counters.load_blocks),
            ("lost", counters.load_blocks_lost),
        ]
    });
}

/// Loads and stores as far as the daemon sees them: the copies themselves are made by engines.
fn transfers(writer: &mut Writer, tenants: &[TenantScrape]) {
    let family = (
        "kvtier_load_bytes",
        Kind::Counter,
        "Bytes of blocks leased for loads.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.load_bytes
    });
    let family = (
        "kvtier_published_bytes",
        Kind::Counter,
        "Bytes of blocks that all ranks sealed.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.published_bytes
    });
    writer.family(
        "kvtier_load_seconds",
        Kind::Histogram,
        "Time from the commitment of a load to its release: the engine's copies out of host memory.",
    );
    for tenant in tenants {
        histogram(writer, &[("tenant", &tenant.name)], &tenant.summary.loads);
    }
    writer.family(
        "kvtier_store_seconds",
        Kind::Histogram,
        "Time from the reservation of a block to its last seal: the engine's copies into host memory.",
    );
    for tenant in tenants {
        histogram(writer, &[("tenant", &tenant.name)], &tenant.summary.stores);
    }
}

/// The numbers of the tiers in which blocks can be pinned.
fn of_pinnable(tenant: &TenantScrape, host: u64, nvme: u64) -> Vec<(&'static str, u64)> {
    let mut numbers = vec![("host", host)];
    if !tenant.summary.devices.is_empty() {
        numbers.push(("nvme", nvme));
    }
    numbers
}

/// What administrators keep from leaving.
fn pins(writer: &mut Writer, tenants: &[TenantScrape]) {
    let family = (
        "kvtier_tier_pinned_blocks",
        Kind::Gauge,
        "Copies in a tier that are pinned.",
    );
    each_of(writer, tenants, family, "tier", |tenant| {
        let occupancy = &tenant.summary.occupancy;
        of_pinnable(tenant, occupancy.kept_host_blocks, occupancy.kept_nvme_blocks)
    });
    let family = ("kvtier_tier_pinned_bytes", Kind::Gauge, "What they take.");
    each_of(writer, tenants, family, "tier", |tenant| {
        let occupancy = &tenant.summary.occupancy;
        of_pinnable(tenant, occupancy.kept_host_bytes, occupancy.kept_nvme_bytes)
    });
    let family = (
        "kvtier_tier_pinned_max_bytes",
        Kind::Gauge,
        "What they may take: pin-share.",
    );
    each_of(writer, tenants, family, "tier", |tenant| {
        let occupancy = &tenant.summary.occupancy;
        of_pinnable(
            tenant,
            occupancy.kept_host_bytes_max,
            occupancy.kept_nvme_bytes_max,
        )
    });
    let family = (
        "kvtier_nvme_lost_pinned_blocks",
        Kind::Counter,
        "Pinned copies on NVMe that went all the same: bad, lost with their device, or without any room.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.kept_copies_lost
    });
}

#[expect(clippy::cast_precision_loss, reason = "seconds are shown, not counted with")]
fn histogram(writer: &mut Writer, labels: &[Label<'_>], histogram: &Histogram) {
    let bounds = HISTOGRAM_BOUNDS_NS.map(|bound| bound as f64 / 1e9);
    writer.histogram(labels, bounds, &histogram.counts, histogram.sum_ns as f64 / 1e9);
}

fn stores(writer: &mut Writer, tenants: &[TenantScrape]) {
    let family = (
        "kvtier_store_blocks",
        Kind::Counter,
        "Blocks that engines wanted to store, by what they were told.",
    );
    each_of(writer, tenants, family, "outcome", |tenant| {
        let counters = &tenant.summary.counters;
        vec![
            ("granted", counters.reserves_granted),
            ("present", counters.reserves_present),
            ("filling", counters.reserves_filling),
            ("no-space", counters.reserves_no_space),
            ("draining", counters.reserves_draining),
            ("not-ready", counters.reserves_not_ready),
        ]
    });
    let family = (
        "kvtier_published_blocks",
        Kind::Counter,
        "Blocks that all ranks sealed.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.published
    });
    let family = (
        "kvtier_lost_reservations",
        Kind::Counter,
        "Reservations that ended with a session or a reset.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.reservations_lost
    });
}

fn memory(writer: &mut Writer, tenants: &[TenantScrape]) {
    let family = ("kvtier_region_bytes", Kind::Gauge, "Memory shared with engines.");
    each(writer, tenants, family, |tenant| tenant.summary.region_bytes);
    let family = ("kvtier_slots", Kind::Gauge, "Slots of the host region, by state.");
    each_of(writer, tenants, family, "state", |tenant| {
        let occupancy = &tenant.summary.occupancy;
        vec![
            ("free", occupancy.slots_free),
            ("filling", occupancy.slots_filling),
            ("resident", occupancy.slots_resident - occupancy.slots_leased),
            ("leased", occupancy.slots_leased),
            ("quarantined", occupancy.slots_quarantined),
        ]
    });
    let family = (
        "kvtier_arenas",
        Kind::Gauge,
        "Arenas of the host region, by state.",
    );
    each_of(writer, tenants, family, "state", |tenant| {
        let occupancy = &tenant.summary.occupancy;
        let assigned = u64::from(occupancy.arenas_assigned);
        vec![
            ("assigned", assigned),
            ("free", u64::from(occupancy.arenas_total) - assigned),
        ]
    });
    let family = (
        "kvtier_moved_arenas",
        Kind::Counter,
        "Arenas that went to blocks of another size.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.arenas_moved
    });
    let family = ("kvtier_holds", Kind::Gauge, "Holds of look-ups on blocks.");
    each(writer, tenants, family, |tenant| tenant.summary.occupancy.holds);
    let family = (
        "kvtier_lost_holds",
        Kind::Counter,
        "Holds that eviction took back.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.counters.holds_taken_back
    });
    let family = ("kvtier_leases", Kind::Gauge, "Leases of loads under way.");
    each(writer, tenants, family, |tenant| {
        tenant.summary.occupancy.leases as u64
    });
    let family = (
        "kvtier_quarantined_leases",
        Kind::Gauge,
        "Leased blocks that wait for proof that their engine is dead.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.occupancy.leases_quarantined as u64
    });
    writer.family(
        "kvtier_lease_oldest_seconds",
        Kind::Gauge,
        "Age of the oldest lease; 0 if there is none.",
    );
    for tenant in tenants {
        let summary = &tenant.summary;
        let age = summary.occupancy.lease_oldest_since.map_or(0.0, |since| {
            summary.now.saturating_duration_since(since).as_secs_f64()
        });
        writer.float(&[("tenant", &tenant.name)], age);
    }
}

fn sessions(writer: &mut Writer, tenants: &[TenantScrape]) {
    let family = ("kvtier_sessions", Kind::Gauge, "Sessions attached.");
    each(writer, tenants, family, |tenant| {
        tenant.summary.occupancy.sessions as u64
    });
    let family = (
        "kvtier_engine_groups",
        Kind::Gauge,
        "Engines known, those waited for included.",
    );
    each(writer, tenants, family, |tenant| {
        tenant.summary.occupancy.engine_groups as u64
    });
    let family = (
        "kvtier_attachments",
        Kind::Counter,
        "Clients that asked to attach, by answer.",
    );
    each_of(writer, tenants, family, "outcome", |tenant| {
        let counters = &tenant.summary.counters;
        vec![
            ("admitted", counters.sessions_admitted),
            ("refused", counters.sessions_refused),
        ]
    });
    let family = (
        "kvtier_ended_sessions",
        Kind::Counter,
        "Sessions that ended, by how.",
    );
    each_of(writer, tenants, family, "how", |tenant| {
        let counters = &tenant.summary.counters;
        vec![
            ("closed", counters.sessions_closed),
            ("hung-up", counters.sessions_hung_up),
        ]
    });
    let family = (
        "kvtier_cut_off_sessions",
        Kind::Counter,
        "Sessions that broke the protocol; counted under hung-up as well.",
    );
    each(writer, tenants, family, |tenant| tenant.summary.counters.cut_offs);
}
