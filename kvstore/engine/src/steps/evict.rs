//! Somebody asks for blocks to leave: those of a namespace or all, from one tier or from host memory and NVMe together. What is
//! in the remote tier belongs to all nodes: it is forgotten only where that tier is named, by somebody who has removed it there.
//!
//! Or blocks that are named, as many as one message may name. What an administrator wants kept stays.
//!
//! There may be millions, so this goes piece by piece: each event looks at a bounded number of records from a cursor on
//! and says where the next one has to begin. The engine remembers nothing of it in between, so whoever asks may stop
//! asking at any time. Blocks that come in behind the cursor meanwhile stay.

use std::collections::BTreeSet;

use kvstore_types::Tier;

use crate::block::{Block, BlockIndex, BlockState, ExtentHandle, Space, mark};
use crate::effect::{Effect, Effects, RemovalCause};
use crate::engine::Engine;
use crate::event::{EvictBlocks, EvictRange};
use crate::pool::Out;

/// Records looked at in one step.
const LOOKED_AT: u32 = 8192;
/// Blocks whose copies leave in one step.
const REMOVED: usize = 512;

/// What is to be done with one block.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    block: BlockIndex,
    host: bool,
    nvme: bool,
    remote: bool,
}

/// What an [`EvictRange`] came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Where the next one has to begin; none: all records have been looked at.
    pub next: Option<u32>,
    /// Copies that left host memory, or would leave.
    pub host_blocks: u64,
    /// Copies that left NVMe, or would leave.
    pub nvme_blocks: u64,
    /// Copies in the remote tier that are not known any more, or would not be.
    pub remote_blocks: u64,
    /// Blocks of which something stays, because it is leased, being written, being filled or on its way.
    pub busy_blocks: u64,
    /// Blocks of which something stays because an administrator wants it kept.
    pub pinned_blocks: u64,
}

impl Engine {
    pub(crate) fn on_evict_range(&mut self, ask: &EvictRange, effects: &mut Effects) {
        let (evicted, leaving) = self.choose_leaving(ask);
        self.evict_chosen(evicted, leaving, ask.is_dry_run, effects);
    }

    pub(crate) fn on_evict_blocks(&mut self, ask: &EvictBlocks<'_>, effects: &mut Effects) {
        let found = ask.keys.iter().filter_map(|key| {
            let namespace = self.pool.spaces.find(key.namespace)?;
            self.pool
                .blocks
                .find(Space::new(namespace, key.group.0), &key.hash)
        });
        // Named twice, it still leaves once.
        let blocks: BTreeSet<BlockIndex> = found.collect();
        let (mut evicted, of) = (Evicted::default(), Tiers::of(ask.tier));
        let blocks = blocks.into_iter();
        let leaving = blocks.filter_map(|block| judge(block, self.pool.blocks.get(block), of, &mut evicted));
        let leaving = leaving.collect();
        self.evict_chosen(evicted, leaving, ask.is_dry_run, effects);
    }

    fn evict_chosen(
        &mut self,
        evicted: Evicted,
        leaving: Vec<Leaving>,
        is_dry_run: bool,
        effects: &mut Effects,
    ) {
        if !is_dry_run {
            let out = &mut Out {
                counters: &mut self.counters,
                effects,
            };
            for leaving in leaving {
                let Leaving { block, .. } = leaving;
                let (host, nvme) = (leaving.host, leaving.nvme);
                if leaving.remote {
                    out.counters.remote_removed_on_request += 1;
                    self.pool.drop_remote(block, RemovalCause::Requested, out);
                }
                // The copy on NVMe first: the record goes with the last copy.
                if nvme {
                    out.counters.nvme_removed_on_request += 1;
                    self.pool
                        .drop_copy(&mut self.nvme, block, RemovalCause::Requested, out);
                }
                if host {
                    out.counters.removed_on_request += 1;
                    self.pool.remove_resident(block, RemovalCause::Requested, out);
                }
            }
        }
        effects.list.push(Effect::RangeEvicted(evicted));
    }

    fn choose_leaving(&self, ask: &EvictRange) -> (Evicted, Vec<Leaving>) {
        let (mut evicted, mut leaving) = (Evicted::default(), Vec::new());
        let namespace = ask.namespace.map(|id| self.pool.spaces.find(id));
        if namespace == Some(None) {
            return (evicted, leaving);
        }
        let of = Tiers::of(ask.tier);
        for (looked_at, (index, block)) in (0..).zip(self.pool.blocks.from(ask.cursor)) {
            if looked_at == LOOKED_AT || leaving.len() == REMOVED {
                evicted.next = Some(index.0);
                break;
            }
            let is_named = namespace
                .flatten()
                .is_none_or(|namespace| namespace == block.space.namespace());
            if block.state == BlockState::Vacant || !is_named {
                continue;
            }
            leaving.extend(judge(index, block, of, &mut evicted));
        }
        (evicted, leaving)
    }
}

/// The tiers that are meant.
#[derive(Clone, Copy, Debug)]
struct Tiers {
    host: bool,
    nvme: bool,
    remote: bool,
}

impl Tiers {
    fn of(tier: Option<Tier>) -> Self {
        Self {
            host: tier.is_none_or(|tier| tier == Tier::Host),
            nvme: tier.is_none_or(|tier| tier == Tier::Nvme),
            remote: tier == Some(Tier::Remote),
        }
    }
}

/// What of a block leaves, if anything does; counted with what stays.
fn judge(index: BlockIndex, block: &Block, of: Tiers, evicted: &mut Evicted) -> Option<Leaving> {
    let is_moving = matches!(block.state, BlockState::Filling | BlockState::Promoting);
    let is_resident = block.state == BlockState::Resident;
    let is_kept = of.host && block.has(mark::KEPT_IN_HOST) || of.nvme && block.has(mark::KEPT_ON_NVME);
    let host = of.host && is_resident && !block.is_busy();
    let nvme = of.nvme && !is_moving && block.extent != ExtentHandle::NONE && !block.has(mark::KEPT_ON_NVME);
    let is_kept_in_host = of.host && (is_moving || (is_resident && block.is_busy()));
    let is_coming_to_nvme = of.nvme && (is_moving || block.has(mark::WRITING));
    // What is on its way there or back says what becomes of it when it has arrived.
    let is_under_way = is_moving || block.has(mark::STORING);
    let remote = of.remote && block.is_remote && !is_under_way;
    evicted.remote_blocks += u64::from(remote);
    evicted.host_blocks += u64::from(host);
    evicted.nvme_blocks += u64::from(nvme);
    evicted.pinned_blocks += u64::from(is_kept);
    evicted.busy_blocks += u64::from(!is_kept && (is_kept_in_host || is_coming_to_nvme));
    evicted.busy_blocks += u64::from(of.remote && block.is_remote && is_under_way);
    (host || nvme || remote).then_some(Leaving {
        block: index,
        host,
        nvme,
        remote,
    })
}
