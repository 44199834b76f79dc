//! A full audit of the engine's own books, for tests and the simulation.

use std::collections::BTreeMap;

use crate::arena::Owner;
use crate::block::{BlockIndex, BlockState, ExtentHandle};
use crate::engine::Engine;
use crate::filling::Part;
use crate::session::Session;

mod nvme;
mod remote;

impl Engine {
    /// Recounts everything that is counted along the way and panics where the books do not close. Walks all slots,
    /// blocks, sessions and groups.
    ///
    /// # Panics
    ///
    /// If an invariant is broken, naming it.
    pub fn check_invariants(&self) {
        self.check_slots();
        self.check_blocks();
        self.check_claims();
        self.check_namespaces();
        self.check_copies();
        self.check_segments();
        self.check_waits();
        self.check_remote();
        self.pool.check_classes();
        self.pool.check_keeps();
    }

    /// Every slot that is not free belongs to exactly one block or one reservation, which names it.
    fn check_slots(&self) {
        let (mut resident, mut fillings, mut promotions) = (0, 0, 0);
        let arenas = self.pool.arenas();
        for number in 0..arenas.count() {
            let arena = arenas.get(number);
            let (mut used, mut busy) = (0, 0);
            for owner in arena.owners() {
                let slot = match owner {
                    Owner::Free(_) => continue,
                    Owner::Block(block) => {
                        let record = self.pool.blocks.get(block);
                        assert_eq!(
                            record.state,
                            BlockState::Resident,
                            "a block's slot holds a resident block"
                        );
                        resident += 1;
                        busy += u32::from(record.is_busy());
                        record.slot
                    }
                    Owner::Filling(filling) => {
                        assert!(
                            self.fillings.is_live(filling),
                            "a slot that is filled has a reservation"
                        );
                        fillings += 1;
                        busy += 1;
                        self.fillings.get(filling).slot
                    }
                    Owner::Promotion(block) => {
                        let record = self.pool.blocks.get(block);
                        assert_eq!(
                            record.state,
                            BlockState::Promoting,
                            "a slot that is read into has a block on its way"
                        );
                        promotions += 1;
                        busy += 1;
                        record.slot
                    }
                };
                used += 1;
                assert_eq!(
                    arenas.arena_of(slot),
                    number,
                    "a slot lies in the arena that says so"
                );
            }
            assert_eq!(
                (arena.used, arena.busy),
                (used, busy),
                "arena {number} counts its slots"
            );
        }
        assert_eq!(
            self.pool.slots_resident, resident as u64,
            "resident slots are counted"
        );
        assert_eq!(
            self.nvme.promotions.len(),
            promotions,
            "each promotion has its slot"
        );
        assert_eq!(self.fillings.len(), fillings, "each reservation has its slot");
        assert_eq!(
            self.pool.slots_used(),
            (resident + fillings + promotions) as u64,
            "used slots are counted"
        );
    }

    /// What waiting look-ups may come to hold.
    fn quota_of(&self, session: &Session) -> usize {
        let waits = self.nvme.waits.iter();
        let own = waits.filter(|(id, _)| session.waits.values().any(|own| own == id));
        own.map(|(_, wait)| wait.quota).sum()
    }

    fn check_blocks(&self) {
        let (mut count, mut leased, mut holds) = (0, 0, 0);
        for (index, block) in self.pool.blocks.iter() {
            count += 1;
            holds += u64::from(block.holds);
            leased += u64::from(block.leases > 0);
            assert_eq!(
                self.pool.blocks.find(block.space, &block.hash),
                Some(index),
                "a block can be found"
            );
            if block.state == BlockState::Filling {
                assert_eq!(
                    (block.holds, block.leases),
                    (0, 0),
                    "an unfinished block is neither held nor leased"
                );
                assert_eq!(
                    self.fillings.get(block.link).block,
                    index,
                    "an unfinished block names its reservation"
                );
            }
        }
        assert_eq!(self.pool.blocks.len(), count, "blocks are counted");
        assert_eq!(
            (self.pool.holds, self.pool.slots_leased),
            (holds, leased),
            "holds and leases are counted"
        );
        let doomed = self.fillings.select(super::filling::Filling::is_doomed);
        assert_eq!(
            self.fillings.doomed(),
            doomed.len(),
            "doomed reservations are counted"
        );
    }

