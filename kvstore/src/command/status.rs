//! `kvtier status`.

use std::collections::BTreeMap;
use std::fmt::Write;

use kvtier_proto::v1;

use super::Answer;
use super::arguments::StatusOptions;
use super::client::{Client, Trouble, message};
use super::overview;
use super::table::{Table, time};
use crate::config::format_size;

pub(super) async fn show(client: &mut Client, options: &StatusOptions) -> Result<Answer, Trouble> {
    let request = client.request(v1::GetStatusRequest {});
    let mut status = message(client.admin.get_status(request).await)?;
    if !options.tenant.is_empty() {
        let known: Vec<String> = status
            .tenants
            .iter()
            .map(|tenant| tenant.tenant.clone())
            .collect();
        status.tenants.retain(|tenant| tenant.tenant == options.tenant);
        if status.tenants.is_empty() {
            let known = known.join(", ");
            return Err(Trouble::Usage(format!(
                "--tenant: want one of {known}, got {:?}",
                options.tenant
            )));
        }
    }
    let mut tiers = v1::ListTiersResponse::default();
    if !options.daemon.json && !options.settings && !options.all {
        let request = client.request(v1::ListTiersRequest {
            tenant: options.tenant.clone(),
        });
        tiers = message(client.admin.list_tiers(request).await)?;
    }
    Answer::new(options.daemon.json, &status, |status| {
        if options.settings {
            settings(&status.settings)
        } else if options.all {
            everything(status)
        } else {
            overview::short(status, &tiers.tiers)
        }
    })
}

fn everything(status: &v1::GetStatusResponse) -> String {
    let mut text = overview::head(status);
    for tenant in &status.tenants {
        let draining = if tenant.draining { "  takes no stores" } else { "" };
        let lease = tenant
            .lease_oldest_seconds
            .map_or_else(String::new, |age| format!("  oldest lease {}", time(age)));
        let _ = writeln!(
            text,
            "\ntenant {}  region {}{lease}{draining}",
            tenant.tenant,
            format_size(tenant.region_bytes)
        );
        section(&mut text, "occupancy", &tenant.occupancy);
        section(&mut text, "counters", &tenant.counters);
        for device in &tenant.devices {
            let _ = write!(text, "\nnvme {}", super::lists::device(device));
        }
    }
    if !status.events.is_empty() {
        section(&mut text, "events", &status.events);
    }
    text
}

fn section(text: &mut String, title: &str, numbers: &BTreeMap<String, u64>) {
    let _ = writeln!(text, "\n{title}");
    for (name, value) in numbers {
        let shown = if name.starts_with("bytes") || name.contains("_bytes") {
            format_size(*value)
        } else {
            value.to_string()
        };
        let _ = writeln!(text, "  {name:<32} {shown:>16}");
    }
}

fn settings(settings: &[v1::Setting]) -> String {
    let mut table = Table::new(&["key", "value", "can change while it runs"], "nothing is set");
    for setting in settings {
        let live = if setting.live { "yes" } else { "" };
        table.row([setting.key.clone(), setting.value.clone(), live.to_owned()]);
    }
    table.text()
}
