//! What an administrator wants to stay: blocks of a namespace, or named ones.
//!
//! ```text
//!   a copy comes in ─▶ is it wanted? ─▶ does it fit into the share? ─▶ kept: no policy knows it, its arena does not move,
//!                                                                      a reclaim carries it over
//! ```
//!
//! Invariants
//! - A kept copy in host memory is in no policy, so no search meets it, and counts as busy.
//! - Kept copies take at most the share of each tier that the configuration gives them; what is wanted beyond it is
//!   treated like any other block.
//! - What is wanted is names, not copies: a block that comes back is kept again.

use std::collections::{BTreeMap, HashMap};

use kvstore_types::{BlockKey, NamespaceId, PAGE_BYTES};

use super::Pool;
use crate::block::{Block, BlockIndex, BlockState, ExtentHandle, mark};
use crate::hash::FixedState;

/// One wish.
#[derive(Clone, Debug)]
pub(crate) enum Keep {
    /// All blocks of a namespace. One that is ending is wanted no more, and its blocks are being let go: those from this
    /// record on still have to be looked at.
    Namespace {
        namespace: NamespaceId,
        ending: Option<u32>,
    },
    /// These blocks.
    Blocks(Vec<BlockKey>),
}

/// All wishes, and what they come to.
#[derive(Debug, Default)]
pub(crate) struct Keeps {
    pub(crate) entries: BTreeMap<u64, Keep>,
    /// How many wishes name a block.
    names: HashMap<BlockKey, u32, FixedState>,
    last: u64,
    /// Bytes of slots that stay, each with its share of its arena.
    pub(crate) host_bytes: u64,
    pub(crate) host_blocks: u64,
    pub(crate) nvme_bytes: u64,
    pub(crate) nvme_blocks: u64,
}

impl Keeps {
    /// Most wishes at a time.
    pub(crate) const MAX: usize = 64;
    /// Most blocks that one may name.
    pub(crate) const BLOCKS_MAX: usize = 16_384;

    /// Enters a wish.
    pub(crate) fn add(&mut self, keep: Keep) -> u64 {
        self.last += 1;
        self.entries.insert(self.last, keep);
        self.last
    }

    /// The wish for a namespace.
    pub(crate) fn of_namespace(&self, wanted: NamespaceId) -> Option<(u64, bool)> {
        self.entries.iter().find_map(|(&number, keep)| match keep {
            Keep::Namespace { namespace, ending } if *namespace == wanted => Some((number, ending.is_some())),
            Keep::Namespace { .. } | Keep::Blocks(_) => None,
        })
    }

    /// Another wish names a block.
    pub(crate) fn name(&mut self, key: BlockKey) {
        *self.names.entry(key).or_default() += 1;
    }

    /// A wish names a block no more.
    pub(crate) fn unname(&mut self, key: &BlockKey) {
        if let Some(count) = self.names.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                self.names.remove(key);
            }
        }
    }

    /// Whether anybody wants this block to stay.
    pub(crate) fn wants(&self, key: &BlockKey) -> bool {
        !self.entries.is_empty()
            && (self.names.contains_key(key)
                || self
                    .of_namespace(key.namespace)
                    .is_some_and(|(_, ending)| !ending))
    }
}

/// What became of a block that is wanted, in each tier where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) host: bool,
    pub(crate) nvme: bool,
    /// There was no room in the share of a tier where it is.
    pub(crate) is_over_share: bool,
}

impl Pool {
    fn is_wanted(&self, record: &Block) -> bool {
        !self.keeps.entries.is_empty() && self.keeps.wants(&self.key(record))
    }

    /// Bytes of host memory that kept slots may take.
    pub(crate) fn kept_host_bytes_max(&self) -> u64 {
        share_of(
            u64::from(self.arenas.count()) * self.config.arena_bytes,
            self.config.keep_share,
        )
    }

    /// Keeps a resident block that no policy knows, if it is wanted and fits.
    pub(super) fn keep_in_host(&mut self, block: BlockIndex) -> bool {
        let record = *self.blocks.get(block);
        if !self.is_wanted(&record) {
            return false;
        }
        let bytes = self.weight_of(block);
        if self.keeps.host_bytes + bytes > self.kept_host_bytes_max() {
            return false;
        }
        self.keeps.host_bytes += bytes;
        self.keeps.host_blocks += 1;
        self.blocks.get_mut(block).marks |= mark::KEPT_IN_HOST;
        if !record.is_busy() {
            self.arenas.get_mut(self.arenas.arena_of(record.slot)).busy += 1;
        }
        true
    }

    /// A kept block may leave host memory again.
    fn let_go_in_host(&mut self, block: BlockIndex) {
        let weight = self.weight_of(block);
        let record = self.blocks.get_mut(block);
        record.marks &= !mark::KEPT_IN_HOST;
        let (slot, is_busy) = (record.slot, record.is_busy());
        self.keeps.host_bytes -= weight;
        self.keeps.host_blocks -= 1;
        if !is_busy {
            self.arenas.get_mut(self.arenas.arena_of(slot)).busy -= 1;
        }
        self.admit(block);
    }

