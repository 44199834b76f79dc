//! One attached client, as the engine thread knows it.

use std::collections::VecDeque;
use std::time::Instant;

use connector_shm::{Completion, DaemonEnd, PeerCredentials, PeerCursorError, RankLayout, SendError, Sleep};
use kvstore_engine::{Refusal, SessionEnd};
use kvstore_types::{GroupSpan, NamespaceId, ProcessId, SessionId, SlotRef, Tag};
use tokio::sync::oneshot;

use super::command::Attach;

/// Messages said unasked that wait for room in a completion ring; a client that reads none of them is cut off. Answers
/// that wait are as many as the session's look-ups at most, and events as many as it has given credit for: its requests
/// are not read while any message waits.
const OUTBOX_MAX: usize = 64;

/// Clients know `LookupPending` since this minor version.
const PENDING_ABI_MINOR: u16 = 1;

/// A client and its rings.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) process: ProcessId,
    /// Index of the rank whose layout it is told; 0 for those that have none.
    pub(super) rank: usize,
    /// Where routers find its engine; empty: nowhere.
    pub(super) pod: String,
    /// The name that its engine serves its model under.
    pub(super) model: String,
    /// What it does in its engine.
    pub(super) role: kvstore_engine::Role,
    /// What becomes of blocks is told to it.
    pub(super) relay: Option<kvstore_events::Relay>,
    /// Whether it is told that a look-up waits for blocks on their way.
    pub(super) hears_pending: bool,
    pub(super) end: DaemonEnd,
    /// As its engine calls itself.
    pub(super) engine_name: String,
    /// Whose process it is.
    pub(super) credentials: PeerCredentials,
    /// When it attached.
    pub(super) since: Instant,
    /// Something was taken or put since the client was last notified.
    pub(super) touched: bool,
    /// Nobody listens any more.
    leaving: bool,
    outbox: VecDeque<Parked>,
    admitted: Option<oneshot::Sender<Result<(), Refusal>>>,
    ended: Option<oneshot::Sender<SessionEnd>>,
}

