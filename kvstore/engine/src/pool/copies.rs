//! Blocks on their way between the host tier and NVMe, as far as slots and records go.

use kvstore_types::{PAGE_BYTES, SlotRef, Tier};

use super::{Effort, Hold, Out, Pool};
use crate::arena::Owner;
use crate::block::{BlockIndex, BlockState, ExtentHandle, Space, mark};
use crate::effect::{Effect, NvmeOrder, RemovalCause};
use crate::nvme::{DeviceState, Nvme};

impl Pool {
    /// Pages of a block of this space on NVMe: its header page and its payload, which is what a slot has.
    pub(crate) fn pages_of(&self, space: Space) -> u32 {
        let class = self.spaces.get(space.namespace()).classes[usize::from(space.group())];
        u32::try_from(self.class(class).slot_bytes / PAGE_BYTES).unwrap_or(u32::MAX)
    }

    /// Bytes of a slot of this space.
    pub(crate) fn slot_bytes(&self, space: Space) -> u64 {
        u64::from(self.pages_of(space)) * PAGE_BYTES
    }

    /// Bytes of a block of this space as engines see it: its slot without the header page.
    pub(crate) fn payload_bytes(&self, space: Space) -> u64 {
        let namespace = self.spaces.get(space.namespace());
        let group = namespace.geometry.groups.get(usize::from(space.group()));
        group.map_or(0, |group| group.slot_bytes)
    }

    /// A resident block is being written, to where `mark` says: its slot stays.
    pub(crate) fn pin(&mut self, block: BlockIndex, mark: u8) {
        let record = self.blocks.get_mut(block);
        let was_busy = record.is_busy();
        record.marks |= mark;
        if !was_busy {
            self.arenas.get_mut(self.arenas.arena_of(record.slot)).busy += 1;
        }
    }

    /// The write is over.
    pub(crate) fn unpin(&mut self, block: BlockIndex, mark: u8) {
        let record = self.blocks.get_mut(block);
        debug_assert!(record.has(mark));
        record.marks &= !mark;
        if !record.is_busy() {
            self.arenas.get_mut(self.arenas.arena_of(record.slot)).busy -= 1;
        }
    }

    /// Takes a slot for a block of a lower tier to be read into.
    pub(crate) fn take_for_promotion(
        &mut self,
        block: BlockIndex,
        promotion: u32,
        effort: &mut Effort,
        out: &mut Out<'_>,
    ) -> Option<SlotRef> {
        let space = self.blocks.get(block).space;
        let class = self.spaces.get(space.namespace()).classes[usize::from(space.group())];
        let slot = self.take_slot(class, effort, out)?;
        self.arenas.set_owner(slot, Owner::Promotion(block));
        self.blocks.raise(block, BlockState::Promoting, slot, promotion);
        let record = self.blocks.get_mut(block);
        // Somebody wants it, whether or not it comes in time.
        record.marks |= mark::HIT;
        Some(slot)
    }

    /// What was read is not the block, or nothing was read: the slot is free again. The record goes unless there is
    /// another copy.
    pub(crate) fn end_promotion(&mut self, block: BlockIndex) {
        let record = *self.blocks.get(block);
        debug_assert_eq!(record.state, BlockState::Promoting);
        self.free_filling(record.slot);
        self.demote_or_remove(block);
    }

    /// Holds a resident block for a look-up that has no answer yet. The policy hears of it with the answer.
    pub(crate) fn hold_quietly(&mut self, block: BlockIndex, holds: &mut Vec<Hold>) {
        let record = self.blocks.get_mut(block);
        debug_assert_eq!(record.state, BlockState::Resident);
        record.holds += 1;
        self.holds += 1;
        holds.push(Hold {
            block,
            slot: record.slot,
        });
    }

    /// The copy of a block on NVMe goes, and the record with it if that was the last one.
    pub(crate) fn drop_copy(
        &mut self,
        nvme: &mut Nvme,
        block: BlockIndex,
        cause: RemovalCause,
        out: &mut Out<'_>,
    ) {
        let record = *self.blocks.get(block);
        if record.extent == ExtentHandle::NONE {
            return;
        }
        if record.has(mark::KEPT_ON_NVME) {
            out.counters.kept_copies_lost += 1;
            self.let_go_on_nvme(block);
        }
        let (key, pages) = (self.key(&record), self.pages_of(record.space));
        let (device, extent) = nvme.extent_of(record.extent, pages);
        nvme.detach(record.extent, pages);
        self.spaces.get_mut(record.space.namespace()).stored -= 1;
        self.blocks.get_mut(block).extent = ExtentHandle::NONE;
        let tier = Tier::Nvme;
        out.effects.list.push(Effect::BlockRemoved { key, tier, cause });
        // A segment that is written anew, or a device that is gone, needs no word about each block.
        let is_lost = nvme.devices[usize::from(device.0)].state == DeviceState::Lost;
        if cause != RemovalCause::Reclaimed && !is_lost {
            let order = NvmeOrder::Forget { extent };
            out.effects.list.push(Effect::Nvme { device, order });
        }
        if record.state == BlockState::Stored {
            self.demote_or_remove(block);
        }
    }
}
