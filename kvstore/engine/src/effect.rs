//! Everything the engine can ask for.
//!
//! Effects of one step are collected in a buffer that the caller reuses, so a step in steady state allocates nothing.
//! Batches (grants, spans) lie in shared vectors of that buffer; an effect names its range.

use std::ops::Range;

use kvstore_types::{
    BlockKey, DescriptorBytes, DeviceIndex, Extent, GeometryError, GroupGeometry, GroupLayout, GroupSpan,
    NamespaceDescriptor, NamespaceGeometry, NamespaceId, OperationId, Rank, ReadClass, SegmentRef, SessionId,
    SlotRef, Tag, Tier,
};

use crate::steps::{Evicted, KeepRefusal, Kept};

mod note;
mod remote;

pub use note::{NamespaceFault, Note};
pub use remote::RemoteOrder;

/// What the engine wants done, in order, after one step.
#[derive(Debug, Default)]
pub struct Effects {
    /// The effects.
    pub list: Vec<Effect>,
    /// Grants that completions refer to.
    pub grants: Vec<Grant>,
    /// Spans that completions refer to.
    pub spans: Vec<GroupSpan>,
}

impl Effects {
    /// Forgets everything and keeps the memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.grants.clear();
        self.spans.clear();
    }
}

/// One thing the engine asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Let this session in.
    SessionAdmitted {
        /// The session.
        session: SessionId,
    },
    /// Tell this client why it may not attach. The engine has forgotten it.
    SessionRefused {
        /// The session.
        session: SessionId,
        /// Why.
        refusal: Refusal,
    },
    /// All ranks of the session's engine have attached (or it was reset): tell the session its namespace.
    NamespaceReady {
        /// The session.
        session: SessionId,
        /// The namespace.
        namespace: NamespaceId,
        /// The layout of each group's slots.
        groups: Vec<GroupLayout>,
    },
    /// An operation has its answer.
    Complete {
        /// Who asked.
        session: SessionId,
        /// Which operation.
        tag: Tag,
        /// The answer.
        completion: Completion,
    },
    /// The session broke the protocol. It has been ended as if it had hung up; close its connection.
    CutOff {
        /// The session.
        session: SessionId,
        /// What it did.
        violation: Violation,
    },
    /// A copy became usable: sealed by all ranks or promoted (host), written and durable or found at start (NVMe), stored
    /// by this node or heard of from the store (remote; another node may remove it unheard).
    ///
    /// Blocks that one seal publishes are announced in the order in which they were reserved: parents first. Blocks found
    /// at start come in any order.
    BlockStored {
        /// Its name.
        key: BlockKey,
        /// Where the copy is.
        tier: Tier,
        /// What it is about, if an engine has said so.
        descriptor: Option<DescriptorBytes>,
    },
    /// A block that was announced without a descriptor has one from now on, in all tiers where it is.
    BlockDescribed {
        /// Its name.
        key: BlockKey,
        /// What it is about.
        descriptor: DescriptorBytes,
    },
    /// A usable copy is gone.
    BlockRemoved {
        /// Its name.
        key: BlockKey,
        /// Where the copy was.
        tier: Tier,
        /// Why.
        cause: RemovalCause,
    },
    /// An order to an NVMe device. Orders to one device are carried out as if in order where one depends on another:
    /// see each of them.
    Nvme {
        /// The device.
        device: DeviceIndex,
        /// The order.
        order: NvmeOrder,
    },
    /// An order to the remote tier.
    Remote(RemoteOrder),
    /// The answer to `Event::Keep`.
    Kept(Result<Kept, KeepRefusal>),
    /// The answer to `Event::EvictRange` and `Event::EvictBlocks`.
    RangeEvicted(Evicted),
    /// A fact worth a line in the log.
    Note(Note),
}

