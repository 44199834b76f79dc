//! The model: all blocks that are anywhere, who may hear of them, and what has changed lately.
//!
//! Two views of the same blocks
//! - **Everything**, for watchers: each copy in each tier, as it comes and goes ([`Book::changes`]).
//! - **What is announced**, for routers ([`Book::announcements`]): a router maps a block to its tokens through the block's
//!   parent, and drops what follows a parent it does not know. So a block is announced while it is anywhere *and* every
//!   block before it is. When a block leaves its last tier, all that follow it are announced as removed, because no
//!   prefix can reach them; when it comes back, they are announced again behind it. What is announced is thus a
//!   function of what is there: everybody who listens ends with the same, whenever they began.
//!
//! Always
//! - `order` of a namespace holds exactly its announced blocks, parents before children.
//! - A block is announced (`stamp != 0`) exactly if it has a place to begin: it is a root, or its parent is announced.
//! - A record has at least one tier.
//!
//! No I/O, no clock, no threads.

mod chain;
mod debts;
mod inheritance;
mod journal;
mod log;
mod namespace;
mod order;
mod record;
mod snapshot;
mod topics;
mod watched;

use std::hint::black_box;
use std::sync::Arc;

use hashbrown::HashMap;
use kvstore_types::{BlockHash, BlockKey, DescriptorBytes, GroupIndex, NamespaceId, Tier};

pub(crate) use self::debts::{Debt, ReaderId};
pub(crate) use self::inheritance::{INHERITED, Inheritance, InheritedSpace, is_topic};
use self::journal::Journal;
pub(crate) use self::log::{Change, Log, Twin};
pub(crate) use self::namespace::Namespace;
use self::namespace::Namespaces;
pub use self::namespace::TenantIndex;
pub(crate) use self::record::Record;
use self::record::{Digest, NONE, Records, Ties};
pub use self::topics::Identity;
use self::topics::Topics;
pub(crate) use self::topics::{TOPIC_PREFIX, Topic, relay_topic};
use self::watched::Watched;
use crate::feed::{FeedItem, NamespaceShape};
use crate::tiers::TierSet;
use crate::wire;

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BookLimits {
    /// Recent changes that are kept for watchers, and as many announcements for routers.
    pub changes: usize,
    /// Removals that a router which does not listen has not heard of yet.
    pub debts: usize,
}

impl Default for BookLimits {
    fn default() -> Self {
        Self {
            changes: 1 << 16,
            debts: 1 << 19,
        }
    }
}

/// What was counted in the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BookCounters {
    /// Blocks came that nobody had described.
    pub blocks_without_descriptor: u64,
    /// Blocks came whose description makes no sense; they are not announced.
    pub descriptors_malformed: u64,
    /// Removals that were forgotten before a router that did not listen had heard of them.
    pub removals_forgotten: u64,
    /// Names that could not be part of a topic.
    pub names_refused: u64,
}

/// What the model is, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) blocks: usize,
    pub(crate) blocks_announced: usize,
    pub(crate) blocks_unnamed: usize,
    pub(crate) counters: BookCounters,
}

/// The model.
#[derive(Debug)]
pub struct Book {
    records: Records,
    namespaces: Namespaces,
    /// Those whose parent is not there: by namespace, group and the parent's hash, the first of the list.
    waiting: HashMap<(u32, u8, BlockHash), u32>,
    /// The last place that was given in the order of announcements.
    stamp: u64,
    limits: BookLimits,
    changes: Log,
    watched: Watched,
    announcements: Log,
    debts: debts::Debts,
    topics: Topics,
    inheritance: Option<Inheritance>,
    journal: Journal,
    snapshots: Vec<snapshot::Round>,
    counters: BookCounters,
}

