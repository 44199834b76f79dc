//! The engine's books of NVMe against what is on the devices, and the rest that comes when nothing more happens.

use std::collections::BTreeSet;

use kvstore_types::{BlockKey, Tier};

use super::device::{Device, Life, Pending};
use super::world::World;
use crate::counters::Occupancy;
use crate::effect::NvmeOrder;
use crate::event::Event;

impl World {
    pub(super) fn knows(&self, at: usize, key: &BlockKey) -> bool {
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
        let keys: BTreeSet<BlockKey> = copies.map(|(_, _, copy)| copy.key).collect();
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
            .filter(|transfer| transfer.is_read && !transfer.is_remote)
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
            } else if self.settle_remote() {
                // What follows from the answers.
            } else if self.engine.has_work() || self.wait() {
                self.step(Event::Tick);
            } else {
                break;
            }
        }
        assert!(
            self.engine.nvme.operations.is_empty() && self.engine.remote.operations.is_empty(),
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
        self.check_remote_copies();
        self.check_remote_rest(&left);
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
}
