//! A ring of recent changes, each at a position that is never used again.
//!
//! ```text
//!   gone │ recent, heard by all who listen │ kept
//!        ▲ base                            ▲ tail       ▲ head
//! ```
//!
//! What everybody has heard is let go at once, so that in quiet times the ring is a few changes long and stays in the cache.

use std::collections::VecDeque;

use kvstore_types::{BlockKey, DescriptorBytes, NamespaceId};

use super::namespace::TenantIndex;
use crate::tiers::TierSet;

/// Changes that a ring in which nothing is kept has room for.
const KEPT_ROOM: usize = 4096;

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
    /// Position of the oldest change that somebody could still be told.
    base: u64,
    /// Position of the oldest change that is kept.
    tail: u64,
    /// Twins in all changes that are kept.
    twins: usize,
    /// Most changes, and most twins.
    capacity: usize,
}

impl Log {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            changes: VecDeque::new(),
            base: 0,
            tail: 0,
            twins: 0,
            capacity,
        }
    }

    /// Appends a change. The oldest make room for it, and are handed to `fell_out` with their positions.
    pub(crate) fn push(&mut self, change: Change, mut fell_out: impl FnMut(u64, Change)) {
        self.twins += change.twins.len();
        self.changes.push_back(change);
        self.age();
        while self.tail < self.base || (self.twins > self.capacity && self.changes.len() > 1) {
            let Some((position, oldest)) = self.pop() else {
                return;
            };
            fell_out(position, oldest);
            self.base = self.base.max(self.tail);
        }
    }

    /// A change that nobody listens to and that is not kept.
    pub(crate) fn skip(&mut self) {
        debug_assert!(self.changes.is_empty(), "what is kept is kept without gaps");
        self.tail += 1;
        self.age();
    }

    /// Everybody who listens has heard what is before this position: it is handed to `heard`, and no longer kept.
    pub(crate) fn trim(&mut self, position: u64, mut heard: impl FnMut(u64, Change)) {
        while self.tail < position {
            let Some((position, oldest)) = self.pop() else {
                return;
            };
            heard(position, oldest);
        }
        // One slow listener's backlog should not keep its memory.
        if self.changes.is_empty() {
            self.changes.shrink_to(KEPT_ROOM);
        }
    }

    fn pop(&mut self) -> Option<(u64, Change)> {
        let oldest = self.changes.pop_front()?;
        self.twins -= oldest.twins.len();
        self.tail += 1;
        Some((self.tail - 1, oldest))
    }

    fn age(&mut self) {
        self.base = self.base.max(self.head().saturating_sub(self.capacity as u64));
    }

    /// Position of the oldest change that somebody could still be told: whoever has not come so far has missed something.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Position of the oldest change that is kept.
    pub(crate) fn tail(&self) -> u64 {
        self.tail
    }

    /// Position of the next change.
    pub(crate) fn head(&self) -> u64 {
        self.tail + self.changes.len() as u64
    }

    /// The changes from a position on that are kept, each with its position.
    pub(crate) fn since(&self, position: u64) -> impl Iterator<Item = (u64, &Change)> {
        let from = position.clamp(self.tail, self.head());
        let skipped = usize::try_from(from - self.tail).unwrap_or(usize::MAX);
        (from..).zip(self.changes.range(skipped..))
    }
}
