//! Stores, and what becomes of their blocks in the lower tiers.

use std::collections::{HashMap, VecDeque};

use connector_shm::TraceContext;
use kvstore_engine::{Grant, GroupKeys};
use kvstore_nvme::OrderTimes;
use kvstore_trace::{Kind, Value, unix_ns};
use kvstore_types::{BlockKey, GroupIndex, NamespaceId, OperationId, SessionId, SlotRef};

use super::pen::{Close, Context, Open, Pen};
use super::{NVME, REMOTE, Shapes, Transfers};
use crate::engine_thread::session::Session;

/// Most blocks that are followed at a time; the stores begun longest ago are told of as far as they came, and forgotten.
pub(super) const BLOCKS_MAX: usize = 65_536;

const NAMES: [&str; 2] = ["kvtier.write_back", "kvtier.remote_write"];

/// What is followed.
#[derive(Debug)]
pub(super) struct Stores {
    /// Whether every block that is stored is to go to this tier soon. Otherwise a span is one burst of writes.
    soon: [bool; 2],
    /// Whether there is such a tier at all. Otherwise a block that can be found is not followed any further.
    has_lower: bool,
    all: HashMap<u64, Store>,
    /// In the order in which they began; some are over.
    order: VecDeque<u64>,
    last: u64,
    blocks: HashMap<BlockKey, Followed>,
    slots: HashMap<SlotRef, BlockKey>,
    writes: HashMap<OperationId, Write>,
    /// The reservation that the event under way is about.
    reserving: Option<Reserving>,
}

/// A reservation before it is granted: its keys, and whose they are.
#[derive(Debug)]
struct Reserving {
    session: SessionId,
    keys: Vec<(BlockKey, Option<Context>)>,
}

#[derive(Clone, Copy, Debug)]
struct Followed {
    store: u64,
    /// The slot that is being filled; none once it is sealed.
    filling: Option<SlotRef>,
    /// Whether a write to the tier is still expected.
    expected: [bool; 2],
}

#[derive(Clone, Copy, Debug)]
struct Write {
    store: u64,
    tier: usize,
    bytes: u64,
}

/// One request's share of one reservation.
#[derive(Debug)]
struct Store {
    session: SessionId,
    context: Context,
    /// None once it has been told of.
    open: Option<Open>,
    /// What writes lie in.
    within: Context,
    attributes: Vec<(&'static str, Value)>,
    keys: Vec<BlockKey>,
    asked: u64,
    granted: u64,
    present: u64,
    filling: u64,
    refused: u64,
    published: u64,
    bytes: u64,
    aborted: u64,
    /// Slots that are not sealed yet.
    unsealed: u64,
    /// Blocks that are still in the table.
    live: u64,
    expected: [u64; 2],
    transfers: [Transfers; 2],
}

impl Stores {
    pub(super) fn new(soon: [bool; 2], has_lower: bool) -> Self {
        Self {
            soon,
            has_lower,
            all: HashMap::new(),
            order: VecDeque::new(),
            last: 0,
            blocks: HashMap::new(),
            slots: HashMap::new(),
            writes: HashMap::new(),
            reserving: None,
        }
    }

    pub(super) fn set_soon(&mut self, tier: usize, soon: bool) {
        self.soon[tier] = soon;
    }

    /// Blocks and stores that are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> [usize; 2] {
        [self.blocks.len(), self.order.len()]
    }

    /// A reservation is about to be stepped. The contexts stand in the order of its keys.
    pub(super) fn begin(
        &mut self,
        session: SessionId,
        namespace: NamespaceId,
        groups: &[GroupKeys<'_>],
        contexts: &[TraceContext],
    ) {
        let whose = contexts
            .iter()
            .flat_map(|context| std::iter::repeat_n(Context::of(context), context.keys as usize));
        let keys = groups.iter().flat_map(|group| {
            let index = GroupIndex(u8::try_from(group.group).unwrap_or(u8::MAX));
            group.hashes.iter().map(move |&hash| BlockKey {
                namespace,
                group: index,
                hash,
            })
        });
        self.reserving = Some(Reserving {
            session,
            keys: keys.zip(whose).collect(),
        });
    }

    /// The event is over, whether it was granted or not.
    pub(super) fn end_reserve(&mut self) {
        self.reserving = None;
    }

    /// The grants of the reservation under way.
    pub(super) fn grant(
        &mut self,
        session: SessionId,
        grants: &[Grant],
        client: Option<&Session>,
        pen: &mut Pen,
    ) {
        let Some(reserving) = self.reserving.take().filter(|it| it.session == session) else {
            return;
        };
        let first = self.last + 1;
        for ((key, context), grant) in reserving.keys.into_iter().zip(grants) {
            if let Some(context) = context {
                let id = self.store_of(first, session, context, client, pen);
                self.take_grant(id, key, *grant);
            }
        }
        for id in first..=self.last {
            self.settle(id, pen);
        }
        while self.blocks.len() > BLOCKS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.give_up(oldest, pen);
        }
    }