    /// Counts on blocks are exactly what sessions and wards claim.
    fn check_claims(&self) {
        let (mut leases, mut holds) = (
            BTreeMap::<BlockIndex, u32>::new(),
            BTreeMap::<BlockIndex, u32>::new(),
        );
        for session in self.sessions.values() {
            let leased = session.leases.values().flat_map(|lease| &lease.blocks);
            let held = session.lookups.values().flat_map(|lookup| &lookup.holds);
            assert_eq!(
                session.held,
                leased.clone().count() + held.clone().count() + self.quota_of(session),
                "a session's quota is counted"
            );
            assert!(
                session.held <= self.config.holds_per_session_max,
                "a session keeps its quota"
            );
            assert!(
                session.operations() <= self.config.operations_per_session_max,
                "a session keeps its quota of operations"
            );
            leased.for_each(|&block| *leases.entry(block).or_default() += 1);
            held.filter(|hold| self.pool.is_held(**hold))
                .for_each(|hold| *holds.entry(hold.block).or_default() += 1);
        }
        let waiting = self.nvme.waits.iter().flat_map(|(_, wait)| &wait.holds);
        waiting
            .filter(|hold| self.pool.is_held(**hold))
            .for_each(|hold| *holds.entry(hold.block).or_default() += 1);
        for ward in self.groups.values().flat_map(|group| &group.wards) {
            assert!(
                !ward.waits.is_empty() && !ward.blocks.is_empty(),
                "a ward waits for somebody"
            );
            ward.blocks
                .iter()
                .for_each(|&block| *leases.entry(block).or_default() += 1);
        }
        for (index, block) in self.pool.blocks.iter() {
            assert_eq!(
                block.leases,
                leases.remove(&index).unwrap_or(0),
                "leases are what sessions and wards have"
            );
            assert_eq!(
                block.holds,
                holds.remove(&index).unwrap_or(0),
                "holds are what sessions have"
            );
        }
        assert!(
            leases.is_empty() && holds.is_empty(),
            "claims are on blocks that exist"
        );
        assert!(
            self.sessions.len() <= self.config.sessions_max,
            "there are no more sessions than may be"
        );
    }

    fn check_namespaces(&self) {
        let mut blocks = BTreeMap::<u32, u64>::new();
        let mut copies = BTreeMap::<u32, (u64, u64, u64, u64)>::new();
        for (_, block) in self.pool.blocks.iter() {
            *blocks.entry(block.space.namespace()).or_default() += 1;
            let copies = copies.entry(block.space.namespace()).or_default();
            copies.0 += u64::from(block.state == BlockState::Resident);
            copies.1 += u64::from(block.extent != ExtentHandle::NONE);
            copies.2 += u64::from(block.is_remote);
            copies.3 += u64::from(block.is_remote) * self.pool.slot_bytes(block.space);
        }
        let bytes = self.pool.spaces.iter().map(|(_, namespace)| namespace.bytes());
        let bytes = bytes.sum::<usize>();
        assert_eq!(self.pool.spaces.bytes(), bytes, "descriptors are counted");
        assert!(
            bytes + self.fields_bytes() <= self.config.descriptor_bytes_max,
            "descriptors keep to their limit"
        );
        let mut users = BTreeMap::<u32, u32>::new();
        self.groups
            .values()
            .filter_map(|group| group.namespace)
            .for_each(|n| *users.entry(n).or_default() += 1);
        for (index, namespace) in self.pool.spaces.iter() {
            assert_eq!(
                namespace.blocks,
                blocks.remove(&index).unwrap_or(0),
                "a namespace counts its blocks"
            );
            assert_eq!(
                (
                    namespace.resident,
                    namespace.stored,
                    namespace.remote,
                    namespace.remote_bytes
                ),
                copies.remove(&index).unwrap_or_default(),
                "a namespace counts the copies of each tier"
            );
            assert_eq!(
                namespace.users,
                users.remove(&index).unwrap_or(0),
                "a namespace counts its engines"
            );
            assert!(
                namespace.blocks > 0 || namespace.users > 0 || namespace.tellers > 0,
                "an unused namespace is forgotten"
            );
        }
        assert!(
            blocks.is_empty() && users.is_empty(),
            "namespaces in use are known"
        );
        for filling in self.fillings.select(|_| true) {
            let entry = self.fillings.get(filling);
            assert!(!entry.is_done(), "a finished reservation is gone");
            for part in &entry.parts {
                if let Part::Open(session) = part {
                    assert!(self.sessions.contains_key(session), "an open part has its worker");
                }
            }
        }
        for group in self.groups.values() {
            assert!(!group.is_over(), "a group that is over is forgotten");
            assert!(
                group.members().all(|id| self.sessions.contains_key(&id)),
                "members are attached"
            );
        }
    }
}
