//! What the daemon tells this room, and what it hears.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use kvstore_types::{
    BlockKey, DescriptorBytes, Extent, IoOutcome, NamespaceDescriptor, NamespaceGeometry, NamespaceId,
    OperationId, ReadClass, SegmentRef,
};

use crate::Memory;

/// How reads and writes are given to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum IoEngine {
    /// io_uring where it is to be had, else the pool of threads.
    #[default]
    Auto,
    /// io_uring, or the device cannot be opened.
    IoUring,
    /// pread and pwrite on a pool of threads.
    Threads,
}

/// Whether the page cache is passed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Direct {
    /// O_DIRECT where the file system says at which alignment (STATX_DIOALIGN), else the page cache.
    #[default]
    Auto,
    /// O_DIRECT, or the device cannot be opened.
    Always,
    /// The page cache.
    Never,
}

/// One directory of one tenant.
pub struct DeviceSpec {
    /// For people: `default/0`.
    pub name: String,
    /// The tenant, which the directory belongs to for ever.
    pub tenant: String,
    /// Where its files lie. Made, with mode 0700, if its parent is there.
    pub directory: PathBuf,
    /// Size of every segment; a multiple of a page. A directory with segments of another size is refused.
    pub segment_bytes: u64,
    /// Most segments. Surplus ones are deleted when the directory is opened, before anything is written.
    pub segments_max: u32,
    /// Most bytes of everything that is not a segment: the catalogue, and within it [`names_bytes_of`] of namespaces.
    pub catalogue_bytes_max: u64,
    /// How to read and write.
    pub io: IoEngine,
    /// Whether to pass the page cache by.
    pub direct: Direct,
    /// Most reads and writes at the device at a time, 1 to 1024.
    pub depth: u32,
    /// How long the catalogue collects changes before it writes them. Default 50 ms.
    pub catalogue_delay: Duration,
    /// Where slots lie; registered with io_uring as far as the limits allow.
    pub memory: Arc<Memory>,
}

/// The part of [`DeviceSpec::catalogue_bytes_max`] that the files of namespaces may take: a fifth, at most 16 MiB.
pub fn names_bytes_of(catalogue_bytes_max: u64) -> u64 {
    (catalogue_bytes_max / 5).min(16 << 20)
}

/// An order to a device. What each means, and what it may rely on, is said at the engine's `NvmeOrder`; this one has
/// bytes and places in memory where that one has slots.
#[derive(Debug)]
pub enum Order {
    /// Remember what a namespace stands for.
    KeepNamespace {
        /// All that it stands for.
        descriptor: NamespaceDescriptor,
        /// What its blocks look like.
        geometry: NamespaceGeometry,
    },
    /// Forget what a namespace stands for.
    DropNamespace {
        /// The namespace.
        namespace: NamespaceId,
    },
    /// Make a segment's file.
    CreateSegment {
        /// Names the order.
        operation: OperationId,
        /// Its number.
        index: u32,
    },
    /// Remove a segment and its file.
    DeleteSegment {
        /// Names the order.
        operation: OperationId,
        /// Its number.
        index: u32,
    },
    /// Begin a segment's next use.
    OpenSegment {
        /// Names the order.
        operation: OperationId,
        /// The segment with its new generation.
        segment: SegmentRef,
    },
    /// Write a block.
    Write {
        /// Names the order.
        operation: OperationId,
        /// Where to.
        extent: Extent,
        /// Where the slot begins in memory, in bytes. Its first page is for the header; the rest is payload.
        offset: u64,
        /// The block.
        key: BlockKey,
        /// The block's descriptor (parent, tokens, ...), opaque; at most [`crate::DESCRIPTOR_BYTES_MAX`]. Empty: none.
        descriptor: Vec<u8>,
    },
    /// Read and verify a block.
    Read {
        /// Names the order.
        operation: OperationId,
        /// Where from.
        extent: Extent,
        /// Where the slot begins in memory.
        offset: u64,
        /// The block it has to be.
        key: BlockKey,
        /// How urgent it is.
        class: ReadClass,
    },
    /// A read has become more or less urgent.
    SetClass {
        /// The read.
        operation: OperationId,
        /// How urgent it is now.
        class: ReadClass,
    },
    /// Copy a block to another place.
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
    /// Read and verify a block, keeping nothing.
    Verify {
        /// Names the order.
        operation: OperationId,
        /// Where.
        extent: Extent,
        /// The block it has to be.
        key: BlockKey,
    },
    /// Forget a block.
    Forget {
        /// Where it was.
        extent: Extent,
    },
    /// A segment is complete.
    SegmentFull {
        /// Which.
        segment: SegmentRef,
    },
}

