//! Taking orders in: what can be answered at once is, the rest waits for its turn.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kvstore_types::{BlockKey, OperationId, ReadClass};

use super::super::namespaces::Namespace;
use super::super::orders::{Ordered, Progress, State, Work};
use super::super::shared::LaneIndex;
use super::Dispatcher;
use crate::backend::Mode;
use crate::format::HEADER_BYTES;
use crate::state::{Known, Waiting};
use crate::stats::OperationKind;
use crate::{DESCRIPTOR_BYTES_MAX, FaultKind, Order, Outcome, Presence, Refusal};

/// What an order needs before it can wait.
struct Entry {
    kind: OperationKind,
    lane: LaneIndex,
    key: Option<BlockKey>,
    payload_bytes: u64,
    within: Duration,
    progress: Option<Progress>,
}

impl Entry {
    fn ordered(self, now: Instant, state: State) -> Ordered {
        Ordered {
            kind: self.kind,
            lane: self.lane,
            key: self.key,
            payload_bytes: self.payload_bytes,
            begun: now,
            deadline: now + self.within,
            progress: self.progress,
            state,
            overdue: None,
        }
    }
}

impl Dispatcher {
    /// Takes an order in.
    pub(super) fn admit(&mut self, now: Instant, order: Order) {
        match order {
            Order::KeepNamespace { descriptor, geometry } => {
                self.shared.namespaces.add(descriptor, geometry);
            }
            Order::ForgetNamespace { namespace } => {
                self.shared.namespaces.remove(namespace);
                self.shared.existence().forget(namespace);
            }
            Order::SetClass { operation, class } => self.set_class(now, operation, class),
            Order::Store {
                operation,
                key,
                descriptor,
                offset,
            } => self.admit_store(now, operation, key, descriptor, offset),
            Order::Fetch {
                operation,
                key,
                offset,
                class,
            } => self.admit_fetch(now, operation, key, offset, class),
            Order::Exists {
                operation,
                keys,
                until_missing,
            } => self.admit_exists(now, operation, &keys, until_missing),
            Order::Delete { operation, key } => {
                let entry = self.entry(OperationKind::Delete, key);
                self.admit_block(now, operation, entry, |_| Ok(Work::Delete { key }));
            }
        }
    }

    fn entry(&self, kind: OperationKind, key: BlockKey) -> Entry {
        let timing = &self.shared.spec.timing;
        let (lane, within) = match kind {
            OperationKind::Demand => (LaneIndex::Reads, timing.demand),
            OperationKind::Prefetch => (LaneIndex::Reads, timing.prefetch),
            OperationKind::Lookup => (LaneIndex::Lookups, timing.lookup),
            OperationKind::Store | OperationKind::Delete => (LaneIndex::Writes, self.write_within),
        };
        Entry {
            kind,
            lane,
            key: Some(key),
            payload_bytes: 0,
            within,
            progress: None,
        }
    }

    fn admit_store(
        &mut self,
        now: Instant,
        operation: OperationId,
        key: BlockKey,
        descriptor: Vec<u8>,
        offset: u64,
    ) {
        let known = self.shared.existence().get(now, &key);
        let entry = self.entry(OperationKind::Store, key);
        self.admit_block(now, operation, entry, |_| {
            if descriptor.len() > DESCRIPTOR_BYTES_MAX {
                return Err(Outcome::Refused(Refusal::Malformed));
            }
            let mode = match known {
                Some(Known::Present) => return Err(Outcome::AlreadyPresent),
                Some(Known::Spoiled) => Mode::Replace,
                Some(Known::Missing) | None => Mode::Create,
            };
            Ok(Work::Store {
                key,
                descriptor,
                offset,
                mode,
            })
        });
    }

    fn admit_fetch(
        &mut self,
        now: Instant,
        operation: OperationId,
        key: BlockKey,
        offset: u64,
        class: ReadClass,
    ) {
        let known = self.shared.existence().get(now, &key);
        let entry = self.entry(class.into(), key);
        self.admit_block(now, operation, entry, |_| match known {
            Some(Known::Missing | Known::Spoiled) => Err(Outcome::Missing),
            Some(Known::Present) | None => Ok(Work::Fetch { key, offset }),
        });
    }

    /// Checks what every order about one block needs, then has `work` say what is to be done, or the answer.
    fn admit_block(
        &mut self,
        now: Instant,
        operation: OperationId,
        mut entry: Entry,
        work: impl FnOnce(&Namespace) -> Result<Work, Outcome>,
    ) {
        let Some(key) = entry.key else { return };
        let checked = self.namespace(&key).and_then(|namespace| {
            let payload_bytes = namespace.payload_bytes(&key).map_err(Outcome::Refused)?;
            Ok((work(&namespace)?, namespace, payload_bytes))
        });
        match checked {
            Ok((work, namespace, payload_bytes)) => {
                entry.payload_bytes = payload_bytes;
                self.enqueue(now, operation, entry, work, namespace);
            }
            Err(outcome) => self.answer_at_once(now, operation, entry, outcome),
        }
    }

