//! The queue of the maintenance thread.
//!
//! One queue for everything, so that what was submitted first is done first: a block's `Written` comes before its answer
//! is told, and so before a `SegmentFull` that follows from the answer.
//!
//! Bounds: `Written` and `Forget` are hints, and those beyond the bound are dropped and their segments remembered. Orders
//! that are answered are as many as the engine has under way.

use std::collections::{BTreeSet, VecDeque};
use std::sync::mpsc::SyncSender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{MaintenanceOrder, Written};

/// Most hints that wait.
pub(super) const HINTS_MAX: usize = 65_536;
/// How long nothing to do is slept away at one time.
pub(super) const SLEEP_MAX: Duration = Duration::from_secs(10);
/// Blocks that are worth a batch without waiting for more.
pub(super) const BATCH: usize = 256;

/// One thing to do.
#[derive(Debug)]
pub(super) enum Message {
    Order(MaintenanceOrder),
    Written(Written),
}

/// Everything that was waiting.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) messages: VecDeque<Message>,
    /// Segments of which a `Written` was dropped.
    pub(super) lossy: BTreeSet<u32>,
    /// Nothing more will come.
    pub(super) is_closed: bool,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Message>,
    hints: usize,
    has_order: bool,
    lossy: BTreeSet<u32>,
    is_closed: bool,
    loader: Option<SyncSender<()>>,
}

/// See above.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Closing wakes this as well: the loader may be waiting for credits.
    pub(super) fn wakes(&self, loader: SyncSender<()>) {
        let mut state = self.lock();
        if state.is_closed {
            // Not full: nothing has been told yet.
            let _ = loader.try_send(());
        }
        state.loader = Some(loader);
    }

    /// Adds an order; false if it was dropped.
    pub(super) fn order(&self, order: MaintenanceOrder) -> bool {
        let mut state = self.lock();
        if let MaintenanceOrder::Forget { .. } = order {
            if state.hints >= HINTS_MAX {
                return false;
            }
            state.hints += 1;
        }
        if state.is_closed {
            return false;
        }
        state.messages.push_back(Message::Order(order));
        state.has_order = true;
        drop(state);
        self.changed.notify_one();
        true
    }

    /// Adds a block; false if it was dropped.
    pub(super) fn written(&self, written: Written) -> bool {
        let mut state = self.lock();
        if state.hints >= HINTS_MAX || state.is_closed {
            state.lossy.insert(written.extent.segment.index);
            return false;
        }
        state.hints += 1;
        state.messages.push_back(Message::Written(written));
        // The first one ends the sleep and begins the wait for more, which the one that completes the batch ends.
        let wakes = state.messages.len() == 1 || state.hints == BATCH;
        drop(state);
        if wakes {
            self.changed.notify_one();
        }
        true
    }

    /// Nothing is taken any more; what is there is still served.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        if let Some(loader) = state.loader.take() {
            // Full: it is not waiting.
            let _ = loader.try_send(());
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Whether the end has been asked for.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Waits for something to do, for [`SLEEP_MAX`] at most. Blocks alone are waited for until there is a batch of them or `delay` is
    /// over.
    pub(super) fn take(&self, delay: Duration) -> Taken {
        let idle = |state: &mut State| state.messages.is_empty() && !state.is_closed;
        let (state, slept) = self
            .changed
            .wait_timeout_while(self.lock(), SLEEP_MAX, idle)
            .unwrap_or_else(PoisonError::into_inner);
        if slept.timed_out() && state.messages.is_empty() && !state.is_closed {
            return Taken::default();
        }
        let collecting = |state: &mut State| !state.has_order && !state.is_closed && state.hints < BATCH;
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, delay, collecting)
            .unwrap_or_else(PoisonError::into_inner);
        state.hints = 0;
        state.has_order = false;
        Taken {
            messages: std::mem::take(&mut state.messages),
            lossy: std::mem::take(&mut state.lossy),
            is_closed: state.is_closed,
        }
    }

    /// How many messages wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().messages.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change above is whole before the lock is given up.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
