//! Everything that can wake the engine.

use kvstore_types::{
    BlockHash, BlockKey, DescriptorBytes, DescriptorRun, DeviceIndex, EngineGroupId, Field, GroupGeometry,
    GroupSpan, IoOutcome, NamespaceDescriptor, NamespaceGeometry, NamespaceId, OperationId, ProcessId, Rank,
    SegmentRef, SessionId, SlotRef, Tag, Tier,
};

use crate::config::NvmeTuning;

/// One thing that happened. Batches are borrowed: the engine copies what it keeps.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// A client asks to attach. Answered by `SessionAdmitted` or `SessionRefused`.
    SessionOpened {
        /// The new session.
        session: SessionId,
        /// The process behind it.
        process: ProcessId,
        /// What it says of itself.
        profile: SessionProfile,
    },
    /// A session is over: nothing more will come from it.
    SessionEnded {
        /// The session.
        session: SessionId,
        /// Whether its process promised that no copy of its own is under way.
        end: SessionEnd,
    },
    /// Proof of death: the process can touch no memory any more.
    ProcessDied {
        /// The process.
        process: ProcessId,
    },
    /// How long a prefix is cached? Blocks that make the hit are held under `tag`. Answered by `Completion::Lookup`.
    Lookup {
        /// Who asks.
        session: SessionId,
        /// Names the look-up and its holds.
        tag: Tag,
        /// The keys, at most once for each group; a group that is not named has no blocks.
        groups: &'a [GroupKeys<'a>],
        /// The hit may not be longer than this many tokens.
        tokens_max: u64,
    },
    /// Gives up a look-up's holds. Not answered; a tag that is not known is counted and ignored. A look-up that still waits
    /// for promotions is answered as a miss.
    LookupRelease {
        /// Who gives up.
        session: SessionId,
        /// The look-up.
        tag: Tag,
    },
    /// Turns the holds on `spans` into the lease `lease` and gives up the look-up's other holds. Answered by
    /// `Completion::Load`, under the lease's tag.
    LoadCommit {
        /// Who loads.
        session: SessionId,
        /// The look-up.
        tag: Tag,
        /// The new lease.
        lease: Tag,
        /// The blocks, counted as in the look-up's keys.
        spans: &'a [GroupSpan],
    },
    /// Ends a lease. Not answered; a tag that is not known is counted and ignored.
    LeaseRelease {
        /// Who ends it.
        session: SessionId,
        /// The lease.
        lease: Tag,
    },
    /// Asks for slots to fill. Answered by `Completion::Reserve`, one grant for each key in order.
    Reserve {
        /// The scheduler that asks.
        session: SessionId,
        /// Names the operation.
        tag: Tag,
        /// The keys.
        groups: &'a [GroupKeys<'a>],
        /// What the blocks are about: runs that cover all keys in order, none of them keys of two groups; or no run at
        /// all.
        runs: &'a [DescriptorRun<'a>],
    },
    /// A worker's part of these slots is final. Answered by `Completion::Seal`.
    Seal {
        /// The worker.
        session: SessionId,
        /// Names the operation.
        tag: Tag,
        /// The slots.
        slots: &'a [SlotRef],
    },
    /// From a worker: it will not write its part of these slots any more, and the block is lost. From a scheduler:
    /// no worker was ever told of these slots. Answered by `Completion::Abort`.
    Abort {
        /// Who aborts.
        session: SessionId,
        /// Names the operation.
        tag: Tag,
        /// The slots.
        slots: &'a [SlotRef],
    },
    /// The engine's weights or its cache have changed: its engine group moves to a namespace nobody has used.
    /// Answered by `Completion::Reset`.
    Reset {
        /// The scheduler that asks.
        session: SessionId,
        /// Names the operation.
        tag: Tag,
        /// Random bytes that make the new namespace unique.
        nonce: [u8; 16],
    },
    /// Nothing is reserved from now on; loads go on. The daemon is shutting down.
    Drain,
    /// Continue what the last step left over (see [`Engine::has_work`](crate::Engine::has_work)), and what a moment
    /// in time was waited for (see [`Engine::wakes_at`](crate::Engine::wakes_at)).
    Tick,
    /// Something happened at an NVMe device.
    Nvme {
        /// Which.
        device: DeviceIndex,
        /// What.
        event: NvmeEvent<'a>,
    },
    /// Something happened at the remote tier.
    Remote(RemoteEvent<'a>),
    /// Blocks are to leave, as far as one step gets. Answered by `Effect::RangeEvicted`.
    EvictRange(EvictRange),
    /// These blocks are to leave. Answered by `Effect::RangeEvicted`.
    EvictBlocks(EvictBlocks<'a>),
    /// Blocks are to stay, or not any longer. Answered by `Effect::Kept`.
    Keep(KeepAsk<'a>),
    /// The host tier's watermarks change while it runs: `0 < low < high <= 1`, else nothing changes.
    HostTuned {
        /// Eviction stops here.
        watermark_low: f64,
        /// Eviction starts here.
        watermark_high: f64,
    },
    /// The NVMe tier's settings change while it runs.
    NvmeTuned {
        /// The new settings.
        tuning: NvmeTuning,
    },
}

/// What happens at the remote tier. It is out of service, both ways, until it says otherwise.
#[derive(Clone, Debug)]
pub enum RemoteEvent<'a> {
    /// A store has taken its bytes: the slot may change. At most once, before its answer.
    Taken {
        /// Which.
        operation: OperationId,
    },
    /// A store is over.
    Stored {
        /// Which.
        operation: OperationId,
        /// How.
        outcome: RemoteOutcome,
    },
    /// A fetch is over.
    Fetched {
        /// Which.
        operation: OperationId,
        /// How; `Done`: the block is in its slot, and was verified.
        outcome: RemoteOutcome,
        /// What the block is about, if that was kept with it.
        descriptor: Option<DescriptorBytes>,
    },
    /// Whether blocks are there.
    Existence {
        /// Which question.
        operation: OperationId,
        /// For each key in order, whether it is known to be there.
        presence: &'a [bool],
    },
    /// The tier came into or went out of service in one direction. While it is out nothing is ordered that way.
    Service {
        /// Which way.
        direction: RemoteDirection,
        /// Whether it is in service.
        is_available: bool,
    },
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RemoteDirection {
    /// Fetches and questions.
    Read = 0,
    /// Stores.
    Write = 1,
}

/// How an order to the remote tier ended. All but the first two are misses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RemoteOutcome {
    /// Done.
    Done,
    /// The block was there already.
    AlreadyPresent,
    /// There is no such block.
    Missing,
    /// What is there is not the block.
    Corrupt,
    /// The store failed or could not be asked.
    Unavailable,
    /// The store has no room for it.
    NoSpace,
    /// Its deadline passed.
    TimedOut,
    /// It was never begun.
    Refused,
}

/// What happens at an NVMe device. At start the order is: `SegmentUnusable` and `SegmentFound` for each segment there is, then `Namespace`
/// before its `Blocks`, then `Loaded`; operations are ordered from `Loaded` on, reads of blocks that were told before.
#[derive(Clone, Debug)]
pub enum NvmeEvent<'a> {
    /// There is a segment with blocks in it, or an empty one (generation 0 or no blocks).
    SegmentFound {
        /// Which, and the generation of what is in it.
        segment: SegmentRef,
        /// The first page behind everything that was found in it; appending may go on there. At least 1. For a segment
        /// whose `SegmentFull` was recorded it is the segment's number of pages: what was appended to it might not be
        /// searched for at the next start.
        tail: u32,
    },
    /// A file that has the name of a segment cannot be used. It counts for the capacity, and its number is not used.
    SegmentUnusable {
        /// The number.
        index: u32,
    },
    /// A namespace that blocks of this device belong to.
    Namespace {
        /// All that it stands for.
        descriptor: &'a NamespaceDescriptor,
        /// What its blocks look like.
        geometry: &'a NamespaceGeometry,
    },
    /// Blocks that are on the device. They are found from now on; whether they are good shows when they are read.
    Blocks {
        /// Their names and places, in order of place.
        blocks: &'a [FoundBlock],
    },
    /// All that was on the device has been told.
    Loaded,
    /// An order is done.
    Done {
        /// Which.
        operation: OperationId,
        /// How.
        outcome: IoOutcome,
    },
    /// The device is gone (its thread ended, its directory cannot be used): nothing more will come from it. Orders
    /// that were under way have been answered before.
    Lost,
}

