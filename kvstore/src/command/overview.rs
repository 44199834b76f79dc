//! What `kvtier status` shows people: one screen, with what there is and what is wrong. Every number is in `--all` and `--json`.

use std::collections::BTreeMap;
use std::fmt::Write;

use kvtier_proto::v1;

use super::table::{printable, time};
use super::{lists, remote_list};
use crate::config::format_size;

/// Numbers that are zero while all is well, by tenant.
const TROUBLES: [&str; 38] = [
    "slots_quarantined",
    "leases_quarantined",
    "lookups_not_ready",
    "lookups_over_quota",
    "load_blocks_lost",
    "reserves_no_space",
    "reservations_lost",
    "descriptors_too_long",
    "sessions_refused",
    "sessions_hung_up",
    "cut_offs",
    "releases_unknown",
    "events_unknown_session",
    "kept_copies_lost",
    "nvme_promotions_late",
    "nvme_promotions_no_space",
    "nvme_write_queue_full",
    "nvme_write_stale",
    "nvme_write_failed",
    "nvme_no_space",
    "nvme_segments_not_created",
    "nvme_read_failed",
    "nvme_corrupt_header",
    "nvme_corrupt_foreign",
    "nvme_corrupt_place",
    "nvme_corrupt_key",
    "nvme_corrupt_payload",
    "nvme_corrupt_truncated",
    "nvme_blocks_dropped",
    "nvme_devices_lost",
    "remote_lookups_late",
    "remote_fetch_corrupt",
    "remote_fetch_failed",
    "remote_fetch_late",
    "remote_store_failed",
    "remote_store_late",
    "remote_store_refused",
    "remote_store_queue_full",
];
/// The same of what is announced.
const EVENT_TROUBLES: [&str; 6] = [
    "blocks_without_descriptor",
    "blocks_left_out",
    "descriptors_malformed",
    "names_refused",
    "feed_overflows",
    "watchers_lagged",
];
/// Letters of a line.
const WIDTH: usize = 100;

type Numbers = BTreeMap<String, u64>;

/// One line about the daemon.
pub(super) fn head(status: &v1::GetStatusResponse) -> String {
    let ready = if status.ready {
        "ready".to_owned()
    } else {
        format!("not ready: {}", status.waiting_for)
    };
    format!(
        "kvtierd {}  pid {}  up {}  {ready}\n",
        status.version,
        status.pid,
        time(status.uptime_seconds)
    )
}

/// All of it.
pub(super) fn short(status: &v1::GetStatusResponse, tiers: &[v1::TierStatus]) -> String {
    let mut text = head(status);
    text.push('\n');
    text.push_str(&lists::tier_table(tiers));
    for tenant in &status.tenants {
        text.push_str(&of_tenant(tenant));
    }
    text.push_str(&of_events(&status.events));
    text.push_str("\nevery number: --all; live: kvtier top\n");
    text
}

/// What a tenant is about.
fn of_tenant(tenant: &v1::TenantStatus) -> String {
    let at = |name: &str| get(&tenant.occupancy, name);
    let mut text = format!(
        "\ntenant {}  region {}  {} of {} in {}",
        tenant.tenant,
        format_size(tenant.region_bytes),
        many(at("sessions"), "session"),
        many(at("engine_groups"), "engine"),
        many(at("namespaces"), "namespace")
    );
    if let Some(age) = tenant.lease_oldest_seconds {
        let _ = write!(text, "  oldest lease {}", time(age));
    }
    if tenant.draining {
        text.push_str("  takes no stores until it is started again");
    }
    text.push('\n');
    for (title, parts) in lines(tenant) {
        let number = |(number, _): &(u64, &str)| *number;
        if parts.iter().map(number).sum::<u64>() == 0 {
            continue;
        }
        let shown = parts
            .iter()
            .enumerate()
            // The first is what the others are parts of.
            .filter(|(index, part)| *index == 0 || number(part) > 0)
            .map(|(_, (number, what))| format!("{number} {what}"));
        let shown: Vec<String> = shown.collect();
        let _ = writeln!(text, "  {title:<10} {}", shown.join(", "));
    }
    for device in &tenant.devices {
        let _ = writeln!(text, "  {:<10} {}", "nvme", of_device(device));
    }
    if let Some(remote) = &tenant.remote {
        let _ = writeln!(text, "  {:<10} {}", "remote", remote_list::line(remote));
    }
    let all = [&tenant.occupancy, &tenant.counters];
    text.push_str(&troubles(&TROUBLES, |name| {
        all.iter().find_map(|numbers| numbers.get(name)).copied()
    }));
    text
}

