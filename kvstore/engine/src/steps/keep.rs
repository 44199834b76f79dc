//! An administrator wants blocks to stay, or not any longer.
//!
//! Like an eviction this goes piece by piece, from a cursor that the caller carries. A caller that stops in between leaves a
//! wish that is told with the others and can be ended.

use kvstore_types::{BlockKey, DescriptorBytes, NamespaceId};

use crate::block::{BlockIndex, BlockState, Space};
use crate::effect::{Effect, Effects};
use crate::engine::Engine;
use crate::event::KeepAsk;
use crate::nvme::DeviceState;
use crate::pool::{Keep, Keeps};

/// Records looked at in one step.
const LOOKED_AT: u32 = 8192;
/// Blocks that are kept or let go in one step.
const SETTLED: usize = 2048;

/// What one step of keeping, or of letting go, came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Names the wish.
    pub keep: u64,
    /// Where the next step has to begin; none: all is done.
    pub next: Option<u32>,
    /// Copies in host memory that stay.
    pub host_blocks: u64,
    /// Copies on NVMe that stay.
    pub nvme_blocks: u64,
    /// Blocks with a copy that does not, because there is no room left in the share of its tier.
    pub over_share_blocks: u64,
}

/// Why a wish is not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepRefusal {
    /// There are as many as may be.
    #[error("there are {max} pins already; end one first")]
    TooMany {
        /// How many that is.
        max: usize,
    },
    /// It names more blocks than one may.
    #[error("want at most {max} blocks in one pin")]
    TooManyBlocks {
        /// How many that is.
        max: usize,
    },
    /// There is no wish of this number.
    #[error("there is no pin {keep}")]
    Unknown {
        /// The number.
        keep: u64,
    },
}

/// A wish, for whoever lists them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepView {
    /// Names it.
    pub keep: u64,
    /// The namespace, all of it; or that of the last block named.
    pub namespace: Option<NamespaceId>,
    /// The last block named: of a prefix, its end.
    pub block: Option<BlockKey>,
    /// How many blocks are named; 0 for a whole namespace.
    pub named_blocks: u64,
    /// Whether it is being ended, and somebody stopped in between.
    pub is_ending: bool,
}

/// A prefix as far as descriptors tell it, from its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The blocks, the end of the prefix first.
    pub keys: Vec<BlockKey>,
    /// Where to go on, if that was not all.
    pub next: Option<BlockKey>,
    /// Whether the last of `keys` is the first block of a sequence. If not, and there is no `next`, nobody knows what comes
    /// before it: the block is not here, or has no descriptor.
    pub is_whole: bool,
}

impl Engine {
    /// What an administrator wants to stay.
    pub fn keeps(&self) -> impl Iterator<Item = KeepView> {
        self.pool.keeps.entries.iter().map(|(&number, keep)| match keep {
            Keep::Namespace { namespace, ending } => KeepView {
                keep: number,
                namespace: Some(*namespace),
                block: None,
                named_blocks: 0,
                is_ending: ending.is_some(),
            },
            Keep::Blocks(keys) => KeepView {
                keep: number,
                namespace: keys.last().map(|key| key.namespace),
                block: keys.last().copied(),
                named_blocks: keys.len() as u64,
                is_ending: false,
            },
        })
    }

    /// The prefix that ends with a block, at most so many blocks of it. A block that is not here has none.
    pub fn chain(&self, end: &BlockKey, most: usize) -> Chain {
        let mut chain = Chain {
            keys: Vec::new(),
            next: None,
            is_whole: false,
        };
        let Some(namespace) = self.pool.spaces.find(end.namespace) else {
            return chain;
        };
        let space = Space::new(namespace, end.group.0);
        let mut hash = Some(end.hash);
        while let Some(wanted) = hash {
            let key = BlockKey { hash: wanted, ..*end };
            if chain.keys.len() == most {
                chain.next = Some(key);
                return chain;
            }
            let Some(block) = self.pool.blocks.find(space, &wanted) else {
                return chain;
            };
            chain.keys.push(key);
            let descriptor = self.pool.blocks.descriptor(block);
            let Some(Ok(descriptor)) = descriptor.as_ref().map(DescriptorBytes::decode) else {
                return chain;
            };
            hash = descriptor.parent;
        }
        chain.is_whole = true;
        chain
    }

    pub(crate) fn on_keep(&mut self, ask: KeepAsk<'_>, effects: &mut Effects) {
        let answer = match ask {
            KeepAsk::Namespace { namespace, cursor } => self.keep_all_of(namespace, cursor),
            KeepAsk::Blocks { keep, keys } => self.keep_blocks(keep, keys),
            KeepAsk::End { keep } => self.end_keep(keep),
        };
        effects.list.push(Effect::Kept(answer));
    }

    fn keep_all_of(&mut self, namespace: NamespaceId, cursor: u32) -> Result<Kept, KeepRefusal> {
        let keep = match self.pool.keeps.of_namespace(namespace) {
            Some((keep, is_ending)) => {
                if is_ending {
                    let ending = None;
                    let wanted = Keep::Namespace { namespace, ending };
                    self.pool.keeps.entries.insert(keep, wanted);
                }
                keep
            }
            None => self.add_keep(Keep::Namespace {
                namespace,
                ending: None,
            })?,
        };
        Ok(self.sweep(keep, namespace, cursor))
    }

