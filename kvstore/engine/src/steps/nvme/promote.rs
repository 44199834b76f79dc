//! Blocks are read from NVMe into slots, and who waits for them.

use kvstore_types::{IoOutcome, ReadClass, Tier};

use super::done::fault_of;
use super::write_back::bytes;
use crate::block::{BlockIndex, BlockState, ExtentHandle};
use crate::effect::{Effect, Effects, NvmeOrder, RemoteOrder};
use crate::engine::Engine;
use crate::nvme::{DeviceState, Operation, Source};
use crate::pool::{Effort, Out};

impl Engine {
    /// Begins to read a block of a lower tier. False if it has to stay where it is: its tier is out of service, as much as
    /// may be is on its way, or no slot can be had.
    pub(super) fn promote(&mut self, block: BlockIndex, effort: &mut Effort, effects: &mut Effects) -> bool {
        let record = *self.pool.blocks.get(block);
        if record.state == BlockState::Remote {
            return self.fetch(block, effort, effects);
        }
        debug_assert_eq!(record.state, BlockState::Stored);
        let place = self.nvme.extents.get(record.extent).place;
        let (index, pages) = (place.device(), self.pool.pages_of(record.space));
        if self.nvme.devices[index].state == DeviceState::Lost {
            return false;
        }
        let (under_way, max) = (
            self.nvme.promotions.bytes,
            self.nvme_config().map_or(0, |config| config.promotion_bytes_max),
        );
        if under_way > 0 && under_way.saturating_add(bytes(pages)) > max {
            self.counters.nvme_promotions_over_bound += 1;
            return false;
        }
        let promotion = self.nvme.promotions.next();
        let out = &mut Out {
            counters: &mut self.counters,
            effects,
        };
        let Some(slot) = self.pool.take_for_promotion(block, promotion, effort, out) else {
            self.counters.nvme_promotions_no_space += 1;
            return false;
        };
        let device = &mut self.nvme.devices[index];
        device.reads += 1;
        device.segments.get_mut(place.index()).readers += 1;
        let (extent, key) = (self.nvme.extent_at(place, pages), self.pool.key(&record));
        let order = |operation| NvmeOrder::Read {
            operation,
            extent,
            slot,
            key,
            class: ReadClass::Demand,
        };
        let operation = self.order(index, Operation::Read { promotion }, order, effects);
        self.nvme
            .promotions
            .add(block, Source::Nvme(place), pages, operation);
        true
    }

    /// A look-up waits for a block that is being read. False if it does already.
    pub(crate) fn join_promotion(&mut self, promotion: u32, wait: u64, effects: &mut Effects) -> bool {
        let Some(entry) = self.nvme.promotions.get_mut(promotion) else {
            return false;
        };
        if entry.waiters.contains(&wait) {
            return false;
        }
        entry.waiters.push(wait);
        if entry.class != ReadClass::Demand {
            entry.class = ReadClass::Demand;
            self.set_class(promotion, ReadClass::Demand, effects);
        }
        true
    }

    /// A look-up does not wait any more. The read goes on.
    pub(crate) fn leave_promotion(&mut self, promotion: u32, wait: u64, effects: &mut Effects) {
        let Some(entry) = self.nvme.promotions.get_mut(promotion) else {
            return;
        };
        let Some(at) = entry.waiters.iter().position(|&waiter| waiter == wait) else {
            return;
        };
        entry.waiters.swap_remove(at);
        if entry.waiters.is_empty() {
            entry.class = ReadClass::Prefetch;
            self.set_class(promotion, ReadClass::Prefetch, effects);
        }
    }

    fn set_class(&self, promotion: u32, class: ReadClass, effects: &mut Effects) {
        let Some(entry) = self.nvme.promotions.get(promotion) else {
            return;
        };
        let operation = entry.operation;
        match entry.source {
            Source::Nvme(place) => {
                self.give(place.device(), NvmeOrder::SetClass { operation, class }, effects);
            }
            Source::Remote => {
                let order = RemoteOrder::SetClass { operation, class };
                effects.list.push(Effect::Remote(order));
            }
        }
    }

    /// A read has ended: the block is resident, or its copy is of no use.
    pub(super) fn on_read(
        &mut self,
        index: usize,
        promotion: u32,
        outcome: IoOutcome,
        effects: &mut Effects,
    ) {
        let mut waiters = std::mem::take(&mut self.scratch.waiters);
        let Some(over) = self.nvme.promotions.remove(promotion, &mut waiters) else {
            return;
        };
        let (block, Source::Nvme(place)) = (over.block, over.source) else {
            return;
        };
        let device = &mut self.nvme.devices[index];
        device.reads -= 1;
        device.segments.get_mut(place.index()).readers -= 1;
        match fault_of(outcome) {
            None => {
                self.counters.nvme_read += 1;
                self.counters.nvme_read_bytes += bytes(over.pages);
                self.publish_promoted(block, effects);
            }
            Some(cause) => {
                match outcome {
                    IoOutcome::Corrupt(corruption) => self.count_corrupt(corruption),
                    _ => self.counters.nvme_read_failed += 1,
                }
                // The copy may have been carried over meanwhile, or be gone: then this read says nothing of it.
                let extent = self.pool.blocks.get(block).extent;
                let is_there = extent != ExtentHandle::NONE && self.nvme.extents.is_at(extent, place);
                if is_there {
                    self.drop_copy(block, cause, effects);
                }
                self.pool.end_promotion(block);
            }
        }
        self.nvme.devices[index].settle(place.index());
        let arrived = (outcome == IoOutcome::Done).then_some(block);
        for wait in waiters.drain(..) {
            self.promotion_ended(wait, arrived, Tier::Nvme, effects);
        }
        self.scratch.waiters = waiters;
        self.judge_read(index, outcome, effects);
    }

    pub(crate) fn publish_promoted(&mut self, block: BlockIndex, effects: &mut Effects) {
        self.pool.publish(block);
        self.pool.admit(block);
        let record = self.pool.blocks.get(block);
        let (has_copy, is_remote) = (record.extent != ExtentHandle::NONE, record.is_remote);
        let key = self.pool.key(record);
        let tier = Tier::Host;
        effects.list.push(Effect::BlockStored {
            key,
            tier,
            descriptor: self.pool.blocks.descriptor(block),
        });
        if !has_copy && is_remote {
            self.admit_sealed(block);
        } else if !has_copy {
            // It was wanted while its segment was being reclaimed.
            self.queue_write(block);
        }
        // The remote tier may not have what this node found on NVMe.
        self.store_sealed(block);
    }
}
