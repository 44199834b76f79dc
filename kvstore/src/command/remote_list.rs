//! A remote tier among the devices.

use std::fmt::Write;

use kvtier_proto::v1;

use super::table::{Table, printable, time};
use crate::config::format_size;

/// What it is, how it is, and what was done there.
pub(super) fn remote(remote: &v1::RemoteStatus) -> String {
    let mut text = format!(
        "{}  {}  {}\n  {} blocks known here, {}  this node is called {}",
        remote.tenant,
        printable(&remote.place),
        printable(&remote.state),
        remote.blocks,
        format_size(remote.known_bytes),
        remote.node
    );
    if remote.sweeps {
        text.push_str(", and sweeps");
    }
    if let (Some(all), Some(free)) = (remote.file_system_bytes, remote.free_bytes) {
        let _ = write!(
            text,
            "\n  file system {}, {} free, of which {} stay free",
            format_size(all),
            format_size(free),
            format_size(remote.reserve_bytes.unwrap_or(0))
        );
    }
    for (what, direction) in [("reading", &remote.read), ("writing", &remote.write)] {
        let Some(direction) = direction else { continue };
        if let Some(ago) = direction.last_error_seconds {
            let _ = write!(
                text,
                "\n  last error when {what}, {} ago: {}",
                time(ago),
                printable(&direction.last_error)
            );
        }
        if direction.outages > 0 {
            let times = if direction.outages == 1 { "time" } else { "times" };
            let _ = write!(
                text,
                "\n  {what} went out of service {} {times}",
                direction.outages
            );
        }
    }
    let damaged: u64 = remote.corrupt.values().sum();
    if damaged > 0 {
        let _ = write!(text, "\n  {damaged} damaged blocks found");
    }
    text.push('\n');
    text + &operations(&remote.operations)
}

fn operations(operations: &[v1::OperationStatus]) -> String {
    let titles = [
        "",
        "done",
        "bytes",
        "there already",
        "missing",
        "failed",
        "damaged",
        "waiting",
        "now",
        "p50 us",
        "p99 us",
    ];
    let mut table = Table::new(&titles, "");
    for operation in operations {
        let latency = |us: Option<u64>| us.map(|us| us.to_string()).unwrap_or_default();
        table.row([
            format!("  {}", operation.kind),
            operation.done.to_string(),
            format_size(operation.bytes),
            operation.already_present.to_string(),
            operation.missing.to_string(),
            operation.failed.to_string(),
            operation.corrupt.to_string(),
            operation.waiting.to_string(),
            operation.under_way.to_string(),
            latency(operation.latency_us_p50),
            latency(operation.latency_us_p99),
        ]);
    }
    table.text()
}

/// The same in a line.
pub(super) fn line(remote: &v1::RemoteStatus) -> String {
    format!(
        "{}: {}, {} blocks known here, {}",
        printable(&remote.place),
        printable(&remote.state),
        remote.blocks,
        format_size(remote.known_bytes)
    )
}
