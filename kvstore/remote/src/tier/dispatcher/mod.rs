//! The owner of everything that changes: which orders there are, who goes next, whether the store is in service.
//!
//! It sleeps until it hears something or a time has come: a deadline, a probe, a record of accesses. When there is no order,
//! the store is in service and nothing was read, it sleeps for good.

mod admit;
mod service;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kvstore_types::{BlockKey, OperationId};
use tokio::sync::mpsc;
use tokio::time::timeout_at;

use self::service::Service;
use super::attempt::caught;
use super::orders::{Ordered, State};
use super::shared::{Ended, LaneIndex, Message, Shared};
use super::touch::TouchLog;
use super::work::Task;
use crate::backend::Hold;
use crate::format::{Touched, touched_name};
use crate::state::Lane;
use crate::stats::OperationKind;
use crate::{Direction, FaultKind, Outcome, Refusal, RemoteEvent};

/// Messages that are taken in before events go out.
const MESSAGES_AT_ONCE: usize = 1024;

/// Most records of accesses that are being written.
const TOUCHES_MAX: usize = 4;

/// The dispatcher.
pub(super) struct Dispatcher {
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedReceiver<Message>,
    unanswered: Arc<AtomicUsize>,
    orders: HashMap<OperationId, Ordered>,
    deadlines: BTreeSet<(Instant, OperationId)>,
    lanes: [Lane; 3],
    /// When the store was last done with something, by lane.
    given_back: [Instant; 3],
    services: [Service; 2],
    /// How long a store or deletion may take.
    write_within: Duration,
    touch: TouchLog,
    touches_written: u64,
    touches_under_way: usize,
    events: Vec<RemoteEvent>,
    closing: Option<Closing>,
}

struct Closing {
    until: Instant,
    closed: std::sync::mpsc::Sender<()>,
}

impl Dispatcher {
    pub(super) fn new(
        shared: Arc<Shared>,
        inbox: mpsc::UnboundedReceiver<Message>,
        unanswered: Arc<AtomicUsize>,
    ) -> Self {
        let (now, limits, breaker) = (Instant::now(), shared.spec.limits, shared.spec.breaker);
        Self {
            write_within: shared.spec.timing.write,
            shared,
            inbox,
            unanswered,
            orders: HashMap::new(),
            deadlines: BTreeSet::new(),
            lanes: [limits.reads, limits.writes, limits.lookups].map(Lane::new),
            given_back: [now; 3],
            services: Direction::ALL.map(|direction| Service::new(direction, breaker, now)),
            touch: TouchLog::default(),
            touches_written: 0,
            touches_under_way: 0,
            events: Vec::new(),
            closing: None,
        }
    }

    /// Until everything is closed.
    pub(super) async fn run(mut self) {
        loop {
            self.turn(Instant::now());
            if self.is_closed() {
                if let Some(closing) = self.closing.take() {
                    let _ = closing.closed.send(());
                }
                return;
            }
            let message = match self.next_time() {
                Some(at) => timeout_at(at.into(), self.inbox.recv()).await.ok(),
                None => Some(self.inbox.recv().await),
            };
            let now = Instant::now();
            match message {
                Some(Some(message)) => self.hear(now, message),
                Some(None) => return,
                None => {}
            }
            for _ in 0..MESSAGES_AT_ONCE {
                let Ok(message) = self.inbox.try_recv() else {
                    break;
                };
                self.hear(now, message);
            }
        }
    }

    /// Does what the time and what was heard ask for, and tells.
    fn turn(&mut self, now: Instant) {
        self.expire(now);
        self.probe(now);
        if self
            .touch
            .due(self.shared.spec.timing.touch_every)
            .is_some_and(|due| due <= now)
        {
            self.tell_touched();
        }
        for lane in LaneIndex::ALL {
            self.pump(lane);
        }
        self.count();
        if !self.events.is_empty() {
            (self.shared.sink)(std::mem::take(&mut self.events));
        }
    }