impl Book {
    /// An empty model that announces under these identities.
    pub fn new(limits: BookLimits, identities: Vec<Identity>) -> Self {
        Self {
            records: Records::default(),
            namespaces: Namespaces::default(),
            waiting: HashMap::new(),
            stamp: 0,
            limits,
            changes: Log::new(limits.changes),
            watched: Watched::default(),
            announcements: Log::new(limits.changes),
            debts: debts::Debts::new(limits.debts),
            topics: Topics::new(identities),
            inheritance: None,
            journal: Journal::default(),
            snapshots: Vec::new(),
            counters: BookCounters::default(),
        }
    }

    /// Takes in what a tenant's engine thread says.
    #[cfg(test)]
    pub(crate) fn apply(&mut self, tenant: TenantIndex, mut item: FeedItem) {
        self.take_in(tenant, &mut item);
    }

    /// Takes in what a tenant's engine thread says, where it lies: the description is taken out of it, and what is left of it
    /// means nothing.
    pub(crate) fn take_in(&mut self, tenant: TenantIndex, item: &mut FeedItem) {
        match item {
            FeedItem::Stored {
                key,
                tier,
                descriptor,
            } => self.store(tenant, key, *tier, descriptor.take()),
            FeedItem::Described { key, descriptor } => self.described(tenant, key, descriptor),
            FeedItem::Removed { key, tier } => self.remove(tenant, key, *tier),
            FeedItem::Namespace(shape) => self.shape(tenant, shape),
            FeedItem::PodAttached {
                session,
                namespace,
                pod,
                model,
            } => {
                let (pod, model) = (Arc::clone(pod), Arc::clone(model));
                self.topics.attach(tenant, *session, *namespace, pod, model);
                self.retell_topics();
            }
            FeedItem::RelayBegan { session } => {
                self.topics.relay(tenant, *session);
                self.retell_topics();
            }
            FeedItem::PodDetached { session } => {
                self.topics.detach(tenant, *session);
                self.retell_topics();
            }
            FeedItem::SnapshotBegun { number } => self.snapshot_begun(tenant, *number),
            FeedItem::SnapshotEnded { number } => self.snapshot_ended(tenant, *number),
        }
    }

    /// Reads what it takes to apply these items. Nearly all of it is cold, and here no read waits for another one, as it does
    /// when blocks are applied one after the other.
    pub(crate) fn look_ahead(&self, items: &[FeedItem]) {
        // What is between the ends comes with them.
        let ends = |descriptor: &DescriptorBytes| {
            let bytes = descriptor.as_bytes();
            (bytes.first().copied(), bytes.last().copied())
        };
        for descriptor in items.iter().filter_map(FeedItem::descriptor) {
            black_box(ends(descriptor));
        }
        let digests = items.iter().filter_map(FeedItem::key);
        let digests = digests.map(|key| self.records.digest(key.group.0, &key.hash));
        let homes: Vec<_> = digests
            .map(|digest| (digest, self.records.home(digest)))
            .collect();
        for (digest, home) in homes {
            black_box(self.records.candidate(digest, home).map(|record| record.stamp));
        }
    }

    /// Blocks that are known.
    pub fn blocks(&self) -> usize {
        self.records.len()
    }

    /// Blocks that are announced, or would be if there were a name for them.
    pub fn blocks_announced(&self) -> usize {
        self.namespaces
            .iter()
            .map(|namespace| namespace.order.len())
            .sum()
    }

    /// What there is and what was counted.
    pub(crate) fn summary(&self) -> Summary {
        let blocks_unnamed = self
            .namespaces
            .iter()
            .filter(|namespace| self.topics.leaves_out(namespace.tenant, namespace.id))
            .map(|namespace| namespace.order.len())
            .sum();
        Summary {
            blocks: self.blocks(),
            blocks_announced: self.blocks_announced() - blocks_unnamed,
            blocks_unnamed,
            counters: self.counters(),
        }
    }

    /// What was counted.
    pub fn counters(&self) -> BookCounters {
        BookCounters {
            removals_forgotten: self.debts.forgotten,
            names_refused: self.topics.names_refused,
            ..self.counters
        }
    }

