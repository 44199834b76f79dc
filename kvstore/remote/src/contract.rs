//! What the daemon tells this room, and what it hears.

use std::fmt;
use std::sync::Arc;

use kvstore_types::{
    BlockKey, Corruption, NamespaceDescriptor, NamespaceGeometry, NamespaceId, OperationId, ReadClass,
};

/// The memory that slots lie in, as whoever maps it lets this room use it.
///
/// Clients read and write the same bytes at any time, so nobody makes references to them: bytes are copied in and out.
/// This room calls [`copy_in`](Self::copy_in) with verified bytes only, and neither of the two for an operation that has
/// been answered.
pub trait SlotMemory: Send + Sync + 'static {
    /// Copies the bytes from `offset` on into `bytes`. `false` if they do not all lie in it.
    #[must_use]
    fn copy_out(&self, offset: u64, bytes: &mut [u8]) -> bool;
    /// Copies `bytes` to `offset`. `false`, and nothing is changed, if they do not all lie in it.
    #[must_use]
    fn copy_in(&self, offset: u64, bytes: &[u8]) -> bool;
}

/// Names who writes: 16 bytes of the node, the same at each start, then 16 of this boot of the daemon, drawn at random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriterId(pub [u8; 32]);

impl WriterId {
    /// Composed of the two.
    pub fn new(node: [u8; 16], boot: [u8; 16]) -> Self {
        let mut id = [0; 32];
        id[..16].copy_from_slice(&node);
        id[16..].copy_from_slice(&boot);
        Self(id)
    }

    /// The node's half.
    pub fn node(&self) -> &[u8] {
        &self.0[..16]
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An order to the remote tier. Each is answered exactly once, by its deadline, whatever the store does.
#[derive(Debug)]
pub enum Order {
    /// Make a namespace known: it is kept at the store before the first block of it, and compared with what is kept there.
    /// Every other order needs it; blocks of an unknown namespace are refused. Not answered.
    KeepNamespace {
        /// All that it stands for.
        descriptor: NamespaceDescriptor,
        /// What its blocks look like.
        geometry: NamespaceGeometry,
    },
    /// Forget a namespace: nothing more will be asked of it here. What is at the store stays. Not answered.
    ForgetNamespace {
        /// Which.
        namespace: NamespaceId,
    },
    /// Write a block. The slot's bytes must not change until [`RemoteEvent::Taken`] or the answer.
    Store {
        /// Names the order.
        operation: OperationId,
        /// The block.
        key: BlockKey,
        /// The block's descriptor, opaque; at most [`crate::DESCRIPTOR_BYTES_MAX`]. Empty: none.
        descriptor: Vec<u8>,
        /// Where the payload begins in memory: behind the slot's header page, if slots have one. Its length is the
        /// namespace's slot bytes of the group.
        offset: u64,
    },
    /// Read and verify a block into a slot. The slot is written to only between the order and its answer, and only with
    /// a block that has been verified whole: once it is answered, in whatever way, the slot is the engine's again.
    Fetch {
        /// Names the order.
        operation: OperationId,
        /// The block.
        key: BlockKey,
        /// Where the payload goes.
        offset: u64,
        /// How urgent it is.
        class: ReadClass,
    },
    /// A fetch has become more or less urgent. Not answered.
    SetClass {
        /// The fetch.
        operation: OperationId,
        /// How urgent it is now.
        class: ReadClass,
    },
    /// Which of these blocks are there?
    Exists {
        /// Names the order.
        operation: OperationId,
        /// The blocks, in the order of their prefix; one namespace.
        keys: Vec<BlockKey>,
        /// Whether blocks behind the first missing one are of no use, so that nobody looks for them.
        until_missing: bool,
    },
    /// Remove a block from the store.
    Delete {
        /// Names the order.
        operation: OperationId,
        /// The block.
        key: BlockKey,
    },
}

/// What happens at the remote tier.
#[derive(Debug)]
pub enum RemoteEvent {
    /// A store has taken its bytes: the slot may change. Comes at most once, before the answer.
    Taken {
        /// Which store.
        operation: OperationId,
    },
    /// A store or a deletion has been answered.
    Done {
        /// Which.
        operation: OperationId,
        /// How.
        outcome: Outcome,
    },
    /// A fetch has been answered.
    Fetched {
        /// Which.
        operation: OperationId,
        /// How; [`Outcome::Done`]: the block is in the slot.
        outcome: Outcome,
        /// The block's descriptor, if it is.
        descriptor: Vec<u8>,
    },
    /// Whether blocks are there.
    Existence {
        /// Which order.
        operation: OperationId,
        /// For each key, in its order. What was not looked for is unknown.
        presence: Vec<Presence>,
    },
    /// The store came into or out of service in one direction. While it is out, everything in that direction is answered
    /// at once as unavailable; it comes back by itself.
    Service {
        /// Reads and look-ups, or writes and deletions.
        direction: Direction,
        /// Whether it is in service.
        available: bool,
        /// What happened, for people.
        reason: String,
    },
}

/// How an order ended. Whatever it is, but for `Done` and `AlreadyPresent`, it is a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Done; what was read has been verified.
    Done,
    /// The block is at the store already, whoever wrote it.
    AlreadyPresent,
    /// There is no such block.
    Missing,
    /// What is there is not the block. The key can be stored again: then it is replaced.
    Corrupt(Corruption),
    /// The store could not be asked, or failed.
    Unavailable(FaultKind),
    /// Its deadline passed.
    TimedOut,
    /// It was never begun.
    Refused(Refusal),
}

/// Which way bytes go. Each has a breaker and a budget of its own, so a store that only lets itself be read is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Fetches and look-ups.
    Read,
    /// Stores and deletions.
    Write,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Read, Self::Write];

    /// The name used in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// Whether a block is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Presence {
    /// It was, when the store or this node's cache was asked.
    Present,
    /// It was not.
    Missing,
    /// Nobody knows: to be treated as missing, not to be remembered.
    Unknown,
}

