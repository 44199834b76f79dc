//! What the maintenance thread and the I/O thread say to each other.

use std::sync::Arc;

use kvstore_types::{BlockKey, Extent};

use crate::directory::SegmentFile;

/// Where the I/O thread learns which segments have files.
pub(crate) trait FileTable: Send {
    /// A segment has a file. It comes before anything is ordered of the segment.
    fn add(&self, index: u32, file: Arc<SegmentFile>);
    /// A segment is to be deleted: nothing of it is under way, and nothing more will be ordered.
    fn remove(&self, index: u32);
}

/// A block that is on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// Where.
    pub(crate) extent: Extent,
    /// Which.
    pub(crate) key: BlockKey,
    /// What it carries beside its payload.
    pub(crate) descriptor: Vec<u8>,
}

/// Figures of the maintenance thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaintenanceStats {
    /// Changes that wait to be written into the catalogue, and orders that wait.
    pub waiting: u64,
}
