//! One remote tier, open: its threads, and the way to them.

mod attempt;
mod claim;
mod dispatcher;
mod namespaces;
mod orders;
mod read;
mod removal;
mod shared;
#[cfg(test)]
mod tests;
mod touch;
mod work;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};

use self::dispatcher::Dispatcher;
pub use self::removal::{Removal, Removed, Remover};
pub(crate) use self::shared::make_backend;
use self::shared::{Message, Shared};
use crate::backend::store::Surroundings;
use crate::sweep::Sweeper;
use crate::{
    EventSink, Order, Outcome, Presence, Refusal, RemoteEvent, RemoteSpec, RemoteStats, RemoteTuning,
    SpecError, SweepLimits,
};

/// Threads for what waits for the network and for copying.
const WORKERS: usize = 2;

/// Threads for the system's resolver of host names, which blocks.
const BLOCKING_MAX: usize = 8;

/// An open remote tier. Dropping it is [`shutdown`](Self::shutdown).
pub struct Remote {
    shared: Arc<Shared>,
    messages: mpsc::UnboundedSender<Message>,
    unanswered: Arc<AtomicUsize>,
    orders_max: usize,
    sweep_limits: watch::Sender<SweepLimits>,
    /// Tells the sweeper to stop, and hears that it has.
    sweeper: Option<(oneshot::Sender<()>, std::sync::mpsc::Receiver<()>)>,
    /// `None` once it was shut down.
    runtime: Option<Runtime>,
}

impl Remote {
    /// Opens a tier. Nothing is asked of the store before this returns, so one that hangs holds nobody up: the tier is out
    /// of service until the store has answered a probe, and `sink` hears of it.
    pub fn open(spec: RemoteSpec, sink: EventSink) -> Result<Self, SpecError> {
        Self::open_in(spec, sink, &Surroundings::real())
    }

    pub(crate) fn open_in(
        spec: RemoteSpec,
        sink: EventSink,
        surroundings: &Surroundings<'_>,
    ) -> Result<Self, SpecError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING_MAX)
            .thread_name("kvt-remote")
            .enable_all()
            .build()
            .map_err(|error| SpecError::Threads(spec.name.clone(), error))?;
        let orders_max = spec.limits.orders_max;
        let (messages, inbox) = mpsc::unbounded_channel();
        let sweep = spec.sweep.clone();
        let shared = Arc::new(Shared::new(spec, sink, surroundings, messages.clone())?);
        tracing::info!(
            tier = shared.spec.name,
            store = shared.backend.describe(),
            "remote tier opened"
        );
        let unanswered = Arc::new(AtomicUsize::new(0));
        runtime.spawn(Dispatcher::new(shared.clone(), inbox, unanswered.clone()).run());
        let limits = sweep.as_ref().map(|sweep| sweep.limits).unwrap_or_default();
        let (sweep_limits, limits) = watch::channel(limits);
        let sweeper = sweep.map(|sweep| {
            let (backend, counters) = (shared.backend.clone(), shared.counters.clone());
            let sweeper = Sweeper::new(backend, shared.spec.writer, sweep, counters).following(limits);
            let (stop, is_stopped) = oneshot::channel();
            let (ended, has_ended) = std::sync::mpsc::channel();
            runtime.spawn(async move {
                sweeper.run(is_stopped).await;
                drop(ended);
            });
            (stop, has_ended)
        });
        Ok(Self {
            sweep_limits,
            sweeper,
            shared,
            messages,
            unanswered,
            orders_max,
            runtime: Some(runtime),
        })
    }

    /// Gives orders to the tier. Never waits.
    pub fn submit(&self, orders: Vec<Order>) {
        let mut refused = Vec::new();
        for order in orders {
            let Some(refusal) = refusal(&order, Refusal::QueueFull) else {
                let _ = self.messages.send(Message::Order(order));
                continue;
            };
            if self.unanswered.fetch_add(1, Ordering::Relaxed) < self.orders_max
                && self.messages.send(Message::Order(order)).is_ok()
            {
                continue;
            }
            self.unanswered.fetch_sub(1, Ordering::Relaxed);
            refused.push(refusal);
        }
        if !refused.is_empty() {
            (self.shared.sink)(refused);
        }
    }

    /// Changes bounds. What is under way goes on as it began.
    pub fn tune(&self, tuning: RemoteTuning) {
        self.sweep_limits.send_replace(tuning.limits);
        self.shared.backend.set_reserve(tuning.reserve);
        let _ = self.messages.send(Message::Tune(tuning));
    }

    /// The way to the store for removals that a person asks for; `None` once the tier was shut down.
    pub fn remover(&self) -> Option<Remover> {
        let runtime = self.runtime.as_ref()?.handle().clone();
        Some(Remover::new(self.shared.clone(), runtime))
    }

    /// Figures, from the start of the tier.
    pub fn stats(&self) -> RemoteStats {
        let mut stats = self.shared.counters.lock().clone();
        stats.description = self.shared.backend.describe();
        stats.kind = self.shared.spec.backend.kind();
        stats.node = self.shared.spec.writer.to_string().chars().take(8).collect();
        stats.room = self.shared.backend.room();
        stats.unanswered = self.unanswered.load(Ordering::Relaxed) as u64;
        stats
    }

    /// Closes it: what has not begun is refused, writes that are under way get a moment, everything else is answered as
    /// unavailable. No slot is touched any more when this returns. What hangs at a mount is left alone.
    pub fn shutdown(mut self) {
        self.close_all();
    }

    fn close_all(&mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        let sweeper = self.sweeper.take().map(|(stop, has_ended)| {
            let _ = stop.send(());
            has_ended
        });
        // Not the runtime's own way of waiting, which panics on a thread of another runtime.
        let (closed, is_closed) = std::sync::mpsc::channel();
        if self.messages.send(Message::Close(closed)).is_ok() {
            let _ = is_closed.recv();
        }
        if let Some(has_ended) = sweeper {
            // Its channel closes without a word.
            let _ = has_ended.recv_timeout(self.shared.spec.timing.close);
        }
        // Threads of the resolver may hang; they hold nothing of ours.
        runtime.shutdown_background();
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.close_all();
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("spec", &self.shared.spec)
            .finish_non_exhaustive()
    }
}

/// The answer to an order that is not begun; `None`: it is not answered at all.
fn refusal(order: &Order, refusal: Refusal) -> Option<RemoteEvent> {
    let outcome = Outcome::Refused(refusal);
    match order {
        Order::KeepNamespace { .. } | Order::ForgetNamespace { .. } | Order::SetClass { .. } => None,
        Order::Store { operation, .. } | Order::Delete { operation, .. } => Some(RemoteEvent::Done {
            operation: *operation,
            outcome,
        }),
        Order::Fetch { operation, .. } => Some(RemoteEvent::Fetched {
            operation: *operation,
            outcome,
            descriptor: Vec::new(),
        }),
        Order::Exists { operation, keys, .. } => Some(RemoteEvent::Existence {
            operation: *operation,
            presence: vec![Presence::Unknown; keys.len()],
        }),
    }
}
