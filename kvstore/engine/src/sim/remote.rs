//! A simulated remote tier: it answers late and in any order, fails, goes out of service and comes back, is filled and swept
//! by other nodes, and outlives the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvstore_types::{BlockKey, DescriptorBytes, NamespaceId, OperationId, PAGE_BYTES, SlotRef};

use super::model::pages_of;
use super::random::Random;
use super::transfers::{JUNK, Transfer};
use super::world::World;
use crate::config::{RemoteAdmission, RemoteConfig};
use crate::counters::Occupancy;
use crate::effect::RemoteOrder;
use crate::event::{Event, RemoteDirection, RemoteEvent, RemoteOutcome};

/// A block at the store.
#[derive(Clone, Debug)]
struct Object {
    bytes: Vec<u64>,
    descriptor: Option<DescriptorBytes>,
    is_damaged: bool,
}

/// An order that has not been answered.
#[derive(Debug)]
struct Pending {
    operation: OperationId,
    order: RemoteOrder,
    /// The bytes of a store, as they were when it was ordered.
    bytes: Vec<u64>,
    is_taken: bool,
}

/// The store, and this node's way to it.
#[derive(Debug, Default)]
pub(super) struct Twin {
    objects: BTreeMap<BlockKey, Object>,
    /// Every block that was ever there.
    ever: BTreeSet<BlockKey>,
    namespaces: BTreeSet<NamespaceId>,
    pending: Vec<Pending>,
    /// By direction, as the engine was told.
    in_service: [bool; 2],
    /// Orders that fail, of a hundred.
    trouble: usize,
}

/// A small tier.
pub(super) fn config(random: &mut Random) -> RemoteConfig {
    RemoteConfig {
        admission: random
            .pick(&[
                RemoteAdmission::Everything,
                RemoteAdmission::Everything,
                RemoteAdmission::SecondTouch,
                RemoteAdmission::OnEviction,
            ])
            .unwrap_or_default(),
        promotion_deadline: Duration::from_millis(random.pick(&[0, 5, 50, 1000]).unwrap_or(5)),
        promotion_bytes_max: 4096 * random.pick(&[1, 20, 10_000]).unwrap_or(1),
        write_bytes_max: 4096 * random.pick(&[1, 20, 10_000]).unwrap_or(1),
        write_queue_max: random.pick(&[1, 5, 1000]).unwrap_or(5),
        known_max: random.pick(&[1, 10, 1000]).unwrap_or(10),
    }
}

impl Twin {
    /// Whether it has orders of blocks that are bound to it.
    pub(super) fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether the engine may ask it.
    pub(super) fn serves_reads(&self, config: Option<&RemoteConfig>) -> bool {
        self.in_service[RemoteDirection::Read as usize]
            && config.is_some_and(|config| !config.promotion_deadline.is_zero())
    }

    fn put(&mut self, key: BlockKey, object: Object) {
        self.ever.insert(key);
        self.objects.insert(key, object);
    }

    /// The daemon is killed: what was under way has happened or not.
    pub(super) fn crash(&mut self, random: &mut Random) {
        for pending in std::mem::take(&mut self.pending) {
            if let RemoteOrder::Store { key, descriptor, .. } = pending.order
                && random.chance(50)
            {
                let (bytes, is_damaged) = (pending.bytes, false);
                self.put(
                    key,
                    Object {
                        bytes,
                        descriptor,
                        is_damaged,
                    },
                );
            }
        }
        self.namespaces.clear();
        self.in_service = [false; 2];
        self.trouble = 0;
    }
}

