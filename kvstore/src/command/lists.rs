//! `kvtier tiers`, `devices`, `namespaces` and `sessions`.

use std::fmt::Write;

use kvtier_proto::v1;

use super::Answer;
use super::arguments::{ListOptions, NamespaceOptions};
use super::client::{Client, Trouble, message};
use super::remote_list;
use super::table::{Table, percent, printable, short, time};
use crate::config::format_size;

pub(super) async fn tiers(client: &mut Client, options: &ListOptions) -> Result<Answer, Trouble> {
    let request = client.request(v1::ListTiersRequest {
        tenant: options.tenant.clone(),
    });
    let tiers = message(client.admin.list_tiers(request).await)?;
    Answer::new(options.daemon.json, &tiers, |answer| tier_table(&answer.tiers))
}

/// A line for each tier.
pub(super) fn tier_table(tiers: &[v1::TierStatus]) -> String {
    let titles = [
        "tenant",
        "tier",
        "used",
        "of",
        "usable",
        "full",
        "blocks",
        "hit blocks",
        "came in",
        "left",
        "state",
    ];
    let mut table = Table::new(&titles, "there are no tiers");
    for tier in tiers {
        // How full the remote tier is nobody knows who shares it: `kvtier remote du` counts.
        let is_shared = tier.tier() == v1::Tier::Remote;
        let size = |bytes| {
            if is_shared {
                String::new()
            } else {
                format_size(bytes)
            }
        };
        table.row([
            tier.tenant.clone(),
            tier.tier().name().to_owned(),
            size(tier.used_bytes),
            size(tier.capacity_bytes),
            tier.usable_bytes.map(format_size).unwrap_or_default(),
            percent(tier.used_bytes, tier.capacity_bytes),
            tier.blocks.to_string(),
            tier.hit_blocks.to_string(),
            tier.admitted_blocks.to_string(),
            tier.removed_blocks.values().sum::<u64>().to_string(),
            tier.state.clone(),
        ]);
    }
    table.text()
}

pub(super) async fn devices(client: &mut Client, options: &ListOptions) -> Result<Answer, Trouble> {
    let request = client.request(v1::ListDevicesRequest {
        tenant: options.tenant.clone(),
    });
    let devices = message(client.admin.list_devices(request).await)?;
    Answer::new(options.daemon.json, &devices, |answer| {
        let mut shown: Vec<String> = answer.devices.iter().map(device).collect();
        if shown.is_empty() {
            shown.push("there is no NVMe tier; nvme.directories makes one\n".to_owned());
        }
        shown.extend(answer.remotes.iter().map(remote_list::remote));
        shown.join("\n")
    })
}

pub(super) fn device(device: &v1::DeviceStatus) -> String {
    let mut text = format!(
        "{}  {}  {}",
        device.tenant,
        printable(&device.directory),
        device.state
    );
    if device.writes_suspended {
        text.push_str(", writing has failed and is tried again later");
    }
    if !device.lost_reason.is_empty() {
        let _ = write!(text, ": {}", printable(&device.lost_reason));
    }
    let _ = write!(
        text,
        "\n  {} blocks, {}  segments {} of {} ({} free, {} full) of {}",
        device.blocks,
        format_size(device.used_bytes),
        device.segments,
        device.segments_max,
        device.segments_free,
        device.segments_full,
        format_size(device.segment_bytes)
    );
    let _ = write!(text, "\n  room {}", format_size(device.capacity_bytes));
    if let Some(usable) = device
        .usable_bytes
        .filter(|usable| *usable < device.capacity_bytes)
    {
        let _ = write!(
            text,
            ", of which the file system allows {} now",
            format_size(usable)
        );
    }
    if !device.io.is_empty() {
        let because = |reason: &str| match reason {
            "" => String::new(),
            reason => format!(" ({})", printable(reason)),
        };
        let direct = if device.direct {
            "direct"
        } else {
            "through the page cache"
        };
        let _ = write!(
            text,
            "\n  {}{}, {direct}{}",
            device.io,
            because(&device.io_reason),
            because(if device.direct { "" } else { &device.direct_reason })
        );
    }
    if let Some(catalogue) = &device.catalogue {
        let state = if catalogue.there {
            format_size(catalogue.bytes)
        } else {
            "none".to_owned()
        };
        let _ = write!(
            text,
            "\n  catalogue {state}, {} changes waiting",
            catalogue.waiting
        );
    }
    let damaged: u64 = device.corrupt.values().sum();
    if damaged > 0 {
        let _ = write!(text, "\n  {damaged} damaged blocks found");
    }
    text.push('\n');
    text + &operations(&device.operations)
}

