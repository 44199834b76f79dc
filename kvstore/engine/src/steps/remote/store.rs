//! Blocks are stored in the remote tier, behind everything else.

use kvstore_types::{OperationId, SlotRef};

use crate::block::{BlockIndex, BlockState, Space, mark};
use crate::config::RemoteAdmission;
use crate::effect::{Effect, Effects, RemoteOrder};
use crate::engine::Engine;
use crate::event::{RemoteDirection, RemoteOutcome};
use crate::pool::{Hold, Out};
use crate::remote::{Operation, Store};
use crate::steps::nvme::bytes;

impl Engine {
    /// A block has been published.
    pub(crate) fn store_sealed(&mut self, block: BlockIndex) {
        match self.remote.config.as_ref().map(|config| config.admission) {
            None => {}
            Some(RemoteAdmission::Everything) => self.queue_store(block),
            Some(RemoteAdmission::SecondTouch | RemoteAdmission::OnEviction) => {
                self.counters.remote_not_admitted += 1;
            }
        }
    }

    /// Blocks have been hit in host memory.
    pub(crate) fn store_hit(&mut self, holds: &[Hold]) {
        let admission = self.remote.config.as_ref().map(|config| config.admission);
        if admission == Some(RemoteAdmission::SecondTouch) {
            for hold in holds {
                self.queue_store(hold.block);
            }
        }
    }

    /// Enters a resident block in the queue, unless it is stored or is there already.
    fn queue_store(&mut self, block: BlockIndex) {
        let record = self.pool.blocks.get(block);
        debug_assert_eq!(record.state, BlockState::Resident);
        let Some(config) = &self.remote.config else { return };
        if record.is_remote || record.has(mark::STORE_QUEUED | mark::STORING) {
            return;
        }
        let max = config.write_queue_max;
        if self.remote.queue.len() >= max {
            let mut effort = 64;
            self.first_queued(&mut effort);
        }
        if self.remote.queue.len() >= max {
            self.counters.remote_store_queue_full += 1;
            return;
        }
        self.remote.queue.push(&mut self.pool.blocks, block);
    }

    fn first_queued(&mut self, effort: &mut u32) -> Option<BlockIndex> {
        let stale = &mut self.counters.remote_store_stale;
        self.remote.queue.front(&mut self.pool.blocks, effort, stale)
    }

    /// Orders stores as far as the tier and its bounds allow.
    pub(super) fn store_queued(&mut self, budget: &mut u32, effects: &mut Effects) {
        while self.remote.is_in_service(RemoteDirection::Write)
            && let Some(block) = self.first_queued(budget)
        {
            let space = self.pool.blocks.get(block).space;
            if !self.remote.has_room_for(bytes(self.pool.pages_of(space))) {
                return;
            }
            self.remote.queue.pop(&mut self.pool.blocks);
            self.order_store(block, effects);
            *budget -= 1;
        }
    }

    /// A block that its policy gives up is stored first, if it is to be and can be now: then it stays until its bytes have
    /// been taken. False if it is to leave at once.
    pub(crate) fn store_before_leaving(&mut self, block: BlockIndex, effects: &mut Effects) -> bool {
        let record = self.pool.blocks.get(block);
        let is_wanted = self
            .remote
            .config
            .as_ref()
            .is_some_and(|config| config.admission == RemoteAdmission::OnEviction);
        let is_possible = self.remote.is_in_service(RemoteDirection::Write)
            && self.remote.has_room_for(bytes(self.pool.pages_of(record.space)));
        if !is_wanted || record.is_remote || !is_possible {
            return false;
        }
        self.pool.admit(block);
        self.order_store(block, effects);
        self.pool.begin_leaving(block);
        true
    }

    fn order_store(&mut self, block: BlockIndex, effects: &mut Effects) {
        self.pool.pin(block, mark::STORING);
        let record = *self.pool.blocks.get(block);
        self.keep_remote_namespace(record.space.namespace(), effects);
        let (slot, key) = (record.slot, self.pool.key(&record));
        let descriptor = self.pool.blocks.descriptor(block);
        let operation = self.nvme.next_operation();
        let store = Store {
            pinned: Some((block, slot)),
            key,
            descriptor: descriptor.clone(),
            bytes: bytes(self.pool.pages_of(record.space)),
        };
        self.remote.stores += 1;
        self.remote.storing_bytes += store.bytes;
        self.remote.operations.insert(operation, Operation::Store(store));
        effects.list.push(Effect::Remote(RemoteOrder::Store {
            operation,
            slot,
            key,
            descriptor,
        }));
    }

