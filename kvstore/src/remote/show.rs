//! What is shown of the remote tier.

use kvstore_remote::{Direction, FaultKind, OperationKind, OperationStats, Outage, RemoteStats};
use kvstore_types::Corruption;
use serde_json::{Map, Value, json};

use super::RemoteTier;

/// How many seconds are told one by one.
const MINUTE: u64 = 60;

/// The tier, for those who want more than text.
#[derive(Clone, Debug)]
pub(crate) struct RemoteView {
    /// What it counts itself.
    pub(crate) stats: RemoteStats,
    /// Why it is out of service, by direction; none: it is not.
    pub(crate) reasons: [Option<String>; 2],
}

impl RemoteView {
    /// In one word, or with what is wrong.
    pub(crate) fn state(&self) -> String {
        let parts: Vec<String> = Direction::ALL
            .iter()
            .zip(&self.reasons)
            .filter_map(|(direction, reason)| {
                let reason = reason.as_ref()?;
                let outage = self.stats.outage[*direction as usize].as_ref();
                Some(outage.map_or_else(
                    || format!("{}s out of service: {reason}", direction.name()),
                    |outage| told(*direction, outage),
                ))
            })
            .collect();
        if parts.is_empty() {
            "serving".to_owned()
        } else {
            parts.join("; ")
        }
    }
}

/// What is out of service, for how long, and why.
fn told(direction: Direction, outage: &Outage) -> String {
    let seconds = outage.since.elapsed().as_secs();
    let time = if seconds < 2 * MINUTE {
        format!("{seconds} s")
    } else {
        format!("{} min", seconds / MINUTE)
    };
    let (way, cause, text) = (direction.name(), outage.cause.name(), &outage.text);
    if outage.cause == FaultKind::NoSpace {
        return format!("{way}s stopped for {time}, there is no room: {text}");
    }
    format!("{way}s out of service for {time}: {cause}: {text}")
}

impl RemoteTier {
    /// The tier now; none: there is none.
    pub(crate) fn view(&self) -> Option<RemoteView> {
        self.remote.as_ref().map(|remote| RemoteView {
            stats: remote.stats(),
            reasons: self.reasons.clone(),
        })
    }

    /// The same as one JSON object; null: there is none.
    pub(crate) fn show(&self) -> Value {
        self.view().map_or(Value::Null, |view| show(&view))
    }
}

fn show(view: &RemoteView) -> Value {
    let stats = &view.stats;
    let counts = |names: &mut dyn Iterator<Item = (&'static str, u64)>| -> Map<String, Value> {
        names
            .map(|(name, count)| (name.to_owned(), count.into()))
            .collect()
    };
    let operations: Map<String, Value> = OperationKind::ALL
        .iter()
        .map(|kind| (kind.name().to_owned(), show_operation(stats.operation(*kind))))
        .collect();
    json!({
        "store": stats.description,
        "state": view.state(),
        "operations": operations,
        "waiting": lanes(stats.waiting),
        "under_way": lanes(stats.under_way),
        "faults": counts(&mut FaultKind::ALL.iter().zip(stats.faults).map(|(kind, count)| (kind.name(), count))),
        "corrupt": counts(&mut Corruption::ALL.iter().zip(stats.corrupt).map(|(kind, count)| (kind.name(), count))),
        "retries": stats.retries,
        "outages": directions(stats.outages),
        "outage": outages(&stats.outage),
        "node": stats.node,
        "file_system": stats.room.map(|room| json!({
            "all_bytes": room.bytes,
            "free_bytes": room.free_bytes,
            "reserve_bytes": room.reserve_bytes,
        })),
        "probes_failed": directions(stats.probes_failed),
        "sweep": {
            "holder": stats.sweep.is_holder,
            "sweeps": stats.sweep.sweeps,
            "broken": stats.sweep.broken,
            "blocks_removed": stats.sweep.blocks_removed,
            "removed_bytes": stats.sweep.bytes_removed,
        },
    })
}

fn lanes([reads, writes, questions]: [u64; 3]) -> Value {
    json!({ "reads": reads, "writes": writes, "questions": questions })
}

fn directions([read, write]: [u64; 2]) -> Value {
    json!({ "read": read, "write": write })
}

/// The outages that are going on: cause and length; null in a direction that is in service.
fn outages([read, write]: &[Option<Outage>; 2]) -> Value {
    let show = |outage: &Option<Outage>| {
        outage.as_ref().map(|outage| {
            json!({
                "cause": outage.cause.name(),
                "text": outage.text,
                "seconds": outage.since.elapsed().as_secs(),
            })
        })
    };
    json!({ "read": show(read), "write": show(write) })
}

fn show_operation(stats: &OperationStats) -> Value {
    let answered = stats.done
        + stats.already_present
        + stats.missing
        + stats.corrupt
        + stats.unavailable
        + stats.timed_out
        + stats.refused;
    json!({
        "done": stats.done,
        "bytes": stats.bytes,
        "already_present": stats.already_present,
        "missing": stats.missing,
        "corrupt": stats.corrupt,
        "unavailable": stats.unavailable,
        "timed_out": stats.timed_out,
        "refused": stats.refused,
        "latency_us_mean": stats.latency_us_sum.checked_div(answered),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_says_which_way_is_out_of_service_and_why() {
        let view = |read: Option<&str>, write: Option<&str>| RemoteView {
            stats: RemoteStats::default(),
            reasons: [read, write].map(|reason| reason.map(str::to_owned)),
        };
        assert_eq!(view(None, None).state(), "serving");
        assert_eq!(
            view(None, Some("denied")).state(),
            "writes out of service: denied"
        );
        assert_eq!(
            view(Some("a"), Some("b")).state(),
            "reads out of service: a; writes out of service: b"
        );
        let mut known = view(Some("a"), Some("b"));
        let outage = |cause, text: &str| {
            Some(Outage {
                cause,
                text: text.to_owned(),
                since: std::time::Instant::now(),
            })
        };
        known.stats.outage = [
            outage(FaultKind::Stalled, "no answer in time"),
            outage(FaultKind::NoSpace, "1 MiB free, want 2 MiB"),
        ];
        assert_eq!(
            known.state(),
            "reads out of service for 0 s: stalled: no answer in time; writes stopped for 0 s, there is no room: 1 MiB free, \
             want 2 MiB"
        );
    }
}