/// What an NVMe device is told to do. Those that name an operation are answered by
/// [`NvmeEvent::Done`](crate::NvmeEvent::Done).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NvmeOrder {
    /// Remember what a namespace stands for. Comes before the first write of one of its blocks.
    KeepNamespace {
        /// All that it stands for.
        descriptor: NamespaceDescriptor,
        /// What its blocks look like.
        geometry: NamespaceGeometry,
    },
    /// Forget what a namespace stands for: no block of it is wanted any more, here or elsewhere. It may be kept again later.
    DropNamespace {
        /// The namespace.
        namespace: NamespaceId,
    },
    /// Make a segment's file, with all its space taken (`NoSpace` if there is none).
    CreateSegment {
        /// Names the order.
        operation: OperationId,
        /// Its number.
        index: u32,
    },
    /// Remove a segment and its file. Nothing of it is wanted or under way any more.
    DeleteSegment {
        /// Names the order.
        operation: OperationId,
        /// Its number.
        index: u32,
    },
    /// Forget everything in a segment and begin its next use, durably, before it is answered. Nothing is written to the
    /// segment before the answer.
    OpenSegment {
        /// Names the order.
        operation: OperationId,
        /// The segment with its new generation, higher than any that the device's segments have had: so generations tell
        /// the order in which segments were opened, across restarts.
        segment: SegmentRef,
    },
    /// Write a slot to an extent. The slot's bytes do not change until it is answered.
    Write {
        /// Names the order.
        operation: OperationId,
        /// Where to.
        extent: Extent,
        /// Where from: the slot's header page is the daemon's to fill.
        slot: SlotRef,
        /// The block.
        key: BlockKey,
        /// What it is about, to be kept with it.
        descriptor: Option<DescriptorBytes>,
    },
    /// Read an extent into a slot and verify it.
    Read {
        /// Names the order.
        operation: OperationId,
        /// Where from.
        extent: Extent,
        /// Where to. Nobody else uses the slot until it is answered.
        slot: SlotRef,
        /// The block it has to be.
        key: BlockKey,
        /// How urgent it is.
        class: ReadClass,
    },
    /// A read has become more or less urgent. Too late if it has begun.
    SetClass {
        /// The read.
        operation: OperationId,
        /// How urgent it is now.
        class: ReadClass,
    },
    /// Copy a block from one extent to another of the same device, its descriptor included, verified, beside everything
    /// more urgent.
    Move {
        /// Names the order.
        operation: OperationId,
        /// Where from.
        from: Extent,
        /// Where to.
        to: Extent,
        /// The block it has to be.
        key: BlockKey,
    },
    /// Read an extent and verify it, keeping nothing, when there is nothing else to do.
    Verify {
        /// Names the order.
        operation: OperationId,
        /// Where.
        extent: Extent,
        /// The block it has to be.
        key: BlockKey,
    },
    /// A block is not to be found at this extent after a restart.
    Forget {
        /// Where it was.
        extent: Extent,
    },
    /// Everything that will ever be written to this use of a segment has been answered: it need not be searched for
    /// more after a restart.
    SegmentFull {
        /// The segment.
        segment: SegmentRef,
    },
}