/// Why an order was never begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// More orders are waiting than may.
    QueueFull,
    /// Its namespace was not made known.
    UnknownNamespace,
    /// The store keeps something else under the namespace's name.
    NamespaceDiffers,
    /// A descriptor that is too long, a group that is not there, a place outside of the memory, keys of several namespaces.
    Malformed,
    /// The tier is being closed.
    Closed,
}

macro_rules! fault_kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal),* $(,)?) => {
        /// What is wrong with a store.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum FaultKind {
            $($(#[$doc])* $kind,)*
        }

        impl FaultKind {
            /// All of them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$kind),*];

            /// The name used in logs and metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}
fault_kinds! {
    /// It was found out of service before, and nobody asked again yet.
    OutOfService = "out-of-service",
    /// It did not answer in time.
    Stalled = "stalled",
    /// No connection, or it broke.
    Connection = "connection",
    /// The name of the host could not be resolved.
    Resolve = "resolve",
    /// It asks for fewer requests (429, 503).
    Throttled = "throttled",
    /// It failed (5xx, an input or output error).
    Server = "server",
    /// It knows who we are and does not allow it (403, EACCES).
    Denied = "denied",
    /// The credentials are missing, wrong or have expired.
    Credentials = "credentials",
    /// The bucket or the mounted directory is not there.
    NotThere = "not-there",
    /// No room, or the quota is used up.
    NoSpace = "no-space",
    /// What arrived was fewer bytes than were promised.
    Truncated = "truncated",
    /// It answers in a way that is not understood.
    Protocol = "protocol",
    /// Something that cannot be ours (no file, or one that is far too long) has the name of a block, of a namespace's object or of a
    /// directory blocks lie in: of these blocks alone it says something, and of the store nothing.
    NameTaken = "name-taken",
}

/// Hears everything, from this room's threads. It must not wait.
pub type EventSink = Arc<dyn Fn(Vec<RemoteEvent>) + Send + Sync>;