impl World {
    /// The engine orders something.
    pub(super) fn take_remote(&mut self, order: RemoteOrder) {
        assert!(
            self.config.remote.is_some(),
            "{order:?} and there is no remote tier"
        );
        let (operation, direction, namespace) = match &order {
            RemoteOrder::KeepNamespace { descriptor, .. } => {
                let is_new = self.twin.namespaces.insert(descriptor.id());
                return assert!(is_new, "{} was kept twice", descriptor.id());
            }
            RemoteOrder::ForgetNamespace { namespace } => {
                let was_kept = self.twin.namespaces.remove(namespace);
                return assert!(was_kept, "{namespace} was forgotten and is not kept");
            }
            RemoteOrder::SetClass { operation, .. } => {
                let is_fetch = |pending: &Pending| {
                    pending.operation == *operation && matches!(pending.order, RemoteOrder::Fetch { .. })
                };
                let is_there = self.twin.pending.iter().any(is_fetch);
                return assert!(is_there, "{operation:?} is no fetch that is under way");
            }
            RemoteOrder::Store { operation, key, .. } => (*operation, RemoteDirection::Write, key.namespace),
            RemoteOrder::Fetch { operation, key, .. } => (*operation, RemoteDirection::Read, key.namespace),
            RemoteOrder::Exists { operation, keys, .. } => {
                let first = keys.first().map(|key| key.namespace);
                let Some(first) = first.filter(|first| keys.iter().all(|key| key.namespace == *first)) else {
                    panic!("{operation:?} asks for nothing, or for blocks of several namespaces")
                };
                (*operation, RemoteDirection::Read, first)
            }
        };
        assert!(self.operations.insert(operation), "{operation:?} was used twice");
        assert!(
            self.twin.in_service[direction as usize],
            "the remote tier is out of service and was told {order:?}"
        );
        assert!(
            self.twin.namespaces.contains(&namespace),
            "{order:?} comes before its namespace was kept"
        );
        let bytes = self.begin_remote_transfer(operation, &order);
        self.twin.pending.push(Pending {
            operation,
            order,
            bytes,
            is_taken: false,
        });
        self.check_remote_bounds();
    }

    /// The bytes of a store.
    fn begin_remote_transfer(&mut self, operation: OperationId, order: &RemoteOrder) -> Vec<u64> {
        let (key, slot, is_read) = match order {
            RemoteOrder::Store { key, slot, .. } => (*key, *slot, false),
            RemoteOrder::Fetch { key, slot, .. } => (*key, *slot, true),
            _ => return Vec::new(),
        };
        let pages = self.pages_of_key(&key);
        let transfer = Transfer {
            key,
            slot,
            pages,
            is_read,
            is_remote: true,
        };
        self.model.transfer_begun(operation, transfer);
        if is_read {
            self.model.fill(slot, pages, JUNK);
            return Vec::new();
        }
        self.model.memory[self.model.payload(slot, pages)].to_vec()
    }

    fn pages_of_key(&self, key: &BlockKey) -> u32 {
        let space = self.engine.pool.spaces.find(key.namespace);
        let Some(namespace) = space.map(|index| self.engine.pool.spaces.get(index)) else {
            panic!("{key} is on its way and its namespace is not known")
        };
        let header = u32::from(self.config.nvme.is_some());
        pages_of(&namespace.geometry.groups[usize::from(key.group.0)]) + header
    }

    fn check_remote_bounds(&self) {
        let Some(config) = &self.config.remote else { return };
        let reads = self.model.transfers.values().filter(|transfer| transfer.is_read);
        let bytes: u64 = reads.clone().map(|read| u64::from(read.pages) * PAGE_BYTES).sum();
        let nvme_max = self
            .config
            .nvme
            .as_ref()
            .map_or(0, |nvme| nvme.promotion_bytes_max);
        let max = config.promotion_bytes_max.max(nvme_max);
        assert!(
            bytes <= max || reads.count() == 1,
            "promise 7: {bytes} bytes are on their way, more than {max}"
        );
        let stores = self
            .twin
            .pending
            .iter()
            .filter_map(|pending| match pending.order {
                RemoteOrder::Store { .. } => Some((pending.bytes.len() as u64 + 1) * PAGE_BYTES),
                _ => None,
            });
        let (count, bytes) = (stores.clone().count(), stores.sum::<u64>());
        // The header page counts where there is one.
        let slack = count as u64 * PAGE_BYTES;
        assert!(
            count <= 1 || bytes - slack <= config.write_bytes_max,
            "promise 7: {bytes} bytes are being stored"
        );
    }

    /// Something happens at the remote tier.
    pub(super) fn remote_acts(&mut self) {
        if self.config.remote.is_none() {
            return;
        }
        match self.random.below(100) {
            0..6 => {
                let direction = self.random.pick(&[RemoteDirection::Read, RemoteDirection::Write]);
                let is_available = self.random.chance(75);
                self.set_service(direction.unwrap_or(RemoteDirection::Read), is_available);
            }
            6..10 => self.sweep_by_others(),
            10..16 => self.store_by_others(),
            16..18 => self.twin.trouble = self.random.pick(&[0, 0, 5, 30, 100]).unwrap_or(0),
            _ => (0..=self.random.below(6)).for_each(|_| self.answer_remote()),
        }
    }

