//! The NVMe tier: what follows from what its devices say, and from time.

mod done;
mod load;
mod promote;
mod reclaim;
mod scrub;
mod segments;
mod wait;
mod write_back;

use std::time::Instant;

use kvstore_types::{DeviceIndex, OperationId};

use crate::block::BlockIndex;
use crate::config::{NvmeConfig, NvmeTuning};
use crate::effect::{Effect, Effects, Note, NvmeOrder, RemovalCause};
use crate::engine::Engine;
use crate::event::NvmeEvent;
use crate::nvme::{DeviceState, Operation, SegmentState, device_index};
use crate::pool::Out;

pub(crate) use wait::{Cold, Waiting};
pub(crate) use write_back::bytes;

/// Most blocks that one step writes, drops or carries over of its own accord.
const BATCH: u32 = 256;

impl Engine {
    #[expect(clippy::needless_pass_by_value, reason = "an event is taken")]
    pub(crate) fn on_nvme(
        &mut self,
        now: Instant,
        device: DeviceIndex,
        event: NvmeEvent<'_>,
        effects: &mut Effects,
    ) {
        let index = usize::from(device.0);
        if index >= self.nvme.devices.len() {
            self.counters.nvme_events_unknown += 1;
            return;
        }
        match event {
            NvmeEvent::SegmentUnusable { index: segment } => self.on_segment_unusable(index, segment),
            NvmeEvent::SegmentFound { segment, tail } => self.on_segment_found(index, segment, tail),
            NvmeEvent::Namespace { descriptor, geometry } => {
                self.on_namespace_found(index, descriptor, geometry, effects);
            }
            NvmeEvent::Blocks { blocks } => self.on_blocks_found(index, blocks, effects),
            NvmeEvent::Loaded => self.on_device_loaded(index),
            NvmeEvent::Done { operation, outcome } => {
                match self.nvme.operations.remove(&operation) {
                    Some((of, done)) if of == device => {
                        self.on_operation_done(now, index, operation, done, outcome, effects);
                    }
                    // It is another device's to answer.
                    Some(other) => {
                        self.nvme.operations.insert(operation, other);
                        self.counters.nvme_events_unknown += 1;
                    }
                    None => self.counters.nvme_events_unknown += 1,
                }
            }
            NvmeEvent::Lost => self.lose_device(index, effects),
        }
    }

    pub(crate) fn on_nvme_tuned(&mut self, tuning: NvmeTuning) {
        // The daemon checks what a person wrote; what cannot work changes nothing here.
        let Some(config) = self.nvme.config.as_mut().filter(|_| tuning.check().is_ok()) else {
            return;
        };
        for device in &mut self.nvme.devices {
            device.write_tokens.set_rate(tuning.write_rate);
            device.scrub_tokens.set_rate(tuning.scrub_rate);
            device.creation_paused_until = None;
        }
        config.tuning = tuning;
    }

    /// Does what is to be done at the end of each step, until nothing more can be or the batch is full.
    pub(crate) fn tend_nvme(&mut self, now: Instant, effects: &mut Effects) {
        if self.nvme.devices.is_empty() {
            return;
        }
        self.drop_namespaces(effects);
        let mut budget = BATCH;
        loop {
            let mut has_changed = false;
            for device in 0..self.nvme.devices.len() {
                has_changed |= match self.nvme.devices[device].state {
                    DeviceState::Loading => false,
                    DeviceState::Serving => {
                        let mut changed = self.tend_segments(now, device, effects);
                        changed |= self.reclaim(now, device, &mut budget, effects);
                        changed | self.scrub(now, device, effects)
                    }
                    DeviceState::Lost => self.purge(device, &mut budget, effects),
                };
            }
            has_changed |= self.write_back(now, &mut budget, effects);
            if !has_changed || budget == 0 {
                break;
            }
        }
        self.nvme.has_work = budget == 0;
        let reclaimed = self.nvme.devices.iter().map(|device| device.reclaimed);
        self.counters.nvme_reclaimed_segments = reclaimed.sum();
    }

