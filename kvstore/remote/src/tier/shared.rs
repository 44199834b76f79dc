//! What the dispatcher and the tasks share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kvstore_types::{BlockKey, OperationId};
use tokio::sync::mpsc;

use super::namespaces::Namespaces;
use crate::backend::mount::MountBackend;
use crate::backend::store::{StoreBackend, Surroundings};
use crate::backend::{Backend, Fault};
use crate::buffer::BufferPool;
use crate::state::Existence;
use crate::stats::Counters;
use crate::{
    BackendSpec, Direction, EventSink, Order, Outcome, RemoteSpec, RemoteTuning, SpecError, WriterId,
};

/// Everything that does not change, or that several tasks change.
pub(super) struct Shared {
    pub(super) spec: RemoteSpec,
    pub(super) sink: EventSink,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) buffers: Arc<BufferPool>,
    pub(super) counters: Arc<Counters>,
    pub(super) namespaces: Namespaces,
    existence: Mutex<Existence>,
    messages: mpsc::UnboundedSender<Message>,
}

/// What the dispatcher hears.
pub(super) enum Message {
    /// Somebody wants something.
    Order(Order),
    /// A store has copied its bytes out of the slot.
    Taken(OperationId),
    /// A task has an answer.
    Ended(OperationId, Ended),
    /// The store is done with something that counted in a lane.
    GivenBack(LaneIndex, u64),
    /// An attempt was answered; how.
    Attempt(Direction, Result<(), Fault>),
    /// A probe was answered; how.
    Probed(Direction, Result<(), Fault>),
    /// Accesses were not told to the store, or were.
    Touched(bool, u64),
    /// Bounds change.
    Tune(RemoteTuning),
    /// Answer everything, then tell.
    Close(std::sync::mpsc::Sender<()>),
}

/// A task's answer.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    pub(super) descriptor: Vec<u8>,
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            descriptor: Vec::new(),
        }
    }
}

/// The three lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneIndex {
    Reads,
    Writes,
    Lookups,
}

impl LaneIndex {
    pub(super) const ALL: [Self; 3] = [Self::Reads, Self::Writes, Self::Lookups];

    pub(super) fn direction(self) -> Direction {
        match self {
            Self::Reads | Self::Lookups => Direction::Read,
            Self::Writes => Direction::Write,
        }
    }
}

/// A share of a lane, given back when it is dropped.
pub(super) struct Share {
    lane: LaneIndex,
    bytes: u64,
    messages: mpsc::UnboundedSender<Message>,
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = self.messages.send(Message::GivenBack(self.lane, self.bytes));
    }
}

impl Shared {
    pub(super) fn new(
        spec: RemoteSpec,
        sink: EventSink,
        surroundings: &Surroundings<'_>,
        messages: mpsc::UnboundedSender<Message>,
    ) -> Result<Self, SpecError> {
        let buffers = BufferPool::new(spec.limits.buffer_bytes_kept);
        let mut backend = make_backend(&spec.backend, &spec.name, spec.writer, &buffers, surroundings)?;
        if let Some(between) = surroundings.between {
            backend = between(backend);
        }
        Ok(Self {
            existence: Mutex::new(Existence::new(spec.existence)),
            spec,
            sink,
            backend,
            buffers,
            counters: Arc::default(),
            namespaces: Namespaces::default(),
            messages,
        })
    }

    pub(super) fn existence(&self) -> MutexGuard<'_, Existence> {
        // What is known may be anything.
        self.existence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what an outcome says about a block.
    pub(super) fn learn(&self, key: BlockKey, outcome: Outcome) {
        let now = Instant::now();
        match outcome {
            Outcome::Done => self.existence().set_good(now, key),
            Outcome::AlreadyPresent => self.existence().set_present(now, key),
            Outcome::Missing => self.existence().set_missing(now, key),
            Outcome::Corrupt(_) => self.existence().set_spoiled(now, key),
            Outcome::Unavailable(_) | Outcome::TimedOut | Outcome::Refused(_) => {}
        }
    }

    pub(super) fn tell(&self, message: Message) {
        // The dispatcher ends last.
        let _ = self.messages.send(message);
    }

    pub(super) fn share(&self, lane: LaneIndex, bytes: u64) -> Share {
        Share {
            lane,
            bytes,
            messages: self.messages.clone(),
        }
    }
}

/// The backend that a spec asks for.
pub(crate) fn make_backend(
    spec: &BackendSpec,
    name: &str,
    writer: WriterId,
    buffers: &Arc<BufferPool>,
    surroundings: &Surroundings<'_>,
) -> Result<Arc<dyn Backend>, SpecError> {
    Ok(match spec {
        BackendSpec::Mount(mount) => Arc::new(MountBackend::start(mount, name, writer, buffers.clone())?),
        BackendSpec::Store(store) => Arc::new(StoreBackend::new(store, surroundings, &writer)?),
        BackendSpec::Memory(memory) => memory.clone(),
    })
}
