//! Reads of blocks from NVMe, or from the remote tier, into slots.
//!
//! Invariant: a slot belongs to its read until it has been answered, whoever has stopped waiting.

use kvstore_types::{OperationId, PAGE_BYTES, ReadClass};

use super::extents::Place;
use crate::block::BlockIndex;

/// Where a block comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// From a place on NVMe.
    Nvme(Place),
    /// From the remote tier.
    Remote,
}

/// One read under way.
#[derive(Debug)]
pub(crate) struct Promotion {
    pub(crate) block: BlockIndex,
    pub(crate) source: Source,
    pub(crate) pages: u32,
    pub(crate) operation: OperationId,
    pub(crate) class: ReadClass,
    /// The look-ups that wait for it.
    pub(crate) waiters: Vec<u64>,
    is_live: bool,
}

/// All of them. Entries are reused with their memory.
#[derive(Debug, Default)]
pub(crate) struct Promotions {
    entries: Vec<Promotion>,
    vacant: Vec<u32>,
    /// Bytes of the slots that are being read into.
    pub(crate) bytes: u64,
}

impl Promotions {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.vacant.len()
    }

    /// The number that the next one gets.
    pub(crate) fn next(&self) -> u32 {
        let new = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        self.vacant.last().copied().unwrap_or(new)
    }

    /// Adds a read, under the number that [`next`](Self::next) has told.
    pub(crate) fn add(&mut self, block: BlockIndex, source: Source, pages: u32, operation: OperationId) {
        let promotion = Promotion {
            block,
            source,
            pages,
            operation,
            class: ReadClass::Demand,
            waiters: Vec::new(),
            is_live: true,
        };
        self.bytes += u64::from(pages) * PAGE_BYTES;
        match self.vacant.pop() {
            Some(index) => {
                let entry = &mut self.entries[index as usize];
                let waiters = std::mem::take(&mut entry.waiters);
                *entry = Promotion { waiters, ..promotion };
            }
            None => self.entries.push(promotion),
        }
    }

    /// The read is over. The answer is what it was, without the memory of its waiters, which go to `waiters`.
    pub(crate) fn remove(&mut self, index: u32, waiters: &mut Vec<u64>) -> Option<Promotion> {
        let entry = self.get_mut(index)?;
        waiters.append(&mut entry.waiters);
        entry.is_live = false;
        let (block, source, pages) = (entry.block, entry.source, entry.pages);
        let (operation, class) = (entry.operation, entry.class);
        self.bytes -= u64::from(pages) * PAGE_BYTES;
        self.vacant.push(index);
        Some(Promotion {
            block,
            source,
            pages,
            operation,
            class,
            waiters: Vec::new(),
            is_live: false,
        })
    }

    /// A read.
    pub(crate) fn get(&self, index: u32) -> Option<&Promotion> {
        self.entries.get(index as usize).filter(|entry| entry.is_live)
    }

    /// A read, to be changed.
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Promotion> {
        self.entries.get_mut(index as usize).filter(|entry| entry.is_live)
    }
}
