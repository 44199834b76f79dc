//! One direction of copies: a stream of its own and a thread, `kvt-cuda-store` or `kvt-cuda-load`, that feeds it.
//!
//! ```text
//! submit ─▶ [order][order]... ─thread─▶ stream ... event ─▶ [flight][flight]... ─poll asks events─▶ results
//! ```
//!
//! The thread is there because feeding takes time: microseconds a piece where the driver has no batched call, and as long
//! as the device likes when the stream's queue is full.
//!
//! What always holds: a batch (and with it the mapped region) is kept from submission until its event was reached. If that
//! can never be found out, because the device is lost, it is kept for ever.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::context::{Context, Entered, Event, EventPool};
use super::driver::Handle;
use super::error::DriverError;
use super::issue::Issuer;
use super::registration::Registration;
use crate::ClientError;
use crate::copier::{CopyJob, CopyOutcome, CopyResult};
use crate::guest::spawn_guest;

/// What a batch waits for before its first byte moves.
pub(super) enum Wait {
    /// Nothing on the device.
    Nothing,
    /// A point in the engine's stream, noted when the batch was submitted.
    Ours(Event),
    /// An event of the caller's.
    Callers(Handle),
}

/// A batch on its way to the stream.
pub(super) struct Order {
    pub(super) job: CopyJob,
    pub(super) wait: Wait,
    pub(super) registration: Option<Arc<Registration>>,
}

/// A batch on its way through the device.
struct Flight {
    job: CopyJob,
    event: Event,
    outcome: CopyOutcome,
}

/// One direction.
pub(super) struct Lane {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    context: Arc<Context>,
    events: Arc<EventPool>,
    state: Mutex<State>,
    /// There is an order, something to be dropped, or the end has come.
    work: Condvar,
}

#[derive(Default)]
struct State {
    orders: VecDeque<Order>,
    flights: VecDeque<Flight>,
    results: VecDeque<CopyResult>,
    /// Ended batches that may be the last to hold their region: unmapping and unpinning it takes its time.
    spent: Vec<CopyJob>,
    lost: Option<String>,
    /// Why copies failed, the last of them.
    trouble: Option<String>,
    ending: bool,
}

