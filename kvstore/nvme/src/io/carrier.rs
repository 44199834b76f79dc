//! Carries out tasks: whose turn it is, what to do with what came back, what to tell.

mod finish;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvstore_types::{IoOutcome, OperationId, ReadClass};
use tracing::debug;

use super::backend::{Backend, Completion, Direction, NoBackend, Place};
use super::buffer::Buffers;
use super::queues::Queues;
use super::task::{Active, Task, Work};
use super::turn::{DEMAND_MEMORY, Load, WRITE_PATIENCE};
use super::wake::Wake;
use crate::directory::SegmentFile;
use crate::format::TierKey;
use crate::maintenance::Written;
use crate::stats::{Counters, OperationKind};
use crate::{DeviceEvent, EventSink, Memory, Order, OrderTimes};

/// Bytes that are checked or prepared before the device is looked after again.
const WORK_BYTES: u64 = 256 << 10;
/// Times in a row that a transfer may move nothing and say that it can be tried again.
const TRIES_MAX: u32 = 16;
/// A page, as transfers count bytes.
const PAGE_U32: u32 = 4096;
/// At most one complaint in this time.
const COMPLAINT_PAUSE: Duration = Duration::from_secs(1);
/// So often a piece of memory is registered although there is something else to do.
const REGISTRATION_PAUSE: Duration = Duration::from_secs(1);

/// What the carrier works with.
pub(crate) struct CarrierSpec {
    /// The device's name, for the log.
    pub(crate) name: String,
    pub(crate) memory: Arc<Memory>,
    pub(crate) tier: TierKey,
    pub(crate) segment_pages: u32,
    pub(crate) depth: usize,
    pub(crate) counters: Arc<Counters>,
    pub(crate) sink: EventSink,
    /// Hears of every block that is on the device, before its answer is told. It must not wait.
    pub(crate) written: Box<dyn FnMut(Written) + Send>,
}

/// The tasks of a device and the backend that moves their bytes.
pub(crate) struct Carrier {
    /// Dropped first: that waits until no memory is used any more.
    backend: Box<dyn Backend>,
    spec: CarrierSpec,
    depth: usize,
    queues: Queues,
    active: Vec<Option<Active>>,
    free: Vec<usize>,
    load: Load,
    /// Tasks whose transfer has ended and whose bytes wait to be looked at.
    ended: VecDeque<(usize, Result<(), io::Error>)>,
    files: HashSet<u32>,
    buffers: Buffers,
    completions: Vec<Completion>,
    events: Vec<DeviceEvent>,
    now: Instant,
    demand_last: Option<Instant>,
    write_last: Instant,
    registered_last: Instant,
    complained_last: Option<Instant>,
    /// What is being worked on, so that it can be answered after a panic.
    in_hand: Option<(OperationId, OperationKind, Instant)>,
}

impl Carrier {
    pub(crate) fn new(backend: Box<dyn Backend>, spec: CarrierSpec) -> Self {
        let now = Instant::now();
        Self {
            depth: spec.depth.min(backend.depth_max()).max(1),
            backend,
            spec,
            queues: Queues::default(),
            active: Vec::new(),
            free: Vec::new(),
            load: Load::default(),
            ended: VecDeque::new(),
            files: HashSet::new(),
            buffers: Buffers::default(),
            completions: Vec::new(),
            events: Vec::new(),
            now,
            demand_last: None,
            write_last: now,
            registered_last: now,
            complained_last: None,
            in_hand: None,
        }
    }

    pub(crate) fn add_file(&mut self, index: u32, file: Arc<SegmentFile>) {
        self.backend.add_file(index, file);
        self.files.insert(index);
    }

    pub(crate) fn remove_file(&mut self, index: u32) {
        self.backend.remove_file(index);
        self.files.remove(&index);
    }

