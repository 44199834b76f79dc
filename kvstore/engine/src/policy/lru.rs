//! Plain LRU, on the `lru` crate.

use lru::LruCache;

use super::{Herd, Policy};
use crate::block::BlockIndex;
use crate::hash::FixedState;

/// Blocks by the time of their last hit.
#[derive(Debug)]
pub(crate) struct Lru {
    order: LruCache<u32, (), FixedState>,
}

impl Lru {
    /// No blocks.
    pub(crate) fn new() -> Self {
        Self {
            order: LruCache::unbounded_with_hasher(FixedState::default()),
        }
    }
}

impl Policy for Lru {
    fn insert(&mut self, block: BlockIndex, _fingerprint: u32) -> u32 {
        self.order.put(block.0, ());
        block.0
    }

    fn touch(&mut self, handle: u32) {
        self.order.promote(&handle);
    }

    fn remove(&mut self, handle: u32) {
        self.order.pop(&handle);
    }

    fn evict(&mut self, herd: &mut dyn Herd, effort: &mut u32) -> Option<BlockIndex> {
        // Each block is looked at once at most: what is passed over goes to the other end.
        for _ in 0..self.order.len() {
            let block = BlockIndex(*self.order.peek_lru()?.0);
            if herd.may_take(block) {
                self.order.pop_lru();
                return Some(block);
            }
            self.order.promote(&block.0);
            *effort = effort.saturating_sub(1);
            if *effort == 0 {
                return None;
            }
        }
        None
    }

    fn len(&self) -> usize {
        self.order.len()
    }
}