    /// Where the copies of a block are.
    pub fn tiers(&self, tenant: TenantIndex, key: &BlockKey) -> TierSet {
        self.find(tenant, key)
            .map_or(TierSet::EMPTY, |index| self.records.get(index).tiers)
    }

    /// Whether the block is announced, and where.
    pub fn announced(&self, tenant: TenantIndex, key: &BlockKey) -> TierSet {
        self.find(tenant, key).map_or(TierSet::EMPTY, |index| {
            let record = self.records.get(index);
            if record.stamp == 0 {
                TierSet::EMPTY
            } else {
                record.tiers
            }
        })
    }

    pub(crate) fn changes(&self) -> &Log {
        &self.changes
    }

    pub(crate) fn announcements(&self) -> &Log {
        &self.announcements
    }

    pub(crate) fn namespace(&self, tenant: TenantIndex, id: NamespaceId) -> Option<&Namespace> {
        Some(self.namespaces.get(self.namespaces.find(tenant, id)?))
    }

    pub(crate) fn record(&self, index: u32) -> &Record {
        self.records.get(index)
    }

    /// All places of records; those without tiers are free.
    pub(crate) fn places(&self) -> &[Record] {
        self.records.places()
    }

    /// The tenant and the name of the block of a record.
    pub(crate) fn key_of(&self, record: &Record) -> (TenantIndex, BlockKey) {
        let namespace = self.namespaces.get(record.namespace);
        let key = BlockKey {
            namespace: namespace.id,
            group: GroupIndex(record.group),
            hash: record.hash,
        };
        (namespace.tenant, key)
    }

    /// The place that was given last in the order of announcements.
    pub(crate) fn stamp(&self) -> u64 {
        self.stamp
    }

    fn find(&self, tenant: TenantIndex, key: &BlockKey) -> Option<u32> {
        let namespace = self.namespaces.find(tenant, key.namespace)?;
        self.records.find(namespace, key.group.0, &key.hash)
    }

    fn store(
        &mut self,
        tenant: TenantIndex,
        key: &BlockKey,
        tier: Tier,
        descriptor: Option<DescriptorBytes>,
    ) {
        let topics = &self.topics;
        let namespace = self
            .namespaces
            .intern(tenant, key.namespace, |tenant, id| topics.serves(tenant, id));
        let digest = self.records.digest(key.group.0, &key.hash);
        let found = self.records.find_at(digest, namespace, key.group.0, &key.hash);
        let index = found.unwrap_or_else(|| self.insert(digest, namespace, key));
        self.confirm(tenant, index, tier);
        let record = self.records.get(index);
        let (before, is_described) = (record.tiers, record.descriptor.is_some());
        let after = before.union(TierSet::of(tier));
        if let Some(descriptor) = descriptor.filter(|_| !is_described) {
            self.describe(index, descriptor);
        } else if found.is_none() {
            self.counters.blocks_without_descriptor += 1;
        }
        if before != after {
            self.records.get_mut(index).tiers = after;
            self.log(index, before, after);
            self.announce(index, before, after);
        }
        self.root(index);
    }

    fn described(&mut self, tenant: TenantIndex, key: &BlockKey, descriptor: &DescriptorBytes) {
        if let Some(index) = self.find(tenant, key)
            && self.records.get(index).descriptor.is_none()
        {
            self.describe(index, descriptor.clone());
            self.root(index);
        }
    }

    fn remove(&mut self, tenant: TenantIndex, key: &BlockKey, tier: Tier) {
        let Some(index) = self.find(tenant, key) else {
            return;
        };
        let before = self.records.get(index).tiers;
        let after = before.without(TierSet::of(tier));
        if before == after {
            return;
        }
        self.log(index, before, after);
        if after.is_empty() {
            self.forget(index);
        } else {
            self.announce(index, before, after);
            self.records.get_mut(index).tiers = after;
        }
    }