    fn set_service(&mut self, direction: RemoteDirection, is_available: bool) {
        self.twin.in_service[direction as usize] = is_available;
        self.step(Event::Remote(RemoteEvent::Service {
            direction,
            is_available,
        }));
    }

    fn sweep_by_others(&mut self) {
        let percent = self.random.pick(&[10, 50, 100]).unwrap_or(10);
        let (random, is_damage) = (&mut self.random, percent == 10);
        if is_damage {
            let objects = self.twin.objects.values_mut();
            objects.for_each(|object| object.is_damaged |= random.chance(percent));
        } else {
            self.twin.objects.retain(|_, _| !random.chance(percent));
        }
    }

    /// Another node has computed what is in this one's memory, and stores it.
    fn store_by_others(&mut self) {
        let residents: Vec<BlockKey> = self.model.residents.keys().copied().collect();
        for key in residents {
            if self.random.chance(40) {
                let bytes = self.model.residents[&key].sealed.clone();
                let (descriptor, is_damaged) = (None, false);
                self.twin.put(
                    key,
                    Object {
                        bytes,
                        descriptor,
                        is_damaged,
                    },
                );
            }
        }
    }

    /// One of the orders goes on or is answered, whichever.
    fn answer_remote(&mut self) {
        if self.twin.pending.is_empty() {
            return;
        }
        let at = self.random.below(self.twin.pending.len());
        let is_store = matches!(self.twin.pending[at].order, RemoteOrder::Store { .. });
        if is_store && !self.twin.pending[at].is_taken && self.random.chance(60) {
            self.twin.pending[at].is_taken = true;
            let operation = self.twin.pending[at].operation;
            let bytes = self.twin.pending[at].bytes.clone();
            self.end_remote_store(operation, &bytes);
            return self.step(Event::Remote(RemoteEvent::Taken { operation }));
        }
        let pending = self.twin.pending.swap_remove(at);
        let is_failing = self.random.chance(self.twin.trouble);
        let failures = [
            RemoteOutcome::Unavailable,
            RemoteOutcome::NoSpace,
            RemoteOutcome::TimedOut,
            RemoteOutcome::Refused,
        ];
        let failure = self.random.pick(&failures).filter(|_| is_failing);
        self.tally.remote_answered += 1;
        let operation = pending.operation;
        match pending.order {
            RemoteOrder::Store { key, descriptor, .. } => {
                if !pending.is_taken {
                    self.end_remote_store(operation, &pending.bytes);
                }
                let outcome = self.carry_out_store(key, descriptor, pending.bytes, failure);
                self.step(Event::Remote(RemoteEvent::Stored { operation, outcome }));
            }
            RemoteOrder::Fetch { key, slot, .. } => self.carry_out_fetch(operation, key, slot, failure),
            RemoteOrder::Exists {
                keys, until_missing, ..
            } => {
                self.carry_out_exists(operation, &keys, until_missing, failure.is_some());
            }
            other => panic!("the simulation is wrong: {other:?} is answered"),
        }
        self.arriving = None;
    }

    fn end_remote_store(&mut self, operation: OperationId, bytes: &[u64]) {
        let Some(transfer) = self.model.transfers.remove(&operation) else {
            panic!("the simulation is wrong: {operation:?} has no slot")
        };
        assert_eq!(
            self.model.memory[self.model.payload(transfer.slot, transfer.pages)],
            *bytes,
            "promise 3: bytes of {} changed before they were taken",
            transfer.slot
        );
    }

    fn carry_out_store(
        &mut self,
        key: BlockKey,
        descriptor: Option<DescriptorBytes>,
        bytes: Vec<u64>,
        failure: Option<RemoteOutcome>,
    ) -> RemoteOutcome {
        if failure.is_none()
            && self
                .twin
                .objects
                .get(&key)
                .is_some_and(|object| !object.is_damaged)
        {
            return RemoteOutcome::AlreadyPresent;
        }
        // What failed may be there all the same.
        if failure.is_none() || self.random.chance(30) {
            let is_damaged = false;
            self.twin.put(
                key,
                Object {
                    bytes,
                    descriptor,
                    is_damaged,
                },
            );
        }
        failure.unwrap_or(RemoteOutcome::Done)
    }

