//! Places on NVMe.

use std::fmt;

use crate::PAGE_BYTES;

/// Which of a tenant's NVMe directories, in the order of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceIndex(pub u8);

impl fmt::Display for DeviceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {}", self.0)
    }
}

/// How often a segment has been opened for writing. What was written under another generation is not valid any more.
/// 0: never opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SegmentGeneration(pub u64);

/// One use of one segment of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentRef {
    /// Number of the segment, which names its file.
    pub index: u32,
    /// Which use of it.
    pub generation: SegmentGeneration,
}

/// The bytes of one block on a device: its header page, then its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    /// The segment and its use.
    pub segment: SegmentRef,
    /// First page, counted from the start of the segment. Page 0 is the segment's own header, so never 0.
    pub page: u32,
    /// Number of pages, the block's header included.
    pub pages: u32,
}

impl Extent {
    /// Byte offset from the start of the segment.
    pub const fn byte_offset(&self) -> u64 {
        self.page as u64 * PAGE_BYTES
    }

    /// Bytes of header and payload.
    pub const fn bytes(&self) -> u64 {
        self.pages as u64 * PAGE_BYTES
    }
}

/// Names one read, write, move or other order to a device until it is done. Never used twice by one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub u64);

/// Whose turn it is at a device: the first one goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReadClass {
    /// A look-up waits for it.
    Demand,
    /// Nobody waits for it any more, or yet.
    Prefetch,
}

/// How an order to a device ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IoOutcome {
    /// Done; what was read has been verified.
    Done,
    /// What was read is not the block: it can never be used.
    Corrupt(Corruption),
    /// The device or its file system has no room.
    NoSpace,
    /// The device gave an error, or moved fewer bytes than it was asked to.
    Failed,
}

/// What is wrong with a block that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Corruption {
    /// No header of ours, of a format version we know, with a good checksum.
    Header,
    /// A good header of another directory.
    Foreign,
    /// A good header of another place, or of another generation of this segment.
    Place,
    /// A good header of another block.
    Key,
    /// The payload's checksum or length differs.
    Payload,
    /// The file ends before the extent does.
    Truncated,
}

impl Corruption {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Header,
        Self::Foreign,
        Self::Place,
        Self::Key,
        Self::Payload,
        Self::Truncated,
    ];

    /// The name used in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Foreign => "foreign",
            Self::Place => "place",
            Self::Key => "key",
            Self::Payload => "payload",
            Self::Truncated => "truncated",
        }
    }
}
