//! `kvtier status`: asks a running daemon for its counters.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use connector_shm::{
    AttachError, AttachRequest, Attachment, Completion, DoorbellError, MessageBuffer, PeerCursorError,
    ReceiveError, Request, Role, SendError, Sleep,
};
use kvstore_types::{EngineGroupId, Tag};
use serde_json::Value;

use crate::config::format_size;
use crate::tenant::error_chain;

const DEADLINE: Duration = Duration::from_secs(5);

/// Why there are no counters.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The daemon did not let us in.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// It could not be asked.
    #[error("could not ask the daemon")]
    Send(#[from] SendError),
    /// Its memory is not sound.
    #[error("the daemon's answer makes no sense")]
    Receive(#[from] ReceiveError),
    /// Its cursors are not sound.
    #[error("the daemon's answer makes no sense")]
    Cursor(#[from] PeerCursorError),
    /// It went away.
    #[error("the daemon went away")]
    Gone(#[from] DoorbellError),
    /// It did not answer.
    #[error("the daemon did not answer within {DEADLINE:?}")]
    TimedOut,
    /// What it said is no JSON.
    #[error("the daemon's answer is no JSON")]
    Json(#[from] serde_json::Error),
}

/// The error with everything that caused it.
pub fn explain(error: &StatusError) -> String {
    error_chain(error)
}

/// Asks the daemon at `socket`.
pub fn fetch(socket: &Path, tenant: &str) -> Result<Value, StatusError> {
    let deadline = Instant::now() + DEADLINE;
    let request = AttachRequest {
        abi_minor: connector_shm::ABI_MINOR,
        tenant: tenant.to_owned(),
        engine_name: "kvtier status".to_owned(),
        role: Role::Observer,
        rank_count: 0,
        engine_group: EngineGroupId([0; 16]),
        fields: Vec::new(),
        rank_fields: Vec::new(),
        groups: Vec::new(),
        request_ring_bytes: 0,
        completion_ring_bytes: 0,
        client_version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        pod: String::new(),
        model: String::new(),
    };
    let mut attachment = Attachment::open(socket, &request, deadline)?;
    let end = &mut attachment.end;
    end.send(&Request::Counters { tag: Tag(1) })?;
    end.notify()?;
    let mut buffer = MessageBuffer::new();
    loop {
        match end.receive(&mut buffer)? {
            Some(Completion::Counters { json, .. }) => {
                let answer = serde_json::from_str(json)?;
                // A daemon that is awake sees this before it is rung, and hangs up: there is an answer all the same.
                let _ = end.send(&Request::Close);
                let _ = end.notify();
                return Ok(answer);
            }
            Some(_) => continue,
            None => {}
        }
        if end.begin_sleep(0)? == Sleep::Go {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StatusError::TimedOut);
            }
            end.doorbell().wait(Some(left))?;
        }
        end.end_sleep();
    }
}

/// The answer as a table for people.
pub fn table(answer: &Value) -> String {
    let mut text = String::new();
    let text_of = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for name in [
        "tenant",
        "daemon_version",
        "uptime_seconds",
        "draining",
        "region_bytes",
        "lease_oldest_seconds",
    ] {
        let value = &answer[name];
        let shown = match value.as_u64() {
            Some(bytes) if name.ends_with("bytes") => format_size(bytes),
            _ => value
                .as_f64()
                .map_or_else(|| text_of(value), |number| format!("{number:.1}")),
        };
        let shown = if value.is_null() { "-".to_owned() } else { shown };
        let _ = writeln!(text, "{name:<34} {shown:>16}");
    }
    for section in ["occupancy", "counters", "events"] {
        if answer[section].is_null() {
            continue;
        }
        let _ = writeln!(text, "\n{section}");
        for (name, value) in answer[section].as_object().into_iter().flatten() {
            let shown = match value.as_u64() {
                Some(bytes) if name.starts_with("bytes") || name.contains("_bytes") => format_size(bytes),
                _ => text_of(value),
            };
            let _ = writeln!(text, "  {name:<32} {shown:>16}");
        }
    }
    if let Some(remote) = answer["remote"].as_object() {
        let _ = writeln!(text, "\nremote");
        for (name, value) in remote {
            show_of_device(&mut text, name, value);
        }
    }
    for device in answer["nvme"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "\nnvme {}", text_of(&device["directory"]));
        for (name, value) in device.as_object().into_iter().flatten() {
            show_of_device(&mut text, name, value);
        }
    }
    text
}

/// The columns of a device's operations: their titles and names.
const OPERATION_COLUMNS: [(&str, &str); 8] = [
    ("done", "done"),
    ("bytes", "bytes"),
    ("failed", "failed"),
    ("no space", "no_space"),
    ("corrupt", "corrupt"),
    ("waiting", "waiting"),
    ("p50 us", "latency_us_p50"),
    ("p99 us", "latency_us_p99"),
];

/// One line for each value of a device, and one for each kind of operation.
fn show_of_device(text: &mut String, name: &str, value: &Value) {
    let shown = match value {
        // Histograms are for machines.
        Value::Null | Value::Array(_) => return,
        Value::String(_) if name == "directory" => return,
        Value::String(words) => words.clone(),
        Value::Object(kinds) if name == "operations" => return show_operations(text, kinds),
        Value::Object(inner) => {
            for (inner_name, value) in inner {
                show_of_device(text, &format!("{name}.{inner_name}"), value);
            }
            return;
        }
        Value::Number(number) => match number.as_u64() {
            Some(bytes) if name.ends_with("bytes") => format_size(bytes),
            Some(count) => count.to_string(),
            None => format!("{:.2}", number.as_f64().unwrap_or_default()),
        },
        Value::Bool(_) => value.to_string(),
    };
    let _ = writeln!(text, "  {name:<32} {shown:>16}");
}

fn show_operations(text: &mut String, kinds: &serde_json::Map<String, Value>) {
    let mut row = |name: &str, cells: &dyn Fn(&(&str, &str)) -> String| {
        let _ = write!(text, "  {name:<10}");
        for column in &OPERATION_COLUMNS {
            let _ = write!(text, " {:>10}", cells(column));
        }
        text.push('\n');
    };
    row("operations", &|(title, _)| (*title).to_owned());
    for (kind, counts) in kinds {
        row(kind, &|(_, name)| match counts[*name].as_u64() {
            Some(bytes) if *name == "bytes" => format_size(bytes),
            Some(count) => count.to_string(),
            None => "-".to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_shows_every_number() {
        let answer = json!({
            "tenant": "default", "daemon_version": "0.1.0", "uptime_seconds": 1.25, "draining": false,
            "region_bytes": 1_073_745_920_u64, "lease_oldest_seconds": null,
            "occupancy": {"slots_free": 7, "bytes_used": 4096}, "counters": {"lookups": 3, "nvme_written_bytes": 8192},
            "nvme": [{
                "directory": "/d/default", "state": "serving", "direct": true, "lost_reason": null,
                "registered_bytes": 2_097_152, "catalogue": {"waiting": 5}, "latency_bounds_us": [100],
                "operations": {"demand": {"done": 9, "bytes": 8192, "latency_us_p99": null}},
            }],
        });
        let text = table(&answer);
        for (name, shown) in [
            ("tenant", "default"),
            ("slots_free", "7"),
            ("bytes_used", "4KiB"),
            ("lookups", "3"),
            ("nvme_written_bytes", "8KiB"),
            ("nvme", "/d/default"),
            ("state", "serving"),
            ("registered_bytes", "2MiB"),
            ("catalogue.waiting", "5"),
            ("demand", "-"),
        ] {
            let line = text
                .lines()
                .find(|line| line.split_whitespace().next() == Some(name))
                .unwrap();
            assert!(line.ends_with(shown), "{line}");
        }
        assert!(
            !text.contains("lost_reason") && !text.contains("latency_bounds_us"),
            "{text}"
        );
    }
}
