//! The host tier: blocks, the slots they lie in, and who has to leave.
//!
//! Slots come from arenas of the right size class. Where a class has no free slot it gets one in this order: a free
//! arena; an empty arena of another class; an arena of a class that has more than its fair share, whose blocks then
//! leave; the slot of the block its policy gives up. A class nobody is attached to has no fair share.
//!
//! Invariants
//! - `open` are the arenas of a class with a free slot, `idle` those with nothing but free slots.
//! - A held block leaves only when a bounded search has found nothing that nobody holds.

use std::collections::BTreeSet;

use kvstore_types::{BlockHash, BlockKey, NamespaceDescriptor, NamespaceGeometry, SlotRef};

use crate::arena::{Arenas, Owner};
use crate::block::{Block, BlockIndex, BlockState, Blocks, HEAT_MAX, Space, mark};
use crate::config::EngineConfig;
use crate::counters::Counters;
use crate::effect::Effects;
use crate::policy::{self, Policy};
use crate::space::{Namespaces, group_index};

pub(crate) use self::keeps::{Keep, Keeps, share_of};

mod copies;
mod keeps;
mod names;
mod remote;
mod room;

/// Where what happens is told.
pub(crate) struct Out<'a> {
    pub(crate) counters: &'a mut Counters,
    pub(crate) effects: &'a mut Effects,
}

/// How many blocks the searches of one step may pass over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Looking for a block that nobody holds.
    pub(crate) unheld: u32,
    /// Looking for a block that is merely held.
    pub(crate) held: u32,
}

impl Effort {
    /// For a step that wants slots: about two milliseconds at worst.
    pub(crate) const RESERVE: Self = Self {
        unheld: 16_384,
        held: 4_096,
    };
    /// For the promotions of one look-up, which take no held blocks: they are held for look-ups that were first.
    pub(crate) const PROMOTE: Self = Self {
        unheld: 16_384,
        held: 0,
    };
    /// For a batch of eviction down to the watermark, which takes no held blocks.
    pub(crate) const WATERMARK: Self = Self {
        unheld: 1_024,
        held: 0,
    };
}

/// The slots of one size.
#[derive(Debug)]
struct Class {
    slot_bytes: u64,
    /// What one slot weighs: its share of an arena, the rest of the arena that no slot fits into included.
    slot_weight: u64,
    arenas: BTreeSet<u32>,
    open: BTreeSet<u32>,
    idle: BTreeSet<u32>,
    policy: Box<dyn Policy>,
    used: u64,
    /// Groups of known namespaces that use this size.
    groups: u32,
    /// The same, of namespaces that an engine is attached to.
    attached: u32,
}

/// The host tier of one tenant.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) blocks: Blocks,
    pub(crate) spaces: Namespaces,
    pub(crate) keeps: Keeps,
    arenas: Arenas,
    classes: Vec<Option<Class>>,
    unassigned: BTreeSet<u32>,
    config: EngineConfig,
    slots_assigned: u64,
    weight_used: u64,
    /// The part of it whose blocks leave as soon as the remote tier has taken them.
    weight_leaving: u64,
    pub(crate) slots_resident: u64,
    pub(crate) slots_leased: u64,
    pub(crate) bytes_used: u64,
    pub(crate) holds: u64,
}

impl Pool {
    /// An empty tier.
    pub(crate) fn new(config: &EngineConfig) -> Self {
        let arenas = Arenas::new(config);
        Self {
            blocks: Blocks::new(config.seed),
            spaces: Namespaces::default(),
            keeps: Keeps::default(),
            unassigned: (0..arenas.count()).collect(),
            arenas,
            classes: Vec::new(),
            config: config.clone(),
            slots_assigned: 0,
            weight_used: 0,
            weight_leaving: 0,
            slots_resident: 0,
            slots_leased: 0,
            bytes_used: 0,
            holds: 0,
        }
    }

    /// The arenas and their slots.
    pub(crate) fn arenas(&self) -> &Arenas {
        &self.arenas
    }

    /// Arenas cut into slots.
    pub(crate) fn arenas_assigned(&self) -> u32 {
        self.arenas.count() - u32::try_from(self.unassigned.len()).unwrap_or(u32::MAX)
    }

    /// Slots of assigned arenas, free or not.
    pub(crate) fn slots_assigned(&self) -> u64 {
        self.slots_assigned
    }