/// The answer to an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// To `Lookup`, at most once and before its answer: blocks of the hit are on their way into host memory, or the remote
    /// tier is asked for some; the answer comes when they are there or when the deadline has passed.
    LookupPending {
        /// Longest the hit can be: its length if all of them arrive, and all that the remote tier was asked for is there.
        hit_tokens: u64,
    },
    /// To `Lookup`.
    Lookup {
        /// Length of the hit in tokens; 0 is a miss, and a miss holds nothing.
        hit_tokens: u64,
        /// The blocks that are held: one span for each group that the hit needs. Range in `Effects::spans`.
        spans: Range<u32>,
        /// How many of them came from NVMe, and from the remote tier, while the look-up waited.
        arrived: [u64; 2],
        /// Why the hit is shorter than it might be, where it is not for want of blocks.
        outcome: LookupOutcome,
    },
    /// To `LoadCommit`: one grant for each block of the spans, in order, `Slot` or `Lost`. Range in
    /// `Effects::grants`. If every grant is lost there is no lease.
    Load {
        /// The grants.
        grants: Range<u32>,
        /// How many of them are lost.
        lost: u32,
    },
    /// To `Reserve`: one grant for each key in order. Range in `Effects::grants`.
    Reserve {
        /// The grants.
        grants: Range<u32>,
    },
    /// To `Seal`.
    Seal {
        /// Parts that were sealed.
        sealed: u32,
        /// Blocks that all ranks have now sealed and that can be found from now on.
        published: u32,
        /// Slots the session had nothing to seal in: aborted or lost meanwhile.
        stale: u32,
    },
    /// To `Abort`.
    Abort {
        /// Reservations (or parts of them) that were given back.
        aborted: u32,
        /// Slots the session had nothing to abort in.
        stale: u32,
    },
    /// To `Reset`.
    Reset {
        /// The new namespace; none while the engine is not complete, or if it could have no new one. Then its
        /// look-ups miss and its reservations are refused.
        namespace: Option<NamespaceId>,
    },
}

/// Whether a look-up could be answered in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LookupOutcome {
    /// Yes.
    Complete,
    /// Not all ranks of the engine have attached yet; nothing was looked up.
    NotReady,
    /// The session holds as much as it may; nothing was looked up.
    QuotaExceeded,
}

/// The answer for one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    /// The slot is the client's to fill (`Reserve`) or to read (`LoadCommit`).
    Slot(SlotRef),
    /// `Reserve`: the block is in the tier already.
    AlreadyPresent,
    /// `Reserve`: another reservation of the block is under way.
    Filling,
    /// `Reserve`: every slot that could be taken is leased, pinned or being filled. The store is dropped.
    NoSpace,
    /// `Reserve`: the daemon is shutting down.
    Draining,
    /// `Reserve`: not all ranks of the engine have attached yet.
    NotReady,
    /// `LoadCommit`: the hold was taken back, or there never was one.
    Lost,
}

/// Why a client may not attach.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many sessions as may be are attached.
    #[error("all {max} sessions of this tenant are taken")]
    SessionsExhausted {
        /// The limit.
        max: usize,
    },
    /// The daemon drains.
    #[error("the daemon is draining: it lets no more clients in until it has been started again")]
    Draining,
    /// The engine's sessions disagree about a field that must be equal in all of them.
    #[error("descriptor field {tag:?} differs from the one this engine's other sessions attached with")]
    FieldDiffers {
        /// The field's tag.
        tag: String,
    },
    /// The fields do not make a descriptor.
    #[error("bad namespace descriptor: {0}")]
    Descriptor(#[from] kvstore_types::DescriptorError),
    /// A common field would be taken for one that the daemon adds to the descriptor.
    #[error(
        "descriptor field {tag:?} has a reserved tag: \"geometry\", \"reset.nonce\" and all that begin with \
         \"rank.\" are the daemon's own"
    )]
    ReservedTag {
        /// The field's tag.
        tag: String,
    },
    /// The engine's sessions disagree about the number of ranks.
    #[error("want {expected} ranks as in this engine's other sessions, got {actual}")]
    RankCountDiffers {
        /// What the others said.
        expected: u16,
        /// What this one says.
        actual: u16,
    },
    /// The rank does not exist.
    #[error("want a rank below {rank_count}, got {rank}")]
    RankOutOfRange {
        /// The rank.
        rank: Rank,
        /// How many there are.
        rank_count: u16,
    },
    /// Another session of this engine already has this role.
    #[error("another session of this engine is attached as {0}")]
    RoleTaken(String),
    /// The groups do not fit together.
    #[error("bad KV cache groups: {0}")]
    Geometry(#[from] GeometryError),
    /// The scheduler knows another number of groups than the workers.
    #[error("want {expected} KV cache groups of the scheduler as of the workers, got {actual}")]
    SchedulerGroupCount {
        /// What the workers said.
        expected: usize,
        /// What the scheduler said.
        actual: usize,
    },
    /// The scheduler describes a group as the workers do not.
    #[error("the scheduler describes KV cache group {group} as {actual}, the workers as {expected}")]
    SchedulerGroupDiffers {
        /// The group.
        group: usize,
        /// What the workers said.
        expected: GroupGeometry,
        /// What the scheduler said.
        actual: GroupGeometry,
    },
    /// A slot would not fit into an arena.
    #[error(
        "a block of group {group} needs {slot_bytes} bytes, an arena has {arena_bytes}: raise host.arena-bytes or \
         lower the blocks per chunk"
    )]
    BlockTooLarge {
        /// The group.
        group: usize,
        /// What a slot would take.
        slot_bytes: u64,
        /// What an arena has.
        arena_bytes: u64,
    },
    /// The descriptors of namespaces and sessions take as much memory as they may.
    #[error(
        "the descriptors of this tenant's attached engines take all of the {max} bytes they may: give this engine \
         a smaller one, or detach others"
    )]
    DescriptorsExhausted {
        /// The limit.
        max: usize,
    },
    /// Two descriptors with one id: cannot happen unless BLAKE3 is broken, and is checked all the same.
    #[error("namespace {namespace} exists with another descriptor (field {tag:?} differs)")]
    NamespaceCollision {
        /// The id.
        namespace: NamespaceId,
        /// Where the descriptors differ.
        tag: String,
    },
}

