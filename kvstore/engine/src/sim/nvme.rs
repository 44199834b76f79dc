//! How the world's devices act: they tell, answer, fail and come back.

use std::time::{Duration, Instant};

use kvstore_types::{Corruption, DeviceIndex, Extent, IoOutcome, OperationId};

use super::device::{Device, Flow, Life, Pending};
use super::disk::Tale;
use super::random::Random;
use super::transfers::JUNK;
use super::world::World;
use crate::config::{Admission, NvmeConfig, NvmeTuning};
use crate::effect::NvmeOrder;
use crate::event::{Event, NvmeEvent};

/// Most pages of a slot in any of the simulated geometries, header included.
const SLOT_PAGES_MAX: u64 = 10;

/// A tier of some small devices.
pub(super) fn config(random: &mut Random) -> NvmeConfig {
    let pages = SLOT_PAGES_MAX + random.below(40) as u64;
    let slots = [1, 2, 1000];
    NvmeConfig {
        device_count: 1 + u8::try_from(random.below(3)).unwrap_or(0),
        segment_bytes: 4096 * random.pick(&[5, pages, pages]).unwrap_or(pages),
        tuning: tuning(random),
        promotion_deadline: Duration::from_millis(random.pick(&[0, 5, 50, 1000]).unwrap_or(5)),
        promotion_bytes_max: 4096 * SLOT_PAGES_MAX * random.pick(&slots).unwrap_or(1),
        write_bytes_max: 4096 * random.pick(&[1, 20, 10_000]).unwrap_or(1),
        write_queue_max: random.pick(&[1, 5, 1000]).unwrap_or(5),
    }
}

/// What can change while it runs.
pub(super) fn tuning(random: &mut Random) -> NvmeTuning {
    let (watermark_low, watermark_high) = random
        .pick(&[(0.5, 0.7), (0.8, 1.0), (0.2, 0.95)])
        .unwrap_or((0.5, 1.0));
    NvmeTuning {
        segments_max: 2 + u32::try_from(random.below(8)).unwrap_or(0),
        watermark_low,
        watermark_high,
        admission: random
            .pick(&[Admission::All, Admission::All, Admission::SecondTouch])
            .unwrap_or_default(),
        write_rate: random
            .chance(30)
            .then_some(4096 * (1 + random.below(3000) as u64)),
        scrub_rate: random
            .chance(30)
            .then_some(4096 * (1 + random.below(3000) as u64)),
    }
}

impl World {
    /// Something happens at some device.
    pub(super) fn device_acts(&mut self) {
        if self.devices.is_empty() {
            return;
        }
        let at = self.random.below(self.devices.len());
        match self.devices[at].life {
            Life::Loading => (0..=self.random.below(4)).for_each(|_| self.tell_tale(at)),
            Life::Serving | Life::Lost => (0..=self.random.below(6)).for_each(|_| self.answer_some(at)),
        }
    }

    /// Trouble with devices.
    pub(super) fn device_mishap(&mut self) {
        if self.devices.is_empty() {
            return;
        }
        let at = self.random.below(self.devices.len());
        match self.random.below(100) {
            0..50 => self.devices[at].trouble = self.random.pick(&[0, 0, 0, 2, 20, 100]).unwrap_or(0),
            50..70 => self.damage(at),
            70..97 => self.tune(),
            _ => self.lose(at),
        }
    }

    /// Bits rot.
    fn damage(&mut self, at: usize) {
        let percent = self.random.pick(&[2, 20, 100]).unwrap_or(0);
        let segments = self.devices[at].disk.segments.values_mut();
        for copy in segments.flat_map(|segment| segment.copies.values_mut()) {
            if self.random.chance(percent) {
                copy.damage = self.random.pick(&Corruption::ALL);
            }
        }
    }

    fn tune(&mut self) {
        let Some(config) = &mut self.config.nvme else {
            return;
        };
        let before = std::mem::replace(&mut config.tuning, tuning(&mut self.random));
        let tuning = config.tuning.clone();
        for device in &mut self.devices {
            device.flow = Flow::new(self.now, before.write_rate);
        }
        self.step(Event::NvmeTuned { tuning });
    }

