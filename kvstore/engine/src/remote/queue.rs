//! Blocks that wait to be stored in the remote tier.

use std::collections::VecDeque;

use kvstore_types::SlotRef;

use crate::block::{BlockIndex, BlockState, Blocks, mark};

/// First in, first out. An entry whose block has left host memory meanwhile, or is in the remote tier already, is passed over.
#[derive(Debug, Default)]
pub(crate) struct StoreQueue {
    entries: VecDeque<(BlockIndex, SlotRef)>,
}

impl StoreQueue {
    /// How many entries there are, passed-over ones included until they are met.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a resident block.
    pub(crate) fn push(&mut self, blocks: &mut Blocks, block: BlockIndex) {
        let record = blocks.get_mut(block);
        record.marks |= mark::STORE_QUEUED;
        self.entries.push_back((block, record.slot));
    }

    /// The first entry that is still to be stored. Those before it are passed over, as far as `effort` goes, and counted.
    pub(crate) fn front(
        &mut self,
        blocks: &mut Blocks,
        effort: &mut u32,
        stale: &mut u64,
    ) -> Option<BlockIndex> {
        while *effort > 0 {
            let &(block, slot) = self.entries.front()?;
            let record = blocks.get(block);
            let is_same = record.state == BlockState::Resident && record.slot == slot;
            if is_same && !record.is_remote && !record.has(mark::STORING) {
                return Some(block);
            }
            self.pop(blocks);
            *effort -= 1;
            *stale += 1;
        }
        None
    }

    /// Takes the first entry.
    pub(crate) fn pop(&mut self, blocks: &mut Blocks) {
        if let Some((block, slot)) = self.entries.pop_front() {
            let record = blocks.get_mut(block);
            if record.state == BlockState::Resident && record.slot == slot {
                record.marks &= !mark::STORE_QUEUED;
            }
        }
    }
}