    /// The store of a request within this reservation: one of those from `first` on, or a new one.
    fn store_of(
        &mut self,
        first: u64,
        session: SessionId,
        context: Context,
        client: Option<&Session>,
        pen: &mut Pen,
    ) -> u64 {
        // Keys of one request mostly follow each other.
        let known = (first..=self.last).rev().find(|id| {
            let store = self.all.get(id);
            store.is_some_and(|store| store.context == context)
        });
        if let Some(id) = known {
            return id;
        }
        let open = pen.open(context);
        self.last += 1;
        self.all.insert(
            self.last,
            Store {
                session,
                context,
                within: open.context(),
                open: Some(open),
                attributes: pen.attributes(client),
                keys: Vec::new(),
                asked: 0,
                granted: 0,
                present: 0,
                filling: 0,
                refused: 0,
                published: 0,
                bytes: 0,
                aborted: 0,
                unsealed: 0,
                live: 0,
                expected: [0; 2],
                transfers: [Transfers::default(); 2],
            },
        );
        if self.order.len() > 2 * self.all.len() + 64 {
            // Those that are over: a first one that lives long would keep them all.
            self.order.retain(|id| self.all.contains_key(id));
        }
        self.order.push_back(self.last);
        self.last
    }

    fn take_grant(&mut self, id: u64, key: BlockKey, grant: Grant) {
        let Some(store) = self.all.get_mut(&id) else {
            return;
        };
        store.asked += 1;
        match grant {
            Grant::Slot(slot) => {
                store.granted += 1;
                store.unsealed += 1;
                store.live += 1;
                store.keys.push(key);
                self.slots.insert(slot, key);
                let followed = Followed {
                    store: id,
                    filling: Some(slot),
                    expected: [false; 2],
                };
                if let Some(before) = self.blocks.insert(key, followed) {
                    self.drop_block(before);
                }
            }
            Grant::AlreadyPresent => store.present += 1,
            Grant::Filling => store.filling += 1,
            Grant::NoSpace | Grant::Draining | Grant::NotReady | Grant::Lost => store.refused += 1,
        }
    }

    /// A block that is not in the table any more counts for its store no longer.
    fn drop_block(&mut self, block: Followed) {
        if let Some(slot) = block.filling {
            self.slots.remove(&slot);
        }
        if let Some(store) = self.all.get_mut(&block.store) {
            store.live -= 1;
            store.unsealed -= u64::from(block.filling.is_some());
            for tier in [NVME, REMOTE] {
                store.expected[tier] -= u64::from(block.expected[tier]);
            }
        }
    }

    /// A block can be found in host memory.
    pub(super) fn publish(&mut self, key: &BlockKey, shapes: &Shapes, pen: &mut Pen) {
        if self.blocks.is_empty() {
            return;
        }
        let soon = self.soon;
        let Some(block) = self.blocks.get_mut(key) else {
            return;
        };
        let Some(slot) = block.filling.take() else {
            return;
        };
        let id = block.store;
        block.expected = soon;
        self.slots.remove(&slot);
        if let Some(store) = self.all.get_mut(&id) {
            store.published += 1;
            store.unsealed -= 1;
            store.live -= u64::from(!self.has_lower);
            store.bytes += shapes.bytes_of(key);
            for tier in [NVME, REMOTE] {
                store.expected[tier] += u64::from(soon[tier]);
            }
        }
        if !self.has_lower {
            self.blocks.remove(key);
        }
        self.settle(id, pen);
    }

    /// Slots are given back.
    pub(super) fn abort(&mut self, slots: &[SlotRef], pen: &mut Pen) {
        if self.slots.is_empty() {
            return;
        }
        for slot in slots {
            let Some(key) = self.slots.get(slot).copied() else {
                continue;
            };
            if let Some(block) = self.blocks.remove(&key) {
                self.drop_block(block);
                if let Some(store) = self.all.get_mut(&block.store) {
                    store.aborted += 1;
                }
                self.settle(block.store, pen);
            }
        }
    }

    /// A block has left host memory: nothing is written from there any more.
    pub(super) fn leave(&mut self, key: &BlockKey, pen: &mut Pen) {
        if self.blocks.is_empty() {
            return;
        }
        // The slot of one that is being filled has not been announced.
        if self.blocks.get(key).is_none_or(|block| block.filling.is_some()) {
            return;
        }
        if let Some(block) = self.blocks.remove(key) {
            self.drop_block(block);
            self.settle(block.store, pen);
        }
    }

    /// A write was ordered.
    pub(super) fn order(&mut self, tier: usize, operation: OperationId, key: &BlockKey, bytes: u64) {
        if self.blocks.is_empty() {
            return;
        }
        let Some(block) = self.blocks.get_mut(key).filter(|block| block.filling.is_none()) else {
            return;
        };
        let id = block.store;
        let was_expected = std::mem::take(&mut block.expected[tier]);
        if let Some(store) = self.all.get_mut(&id) {
            store.expected[tier] -= u64::from(was_expected);
            store.transfers[tier].order();
            self.writes.insert(
                operation,
                Write {
                    store: id,
                    tier,
                    bytes,
                },
            );
        }
    }

