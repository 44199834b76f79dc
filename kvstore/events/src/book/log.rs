//! A ring of recent changes, each at a position that is never used again.

use std::collections::VecDeque;

use kvstore_types::{BlockKey, DescriptorBytes};

use super::namespace::TenantIndex;
use crate::tiers::TierSet;

/// Where a block's copies were and are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) tenant: TenantIndex,
    pub(crate) key: BlockKey,
    pub(crate) before: TierSet,
    pub(crate) after: TierSet,
    /// When the block got its place in the order of announcements; 0 in a log without such an order.
    pub(crate) stamp: u64,
    /// What the block is about; none if nothing is stored.
    pub(crate) descriptor: Option<DescriptorBytes>,
}

/// The ring.
#[derive(Debug)]
pub(crate) struct Log {
    changes: VecDeque<Change>,
    /// Position of the oldest change that is kept.
    base: u64,
    capacity: usize,
}

impl Log {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            changes: VecDeque::new(),
            base: 0,
            capacity,
        }
    }

    /// Appends a change. The oldest makes room for it, and is returned with its position.
    pub(crate) fn push(&mut self, change: Change) -> Option<(u64, Change)> {
        let oldest = if self.changes.len() >= self.capacity {
            self.changes.pop_front()
        } else {
            None
        };
        self.changes.push_back(change);
        let oldest = oldest?;
        self.base += 1;
        Some((self.base - 1, oldest))
    }

    /// Position of the oldest change that is kept.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Position of the next change.
    pub(crate) fn head(&self) -> u64 {
        self.base + self.changes.len() as u64
    }

    /// The changes from a position on; from the oldest if that is gone.
    pub(crate) fn since(&self, position: u64) -> impl Iterator<Item = &Change> {
        let skipped = usize::try_from(position.saturating_sub(self.base)).unwrap_or(usize::MAX);
        self.changes.range(skipped.min(self.changes.len())..)
    }
}