    /// The bytes of a store have been taken: its slot is as free as any.
    pub(super) fn on_store_taken(&mut self, operation: OperationId, effects: &mut Effects) {
        let pinned = match self.remote.operations.get_mut(&operation) {
            Some(Operation::Store(store)) => store.pinned.take(),
            _ => None,
        };
        match pinned {
            Some((block, slot)) => self.unpin_stored(block, slot, effects),
            None => self.counters.remote_events_unknown += 1,
        }
    }

    fn unpin_stored(&mut self, block: BlockIndex, slot: SlotRef, effects: &mut Effects) {
        let was_leaving = self.pool.end_leaving(block);
        self.pool.unpin(block, mark::STORING);
        let record = self.pool.blocks.get(block);
        debug_assert_eq!(record.slot, slot, "a pinned block stays in its slot");
        // Whoever has come for it meanwhile keeps it.
        if was_leaving && !record.is_busy() && record.holds == 0 && record.heat == 0 {
            self.counters.evicted_for_watermark += 1;
            let out = &mut Out {
                counters: &mut self.counters,
                effects,
            };
            self.pool
                .remove_resident(block, crate::effect::RemovalCause::Evicted, out);
        }
    }

    /// A store has ended.
    pub(super) fn on_stored(&mut self, store: &Store, outcome: RemoteOutcome, effects: &mut Effects) {
        self.remote.stores -= 1;
        self.remote.storing_bytes -= store.bytes;
        if matches!(outcome, RemoteOutcome::Done | RemoteOutcome::AlreadyPresent) {
            self.learn_stored(store, effects);
        }
        if outcome == RemoteOutcome::Done
            && let Some(namespace) = self.pool.spaces.find(store.key.namespace)
        {
            self.pool.spaces.get_mut(namespace).traffic.remote_written_bytes += store.bytes;
        }
        let counters = &mut self.counters;
        *match outcome {
            RemoteOutcome::Done => {
                counters.remote_stored_bytes += store.bytes;
                &mut counters.remote_stored
            }
            RemoteOutcome::AlreadyPresent => &mut counters.remote_store_present,
            RemoteOutcome::NoSpace => &mut counters.remote_store_no_space,
            RemoteOutcome::TimedOut => &mut counters.remote_store_late,
            RemoteOutcome::Refused => &mut counters.remote_store_refused,
            RemoteOutcome::Unavailable | RemoteOutcome::Missing | RemoteOutcome::Corrupt => {
                &mut counters.remote_store_failed
            }
        } += 1;
        if let Some((block, slot)) = store.pinned {
            self.unpin_stored(block, slot, effects);
        }
        if matches!(outcome, RemoteOutcome::Unavailable | RemoteOutcome::NoSpace) {
            self.store_again(store);
        }
    }

    /// The block of a store is in the remote tier, wherever else it is by now.
    fn learn_stored(&mut self, store: &Store, effects: &mut Effects) {
        let Some(namespace) = self.pool.spaces.find(store.key.namespace) else {
            return;
        };
        let space = Space::new(namespace, store.key.group.0);
        let is_known = self.pool.blocks.find(space, &store.key.hash).is_some();
        if is_known {
            self.learn(space, &store.key, effects);
            return;
        }
        // It has left all other tiers since its bytes were taken.
        let out = &mut Out {
            counters: &mut self.counters,
            effects,
        };
        let block = self.pool.add_remote(space, store.key.hash);
        self.pool.blocks.describe(block, store.descriptor.as_ref());
        self.pool.announce_remote(block, out);
    }

    /// A store failed because the tier did: when it is back the block is tried again, if it is still there.
    fn store_again(&mut self, store: &Store) {
        let is_behind = self
            .remote
            .config
            .as_ref()
            .is_some_and(|config| config.admission != RemoteAdmission::OnEviction);
        let namespace = self.pool.spaces.find(store.key.namespace);
        let block = namespace.and_then(|namespace| {
            let space = Space::new(namespace, store.key.group.0);
            self.pool.blocks.find(space, &store.key.hash)
        });
        if let Some(block) = block.filter(|_| is_behind)
            && self.pool.blocks.get(block).state == BlockState::Resident
        {
            self.queue_store(block);
        }
    }
}