/// How a client broke the protocol. It is cut off for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// The tag is in use by another live look-up or lease of the session.
    #[error("tag {0} is already in use")]
    TagInUse(Tag),
    /// The group does not exist, or stands twice in one message.
    #[error("group {0} does not exist or is named twice")]
    BadGroup(u32),
    /// A span lies outside the look-up's hit.
    #[error("span {first}+{count} of group {group} is not part of the look-up")]
    BadSpan {
        /// The group.
        group: u32,
        /// First block.
        first: u32,
        /// Number of blocks.
        count: u32,
    },
    /// The operation belongs to another role.
    #[error("a {role} may not {operation}")]
    WrongRole {
        /// The session's role.
        role: &'static str,
        /// What it tried.
        operation: &'static str,
    },
    /// The slot lies outside the region, in the middle of a slot, or belongs to another engine's reservation.
    #[error("slot {0} is not this engine's to seal or abort")]
    ForeignSlot(SlotRef),
    /// A run describes blocks of another length than the group has, or goes beyond the group's keys.
    #[error(
        "a run of blocks of {tokens_per_block} tokens does not fit group {group}, whose blocks have {expected}"
    )]
    BadRun {
        /// The group.
        group: u32,
        /// What the run says.
        tokens_per_block: u32,
        /// What the group's blocks have.
        expected: u32,
    },
    /// The session has more look-ups or leases alive than it may have.
    #[error("more than {max} look-ups and leases are alive")]
    TooManyOperations {
        /// The limit.
        max: usize,
    },
}

/// Why a copy of a block is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RemovalCause {
    /// The policy chose it: its slot was wanted, or the watermark was passed.
    Evicted,
    /// Its arena went to blocks of another size.
    ArenaMoved,
    /// Its namespace, which no engine was attached to, made room for the descriptor of another.
    NamespaceDropped,
    /// Somebody asked for it.
    Requested,
    /// NVMe: its segment is to be written anew.
    Reclaimed,
    /// NVMe: its bytes were not what was written.
    Corrupt,
    /// NVMe: it could not be read.
    Unreadable,
    /// NVMe: its device was taken out of service.
    DeviceLost,
    /// Remote: it is not there any more.
    Missing,
    /// Remote: more blocks are known to be there only than are remembered. It can be found again by asking.
    Forgotten,
}