/// Which blocks are to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvictRange {
    /// Those of this namespace; none: of all.
    pub namespace: Option<NamespaceId>,
    /// Out of this tier; none: out of all.
    pub tier: Option<Tier>,
    /// Where to begin: 0, then what the last answer said.
    pub cursor: u32,
    /// Only counts.
    pub is_dry_run: bool,
}

/// Blocks that are to leave, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvictBlocks<'a> {
    /// Which: as many as one step may take.
    pub keys: &'a [BlockKey],
    /// Out of this tier; none: out of all.
    pub tier: Option<Tier>,
    /// Only counts.
    pub is_dry_run: bool,
}

/// What is to stay. Kept blocks are nobody's victim, as far as they fit into `EngineConfig::keep_share` of their tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepAsk<'a> {
    /// All blocks of a namespace, those that come included.
    Namespace {
        /// Which. It need not be known yet.
        namespace: NamespaceId,
        /// Where to begin: 0, then what the last answer said.
        cursor: u32,
    },
    /// Blocks by name, whether they are here or not.
    Blocks {
        /// The wish that names more blocks with this; none: a new one.
        keep: Option<u64>,
        /// The blocks: as many as one step may take.
        keys: &'a [BlockKey],
    },
    /// A wish ends, as far as one step gets: until an answer says that nothing is left.
    End {
        /// Which.
        keep: u64,
    },
}

