//! Making room: arenas are cut and moved, slots taken and freed, blocks evicted.

use kvstore_types::{SlotRef, Tier};

use super::{Class, Effort, Out, Pool};
use crate::arena::Owner;
use crate::block::{BlockIndex, BlockState, Blocks};
use crate::config::RemoteAdmission;
use crate::effect::{Effect, RemovalCause};
use crate::policy::Herd;

impl Pool {
    fn assign(&mut self, class: usize, arena: u32) {
        let slot_bytes = self.class(class).slot_bytes;
        self.arenas.assign(arena, class, slot_bytes);
        self.slots_assigned += u64::from(self.arenas.slots_per_arena(slot_bytes));
        let class = self.class_mut(class);
        class.arenas.insert(arena);
        class.open.insert(arena);
        class.idle.insert(arena);
        self.blocks
            .reserve(usize::try_from(self.slots_assigned).unwrap_or(usize::MAX));
    }

    /// Takes an empty arena from a class.
    pub(super) fn unassign(&mut self, class: usize, arena: u32) {
        let slots = self.arenas.slots_per_arena(self.class(class).slot_bytes);
        let class = self.class_mut(class);
        class.arenas.remove(&arena);
        class.open.remove(&arena);
        class.idle.remove(&arena);
        self.arenas.unassign(arena);
        self.slots_assigned -= u64::from(slots);
        self.unassigned.insert(arena);
    }

    /// Takes a free slot of a class, making room if there is none.
    pub(super) fn take_slot(
        &mut self,
        class: usize,
        effort: &mut Effort,
        out: &mut Out<'_>,
    ) -> Option<SlotRef> {
        if self.class(class).open.is_empty() && !self.add_arena(class, effort.held > 0, out) {
            if !self.evict_one(class, effort, out) {
                return None;
            }
            out.counters.evicted_for_space += 1;
        }
        let arena = *self.class(class).open.first()?;
        let slot = self.arenas.take(arena)?;
        self.arenas.get_mut(arena).busy += 1;
        let is_open = self.arenas.get(arena).has_free();
        let class = self.class_mut(class);
        class.idle.remove(&arena);
        if !is_open {
            class.open.remove(&arena);
        }
        class.used += 1;
        let (weight, bytes) = (class.slot_weight, class.slot_bytes);
        self.weight_used += weight;
        self.bytes_used += bytes;
        Some(slot)
    }

    /// Gives a slot back.
    pub(super) fn free_slot(&mut self, slot: SlotRef) {
        let arena = self.arenas.arena_of(slot);
        self.arenas.put(slot);
        let Some(index) = self.arenas.get(arena).class else {
            return;
        };
        let is_idle = self.arenas.get(arena).used == 0;
        let class = self.class_mut(index);
        class.used -= 1;
        class.open.insert(arena);
        if is_idle {
            class.idle.insert(arena);
        }
        let (weight, bytes) = (class.slot_weight, class.slot_bytes);
        self.weight_used -= weight;
        self.bytes_used -= bytes;
        self.drop_class_if_unused(index);
    }

    fn add_arena(&mut self, class: usize, take_held: bool, out: &mut Out<'_>) -> bool {
        if let Some(arena) = self.unassigned.pop_first() {
            self.assign(class, arena);
            return true;
        }
        let idle = self
            .numbered()
            .find_map(|(index, class)| class.idle.first().map(|&arena| (index, arena)));
        let Some((donor, arena)) = idle.or_else(|| self.choose_donor(class, take_held)) else {
            return false;
        };
        let blocks: Vec<BlockIndex> = self.arenas.get(arena).owners().filter_map(owned_block).collect();
        for block in blocks {
            self.remove_resident(block, RemovalCause::ArenaMoved, out);
            out.counters.removed_arena_moved += 1;
        }
        out.counters.arenas_moved += 1;
        // Emptying the arena may have ended the donor's last namespace, and with it given the arena back already.
        if self.arenas.get(arena).class.is_some() {
            self.unassign(donor, arena);
            self.drop_class_if_unused(donor);
        }
        self.unassigned.remove(&arena);
        self.assign(class, arena);
        true
    }

    /// An arena of a class above its fair share, for a class below its own.
    fn choose_donor(&self, class: usize, take_held: bool) -> Option<(usize, u32)> {
        let attached = self
            .numbered()
            .filter(|(_, class)| class.attached > 0)
            .count()
            .max(1);
        let share = (self.arenas.count() as usize / attached).max(1);
        if self.class(class).arenas.len() >= share {
            return None;
        }
        let surplus = |class: &Class| {
            class
                .arenas
                .len()
                .saturating_sub(if class.attached > 0 { share } else { 0 })
        };
        let others = self
            .numbered()
            .filter(|&(index, other)| index != class && surplus(other) > 0);
        let mut donors: Vec<_> = others.map(|(index, other)| (surplus(other), index)).collect();
        donors.sort_unstable_by(|a, b| b.cmp(a));
        donors
            .into_iter()
            .find_map(|(_, donor)| self.choose_arena(donor, take_held).map(|arena| (donor, arena)))
    }

