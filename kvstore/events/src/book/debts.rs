//! Removals that somebody has not heard of, although they are no longer among the recent changes.
//!
//! A router that does not take what it is sent, or is away, is told everything again afterwards. What is there is in
//! the model; what has gone is only among the recent changes and here, once for everybody: each reader has a place in it. Kept only while somebody is
//! behind, and no more than a bound: beyond it the oldest are forgotten and counted, and a router that was away that long
//! may believe in blocks that are gone until it forgets them by itself. It costs a request sent to the wrong node, never
//! wrong bytes.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use kvstore_types::{BlockKey, Tier};

use super::Book;
use super::log::Change;
use super::namespace::TenantIndex;
use crate::tiers::TierSet;

/// A block that is gone, or gone from the remote tier alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Debt {
    pub(crate) tenant: TenantIndex,
    pub(crate) key: BlockKey,
    /// Where the last copies were.
    pub(crate) lost: TierSet,
    /// There is none left in any tier.
    pub(crate) is_gone: bool,
}

impl Debt {
    /// What has to be remembered of a change. That a block which is still there has left a tier is told as the block itself is,
    /// except under a name that several nodes share: there only what this one has lost is its to take back.
    fn of(tenant: TenantIndex, key: BlockKey, before: TierSet, after: TierSet) -> Option<Self> {
        let lost = before.without(after);
        let is_gone = after.is_empty();
        (is_gone || lost.contains(Tier::Remote)).then_some(Self {
            tenant,
            key,
            lost,
            is_gone,
        })
    }

    fn of_change(change: &Change) -> Option<Self> {
        Self::of(change.tenant, change.key, change.before, change.after)
    }
}

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
    /// It is told changes as they come. Otherwise it is told everything from the start once it comes back.
    listens: bool,
}

#[derive(Debug)]
pub(super) struct Debts {
    /// Each with the position it had among the changes; in their order.
    removals: VecDeque<(u64, Debt)>,
    /// The same of recent changes that everybody who listens has heard: what was sent may not have arrived.
    recent: VecDeque<(u64, Debt)>,
    capacity: usize,
    readers: BTreeMap<ReaderId, Reader>,
    /// Version of the topics as of which each has nothing left to take back under a name that is gone.
    withdrawn: BTreeMap<ReaderId, u64>,
    /// Somebody is told changes as they come.
    pub(super) is_listened_to: bool,
    next_reader: u64,
    pub(super) forgotten: u64,
}

impl Debts {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            removals: VecDeque::new(),
            recent: VecDeque::new(),
            capacity,
            readers: BTreeMap::new(),
            withdrawn: BTreeMap::new(),
            is_listened_to: false,
            next_reader: 0,
            forgotten: 0,
        }
    }

    /// A recent change has been heard by all who listen, or is heard by nobody.
    pub(super) fn heard(
        &mut self,
        position: u64,
        (tenant, key): (TenantIndex, BlockKey),
        before: TierSet,
        after: TierSet,
    ) {
        if let Some(debt) = Debt::of(tenant, key, before, after) {
            self.recent.push_back((position, debt));
        }
    }

    /// A change that somebody has not heard is no longer among the recent ones.
    pub(super) fn fell_out(&mut self, position: u64, change: &Change) {
        self.age(position);
        if let Some(debt) = Debt::of_change(change) {
            self.keep(position, debt);
        }
    }

    /// Changes before this position are no longer recent.
    pub(super) fn age(&mut self, base: u64) {
        while let Some((position, removal)) = self.recent.pop_front_if(|(position, _)| *position < base) {
            self.keep(position, removal);
        }
    }

    /// Keeps a removal if somebody still has to hear of it.
    fn keep(&mut self, position: u64, removal: Debt) {
        if !self.is_missed(position) {
            return;
        }
        if self.removals.len() >= self.capacity
            && let Some((oldest, _)) = self.removals.pop_front()
        {
            self.forgotten += u64::from(self.is_missed(oldest));
        }
        self.removals.push_back((position, removal));
    }

    /// Everybody who listens has heard the changes before this position; none if nobody does.
    fn heard_by_all(&self) -> Option<u64> {
        let listening = self.readers.values().filter(|reader| reader.listens);
        listening.map(|reader| reader.position).min()
    }

    /// Whether somebody still has to hear of this change.
    fn is_missed(&self, position: u64) -> bool {
        let mut readers = self.readers.values();
        readers.any(|reader| reader.position <= position || reader.owed.contains(&position))
    }

    /// The first change that somebody may still have to be told of.
    fn needed(&self) -> u64 {
        let needs = self.readers.values().map(|reader| {
            let owed = (!reader.owed.is_empty()).then_some(reader.owed.start);
            owed.map_or(reader.position, |owed| owed.min(reader.position))
        });
        needs.min().unwrap_or(u64::MAX)
    }

    /// Forgets what nobody needs any more, from the oldest on.
    fn settle(&mut self) {
        let needed = self.needed();
        let count = self.removals.partition_point(|(position, _)| *position < needed);
        self.removals.drain(..count);
        if self.removals.is_empty() {
            self.removals = VecDeque::new();
        }
    }
}