/// A block found on a device at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundBlock {
    /// Its name.
    pub key: BlockKey,
    /// Its segment, which was told before.
    pub segment: SegmentRef,
    /// Its first page.
    pub page: u32,
    /// Its number of pages, header included.
    pub pages: u32,
    /// Its descriptor, if one was written with it.
    pub descriptor: Option<DescriptorBytes>,
}

/// Keys of one group, from the start of the sequence (`Lookup`) or of new blocks (`Reserve`).
#[derive(Clone, Copy, Debug)]
pub struct GroupKeys<'a> {
    /// Index of the group.
    pub group: u32,
    /// One hash for each block.
    pub hashes: &'a [BlockHash],
}

/// What a client says of itself when it attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionProfile {
    /// The engine it belongs to.
    pub engine_group: EngineGroupId,
    /// A name for people: `vllm 0.32.0`.
    pub engine_name: String,
    /// What it does there.
    pub role: Role,
    /// Workers of this engine on this node.
    pub rank_count: u16,
    /// Descriptor fields of the whole engine, equal in all its sessions.
    pub fields: Vec<Field>,
    /// Descriptor fields of this worker alone; empty for a scheduler.
    pub rank_fields: Vec<Field>,
    /// The engine's KV cache groups as this session knows them.
    pub groups: Vec<GroupGeometry>,
    /// Where routers find the engine, as it stands in its events: `10.0.0.1:8000`. Empty: no router knows it. Like the
    /// model's name it is a fact of the session: namespaces and blocks do not depend on it.
    pub pod: String,
    /// The name that the engine serves its model under.
    pub model: String,
}

/// What a session does in its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Looks up, holds leases, reserves, resets.
    Scheduler,
    /// Copies and seals its rank's part.
    Worker(Rank),
    /// Reads counters and nothing else.
    Observer,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionEnd {
    /// The client said good-bye and promised that no copy of this session is under way.
    Closed,
    /// The connection broke, or the client was cut off: its process may still be copying.
    HungUp,
}
