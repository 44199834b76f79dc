//! The host region: arenas, and the slots they are cut into.
//!
//! ```text
//! region  | header | arena 0 | arena 1 | ...            each arena_bytes long
//! arena   | slot | slot | slot | ... | rest |            slots of one size class; the rest is too small for a slot
//! ```
//!
//! Invariants
//! - `SlotRef`s are never issued twice: a slot's generation grows with each use, and an arena that is cut anew starts
//!   above every generation it ever issued (`floor`).
//! - `used` counts the slots that are not free, `busy` those of them that must not move: filling, quarantined,
//!   leased, being read into or written to NVMe.

use kvstore_types::{PAGE_BYTES, SlotRef};

use crate::block::BlockIndex;
use crate::config::EngineConfig;

/// Who has a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody. The next free slot of the arena, `u32::MAX` at the end.
    Free(u32),
    /// A resident block.
    Block(BlockIndex),
    /// A reservation that is not finished: see `Fillings`.
    Filling(u32),
    /// A read of this block from NVMe.
    Promotion(BlockIndex),
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    generation: u32,
    owner: Owner,
}

/// A run of pages that is cut into slots of one size.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    /// The size class it belongs to.
    pub(crate) class: Option<usize>,
    /// Slots that are not free.
    pub(crate) used: u32,
    /// Slots that must stay: filling, quarantined, leased, or with a read or a write of NVMe under way.
    pub(crate) busy: u32,
    slot_pages: u32,
    slots: Vec<Slot>,
    free: u32,
    floor: u32,
}

/// What a client's slot reference turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// It is in use as the reference says.
    Current(Owner),
    /// It was handed out once; that use is over.
    Stale,
    /// It was never handed out.
    Foreign,
}

/// All arenas of a region.
#[derive(Debug)]
pub(crate) struct Arenas {
    first_page: u32,
    arena_pages: u32,
    list: Vec<Arena>,
}

impl Arenas {
    /// The arenas of a region that has been checked.
    pub(crate) fn new(config: &EngineConfig) -> Self {
        let list = (0..config.arena_count())
            .map(|_| Arena {
                floor: 1,
                ..Arena::default()
            })
            .collect();
        Self {
            first_page: pages(config.header_bytes),
            arena_pages: pages(config.arena_bytes),
            list,
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.list.len()).unwrap_or(u32::MAX)
    }

    /// Slots of `slot_bytes` that one arena yields.
    pub(crate) fn slots_per_arena(&self, slot_bytes: u64) -> u32 {
        u32::try_from(u64::from(self.arena_pages) * PAGE_BYTES / slot_bytes).unwrap_or(u32::MAX)
    }

    /// An arena.
    pub(crate) fn get(&self, arena: u32) -> &Arena {
        &self.list[arena as usize]
    }

    /// An arena, to be changed.
    pub(crate) fn get_mut(&mut self, arena: u32) -> &mut Arena {
        &mut self.list[arena as usize]
    }

    /// The arena of a slot.
    pub(crate) fn arena_of(&self, slot: SlotRef) -> u32 {
        (slot.page - self.first_page) / self.arena_pages
    }

    /// Cuts an unused arena into slots for a class.
    pub(crate) fn assign(&mut self, index: u32, class: usize, slot_bytes: u64) {
        let count = self.slots_per_arena(slot_bytes);
        let arena = &mut self.list[index as usize];
        debug_assert_eq!(arena.used, 0);
        arena.retire();
        let generation = arena.floor.wrapping_sub(1);
        let links = (1..=count).map(|next| if next == count { u32::MAX } else { next });
        arena.slots.extend(links.map(|next| Slot {
            generation,
            owner: Owner::Free(next),
        }));
        arena.class = Some(class);
        arena.slot_pages = pages(slot_bytes);
        arena.free = 0;
    }

    /// Makes an unused arena nobody's.
    pub(crate) fn unassign(&mut self, arena: u32) {
        self.list[arena as usize].retire();
    }

    /// Takes a free slot of an arena under a new generation.
    pub(crate) fn take(&mut self, index: u32) -> Option<SlotRef> {
        let first_page = self.first_page + index * self.arena_pages;
        let arena = &mut self.list[index as usize];
        let number = arena.free;
        let slot = arena.slots.get_mut(number as usize)?;
        let Owner::Free(next) = slot.owner else {
            return None;
        };
        arena.free = next;
        slot.generation = slot.generation.wrapping_add(1);
        slot.owner = Owner::Filling(u32::MAX);
        arena.used += 1;
        Some(SlotRef {
            page: first_page + number * arena.slot_pages,
            generation: slot.generation,
        })
    }

    /// Gives a slot back.
    pub(crate) fn put(&mut self, slot: SlotRef) {
        let (index, number) = self.place(slot);
        let arena = &mut self.list[index as usize];
        debug_assert_eq!(arena.slots[number].generation, slot.generation);
        arena.slots[number].owner = Owner::Free(arena.free);
        arena.free = u32::try_from(number).unwrap_or(u32::MAX);
        arena.used -= 1;
    }

    /// Says who has a slot from now on.
    pub(crate) fn set_owner(&mut self, slot: SlotRef, owner: Owner) {
        let (index, number) = self.place(slot);
        self.list[index as usize].slots[number].owner = owner;
    }