    fn insert(&mut self, digest: Digest, namespace: u32, key: &BlockKey) -> u32 {
        self.namespaces.get_mut(namespace).blocks += 1;
        let record = Record {
            hash: key.hash,
            descriptor: None,
            stamp: 0,
            namespace,
            parent: NONE,
            first_child: NONE,
            next: NONE,
            prev: NONE,
            group: key.group.0,
            tiers: TierSet::EMPTY,
            confirmed: TierSet::EMPTY,
            round: 0,
            ties: Ties::Mute,
            has_twins: false,
        };
        self.records.insert(digest, record)
    }

    /// Learns what a block is about, and ties it to its parent.
    fn describe(&mut self, index: u32, descriptor: DescriptorBytes) {
        let record = self.records.get(index);
        let parent = match wire::check(&descriptor) {
            Ok(parent) if parent != Some(record.hash) => parent,
            Ok(_) => return self.malformed(index, "a block is its own parent"),
            Err(problem) => return self.malformed(index, problem),
        };
        self.records.get_mut(index).descriptor = Some(descriptor);
        self.tie(index, parent);
    }

    fn malformed(&mut self, index: u32, problem: &str) {
        if self.counters.descriptors_malformed == 0 {
            let (tenant, key) = self.key_of(self.records.get(index));
            tracing::warn!(
                tenant,
                %key,
                problem,
                "the description that came with a block makes no sense; it and what follows it are not announced \
                 (said once, counted as descriptors_malformed)"
            );
        }
        self.counters.descriptors_malformed += 1;
    }

    /// Tells watchers, if there are any.
    fn log(&mut self, index: u32, before: TierSet, after: TierSet) {
        let position = self.changes.head();
        if self.watched.is_over(position) {
            self.changes.trim(position, |_, _| {});
            self.changes.skip();
        } else {
            let change = self.change(index, before, after);
            self.changes.push(change, |_, _| {});
        }
    }

    /// Tells routers, if the block is announced.
    fn announce(&mut self, index: u32, before: TierSet, after: TierSet) {
        if self.records.get(index).stamp == 0 || before == after {
            return;
        }
        self.journalize(index, before, after);
        if self.debts.is_listened_to {
            let change = Change {
                twins: self.twins(index),
                ..self.change(index, before, after)
            };
            let debts = &mut self.debts;
            self.announcements
                .push(change, |position, oldest| debts.fell_out(position, &oldest));
        } else {
            let (tenant, key) = self.key_of(self.records.get(index));
            let position = self.announcements.head();
            self.debts.heard(position, (tenant, key), before, after);
            self.announcements.skip();
        }
        self.debts.age(self.announcements.base());
    }

    /// The same block in other namespaces, as far as it is announced.
    pub(crate) fn twins(&self, index: u32) -> Box<[Twin]> {
        let announced = self.records.twins(index).filter(|record| record.stamp != 0);
        announced
            .map(|record| {
                let namespace = self.namespaces.get(record.namespace);
                Twin {
                    tenant: namespace.tenant,
                    namespace: namespace.id,
                    tiers: record.tiers,
                    stamp: record.stamp,
                }
            })
            .collect()
    }

    fn change(&self, index: u32, before: TierSet, after: TierSet) -> Change {
        let record = self.records.get(index);
        let (tenant, key) = self.key_of(record);
        let is_store = !after.without(before).is_empty();
        Change {
            tenant,
            key,
            before,
            after,
            stamp: record.stamp,
            descriptor: record.descriptor.clone().filter(|_| is_store),
            twins: Box::default(),
        }
    }

    fn shape(&mut self, tenant: TenantIndex, shape: &Arc<NamespaceShape>) {
        let topics = &self.topics;
        let index = self
            .namespaces
            .intern(tenant, shape.namespace, |tenant, id| topics.serves(tenant, id));
        let namespace = self.namespaces.get_mut(index);
        if namespace.shape.as_ref() == Some(shape) {
            return;
        }
        namespace.shape = Some(Arc::clone(shape));
        self.retell_topics();
    }

    fn retell_topics(&mut self) {
        self.topics.retell(&self.namespaces);
    }
}

#[cfg(test)]
mod tests;