    fn admit_exists(&mut self, now: Instant, operation: OperationId, keys: &[BlockKey], until_missing: bool) {
        let progress = Progress::new(vec![Presence::Unknown; keys.len()]);
        let Some(first) = keys.first() else {
            return self.answer_exists(now, operation, progress, Outcome::Done);
        };
        let namespace = match self.namespace(first) {
            Ok(_) if keys.iter().any(|key| key.namespace != first.namespace) => {
                Err(Outcome::Refused(Refusal::Malformed))
            }
            found => found,
        };
        let namespace = match namespace {
            Ok(namespace) => namespace,
            Err(outcome) => return self.answer_exists(now, operation, progress, outcome),
        };
        let unknown = self.look_into_caches(now, keys, until_missing, &progress);
        if unknown.is_empty() {
            return self.answer_exists(now, operation, progress, Outcome::Done);
        }
        let mut entry = self.entry(OperationKind::Lookup, *first);
        entry.key = None;
        entry.progress = Some(progress.clone());
        let work = Work::Exists {
            unknown,
            until_missing,
            progress,
        };
        self.enqueue(now, operation, entry, work, namespace);
    }

    /// Fills in what is known, and gives the rest with its places.
    fn look_into_caches(
        &self,
        now: Instant,
        keys: &[BlockKey],
        until_missing: bool,
        progress: &Progress,
    ) -> Vec<(usize, BlockKey)> {
        let (mut presence, mut existence) = (progress.lock(), self.shared.existence());
        let mut unknown = Vec::new();
        let mut counts = [0_u64; 3];
        for (place, key) in keys.iter().enumerate() {
            match existence.get(now, key) {
                Some(Known::Present) => {
                    presence[place] = Presence::Present;
                    counts[0] += 1;
                }
                Some(Known::Missing | Known::Spoiled) => {
                    presence[place] = Presence::Missing;
                    counts[1] += 1;
                    if until_missing {
                        break;
                    }
                }
                None => {
                    unknown.push((place, *key));
                    counts[2] += 1;
                }
            }
        }
        drop(existence);
        let mut stats = self.shared.counters.lock();
        for (total, count) in stats.lookup_blocks.iter_mut().zip(counts) {
            *total += count;
        }
        unknown
    }

    /// The namespace of a block, if it may be used.
    fn namespace(&self, key: &BlockKey) -> Result<Arc<Namespace>, Outcome> {
        let found = self
            .shared
            .namespaces
            .get(key.namespace)
            .map_err(Outcome::Refused)?;
        match found.is_kept(Instant::now()) {
            Some(false) => Err(Outcome::Refused(Refusal::NamespaceDiffers)),
            Some(true) | None => Ok(found),
        }
    }

    fn enqueue(
        &mut self,
        now: Instant,
        operation: OperationId,
        entry: Entry,
        work: Work,
        namespace: Arc<Namespace>,
    ) {
        if self.closing.is_some() {
            return self.answer_at_once(now, operation, entry, Outcome::Refused(Refusal::Closed));
        }
        let direction = entry.lane.direction();
        if !self.services[direction as usize].is_in_service() {
            let outcome = Outcome::Unavailable(FaultKind::OutOfService);
            return self.answer_at_once(now, operation, entry, outcome);
        }
        let waiting = Waiting {
            operation,
            bytes: match work {
                Work::Store { .. } | Work::Fetch { .. } => HEADER_BYTES + entry.payload_bytes,
                Work::Exists { .. } | Work::Delete { .. } => 0,
            },
        };
        let lane = entry.lane;
        let order = entry.ordered(now, State::Waiting(work, namespace));
        if !self.lanes[lane as usize].push(waiting, order.class()) {
            return self.answer_order(operation, &order, Outcome::Refused(Refusal::QueueFull));
        }
        self.deadlines.insert((order.deadline, operation));
        self.orders.insert(operation, order);
    }

    fn answer_exists(&mut self, now: Instant, operation: OperationId, progress: Progress, outcome: Outcome) {
        let entry = Entry {
            kind: OperationKind::Lookup,
            lane: LaneIndex::Lookups,
            key: None,
            payload_bytes: 0,
            within: Duration::ZERO,
            progress: Some(progress),
        };
        self.answer_at_once(now, operation, entry, outcome);
    }

    /// An answer that needs no store, and teaches nothing.
    fn answer_at_once(&mut self, now: Instant, operation: OperationId, entry: Entry, outcome: Outcome) {
        if let (Outcome::AlreadyPresent, Some(key)) = (outcome, &entry.key)
            && let Some(full) = self.touch.add(now, key)
        {
            self.write_touched(full);
        }
        self.answer_order(operation, &entry.ordered(now, State::Answered), outcome);
    }

    fn answer_order(&mut self, operation: OperationId, order: &Ordered, outcome: Outcome) {
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
        self.shared
            .counters
            .answered(order.kind, outcome, 0, Duration::ZERO);
        self.events.push(order.event(operation, outcome.into()));
    }

    fn set_class(&mut self, now: Instant, operation: OperationId, class: ReadClass) {
        let timing = &self.shared.spec.timing;
        let Some(order) = self.orders.get_mut(&operation) else {
            return;
        };
        if order.lane != LaneIndex::Reads || order.overdue.is_some() {
            return;
        }
        self.lanes[order.lane as usize].set_class(operation, order.class(), class);
        order.kind = class.into();
        // Somebody who begins to wait for it waits from now on no longer than for a new one.
        if class == ReadClass::Demand {
            let deadline = order.deadline.min(now + timing.demand);
            self.deadlines.remove(&(order.deadline, operation));
            order.deadline = deadline;
            self.deadlines.insert((deadline, operation));
        }
    }
}