    /// Slots that are not free.
    pub(crate) fn slots_used(&self) -> u64 {
        self.classes.iter().flatten().map(|class| class.used).sum()
    }

    /// The full name of a block.
    pub(crate) fn key(&self, block: &Block) -> BlockKey {
        let namespace = self.spaces.get(block.space.namespace()).id;
        BlockKey {
            namespace,
            group: group_index(block.space.group()),
            hash: block.hash,
        }
    }

    /// Attaches an engine group to a namespace that is made if it is new. The answer is its number and whether it is
    /// new.
    pub(crate) fn attach(
        &mut self,
        descriptor: NamespaceDescriptor,
        geometry: NamespaceGeometry,
    ) -> (u32, bool) {
        let found = self.spaces.find(descriptor.id());
        let index = found.unwrap_or_else(|| self.intern(descriptor, geometry));
        let namespace = self.spaces.get_mut(index);
        namespace.users += 1;
        for &class in &namespace.classes {
            self.classes[class]
                .iter_mut()
                .for_each(|class| class.attached += 1);
        }
        (index, found.is_none())
    }

    /// Makes a namespace that is not there yet, used by nobody.
    pub(crate) fn intern(&mut self, descriptor: NamespaceDescriptor, geometry: NamespaceGeometry) -> u32 {
        let header_bytes = self.config.slot_header_bytes();
        let sizes = geometry
            .groups
            .iter()
            .map(|group| group.slot_bytes + header_bytes);
        let classes = sizes.map(|slot_bytes| self.class_of(slot_bytes)).collect();
        self.spaces.add(descriptor, geometry, classes)
    }

    /// Detaches an engine group from a namespace.
    pub(crate) fn detach(&mut self, namespace: u32) {
        self.spaces.detach(namespace);
        for &class in &self.spaces.get(namespace).classes {
            self.classes[class]
                .iter_mut()
                .for_each(|class| class.attached -= 1);
        }
        self.drop_unused(namespace);
    }

    /// Takes a slot for a block that is in the remote tier only, and enters it as `Filling`.
    pub(crate) fn reserve_remote(
        &mut self,
        block: BlockIndex,
        effort: &mut Effort,
        out: &mut Out<'_>,
    ) -> Option<SlotRef> {
        let space = self.blocks.get(block).space;
        let class = self.spaces.get(space.namespace()).classes[usize::from(space.group())];
        let slot = self.take_slot(class, effort, out)?;
        self.blocks.raise(block, BlockState::Filling, slot, u32::MAX);
        self.blocks.get_mut(block).marks = 0;
        Some(slot)
    }

    /// Takes a slot for a block of `space`, which nobody has a record of, and enters it as `Filling`.
    pub(crate) fn reserve(
        &mut self,
        space: Space,
        hash: BlockHash,
        effort: &mut Effort,
        out: &mut Out<'_>,
    ) -> Option<(BlockIndex, SlotRef)> {
        let class = self.spaces.get(space.namespace()).classes[usize::from(space.group())];
        let slot = self.take_slot(class, effort, out)?;
        let block = self.blocks.insert(space, hash, slot, u32::MAX);
        self.spaces.get_mut(space.namespace()).blocks += 1;
        Some((block, slot))
    }

    /// Says which filling a reserved block and its slot belong to.
    pub(crate) fn set_filling(&mut self, block: BlockIndex, slot: SlotRef, filling: u32) {
        self.blocks.get_mut(block).link = filling;
        self.arenas.set_owner(slot, Owner::Filling(filling));
    }

    /// Forgets a reserved block; its slot stays with its filling.
    pub(crate) fn forget_filling(&mut self, block: BlockIndex) {
        let record = *self.blocks.get(block);
        debug_assert_eq!(record.state, BlockState::Filling);
        self.demote_or_remove(block);
    }

    /// A block has no slot any more: its record stays for a lower copy, or goes.
    fn demote_or_remove(&mut self, block: BlockIndex) {
        let record = *self.blocks.get(block);
        if record.has_lower_copy() {
            self.blocks.demote(block);
        } else {
            self.blocks.remove(block);
            self.count_removed(record.space);
        }
    }

    /// Frees the slot of a filling whose block has been forgotten.
    pub(crate) fn free_filling(&mut self, slot: SlotRef) {
        self.arenas.get_mut(self.arenas.arena_of(slot)).busy -= 1;
        self.free_slot(slot);
    }

