//! The remote tier, as a message.

use kvstore_remote::{Direction, OperationKind, OperationStats, RemoteStats};
use kvstore_types::Corruption;
use kvtier_proto::v1;

use crate::engine_thread::inquiry::Summary;

/// A tenant's remote tier; none: it has none.
pub(super) fn remote(tenant: &str, summary: &Summary) -> Option<v1::RemoteStatus> {
    let view = summary.remote.as_ref()?;
    let (stats, occupancy) = (&view.stats, &summary.occupancy);
    let corrupt = Corruption::ALL.iter().zip(stats.corrupt);
    let room = stats.room.as_ref();
    Some(v1::RemoteStatus {
        tenant: tenant.to_owned(),
        kind: stats.kind.to_owned(),
        place: stats.description.clone(),
        node: stats.node.clone(),
        state: view.state(),
        read: Some(direction(Direction::Read, stats)),
        write: Some(direction(Direction::Write, stats)),
        operations: OperationKind::ALL.map(|kind| operation(kind, stats)).to_vec(),
        blocks: occupancy.remote_blocks,
        known_bytes: occupancy.remote_bytes,
        corrupt: corrupt
            .map(|(kind, count)| (kind.name().to_owned(), count))
            .collect(),
        file_system_bytes: room.map(|room| room.bytes),
        free_bytes: room.map(|room| room.free_bytes),
        reserve_bytes: room.map(|room| room.reserve_bytes),
        sweeps: stats.sweep.is_holder,
    })
}

fn direction(direction: Direction, stats: &RemoteStats) -> v1::RemoteDirection {
    let at = direction as usize;
    let (outage, last) = (stats.outage[at].as_ref(), stats.last_fault[at].as_ref());
    v1::RemoteDirection {
        in_service: stats.in_service[at],
        outage_seconds: outage.map(|outage| outage.since.elapsed().as_secs_f64()),
        outage_cause: outage
            .map(|outage| outage.cause.name().to_owned())
            .unwrap_or_default(),
        outage_text: outage.map(|outage| outage.text.clone()).unwrap_or_default(),
        last_error: last
            .map(|last| format!("{}: {}", last.kind.name(), last.text))
            .unwrap_or_default(),
        last_error_seconds: last.map(|last| last.at.elapsed().as_secs_f64()),
        outages: stats.outages[at],
    }
}

fn operation(kind: OperationKind, all: &RemoteStats) -> v1::OperationStatus {
    let stats: &OperationStats = all.operation(kind);
    let [reads, writes, questions] = [0, 1, 2].map(|lane| (all.waiting[lane], all.under_way[lane]));
    let (waiting, under_way) = match kind {
        OperationKind::Demand => reads,
        OperationKind::Store => writes,
        OperationKind::Lookup => questions,
        // They wait among the others of their lane.
        OperationKind::Prefetch | OperationKind::Delete => (0, 0),
    };
    v1::OperationStatus {
        kind: kind.name().to_owned(),
        done: stats.done,
        bytes: stats.bytes,
        failed: stats.unavailable + stats.timed_out + stats.refused,
        corrupt: stats.corrupt,
        waiting,
        under_way,
        latency_us_p50: stats.latency_us(50),
        latency_us_p99: stats.latency_us(99),
        missing: stats.missing,
        already_present: stats.already_present,
        ..v1::OperationStatus::default()
    }
}
