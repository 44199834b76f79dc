//! Files are made, opened and deleted.

use std::time::Instant;

use kvstore_types::{SegmentGeneration, SegmentRef};

use crate::effect::{Effects, NvmeOrder};
use crate::engine::Engine;
use crate::nvme::{Operation, SegmentState};

/// Files being made at a device at a time.
const CREATING_MAX: u32 = 2;

/// Free segments that there must be for the next one to be opened before it is needed.
const FREE_TO_OPEN_AHEAD: u32 = 3;

/// Free segments that there must be for one to be opened for new blocks: the last one is for blocks that are carried
/// over.
const FREE_TO_OPEN: u32 = 2;

impl Engine {
    /// Brings the number of files towards what it may be, and opens a segment ahead. True if anything changed.
    pub(super) fn tend_segments(&mut self, now: Instant, index: usize, effects: &mut Effects) -> bool {
        let Some(tuning) = self.nvme_config().map(|config| config.tuning.clone()) else {
            return false;
        };
        let mut has_changed = false;
        let surplus = self.nvme.devices[index].surplus(&tuning);
        if surplus > 0 {
            while let Some(partial) = self.nvme.devices[index].segments.partial.pop_front() {
                self.retire(index, partial, effects);
                has_changed = true;
            }
            let segments = &self.nvme.devices[index].segments;
            let is_leaving =
                segments.count(SegmentState::Full) + segments.count(SegmentState::Reclaiming) > 0;
            let kept = u32::from(is_leaving);
            if segments.count(SegmentState::Free) > kept
                && let Some(free) = segments.first_free()
            {
                self.nvme.devices[index]
                    .segments
                    .set_state(free, SegmentState::Deleting);
                let order = |operation| NvmeOrder::DeleteSegment {
                    operation,
                    index: free,
                };
                self.order(index, Operation::Delete { index: free }, order, effects);
                return true;
            }
        }
        let device = &mut self.nvme.devices[index];
        let is_creating = device.segments.existing() < tuning.segments_max
            && device.segments.count(SegmentState::Creating) < CREATING_MAX
            && device.may_create(now);
        if is_creating {
            let absent = device.segments.first_absent();
            device.segments.set_state(absent, SegmentState::Creating);
            let order = |operation| NvmeOrder::CreateSegment {
                operation,
                index: absent,
            };
            self.order(index, Operation::Create { index: absent }, order, effects);
            return true;
        }
        let segments = &device.segments;
        // What is opened in vain while writing fails would be the one order that shows whether it works again.
        let is_early = segments.count(SegmentState::Free) >= FREE_TO_OPEN_AHEAD
            && segments.current.is_some()
            && device.suspension.is_none();
        has_changed | (is_early && surplus == 0 && self.open_segment(now, index, FREE_TO_OPEN_AHEAD, effects))
    }

    /// Begins the next use of a free segment, if none is being begun or waits, and so many are free.
    fn open_segment(&mut self, now: Instant, index: usize, free_min: u32, effects: &mut Effects) -> bool {
        let device = &mut self.nvme.devices[index];
        let is_next = device.segments.ahead.is_none() && device.segments.partial.is_empty();
        if !is_next || device.segments.count(SegmentState::Free) < free_min || !device.is_writable(now) {
            return false;
        }
        let Some(free) = device.segments.first_free() else {
            return false;
        };
        device.segments.open(free);
        let segment = self.segment_ref(index, free);
        let order = |operation| NvmeOrder::OpenSegment { operation, segment };
        let operation = self.order(index, Operation::Open { index: free }, order, effects);
        self.nvme.devices[index].note_probe(operation);
        true
    }

    /// Makes room for a new block of so many pages at a device, as far as that can be done at once. True if anything
    /// changed.
    pub(super) fn make_room(
        &mut self,
        now: Instant,
        index: usize,
        pages: u32,
        effects: &mut Effects,
    ) -> bool {
        let mut has_changed = self.advance(index, pages, effects);
        if !self.nvme.devices[index].segments.has_room(pages) {
            has_changed |= self.open_segment(now, index, FREE_TO_OPEN, effects);
        }
        has_changed
    }

    /// The same for a block that is carried over. False if there is no room and there will be none.
    pub(super) fn make_room_for_carried(
        &mut self,
        now: Instant,
        index: usize,
        pages: u32,
        effects: &mut Effects,
    ) -> bool {
        self.advance(index, pages, effects);
        if self.nvme.devices[index].segments.has_room(pages) {
            return true;
        }
        self.open_segment(now, index, 1, effects);
        self.nvme.devices[index].segments.ahead.is_some()
    }

    /// Goes on to a segment with room for so many pages, if one is open.
    fn advance(&mut self, index: usize, pages: u32, effects: &mut Effects) -> bool {
        let mut has_changed = false;
        loop {
            let segments = &mut self.nvme.devices[index].segments;
            if segments.has_room(pages) {
                return has_changed;
            }
            if let Some(full) = segments.current.take() {
                has_changed = true;
                self.retire(index, full, effects);
            }
            if !self.nvme.devices[index].segments.advance() {
                return has_changed;
            }
            has_changed = true;
        }
    }

    /// A segment takes no more writes.
    fn retire(&mut self, device: usize, index: u32, effects: &mut Effects) {
        self.nvme.devices[device]
            .segments
            .set_state(index, SegmentState::Full);
        if !self.nvme.devices[device].settle(index) {
            self.tell_full(device, index, effects);
        }
    }

    /// The name of the present use of a segment.
    pub(super) fn segment_ref(&self, device: usize, index: u32) -> SegmentRef {
        let generation = self.nvme.devices[device].segments.get(index).generation;
        SegmentRef {
            index,
            generation: SegmentGeneration(generation),
        }
    }

    /// A block of a device is not to be found there after a restart.
    pub(super) fn forget(&self, device: usize, extent: kvstore_types::Extent, effects: &mut Effects) {
        self.give(device, NvmeOrder::Forget { extent }, effects);
    }
}