    /// The earliest moment at which a `Tick` would do something that time brings: a look-up's deadline, tokens of a rate,
    /// the end of a pause after a failed write. None: nothing waits for time, and a daemon with nothing else to do sleeps.
    pub fn wakes_at(&self) -> Option<Instant> {
        let now = self.nvme.now?;
        let deadline = self.nvme.waits.first().map(|(deadline, _)| deadline);
        let writes = self.write_back_wakes_at();
        let scrubs = (0..self.nvme.devices.len()).filter_map(|device| self.scrub_wakes_at(device));
        // What lies before the last step waits for something else than time.
        let later = scrubs.chain(deadline).chain(writes).filter(|&at| at > now);
        later.min()
    }

    /// A device is out of service: nothing more is ordered of it, and its copies leave in batches.
    pub(crate) fn lose_device(&mut self, index: usize, effects: &mut Effects) {
        let device = &mut self.nvme.devices[index];
        if device.state == DeviceState::Lost {
            return;
        }
        device.state = DeviceState::Lost;
        device.suspension = None;
        device.reclaim = None;
        let told = std::mem::take(&mut device.told);
        self.counters.nvme_devices_lost += 1;
        self.end_telling(told);
        if !self.nvme.is_writing() {
            self.nvme.queue.clear(&mut self.pool.blocks);
        }
        let device = device_index(index);
        effects.list.push(Effect::Note(Note::NvmeDeviceLost { device }));
    }

    /// Drops copies of a device that is out of service.
    fn purge(&mut self, index: usize, budget: &mut u32, effects: &mut Effects) -> bool {
        let before = *budget;
        let count = u32::try_from(self.nvme.devices[index].segments.iter().count()).unwrap_or(u32::MAX);
        if self.nvme.devices[index].blocks == 0 {
            return false;
        }
        for segment in 0..count {
            while *budget > 0 {
                let chain = self.nvme.devices[index].segments.get(segment).chain;
                let Some(handle) = self.nvme.extents.iter(chain).next() else {
                    break;
                };
                let block = self.nvme.extents.get(handle).block;
                self.drop_copy(block, RemovalCause::DeviceLost, effects);
                *budget -= 1;
            }
        }
        *budget < before
    }

    /// The copy of a block on NVMe goes.
    fn drop_copy(&mut self, block: BlockIndex, cause: RemovalCause, effects: &mut Effects) {
        let out = &mut Out {
            counters: &mut self.counters,
            effects,
        };
        self.pool.drop_copy(&mut self.nvme, block, cause, out);
        #[cfg(any(test, feature = "sim"))]
        if self.canary == crate::sim::Canary::HideCorruption && cause == RemovalCause::Corrupt {
            let is_said = |effect: &Effect| matches!(effect, Effect::BlockRemoved { cause, .. } if *cause == RemovalCause::Corrupt);
            effects.list.retain(|effect| !is_said(effect));
        }
    }

    /// Gives an order that will be answered.
    fn order(
        &mut self,
        device: usize,
        operation: Operation,
        order: impl FnOnce(OperationId) -> NvmeOrder,
        effects: &mut Effects,
    ) -> OperationId {
        let id = self.nvme.order(device, operation);
        self.give(device, order(id), effects);
        id
    }

    /// A segment takes no more writes; the device hears of it when all of them have been answered.
    fn tell_full(&mut self, device: usize, index: u32, effects: &mut Effects) {
        let segment = self.nvme.devices[device].segments.get_mut(index);
        let is_over = segment.state == SegmentState::Full && segment.writers == 0;
        if is_over && !segment.is_told_full && segment.chain.len > 0 {
            segment.is_told_full = true;
            let segment = self.segment_ref(device, index);
            self.give(device, NvmeOrder::SegmentFull { segment }, effects);
        }
    }

    /// Gives an order. One to a device that is out of service would never be read.
    fn give(&self, device: usize, order: NvmeOrder, effects: &mut Effects) {
        if self.nvme.devices[device].state != DeviceState::Lost {
            let device = device_index(device);
            effects.list.push(Effect::Nvme { device, order });
        }
    }

    fn nvme_config(&self) -> Option<&NvmeConfig> {
        self.nvme.config.as_ref()
    }
}
