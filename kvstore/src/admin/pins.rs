//! Pins: what an administrator wants to stay. Beside them, prefixes, which an eviction may name too.

use kvstore_engine::{KeepRefusal, KeepView};
use kvstore_types::{BlockKey, NamespaceId};
use kvtier_proto::v1;
use tonic::Status;
use tracing::info;

use super::access::Caller;
use super::{Shared, TenantDoor};
use crate::engine_thread::inquiry::{Inquiry, Wish};
use crate::logs::AUDIT;

/// Most blocks of a prefix: what one pin may name.
const PREFIX_MAX: usize = 16_384;
/// Blocks that one question names.
pub(super) const BLOCKS_PER_QUESTION: usize = 512;

/// A prefix as far as it is known here.
#[derive(Debug)]
pub(super) struct Prefix {
    /// Its blocks, the end first.
    pub(super) keys: Vec<BlockKey>,
    /// Whether the last of them is the first block of a sequence.
    pub(super) is_whole: bool,
}

/// The prefix that ends with a block.
pub(super) async fn prefix(shared: &Shared, tenant: &TenantDoor, end: BlockKey) -> Result<Prefix, Status> {
    let mut prefix = Prefix {
        keys: Vec::new(),
        is_whole: false,
    };
    let mut next = Some(end);
    while let Some(from) = next {
        let question = |reply| Inquiry::Chain { end: from, reply };
        let chain = shared.ask(tenant, question).await?;
        prefix.keys.extend(chain.keys);
        prefix.is_whole = chain.is_whole;
        next = chain.next;
        if prefix.keys.len() > PREFIX_MAX {
            return Err(Status::invalid_argument(format!(
                "prefix: want at most {PREFIX_MAX} blocks, it has more"
            )));
        }
        tokio::task::yield_now().await;
    }
    if prefix.keys.is_empty() {
        return Err(Status::not_found("prefix: the block is in no tier"));
    }
    Ok(prefix)
}

/// What is to stay.
pub(super) enum Target {
    /// All of a namespace.
    Namespace(NamespaceId),
    /// The prefix that ends with this block.
    Prefix(BlockKey),
}

/// Pins it, one bounded piece after the other.
pub(super) async fn pin(
    shared: &Shared,
    tenant: &TenantDoor,
    caller: Caller,
    target: Target,
) -> Result<v1::PinResponse, Status> {
    let mut response = v1::PinResponse::default();
    let mut notes = vec!["pins end with the daemon, or with `kvtier unpin`"];
    let pin = match target {
        Target::Namespace(namespace) => pin_namespace(shared, tenant, namespace, &mut response).await?,
        Target::Prefix(end) => {
            let prefix = prefix(shared, tenant, end).await?;
            if !prefix.is_whole {
                notes.push(
                    "blocks before these are not here or were stored without descriptors, so they are not pinned",
                );
            }
            pin_blocks(shared, tenant, &prefix.keys, &mut response).await?
        }
    };
    if response.over_share_blocks > 0 {
        notes.push("pin-share has no room for all of it: the rest is treated like anything else");
    }
    info!(
        target: AUDIT,
        uid = caller.uid,
        pid = caller.pid,
        certificate = caller.certificate(),
        tenant = tenant.name,
        pin,
        host_blocks = response.host_blocks,
        nvme_blocks = response.nvme_blocks,
        "audit: blocks were pinned"
    );
    response.explanation = notes.join("; ");
    let views = shared.ask(tenant, Inquiry::Keeps).await?;
    let view = views.iter().find(|view| view.keep == pin);
    response.pin = view.map(|view| status(tenant, view));
    Ok(response)
}

async fn pin_namespace(
    shared: &Shared,
    tenant: &TenantDoor,
    namespace: NamespaceId,
    response: &mut v1::PinResponse,
) -> Result<u64, Status> {
    let mut cursor = 0;
    loop {
        let kept = wish(shared, tenant, Wish::Namespace(namespace, cursor)).await?;
        response.host_blocks += kept.host_blocks;
        response.nvme_blocks += kept.nvme_blocks;
        response.over_share_blocks += kept.over_share_blocks;
        match kept.next {
            Some(next) => cursor = next,
            None => return Ok(kept.keep),
        }
    }
}

