//! The blocks of all tiers: one record of a cache line each, in chunks that never move.
//!
//! ```text
//!             reserve             all ranks sealed
//!   (no record) ───▶ Filling ──────────────────────▶ Resident
//!        ▲              │ abort, or a session ended    │   ▲ read
//!        ├──────────────┘                              │   │
//!        ├───────────── evicted, no other copy ────────┤   │
//!        │                                             ▼   │
//!        ├──── its copy is reclaimed, bad or lost ── Stored ──▶ Promoting
//!        │                                             ▲        │   │
//!        │                                             └────────┘   │ could not be read
//!        └──────────────────────────────────────────────────────────┘
//! ```
//!
//! `Remote` is as `Stored` for a block whose last known copy is in the remote tier: whatever leaves `Resident`, `Stored`,
//! `Filling` or `Promoting` and would have no record any more goes there if there is such a copy. From there it is fetched
//! (`Promoting`), reserved anew (`Filling`: an engine has computed it again, so it had better be in host memory), or forgotten.
//!
//! Invariants
//! - A record exists exactly while its key is in the table, and as long as there is a copy in any tier.
//! - Only a `Resident` block is held or leased; a leased one is never removed, and neither is one being written elsewhere.
//! - A `Stored` block has a copy on NVMe and no slot. A `Promoting` one has a slot, which belongs to the read.
//! - A `Remote` block has no slot and no copy on NVMe.
//! - A record's descriptor lies beside it and goes with it.
//! - `slot` names one use of one slot, so a hold that remembers it can tell whether its block is still the same.

use kvstore_table::Table;
use kvstore_types::{BlockHash, DescriptorBytes, SlotRef};

use crate::block::descriptors::Descriptors;
use crate::counters::Residency;
use crate::hash::fingerprint;

mod descriptors;
mod search;

pub(crate) use search::Trail;

/// Names a record. Reused after its block is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockIndex(pub(crate) u32);

impl BlockIndex {
    /// No record.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// An interned namespace and one of its groups: 24 bits and 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Space(u32);

impl Space {
    /// The space of `group` in the namespace interned as `namespace`.
    pub(crate) const fn new(namespace: u32, group: u8) -> Self {
        Self((namespace << 8) | group as u32)
    }

    /// The interned namespace.
    pub(crate) const fn namespace(self) -> u32 {
        self.0 >> 8
    }

    /// The group.
    pub(crate) const fn group(self) -> u8 {
        (self.0 & 0xff) as u8
    }

    /// As a number to be mixed into a hash.
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }
}

/// Where a block is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum BlockState {
    /// The record is unused; `link` is the next unused one.
    Vacant,
    /// Reserved; `link` is its filling.
    Filling,
    /// Usable; `link` is the policy's handle.
    Resident,
    /// Being read from NVMe or fetched from the remote tier into its slot; `link` is its promotion.
    Promoting,
    /// On NVMe and not in host memory, whether or not it is in the remote tier too.
    Stored,
    /// Only in the remote tier, as far as is known.
    Remote,
}

/// Which blocks a look-up takes for present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reach {
    /// Resident ones.
    Host = 0,
    /// Those, and the ones on their way.
    Promoting = 1,
    /// Those, and all that are on NVMe.
    Nvme = 2,
    /// Those, and all that are known to be in the remote tier.
    Remote = 3,
}

impl Reach {
    /// Whether a block in this state is present.
    const fn includes(self, state: BlockState) -> bool {
        (state as u8).wrapping_sub(BlockState::Resident as u8) <= self as u8
    }
}

/// Names an extent on NVMe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExtentHandle(pub(crate) u32);

impl ExtentHandle {
    /// No copy on NVMe.
    pub(crate) const NONE: Self = Self(u32::MAX);
}

/// All the engine knows of one block, the places of its copies in other tiers included: one cache line, so a look-up that has found it can hold it for free.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Block {
    pub(crate) hash: BlockHash,
    pub(crate) space: Space,
    pub(crate) slot: SlotRef,
    /// Look-ups that would like it to stay.
    pub(crate) holds: u32,
    /// Leases (and wards of ended sessions) that forbid its removal.
    pub(crate) leases: u32,
    pub(crate) link: u32,
    /// The copy on NVMe.
    pub(crate) extent: ExtentHandle,
    pub(crate) state: BlockState,
    /// Whether a copy is known to be in the remote tier.
    pub(crate) is_remote: bool,
    /// Hits since the policy last looked, at most [`HEAT_MAX`].
    pub(crate) heat: u8,
    /// See [`mark`].
    pub(crate) marks: u8,
}