/// What happens at a device; the order is said at the engine's `NvmeEvent`.
#[derive(Debug)]
pub enum DeviceEvent {
    /// There is a segment.
    SegmentFound {
        /// Which, and the generation of what is in it.
        segment: SegmentRef,
        /// The first page behind everything in it.
        tail: u32,
    },
    /// A file that has the name of a segment cannot be used, and is left alone.
    SegmentUnusable {
        /// The number.
        index: u32,
    },
    /// A namespace that blocks belong to.
    Namespace {
        /// All that it stands for.
        descriptor: NamespaceDescriptor,
        /// What its blocks look like.
        geometry: NamespaceGeometry,
    },
    /// Blocks that are there; those of a segment in order of place.
    Blocks {
        /// Names and places.
        blocks: Vec<FoundBlock>,
        /// Dropped when they have been taken in, so that the next ones may come.
        credit: Credit,
    },
    /// Everything has been told.
    Loaded(LoadReport),
    /// An order is done.
    Done {
        /// Which.
        operation: OperationId,
        /// How.
        outcome: IoOutcome,
        /// How long it took.
        times: OrderTimes,
    },
    /// The device is out of service and will say no more. Every order that was under way has been answered.
    Lost {
        /// Why, and what a person can do.
        reason: String,
    },
}

/// How long an order to read or write took; nothing where it never came to that, and for other orders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrderTimes {
    /// It waited for its turn.
    pub waited: Duration,
    /// From then on until it was answered: at the device, and while its bytes were looked at.
    pub served: Duration,
}

/// A block found at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundBlock {
    /// Its name.
    pub key: BlockKey,
    /// Its place.
    pub extent: Extent,
    /// Its descriptor, if one was written with it.
    pub descriptor: Option<DescriptorBytes>,
}

/// How the start went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Blocks that were told.
    pub blocks: u64,
    /// Segments there are.
    pub segments: u32,
    /// Segments whose headers were read because the catalogue did not know all of them.
    pub segments_scanned: u32,
    /// Whether the catalogue was made anew, and why.
    pub catalogue_rebuilt: Option<String>,
    /// What was found and not told, because it is not valid.
    pub blocks_dropped: u64,
    /// Blocks whose write a kill had cut short; nobody was told that they were there.
    pub blocks_unfinished: u64,
    /// How long it took.
    pub duration: Duration,
}

/// A share of the loader's room for blocks that were told and not yet taken in.
#[derive(Debug)]
pub struct Credit(SyncSender<()>);

impl Credit {
    /// A credit that tells `back` when it is dropped.
    pub(crate) fn new(back: SyncSender<()>) -> Self {
        Self(back)
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        // The loader may have ended.
        let _ = self.0.try_send(());
    }
}

/// Hears everything, from the device's threads, in order for each thread. It must not wait.
pub type EventSink = Arc<dyn Fn(Vec<DeviceEvent>) + Send + Sync>;

impl fmt::Debug for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceSpec")
            .field("name", &self.name)
            .field("directory", &self.directory)
            .field("segment_bytes", &self.segment_bytes)
            .field("segments_max", &self.segments_max)
            .field("io", &self.io)
            .field("direct", &self.direct)
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}
