//! The answer to a request for counters: one JSON object.

use std::time::Instant;

use kvstore_engine::{Counters, Occupancy};
use serde_json::{Map, Value, json};

macro_rules! numbers {
    ($from:expr; $($name:ident)*) => {{
        let mut map = Map::new();
        $(map.insert(stringify!($name).to_owned(), Value::from($from.$name));)*
        Value::Object(map)
    }};
}

/// What is said about a tenant beside what its engine counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    pub(super) tenant: &'a str,
    pub(super) region_bytes: u64,
    pub(super) draining: bool,
    pub(super) since: Instant,
}

/// Renders everything.
pub(super) fn render(about: About<'_>, now: Instant, counters: &Counters, occupancy: &Occupancy) -> String {
    let oldest = occupancy
        .lease_oldest_since
        .map(|since| now.saturating_duration_since(since).as_secs_f64());
    json!({
        "tenant": about.tenant,
        "daemon_version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": now.saturating_duration_since(about.since).as_secs_f64(),
        "draining": about.draining,
        "region_bytes": about.region_bytes,
        "occupancy": occupancy_numbers(occupancy),
        "lease_oldest_seconds": oldest,
        "counters": counter_numbers(counters),
    })
    .to_string()
}

fn occupancy_numbers(occupancy: &Occupancy) -> Value {
    numbers!(occupancy;
        slots_free slots_filling slots_resident slots_leased slots_quarantined bytes_used arenas_total
        arenas_assigned sessions engine_groups namespaces holds leases leases_quarantined)
}

fn counter_numbers(counters: &Counters) -> Value {
    numbers!(counters;
        lookups lookup_blocks hit_blocks hit_tokens lookups_missed lookups_not_ready lookups_over_quota loads
        load_blocks load_blocks_lost reserves_granted reserves_present reserves_filling reserves_no_space
        reserves_draining reserves_not_ready parts_sealed published aborted stale reservations_lost
        evicted_for_space evicted_for_watermark removed_arena_moved arenas_moved holds_taken_back
        releases_unknown sessions_admitted sessions_refused sessions_closed sessions_hung_up cut_offs
        events_unknown_session quarantined quarantine_lifted resets
        resets_without_namespace removed_namespace_dropped)
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
        let shown = counter_numbers(&Counters::default());
        for name in field_names(&format!("{:?}", Counters::default())) {
            assert!(shown.get(&name).is_some(), "counter {name} is not shown");
        }
        let shown = occupancy_numbers(&Occupancy::default());
        for name in field_names(&format!("{:?}", Occupancy::default())) {
            assert!(
                name == "lease_oldest_since" || shown.get(&name).is_some(),
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
        };
        let text = render(about, now, &Counters::default(), &Occupancy::default());
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["tenant"], "a\"b");
        assert_eq!(value["occupancy"]["slots_resident"], 0);
        assert_eq!(value["lease_oldest_seconds"], Value::Null);
    }
}
