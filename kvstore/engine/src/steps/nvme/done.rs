//! A device has carried out an order, or could not.

use std::time::Instant;

use kvstore_types::{IoOutcome, OperationId, SlotRef, Tier};

use crate::block::{BlockIndex, ExtentHandle, mark};
use crate::effect::{Effect, Effects, Note, NvmeOrder, RemovalCause};
use crate::engine::Engine;
use crate::nvme::{DeviceState, FAILURES_MAX, Operation, Place, SegmentState, device_index};

impl Engine {
    pub(super) fn on_operation_done(
        &mut self,
        now: Instant,
        device: usize,
        id: OperationId,
        operation: Operation,
        outcome: IoOutcome,
        effects: &mut Effects,
    ) {
        match operation {
            Operation::Create { index } => self.on_created(now, device, index, outcome, effects),
            Operation::Delete { index } => {
                let is_gone = outcome == IoOutcome::Done;
                let state = if is_gone {
                    SegmentState::Absent
                } else {
                    SegmentState::Broken
                };
                self.nvme.devices[device].segments.set_state(index, state);
            }
            Operation::Open { index } => {
                let segments = &mut self.nvme.devices[device].segments;
                if outcome == IoOutcome::Done {
                    segments.set_state(index, SegmentState::Open);
                } else {
                    segments.set_state(index, SegmentState::Free);
                    segments.ahead = None;
                }
                self.judge_write(now, device, id, outcome, effects);
            }
            Operation::Write {
                place,
                pages,
                block,
                slot,
            } => {
                self.on_written(device, place, pages, block, slot, outcome, effects);
                self.judge_write(now, device, id, outcome, effects);
            }
            Operation::Read { promotion } => self.on_read(device, promotion, outcome, effects),
            Operation::Move {
                extent,
                from,
                to,
                pages,
            } => {
                self.on_moved(device, extent, (from, to), pages, outcome, effects);
                if outcome == IoOutcome::NoSpace {
                    self.judge_write(now, device, id, outcome, effects);
                }
            }
            Operation::Verify { extent, place, pages } => {
                self.on_verified(device, extent, place, pages, outcome, effects);
            }
        }
    }

    fn on_created(
        &mut self,
        now: Instant,
        index: usize,
        segment: u32,
        outcome: IoOutcome,
        effects: &mut Effects,
    ) {
        let device = &mut self.nvme.devices[index];
        if outcome == IoOutcome::Done {
            device.segments.set_state(segment, SegmentState::Free);
            return;
        }
        device.segments.set_state(segment, SegmentState::Absent);
        let was_paused = !device.may_create(now);
        device.pause_creation(now);
        self.counters.nvme_segments_not_created += 1;
        if !was_paused {
            effects.list.push(Effect::Note(Note::NvmeSegmentNotCreated {
                device: device_index(index),
                segments: self.nvme.devices[index].segments.existing(),
                outcome,
            }));
        }
    }

