//! The maintenance thread of a device, `kvt-maint-N`: everything about its files that is not a block's bytes.
//!
//! ```text
//!   engine ── segments, namespaces, forget ──▶ ┌───────┐    load: catalogue, headers, namespaces ─▶ events
//!                                              │ queue │──▶ serve: files, headers
//!   I/O thread ── what was written ──────────▶ └───────┘           catalogue, in batches behind the data
//! ```
//!
//! It owns the directory and the catalogue. First it loads: it tells what is there. Then it serves the queue, in order;
//! with nothing to do it sleeps, but for a look every ten seconds at whether its files are still there and what room the file system has.
//!
//! What always holds
//! - The segments' own headers say which use a segment is in; the catalogue is believed only where it agrees.
//! - The catalogue calls a segment full only if every block of this use is in it. If a change was dropped (the queue was
//!   full, the catalogue has no room or cannot be written), the segment is not called full, and its headers are read at
//!   the next start.

mod headers;
mod load;
mod queue;
mod scan;
mod serve;
mod stats;
mod tell;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kvstore_types::{
    BlockKey, Extent, IoOutcome, NamespaceDescriptor, NamespaceGeometry, NamespaceId, OperationId, SegmentRef,
};

use self::queue::Queue;
pub(crate) use self::scan::highest_generation;
use self::stats::Counters;
pub use self::stats::MaintenanceStats;
use crate::directory::{Directory, Inventory, SegmentFile};
use crate::{EventSink, Order};

/// Where the I/O thread learns which segments have files.
pub(crate) trait FileTable: Send {
    /// A segment has a file. It comes before anything is ordered of the segment.
    fn add(&self, index: u32, file: Arc<SegmentFile>);
    /// A segment is to be deleted: nothing of it is under way, and nothing more will be ordered.
    fn remove(&self, index: u32);
    /// A namespace is kept, or could not be. Those who write its blocks may wait for it.
    fn kept(&self, _namespace: NamespaceId, _outcome: IoOutcome) {}
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

/// An order to this thread; what each means is said at [`Order`].
#[derive(Debug)]
pub(crate) enum MaintenanceOrder {
    /// Remember a namespace.
    KeepNamespace {
        /// All that it stands for.
        descriptor: NamespaceDescriptor,
        /// What its blocks look like.
        geometry: NamespaceGeometry,
    },
    /// Forget a namespace.
    DropNamespace {
        /// Which.
        namespace: NamespaceId,
    },
    /// Make a segment's file.
    CreateSegment {
        /// Names the order.
        operation: OperationId,
        /// The segment's number.
        index: u32,
    },
    /// Remove a segment.
    DeleteSegment {
        /// Names the order.
        operation: OperationId,
        /// The segment's number.
        index: u32,
    },
    /// Begin a segment's next use.
    OpenSegment {
        /// Names the order.
        operation: OperationId,
        /// The segment with its new generation.
        segment: SegmentRef,
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

impl MaintenanceOrder {
    /// Takes an order that is for this thread, and gives any other one back.
    pub(crate) fn take(order: Order) -> Result<Self, Order> {
        Ok(match order {
            Order::KeepNamespace { descriptor, geometry } => Self::KeepNamespace { descriptor, geometry },
            Order::DropNamespace { namespace } => Self::DropNamespace { namespace },
            Order::CreateSegment { operation, index } => Self::CreateSegment { operation, index },
            Order::DeleteSegment { operation, index } => Self::DeleteSegment { operation, index },
            Order::OpenSegment { operation, segment } => Self::OpenSegment { operation, segment },
            Order::Forget { extent } => Self::Forget { extent },
            Order::SegmentFull { segment } => Self::SegmentFull { segment },
            other => return Err(other),
        })
    }

    /// What the answer to the order names, if it is answered.
    pub(crate) fn operation(&self) -> Option<OperationId> {
        match self {
            Self::CreateSegment { operation, .. }
            | Self::DeleteSegment { operation, .. }
            | Self::OpenSegment { operation, .. } => Some(*operation),
            Self::KeepNamespace { .. }
            | Self::DropNamespace { .. }
            | Self::Forget { .. }
            | Self::SegmentFull { .. } => None,
        }
    }
}

/// How the thread works.
#[derive(Clone, Debug)]
pub(crate) struct MaintenanceSpec {
    /// The thread's name.
    pub(crate) thread: String,
    /// The device's name, for the log.
    pub(crate) name: String,
    /// Most bytes of the catalogue.
    pub(crate) catalogue_bytes_max: u64,
    /// Most bytes that the files of namespaces take.
    pub(crate) names_bytes_max: u64,
    /// How long changes are collected before they are written.
    pub(crate) catalogue_delay: Duration,
}

/// The thread, from its owner's side.
#[derive(Debug)]
pub(crate) struct Maintenance {
    handle: MaintenanceHandle,
    thread: Option<JoinHandle<()>>,
}

/// What the I/O thread and those who submit orders keep.
#[derive(Clone, Debug)]
pub(crate) struct MaintenanceHandle {
    queue: Arc<Queue>,
    counters: Arc<Counters>,
}

impl Maintenance {
    /// Starts the thread, which begins to load at once. All the inventory's files have been added to `files` when this
    /// returns.
    pub(crate) fn spawn(
        directory: Directory,
        inventory: Inventory,
        spec: MaintenanceSpec,
        files: Box<dyn FileTable>,
        sink: EventSink,
    ) -> io::Result<Self> {
        for file in directory.segments() {
            files.add(file.index, Arc::clone(file));
        }
        let handle = MaintenanceHandle {
            queue: Arc::new(Queue::new()),
            counters: Arc::new(Counters::default()),
        };
        let worker = serve::Worker {
            directory,
            spec: spec.clone(),
            files,
            sink,
            queue: Arc::clone(&handle.queue),
            counters: Arc::clone(&handle.counters),
            catalogue: None,
            ledger: serve::Ledger::default(),
        };
        let thread = thread::Builder::new()
            .name(spec.thread)
            .spawn(move || worker.run(&inventory))?;
        Ok(Self {
            handle,
            thread: Some(thread),
        })
    }

    /// What others keep to speak to it.
    pub(crate) fn handle(&self) -> MaintenanceHandle {
        self.handle.clone()
    }
}

impl Drop for Maintenance {
    /// Ends it: what was submitted before is carried out, the catalogue is written out, the directory is closed. Gives up
    /// loading where it is.
    fn drop(&mut self) {
        self.handle.queue.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the maintenance thread panicked");
        }
    }
}

impl MaintenanceHandle {
    /// Submits an order. Never waits. After the end of the thread it is not answered.
    pub(crate) fn submit(&self, order: MaintenanceOrder) {
        if !self.queue.order(order) {
            self.counters.dropped(1);
        }
    }

    /// Tells of a block that is on the device, before its answer is told. Never waits: when the queue is full the block
    /// is not entered into the catalogue, and its segment will be scanned at the next start.
    pub(crate) fn written(&self, written: Written) {
        if !self.queue.written(written) {
            self.counters.dropped(1);
        }
    }

    /// Figures.
    pub(crate) fn stats(&self) -> MaintenanceStats {
        self.counters.snapshot(self.queue.waiting())
    }
}
