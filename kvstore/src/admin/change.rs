//! What changes something. Each change is one line in the log, whatever its level: who, what, before, after.

use std::fmt;
use std::time::Duration;

use kvstore_engine::{EvictRange, Evicted};
use kvstore_remote::Removed;
use kvstore_types::{BlockKey, NamespaceId, Tier};
use kvtier_proto::v1;
use tokio::sync::oneshot;
use tonic::Status;
use tracing::info;

use super::access::Caller;
use super::pins::{BLOCKS_PER_QUESTION, Prefix};
use super::{Shared, TenantDoor, Wish, ending, removal};
use crate::engine_thread::command::Command;
use crate::engine_thread::inquiry::Inquiry;
use crate::logs::AUDIT;
use crate::reload::{Grown, Set, SetError, plain};
use crate::text::shortened;

/// What is to leave.
#[derive(Debug)]
pub(super) enum Leaving {
    /// Everything.
    All,
    /// The blocks of a namespace.
    Namespace(NamespaceId),
    /// These blocks.
    Blocks(Vec<BlockKey>),
    /// The blocks of a prefix, from its end. If it is not whole, nobody knows what comes before them.
    Prefix(Prefix),
}

impl fmt::Display for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Namespace(namespace) => write!(f, "{namespace}"),
            Self::Blocks(keys) => write!(f, "{} blocks by name", keys.len()),
            Self::Prefix(prefix) => match prefix.keys.first() {
                Some(end) => write!(f, "{} blocks to {end}", prefix.keys.len()),
                None => f.write_str("nothing"),
            },
        }
    }
}

/// An eviction that goes on piece by piece. Its line is written when it is over, also if its caller went away.
#[derive(Debug)]
struct Eviction<'a> {
    tenant: &'a str,
    caller: Caller,
    leaving: &'a Leaving,
    tier: Option<Tier>,
    is_dry_run: bool,
    is_complete: bool,
    sum: Evicted,
    /// What left the store of the remote tier.
    removed: Removed,
}

