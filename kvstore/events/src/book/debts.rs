//! Removals that somebody has not heard of, although they are no longer among the recent changes.
//!
//! A router that does not take what it is sent, or is away, is told everything again afterwards. What is there is in
//! the model; what has gone is only here, once for everybody: each reader has a place in it. Kept only while somebody is
//! behind, and no more than a bound: beyond it the oldest are forgotten and counted, and a router that was away that long
//! may believe in blocks that are gone until it forgets them by itself. It costs a request sent to the wrong node, never
//! wrong bytes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use kvstore_types::BlockKey;

use super::Book;
use super::log::Change;
use super::namespace::TenantIndex;

/// A block that is gone.
pub(crate) type Debt = (TenantIndex, BlockKey);

/// Names one who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReaderId(u64);

/// How far one who listens has come in the announcements.
#[derive(Clone, Debug)]
struct Reader {
    /// The next change that it is told.
    position: u64,
    /// Removals among these changes are told to it beside that, or may have to be told to it again.
    owed: Range<u64>,
}

#[derive(Debug)]
pub(super) struct Debts {
    /// Each with the position it had among the changes; in their order.
    removals: VecDeque<(u64, Debt)>,
    capacity: usize,
    readers: BTreeMap<ReaderId, Reader>,
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
        if !change.after.is_empty() || !self.is_missed(position) {
            return;
        }
        if self.removals.len() >= self.capacity
            && let Some((oldest, _)) = self.removals.pop_front()
        {
            self.forgotten += u64::from(self.is_missed(oldest));
        }
        self.removals.push_back((position, (change.tenant, change.key)));
    }

    /// Whether somebody still has to hear of this change.
    fn is_missed(&self, position: u64) -> bool {
        let mut readers = self.readers.values();
        readers.any(|reader| reader.position <= position || reader.owed.contains(&position))
    }

    /// Forgets what nobody needs any more, from the oldest on.
    fn settle(&mut self) {
        let needs = self.readers.values().map(|reader| {
            let owed = (!reader.owed.is_empty()).then_some(reader.owed.start);
            owed.map_or(reader.position, |owed| owed.min(reader.position))
        });
        let needed = needs.min().unwrap_or(u64::MAX);
        let count = self.removals.partition_point(|(position, _)| *position < needed);
        self.removals.drain(..count);
        if self.removals.is_empty() {
            self.removals = VecDeque::new();
        }
    }
}

impl Book {
    /// Somebody listens from now on: what has been removed and was not told stays known until it was.
    pub(crate) fn reader_came(&mut self) -> ReaderId {
        let reader = ReaderId(self.debts.next_reader);
        self.debts.next_reader += 1;
        self.reader_at(reader, self.announcements.head(), 0..0);
        reader
    }

    /// Nobody listens there any more.
    pub(crate) fn reader_left(&mut self, reader: ReaderId) {
        self.debts.readers.remove(&reader);
        self.debts.settle();
    }

    /// How far somebody has come, and among which earlier changes there are removals that it is owed.
    pub(crate) fn reader_at(&mut self, reader: ReaderId, position: u64, owed: Range<u64>) {
        self.debts.readers.insert(reader, Reader { position, owed });
        if self.debts.removals.front().is_some() {
            self.debts.settle();
        }
    }

    /// Removals among these changes, as far as they are still known: at most so many, and where the next ones are.
    pub(crate) fn removals(&self, among: Range<u64>, count: usize) -> (Vec<Debt>, u64) {
        let old = &self.debts.removals;
        let first = old.partition_point(|(position, _)| *position < among.start);
        let old = old.range(first..).copied();
        let recent_from = among.start.max(self.announcements.base());
        let recent = (recent_from..).zip(self.announcements.since(recent_from));
        let recent = recent.filter(|(_, change)| change.after.is_empty());
        let recent = recent.map(|(position, change)| (position, (change.tenant, change.key)));
        let mut all = old
            .chain(recent)
            .take_while(|(position, _)| *position < among.end);
        let mut next = among.end;
        let mut removals = Vec::new();
        for (position, removal) in all.by_ref() {
            if removals.len() == count {
                next = position;
                break;
            }
            removals.push(removal);
        }
        (removals, next)
    }

    /// Removals that are kept for somebody who is behind.
    pub fn debts_kept(&self) -> usize {
        self.debts.removals.len()
    }
}
