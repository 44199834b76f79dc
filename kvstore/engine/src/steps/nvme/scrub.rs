//! What is stored is verified, one block after the other, at a rate.

use std::time::Instant;

use super::write_back::bytes;
use crate::block::ExtentHandle;
use crate::effect::{Effects, NvmeOrder};
use crate::engine::Engine;
use crate::nvme::{DeviceState, END, Operation};

impl Engine {
    /// Orders the next verification, if it is time for it. True if it did.
    pub(super) fn scrub(&mut self, now: Instant, index: usize, effects: &mut Effects) -> bool {
        let device = &mut self.nvme.devices[index];
        if device.scrub_tokens.rate().is_none() || device.is_verifying || device.blocks == 0 {
            return false;
        }
        if device.scrub_cursor == END {
            let count = u32::try_from(device.segments.iter().count()).unwrap_or(u32::MAX);
            let from = device.scrub_segment;
            let next = (1..=count).map(|offset| (from + offset) % count);
            let next = next.map(|segment| (segment, device.segments.get(segment).chain.first));
            let Some((segment, first)) = next.into_iter().find(|&(_, first)| first != END) else {
                return false;
            };
            (device.scrub_segment, device.scrub_cursor) = (segment, first);
        }
        let handle = ExtentHandle(device.scrub_cursor);
        let entry = *self.nvme.extents.get(handle);
        let record = *self.pool.blocks.get(entry.block);
        let pages = self.pool.pages_of(record.space);
        if !device.scrub_tokens.has(now, bytes(pages)) {
            return false;
        }
        device.scrub_tokens.take(bytes(pages));
        device.scrub_cursor = entry.next;
        device.is_verifying = true;
        device.segments.get_mut(entry.place.index()).readers += 1;
        let (extent, key) = (self.nvme.extent_at(entry.place, pages), self.pool.key(&record));
        let operation = Operation::Verify {
            extent: handle,
            place: entry.place,
            pages,
        };
        let order = |operation| NvmeOrder::Verify {
            operation,
            extent,
            key,
        };
        self.order(index, operation, order, effects);
        true
    }

    /// When the next verification may be ordered, if only time is wanting.
    pub(super) fn scrub_wakes_at(&self, index: usize) -> Option<Instant> {
        let device = &self.nvme.devices[index];
        let is_waiting =
            device.state == DeviceState::Serving && !device.is_verifying && device.scrub_cursor != END;
        if !is_waiting {
            return None;
        }
        let entry = self.nvme.extents.get(ExtentHandle(device.scrub_cursor));
        let pages = self.pool.pages_of(self.pool.blocks.get(entry.block).space);
        device.scrub_tokens.ready_at(bytes(pages))
    }
}
