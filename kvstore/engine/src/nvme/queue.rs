//! Blocks that wait to be written.

use std::collections::VecDeque;

use kvstore_types::SlotRef;

use crate::block::{BlockIndex, BlockState, Blocks, ExtentHandle, mark};

/// First in, first out. An entry whose block has left host memory meanwhile, or has a copy already, is passed over.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue {
    entries: VecDeque<(BlockIndex, SlotRef)>,
}

impl WriteQueue {
    /// How many entries there are, passed-over ones included until they are met.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The first entry.
    pub(crate) fn front(&self) -> Option<(BlockIndex, SlotRef)> {
        self.entries.front().copied()
    }

    /// Adds a resident block.
    pub(crate) fn push(&mut self, blocks: &mut Blocks, block: BlockIndex) {
        let record = blocks.get_mut(block);
        record.marks |= mark::QUEUED;
        self.entries.push_back((block, record.slot));
    }

    /// Takes the first entry, whose block is going to be written.
    pub(crate) fn pop(&mut self, blocks: &mut Blocks) {
        if let Some((block, slot)) = self.entries.pop_front() {
            let record = blocks.get_mut(block);
            if record.state == BlockState::Resident && record.slot == slot {
                record.marks &= !mark::QUEUED;
            }
        }
    }

    /// Passes over entries that are not to be written any more, until one is or `effort` is spent. The answer is how many
    /// were passed over.
    pub(crate) fn skip_stale(&mut self, blocks: &mut Blocks, effort: &mut u32) -> u64 {
        let mut count = 0;
        while let Some((block, slot)) = self.front().filter(|_| *effort > 0) {
            let record = blocks.get(block);
            let is_same = record.state == BlockState::Resident && record.slot == slot;
            if is_same && record.extent == ExtentHandle::NONE && !record.has(mark::WRITING) {
                break;
            }
            self.pop(blocks);
            *effort -= 1;
            count += 1;
        }
        count
    }

    /// Nothing is going to be written.
    pub(crate) fn clear(&mut self, blocks: &mut Blocks) {
        while !self.entries.is_empty() {
            self.pop(blocks);
        }
    }
}