    fn carry_out_fetch(
        &mut self,
        operation: OperationId,
        key: BlockKey,
        slot: SlotRef,
        failure: Option<RemoteOutcome>,
    ) {
        let Some(transfer) = self.model.transfers.remove(&operation) else {
            panic!("the simulation is wrong: {operation:?} has no slot")
        };
        let range = self.model.payload(slot, transfer.pages);
        assert!(
            self.model.memory[range.clone()].iter().all(|&page| page == JUNK),
            "promise 4: somebody wrote to {slot} while {operation:?} fetched into it"
        );
        let (mut outcome, mut descriptor) = (RemoteOutcome::Done, None);
        match self.twin.objects.get(&key) {
            _ if failure.is_some() => outcome = failure.unwrap_or(outcome),
            None => outcome = RemoteOutcome::Missing,
            Some(object) if object.is_damaged => outcome = RemoteOutcome::Corrupt,
            Some(object) => {
                self.model.memory[range].clone_from_slice(&object.bytes);
                descriptor.clone_from(&object.descriptor);
                self.arriving = Some(transfer);
            }
        }
        self.step(Event::Remote(RemoteEvent::Fetched {
            operation,
            outcome,
            descriptor,
        }));
    }

    fn carry_out_exists(
        &mut self,
        operation: OperationId,
        keys: &[BlockKey],
        until_missing: bool,
        is_failing: bool,
    ) {
        let (mut is_over, twin, random) = (is_failing, &self.twin, &mut self.random);
        let mut ask = |key: &BlockKey| {
            // What this node remembers may have been swept meanwhile.
            let is_remembered = twin.ever.contains(key) && random.chance(5);
            let is_present = !is_over && (twin.objects.contains_key(key) || is_remembered);
            is_over |= until_missing && !is_present;
            is_present
        };
        let presence: Vec<bool> = keys.iter().map(&mut ask).collect();
        self.step(Event::Remote(RemoteEvent::Existence {
            operation,
            presence: &presence,
        }));
    }

    /// A copy in the remote tier is known from now on.
    pub(super) fn remote_stored(&mut self, key: BlockKey) {
        assert!(
            self.twin.ever.contains(&key),
            "promise 6: {key} was announced in the remote tier and never was there"
        );
        assert!(
            self.model.remote.insert(key),
            "{key} was announced in the remote tier twice"
        );
    }

    /// The engine's counts of what is there and under way, against the twin's.
    pub(super) fn compare_remote(&self, seen: &Occupancy) {
        let count = |is_counted: fn(&RemoteOrder) -> bool| {
            let pending = self.twin.pending.iter();
            pending.filter(|pending| is_counted(&pending.order)).count() as u64
        };
        assert_eq!(
            (
                seen.remote_stores_in_flight,
                seen.remote_fetches_in_flight,
                seen.remote_questions_in_flight
            ),
            (
                count(|order| matches!(order, RemoteOrder::Store { .. })),
                count(|order| matches!(order, RemoteOrder::Fetch { .. })),
                count(|order| matches!(order, RemoteOrder::Exists { .. })),
            ),
            "promise 4: what is under way at the remote tier"
        );
        assert_eq!(
            seen.remote_blocks,
            self.model.remote.len() as u64,
            "what is known of the remote tier"
        );
    }

    /// What was announced of the remote tier is what the engine knows.
    pub(super) fn check_remote_copies(&self) {
        for key in self.model.remote.union(&self.twin.ever) {
            assert_eq!(
                self.engine.residency(key).remote,
                self.model.remote.contains(key),
                "{key}: what was announced of the remote tier"
            );
        }
    }

    /// Answers all that is under way. False if there was nothing.
    pub(super) fn settle_remote(&mut self) -> bool {
        self.twin.trouble = 0;
        let was_busy = self.twin.is_busy();
        while self.twin.is_busy() {
            self.answer_remote();
        }
        was_busy
    }

    /// What waits to be stored, where it could be.
    pub(super) fn check_remote_rest(&self, seen: &Occupancy) {
        let is_in_service = self.twin.in_service[RemoteDirection::Write as usize];
        assert!(
            !is_in_service || seen.remote_queue == 0,
            "the engine sleeps and {} blocks wait to be stored",
            seen.remote_queue
        );
        let known_max = self.config.remote.as_ref().map_or(0, |config| config.known_max);
        assert!(
            seen.remote_only_blocks <= known_max as u64,
            "promise 7: {} blocks are remembered, {known_max} may be",
            seen.remote_only_blocks
        );
    }
}