    fn next_time(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let closing = self.closing.as_ref().map(|closing| closing.until);
        let touch = self.touch.due(self.shared.spec.timing.touch_every);
        let times = [deadline, closing, touch.filter(|_| self.closing.is_none())];
        let probes = self.services.iter().filter_map(Service::probe_at);
        times.into_iter().flatten().chain(probes).min()
    }

    fn hear(&mut self, now: Instant, message: Message) {
        match message {
            Message::Order(order) => self.admit(now, order),
            Message::Taken(operation) => self.on_taken(now, operation),
            Message::Ended(operation, ended) => self.answer(now, operation, ended),
            Message::GivenBack(lane, bytes) => {
                self.lanes[lane as usize].give_back(bytes);
                self.given_back[lane as usize] = now;
            }
            Message::Attempt(direction, result) => self.on_attempt(now, direction, result),
            Message::Probed(direction, result) => self.on_probed(now, direction, result),
            Message::Touched(is_written, count) => {
                self.touches_under_way -= 1;
                let mut stats = self.shared.counters.lock();
                if is_written {
                    stats.touched_written += 1;
                } else {
                    stats.touched_dropped += count;
                }
            }
            Message::Tune(tuning) => {
                self.write_within = tuning.write;
                self.lanes[LaneIndex::Reads as usize].set_under_way_max(tuning.reads);
                self.lanes[LaneIndex::Writes as usize].set_under_way_max(tuning.writes);
            }
            Message::Close(closed) => self.close(now, closed),
        }
    }

    /// Gives those that may go to their tasks.
    fn pump(&mut self, lane: LaneIndex) {
        while let Some(waiting) = self.lanes[lane as usize].next() {
            let share = self.shared.share(lane, waiting.bytes);
            let Some(order) = self.orders.get_mut(&waiting.operation) else {
                continue;
            };
            let claim = super::claim::Claim::default();
            let Some((work, namespace)) = order.take_work() else {
                continue;
            };
            let hold: Hold = Arc::new(share);
            let task = Task {
                shared: self.shared.clone(),
                operation: waiting.operation,
                namespace,
                payload_bytes: order.payload_bytes,
                deadline: order.deadline,
                claim: claim.clone(),
                hold,
            };
            let handle = tokio::spawn(task.carry_out(work));
            order.state = State::UnderWay(claim, handle.abort_handle());
        }
    }

    /// Answers an order, if it was not.
    fn answer(&mut self, now: Instant, operation: OperationId, ended: Ended) {
        let Some(order) = self.orders.remove(&operation) else {
            return;
        };
        self.deadlines.remove(&(order.deadline, operation));
        self.unanswered.fetch_sub(1, Ordering::Relaxed);
        let latency = now.saturating_duration_since(order.begun);
        let outcome = ended.outcome;
        self.shared
            .counters
            .answered(order.kind, outcome, order.payload_bytes, latency);
        if let Some(key) = order.key {
            self.learn(now, key, order.kind, outcome);
        }
        self.events.push(order.event(operation, ended));
    }

    fn learn(&mut self, now: Instant, key: BlockKey, kind: OperationKind, outcome: Outcome) {
        if kind == OperationKind::Delete {
            if matches!(outcome, Outcome::Done | Outcome::Missing) {
                self.shared.existence().set_missing(now, key);
            }
            return;
        }
        self.shared.learn(key, outcome);
        let is_read = kind != OperationKind::Store && outcome == Outcome::Done;
        if (is_read || outcome == Outcome::AlreadyPresent)
            && let Some(full) = self.touch.add(now, &key)
        {
            self.write_touched(full);
        }
    }

    /// A store's slot is free again.
    fn on_taken(&mut self, now: Instant, operation: OperationId) {
        let Some(order) = self.orders.get(&operation) else {
            return;
        };
        self.events.push(RemoteEvent::Taken { operation });
        if let Some(outcome) = order.overdue {
            self.give_up(now, operation, outcome);
        }
    }