    /// A reserved block can be found from now on. Announced by the caller, entered in the policy by
    /// [`admit`](Self::admit).
    pub(crate) fn publish(&mut self, block: BlockIndex) {
        let record = self.blocks.get_mut(block);
        (record.state, record.heat) = (BlockState::Resident, 0);
        let (slot, namespace) = (record.slot, record.space.namespace());
        self.spaces.get_mut(namespace).resident += 1;
        self.arenas.set_owner(slot, Owner::Block(block));
        self.arenas.get_mut(self.arenas.arena_of(slot)).busy -= 1;
        self.slots_resident += 1;
    }

    /// Enters a published block in its policy, unless somebody wants it kept.
    pub(crate) fn admit(&mut self, block: BlockIndex) {
        if self.keep_in_host(block) {
            return;
        }
        let record = self.blocks.get(block);
        let print = self.blocks.print(record.space, &record.hash);
        let class = self.arenas.get(self.arenas.arena_of(record.slot)).class;
        if let Some(class) = class.and_then(|class| self.classes[class].as_mut()) {
            self.blocks.get_mut(block).link = class.policy.insert(block, print);
        }
    }

    /// Holds blocks that a look-up has found, all of one space, the start of the sequence first.
    ///
    /// A hit is what the policy hears of, not a load: what an engine still has in its own memory it looks up but does
    /// not load, and that is what will be wanted most after it restarts. It hears of the deepest block first, so
    /// that the start of a prefix, without which the rest is worth nothing, is the youngest.
    pub(crate) fn hold(&mut self, space: Space, found: &[BlockIndex], holds: &mut Vec<Hold>) {
        let class = self.spaces.get(space.namespace()).classes[usize::from(space.group())];
        for &block in found {
            let record = self.blocks.get_mut(block);
            record.holds += 1;
            record.heat = HEAT_MAX.min(record.heat + 1);
            record.marks |= mark::HIT;
            holds.push(Hold {
                block,
                slot: record.slot,
            });
        }
        self.holds += found.len() as u64;
        let Some(class) = &mut self.classes[class] else {
            return;
        };
        if self.config.policy.hears_of_hits() {
            found
                .iter()
                .rev()
                .map(|&block| self.blocks.get(block))
                .filter(|record| !record.has(mark::KEPT_IN_HOST))
                .for_each(|record| class.policy.touch(record.link));
        }
    }

    /// Ends a hold, if its block is still the one that was held.
    pub(crate) fn unhold(&mut self, hold: Hold) {
        if self.is_held(hold) {
            self.blocks.get_mut(hold.block).holds -= 1;
            self.holds -= 1;
        }
    }

    /// Whether a hold is alive.
    pub(crate) fn is_held(&self, hold: Hold) -> bool {
        let record = self.blocks.get(hold.block);
        record.state == BlockState::Resident && record.slot == hold.slot
    }

    /// Begins a lease on a resident block.
    pub(crate) fn lease(&mut self, block: BlockIndex) {
        let record = self.blocks.get_mut(block);
        let was_busy = record.is_busy();
        record.leases += 1;
        self.slots_leased += u64::from(record.leases == 1);
        if !was_busy {
            self.arenas.get_mut(self.arenas.arena_of(record.slot)).busy += 1;
        }
    }

    /// Ends a lease.
    pub(crate) fn unlease(&mut self, block: BlockIndex) {
        let record = self.blocks.get_mut(block);
        record.leases -= 1;
        self.slots_leased -= u64::from(record.leases == 0);
        if !record.is_busy() {
            self.arenas.get_mut(self.arenas.arena_of(record.slot)).busy -= 1;
        }
    }

    /// Whether more than `fraction` of the region is used, blocks that are about to leave not counted. A slot counts with its share of an arena, so that a full
    /// region is full whatever its slots' sizes are.
    pub(crate) fn is_above(&self, fraction: f64) -> bool {
        let capacity = u64::from(self.arenas.count()) * self.config.arena_bytes;
        #[expect(clippy::cast_precision_loss, reason = "a watermark is not exact to the byte")]
        let (used, capacity) = ((self.weight_used - self.weight_leaving) as f64, capacity as f64);
        used > fraction * capacity
    }

    /// Chooses a block to be evicted, of the class that uses most and can spare one. Its policy has let go of it, so it is
    /// to be evicted or admitted again.
    pub(crate) fn choose_largest(&mut self, effort: &mut Effort) -> Option<BlockIndex> {
        let mut order: Vec<(u64, usize)> = self
            .numbered()
            .map(|(i, c)| (c.used * c.slot_weight, i))
            .collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        order
            .into_iter()
            .find_map(|(_, class)| self.choose_one(class, effort))
    }