    /// Judges a slot reference that a client sent. Anything may stand in it.
    pub(crate) fn look_up(&self, slot: SlotRef) -> Lookup {
        let Some(page) = slot.page.checked_sub(self.first_page) else {
            return Lookup::Foreign;
        };
        let Some(arena) = self.list.get((page / self.arena_pages) as usize) else {
            return Lookup::Foreign;
        };
        if is_before(slot.generation, arena.floor) {
            // From before the arena was cut anew, perhaps into slots that begin elsewhere: late, not a lie.
            return Lookup::Stale;
        }
        let page = page % self.arena_pages;
        if arena.class.is_none() || !page.is_multiple_of(arena.slot_pages) {
            return Lookup::Foreign;
        }
        match arena.slots.get((page / arena.slot_pages) as usize) {
            Some(found) if found.generation == slot.generation => match found.owner {
                Owner::Free(_) => Lookup::Stale,
                owner => Lookup::Current(owner),
            },
            Some(found) if is_before(slot.generation, found.generation) => Lookup::Stale,
            _ => Lookup::Foreign,
        }
    }

    fn place(&self, slot: SlotRef) -> (u32, usize) {
        let page = slot.page - self.first_page;
        let arena = page / self.arena_pages;
        (
            arena,
            (page % self.arena_pages / self.list[arena as usize].slot_pages) as usize,
        )
    }
}

impl Arena {
    /// Owners of all its slots, for moves and audits.
    pub(crate) fn owners(&self) -> impl Iterator<Item = Owner> {
        self.slots.iter().map(|slot| slot.owner)
    }

    /// Whether it has a free slot.
    pub(crate) fn has_free(&self) -> bool {
        (self.free as usize) < self.slots.len()
    }

    fn retire(&mut self) {
        let newest = self
            .slots
            .iter()
            .map(|slot| slot.generation)
            .reduce(|a, b| if is_before(a, b) { b } else { a });
        self.floor = newest.map_or(self.floor, |generation| generation.wrapping_add(1));
        self.slots.clear();
        self.class = None;
        self.free = u32::MAX;
    }
}

/// Generations wrap around after four billion uses of one slot; half of that is "before".
fn is_before(a: u32, b: u32) -> bool {
    a != b && b.wrapping_sub(a) < 1 << 31
}

fn pages(bytes: u64) -> u32 {
    // A checked region has at most 2^30 pages, and no part of it is longer.
    u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PolicyKind;

    fn arenas() -> Arenas {
        Arenas::new(&EngineConfig {
            region_bytes: 5 * 65536,
            header_bytes: 65536,
            arena_bytes: 65536,
            policy: PolicyKind::Lru,
            watermark_low: 0.5,
            watermark_high: 1.0,
            seed: 7,
            sessions_max: 1,
            holds_per_session_max: 1,
            operations_per_session_max: 1,
            descriptor_bytes_max: 1 << 20,
            keep_share: 0.5,
            nvme: None,
            remote: None,
        })
    }

    #[test]
    fn an_arena_yields_each_slot_once_and_the_rest_is_left_over() {
        let mut arenas = arenas();
        arenas.assign(1, 0, 12288);
        let pages: Vec<_> = std::iter::from_fn(|| arenas.take(1))
            .map(|slot| slot.page)
            .collect();
        assert_eq!(pages, [32, 35, 38, 41, 44]);
        assert_eq!(arenas.get(1).used, 5);
    }

    #[test]
    fn a_reused_slot_has_a_new_generation_even_after_the_arena_was_cut_anew() {
        let mut arenas = arenas();
        arenas.assign(0, 0, 4096);
        let first = arenas.take(0).unwrap();
        arenas.put(first);
        let second = arenas.take(0).unwrap();
        assert_eq!(
            second,
            SlotRef {
                page: first.page,
                generation: first.generation + 1
            }
        );
        arenas.put(second);
        arenas.assign(0, 1, 8192);
        assert!(arenas.take(0).unwrap().generation > second.generation);
    }

    #[test]
    fn lateness_is_told_from_lies() {
        let mut arenas = arenas();
        arenas.assign(0, 0, 4096);
        let old = [arenas.take(0).unwrap(), arenas.take(0).unwrap()];
        for slot in old {
            arenas.put(slot);
        }
        arenas.assign(0, 1, 8192);
        let slot = arenas.take(0).unwrap();
        let cases = [
            (slot, Lookup::Current(Owner::Filling(u32::MAX))),
            (old[0], Lookup::Stale),
            (old[1], Lookup::Stale),
            (
                SlotRef {
                    page: slot.page + 1,
                    ..slot
                },
                Lookup::Foreign,
            ),
            (
                SlotRef {
                    generation: slot.generation + 1,
                    ..slot
                },
                Lookup::Foreign,
            ),
            (
                SlotRef {
                    page: 0,
                    generation: 1,
                },
                Lookup::Foreign,
            ),
            (
                SlotRef {
                    page: 16 * 4,
                    generation: 1,
                },
                Lookup::Foreign,
            ),
            (
                SlotRef {
                    page: u32::MAX,
                    generation: u32::MAX,
                },
                Lookup::Foreign,
            ),
        ];
        for (slot, expected) in cases {
            assert_eq!(arenas.look_up(slot), expected, "{slot}");
        }
    }
}