/// A line for each kind.
fn operations(operations: &[v1::OperationStatus]) -> String {
    if operations.is_empty() {
        return String::new();
    }
    let titles = [
        "", "done", "bytes", "failed", "no space", "damaged", "waiting", "now", "p50 us", "p99 us",
    ];
    let mut table = Table::new(&titles, "");
    for operation in operations {
        let latency = |us: Option<u64>| us.map(|us| us.to_string()).unwrap_or_default();
        table.row([
            format!("  {}", operation.kind),
            operation.done.to_string(),
            format_size(operation.bytes),
            operation.failed.to_string(),
            operation.no_space.to_string(),
            operation.corrupt.to_string(),
            operation.waiting.to_string(),
            operation.under_way.to_string(),
            latency(operation.latency_us_p50),
            latency(operation.latency_us_p99),
        ]);
    }
    table.text()
}

pub(super) async fn namespaces(client: &mut Client, options: &NamespaceOptions) -> Result<Answer, Trouble> {
    let request = client.request(v1::ListNamespacesRequest {
        tenant: options.list.tenant.clone(),
        namespace: options.namespace.clone(),
        with_descriptor: !options.namespace.is_empty(),
    });
    let namespaces = message(client.admin.list_namespaces(request).await)?;
    Answer::new(options.list.daemon.json, &namespaces, |answer| {
        let mut text = namespace_table(&answer.namespaces);
        for namespace in &answer.namespaces {
            if !namespace.descriptor.is_empty() {
                let _ = writeln!(text, "\n{}", namespace.namespace);
            }
            for (tag, value) in &namespace.descriptor {
                for line in value.trim_end().lines() {
                    let _ = writeln!(text, "  {:<24} {}", printable(tag), printable(line));
                }
            }
        }
        text
    })
}

/// A line for each; what is of the remote tier only where any of them has to do with it.
fn namespace_table(namespaces: &[v1::NamespaceStatus]) -> String {
    let has_remote = namespaces.iter().any(|namespace| {
        namespace.remote_blocks + namespace.remote_read_bytes + namespace.remote_written_bytes > 0
    });
    let titles: Vec<&str> = [
        &["tenant", "namespace", "engines", "blocks", "host", "nvme"][..],
        if has_remote {
            &["remote", "known there"]
        } else {
            &[]
        },
        &["look-ups", "missed", "hit blocks", "from nvme"],
        if has_remote {
            &["from remote", "read there", "written there"]
        } else {
            &[]
        },
        &["stored"],
    ]
    .concat();
    let mut table = Table::new(&titles, "no engine has stored anything, and none is attached");
    for namespace in namespaces {
        let mut row = vec![
            namespace.tenant.clone(),
            // Whole names are what other commands take; their first digits are, too.
            short(&namespace.namespace),
            namespace.engines.to_string(),
            namespace.blocks.to_string(),
            namespace.host_blocks.to_string(),
            namespace.nvme_blocks.to_string(),
        ];
        if has_remote {
            row.push(namespace.remote_blocks.to_string());
            row.push(format_size(namespace.remote_bytes));
        }
        row.extend([
            namespace.lookups.to_string(),
            percent(namespace.lookups_missed, namespace.lookups),
            namespace.hit_blocks.to_string(),
            percent(namespace.nvme_hit_blocks, namespace.hit_blocks),
        ]);
        if has_remote {
            row.push(percent(namespace.remote_hit_blocks, namespace.hit_blocks));
            row.push(format_size(namespace.remote_read_bytes));
            row.push(format_size(namespace.remote_written_bytes));
        }
        row.push(namespace.published.to_string());
        table.row(row);
    }
    table.text()
}

pub(super) async fn sessions(client: &mut Client, options: &ListOptions) -> Result<Answer, Trouble> {
    let request = client.request(v1::ListSessionsRequest {
        tenant: options.tenant.clone(),
    });
    let sessions = message(client.admin.list_sessions(request).await)?;
    Answer::new(options.daemon.json, &sessions, |answer| {
        let titles = [
            "tenant",
            "session",
            "engine",
            "group",
            "pod",
            "role",
            "pid",
            "uid",
            "attached",
            "namespace",
            "look-ups",
            "waiting",
            "held",
            "leases",
            "leased",
            "oldest",
        ];
        let mut table = Table::new(&titles, "nobody is attached");
        for session in &answer.sessions {
            let role = match session.rank {
                Some(rank) => format!("{} {rank}", session.role),
                None => session.role.clone(),
            };
            table.row([
                session.tenant.clone(),
                session.session.to_string(),
                session.engine_name.clone(),
                short(&session.engine_group),
                session.pod.clone(),
                role,
                session.pid.map(|pid| pid.to_string()).unwrap_or_default(),
                session.uid.to_string(),
                time(session.attached_seconds),
                short(&session.namespace),
                session.lookups.to_string(),
                session.lookups_pending.to_string(),
                session.blocks_held.to_string(),
                session.leases.to_string(),
                session.leased_blocks.to_string(),
                session.lease_oldest_seconds.map(time).unwrap_or_default(),
            ]);
        }
        table.text()
    })
}
