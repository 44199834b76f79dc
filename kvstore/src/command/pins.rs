//! `kvtier pin`, `pins` and `unpin`.

use std::fmt::Write;

use kvtier_proto::v1;

use super::Answer;
use super::arguments::{ListOptions, PinOptions, UnpinOptions};
use super::client::{Client, Trouble, message};
use super::lookup::{shown_key, whole_name};
use super::table::{Table, percent, short};
use crate::config::format_size;

pub(super) async fn pin(client: &mut Client, options: &PinOptions) -> Result<Answer, Trouble> {
    let prefix = whole_name(client, &options.tenant, options.prefix.as_ref()).await?;
    let request = client.request(v1::PinRequest {
        tenant: options.tenant.clone(),
        namespace: options.namespace.clone().unwrap_or_default(),
        prefix,
    });
    let pinned = message(client.admin.pin(request).await)?;
    Answer::new(options.daemon.json, &pinned, |pinned| {
        let mut text = format!(
            "pin {}: {} blocks stay in host memory, {} on NVMe",
            pinned.pin.as_ref().map_or(0, |pin| pin.pin),
            pinned.host_blocks,
            pinned.nvme_blocks
        );
        if pinned.over_share_blocks > 0 {
            let _ = write!(
                text,
                "; {} have no room in their tier's share",
                pinned.over_share_blocks
            );
        }
        text + &format!("\n{}\n", pinned.explanation)
    })
}

pub(super) async fn list(client: &mut Client, options: &ListOptions) -> Result<Answer, Trouble> {
    let request = client.request(v1::ListPinsRequest {
        tenant: options.tenant.clone(),
    });
    let pins = message(client.admin.list_pins(request).await)?;
    Answer::new(options.daemon.json, &pins, |pins| {
        let titles = ["tenant", "pin", "namespace", "prefix to", "blocks", "state"];
        let mut table = Table::new(&titles, "nothing is pinned");
        for pin in &pins.pins {
            let end = pin.prefix.as_ref();
            table.row([
                pin.tenant.clone(),
                pin.pin.to_string(),
                short(&pin.namespace),
                end.map_or_else(|| "the whole namespace".to_owned(), shown_key),
                end.map(|_| pin.named_blocks.to_string()).unwrap_or_default(),
                if pin.ending { "being ended" } else { "pinned" }.to_owned(),
            ]);
        }
        let titles = ["tenant", "tier", "pinned blocks", "bytes", "of at most", "full"];
        let mut shares = Table::new(&titles, "there are no tiers");
        for share in &pins.shares {
            shares.row([
                share.tenant.clone(),
                share.tier().name().to_owned(),
                share.blocks.to_string(),
                format_size(share.bytes),
                format_size(share.bytes_max),
                percent(share.bytes, share.bytes_max),
            ]);
        }
        format!("{}\n{}", table.text(), shares.text())
    })
}

pub(super) async fn unpin(client: &mut Client, options: &UnpinOptions) -> Result<Answer, Trouble> {
    let request = client.request(v1::UnpinRequest {
        tenant: options.tenant.clone(),
        pin: options.pin.unwrap_or(0),
        all: options.all,
    });
    let ended = message(client.admin.unpin(request).await)?;
    Answer::new(options.daemon.json, &ended, |ended| {
        format!(
            "{} pins ended; their blocks stay until their turn comes\n",
            ended.pins
        )
    })
}