    /// A device goes, and whatever was under way with it.
    fn lose(&mut self, at: usize) {
        if self.devices[at].life == Life::Lost {
            return;
        }
        while !self.devices[at].pending.is_empty() {
            self.answer_one(at, Some(IoOutcome::Failed));
        }
        self.devices[at].life = Life::Lost;
        self.devices[at].tales.clear();
        self.tally.devices_lost += 1;
        self.nvme(at, NvmeEvent::Lost);
    }

    fn nvme(&mut self, at: usize, event: NvmeEvent<'_>) {
        let device = index(at);
        self.step(Event::Nvme { device, event });
    }

    /// A device that loads tells one more thing. Reads of what it has told may be under way.
    pub(super) fn tell_tale(&mut self, at: usize) {
        if self.random.chance(20) {
            self.answer_some(at);
        }
        let tale = self.devices[at].tales.pop_front();
        match tale {
            None => {}
            Some(Tale::Segment(segment, tail)) => self.nvme(at, NvmeEvent::SegmentFound { segment, tail }),
            Some(Tale::Namespace(descriptor, geometry)) => {
                let (descriptor, geometry) = (&descriptor, &geometry);
                self.nvme(at, NvmeEvent::Namespace { descriptor, geometry });
            }
            Some(Tale::Blocks(blocks)) => {
                self.nvme(at, NvmeEvent::Blocks { blocks: &blocks });
                self.tally.blocks_told += blocks.len() as u64;
                for block in &blocks {
                    let is_known = self.engine.descriptor(block.key.namespace).is_some();
                    assert!(
                        !is_known || self.engine.residency(&block.key).nvme,
                        "promise 6: {} was told by device {at} and is not found",
                        block.key
                    );
                }
            }
            Some(Tale::Loaded) => {
                self.devices[at].life = Life::Serving;
                self.nvme(at, NvmeEvent::Loaded);
            }
        }
    }

    fn answer_some(&mut self, at: usize) {
        if !self.devices[at].pending.is_empty() {
            self.answer_one(at, None);
        }
    }

    /// A device answers one of its orders, whichever.
    pub(super) fn answer_one(&mut self, at: usize, forced: Option<IoOutcome>) {
        let next = self.random.below(self.devices[at].pending.len());
        let pending = self.devices[at].pending.swap_remove(next);
        let is_failing = self.random.chance(self.devices[at].trouble);
        let failure = self.random.pick(&[IoOutcome::Failed, IoOutcome::NoSpace]);
        let outcome = forced.or(failure.filter(|_| is_failing));
        let outcome = self.carry_out(at, &pending, outcome);
        self.tally.orders_answered += 1;
        let operation = pending.operation;
        self.nvme(at, NvmeEvent::Done { operation, outcome });
        self.arriving = None;
    }