    /// Keeps the copy on NVMe that a block has just got, if it is wanted and fits into so many bytes.
    pub(crate) fn keep_on_nvme(&mut self, block: BlockIndex, bytes_max: u64) -> bool {
        let record = *self.blocks.get(block);
        let bytes = u64::from(self.pages_of(record.space)) * PAGE_BYTES;
        if !self.is_wanted(&record) || self.keeps.nvme_bytes + bytes > bytes_max {
            return false;
        }
        self.keeps.nvme_bytes += bytes;
        self.keeps.nvme_blocks += 1;
        self.blocks.get_mut(block).marks |= mark::KEPT_ON_NVME;
        true
    }

    /// The copy on NVMe is kept no more, or goes.
    pub(super) fn let_go_on_nvme(&mut self, block: BlockIndex) {
        let space = self.blocks.get(block).space;
        let bytes = u64::from(self.pages_of(space)) * PAGE_BYTES;
        self.keeps.nvme_bytes -= bytes;
        self.keeps.nvme_blocks -= 1;
        self.blocks.get_mut(block).marks &= !mark::KEPT_ON_NVME;
    }

    /// Does what is wanted now with the copies that a block has.
    pub(crate) fn settle_keep(&mut self, block: BlockIndex, nvme_bytes_max: u64) -> Kept {
        let record = *self.blocks.get(block);
        let is_wanted = self.is_wanted(&record);
        let is_resident = record.state == BlockState::Resident;
        let is_stored = record.extent != ExtentHandle::NONE;
        let mut kept = Kept::default();
        if is_resident {
            kept.host = match (is_wanted, record.has(mark::KEPT_IN_HOST)) {
                (true, true) => true,
                (true, false) => {
                    self.leave_policy(block);
                    let kept = self.keep_in_host(block);
                    if !kept {
                        self.admit(block);
                    }
                    kept
                }
                (false, true) => {
                    self.let_go_in_host(block);
                    false
                }
                (false, false) => false,
            };
        }
        if is_stored {
            kept.nvme = match (is_wanted, record.has(mark::KEPT_ON_NVME)) {
                (true, true) => true,
                (true, false) => self.keep_on_nvme(block, nvme_bytes_max),
                (false, true) => {
                    self.let_go_on_nvme(block);
                    false
                }
                (false, false) => false,
            };
        }
        kept.is_over_share = is_wanted && (is_resident && !kept.host || is_stored && !kept.nvme);
        kept
    }

    /// The policy of its class knows a resident block no more.
    pub(super) fn leave_policy(&mut self, block: BlockIndex) {
        let record = self.blocks.get(block);
        let class = self.arenas.get(self.arenas.arena_of(record.slot)).class;
        if let Some(class) = class.and_then(|class| self.classes[class].as_mut()) {
            class.policy.remove(record.link);
        }
    }

    /// Panics where what is kept is not what is counted, or more than may be.
    pub(crate) fn check_keeps(&self) {
        let (mut host, mut nvme) = ((0, 0), (0, 0));
        for (index, block) in self.blocks.iter() {
            if block.has(mark::KEPT_IN_HOST) {
                assert_eq!(
                    block.state,
                    BlockState::Resident,
                    "what is kept in host memory is there"
                );
                host = (host.0 + 1, host.1 + self.weight_of(index));
            }
            if block.has(mark::KEPT_ON_NVME) {
                assert_ne!(block.extent, ExtentHandle::NONE, "what is kept on NVMe is there");
                nvme = (
                    nvme.0 + 1,
                    nvme.1 + u64::from(self.pages_of(block.space)) * PAGE_BYTES,
                );
            }
        }
        let keeps = &self.keeps;
        assert_eq!(
            (keeps.host_blocks, keeps.host_bytes),
            host,
            "what is kept is counted"
        );
        assert_eq!(
            (keeps.nvme_blocks, keeps.nvme_bytes),
            nvme,
            "what is kept is counted"
        );
        assert!(
            keeps.host_bytes <= self.kept_host_bytes_max(),
            "no more is kept than may be"
        );
        let named = keeps.entries.values().map(|keep| match keep {
            Keep::Namespace { .. } => 0,
            Keep::Blocks(keys) => keys.len(),
        });
        let names = keeps.names.values().map(|&count| count as usize);
        assert_eq!(named.sum::<usize>(), names.sum::<usize>(), "names are counted");
    }
}

/// A part of some bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share is not exact to the byte, and is between 0 and 1"
)]
pub(crate) fn share_of(bytes: u64, share: f64) -> u64 {
    (bytes as f64 * share) as u64
}
