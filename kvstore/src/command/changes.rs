//! `kvtier set`, `evict` and `drain`.

use std::fmt::Write;

use kvtier_proto::v1;
use tonic::Code;

use super::Answer;
use super::arguments::{DrainOptions, EvictOptions, SetOptions, TierName};
use super::client::{Client, Trouble, message};
use super::code;
use super::lookup::{whole_name, whole_names};
use super::table::Table;
use crate::config::format_size;

pub(super) async fn set(client: &mut Client, options: &SetOptions) -> Result<Answer, Trouble> {
    let request = client.request(v1::SetRequest {
        settings: options.settings.iter().cloned().collect(),
        dry_run: options.dry_run,
    });
    let set = message(client.admin.set(request).await)?;
    Answer::new(options.daemon.json, &set, |set| {
        if set.settings.is_empty() {
            return "all of it holds already; nothing changes\n".to_owned();
        }
        let mut text = String::new();
        for setting in &set.settings {
            let _ = writeln!(
                text,
                "{}: {} -> {}\n  {}.",
                setting.key, setting.before, setting.after, setting.explanation
            );
        }
        if set.dry_run {
            text.push_str("nothing was changed: this was a dry run\n");
        }
        text
    })
}

pub(super) async fn evict(client: &mut Client, options: &EvictOptions) -> Result<Answer, Trouble> {
    let tier = options.tier.map_or(v1::Tier::Unspecified, v1::Tier::from);
    let blocks = whole_names(client, &options.tenant, &options.key).await?;
    let prefix = whole_name(client, &options.tenant, options.prefix.as_ref()).await?;
    let request = client.request(v1::EvictRequest {
        tenant: options.tenant.clone(),
        namespace: options.namespace.clone().unwrap_or_default(),
        tier: tier.into(),
        all: options.all,
        dry_run: options.dry_run,
        blocks,
        prefix,
    });
    let evicted = message(client.admin.evict(request).await)?;
    Answer::new(options.daemon.json, &evicted, |evicted| {
        let what = if options.dry_run { "would leave" } else { "left" };
        let pinned = match evicted.pinned_blocks {
            0 => String::new(),
            pinned => format!(", {pinned} pinned stayed"),
        };
        if options.tier == Some(TierName::Remote) {
            let what = if options.dry_run { "would be" } else { "were" };
            return format!(
                "{} blocks ({}) {what} removed from the remote tier, for all nodes; {} on their way\n{}\n",
                evicted.remote_blocks,
                format_size(evicted.remote_bytes),
                evicted.busy_blocks,
                evicted.explanation
            );
        }
        format!(
            "{} blocks {what} host memory, {} blocks {what} NVMe, {} in use stayed{pinned}\n{}\n",
            evicted.host_blocks, evicted.nvme_blocks, evicted.busy_blocks, evicted.explanation
        )
    })
}

pub(super) async fn drain(client: &mut Client, options: &DrainOptions) -> Result<Answer, Trouble> {
    let request = client.request(v1::DrainRequest {
        no_wait: options.no_wait,
    });
    let drained = match client.admin.drain(request).await {
        // It takes no more stores all the same; what it waits for is worth showing.
        Err(status)
            if !options.no_wait && matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) =>
        {
            let request = client.request(v1::DrainRequest { no_wait: true });
            message(client.admin.drain(request).await)?
        }
        answer => message(answer)?,
    };
    let is_quiet = drained.quiet || options.no_wait;
    let answer = Answer::new(options.daemon.json, &drained, |drained| {
        let mut table = Table::new(
            &[
                "tenant",
                "leases",
                "being stored",
                "to be written",
                "being written",
                "sessions",
            ],
            "there are no tenants",
        );
        for tenant in &drained.tenants {
            table.row([
                tenant.tenant.clone(),
                tenant.leases.to_string(),
                tenant.slots_filling.to_string(),
                tenant.nvme_queue.to_string(),
                tenant.nvme_writes_in_flight.to_string(),
                tenant.sessions.to_string(),
            ]);
        }
        let state = if drained.quiet {
            "quiet: nothing is under way, and no more is stored until the daemon starts again\n"
        } else {
            "not quiet yet: no more is stored, and this is still under way; `kvtier drain` again waits on\n"
        };
        table.text() + state
    })?;
    Ok(answer.or_code(is_quiet, code::NOT_SO))
}