    /// An order has ended, if it is one of these.
    pub(super) fn done(&mut self, operation: OperationId, is_good: bool, times: OrderTimes, pen: &mut Pen) {
        if self.writes.is_empty() {
            return;
        }
        let Some(write) = self.writes.remove(&operation) else {
            return;
        };
        if let Some(store) = self.all.get_mut(&write.store) {
            store.transfers[write.tier].end(is_good, write.bytes, times);
            self.settle(write.store, pen);
        }
    }

    /// What a session reserved and did not seal is lost.
    pub(super) fn lose(&mut self, session: SessionId, why: &'static str, pen: &mut Pen) {
        if self.slots.is_empty() {
            return;
        }
        let lost: Vec<u64> = self
            .all
            .iter()
            .filter(|(_, store)| store.session == session && store.unsealed > 0)
            .map(|(&id, _)| id)
            .collect();
        for id in lost {
            self.drop_unsealed(id);
            self.close(id, Some(why), pen);
            self.settle(id, pen);
        }
    }

    fn drop_unsealed(&mut self, id: u64) {
        let keys = self.all.get(&id).map(|store| store.keys.clone());
        for key in keys.into_iter().flatten() {
            let is_unsealed = |block: &&Followed| block.store == id && block.filling.is_some();
            if self.blocks.get(&key).as_ref().is_some_and(is_unsealed)
                && let Some(block) = self.blocks.remove(&key)
            {
                self.drop_block(block);
            }
        }
    }

    /// The thread ends: everything is told of as far as it came.
    pub(super) fn end(&mut self, pen: &mut Pen) {
        let all: Vec<u64> = self.order.drain(..).collect();
        for id in all {
            self.give_up(id, pen);
        }
    }

    /// A store is told of as far as it came, and forgotten.
    fn give_up(&mut self, id: u64, pen: &mut Pen) {
        let Some(store) = self.all.get(&id) else {
            return;
        };
        for key in store.keys.clone() {
            if self.blocks.get(&key).is_some_and(|block| block.store == id)
                && let Some(block) = self.blocks.remove(&key)
            {
                self.drop_block(block);
            }
        }
        self.close(id, Some("not_followed_to_its_end"), pen);
        for tier in [NVME, REMOTE] {
            self.tell_writes(id, tier, pen);
        }
        self.all.remove(&id);
    }

    /// Tells of what is over.
    fn settle(&mut self, id: u64, pen: &mut Pen) {
        let Some(store) = self.all.get(&id) else {
            return;
        };
        if store.unsealed == 0 {
            self.close(id, None, pen);
        }
        for tier in [NVME, REMOTE] {
            let is_over = self.all.get(&id).is_some_and(|store| {
                let is_expected = store.expected[tier] > 0 || (self.soon[tier] && store.unsealed > 0);
                store.transfers[tier].under_way == 0 && !is_expected
            });
            if is_over {
                self.tell_writes(id, tier, pen);
            }
        }
        let is_over = self.all.get(&id).is_some_and(|store| {
            let under_way: u64 = store.transfers.iter().map(|transfers| transfers.under_way).sum();
            store.live == 0 && under_way == 0
        });
        if is_over {
            self.all.remove(&id);
        }
    }

    fn close(&mut self, id: u64, error: Option<&'static str>, pen: &mut Pen) {
        let Some(store) = self.all.get_mut(&id) else {
            return;
        };
        let Some(open) = store.open.take() else {
            return;
        };
        let mut attributes = std::mem::take(&mut store.attributes);
        attributes.extend([
            ("kvtier.blocks", Value::Number(store.asked)),
            ("kvtier.blocks.granted", Value::Number(store.granted)),
            ("kvtier.blocks.present", Value::Number(store.present)),
            ("kvtier.blocks.filling", Value::Number(store.filling)),
            ("kvtier.blocks.refused", Value::Number(store.refused)),
            ("kvtier.blocks.published", Value::Number(store.published)),
            ("kvtier.blocks.aborted", Value::Number(store.aborted)),
            ("kvtier.bytes", Value::Number(store.bytes)),
        ]);
        let refused = (store.refused > 0 && store.granted == 0).then_some("no_space");
        pen.close(
            open,
            Close {
                name: "kvtier.store",
                kind: Kind::Internal,
                end_ns: unix_ns(),
                attributes,
                error: error.or(refused),
            },
        );
    }

    fn tell_writes(&mut self, id: u64, tier: usize, pen: &mut Pen) {
        let Some(store) = self.all.get_mut(&id).filter(|it| it.transfers[tier].ordered > 0) else {
            return;
        };
        let transfers = std::mem::take(&mut store.transfers[tier]);
        let open = Open {
            start_ns: transfers.first_ns,
            ..pen.open(store.within)
        };
        pen.close(
            open,
            Close {
                name: NAMES[tier],
                kind: Kind::Internal,
                end_ns: transfers.last_ns,
                attributes: transfers.attributes(tier),
                error: transfers.error(),
            },
        );
    }
}
