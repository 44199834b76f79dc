//! Sealed blocks are written to NVMe in the background.

use std::time::Instant;

use kvstore_types::PAGE_BYTES;

use crate::block::{BlockIndex, BlockState, ExtentHandle, mark};
use crate::config::Admission;
use crate::effect::{Effects, NvmeOrder};
use crate::engine::Engine;
use crate::nvme::{DeviceState, Operation, Place, SegmentState};
use crate::pool::Hold;

impl Engine {
    /// A block has been published.
    pub(crate) fn admit_sealed(&mut self, block: BlockIndex) {
        match self.nvme.config.as_ref().map(|config| config.tuning.admission) {
            None => {}
            Some(Admission::All) => self.queue_write(block),
            Some(Admission::SecondTouch) => self.counters.nvme_not_admitted += 1,
        }
    }

    /// Blocks have been hit in host memory.
    pub(crate) fn admit_hit(&mut self, holds: &[Hold]) {
        let admission = self.nvme.config.as_ref().map(|config| config.tuning.admission);
        if admission == Some(Admission::SecondTouch) {
            for hold in holds {
                self.queue_write(hold.block);
            }
        }
    }

    /// Enters a resident block in the queue, unless it has a copy or is there already.
    pub(super) fn queue_write(&mut self, block: BlockIndex) {
        let record = self.pool.blocks.get(block);
        let Some(config) = &self.nvme.config else { return };
        let (is_new, space) = (
            record.extent == ExtentHandle::NONE && !record.has(mark::QUEUED | mark::WRITING),
            record.space,
        );
        debug_assert_eq!(record.state, BlockState::Resident);
        if !is_new || !self.nvme.is_writing() {
            return;
        }
        // A segment's first page is its own header.
        if u64::from(self.pool.pages_of(space)) > config.segment_bytes / PAGE_BYTES - 1 {
            self.counters.nvme_too_large += 1;
            return;
        }
        let max = config.write_queue_max;
        if self.nvme.queue.len() >= max {
            let mut effort = 64;
            self.counters.nvme_write_stale += self.nvme.queue.skip_stale(&mut self.pool.blocks, &mut effort);
        }
        if self.nvme.queue.len() >= max {
            self.counters.nvme_write_queue_full += 1;
            return;
        }
        self.nvme.queue.push(&mut self.pool.blocks, block);
    }

    /// Orders writes as far as devices, rates and bounds allow. True if anything changed.
    pub(super) fn write_back(&mut self, now: Instant, budget: &mut u32, effects: &mut Effects) -> bool {
        let mut has_changed = false;
        while *budget > 0 {
            self.counters.nvme_write_stale += self.nvme.queue.skip_stale(&mut self.pool.blocks, budget);
            let Some((block, _)) = self.nvme.queue.front().filter(|_| *budget > 0) else {
                break;
            };
            let pages = self.pool.pages_of(self.pool.blocks.get(block).space);
            has_changed |= self.make_room_everywhere(now, pages, effects);
            let Some(device) = self.choose_device(now, pages) else {
                break;
            };
            self.nvme.queue.pop(&mut self.pool.blocks);
            self.order_write(device, block, pages, effects);
            *budget -= 1;
            has_changed = true;
        }
        has_changed
    }

    /// The device with the least bytes under way among those that can take a block of so many pages now.
    fn choose_device(&mut self, now: Instant, pages: u32) -> Option<usize> {
        let count = self.nvme.devices.len();
        let first = self.nvme.next_device;
        let order = (0..count).map(|offset| (first + offset) % count);
        let mut best: Option<(u64, usize)> = None;
        for index in order {
            let is_ready = self.takes_writes(now, index)
                && self.nvme.devices[index].segments.has_room(pages)
                && self.has_tokens(now, index, pages);
            let under_way = self.nvme.devices[index].writing_bytes;
            if is_ready
                && self.is_within_bounds(index, pages)
                && best.is_none_or(|(least, _)| under_way < least)
            {
                best = Some((under_way, index));
            }
        }
        let (_, device) = best?;
        self.nvme.next_device = (device + 1) % count;
        Some(device)
    }

    /// Whether new blocks may be written. While a segment is reclaimed and no other is free, what room there is belongs to
    /// the blocks that are carried over.
    fn takes_writes(&self, now: Instant, index: usize) -> bool {
        let device = &self.nvme.devices[index];
        let is_reserved = device.reclaim.is_some() && device.segments.count(SegmentState::Free) == 0;
        device.is_writable(now) && !is_reserved
    }

    fn is_within_bounds(&self, index: usize, pages: u32) -> bool {
        let under_way = self.nvme.devices[index].writing_bytes;
        let max = self.nvme_config().map_or(0, |config| config.write_bytes_max);
        under_way == 0 || under_way.saturating_add(bytes(pages)) <= max
    }

    fn has_tokens(&mut self, now: Instant, index: usize, pages: u32) -> bool {
        self.nvme.devices[index].write_tokens.has(now, bytes(pages))
    }

    /// Brings devices without room for a block of so many pages nearer to it.
    fn make_room_everywhere(&mut self, now: Instant, pages: u32, effects: &mut Effects) -> bool {
        let mut has_changed = false;
        for index in 0..self.nvme.devices.len() {
            if self.takes_writes(now, index) && !self.nvme.devices[index].segments.has_room(pages) {
                has_changed |= self.make_room(now, index, pages, effects);
            }
        }
        has_changed
    }

    fn order_write(&mut self, index: usize, block: BlockIndex, pages: u32, effects: &mut Effects) {
        let device = &mut self.nvme.devices[index];
        let Some((segment, page)) = device.segments.allocate(pages) else {
            return;
        };
        device.writes += 1;
        device.writing_bytes += bytes(pages);
        device.write_tokens.take(bytes(pages));
        self.pool.pin(block, mark::WRITING);
        let record = *self.pool.blocks.get(block);
        self.keep_namespace(index, record.space.namespace(), effects);
        let (place, slot, key) = (
            Place::new(index, segment, page),
            record.slot,
            self.pool.key(&record),
        );
        let (extent, descriptor) = (
            self.nvme.extent_at(place, pages),
            self.pool.blocks.descriptor(block),
        );
        let operation = Operation::Write {
            place,
            pages,
            block,
            slot,
        };
        let order = |operation| NvmeOrder::Write {
            operation,
            extent,
            slot,
            key,
            descriptor,
        };
        let operation = self.order(index, operation, order, effects);
        self.nvme.devices[index].note_probe(operation);
    }

    /// When time alone will let the first block of the queue be written.
    pub(super) fn write_back_wakes_at(&self) -> Option<Instant> {
        let (block, _) = self.nvme.queue.front()?;
        let bytes = bytes(self.pool.pages_of(self.pool.blocks.get(block).space));
        let serving = self
            .nvme
            .devices
            .iter()
            .filter(|device| device.state == DeviceState::Serving);
        let moments = serving.filter_map(|device| match device.suspension {
            Some(suspension) if suspension.probe.is_some() => None,
            Some(suspension) => {
                let tokens = device.write_tokens.ready_at(bytes);
                Some(tokens.map_or(suspension.until, |tokens| tokens.max(suspension.until)))
            }
            None => device.write_tokens.ready_at(bytes),
        });
        let now = self.nvme.now?;
        moments.filter(|&at| at > now).min()
    }
}

/// Bytes of so many pages.
pub(crate) fn bytes(pages: u32) -> u64 {
    u64::from(pages) * PAGE_BYTES
}