    /// The arena whose loss costs least: nothing in it is busy, nothing held if possible, few blocks.
    fn choose_arena(&self, donor: usize, take_held: bool) -> Option<u32> {
        const LOOKED_AT: usize = 16;
        let movable = self
            .class(donor)
            .arenas
            .iter()
            .filter(|&&arena| self.arenas.get(arena).busy == 0);
        let mut order: Vec<_> = movable
            .map(|&arena| (self.arenas.get(arena).used, arena))
            .collect();
        order.sort_unstable();
        let is_unheld = |arena: u32| {
            let mut blocks = self.arenas.get(arena).owners().filter_map(owned_block);
            blocks.all(|block| self.blocks.get(block).holds == 0)
        };
        let unheld = order.iter().take(LOOKED_AT).find(|&&(_, arena)| is_unheld(arena));
        let held = order.first().filter(|_| take_held);
        unheld.or(held).map(|&(_, arena)| arena)
    }

    /// Evicts the block that the policy of a class gives up. False if there is none.
    fn evict_one(&mut self, class: usize, effort: &mut Effort, out: &mut Out<'_>) -> bool {
        let Some(victim) = self.choose_one(class, effort) else {
            return false;
        };
        self.evict_chosen(victim, out);
        true
    }

    /// A block that its policy has let go of leaves.
    pub(crate) fn evict_chosen(&mut self, block: BlockIndex, out: &mut Out<'_>) {
        let is_stored = self.blocks.get(block).is_remote;
        let is_last_chance = self
            .config
            .remote
            .as_ref()
            .is_some_and(|config| config.admission == RemoteAdmission::OnEviction && !is_stored);
        out.counters.remote_left_unstored += u64::from(is_last_chance);
        self.remove_record(block, RemovalCause::Evicted, out);
    }

    /// The block that the policy of a class gives up.
    pub(super) fn choose_one(&mut self, class: usize, effort: &mut Effort) -> Option<BlockIndex> {
        let class = self.classes[class].as_mut()?;
        let mut unheld = Candidates {
            blocks: &mut self.blocks,
            take_held: false,
        };
        let mut victim = class.policy.evict(&mut unheld, &mut effort.unheld);
        if victim.is_none() && effort.held > 0 {
            let mut held = Candidates {
                blocks: &mut self.blocks,
                take_held: true,
            };
            victim = class.policy.evict(&mut held, &mut effort.held);
        }
        victim
    }

    /// Removes a resident block that nobody reads, wherever its policy has it.
    pub(crate) fn remove_resident(&mut self, block: BlockIndex, cause: RemovalCause, out: &mut Out<'_>) {
        self.leave_policy(block);
        self.remove_record(block, cause, out);
    }

    /// The copy in host memory goes, and the record with it unless there is another copy.
    fn remove_record(&mut self, block: BlockIndex, cause: RemovalCause, out: &mut Out<'_>) {
        let record = *self.blocks.get(block);
        let key = self.key(&record);
        debug_assert!(record.state == BlockState::Resident && !record.is_busy());
        let stays = record.has_lower_copy();
        if stays {
            self.blocks.demote(block);
        } else {
            self.blocks.remove(block);
        }
        out.effects.list.push(Effect::BlockRemoved {
            key,
            tier: Tier::Host,
            cause,
        });
        out.counters.holds_taken_back += u64::from(record.holds);
        self.holds -= u64::from(record.holds);
        self.slots_resident -= 1;
        self.spaces.get_mut(record.space.namespace()).resident -= 1;
        self.free_slot(record.slot);
        if !stays {
            self.count_removed(record.space);
        }
    }
}

struct Candidates<'a> {
    blocks: &'a mut Blocks,
    take_held: bool,
}

impl Herd for Candidates<'_> {
    fn may_take(&self, block: BlockIndex) -> bool {
        let record = self.blocks.get(block);
        !record.is_busy() && (self.take_held || record.holds == 0)
    }

    fn heat_mut(&mut self, block: BlockIndex) -> &mut u8 {
        &mut self.blocks.get_mut(block).heat
    }
}

fn owned_block(owner: Owner) -> Option<BlockIndex> {
    match owner {
        Owner::Block(block) => Some(block),
        Owner::Free(_) | Owner::Filling(_) | Owner::Promotion(_) => None,
    }
}
