//! Removals that somebody has not heard of, although they are no longer among the recent changes.
//!
//! A router that does not take what it is sent, or is away, is told everything again afterwards. What is there is in
//! the model; what has gone is only here. Kept only while somebody is behind, and no more than a bound: beyond it the
//! oldest are forgotten and counted, and a router that was away that long may believe in blocks that are gone until it
//! forgets them by itself. It costs a request sent to the wrong node, never wrong bytes.

use std::collections::{BTreeMap, VecDeque};

use kvstore_types::BlockKey;

use super::log::Change;
use super::namespace::TenantIndex;
use super::{Book, Log};

/// A block that is gone.
pub(crate) type Debt = (TenantIndex, BlockKey);

/// Names one who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReaderId(u64);

#[derive(Debug)]
pub(super) struct Debts {
    removals: VecDeque<Debt>,
    capacity: usize,
    /// How far each has come in the announcements.
    readers: BTreeMap<ReaderId, u64>,
    next_reader: u64,
    pub(super) forgotten: u64,
}

impl Debts {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            removals: VecDeque::new(),
            capacity,
            readers: BTreeMap::new(),
            next_reader: 0,
            forgotten: 0,
        }
    }

    /// A change is no longer among the recent ones.
    pub(super) fn fell_out(&mut self, position: u64, change: &Change) {
        let is_missed = self.readers.values().any(|reader| *reader <= position);
        if !is_missed || !change.after.is_empty() {
            return;
        }
        if self.removals.len() >= self.capacity {
            self.removals.pop_front();
            self.forgotten += 1;
        }
        self.removals.push_back((change.tenant, change.key));
    }

    /// Forgets everything once nobody is behind any more.
    fn settle(&mut self, log: &Log) {
        if self.readers.values().all(|reader| *reader >= log.base()) {
            self.removals = VecDeque::new();
        }
    }
}

impl Book {
    /// Somebody listens from now on: what has been removed and was not told stays known until it was.
    pub(crate) fn reader_came(&mut self) -> ReaderId {
        let reader = ReaderId(self.debts.next_reader);
        self.debts.next_reader += 1;
        self.debts.readers.insert(reader, self.announcements.head());
        reader
    }

    /// Nobody listens there any more.
    pub(crate) fn reader_left(&mut self, reader: ReaderId) {
        self.debts.readers.remove(&reader);
        self.debts.settle(&self.announcements);
    }

    /// How far somebody has come.
    pub(crate) fn reader_at(&mut self, reader: ReaderId, position: u64) {
        let known = self.debts.readers.insert(reader, position);
        if known.is_some_and(|known| known < self.announcements.base()) {
            self.debts.settle(&self.announcements);
        }
    }

    /// All removals that are still known: somebody who begins anew, and may know blocks from before, is told them.
    pub(crate) fn debts(&self) -> Vec<Debt> {
        let recent = self.announcements.since(0);
        let recent = recent.filter(|change| change.after.is_empty());
        let old = self.debts.removals.iter().copied();
        old.chain(recent.map(|change| (change.tenant, change.key)))
            .collect()
    }

    /// Removals that are kept for somebody who is behind.
    pub fn debts_kept(&self) -> usize {
        self.debts.removals.len()
    }
}