impl Eviction<'_> {
    /// Lets what is named leave wherever it is among all records.
    async fn go_through(
        &mut self,
        shared: &Shared,
        tenant: &TenantDoor,
        namespace: Option<NamespaceId>,
    ) -> Result<(), Status> {
        let mut cursor = Some(0);
        while let Some(from) = cursor {
            let range = EvictRange {
                namespace,
                tier: self.tier,
                cursor: from,
                is_dry_run: self.is_dry_run,
            };
            let question = |reply| Inquiry::Evict { range, reply };
            let evicted = shared.ask(tenant, question).await?;
            self.add(&evicted);
            cursor = evicted.next;
            // Clients of the same thread get their turn, and a caller that has gone away ends it here.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Lets these blocks leave.
    async fn take(&mut self, shared: &Shared, tenant: &TenantDoor, keys: &[BlockKey]) -> Result<(), Status> {
        let (tier, is_dry_run, keys) = (self.tier, self.is_dry_run, keys.to_vec());
        let question = |reply| Inquiry::EvictBlocks {
            keys,
            tier,
            is_dry_run,
            reply,
        };
        let evicted = shared.ask(tenant, question).await?;
        self.add(&evicted);
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Removes what is named from the store of the remote tier, for all nodes. What is known of it here goes afterwards.
    async fn remove(&mut self, shared: &Shared, tenant: &TenantDoor) -> Result<(), Status> {
        let remover = removal::remover(shared, tenant).await?;
        let mut pieces = remover.remove(removal::of(self.leaving), self.is_dry_run);
        loop {
            let piece = pieces.recv().await.ok_or_else(ending)?;
            let piece = piece.map_err(|text| removal::failed(&text))?;
            if piece.is_last {
                return Ok(());
            }
            self.removed.blocks += piece.blocks;
            self.removed.bytes += piece.bytes;
        }
    }

    fn add(&mut self, evicted: &Evicted) {
        self.sum.host_blocks += evicted.host_blocks;
        self.sum.nvme_blocks += evicted.nvme_blocks;
        self.sum.busy_blocks += evicted.busy_blocks;
        self.sum.pinned_blocks += evicted.pinned_blocks;
    }
}

impl Drop for Eviction<'_> {
    fn drop(&mut self) {
        if self.is_dry_run {
            return;
        }
        info!(
            target: AUDIT,
            uid = self.caller.uid,
            pid = self.caller.pid,
            certificate = self.caller.certificate(),
            tenant = self.tenant,
            what = %self.leaving,
            tier = self.tier.map_or("all", Tier::name),
            host_blocks = self.sum.host_blocks,
            nvme_blocks = self.sum.nvme_blocks,
            busy_blocks = self.sum.busy_blocks,
            pinned_blocks = self.sum.pinned_blocks,
            remote_blocks = self.removed.blocks,
            remote_bytes = self.removed.bytes,
            complete = self.is_complete,
            "audit: blocks were evicted by request"
        );
    }
}

/// Lets blocks leave, one bounded piece after the other.
pub(super) async fn evict(
    shared: &Shared,
    tenant: &TenantDoor,
    caller: Caller,
    leaving: &Leaving,
    request: &v1::EvictRequest,
) -> Result<v1::EvictResponse, Status> {
    let mut eviction = Eviction {
        tenant: &tenant.name,
        caller,
        leaving,
        tier: tier(request.tier)?,
        is_dry_run: request.dry_run,
        is_complete: false,
        sum: Evicted::default(),
        removed: Removed::default(),
    };
    if eviction.tier == Some(Tier::Remote) {
        eviction.remove(shared, tenant).await?;
    }
    match leaving {
        Leaving::All => eviction.go_through(shared, tenant, None).await?,
        Leaving::Namespace(namespace) => eviction.go_through(shared, tenant, Some(*namespace)).await?,
        // From the end of a prefix, so that what is left of it while this goes on can still be hit.
        Leaving::Blocks(keys) | Leaving::Prefix(Prefix { keys, .. }) => {
            for some in keys.chunks(BLOCKS_PER_QUESTION) {
                eviction.take(shared, tenant, some).await?;
            }
        }
    }
    eviction.is_complete = true;
    let Evicted {
        host_blocks,
        nvme_blocks,
        busy_blocks,
        pinned_blocks,
        ..
    } = eviction.sum;
    Ok(v1::EvictResponse {
        host_blocks,
        nvme_blocks,
        busy_blocks,
        pinned_blocks,
        explanation: explain_eviction(&eviction),
        remote_blocks: eviction.removed.blocks,
        remote_bytes: eviction.removed.bytes,
    })
}

/// The engine's word for it; none if all are meant.
pub(super) fn tier(number: i32) -> Result<Option<Tier>, Status> {
    match v1::Tier::try_from(number) {
        Ok(v1::Tier::Unspecified) => Ok(None),
        Ok(v1::Tier::Host) => Ok(Some(Tier::Host)),
        Ok(v1::Tier::Nvme) => Ok(Some(Tier::Nvme)),
        Ok(v1::Tier::Remote) => Ok(Some(Tier::Remote)),
        Err(_) => Err(Status::invalid_argument(format!(
            "tier: there is no tier {number}"
        ))),
    }
}

fn explain_eviction(eviction: &Eviction<'_>) -> String {
    let mut texts = Vec::new();
    if eviction.is_dry_run {
        texts.push("nothing was evicted: this only counted");
    }
    if eviction.sum.busy_blocks > 0 {
        texts.push("blocks that are leased, being stored, being written or on their way stayed; ask again later for those");
    }
    if eviction.sum.pinned_blocks > 0 {
        texts.push("pinned blocks stayed; end their pins first");
    }
    if let Leaving::Prefix(prefix) = eviction.leaving {
        texts.push(if prefix.is_whole {
            "what builds on the prefix stays and cannot be hit until the prefix is stored again"
        } else {
            "blocks before these are not here or were stored without descriptors"
        });
    }
    if eviction.tier == Some(Tier::Host) {
        texts.push("what was also on NVMe is still there");
    }
    if eviction.tier == Some(Tier::Remote) {
        texts.push(
            "the remote tier belongs to all nodes: all of them miss these from now on, and one that has just seen them there may not \
             store them again for five minutes; what is in memory and on NVMe stays, here and there",
        );
    }
    if eviction.tier.is_none() || eviction.tier == Some(Tier::Nvme) {
        texts.push(
            "their bytes stay on NVMe until their segment is written anew, and a daemon that is killed in the next moments \
             may find some of them again",
        );
    }
    texts.push("engines that are attached go on storing");
    texts.join("; ")
}

/// Changes settings, or says what that would do.
pub(super) async fn set(
    shared: &Shared,
    caller: Caller,
    request: v1::SetRequest,
) -> Result<v1::SetResponse, Status> {
    if request.settings.is_empty() {
        return Err(Status::invalid_argument("settings: want at least one"));
    }
    let (reply, answer) = oneshot::channel();
    let wish = Wish::Set {
        settings: request.settings,
        is_dry_run: request.dry_run,
        reply,
    };
    shared.wishes.send(wish).await.map_err(|_| ending())?;
    let sets = answer
        .await
        .map_err(|_| ending())?
        .map_err(|error| refusal(&error))?;
    if !request.dry_run {
        for Set { difference, .. } in &sets {
            info!(
                target: AUDIT,
                uid = caller.uid,
                pid = caller.pid,
                certificate = caller.certificate(),
                key = difference.key,
                before = plain(&difference.before),
                after = plain(&difference.after),
                "audit: a setting was changed"
            );
        }
    }
    let mut settings = Vec::new();
    for set in sets {
        settings.push(v1::AppliedSetting {
            explanation: set.explanation + &rooms(set.grown).await,
            key: set.difference.key,
            before: set.difference.before,
            after: set.difference.after,
        });
    }
    Ok(v1::SetResponse {
        settings,
        dry_run: request.dry_run,
    })
}

/// What file systems lack for what may come to use more of them. One that does not answer is not waited for.
async fn rooms(grown: Vec<Grown>) -> String {
    const PATIENCE: Duration = Duration::from_secs(2);
    if grown.is_empty() {
        return String::new();
    }
    let look = tokio::task::spawn_blocking(move || -> String {
        let lacks = grown.iter().filter_map(Grown::explain);
        lacks.map(|text| ". ".to_owned() + &text).collect()
    });
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(Ok(text)) => text,
        _ => ". Whether the file systems have room for it they have not said".to_owned(),
    }
}

