//! What waits for its turn at the device.

use std::collections::{BTreeMap, HashMap, VecDeque};

use kvstore_types::{OperationId, ReadClass};

use super::task::{Task, Work};
use crate::stats::OperationKind;

/// Bytes of writes whose checksums are made while the device is busy.
const PREPARED_BYTES_MAX: u64 = 4 << 20;

/// Tasks by class, each in the order they came. Their number is bounded by the engine, which knows every one of them.
#[derive(Debug, Default)]
pub(super) struct Queues {
    reads: BTreeMap<(ReadClass, u64), Task>,
    read_places: HashMap<OperationId, (ReadClass, u64)>,
    ticket_next: u64,
    demand: u64,
    /// Writes and moves.
    writes: VecDeque<Task>,
    moves_waiting: u64,
    /// Writes with header and checksum, before all of `writes`.
    prepared: VecDeque<Task>,
    prepared_bytes: u64,
    verifies: VecDeque<Task>,
}

impl Queues {
    pub(super) fn push(&mut self, task: Task) {
        match task.kind {
            OperationKind::Demand | OperationKind::Prefetch => self.push_read(task),
            OperationKind::Write => self.writes.push_back(task),
            OperationKind::Move => {
                self.moves_waiting += 1;
                self.writes.push_back(task);
            }
            OperationKind::Verify => self.verifies.push_back(task),
        }
    }

    fn push_read(&mut self, task: Task) {
        let place = (task.class(), self.ticket_next);
        self.ticket_next += 1;
        self.demand += u64::from(place.0 == ReadClass::Demand);
        self.read_places.insert(task.operation, place);
        self.reads.insert(place, task);
    }

    fn take_read(&mut self, place: (ReadClass, u64)) -> Option<Task> {
        let task = self.reads.remove(&place)?;
        self.demand -= u64::from(place.0 == ReadClass::Demand);
        self.read_places.remove(&task.operation);
        Some(task)
    }

    /// A read goes to the end of the other class, unless it has begun.
    pub(super) fn set_class(&mut self, operation: OperationId, class: ReadClass) {
        if let Some(&place) = self.read_places.get(&operation)
            && place.0 != class
            && let Some(mut task) = self.take_read(place)
        {
            task.kind = class.into();
            self.push_read(task);
        }
    }

    /// The next read of a class, to look at.
    pub(super) fn next_read(&self, class: ReadClass) -> Option<&Task> {
        let (_, task) = self.reads.range((class, 0)..=(class, u64::MAX)).next()?;
        Some(task)
    }

    /// The next read of a class.
    pub(super) fn pop_read(&mut self, class: ReadClass) -> Option<Task> {
        let (&place, _) = self.reads.range((class, 0)..=(class, u64::MAX)).next()?;
        self.take_read(place)
    }

    /// The next write or move that can begin at once, to look at.
    pub(super) fn next_write(&self) -> Option<&Task> {
        let unprepared = self
            .writes
            .front()
            .filter(|task| task.kind == OperationKind::Move);
        self.prepared.front().or(unprepared)
    }

    /// The next write or move that can begin at once.
    pub(super) fn pop_write(&mut self) -> Option<Task> {
        if let Some(task) = self.prepared.pop_front() {
            self.prepared_bytes -= task.bytes();
            return Some(task);
        }
        let task = self
            .writes
            .pop_front_if(|task| task.kind == OperationKind::Move)?;
        self.moves_waiting -= 1;
        Some(task)
    }

    /// The next write, if it is worth preparing now.
    pub(super) fn pop_to_prepare(&mut self) -> Option<Task> {
        let room = self.prepared.is_empty() || self.prepared_bytes < PREPARED_BYTES_MAX;
        self.writes
            .pop_front_if(|task| room && matches!(task.work, Work::Write { .. }))
    }

    /// Whether [`pop_to_prepare`](Self::pop_to_prepare) would give one.
    pub(super) fn any_to_prepare(&self) -> bool {
        (self.prepared.is_empty() || self.prepared_bytes < PREPARED_BYTES_MAX)
            && self
                .writes
                .front()
                .is_some_and(|task| task.kind == OperationKind::Write)
    }

    pub(super) fn push_prepared(&mut self, task: Task) {
        self.prepared_bytes += task.bytes();
        self.prepared.push_back(task);
    }

    pub(super) fn next_verify(&self) -> Option<&Task> {
        self.verifies.front()
    }

    pub(super) fn pop_verify(&mut self) -> Option<Task> {
        self.verifies.pop_front()
    }

    /// How many wait.
    pub(super) fn waiting(&self, kind: OperationKind) -> u64 {
        match kind {
            OperationKind::Demand => self.demand,
            OperationKind::Prefetch => self.reads.len() as u64 - self.demand,
            OperationKind::Write => (self.prepared.len() + self.writes.len()) as u64 - self.moves_waiting,
            OperationKind::Move => self.moves_waiting,
            OperationKind::Verify => self.verifies.len() as u64,
        }
    }

    /// Takes out everything.
    pub(super) fn clear(&mut self) -> Vec<Task> {
        let queues = std::mem::take(self);
        self.ticket_next = queues.ticket_next;
        let reads = queues.reads.into_values();
        reads
            .chain(queues.prepared)
            .chain(queues.writes)
            .chain(queues.verifies)
            .collect()
    }
}
