//! Slots that devices work on.

use kvstore_types::{BlockKey, OperationId, SlotRef};

use super::model::{Model, Resident, overlap};

/// The bytes a device leaves in a slot until it has read the right ones; nobody may ever see them.
pub(super) const JUNK: u64 = 0xdead_beef_dead_beef;

/// A slot that a device reads from (a write) or writes to (a read).
#[derive(Clone, Copy, Debug)]
pub(super) struct Transfer {
    pub(super) key: BlockKey,
    pub(super) slot: SlotRef,
    pub(super) pages: u32,
    /// Whether the slot's bytes come from the device.
    pub(super) is_read: bool,
    /// Whether it is the remote tier that works on it.
    pub(super) is_remote: bool,
}

impl Model {
    /// Nobody may touch a slot that is handed out, and it never was handed out before.
    pub(super) fn check_unused(&mut self, slot: SlotRef, pages: u32) {
        assert!(slot.page > 0, "promise 8: {slot:?} lies in the header");
        let end = (slot.page + pages) as usize;
        assert!(
            end <= self.memory.len(),
            "promise 8: {slot:?} ends behind the region"
        );
        assert!(
            self.granted.insert(slot),
            "promise 3: {slot:?} was handed out twice"
        );
        for other in &self.reservations {
            assert!(
                !overlap(slot, pages, other.slot, other.pages),
                "promise 5: {slot:?} was handed out while {:?} of {} may be written to",
                other.parts,
                other.slot
            );
        }
        for lease in &self.leases {
            let mut slots = lease.slots.iter();
            assert!(
                !slots.any(|&(read, read_pages)| overlap(slot, pages, read, read_pages)),
                "promise 5: {slot:?} was handed out while lease {} of {} reads it",
                lease.tag,
                lease.session
            );
        }
        for (key, resident) in &self.residents {
            assert!(
                !overlap(slot, pages, resident.slot, resident.pages),
                "promise 3: {slot:?} was handed out with {key} in it"
            );
        }
        for (operation, transfer) in &self.transfers {
            assert!(
                !overlap(slot, pages, transfer.slot, transfer.pages),
                "promise 4: {slot:?} was handed out while {operation:?} works on it: {transfer:?}"
            );
        }
    }

    /// A device is told to fill a slot, or to write it out.
    pub(super) fn transfer_begun(&mut self, operation: OperationId, transfer: Transfer) {
        let Transfer {
            key,
            slot,
            pages,
            is_read,
            is_remote,
        } = transfer;
        if is_read {
            self.check_unused(slot, pages);
            assert!(
                !self.residents.contains_key(&key) && !self.is_filling(&key),
                "{key} is read from a device though it is in host memory"
            );
        } else {
            let resident = self.residents.get(&key);
            assert!(
                resident.is_some_and(|resident| (resident.slot, resident.pages) == (slot, pages)),
                "promise 2: {key} is written from {slot:?} and lies at {resident:?}"
            );
        }
        // A block may be written to NVMe and taken by the remote tier at the same time.
        let is_against =
            |other: &Transfer| other.key == key && (is_read || other.is_read || other.is_remote == is_remote);
        let is_twice = self.transfers.values().any(is_against);
        assert!(!is_twice, "promise 4: {key} has two orders under way");
        self.transfers.insert(operation, transfer);
    }

    /// A device has brought a block: it can be found in host memory.
    pub(super) fn promoted(&mut self, transfer: Transfer) {
        let Transfer { key, slot, pages, .. } = transfer;
        let sealed = self.memory[self.payload(slot, pages)].to_vec();
        let before = self.residents.insert(key, Resident { slot, pages, sealed });
        assert!(before.is_none(), "{key} was promoted and is there");
    }

    /// Fills a slot's payload.
    pub(super) fn fill(&mut self, slot: SlotRef, pages: u32, bytes: u64) {
        let range = self.payload(slot, pages);
        self.memory[range].fill(bytes);
    }
}