    fn add_keep(&mut self, keep: Keep) -> Result<u64, KeepRefusal> {
        let max = Keeps::MAX;
        if self.pool.keeps.entries.len() >= max {
            return Err(KeepRefusal::TooMany { max });
        }
        Ok(self.pool.keeps.add(keep))
    }

    fn keep_blocks(&mut self, keep: Option<u64>, keys: &[BlockKey]) -> Result<Kept, KeepRefusal> {
        let max = Keeps::BLOCKS_MAX;
        let named = match keep {
            None => 0,
            Some(keep) => match self.pool.keeps.entries.get(&keep) {
                Some(Keep::Blocks(keys)) => keys.len(),
                Some(Keep::Namespace { .. }) | None => return Err(KeepRefusal::Unknown { keep }),
            },
        };
        if named + keys.len() > max {
            return Err(KeepRefusal::TooManyBlocks { max });
        }
        let keep = match keep {
            Some(keep) => keep,
            None => self.add_keep(Keep::Blocks(Vec::new()))?,
        };
        if let Some(Keep::Blocks(named)) = self.pool.keeps.entries.get_mut(&keep) {
            named.extend_from_slice(keys);
        }
        for key in keys {
            self.pool.keeps.name(*key);
        }
        let mut kept = Kept {
            keep,
            ..Kept::default()
        };
        for key in keys {
            self.settle_named(key, &mut kept);
        }
        Ok(kept)
    }

    fn end_keep(&mut self, keep: u64) -> Result<Kept, KeepRefusal> {
        match self.pool.keeps.entries.get_mut(&keep) {
            None => Err(KeepRefusal::Unknown { keep }),
            Some(Keep::Namespace { namespace, ending }) => {
                let (namespace, from) = (*namespace, ending.unwrap_or(0));
                *ending = Some(from);
                let kept = self.sweep(keep, namespace, from);
                if kept.next.is_none() {
                    self.pool.keeps.entries.remove(&keep);
                } else if let Some(Keep::Namespace { ending, .. }) = self.pool.keeps.entries.get_mut(&keep) {
                    *ending = kept.next;
                }
                Ok(kept)
            }
            Some(Keep::Blocks(keys)) => {
                let some = keys.split_off(keys.len().saturating_sub(SETTLED));
                let is_over = keys.is_empty();
                let mut kept = Kept {
                    keep,
                    next: (!is_over).then_some(0),
                    ..Kept::default()
                };
                for key in &some {
                    self.pool.keeps.unname(key);
                }
                for key in &some {
                    self.settle_named(key, &mut kept);
                }
                if is_over {
                    self.pool.keeps.entries.remove(&keep);
                }
                Ok(kept)
            }
        }
    }

    /// Does what is wanted now with some of a namespace's blocks.
    fn sweep(&mut self, keep: u64, namespace: NamespaceId, cursor: u32) -> Kept {
        let mut kept = Kept {
            keep,
            ..Kept::default()
        };
        let Some(namespace) = self.pool.spaces.find(namespace) else {
            return kept;
        };
        let mut blocks = Vec::new();
        for (looked_at, (index, block)) in (0..).zip(self.pool.blocks.from(cursor)) {
            if looked_at == LOOKED_AT || blocks.len() == SETTLED {
                kept.next = Some(index.0);
                break;
            }
            if block.state != BlockState::Vacant && block.space.namespace() == namespace {
                blocks.push(index);
            }
        }
        for block in blocks {
            self.settle(block, &mut kept);
        }
        kept
    }

    fn settle_named(&mut self, key: &BlockKey, kept: &mut Kept) {
        let namespace = self.pool.spaces.find(key.namespace);
        let block =
            namespace.and_then(|index| self.pool.blocks.find(Space::new(index, key.group.0), &key.hash));
        if let Some(block) = block {
            self.settle(block, kept);
        }
    }

    fn settle(&mut self, block: BlockIndex, kept: &mut Kept) {
        let most = self.kept_nvme_bytes_max();
        let one = self.pool.settle_keep(block, most);
        kept.host_blocks += u64::from(one.host);
        kept.nvme_blocks += u64::from(one.nvme);
        kept.over_share_blocks += u64::from(one.is_over_share);
    }

    /// Bytes on NVMe that kept copies may take: no more than half of what reclaiming leaves, or it would not come to an end.
    pub(crate) fn kept_nvme_bytes_max(&self) -> u64 {
        let Some(config) = &self.nvme.config else {
            return 0;
        };
        let devices = self.nvme.devices.iter();
        let usable = devices.filter(|device| device.state != DeviceState::Lost).count() as u64;
        let capacity = usable * u64::from(config.tuning.segments_max) * config.segment_bytes;
        let share = self.config.keep_share.min(config.tuning.watermark_low / 2.0);
        crate::pool::share_of(capacity, share)
    }

    /// A block has got a copy on NVMe.
    pub(crate) fn keep_copy(&mut self, block: BlockIndex) {
        let most = self.kept_nvme_bytes_max();
        self.pool.keep_on_nvme(block, most);
    }
}