    /// Writing is suspended by a failure, and resumed by the write that then ends well.
    fn judge_write(
        &mut self,
        now: Instant,
        index: usize,
        operation: OperationId,
        outcome: IoOutcome,
        effects: &mut Effects,
    ) {
        let device = &mut self.nvme.devices[index];
        if device.state != DeviceState::Serving {
            return;
        }
        let note = if outcome == IoOutcome::Done {
            let device_index = device_index(index);
            device
                .write_succeeded(operation)
                .then_some(Note::NvmeWritesResumed { device: device_index })
        } else {
            let device_index = device_index(index);
            device
                .write_failed(now, operation)
                .then_some(Note::NvmeWritesSuspended {
                    device: device_index,
                    outcome,
                })
        };
        effects.list.extend(note.map(Effect::Note));
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "they are the parts of one order and its outcome"
    )]
    fn on_written(
        &mut self,
        device: usize,
        place: Place,
        pages: u32,
        block: BlockIndex,
        slot: SlotRef,
        outcome: IoOutcome,
        effects: &mut Effects,
    ) {
        let extent = self.nvme.extent_at(place, pages);
        let books = &mut self.nvme.devices[device];
        books.writes -= 1;
        books.writing_bytes -= extent.bytes();
        books.segments.get_mut(place.index()).writers -= 1;
        let is_lost = books.state == DeviceState::Lost;
        self.pool.unpin(block, mark::WRITING);
        let record = self.pool.blocks.get(block);
        debug_assert_eq!(record.slot, slot, "a pinned block stays in its slot");
        let has_copy = record.extent != ExtentHandle::NONE;
        match outcome {
            IoOutcome::Done if is_lost => {}
            // Another device has told of it meanwhile.
            IoOutcome::Done if has_copy => self.forget(device, extent, effects),
            IoOutcome::Done => {
                let key = self.pool.key(self.pool.blocks.get(block));
                let extent = self.nvme.attach(place, block, pages);
                let record = self.pool.blocks.get_mut(block);
                record.extent = extent;
                record.marks &= !mark::HIT;
                let namespace = record.space.namespace();
                self.pool.spaces.get_mut(namespace).stored += 1;
                self.keep_copy(block);
                self.counters.nvme_written += 1;
                self.counters.nvme_written_bytes += u64::from(pages) * kvstore_types::PAGE_BYTES;
                let tier = Tier::Nvme;
                effects.list.push(Effect::BlockStored {
                    key,
                    tier,
                    descriptor: self.pool.blocks.descriptor(block),
                });
            }
            IoOutcome::NoSpace | IoOutcome::Failed | IoOutcome::Corrupt(_) => {
                let counter = if outcome == IoOutcome::NoSpace {
                    &mut self.counters.nvme_no_space
                } else {
                    &mut self.counters.nvme_write_failed
                };
                *counter += 1;
                self.queue_write(block);
            }
        }
        self.end_write(device, place, effects);
    }

    fn end_write(&mut self, device: usize, place: Place, effects: &mut Effects) {
        if !self.nvme.devices[device].settle(place.index()) {
            self.tell_full(device, place.index(), effects);
        }
    }

    fn on_moved(
        &mut self,
        device: usize,
        handle: ExtentHandle,
        (from, to): (Place, Place),
        pages: u32,
        outcome: IoOutcome,
        effects: &mut Effects,
    ) {
        let books = &mut self.nvme.devices[device];
        books.moves -= 1;
        books.segments.get_mut(to.index()).writers -= 1;
        books.segments.get_mut(from.index()).readers -= 1;
        let is_lost = books.state == DeviceState::Lost;
        let is_there = self.nvme.extents.is_at(handle, from);
        let block = self.nvme.extents.get(handle).block;
        match outcome {
            IoOutcome::Done if is_lost => {}
            IoOutcome::Done if is_there => {
                self.nvme.detach(handle, pages);
                let extent = self.nvme.attach(to, block, pages);
                let record = self.pool.blocks.get_mut(block);
                record.extent = extent;
                record.marks &= !mark::HIT;
                self.counters.nvme_carried_over += 1;
            }
            IoOutcome::Done => self.forget(device, self.nvme.extent_at(to, pages), effects),
            IoOutcome::Corrupt(corruption) => {
                self.count_corrupt(corruption);
                if is_there {
                    self.drop_copy(block, RemovalCause::Corrupt, effects);
                    self.requeue(block);
                }
            }
            IoOutcome::NoSpace | IoOutcome::Failed if is_there => {
                self.counters.nvme_reclaimed_blocks += 1;
                self.drop_copy(block, RemovalCause::Reclaimed, effects);
            }
            IoOutcome::NoSpace | IoOutcome::Failed => {}
        }
        self.end_write(device, to, effects);
        self.nvme.devices[device].settle(from.index());
    }

    fn on_verified(
        &mut self,
        device: usize,
        handle: ExtentHandle,
        place: Place,
        pages: u32,
        outcome: IoOutcome,
        effects: &mut Effects,
    ) {
        let books = &mut self.nvme.devices[device];
        books.is_verifying = false;
        books.segments.get_mut(place.index()).readers -= 1;
        let is_there = self.nvme.extents.is_at(handle, place);
        let block = self.nvme.extents.get(handle).block;
        match outcome {
            IoOutcome::Done => {
                self.counters.nvme_scrubbed += 1;
                self.counters.nvme_scrubbed_bytes += u64::from(pages) * kvstore_types::PAGE_BYTES;
            }
            IoOutcome::Corrupt(corruption) => {
                self.counters.nvme_scrub_corrupt += 1;
                self.count_corrupt(corruption);
            }
            IoOutcome::NoSpace | IoOutcome::Failed => self.counters.nvme_read_failed += 1,
        }
        if is_there && let Some(cause) = fault_of(outcome) {
            self.drop_copy(block, cause, effects);
            self.requeue(block);
        }
        self.nvme.devices[device].settle(place.index());
        self.judge_read(device, outcome, effects);
    }

    /// A copy was bad. Where the block is still in host memory it may be written again.
    fn requeue(&mut self, block: BlockIndex) {
        if self.pool.blocks.get(block).state == crate::block::BlockState::Resident {
            self.queue_write(block);
        }
    }

    /// A device whose reads fail again and again is out of service.
    pub(super) fn judge_read(&mut self, index: usize, outcome: IoOutcome, effects: &mut Effects) {
        let device = &mut self.nvme.devices[index];
        match outcome {
            IoOutcome::Done | IoOutcome::Corrupt(_) => device.failures = 0,
            IoOutcome::NoSpace | IoOutcome::Failed => {
                device.failures += 1;
                if device.failures >= FAILURES_MAX {
                    self.lose_device(index, effects);
                }
            }
        }
    }

    pub(super) fn count_corrupt(&mut self, corruption: kvstore_types::Corruption) {
        use kvstore_types::Corruption;
        let counter = match corruption {
            Corruption::Header => &mut self.counters.nvme_corrupt_header,
            Corruption::Foreign => &mut self.counters.nvme_corrupt_foreign,
            Corruption::Place => &mut self.counters.nvme_corrupt_place,
            Corruption::Key => &mut self.counters.nvme_corrupt_key,
            Corruption::Payload => &mut self.counters.nvme_corrupt_payload,
            Corruption::Truncated => &mut self.counters.nvme_corrupt_truncated,
        };
        *counter += 1;
    }

    /// Makes sure that a device knows what a block's namespace stands for.
    pub(super) fn keep_namespace(&mut self, device: usize, namespace: u32, effects: &mut Effects) {
        let namespace = self.pool.spaces.get_mut(namespace);
        if namespace.kept & 1 << device == 0 {
            namespace.kept |= 1 << device;
            let order = NvmeOrder::KeepNamespace {
                descriptor: namespace.descriptor.clone(),
                geometry: namespace.geometry.clone(),
            };
            self.give(device, order, effects);
        }
    }

    /// Tells devices of namespaces that are gone, so that what they stood for takes no room.
    pub(super) fn drop_namespaces(&mut self, effects: &mut Effects) {
        while let Some((namespace, kept)) = self.pool.spaces.take_dropped() {
            for device in (0..self.nvme.devices.len()).filter(|device| kept & 1 << device != 0) {
                self.give(device, NvmeOrder::DropNamespace { namespace }, effects);
            }
        }
    }
}

/// Why a copy that was read like this is of no use.
pub(super) fn fault_of(outcome: IoOutcome) -> Option<RemovalCause> {
    match outcome {
        IoOutcome::Done => None,
        IoOutcome::Corrupt(_) => Some(RemovalCause::Corrupt),
        IoOutcome::NoSpace | IoOutcome::Failed => Some(RemovalCause::Unreadable),
    }
}
