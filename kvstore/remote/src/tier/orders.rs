//! Orders that have not been answered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kvstore_types::{BlockKey, OperationId, ReadClass};
use tokio::task::AbortHandle;

use super::claim::Claim;
use super::namespaces::Namespace;
use super::shared::{Ended, LaneIndex};
use crate::backend::Mode;
use crate::stats::OperationKind;
use crate::{Outcome, Presence, RemoteEvent};

/// One order.
pub(super) struct Ordered {
    pub(super) kind: OperationKind,
    pub(super) lane: LaneIndex,
    /// The block, if it is about one.
    pub(super) key: Option<BlockKey>,
    /// Bytes of its payload.
    pub(super) payload_bytes: u64,
    pub(super) begun: Instant,
    pub(super) deadline: Instant,
    /// What is known of a look-up's blocks.
    pub(super) progress: Option<Progress>,
    pub(super) state: State,
    /// The answer it should have had already, were its task not touching the slot.
    pub(super) overdue: Option<Outcome>,
}

/// Where it is.
pub(super) enum State {
    /// In its lane.
    Waiting(Work, Arc<Namespace>),
    /// With its task.
    UnderWay(Claim, AbortHandle),
    /// Done with.
    Answered,
}

/// What is to be done.
pub(super) enum Work {
    Store {
        key: BlockKey,
        descriptor: Vec<u8>,
        offset: u64,
        mode: Mode,
    },
    Fetch {
        key: BlockKey,
        offset: u64,
    },
    Exists {
        /// The blocks that are not known, with their places among all.
        unknown: Vec<(usize, BlockKey)>,
        until_missing: bool,
        progress: Progress,
    },
    Delete {
        key: BlockKey,
    },
}

/// What is known of a look-up's blocks so far.
#[derive(Clone)]
pub(super) struct Progress(Arc<Mutex<Vec<Presence>>>);

impl Progress {
    pub(super) fn new(presence: Vec<Presence>) -> Self {
        Self(Arc::new(Mutex::new(presence)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Presence>> {
        // Each entry is valid by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ordered {
    /// Which of its lane's queues it waits in.
    pub(super) fn class(&self) -> ReadClass {
        match self.kind {
            OperationKind::Prefetch => ReadClass::Prefetch,
            _ => ReadClass::Demand,
        }
    }

    /// What is to be done, if nobody has it yet.
    pub(super) fn take_work(&mut self) -> Option<(Work, Arc<Namespace>)> {
        match std::mem::replace(&mut self.state, State::Answered) {
            State::Waiting(work, namespace) => Some((work, namespace)),
            other => {
                self.state = other;
                None
            }
        }
    }

    /// The event that answers it.
    pub(super) fn event(&self, operation: OperationId, ended: Ended) -> RemoteEvent {
        let outcome = ended.outcome;
        match (self.kind, &self.progress) {
            (OperationKind::Demand | OperationKind::Prefetch, _) => RemoteEvent::Fetched {
                operation,
                outcome,
                descriptor: ended.descriptor,
            },
            (OperationKind::Lookup, Some(progress)) => RemoteEvent::Existence {
                operation,
                presence: progress.lock().clone(),
            },
            _ => RemoteEvent::Done { operation, outcome },
        }
    }
}