    fn carry_out(&mut self, at: usize, pending: &Pending, failure: Option<IoOutcome>) -> IoOutcome {
        let failure = match pending.order {
            // A read takes no room, and neither does a deletion.
            NvmeOrder::Read { .. } | NvmeOrder::Verify { .. } | NvmeOrder::DeleteSegment { .. } => {
                failure.map(|_| IoOutcome::Failed)
            }
            _ => failure,
        };
        match pending.order {
            NvmeOrder::Read {
                operation, extent, ..
            } => self.carry_out_read(at, operation, extent, failure),
            NvmeOrder::Verify { extent, .. } => {
                let damage = self.devices[at].copy_at(extent).and_then(|copy| copy.damage);
                failure
                    .or(damage.map(IoOutcome::Corrupt))
                    .unwrap_or(IoOutcome::Done)
            }
            NvmeOrder::Move { from, to, .. } => {
                let damage = self.devices[at].copy_at(from).and_then(|copy| copy.damage);
                let failure = failure.or(damage.map(IoOutcome::Corrupt));
                let outcome = self.carry_out_write(at, pending, to, failure);
                if outcome == IoOutcome::Done
                    && let Some(copy) = self.devices[at].copy_at(from)
                {
                    copy.is_known = false;
                }
                outcome
            }
            NvmeOrder::Write {
                operation, extent, ..
            } => {
                self.end_write(operation, pending);
                self.carry_out_write(at, pending, extent, failure)
            }
            _ => {
                let is_deletion = matches!(pending.order, NvmeOrder::DeleteSegment { .. });
                self.devices[at].is_stuck |= is_deletion && failure.is_some();
                let is_opening = matches!(pending.order, NvmeOrder::OpenSegment { .. });
                if failure.is_none() || is_opening && self.random.chance(50) {
                    self.devices[at].apply(pending);
                }
                if let (NvmeOrder::OpenSegment { segment, .. }, None) = (&pending.order, failure) {
                    let opened = self.devices[at].disk.segments.get_mut(&segment.index);
                    if let Some(segment) = opened {
                        segment.is_open = true;
                    }
                }
                failure.unwrap_or(IoOutcome::Done)
            }
        }
    }

    fn carry_out_read(
        &mut self,
        at: usize,
        operation: OperationId,
        extent: Extent,
        failure: Option<IoOutcome>,
    ) -> IoOutcome {
        let Some(transfer) = self.model.transfers.remove(&operation) else {
            panic!("the simulation is wrong: {operation:?} has no slot")
        };
        let range = self.model.payload(transfer.slot, transfer.pages);
        assert!(
            self.model.memory[range.clone()].iter().all(|&page| page == JUNK),
            "promise 4: somebody wrote to {} while {operation:?} read into it",
            transfer.slot
        );
        let copy = self.devices[at].copy_at(extent);
        let damage = copy.as_ref().and_then(|copy| copy.damage).map(IoOutcome::Corrupt);
        let outcome = failure.or(damage).unwrap_or(IoOutcome::Done);
        if let (Some(copy), IoOutcome::Done) = (copy, outcome) {
            self.model.memory[range].clone_from_slice(&copy.bytes);
            self.arriving = Some(transfer);
        }
        outcome
    }

    fn end_write(&mut self, operation: OperationId, pending: &Pending) {
        let Some(transfer) = self.model.transfers.remove(&operation) else {
            panic!("the simulation is wrong: {operation:?} has no slot")
        };
        let range = self.model.payload(transfer.slot, transfer.pages);
        assert_eq!(
            self.model.memory[range], pending.bytes,
            "promise 3: bytes of {} changed while they were written",
            transfer.slot
        );
    }

    fn carry_out_write(
        &mut self,
        at: usize,
        pending: &Pending,
        extent: Extent,
        failure: Option<IoOutcome>,
    ) -> IoOutcome {
        // What failed may be there all the same, and be found by the next daemon.
        if failure.is_none() || self.random.chance(30) {
            self.devices[at].apply(pending);
        }
        if failure.is_none()
            && let Some(copy) = self.devices[at].copy_at(extent)
        {
            copy.is_known = true;
        }
        failure.unwrap_or(IoOutcome::Done)
    }

    /// The daemon is killed, all its clients with it, and another starts over the same devices.
    pub(super) fn restart_devices(&mut self) {
        let Some(config) = &mut self.config.nvme else {
            return;
        };
        if self.random.chance(50) {
            config.tuning = tuning(&mut self.random);
        }
        let config = config.clone();
        for device in &mut self.devices {
            device.crash(&mut self.random);
            device.reopen(self.now, &config, &mut self.random);
        }
    }
}

impl Device {
    /// Those that a tier of this configuration has.
    pub(super) fn all(now: Instant, config: Option<&NvmeConfig>) -> Vec<Self> {
        let count = config.map_or(0, |config| config.device_count);
        (0..count).map(|_| Self::new(now)).collect()
    }
}

fn index(at: usize) -> DeviceIndex {
    DeviceIndex(u8::try_from(at).unwrap_or(u8::MAX))
}