    /// Takes an order in. One that cannot be carried out is answered with the next events.
    pub(crate) fn accept(&mut self, order: Order) {
        if let Order::SetClass { operation, class } = order {
            self.queues.set_class(operation, class);
            return;
        }
        match Task::take(order, Instant::now()) {
            Ok(task) => {
                if task.kind == OperationKind::Demand {
                    self.demand_last = Some(task.received);
                }
                let problem = task.problem(self.spec.segment_pages, &self.spec.memory, |file| {
                    self.files.contains(&file)
                });
                match problem {
                    None => self.queues.push(task),
                    Some(problem) => self.refuse(&task, problem),
                }
            }
            Err(order) => debug!(
                device = self.spec.name,
                ?order,
                "an order came to the wrong thread"
            ),
        }
    }

    /// Whether everything has been answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.load.total() == 0 && self.ended.is_empty() && !self.any_waiting()
    }

    fn any_waiting(&self) -> bool {
        OperationKind::ALL
            .into_iter()
            .any(|kind| self.queues.waiting(kind) > 0)
    }

    /// Does what there is to do without sleeping, and says whether there may be more.
    pub(crate) fn round(&mut self) -> bool {
        self.now = Instant::now();
        self.reap();
        self.start();
        let work = !self.ended.is_empty() || self.queues.any_to_prepare();
        if work {
            self.backend.enter(false);
            self.look_at_ended();
            self.prepare();
        }
        self.tell();
        work
    }

    /// Sleeps until a transfer has ended or the thread is woken.
    pub(crate) fn sleep(&mut self) {
        self.backend.enter(true);
    }

    /// Uses a quiet moment, or a busy one if there was none for long, to register memory. Says whether it did anything.
    pub(crate) fn prepare_memory(&mut self) -> bool {
        if !self.is_idle() && self.now.duration_since(self.registered_last) < REGISTRATION_PAUSE {
            return false;
        }
        self.registered_last = self.now;
        let more = self.backend.prepare_memory();
        self.spec.counters.registered(self.backend.registered_bytes());
        more
    }

    /// Answers what has not begun, and waits for the rest.
    pub(crate) fn end(&mut self, wake: &Wake) {
        for task in self.queues.clear() {
            self.answer(&task, IoOutcome::Failed);
        }
        while !self.is_idle() {
            if !self.round() && self.load.total() > 0 {
                wake.announce_sleep();
                self.sleep();
                wake.rise();
            }
        }
        self.tell();
    }

    /// After a panic: waits until no memory is in use and answers everything.
    pub(crate) fn abandon(&mut self) {
        // Dropping a backend waits for what it has under way.
        self.backend = Box::new(NoBackend);
        if let Some((operation, kind, received)) = self.in_hand.take() {
            let outcome = IoOutcome::Failed;
            self.spec.counters.answered(kind, outcome, 0, received.elapsed());
            self.events.push(DeviceEvent::Done {
                operation,
                outcome,
                times: OrderTimes::default(),
            });
        }
        let active = std::mem::take(&mut self.active);
        let tasks = active.into_iter().flatten().map(|active| active.task);
        for task in tasks.chain(self.queues.clear()) {
            self.answer(&task, IoOutcome::Failed);
        }
        self.tell();
    }

    fn reap(&mut self) {
        self.backend.reap(&mut self.completions);
        let mut completions = std::mem::take(&mut self.completions);
        for completion in completions.drain(..) {
            self.transfer_ended(completion);
        }
        self.completions = completions;
    }

    fn transfer_ended(&mut self, completion: Completion) {
        let token = usize::try_from(completion.token).unwrap_or(usize::MAX);
        let Some(Some(active)) = self.active.get_mut(token) else {
            return;
        };
        let result = match completion.result {
            Ok(bytes) if active.done + bytes >= active.bytes() => Ok(()),
            Ok(bytes) => {
                // What follows has to begin at a page again. What never gets that far has failed.
                let whole = bytes - bytes % PAGE_U32;
                self.spec.counters.short_transfer();
                if whole > 0 {
                    active.done += whole;
                    active.tries = 0;
                    return self.push(token);
                }
                Err(io::Error::from(io::ErrorKind::UnexpectedEof))
            }
            Err(error) if is_passing(&error) && active.tries < TRIES_MAX => {
                active.tries += 1;
                return self.push(token);
            }
            Err(error) => Err(error),
        };
        self.load.remove(active.task.kind, active.task.bytes());
        self.ended.push_back((token, result));
    }

    /// Gives the device what it may have.
    fn start(&mut self) {
        while let Some(task) = self.next_task() {
            self.begin(task);
        }
    }

    fn next_task(&mut self) -> Option<Task> {
        let demand = self
            .demand_last
            .is_some_and(|last| self.now.duration_since(last) < DEMAND_MEMORY);
        let allows = |task: Option<&Task>| {
            task.is_some_and(|task| {
                let buffer = !task.needs_buffer() || self.buffers.any_left();
                buffer && self.load.allows(task.kind, task.bytes(), self.depth, demand)
            })
        };
        let write = allows(self.queues.next_write());
        let waited = self.now.duration_since(self.write_last) >= WRITE_PATIENCE;
        if write && waited && self.load.writes() == 0 {
            return self.queues.pop_write();
        }
        for class in [ReadClass::Demand, ReadClass::Prefetch] {
            if allows(self.queues.next_read(class)) {
                return self.queues.pop_read(class);
            }
        }
        if write {
            return self.queues.pop_write();
        }
        if allows(self.queues.next_verify()) {
            return self.queues.pop_verify();
        }
        None
    }

    fn begin(&mut self, mut task: Task) {
        if !self.files.contains(&task.extent.segment.index) {
            return self.refuse(&task, "its segment was removed");
        }
        let direction = match task.work {
            Work::Write { .. } => Direction::Write,
            Work::Read { .. } | Work::Move { .. } | Work::Verify => Direction::Read,
        };
        let (place, buffer) = match task.work {
            Work::Read { offset } | Work::Write { offset, .. } => {
                (self.spec.memory.at(offset, task.bytes()), None)
            }
            Work::Move { .. } | Work::Verify => {
                let bytes = usize::try_from(task.bytes()).unwrap_or(usize::MAX);
                let buffer = self.buffers.lend(bytes).ok();
                (buffer.as_ref().map(super::buffer::Buffer::base), buffer)
            }
        };
        let Some(place) = place else {
            return self.refuse(&task, "there is no memory for it");
        };
        if matches!(task.kind, OperationKind::Write | OperationKind::Move) {
            self.write_last = self.now;
        }
        task.begun = Some(self.now);
        let active = Active {
            task,
            place: Place(place),
            buffer,
            direction,
            done: 0,
            tries: 0,
        };
        self.load.add(active.task.kind, active.task.bytes());
        let token = self.free.pop().unwrap_or_else(|| {
            self.active.push(None);
            self.active.len() - 1
        });
        self.active[token] = Some(active);
        self.push(token);
    }

    fn push(&mut self, token: usize) {
        if let Some(active) = &self.active[token] {
            let transfer = active.transfer(token as u64);
            // SAFETY: the bytes lie in `spec.memory` or in the task's own buffer. Both are kept until the completion was
            // reaped, as the backend is dropped first and waits for it. Nobody relies on the value of bytes there: slots
            // that are read into are nobody's, and those that are written from do not change.
            unsafe { self.backend.push(transfer) };
        }
    }

    /// Tells one thing at once.
    pub(crate) fn tell_one(&mut self, event: DeviceEvent) {
        self.events.push(event);
        self.tell();
    }

    /// Tells what happened in this round, all at once.
    fn tell(&mut self) {
        for kind in OperationKind::ALL {
            self.spec
                .counters
                .depth(kind, self.queues.waiting(kind), self.load.count(kind) as u64);
        }
        if !self.events.is_empty() {
            (self.spec.sink)(std::mem::take(&mut self.events));
        }
    }
}

/// Whether a transfer may go well if it is tried again at once.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}
