//! How the world's devices act: they tell, answer, fail and come back.

use std::time::{Duration, Instant};

use kvstore_types::{BlockKey, Corruption, DeviceIndex, Extent, IoOutcome, OperationId, PAGE_BYTES, Tier};

use super::device::{Device, Flow, JUNK, Life, Pending};
use super::disk::Tale;
use super::model::Transfer;
use super::random::Random;
use super::world::World;
use crate::config::{Admission, NvmeConfig, NvmeTuning};
use crate::counters::Occupancy;
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
            Life::Loading => (0..1 + self.random.below(4)).for_each(|_| self.tell_tale(at)),
            Life::Serving | Life::Lost => (0..1 + self.random.below(6)).for_each(|_| self.answer_some(at)),
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
    fn tell_tale(&mut self, at: usize) {
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
    fn answer_one(&mut self, at: usize, forced: Option<IoOutcome>) {
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
                self.carry_out_write(at, pending, to, failure)
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
                    opened.into_iter().for_each(|segment| segment.is_open = true);
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
        if failure.is_none() {
            let copy = self.devices[at].copy_at(extent);
            copy.into_iter().for_each(|copy| copy.is_known = true);
        }
        failure.unwrap_or(IoOutcome::Done)
    }

    /// The engine orders something.
    pub(super) fn take_order(&mut self, device: DeviceIndex, order: NvmeOrder) {
        let at = usize::from(device.0);
        let Some(config) = self.config.nvme.clone() else {
            panic!("{order:?} and there is no NVMe")
        };
        let life = self.devices[at].life;
        assert!(life != Life::Lost, "{device} is lost and was told {order:?}");
        let may_be_early = matches!(
            order,
            NvmeOrder::Read { .. } | NvmeOrder::SetClass { .. } | NvmeOrder::Forget { .. }
        );
        assert!(
            life == Life::Serving || may_be_early,
            "{device} is loading and was told {order:?}"
        );
        if let Some(operation) = operation_of(&order) {
            assert!(self.operations.insert(operation), "{operation:?} was used twice");
        }
        let segment_pages = u32::try_from(config.segment_bytes / 4096).unwrap_or(u32::MAX);
        match order {
            NvmeOrder::KeepNamespace { descriptor, geometry } => {
                let kept = (descriptor.clone(), geometry);
                self.devices[at].disk.namespaces.insert(descriptor.id(), kept);
            }
            NvmeOrder::Forget { extent } => self.devices[at].forget(extent),
            NvmeOrder::SegmentFull { segment } => {
                self.devices[at].full(segment.index, segment.generation.0);
            }
            NvmeOrder::SetClass { operation, .. } => {
                let is_read = |pending: &Pending| {
                    pending.operation == operation && matches!(pending.order, NvmeOrder::Read { .. })
                };
                let mut pending = self.devices[at].pending.iter();
                assert!(pending.any(is_read), "{operation:?} is no read that is under way");
            }
            NvmeOrder::CreateSegment { operation, index } => {
                self.devices[at].check_create(index, &config);
                self.devices[at].accept(operation, order, Vec::new());
            }
            NvmeOrder::DeleteSegment { operation, index } => {
                self.check_unwanted(at, index, "deleted");
                self.devices[at].accept(operation, order, Vec::new());
            }
            NvmeOrder::OpenSegment { operation, segment } => {
                self.check_unwanted(at, segment.index, "opened");
                let segments = self.devices[at].disk.segments.values();
                let before = segments.map(|segment| segment.generation).max().unwrap_or(0);
                assert!(
                    segment.generation.0 > before,
                    "{segment:?} comes after generation {before}"
                );
                self.devices[at].accept(operation, order, Vec::new());
            }
            NvmeOrder::Verify {
                operation,
                extent,
                key,
            } => {
                self.devices[at].check_source(extent, &key);
                self.devices[at].accept(operation, order, Vec::new());
            }
            NvmeOrder::Move {
                operation,
                from,
                to,
                key,
            } => {
                self.devices[at].check_source(from, &key);
                self.devices[at].check_target(to, key.namespace, segment_pages);
                assert_eq!(from.pages, to.pages, "a move keeps the length");
                self.devices[at].accept(operation, order, Vec::new());
                self.tally.moves += 1;
            }
            NvmeOrder::Write { .. } => self.take_write(at, order, &config, segment_pages),
            NvmeOrder::Read { .. } => self.take_read(at, order),
        }
    }

    fn take_write(&mut self, at: usize, order: NvmeOrder, config: &NvmeConfig, segment_pages: u32) {
        let NvmeOrder::Write {
            operation,
            extent,
            slot,
            key,
        } = order
        else {
            return;
        };
        self.devices[at].check_target(extent, key.namespace, segment_pages);
        let (pages, is_read) = (extent.pages, false);
        self.model.transfer_begun(
            operation,
            Transfer {
                key,
                slot,
                pages,
                is_read,
            },
        );
        let bytes = self.model.memory[self.model.payload(slot, pages)].to_vec();
        self.devices[at].accept(operation, order, bytes);
        self.devices[at].check_writes(self.now, pages, config);
        self.tally.writes += 1;
    }

    fn take_read(&mut self, at: usize, order: NvmeOrder) {
        let NvmeOrder::Read {
            operation,
            extent,
            slot,
            key,
            ..
        } = order
        else {
            return;
        };
        self.devices[at].check_source(extent, &key);
        let (pages, is_read) = (extent.pages, true);
        self.model.transfer_begun(
            operation,
            Transfer {
                key,
                slot,
                pages,
                is_read,
            },
        );
        self.model.fill(slot, pages, JUNK);
        self.devices[at].accept(operation, order, Vec::new());
        let reads = self.model.transfers.values().filter(|transfer| transfer.is_read);
        let bytes: u64 = reads
            .clone()
            .map(|transfer| u64::from(transfer.pages) * PAGE_BYTES)
            .sum();
        let max = self
            .config
            .nvme
            .as_ref()
            .map_or(0, |config| config.promotion_bytes_max);
        assert!(
            bytes <= max || reads.count() == 1,
            "promise 7: {bytes} bytes are on their way, more than {max}"
        );
        self.tally.reads += 1;
    }

    /// A segment is opened or deleted: no block may count on it.
    fn check_unwanted(&mut self, at: usize, segment: u32, what: &str) {
        self.devices[at].check_unwanted(segment, what);
        let own = self.devices[at].disk.segments[&segment].copies.values();
        for copy in own.filter(|copy| copy.is_known && self.model.stored.contains(&copy.key)) {
            let key = &copy.key;
            let beside = self.devices[at].disk.knows_beside(key, segment);
            let elsewhere = (0..self.devices.len()).any(|other| other != at && self.knows(other, key));
            assert!(
                beside || elsewhere,
                "promise 6: segment {segment} is {what} with the only copy of {key} in it"
            );
        }
        let segment = self.devices[at].disk.segments.get_mut(&segment);
        let copies = segment
            .into_iter()
            .flat_map(|segment| segment.copies.values_mut());
        copies.for_each(|copy| copy.is_known = false);
    }

    fn knows(&self, at: usize, key: &BlockKey) -> bool {
        self.devices[at].life != Life::Lost && self.devices[at].disk.knows(key)
    }

    /// A copy on NVMe can be found from now on.
    pub(super) fn nvme_stored(&mut self, key: BlockKey) {
        assert!(
            (0..self.devices.len()).any(|at| self.knows(at, &key)),
            "promise 6: {key} was announced on NVMe and is not there"
        );
        assert!(self.model.stored.insert(key), "{key} was announced on NVMe twice");
    }

    /// Everything announced and not taken back is there, in the engine's books and on the devices.
    pub(super) fn check_copies(&self) {
        let copies = self.devices.iter().flat_map(|device| device.disk.copies());
        let keys: std::collections::BTreeSet<BlockKey> = copies.map(|(_, _, copy)| copy.key).collect();
        for key in self.model.stored.union(&keys) {
            let (seen, is_stored) = (self.engine.residency(key), self.model.stored.contains(key));
            assert_eq!(
                seen.nvme,
                is_stored,
                "{key}: what was announced of {:?}",
                Tier::Nvme
            );
            assert!(
                !is_stored || (0..self.devices.len()).any(|at| self.knows(at, key)),
                "promise 6: {key} would not be found after a restart"
            );
        }
        for key in self.model.residents.keys().chain(&keys) {
            let (seen, is_resident) = (self.engine.residency(key), self.model.residents.contains_key(key));
            assert_eq!(
                seen.host,
                is_resident,
                "{key}: what was announced of {:?}",
                Tier::Host
            );
        }
    }

    /// The engine's counts of what is on devices and on its way.
    pub(super) fn compare_nvme(&self, seen: &Occupancy) {
        let reads = self
            .model
            .transfers
            .values()
            .filter(|transfer| transfer.is_read)
            .count() as u64;
        let is_write =
            |pending: &&Pending| matches!(pending.order, NvmeOrder::Write { .. } | NvmeOrder::Move { .. });
        let pending = self.devices.iter().flat_map(|device| &device.pending);
        let writes = pending.filter(is_write).count() as u64;
        let files: usize = self.devices.iter().map(Device::existing).sum();
        assert_eq!(seen.nvme_reads_in_flight, reads, "promise 4: what is being read");
        assert_eq!(
            seen.nvme_writes_in_flight, writes,
            "promise 4: what is being written"
        );
        assert_eq!(seen.lookups_pending, self.waiting.len(), "promise 7: who waits");
        assert_eq!(
            seen.nvme_blocks,
            self.model.stored.len() as u64,
            "promise 6: what is on NVMe"
        );
        let is_serving = |device: &Device| device.life == Life::Serving;
        if self.devices.iter().all(is_serving) {
            assert_eq!(
                seen.nvme_segments_total, files as u64,
                "promise 8: the files there are"
            );
        }
    }

    /// Devices come to rest: everything is told, every order is answered, and time goes on as far as anybody waits for
    /// it.
    pub(super) fn settle_devices(&mut self) {
        if let Some(config) = &mut self.config.nvme {
            config.tuning.scrub_rate = None;
            let tuning = config.tuning.clone();
            self.step(Event::NvmeTuned { tuning });
        }
        let mut effort = 0;
        loop {
            effort += 1;
            assert!(effort < 100_000, "promise 9: the engine never comes to rest");
            for at in 0..self.devices.len() {
                self.devices[at].trouble = 0;
                while !self.devices[at].tales.is_empty() {
                    self.tell_tale(at);
                }
            }
            let busy = (0..self.devices.len()).find(|&at| !self.devices[at].pending.is_empty());
            if let Some(at) = busy {
                self.answer_one(at, None);
            } else if self.engine.has_work() || self.wait() {
                self.step(Event::Tick);
            } else {
                break;
            }
        }
        assert!(
            self.engine.nvme.operations.is_empty(),
            "the engine waits for orders that were answered"
        );
        let left = self.engine.occupancy();
        let is_served = self.engine.nvme_devices().any(|device| device.state != "lost");
        assert!(
            !is_served || left.nvme_queue == 0,
            "the engine sleeps and {} blocks wait to be written: {:?}",
            left.nvme_queue,
            self.engine.nvme_devices().collect::<Vec<_>>()
        );
        self.check_copies();
        let segments_max = self
            .config
            .nvme
            .as_ref()
            .map_or(0, |config| config.tuning.segments_max);
        for (device, seen) in self.devices.iter().zip(self.engine.nvme_devices()) {
            // The engine may have taken it out of service.
            let count = device.disk.segments.len();
            assert!(
                seen.state == "lost" || device.is_stuck || count <= segments_max as usize,
                "promise 8: {count} segments are left where {segments_max} may be: {seen:?}"
            );
        }
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

fn operation_of(order: &NvmeOrder) -> Option<OperationId> {
    match order {
        NvmeOrder::KeepNamespace { .. }
        | NvmeOrder::SetClass { .. }
        | NvmeOrder::Forget { .. }
        | NvmeOrder::SegmentFull { .. } => None,
        NvmeOrder::CreateSegment { operation, .. }
        | NvmeOrder::DeleteSegment { operation, .. }
        | NvmeOrder::OpenSegment { operation, .. }
        | NvmeOrder::Write { operation, .. }
        | NvmeOrder::Read { operation, .. }
        | NvmeOrder::Move { operation, .. }
        | NvmeOrder::Verify { operation, .. } => Some(*operation),
    }
}