    /// Answers orders whose deadline has passed.
    fn expire(&mut self, now: Instant) {
        while let Some(&(at, operation)) = self.deadlines.first()
            && at <= now
        {
            self.deadlines.pop_first();
            let Some(order) = self.orders.get(&operation) else {
                continue;
            };
            let lane = order.lane;
            // One that waited while the store was done with others only had too many before it.
            let is_stalled = match order.state {
                State::Waiting(..) => self.given_back[lane as usize] < order.begun,
                State::UnderWay(..) => true,
                State::Answered => false,
            };
            self.give_up(now, operation, Outcome::TimedOut);
            if is_stalled {
                let fault = crate::backend::Fault::new(FaultKind::Stalled, "no answer by the deadline");
                self.on_attempt(now, lane.direction(), Err(fault));
            }
        }
        if self.closing.as_ref().is_some_and(|closing| closing.until <= now) {
            self.give_all_up(now, |_| true, Outcome::Refused(Refusal::Closed));
        }
    }

    /// Answers an order without its task. If that is touching the slot just now, a moment later.
    fn give_up(&mut self, now: Instant, operation: OperationId, outcome: Outcome) {
        let Some(order) = self.orders.get_mut(&operation) else {
            return;
        };
        match &order.state {
            State::Waiting(..) => {
                self.lanes[order.lane as usize].remove(operation, order.class());
            }
            State::UnderWay(claim, handle) => {
                if !claim.abandon() {
                    order.overdue = Some(outcome);
                    return;
                }
                handle.abort();
            }
            State::Answered => {}
        }
        self.answer(now, operation, outcome.into());
    }

    fn give_all_up(&mut self, now: Instant, which: impl Fn(&Ordered) -> bool, outcome: Outcome) {
        let chosen = self.orders.iter().filter(|(_, order)| which(order));
        let mut operations: Vec<OperationId> = chosen.map(|(operation, _)| *operation).collect();
        operations.sort_unstable();
        for operation in operations {
            self.give_up(now, operation, outcome);
        }
    }

    /// Tells the store what was read.
    fn tell_touched(&mut self) {
        for record in self.touch.take() {
            self.write_touched(record);
        }
    }

    fn write_touched(&mut self, record: Touched) {
        let count = record.blocks.len() as u64;
        if self.touches_under_way >= TOUCHES_MAX || !self.services[1].is_in_service() {
            self.shared.counters.lock().touched_dropped += count;
            return;
        }
        self.touches_under_way += 1;
        self.touches_written += 1;
        let name = touched_name(record.namespace, &self.shared.spec.writer, self.touches_written);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let writing = caught(
                "a record",
                shared.backend.put_small(&name, record.encode().into()),
            );
            let written = tokio::time::timeout(shared.spec.timing.attempt, writing).await;
            shared.tell(Message::Touched(matches!(written, Ok(Ok(_))), count));
        });
    }

    fn close(&mut self, now: Instant, closed: std::sync::mpsc::Sender<()>) {
        self.tell_touched();
        let until = now + self.shared.spec.timing.close;
        self.closing = Some(Closing { until, closed });
        let is_writing =
            |order: &Ordered| order.lane == LaneIndex::Writes && matches!(order.state, State::UnderWay(..));
        self.give_all_up(now, |order| !is_writing(order), Outcome::Refused(Refusal::Closed));
    }

    fn is_closed(&self) -> bool {
        let Some(closing) = &self.closing else {
            return false;
        };
        let is_late = closing.until <= Instant::now();
        self.orders.is_empty() && (self.touches_under_way == 0 || is_late)
    }

    fn count(&self) {
        let mut stats = self.shared.counters.lock();
        for (lane, at) in self.lanes.iter().zip(0..) {
            stats.waiting[at] = lane.waiting() as u64;
            stats.under_way[at] = lane.under_way().0 as u64;
        }
        for (service, at) in self.services.iter().zip(0..) {
            stats.in_service[at] = service.is_in_service();
            // Mostly there is none, and when there is one not much else happens.
            stats.outage[at] = service.outage().cloned();
        }
    }
}