/// Why a session cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// It lied about its rings.
    #[error(transparent)]
    Cursor(#[from] PeerCursorError),
    /// It sent nonsense.
    #[error(transparent)]
    Message(#[from] connector_shm::MessageError),
    /// It broke a rule.
    #[error(transparent)]
    Violation(#[from] kvstore_engine::Violation),
    /// It asks for more than it could be told.
    #[error("the answer may have {needed} bytes, the completion ring has {capacity}")]
    AnswerTooLarge {
        /// Bytes the answer may take.
        needed: usize,
        /// Bytes of the ring.
        capacity: usize,
    },
    /// It takes nothing out of its ring.
    #[error("{OUTBOX_MAX} messages wait for it and it reads none")]
    ReadsNothing,
    /// It did something else.
    #[error("{0}")]
    Other(&'static str),
}

/// A completion that owns what it says.
#[derive(Debug)]
enum Parked {
    Lookup {
        tag: Tag,
        hit_tokens: u64,
        outcome: connector_shm::LookupOutcome,
        spans: Vec<GroupSpan>,
    },
    Load {
        lease: Tag,
        lost: u32,
        grants: Vec<SlotRef>,
    },
    Reserve {
        tag: Tag,
        grants: Vec<SlotRef>,
    },
    Counters {
        tag: Tag,
        json: String,
    },
    NamespaceReady {
        namespace: NamespaceId,
        groups: Vec<RankLayout>,
    },
    Events {
        batch: Option<Vec<u8>>,
    },
    /// One that borrows nothing.
    Plain(Completion<'static>),
}

impl Session {
    pub(super) fn new(attach: Attach, now: Instant) -> Self {
        let rank = match attach.profile.role {
            kvstore_engine::Role::Worker(rank) => usize::from(rank.0),
            kvstore_engine::Role::Scheduler | kvstore_engine::Role::Observer => 0,
        };
        Self {
            id: attach.session,
            process: attach.process,
            rank,
            pod: attach.profile.pod,
            model: attach.profile.model,
            role: attach.profile.role,
            relay: None,
            hears_pending: attach.abi_minor >= PENDING_ABI_MINOR,
            end: attach.end,
            engine_name: attach.profile.engine_name,
            credentials: attach.credentials,
            since: now,
            touched: false,
            leaving: false,
            outbox: VecDeque::new(),
            admitted: Some(attach.admitted),
            ended: Some(attach.ended),
        }
    }

    /// Tells the handshake how it went. `false`: nobody waits for it any more.
    pub(super) fn answer_handshake(&mut self, answer: Result<(), Refusal>) -> bool {
        self.admitted
            .take()
            .is_none_or(|admitted| admitted.send(answer).is_ok())
    }

    /// Tells the socket's side that the session is over.
    pub(super) fn finish(mut self, end: SessionEnd) {
        if let Some(ended) = self.ended.take() {
            // The socket's side may be gone already.
            let _ = ended.send(end);
        }
    }

    /// From now on nothing is sent: the client is gone.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
        self.relay = None;
        self.outbox.clear();
    }

    /// Whether the client is gone.
    pub(super) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Sends a completion, or keeps it until there is room.
    pub(super) fn send(&mut self, completion: &Completion<'_>) -> Result<(), Fault> {
        if self.leaving {
            return Ok(());
        }
        self.touched = true;
        if self.outbox.is_empty() && self.try_send(completion)? {
            return Ok(());
        }
        let unasked = |parked: &&Parked| parked.is_unasked();
        if is_unasked(completion) && self.outbox.iter().filter(unasked).count() >= OUTBOX_MAX {
            return Err(Fault::ReadsNothing);
        }
        self.outbox.push_back(Parked::new(completion));
        Ok(())
    }

    /// Sends what was kept. `true`: nothing is kept any more, and the session's requests may be read.
    pub(super) fn flush(&mut self) -> Result<bool, Fault> {
        while let Some(parked) = self.outbox.pop_front() {
            if !self.try_send(&parked.completion())? {
                self.outbox.push_front(parked);
                return Ok(false);
            }
            self.touched = true;
        }
        Ok(true)
    }

    /// Says that the daemon is about to sleep, with the room that is wanted for what was kept.
    pub(super) fn begin_sleep(&mut self) -> Result<Sleep, PeerCursorError> {
        let room = self
            .outbox
            .front()
            .map_or(0, |parked| parked.completion().wire_bytes());
        if room > 0 {
            // Requests that are there are not read before the outbox is empty, so they must not keep us awake.
            return self.end.completions().begin_wait(room);
        }
        self.end.begin_sleep(0)
    }

    /// Rings the client's bell if it sleeps on something that has changed.
    pub(super) fn notify(&mut self) -> Result<(), connector_shm::DoorbellError> {
        if std::mem::take(&mut self.touched) {
            self.end.notify()
        } else {
            Ok(())
        }
    }

    /// Whether an answer of this size could ever be given.
    pub(super) fn check_answer(&mut self, needed: usize) -> Result<(), Fault> {
        let capacity = self.end.completions().capacity();
        if needed > capacity {
            Err(Fault::AnswerTooLarge { needed, capacity })
        } else {
            Ok(())
        }
    }

    fn try_send(&mut self, completion: &Completion<'_>) -> Result<bool, Fault> {
        match self.end.send(completion) {
            Ok(()) => Ok(true),
            Err(SendError::Full { .. }) => Ok(false),
            Err(SendError::TooLarge { needed, capacity }) => Err(Fault::AnswerTooLarge { needed, capacity }),
            Err(SendError::Peer(error)) => Err(error.into()),
        }
    }
}

/// Whether no request asked for it.
fn is_unasked(completion: &Completion<'_>) -> bool {
    matches!(
        completion,
        Completion::NamespaceReady { .. } | Completion::Draining
    )
}

impl Parked {
    fn is_unasked(&self) -> bool {
        is_unasked(&self.completion())
    }

    fn new(completion: &Completion<'_>) -> Self {
        match *completion {
            Completion::Lookup {
                tag,
                hit_tokens,
                outcome,
                spans,
            } => Self::Lookup {
                tag,
                hit_tokens,
                outcome,
                spans: spans.to_vec(),
            },
            Completion::Load { lease, lost, grants } => Self::Load {
                lease,
                lost,
                grants: grants.to_vec(),
            },
            Completion::Reserve { tag, grants } => Self::Reserve {
                tag,
                grants: grants.to_vec(),
            },
            Completion::Counters { tag, json } => Self::Counters {
                tag,
                json: json.to_owned(),
            },
            Completion::NamespaceReady { namespace, groups } => Self::NamespaceReady {
                namespace,
                groups: groups.to_vec(),
            },
            Completion::Seal {
                tag,
                published,
                sealed,
                stale,
            } => Self::Plain(Completion::Seal {
                tag,
                published,
                sealed,
                stale,
            }),
            Completion::Abort { tag, aborted, stale } => {
                Self::Plain(Completion::Abort { tag, aborted, stale })
            }
            Completion::Reset { tag, namespace } => Self::Plain(Completion::Reset { tag, namespace }),
            Completion::LookupPending { tag, hit_tokens } => {
                Self::Plain(Completion::LookupPending { tag, hit_tokens })
            }
            Completion::Draining => Self::Plain(Completion::Draining),
            Completion::Events { batch } => Self::Events {
                batch: batch.map(<[u8]>::to_vec),
            },
        }
    }

    fn completion(&self) -> Completion<'_> {
        match self {
            Self::Lookup {
                tag,
                hit_tokens,
                outcome,
                spans,
            } => Completion::Lookup {
                tag: *tag,
                hit_tokens: *hit_tokens,
                outcome: *outcome,
                spans,
            },
            Self::Load { lease, lost, grants } => Completion::Load {
                lease: *lease,
                lost: *lost,
                grants,
            },
            Self::Reserve { tag, grants } => Completion::Reserve { tag: *tag, grants },
            Self::Counters { tag, json } => Completion::Counters { tag: *tag, json },
            Self::NamespaceReady { namespace, groups } => Completion::NamespaceReady {
                namespace: *namespace,
                groups,
            },
            Self::Events { batch } => Completion::Events {
                batch: batch.as_deref(),
            },
            Self::Plain(completion) => *completion,
        }
    }
}