/// What else is to be known of a block.
pub(crate) mod mark {
    /// Hit since it was written to NVMe, so worth carrying over.
    pub(crate) const HIT: u8 = 1;
    /// Being written to NVMe: its slot is pinned.
    pub(crate) const WRITING: u8 = 2;
    /// In the queue of blocks to be written.
    pub(crate) const QUEUED: u8 = 4;
    /// Being taken by the remote tier: its slot is pinned.
    pub(crate) const STORING: u8 = 8;
    /// In the queue of blocks to be stored in the remote tier.
    pub(crate) const STORE_QUEUED: u8 = 16;
    /// Leaves host memory as soon as the remote tier has taken it.
    pub(crate) const LEAVING: u8 = 32;
    /// An administrator wants it to stay in host memory, and it does.
    pub(crate) const KEPT_IN_HOST: u8 = 64;
    /// The same of its copy on NVMe.
    pub(crate) const KEPT_ON_NVME: u8 = 128;
}

impl Block {
    /// Whether any of these marks is set.
    pub(crate) const fn has(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }

    /// Where its usable copies are.
    pub(crate) fn residency(&self) -> Residency {
        Residency {
            host: self.state == BlockState::Resident,
            nvme: self.extent != ExtentHandle::NONE,
            remote: self.is_remote,
        }
    }

    /// Whether its record stays without a slot.
    pub(crate) fn has_lower_copy(&self) -> bool {
        self.is_remote || self.extent != ExtentHandle::NONE
    }

    /// Whether its slot must stay: somebody reads it, or wants it kept.
    pub(crate) const fn is_busy(&self) -> bool {
        self.leases > 0 || self.has(mark::WRITING | mark::STORING | mark::KEPT_IN_HOST)
    }
}

const _: () = assert!(size_of::<Block>() == 64);

/// Hits beyond this many do not make a block hotter (two bits, as in the S3-FIFO paper).
pub(crate) const HEAT_MAX: u8 = 3;

const CHUNK_BLOCKS: usize = 4096;
const CHUNK_SHIFT: u32 = CHUNK_BLOCKS.trailing_zeros();

const VACANT: Block = Block {
    hash: BlockHash([0; 32]),
    space: Space(0),
    slot: SlotRef {
        page: 0,
        generation: 0,
    },
    holds: 0,
    leases: 0,
    link: u32::MAX,
    extent: ExtentHandle::NONE,
    is_remote: false,
    state: BlockState::Vacant,
    heat: 0,
    marks: 0,
};

/// All records and the table that finds them.
#[derive(Debug)]
pub(crate) struct Blocks {
    chunks: Vec<Box<[Block]>>,
    vacant: u32,
    len: usize,
    /// Those in state `Remote`.
    remote_only: usize,
    table: Table,
    seed: u64,
    descriptors: Descriptors,
}

