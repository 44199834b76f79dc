//! The answer to a request for counters: one JSON object.

use std::collections::BTreeSet;
use std::time::Instant;

use kvstore_engine::{Counters, Occupancy};
use serde_json::{Value, json};

macro_rules! numbers {
    ($from:expr; $($name:ident)*) => {
        vec![$((stringify!($name), number($from.$name)),)*]
    };
}

/// Numbers by their names.
pub(crate) type Numbers = Vec<(&'static str, u64)>;

fn number(value: impl TryInto<u64>) -> u64 {
    value.try_into().unwrap_or(u64::MAX)
}

fn object(numbers: Numbers) -> Value {
    let entries = numbers.into_iter();
    Value::Object(
        entries
            .map(|(name, value)| (name.to_owned(), value.into()))
            .collect(),
    )
}

/// What is said about a tenant beside what its engine counts.
#[derive(Clone, Debug)]
pub(super) struct About<'a> {
    pub(super) tenant: &'a str,
    pub(super) region_bytes: u64,
    pub(super) draining: bool,
    pub(super) since: Instant,
    /// Each NVMe device.
    pub(super) nvme: Value,
    /// The remote tier; null if there is none.
    pub(super) remote: Value,
    /// Engines that routers know: where, and by which model.
    pub(super) pods: Value,
    /// What the announcer counts, for all tenants together; null if there is none.
    pub(super) events: Value,
}

/// Each engine that routers know, once, whichever of its sessions said so.
pub(super) fn pods<'a>(sessions: impl Iterator<Item = (&'a str, &'a str)>) -> Value {
    let known: BTreeSet<(&str, &str)> = sessions.filter(|(pod, _)| !pod.is_empty()).collect();
    let known = known
        .into_iter()
        .map(|(pod, model)| json!({ "pod": pod, "model": model }));
    known.collect()
}

/// Renders everything.
pub(super) fn render(about: &About<'_>, now: Instant, counters: &Counters, occupancy: &Occupancy) -> String {
    let oldest = occupancy
        .lease_oldest_since
        .map(|since| now.saturating_duration_since(since).as_secs_f64());
    json!({
        "tenant": about.tenant,
        "daemon_version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": now.saturating_duration_since(about.since).as_secs_f64(),
        "draining": about.draining,
        "region_bytes": about.region_bytes,
        "occupancy": object(occupancy_numbers(occupancy)),
        "lease_oldest_seconds": oldest,
        "counters": object(counter_numbers(counters)),
        "nvme": about.nvme,
        "remote": about.remote,
        "pods": about.pods,
        "events": about.events,
    })
    .to_string()
}

/// What is where at this moment.
pub(crate) fn occupancy_numbers(occupancy: &Occupancy) -> Numbers {
    numbers!(occupancy;
        slots_free slots_filling slots_resident slots_leased slots_quarantined bytes_used arenas_total
        arenas_assigned sessions engine_groups namespaces holds kept_host_blocks kept_host_bytes kept_host_bytes_max
        kept_nvme_blocks kept_nvme_bytes kept_nvme_bytes_max leases leases_quarantined blocks blocks_described descriptor_bytes
        lookups_pending nvme_blocks
        nvme_bytes_used nvme_segments_total nvme_segments_free nvme_segments_full nvme_queue nvme_writes_in_flight
        nvme_reads_in_flight remote_blocks remote_bytes remote_only_blocks remote_queue remote_stores_in_flight
        remote_fetches_in_flight remote_questions_in_flight)
}

/// Everything that only grows.
pub(crate) fn counter_numbers(counters: &Counters) -> Numbers {
    numbers!(counters;
        lookups lookup_blocks hit_blocks hit_tokens lookups_hit lookups_missed lookups_not_ready lookups_over_quota loads
        load_blocks load_bytes load_blocks_lost reserves_granted reserves_present reserves_filling reserves_no_space
        reserves_draining reserves_not_ready descriptors_too_long descriptors_late parts_sealed published published_bytes
        aborted stale reservations_lost
        evicted_for_space evicted_for_watermark removed_on_request removed_arena_moved arenas_moved holds_taken_back
        releases_unknown sessions_admitted sessions_refused sessions_closed sessions_hung_up cut_offs
        events_unknown_session quarantined quarantine_lifted resets
        resets_without_namespace removed_namespace_dropped lookups_pending nvme_written nvme_written_bytes nvme_read
        nvme_read_bytes nvme_hit_blocks nvme_promotions_late nvme_promotions_no_space nvme_promotions_over_bound
        nvme_not_admitted nvme_too_large nvme_write_queue_full nvme_write_stale nvme_write_failed nvme_no_space
        nvme_segments_not_created nvme_read_failed nvme_corrupt_header nvme_corrupt_foreign nvme_corrupt_place
        nvme_corrupt_key nvme_corrupt_payload nvme_corrupt_truncated nvme_reclaimed_segments nvme_reclaimed_blocks
        nvme_carried_over nvme_removed_on_request kept_copies_lost
        nvme_scrubbed nvme_scrubbed_bytes nvme_scrub_corrupt nvme_blocks_loaded nvme_blocks_dropped nvme_blocks_superseded
        nvme_namespaces_dropped nvme_devices_lost nvme_events_unknown
        remote_lookups remote_asked remote_found remote_lookups_late remote_hit_blocks remote_fetched remote_fetched_bytes
        remote_fetch_missing remote_fetch_corrupt remote_fetch_failed remote_fetch_late remote_fetch_refused
        remote_fetch_no_space remote_fetch_over_bound remote_stored remote_stored_bytes remote_store_present
        remote_store_failed remote_store_no_space remote_store_late remote_store_refused remote_store_queue_full remote_store_stale
        remote_not_admitted remote_left_unstored remote_forgotten remote_removed_on_request remote_events_unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of a struct's fields, as its derived `Debug` shows them.
    fn field_names(debug: &str) -> Vec<String> {
        let inner = debug.split_once('{').unwrap().1.rsplit_once('}').unwrap().0;
        inner
            .split(", ")
            .map(|field| field.split(':').next().unwrap().trim().to_owned())
            .collect()
    }

    #[test]
    fn nothing_the_engine_counts_is_left_out() {
        let is_shown = |numbers: &Numbers, name: &str| numbers.iter().any(|(shown, _)| *shown == name);
        let shown = counter_numbers(&Counters::default());
        for name in field_names(&format!("{:?}", Counters::default())) {
            assert!(is_shown(&shown, &name), "counter {name} is not shown");
        }
        let shown = occupancy_numbers(&Occupancy::default());
        for name in field_names(&format!("{:?}", Occupancy::default())) {
            assert!(
                name == "lease_oldest_since" || is_shown(&shown, &name),
                "{name} is not shown"
            );
        }
    }

    #[test]
    fn the_answer_is_json() {
        let now = Instant::now();
        let about = About {
            tenant: "a\"b",
            region_bytes: 5,
            draining: false,
            since: now,
            nvme: json!([]),
            remote: Value::Null,
            pods: json!([]),
            events: Value::Null,
        };
        let text = render(&about, now, &Counters::default(), &Occupancy::default());
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["tenant"], "a\"b");
        assert_eq!(value["occupancy"]["slots_resident"], 0);
        assert_eq!(value["lease_oldest_seconds"], Value::Null);
    }
}