fn refusal(error: &SetError) -> Status {
    /// What a header of the answer has room for: keys are named as they came.
    const LETTERS_MAX: usize = 2000;
    let text = shortened(&error.to_string(), LETTERS_MAX);
    match error {
        SetError::Problems(_) => Status::invalid_argument(text),
        SetError::NeedsRestart(_) | SetError::DoesNotFit(_) => Status::failed_precondition(text),
    }
}

/// Takes no more stores, and waits until nothing is under way.
pub(super) async fn drain(
    shared: &Shared,
    caller: Caller,
    no_wait: bool,
) -> Result<v1::DrainResponse, Status> {
    info!(
        target: AUDIT,
        uid = caller.uid,
        pid = caller.pid,
        certificate = caller.certificate(),
        "audit: the daemon takes no more stores until it is started again"
    );
    shared
        .readiness
        .wait_for("drained by an administrator: start the daemon again");
    let mut waiting = Vec::new();
    for tenant in shared.tenants() {
        let (quiet, heard) = oneshot::channel();
        tenant.commands.send(Command::Drain { quiet });
        waiting.push(heard);
    }
    if !no_wait {
        for heard in waiting {
            heard.await.map_err(|_| ending())?;
        }
    }
    let mut tenants = Vec::new();
    for (tenant, summary) in shared.summaries("").await? {
        let occupancy = &summary.occupancy;
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        tenants.push(v1::TenantBusy {
            tenant: tenant.name.clone(),
            leases: count(occupancy.leases),
            slots_filling: occupancy.slots_filling,
            nvme_queue: occupancy.nvme_queue,
            nvme_writes_in_flight: occupancy.nvme_writes_in_flight,
            sessions: count(occupancy.sessions),
        });
    }
    let is_quiet = |busy: &v1::TenantBusy| {
        busy.leases == 0 && busy.slots_filling == 0 && busy.nvme_queue == 0 && busy.nvme_writes_in_flight == 0
    };
    Ok(v1::DrainResponse {
        // What waits for devices that write nothing is not waited for.
        quiet: !no_wait || tenants.iter().all(is_quiet),
        tenants,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_that_does_not_exist_is_named() {
        assert_eq!(tier(0).unwrap(), None);
        assert_eq!(tier(v1::Tier::Nvme.into()).unwrap(), Some(Tier::Nvme));
        assert_eq!(tier(77).unwrap_err().message(), "tier: there is no tier 77");
    }
}