impl Blocks {
    /// No blocks. `seed` spreads them over the table.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            chunks: Vec::new(),
            vacant: u32::MAX,
            len: 0,
            remote_only: 0,
            table: Table::new(),
            descriptors: Descriptors::default(),
        }
    }

    /// What tables and policies know of a block's name.
    pub(crate) fn print(&self, space: Space, hash: &BlockHash) -> u32 {
        fingerprint(self.seed, space, hash)
    }

    /// How many records there are, vacant ones included: each number below has one.
    pub(crate) fn records(&self) -> u32 {
        number(self.chunks.len() * CHUNK_BLOCKS)
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many are in the remote tier only.
    pub(crate) fn remote_only(&self) -> usize {
        self.remote_only
    }

    /// A block that was in the lower tiers only gets a slot, to be filled or read into.
    pub(crate) fn raise(&mut self, index: BlockIndex, state: BlockState, slot: SlotRef, link: u32) {
        self.remote_only -= usize::from(self.get(index).state == BlockState::Remote);
        let block = self.get_mut(index);
        (block.state, block.slot, block.link) = (state, slot, link);
    }

    /// Makes the table large enough for `blocks` blocks, so that no insertion has to grow it.
    pub(crate) fn reserve(&mut self, blocks: usize) {
        self.table.reserve(blocks);
    }

    /// A record.
    pub(crate) fn get(&self, index: BlockIndex) -> &Block {
        &self.chunks[(index.0 >> CHUNK_SHIFT) as usize][index.0 as usize % CHUNK_BLOCKS]
    }

    /// A record, to be changed.
    pub(crate) fn get_mut(&mut self, index: BlockIndex) -> &mut Block {
        &mut self.chunks[(index.0 >> CHUNK_SHIFT) as usize][index.0 as usize % CHUNK_BLOCKS]
    }

    /// The descriptors of all blocks.
    pub(crate) fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// A block's descriptor, for whoever keeps it.
    pub(crate) fn descriptor(&self, index: BlockIndex) -> Option<DescriptorBytes> {
        self.descriptors.get(index).cloned()
    }

    /// Gives a block a descriptor if it has none. False if that changed nothing.
    pub(crate) fn describe(&mut self, index: BlockIndex, descriptor: Option<&DescriptorBytes>) -> bool {
        debug_assert_ne!(self.get(index).state, BlockState::Vacant);
        let is_new = descriptor.is_some() && self.descriptors.get(index).is_none();
        if is_new {
            self.descriptors.set(index, descriptor.cloned());
        }
        is_new
    }

    /// Finds a block of whatever state.
    pub(crate) fn find(&self, space: Space, hash: &BlockHash) -> Option<BlockIndex> {
        self.table
            .find(self.print(space, hash), |index| {
                self.matches(BlockIndex(index), space, hash)
            })
            .map(BlockIndex)
    }

    /// Adds a block that is not there yet, as `Filling`.
    pub(crate) fn insert(
        &mut self,
        space: Space,
        hash: BlockHash,
        slot: SlotRef,
        filling: u32,
    ) -> BlockIndex {
        self.add(Block {
            hash,
            space,
            slot,
            link: filling,
            state: BlockState::Filling,
            ..VACANT
        })
    }

    /// Adds a block that is not there yet and is in the remote tier only.
    pub(crate) fn insert_remote(&mut self, space: Space, hash: BlockHash) -> BlockIndex {
        self.add(Block {
            hash,
            space,
            is_remote: true,
            state: BlockState::Remote,
            ..VACANT
        })
    }

    /// Adds a block that is not there yet and is on NVMe only. Its extent is set next.
    pub(crate) fn insert_stored(&mut self, space: Space, hash: BlockHash) -> BlockIndex {
        self.add(Block {
            hash,
            space,
            state: BlockState::Stored,
            ..VACANT
        })
    }

    /// A block has no slot any more and stays for its copy on NVMe, or for that in the remote tier.
    pub(crate) fn demote(&mut self, index: BlockIndex) {
        let before = *self.get(index);
        debug_assert!(before.has_lower_copy());
        let state = if before.extent == ExtentHandle::NONE {
            BlockState::Remote
        } else {
            BlockState::Stored
        };
        self.remote_only += usize::from(state == BlockState::Remote);
        self.remote_only -= usize::from(before.state == BlockState::Remote);
        let block = self.get_mut(index);
        *block = Block {
            hash: block.hash,
            space: block.space,
            extent: block.extent,
            is_remote: block.is_remote,
            marks: block.marks & (mark::HIT | mark::KEPT_ON_NVME),
            state,
            ..VACANT
        };
    }

    fn add(&mut self, block: Block) -> BlockIndex {
        if self.vacant == u32::MAX {
            self.add_chunk();
        }
        let index = BlockIndex(self.vacant);
        self.vacant = self.get(index).link;
        let print = self.print(block.space, &block.hash);
        self.remote_only += usize::from(block.state == BlockState::Remote);
        *self.get_mut(index) = block;
        self.table.insert(print, index.0);
        self.len += 1;
        index
    }

    /// Removes a block and gives back what it was.
    pub(crate) fn remove(&mut self, index: BlockIndex) -> Block {
        let block = *self.get(index);
        debug_assert_ne!(block.state, BlockState::Vacant);
        self.remote_only -= usize::from(block.state == BlockState::Remote);
        let print = self.print(block.space, &block.hash);
        self.table.remove(print, index.0);
        self.descriptors.set(index, None);
        let vacant = self.vacant;
        *self.get_mut(index) = Block {
            link: vacant,
            ..VACANT
        };
        self.vacant = index.0;
        self.len -= 1;
        block
    }

    /// Records from this one on, unused ones included.
    pub(crate) fn from(&self, first: u32) -> impl Iterator<Item = (BlockIndex, &Block)> {
        let chunks = self
            .chunks
            .get((first >> CHUNK_SHIFT) as usize..)
            .unwrap_or_default();
        let all = chunks.iter().flat_map(|chunk| chunk.iter());
        let inside = first as usize % CHUNK_BLOCKS;
        let numbered = (first - number(inside)..).zip(all).skip(inside);
        numbered.map(|(index, block)| (BlockIndex(index), block))
    }

    /// Every block there is, for audits.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (BlockIndex, &Block)> {
        let all = self.chunks.iter().flat_map(|chunk| chunk.iter());
        let numbered = (0_u32..)
            .zip(all)
            .map(|(index, block)| (BlockIndex(index), block));
        numbered.filter(|(_, block)| block.state != BlockState::Vacant)
    }

    fn matches(&self, index: BlockIndex, space: Space, hash: &BlockHash) -> bool {
        let block = self.get(index);
        block.hash == *hash && block.space == space
    }

    fn add_chunk(&mut self) {
        let first = self.chunks.len() * CHUNK_BLOCKS;
        let mut chunk = vec![VACANT; CHUNK_BLOCKS].into_boxed_slice();
        for (offset, block) in chunk.iter_mut().enumerate().take(CHUNK_BLOCKS - 1) {
            block.link = number(first + offset + 1);
        }
        self.chunks.push(chunk);
        self.vacant = number(first);
    }
}

fn number(index: usize) -> u32 {
    // A region has at most 2^30 pages, and a block on NVMe takes at least two more and 100 bytes of memory here.
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