impl Lane {
    pub(super) fn start(
        name: &str,
        context: &Arc<Context>,
        events: &Arc<EventPool>,
        bounce_bytes: usize,
    ) -> Result<Self, ClientError> {
        let entered = context.enter()?;
        let issuer = Issuer::new(context, bounce_bytes)?;
        drop(entered);
        let shared = Arc::new(Shared {
            context: Arc::clone(context),
            events: Arc::clone(events),
            state: Mutex::default(),
            work: Condvar::new(),
        });
        let own = Arc::clone(&shared);
        let thread =
            spawn_guest(name.to_owned(), move || own.run(issuer)).map_err(|source| ClientError::Io {
                what: "start a copy thread",
                source,
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    pub(super) fn submit(&self, order: Order) {
        self.shared.lock().orders.push_back(order);
        self.shared.work.notify_all();
    }

    /// Asks the device which batches are over.
    pub(super) fn ask(&self, entered: &Entered<'_>) {
        let mut state = self.shared.lock();
        while let Some(flight) = state.flights.front() {
            match flight.event.is_reached(entered) {
                Ok(false) => break,
                Ok(true) => self.shared.land(&mut state),
                Err(error) => lose(&mut state, &error),
            }
        }
    }

    /// The device is lost.
    pub(super) fn lose(&self, error: &DriverError) {
        lose(&mut self.shared.lock(), error);
    }

    /// Takes the results there are.
    pub(super) fn take_results(&self, results: &mut VecDeque<CopyResult>) {
        results.append(&mut self.shared.lock().results);
    }

    /// Why the device does not work any more, if so.
    pub(super) fn lost(&self) -> Option<String> {
        self.shared.lock().lost.clone()
    }

    /// Why the last copy that failed did.
    pub(super) fn trouble(&self) -> Option<String> {
        self.shared.lock().trouble.clone()
    }
}

impl Drop for Lane {
    /// Waits for all batches: memory that a copy uses belongs to the copy until it is done.
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.work.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut issuer: Issuer) {
        let context = Arc::clone(&self.context);
        let entered = match context.enter() {
            Ok(entered) => entered,
            Err(error) => {
                lose(&mut self.lock(), &error);
                while self.next().is_some() {}
                return;
            }
        };
        while let Some(order) = self.next() {
            self.carry_out(&mut issuer, &entered, order);
        }
        let synchronized = issuer.stream.synchronize(&entered);
        let mut state = self.lock();
        if let Err(error) = synchronized {
            lose(&mut state, &error);
        }
        if state.lost.is_some() {
            issuer.leak_buffer();
        }
        let flights = std::mem::take(&mut state.flights);
        drop(state);
        drop(flights);
    }

    /// The next order, or `None` once all are carried out and the end has come. Drops what is to be dropped.
    fn next(&self) -> Option<Order> {
        let mut state = self.lock();
        loop {
            if !state.spent.is_empty() {
                let spent = std::mem::take(&mut state.spent);
                drop(state);
                drop(spent);
                state = self.lock();
                continue;
            }
            if state.lost.is_some() {
                refuse_orders(&mut state);
            }
            if let Some(order) = state.orders.pop_front() {
                return Some(order);
            }
            if state.ending {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn carry_out(&self, issuer: &mut Issuer, entered: &Entered<'_>, order: Order) {
        let Order {
            job,
            wait,
            registration,
        } = order;
        let after = match &wait {
            Wait::Nothing => None,
            Wait::Ours(event) => Some(event.handle()),
            Wait::Callers(event) => Some(*event),
        };
        let issue = || issuer.issue(entered, &job, after, registration.as_deref());
        let issued = catch_unwind(AssertUnwindSafe(issue));
        if let Wait::Ours(event) = wait {
            // The stream waits for what the event stood for, whatever it stands for next.
            self.events.give(event);
        }
        let (outcome, error) = match issued {
            Ok(Ok(())) => (CopyOutcome::Done, None),
            Ok(Err(error)) => (CopyOutcome::Failed, Some(error)),
            Err(_) => (CopyOutcome::Panicked, None),
        };
        let marked = self.events.take(entered).and_then(|event| {
            event.record(entered, issuer.stream.handle())?;
            Ok(event)
        });
        self.take_off(issuer, entered, job, outcome, marked, error.as_ref());
    }

    /// A batch was given to the stream, wholly or in part. Its event says when it is over; without one the thread waits.
    fn take_off(
        &self,
        issuer: &Issuer,
        entered: &Entered<'_>,
        job: CopyJob,
        outcome: CopyOutcome,
        marked: Result<Event, DriverError>,
        error: Option<&DriverError>,
    ) {
        let loss = error.filter(|error| error.is_loss()).cloned();
        let end = match (marked, loss) {
            (Ok(event), None) => Ok(Some(event)),
            (Err(_), None) => issuer.stream.synchronize(entered).map(|()| None),
            (_, Some(loss)) => Err(loss),
        };
        let mut state = self.lock();
        if let Some(error) = error {
            state.trouble = Some(error.to_string());
        }
        match end {
            Ok(Some(event)) => state.flights.push_back(Flight { job, event, outcome }),
            // The wait was for all that was given to the stream before as well, but their events say that by themselves.
            Ok(None) => {
                state.results.push_back(result(&job, outcome));
                drop(state);
                drop(job);
            }
            Err(error) => {
                state.results.push_back(result(&job, CopyOutcome::Lost));
                std::mem::forget(job);
                lose(&mut state, &error);
            }
        }
    }

    /// The first flight is over.
    fn land(&self, state: &mut State) {
        if let Some(Flight { job, event, outcome }) = state.flights.pop_front() {
            self.events.give(event);
            state.results.push_back(result(&job, outcome));
            if Arc::strong_count(job.memory()) == 1 {
                state.spent.push(job);
                self.work.notify_all();
            }
        }
    }
}

fn result(job: &CopyJob, outcome: CopyOutcome) -> CopyResult {
    let done = outcome == CopyOutcome::Done;
    CopyResult {
        tag: job.tag(),
        outcome,
        bytes: if done { job.bytes() } else { 0 },
    }
}

/// The device is lost. What is under way may or may not be over, so its memory is never given back; what has not begun
/// never will.
fn lose(state: &mut State, error: &DriverError) {
    let text = error.to_string();
    for flight in std::mem::take(&mut state.flights) {
        state.results.push_back(result(&flight.job, CopyOutcome::Lost));
        std::mem::forget(flight.job);
    }
    refuse_orders(state);
    state.trouble = Some(text.clone());
    state.lost.get_or_insert(text);
}

fn refuse_orders(state: &mut State) {
    for order in std::mem::take(&mut state.orders) {
        state.results.push_back(result(&order.job, CopyOutcome::Failed));
        state.spent.push(order.job);
    }
}