/// What happened, and what is under way: a line for each thing there is something to say of.
fn lines(tenant: &v1::TenantStatus) -> [(&'static str, Vec<(u64, &'static str)>); 5] {
    let at = |name: &str| get(&tenant.occupancy, name);
    let count = |name: &str| get(&tenant.counters, name);
    let lookups = vec![
        (count("lookups"), "in all"),
        (count("lookups_hit"), "hit"),
        (count("lookups_missed"), "missed"),
        (count("hit_tokens"), "tokens found"),
        (at("lookups_pending"), "waiting now"),
    ];
    let loads = vec![
        (count("loads"), "in all"),
        (count("load_blocks"), "blocks"),
        (at("leases"), "under way"),
    ];
    let stores = vec![
        (count("published"), "blocks"),
        (count("reserves_present"), "there already"),
        (at("slots_filling"), "being filled"),
        (count("reserves_draining"), "refused while draining"),
    ];
    let pinned = vec![
        (at("kept_host_blocks") + at("kept_nvme_blocks"), "copies"),
        (at("kept_nvme_blocks"), "of them on NVMe"),
    ];
    let queues = vec![
        (at("nvme_queue"), "blocks to be written to NVMe"),
        (at("remote_queue"), "to the remote tier"),
    ];
    [
        ("look-ups", lookups),
        ("loads", loads),
        ("stores", stores),
        ("pinned", pinned),
        ("queues", queues),
    ]
}

fn of_device(device: &v1::DeviceStatus) -> String {
    let mut text = format!("{}: {}", printable(&device.directory), device.state);
    if !device.lost_reason.is_empty() {
        let _ = write!(text, ": {}", printable(&device.lost_reason));
        return text;
    }
    if device.writes_suspended {
        text.push_str(", writing has failed and is tried again later");
    }
    let _ = write!(
        text,
        ", {} of {}",
        format_size(device.used_bytes),
        format_size(device.capacity_bytes)
    );
    if let Some(usable) = device
        .usable_bytes
        .filter(|usable| *usable < device.capacity_bytes)
    {
        let _ = write!(text, " (the file system allows {} now)", format_size(usable));
    }
    let _ = write!(text, ", {}", device.io);
    text
}

fn of_events(events: &Numbers) -> String {
    if events.is_empty() {
        return String::new();
    }
    let mut text = format!(
        "\nevents  {}, {} of {} announced",
        many(get(events, "peers"), "router"),
        get(events, "blocks_announced"),
        many(get(events, "blocks"), "block")
    );
    let unnamed = get(events, "blocks_unnamed");
    if unnamed > 0 {
        let _ = write!(text, " ({unnamed} have no name: see events.identities)");
    }
    for (name, what) in [("relays", "engine that relays"), ("watchers", "watcher")] {
        let number = get(events, name);
        if number > 0 {
            let _ = write!(text, ", {}", many(number, what));
        }
    }
    text.push('\n');
    text + &troubles(&EVENT_TROUBLES, |name| events.get(name).copied())
}

/// What is not zero and should be, on as few lines as hold it.
fn troubles(names: &[&str], number: impl Fn(&str) -> Option<u64>) -> String {
    let shown = names
        .iter()
        .filter_map(|name| Some((name, number(name).filter(|number| *number > 0)?)));
    let shown: Vec<String> = shown.map(|(name, number)| format!("{name} {number}")).collect();
    let mut text = String::new();
    let mut line = String::new();
    for part in shown {
        if line.len() + part.len() > WIDTH {
            let _ = writeln!(text, "{line},");
            line.clear();
        }
        line.push_str(match (text.is_empty(), line.is_empty()) {
            (true, true) => "  to look at ",
            (false, true) => "             ",
            _ => ", ",
        });
        line.push_str(&part);
    }
    if !line.is_empty() {
        let _ = writeln!(text, "{line}");
    }
    text
}

fn get(numbers: &Numbers, name: &str) -> u64 {
    numbers.get(name).copied().unwrap_or(0)
}

fn many(number: u64, what: &str) -> String {
    let (first, rest) = what.split_once(' ').unwrap_or((what, ""));
    let ending = if number == 1 { "" } else { "s" };
    format!("{number} {first}{ending} {rest}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine_thread::counters::{counter_numbers, occupancy_numbers};

    #[test]
    fn every_number_that_is_looked_at_is_one_that_there_is() {
        let counters = counter_numbers(&kvstore_engine::Counters::default());
        let occupancy = occupancy_numbers(&kvstore_engine::Occupancy::default());
        for name in TROUBLES {
            let is_there = counters.iter().chain(&occupancy).any(|(known, _)| *known == name);
            assert!(is_there, "{name}");
        }
        let events = kvstore_events::EventCounters::default().named();
        for name in EVENT_TROUBLES {
            assert!(events.iter().any(|(known, _)| *known == name), "{name}");
        }
    }

    #[test]
    fn what_should_be_zero_is_told_on_as_few_lines_as_hold_it() {
        assert_eq!(troubles(&TROUBLES, |_| Some(0)), "");
        assert_eq!(
            troubles(&TROUBLES, |name| Some(u64::from(name == "cut_offs"))),
            "  to look at cut_offs 1\n"
        );
        let all = troubles(&TROUBLES, |_| Some(7));
        assert!(
            all.lines().count() < 14 && all.lines().all(|line| line.len() <= WIDTH + 15),
            "{all}"
        );
        assert_eq!(all.matches(" 7").count(), TROUBLES.len());
    }
}
