//! The NVMe tier's books: devices, segments, extents, what is under way and what waits. The decisions are in
//! `steps/nvme`.
//!
//! ```text
//!   publish ─▶ queue ─▶ write ─▶ extent          write back
//!   look-up ─▶ promotion ─▶ read ─▶ resident     promotion; the look-up waits, or not
//!   segments: open ─▶ full ─▶ reclaim            copies that were hit are carried over, the others leave
//! ```

mod bucket;
mod device;
mod extents;
mod promotions;
mod queue;
mod segments;
mod waits;

use std::collections::HashMap;
use std::time::Instant;

use kvstore_types::{DeviceIndex, Extent, OperationId, PAGE_BYTES, SegmentGeneration, SegmentRef, SlotRef};

pub(crate) use device::{Device, DeviceState, FAILURES_MAX, Reclaim};
pub(crate) use extents::{END, Extents, Place};
pub(crate) use promotions::{Promotions, Source};
pub(crate) use queue::WriteQueue;
pub(crate) use segments::{Segment, SegmentState};
pub(crate) use waits::{Wait, Waits};

use crate::block::{BlockIndex, ExtentHandle};
use crate::config::NvmeConfig;
use crate::hash::FixedState;

/// An order that has not been answered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    /// A segment's file is being made.
    Create { index: u32 },
    /// A segment's file is being deleted.
    Delete { index: u32 },
    /// A segment's next use is being begun.
    Open { index: u32 },
    /// A block is being written.
    Write {
        place: Place,
        pages: u32,
        block: BlockIndex,
        slot: SlotRef,
    },
    /// A block is being read.
    Read { promotion: u32 },
    /// A block is being carried over.
    Move {
        extent: ExtentHandle,
        from: Place,
        to: Place,
        pages: u32,
    },
    /// A block is being verified.
    Verify {
        extent: ExtentHandle,
        place: Place,
        pages: u32,
    },
}

/// The tier.
#[derive(Debug)]
pub(crate) struct Nvme {
    /// None: there is no such tier.
    pub(crate) config: Option<NvmeConfig>,
    pub(crate) devices: Vec<Device>,
    pub(crate) extents: Extents,
    pub(crate) operations: HashMap<OperationId, (DeviceIndex, Operation), FixedState>,
    last_operation: u64,
    pub(crate) promotions: Promotions,
    pub(crate) waits: Waits,
    pub(crate) queue: WriteQueue,
    /// Where the search for a device begins.
    pub(crate) next_device: usize,
    /// Whether a tick would do something at once.
    pub(crate) has_work: bool,
    /// The moment of the last step.
    pub(crate) now: Option<Instant>,
}

impl Nvme {
    /// A tier whose devices have told nothing yet.
    pub(crate) fn new(config: Option<&NvmeConfig>) -> Self {
        let device = |config: &NvmeConfig| {
            let pages = u32::try_from(config.segment_bytes / PAGE_BYTES).unwrap_or(u32::MAX);
            Device::new(pages, &config.tuning)
        };
        let devices = config
            .into_iter()
            .flat_map(|config| (0..config.device_count).map(move |_| device(config)));
        Self {
            devices: devices.collect(),
            config: config.cloned(),
            extents: Extents::new(),
            operations: HashMap::default(),
            last_operation: 0,
            promotions: Promotions::default(),
            waits: Waits::default(),
            queue: WriteQueue::default(),
            next_device: 0,
            has_work: false,
            now: None,
        }
    }

    /// Whether a look-up may find blocks that are not in host memory.
    pub(crate) fn is_promoting(&self) -> bool {
        let may_wait = self
            .config
            .as_ref()
            .is_some_and(|config| !config.promotion_deadline.is_zero());
        may_wait && (self.extents.len() > 0 || self.promotions.len() > 0)
    }

    /// Whether blocks may be written some day.
    pub(crate) fn is_writing(&self) -> bool {
        self.devices
            .iter()
            .any(|device| device.state != DeviceState::Lost)
    }

    /// A name for an order that no other one has, to whatever tier.
    pub(crate) fn next_operation(&mut self) -> OperationId {
        self.last_operation += 1;
        OperationId(self.last_operation)
    }

    /// Enters an order.
    pub(crate) fn order(&mut self, device: usize, operation: Operation) -> OperationId {
        let id = self.next_operation();
        self.operations.insert(id, (device_index(device), operation));
        id
    }

    /// The place in full.
    pub(crate) fn extent_at(&self, place: Place, pages: u32) -> Extent {
        let index = place.index();
        let generation = self.devices[place.device()].segments.get(index).generation;
        Extent {
            segment: SegmentRef {
                index,
                generation: SegmentGeneration(generation),
            },
            page: place.page,
            pages,
        }
    }

    /// Where a copy is.
    pub(crate) fn extent_of(&self, handle: ExtentHandle, pages: u32) -> (DeviceIndex, Extent) {
        let place = self.extents.get(handle).place;
        (device_index(place.device()), self.extent_at(place, pages))
    }

    /// Enters a copy.
    pub(crate) fn attach(&mut self, place: Place, block: BlockIndex, pages: u32) -> ExtentHandle {
        let device = &mut self.devices[place.device()];
        device.blocks += 1;
        device.pages += u64::from(pages);
        let chain = &mut device.segments.get_mut(place.index()).chain;
        self.extents.add(chain, place, block)
    }

    /// Forgets a copy.
    pub(crate) fn detach(&mut self, handle: ExtentHandle, pages: u32) {
        let entry = *self.extents.get(handle);
        let (device, index) = (&mut self.devices[entry.place.device()], entry.place.index());
        device.blocks -= 1;
        device.pages -= u64::from(pages);
        if let Some(reclaim) = device
            .reclaim
            .as_mut()
            .filter(|reclaim| reclaim.cursor == handle.0)
        {
            reclaim.cursor = entry.next;
        }
        if device.scrub_cursor == handle.0 {
            device.scrub_cursor = entry.next;
        }
        self.extents
            .remove(&mut device.segments.get_mut(index).chain, handle);
        device.settle(index);
    }
}

/// The outside name of a device.
pub(crate) fn device_index(device: usize) -> DeviceIndex {
    // There are at most 64.
    DeviceIndex(u8::try_from(device).unwrap_or(u8::MAX))
}
