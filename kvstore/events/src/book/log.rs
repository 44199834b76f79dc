//! A ring of recent changes, each at a position that is never used again.

use std::collections::VecDeque;

use kvstore_types::{BlockKey, DescriptorBytes, NamespaceId};

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
    /// The same block in other namespaces at that moment, as far as it is announced; empty in a log without such an order.
    pub(crate) twins: Box<[Twin]>,
}

/// A block of the same hash and group in another namespace. Under a name that stands for both namespaces a router takes
/// the two for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Twin {
    pub(crate) tenant: TenantIndex,
    pub(crate) namespace: NamespaceId,
    pub(crate) tiers: TierSet,
    /// Its place in the order of announcements.
    pub(crate) stamp: u64,
}

/// The ring.
#[derive(Debug)]
pub(crate) struct Log {
    changes: VecDeque<Change>,
    /// Position of the oldest change that is kept.
    base: u64,
    /// Twins in all changes.
    twins: usize,
    /// Most changes, and most twins.
    capacity: usize,
}

impl Log {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            changes: VecDeque::new(),
            base: 0,
            twins: 0,
            capacity,
        }
    }

    /// Appends a change. The oldest make room for it, and are handed to `fell_out` with their positions.
    pub(crate) fn push(&mut self, change: Change, mut fell_out: impl FnMut(u64, &Change)) {
        self.twins += change.twins.len();
        self.changes.push_back(change);
        while self.changes.len() > self.capacity || (self.twins > self.capacity && self.changes.len() > 1) {
            let Some(oldest) = self.changes.pop_front() else {
                return;
            };
            self.twins -= oldest.twins.len();
            fell_out(self.base, &oldest);
            self.base += 1;
        }
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
