//! Telling the engine what is there, no faster than it takes it in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use kvstore_types::{NamespaceDescriptor, NamespaceGeometry, NamespaceId, SegmentRef};
use tracing::info;

use super::queue::Queue;
use crate::directory::Namespaces;
use crate::{Credit, DeviceEvent, EventSink, FoundBlock, LoadReport};

/// Most blocks in one event.
const BLOCKS_MAX: usize = 4096;
/// Most events with blocks that have not been taken in.
const CREDITS: usize = 8;
/// How often the log says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// What the loader says, and how far it is.
pub(super) struct Teller {
    device: String,
    sink: EventSink,
    queue: Arc<Queue>,
    credits: SyncSender<()>,
    back: Receiver<()>,
    available: usize,
    /// Those that are known; what they stand for until it has been told.
    namespaces: BTreeMap<NamespaceId, Option<(NamespaceDescriptor, NamespaceGeometry)>>,
    /// Told before the blocks below.
    events: Vec<DeviceEvent>,
    blocks: Vec<FoundBlock>,
    pub(super) report: LoadReport,
    started: Instant,
    progress: Instant,
    segments_all: usize,
}

impl Teller {
    pub(super) fn new(device: String, sink: EventSink, queue: Arc<Queue>, segments_all: usize) -> Self {
        // Closing the queue gives one more, so that a loader that waits for one wakes.
        let (credits, back) = sync_channel(CREDITS + 1);
        queue.wakes(credits.clone());
        let now = Instant::now();
        Self {
            device,
            sink,
            queue,
            credits,
            back,
            available: CREDITS,
            namespaces: BTreeMap::new(),
            events: Vec::new(),
            blocks: Vec::with_capacity(BLOCKS_MAX),
            report: LoadReport::default(),
            started: now,
            progress: now,
            segments_all,
        }
    }

    /// Whether the device is being closed: nothing more need be told.
    pub(super) fn is_stopped(&self) -> bool {
        self.queue.is_closed()
    }

    /// The namespaces that blocks may belong to.
    pub(super) fn knows(&mut self, namespaces: Namespaces) {
        let known = namespaces.good.into_iter();
        self.namespaces = known
            .map(|namespace| (namespace.0.id(), Some(namespace)))
            .collect();
    }

    /// All namespaces that are known.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = NamespaceId> {
        self.namespaces.keys().copied()
    }

    /// Namespaces of which no block was told.
    pub(super) fn unused(&self) -> Vec<NamespaceId> {
        let unused = self.namespaces.iter().filter(|(_, untold)| untold.is_some());
        unused.map(|(&id, _)| id).collect()
    }

    /// A file with the name of a segment that cannot be used.
    pub(super) fn unusable(&mut self, index: u32) {
        self.events.push(DeviceEvent::SegmentUnusable { index });
    }

    /// A segment, before its blocks.
    pub(super) fn segment(&mut self, segment: SegmentRef, tail: u32) {
        self.events.push(DeviceEvent::SegmentFound { segment, tail });
        self.report.segments += 1;
        self.say_progress();
    }

    /// A segment's blocks, in order of place, none of them behind `end`.
    pub(super) fn blocks(&mut self, end: u32, blocks: impl Iterator<Item = FoundBlock>) {
        let mut free = 1;
        for found in blocks {
            let (extent, key) = (found.extent, found.key);
            let behind = extent
                .page
                .checked_add(extent.pages)
                .filter(|&behind| behind <= end);
            let behind = behind.filter(|_| extent.page >= free && extent.pages > 1);
            let (Some(behind), Some(namespace)) = (behind, self.namespaces.get_mut(&key.namespace)) else {
                self.report.blocks_dropped += 1;
                continue;
            };
            if let Some((descriptor, geometry)) = namespace.take() {
                self.events.push(DeviceEvent::Namespace { descriptor, geometry });
            }
            free = behind;
            self.blocks.push(found);
            if self.blocks.len() == BLOCKS_MAX {
                self.send();
            }
        }
    }

    /// Sends what has been collected. Waits for the engine if it has not taken in what was sent before.
    pub(super) fn send(&mut self) {
        if self.is_stopped() {
            return;
        }
        let mut events = std::mem::take(&mut self.events);
        if !self.blocks.is_empty() {
            while self.available == 0 {
                // The sender is ours as well, so it does not fail.
                let _ = self.back.recv();
                if self.is_stopped() {
                    return;
                }
                self.available += 1;
            }
            while self.back.try_recv().is_ok() {
                self.available += 1;
            }
            self.available -= 1;
            self.report.blocks += self.blocks.len() as u64;
            let blocks = std::mem::replace(&mut self.blocks, Vec::with_capacity(BLOCKS_MAX));
            let credit = Credit::new(self.credits.clone());
            events.push(DeviceEvent::Blocks { blocks, credit });
        }
        if !events.is_empty() {
            (self.sink)(events);
        }
    }

    /// Everything has been told.
    pub(super) fn finish(mut self) {
        self.send();
        if self.is_stopped() {
            return;
        }
        self.report.duration = self.started.elapsed();
        (self.sink)(vec![DeviceEvent::Loaded(self.report)]);
    }

    fn say_progress(&mut self) {
        if self.progress.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.progress = Instant::now();
        let (device, segments_done, segments) = (&self.device, self.report.segments, self.segments_all);
        let blocks = self.report.blocks;
        info!(device, segments_done, segments, blocks, "loading the NVMe device");
    }
}