async fn pin_blocks(
    shared: &Shared,
    tenant: &TenantDoor,
    keys: &[BlockKey],
    response: &mut v1::PinResponse,
) -> Result<u64, Status> {
    let mut pin = None;
    // The start of the prefix first: without it the rest is worth nothing, if there is not room for all.
    let mut end = keys.len();
    while end > 0 {
        let start = end.saturating_sub(BLOCKS_PER_QUESTION);
        let some = keys[start..end].iter().rev().copied().collect();
        let kept = wish(shared, tenant, Wish::Blocks(pin, some)).await?;
        pin = Some(kept.keep);
        response.host_blocks += kept.host_blocks;
        response.nvme_blocks += kept.nvme_blocks;
        response.over_share_blocks += kept.over_share_blocks;
        end = start;
    }
    pin.ok_or_else(|| Status::internal("a prefix has blocks"))
}

async fn wish(shared: &Shared, tenant: &TenantDoor, wish: Wish) -> Result<kvstore_engine::Kept, Status> {
    let question = |reply| Inquiry::Keep { wish, reply };
    let kept = shared
        .ask(tenant, question)
        .await?
        .map_err(|refusal| refused(&refusal))?;
    // Clients of the same thread get their turn, and a caller that has gone away ends it here.
    tokio::task::yield_now().await;
    Ok(kept)
}

fn refused(refusal: &KeepRefusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        KeepRefusal::TooMany { .. } => Status::resource_exhausted(text),
        KeepRefusal::TooManyBlocks { .. } => Status::invalid_argument(text),
        KeepRefusal::Unknown { .. } => Status::not_found(text),
    }
}

/// All pins of these tenants.
pub(super) async fn list(shared: &Shared, name: &str) -> Result<v1::ListPinsResponse, Status> {
    let mut response = v1::ListPinsResponse::default();
    for (tenant, summary) in shared.summaries(name).await? {
        let views = shared.ask(tenant, Inquiry::Keeps).await?;
        response
            .pins
            .extend(views.iter().map(|view| status(tenant, view)));
        let occupancy = &summary.occupancy;
        let mut share = |tier: v1::Tier, blocks, bytes, bytes_max| {
            response.shares.push(v1::PinShare {
                tenant: tenant.name.clone(),
                tier: tier.into(),
                blocks,
                bytes,
                bytes_max,
            });
        };
        share(
            v1::Tier::Host,
            occupancy.kept_host_blocks,
            occupancy.kept_host_bytes,
            occupancy.kept_host_bytes_max,
        );
        if !summary.devices.is_empty() {
            share(
                v1::Tier::Nvme,
                occupancy.kept_nvme_blocks,
                occupancy.kept_nvme_bytes,
                occupancy.kept_nvme_bytes_max,
            );
        }
    }
    Ok(response)
}

/// Ends a pin, or all.
pub(super) async fn unpin(
    shared: &Shared,
    tenant: &TenantDoor,
    caller: Caller,
    pin: Option<u64>,
) -> Result<v1::UnpinResponse, Status> {
    let pins = if let Some(pin) = pin {
        vec![pin]
    } else {
        let views = shared.ask(tenant, Inquiry::Keeps).await?;
        views.iter().map(|view| view.keep).collect()
    };
    for &pin in &pins {
        while wish(shared, tenant, Wish::End(pin)).await?.next.is_some() {}
        info!(
            target: AUDIT,
            uid = caller.uid,
            pid = caller.pid,
            certificate = caller.certificate(),
            tenant = tenant.name,
            pin,
            "audit: a pin was ended"
        );
    }
    Ok(v1::UnpinResponse {
        pins: pins.len() as u64,
    })
}

fn status(tenant: &TenantDoor, view: &KeepView) -> v1::PinStatus {
    v1::PinStatus {
        tenant: tenant.name.clone(),
        pin: view.keep,
        namespace: view.namespace.map(|id| id.to_string()).unwrap_or_default(),
        prefix: view.block.map(|key| v1::BlockName {
            namespace: key.namespace.to_string(),
            group: u32::from(key.group.0),
            hash: key.hash.to_string(),
        }),
        named_blocks: view.named_blocks,
        ending: view.is_ending,
    }
}