impl Book {
    /// Somebody is there from now on: what has been removed and was not told stays known until it was.
    pub(crate) fn reader_came(&mut self) -> ReaderId {
        let reader = ReaderId(self.debts.next_reader);
        self.debts.next_reader += 1;
        self.reader_at(reader, self.announcements.head(), 0..0, false);
        reader
    }

    /// Nobody is there any more.
    pub(crate) fn reader_left(&mut self, reader: ReaderId) {
        self.debts.readers.remove(&reader);
        self.debts.withdrawn.remove(&reader);
        self.inheritance_told(reader, false);
        self.debts.settle();
        self.let_go();
    }

    /// How far somebody has come, among which earlier changes there are removals that it is owed, and whether it is told changes as
    /// they come.
    pub(crate) fn reader_at(&mut self, reader: ReaderId, position: u64, owed: Range<u64>, listens: bool) {
        let place = Reader {
            position,
            owed,
            listens,
        };
        self.debts.readers.insert(reader, place);
        if self.debts.removals.front().is_some() {
            self.debts.settle();
        }
        self.let_go();
    }

    /// Keeps of what everybody has heard only what has gone.
    fn let_go(&mut self) {
        let heard = self.debts.heard_by_all();
        self.debts.is_listened_to = heard.is_some();
        let heard = heard.unwrap_or(self.announcements.head());
        let debts = &mut self.debts;
        self.announcements.trim(heard, |position, change| {
            debts.heard(position, (change.tenant, change.key), change.before, change.after);
        });
    }

    /// Removals among these changes, as far as they are still known: at most so many, and where the next ones are.
    pub(crate) fn removals(&self, among: Range<u64>, count: usize) -> (Vec<Debt>, u64) {
        let from = |kept: &VecDeque<(u64, Debt)>| {
            let first = kept.partition_point(|(position, _)| *position < among.start);
            first..kept.len()
        };
        let (old, recent) = (&self.debts.removals, &self.debts.recent);
        let kept = old.range(from(old)).chain(recent.range(from(recent))).copied();
        let unheard = self.announcements.since(among.start);
        let unheard = unheard.filter_map(|(position, change)| Some((position, Debt::of_change(change)?)));
        let mut all = kept
            .chain(unheard)
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

    /// As of this version of the topics it has nothing left to take back.
    pub(crate) fn reader_withdrew(&mut self, reader: ReaderId, version: u64) {
        self.debts.withdrawn.insert(reader, version);
    }

    /// It has something to take back. What it said of earlier versions holds, unless it was that it had never announced anything.
    pub(crate) fn reader_withdraws(&mut self, reader: ReaderId) {
        let version = self.debts.withdrawn.entry(reader).or_default();
        if *version == u64::MAX {
            *version = 0;
        }
    }

    /// Version of the topics as of which nobody has anything left to take back.
    pub(crate) fn withdrawn_to(&self) -> u64 {
        self.debts.withdrawn.values().copied().min().unwrap_or(u64::MAX)
    }

    /// Changes before this one have arrived everywhere: everybody has been told, and so much has followed that their
    /// connections would have ended otherwise.
    pub(crate) fn arrived_to(&self) -> u64 {
        self.debts.needed().min(self.announcements.base())
    }

    /// Removals that are kept for somebody who is behind.
    pub fn debts_kept(&self) -> usize {
        self.debts.removals.len()
    }
}