    /// Panics where the sets of a class are not what its arenas say.
    pub(crate) fn check_classes(&self) {
        let (mut assigned, mut weight, mut bytes, mut ordered) = (0, 0, 0, 0);
        for (index, class) in self.numbered() {
            let mut used = 0;
            for &number in &class.arenas {
                let arena = self.arenas.get(number);
                assert_eq!(arena.class, Some(index), "an arena names its class");
                assert!(
                    !self.unassigned.contains(&number),
                    "an assigned arena is not free"
                );
                assert_eq!(
                    class.open.contains(&number),
                    arena.has_free(),
                    "open arenas have a free slot"
                );
                assert_eq!(
                    class.idle.contains(&number),
                    arena.used == 0,
                    "idle arenas have only free slots"
                );
                used += u64::from(arena.used);
            }
            assert_eq!(class.used, used, "a class counts its slots");
            assert!(class.groups > 0 || used > 0, "an unused class is forgotten");
            assigned += class.arenas.len();
            weight += used * class.slot_weight;
            bytes += used * class.slot_bytes;
            ordered += class.policy.len() as u64;
        }
        assert_eq!(
            assigned + self.unassigned.len(),
            self.arenas.count() as usize,
            "each arena is somewhere"
        );
        assert_eq!(
            (self.weight_used, self.bytes_used),
            (weight, bytes),
            "use is counted"
        );
        assert_eq!(
            self.slots_resident,
            ordered + self.keeps.host_blocks,
            "each resident block is known to a policy or kept"
        );
    }

    fn numbered(&self) -> impl Iterator<Item = (usize, &Class)> {
        self.classes
            .iter()
            .enumerate()
            .filter_map(|(index, class)| class.as_ref().map(|class| (index, class)))
    }

    fn class_of(&mut self, slot_bytes: u64) -> usize {
        let found = self
            .numbered()
            .find(|(_, class)| class.slot_bytes == slot_bytes)
            .map(|(index, _)| index);
        let index = found.unwrap_or_else(|| {
            let slots = u64::from(self.arenas.slots_per_arena(slot_bytes)).max(1);
            let class = Class {
                slot_bytes,
                slot_weight: self.config.arena_bytes / slots,
                arenas: BTreeSet::new(),
                open: BTreeSet::new(),
                idle: BTreeSet::new(),
                policy: policy::new(self.config.policy),
                used: 0,
                groups: 0,
                attached: 0,
            };
            let vacant = self.classes.iter().position(Option::is_none);
            let index = vacant.unwrap_or(self.classes.len());
            self.classes
                .resize_with(self.classes.len().max(index + 1), || None);
            self.classes[index] = Some(class);
            index
        });
        self.class_mut(index).groups += 1;
        index
    }

    #[expect(
        clippy::expect_used,
        reason = "a class lives as long as a namespace or an arena names it"
    )]
    fn class(&self, index: usize) -> &Class {
        self.classes[index].as_ref().expect("a class in use is known")
    }

    #[expect(
        clippy::expect_used,
        reason = "a class lives as long as a namespace or an arena names it"
    )]
    fn class_mut(&mut self, index: usize) -> &mut Class {
        self.classes[index].as_mut().expect("a class in use is known")
    }

    fn count_removed(&mut self, space: Space) {
        self.spaces.get_mut(space.namespace()).blocks -= 1;
        self.drop_unused(space.namespace());
    }

    /// Forgets a namespace if nobody uses it.
    pub(crate) fn drop_unused(&mut self, namespace: u32) {
        for class in self.spaces.drop_unused(namespace).into_iter().flatten() {
            self.class_mut(class).groups -= 1;
            self.drop_class_if_unused(class);
        }
    }

    /// A size nobody uses gives its empty arenas back, and goes with the last one.
    fn drop_class_if_unused(&mut self, index: usize) {
        let class = self.class_mut(index);
        if class.groups > 0 {
            return;
        }
        for arena in std::mem::take(&mut class.idle) {
            self.unassign(index, arena);
        }
        if self.class(index).arenas.is_empty() {
            self.classes[index] = None;
        }
    }
}

/// A hold on a block, and what the block was when it was held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    pub(crate) block: BlockIndex,
    pub(crate) slot: SlotRef,
}
