//! What must be true, kept in plain lists: which slots hold what, who may still write to them, who may still read.
//!
//! The model does not decide anything. It is told what clients did and what the engine answered, and panics at the
//! first answer that breaks a promise of the design.

use std::collections::{BTreeMap, BTreeSet};

use kvstore_types::{
    BlockKey, EngineGroupId, GroupLayout, NamespaceId, OperationId, PAGE_BYTES, ProcessId, SessionId,
    SlotRef, Tag,
};

use super::transfers::Transfer;
use crate::event::{Role, SessionEnd};

/// One rank's part of a slot, as far as writing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The worker may write.
    Open(SessionId, ProcessId),
    /// The worker's session broke; its process may write.
    Orphan(ProcessId),
    /// Nobody may.
    Done,
}

/// A slot somebody may write to.
#[derive(Clone, Debug)]
pub(super) struct Reservation {
    pub(super) key: BlockKey,
    pub(super) slot: SlotRef,
    pub(super) pages: u32,
    pub(super) group: EngineGroupId,
    pub(super) reserver: SessionId,
    pub(super) parts: Vec<Part>,
    pub(super) is_doomed: bool,
    /// Whether a worker sealed or aborted its part.
    pub(super) is_told: bool,
}

/// A block that may be found.
#[derive(Clone, Debug)]
pub(super) struct Resident {
    pub(super) slot: SlotRef,
    pub(super) pages: u32,
    /// What lay in its pages when it was sealed.
    pub(super) sealed: Vec<u64>,
}

/// Slots somebody may read from.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) session: SessionId,
    pub(super) tag: Tag,
    pub(super) group: EngineGroupId,
    pub(super) slots: Vec<(SlotRef, u32)>,
    readers: Vec<(Option<SessionId>, ProcessId)>,
    is_orphan: bool,
}

/// An attached client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attached {
    pub(super) process: ProcessId,
    pub(super) group: EngineGroupId,
    pub(super) role: Role,
}

/// The truth.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Page by page, what clients wrote.
    pub(super) memory: Vec<u64>,
    pub(super) reservations: Vec<Reservation>,
    pub(super) residents: BTreeMap<BlockKey, Resident>,
    pub(super) leases: Vec<Lease>,
    pub(super) sessions: BTreeMap<SessionId, Attached>,
    /// Slots that devices work on.
    pub(super) transfers: BTreeMap<OperationId, Transfer>,
    /// Blocks announced as stored on NVMe and not as removed.
    pub(super) stored: BTreeSet<BlockKey>,
    /// Blocks announced as being in the remote tier and not as removed.
    pub(super) remote: BTreeSet<BlockKey>,
    /// Pages at the start of every slot that are the daemon's.
    header_pages: usize,
    /// Every slot reference ever granted for filling, by a client or a device.
    pub(super) granted: BTreeSet<SlotRef>,
}

/// Pages of a slot.
pub(super) fn pages_of(layout: &GroupLayout) -> u32 {
    u32::try_from(layout.slot_bytes / PAGE_BYTES).unwrap_or(0)
}

impl Model {
    /// A region of so many pages, with nobody there.
    pub(super) fn new(pages: usize, header_pages: usize) -> Self {
        Self {
            memory: vec![0; pages],
            header_pages,
            ..Self::default()
        }
    }

    /// The pages of a slot that clients write.
    pub(super) fn payload(&self, slot: SlotRef, pages: u32) -> std::ops::Range<usize> {
        let start = slot.page as usize;
        start + self.header_pages..start + pages as usize
    }

    /// A client was let in.
    pub(super) fn attached(&mut self, id: SessionId, attached: Attached) {
        if let Role::Worker(_) = attached.role {
            let live = self
                .leases
                .iter_mut()
                .filter(|lease| !lease.is_orphan && lease.group == attached.group);
            live.for_each(|lease| lease.readers.push((Some(id), attached.process)));
        }
        self.sessions.insert(id, attached);
    }

    /// The engine handed out a slot for filling.
    pub(super) fn granted(&mut self, reservation: Reservation) {
        self.check_unused(reservation.slot, reservation.pages);
        assert!(
            !self.is_filling(&reservation.key),
            "{} was reserved twice",
            reservation.key
        );
        self.reservations.push(reservation);
    }

    /// Whether a key is being filled and may still be published.
    pub(super) fn is_filling(&self, key: &BlockKey) -> bool {
        self.reservations
            .iter()
            .any(|other| other.key == *key && !other.is_doomed)
    }

    /// A worker seals: what the engine must answer, and the keys it must publish.
    pub(super) fn seal(&mut self, session: SessionId, slots: &[SlotRef]) -> (u32, Vec<BlockKey>, u32) {
        let (mut sealed, mut published, mut stale) = (0, Vec::new(), 0);
        for &slot in slots {
            match self.finish_part(session, slot) {
                Some(false) => sealed += 1,
                Some(true) | None => stale += 1,
            }
            published.extend(self.publish_finished());
        }
        (sealed, published, stale)
    }

    /// A worker aborts: what the engine must answer.
    pub(super) fn abort_parts(&mut self, session: SessionId, slots: &[SlotRef]) -> (u32, u32) {
        let (mut aborted, mut stale) = (0, 0);
        for &slot in slots {
            let open = self.reservations.iter_mut().find(|other| other.slot == slot);
            let own = |part: &Part| matches!(part, Part::Open(worker, _) if *worker == session);
            match open.filter(|reservation| reservation.parts.iter().any(own)) {
                Some(reservation) => {
                    reservation.is_doomed = true;
                    aborted += 1;
                }
                None => stale += 1,
            }
            self.finish_part(session, slot);
            self.drop_finished();
        }
        (aborted, stale)
    }

    /// A scheduler aborts slots it told nobody of.
    pub(super) fn abort_whole(&mut self, session: SessionId, slots: &[SlotRef]) -> (u32, u32) {
        let (mut aborted, mut stale) = (0, 0);
        for &slot in slots {
            let mine = |other: &&mut Reservation| other.slot == slot && other.reserver == session;
            let mut changed = 0;
            if let Some(reservation) = self.reservations.iter_mut().find(mine) {
                let is_told = reservation.is_told;
                let open = reservation.parts.iter_mut();
                for part in open.filter(|part| !is_told && matches!(part, Part::Open(..))) {
                    (*part, changed) = (Part::Done, 1);
                }
                changed |= u32::from(!std::mem::replace(&mut reservation.is_doomed, true));
            }
            (aborted, stale) = (aborted + changed, stale + 1 - changed);
            self.drop_finished();
        }
        (aborted, stale)
    }

    /// A session is over.
    pub(super) fn ended(&mut self, id: SessionId, end: SessionEnd) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        for reservation in &mut self.reservations {
            reservation.is_doomed |= reservation.reserver == id;
            for part in reservation
                .parts
                .iter_mut()
                .filter(|part| **part == Part::Open(id, session.process))
            {
                reservation.is_doomed = true;
                *part = if end == SessionEnd::Closed {
                    Part::Done
                } else {
                    Part::Orphan(session.process)
                };
            }
        }
        for lease in &mut self.leases {
            if lease.session == id {
                lease.is_orphan = true;
                if end == SessionEnd::HungUp {
                    lease.readers.push((None, session.process));
                }
            }
            match end {
                SessionEnd::Closed => lease.readers.retain(|reader| reader.0 != Some(id)),
                SessionEnd::HungUp => {
                    lease
                        .readers
                        .iter_mut()
                        .filter(|reader| reader.0 == Some(id))
                        .for_each(|reader| reader.0 = None);
                }
            }
        }
        self.drop_finished();
    }

    /// A process is proven dead.
    pub(super) fn died(&mut self, process: ProcessId) {
        let own: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.process == process)
            .map(|(&id, _)| id)
            .collect();
        for id in own {
            self.ended(id, SessionEnd::HungUp);
        }
        for part in self
            .reservations
            .iter_mut()
            .flat_map(|reservation| &mut reservation.parts)
        {
            if *part == Part::Orphan(process) {
                *part = Part::Done;
            }
        }
        self.leases
            .iter_mut()
            .for_each(|lease| lease.readers.retain(|reader| reader.1 != process));
        self.drop_finished();
    }

    /// An engine was reset: what it was storing is lost.
    pub(super) fn reset(&mut self, group: EngineGroupId) {
        self.reservations
            .iter_mut()
            .filter(|other| other.group == group)
            .for_each(|other| other.is_doomed = true);
        self.drop_finished();
    }

    /// A load was granted.
    pub(super) fn leased(
        &mut self,
        session: SessionId,
        tag: Tag,
        group: EngineGroupId,
        slots: Vec<(SlotRef, u32)>,
    ) {
        let workers = self.sessions.iter().filter(|(_, other)| other.group == group);
        let workers = workers.filter(|(_, other)| matches!(other.role, Role::Worker(_)));
        let readers = workers.map(|(&id, other)| (Some(id), other.process)).collect();
        self.leases.push(Lease {
            session,
            tag,
            group,
            slots,
            readers,
            is_orphan: false,
        });
    }

    /// A lease was given up.
    pub(super) fn released(&mut self, session: SessionId, tag: Tag) {
        self.leases
            .retain(|lease| lease.session != session || lease.tag != tag || lease.is_orphan);
    }

    /// The engine says that a block can no longer be found.
    pub(super) fn removed(&mut self, key: &BlockKey) {
        let resident = self.residents.remove(key);
        let Some(resident) = resident else {
            panic!("promise 2: {key} was removed but was not there")
        };
        let is_leased = self
            .leases
            .iter()
            .flat_map(|lease| &lease.slots)
            .any(|&(slot, _)| slot == resident.slot);
        assert!(!is_leased, "promise 3: {key} was removed while it was leased");
        let mut transfers = self.transfers.values();
        assert!(
            !transfers.any(|transfer| transfer.slot == resident.slot),
            "promise 3: {key} was removed while it was being written"
        );
        self.check_bytes(key, &resident);
    }

    /// Bytes of all blocks are what was sealed.
    pub(super) fn check_all_bytes(&self) {
        self.residents
            .iter()
            .for_each(|(key, resident)| self.check_bytes(key, resident));
    }

    /// Slots that are leased.
    pub(super) fn slots_leased(&self) -> u64 {
        let mut slots: Vec<SlotRef> = self
            .leases
            .iter()
            .flat_map(|lease| &lease.slots)
            .map(|&(slot, _)| slot)
            .collect();
        slots.sort_unstable();
        slots.dedup();
        slots.len() as u64
    }

    /// The longest hit, by its definition.
    pub(super) fn longest_hit(
        namespace: NamespaceId,
        layouts: &[GroupLayout],
        keys: &[Vec<kvstore_types::BlockHash>],
        tokens_max: u64,
        is_present: impl Fn(&BlockKey) -> bool,
    ) -> u64 {
        let is_hit = |hit: u64| {
            (0_u8..).zip(layouts).zip(keys).all(|((group, layout), keys)| {
                let tokens_per_block = u64::from(layout.tokens_per_block);
                let first = match layout.kind {
                    kvstore_types::AttentionKind::Full => 0,
                    kvstore_types::AttentionKind::SlidingWindow { window_tokens } => {
                        hit.saturating_sub(u64::from(window_tokens) - 1)
                    }
                };
                hit.is_multiple_of(tokens_per_block)
                    && hit <= keys.len() as u64 * tokens_per_block
                    && (first..hit).all(|token| {
                        let block = usize::try_from(token / tokens_per_block).unwrap_or(usize::MAX);
                        keys.get(block).is_some_and(|&hash| {
                            let group = kvstore_types::GroupIndex(group);
                            is_present(&BlockKey {
                                namespace,
                                group,
                                hash,
                            })
                        })
                    })
            })
        };
        if keys.len() < layouts.len() {
            return 0;
        }
        (0..=tokens_max).rev().find(|&hit| is_hit(hit)).unwrap_or(0)
    }

    fn check_bytes(&self, key: &BlockKey, resident: &Resident) {
        let now = &self.memory[self.payload(resident.slot, resident.pages)];
        assert_eq!(
            now, resident.sealed,
            "promise 3: bytes of {key} at {} changed after it was sealed",
            resident.slot
        );
    }

    /// Whether the part was doomed, if the session had one in this slot.
    fn finish_part(&mut self, session: SessionId, slot: SlotRef) -> Option<bool> {
        let reservation = self.reservations.iter_mut().find(|other| other.slot == slot)?;
        let own = |part: &&mut Part| matches!(part, Part::Open(worker, _) if *worker == session);
        *reservation.parts.iter_mut().find(own)? = Part::Done;
        reservation.is_told = true;
        Some(reservation.is_doomed)
    }

    fn publish_finished(&mut self) -> Vec<BlockKey> {
        self.drop_finished();
        let finished = |other: &Reservation| other.parts.iter().all(|part| *part == Part::Done);
        let mut published = Vec::new();
        while let Some(at) = self.reservations.iter().position(finished) {
            let reservation = self.reservations.remove(at);
            let sealed = self.memory[self.payload(reservation.slot, reservation.pages)].to_vec();
            let resident = Resident {
                slot: reservation.slot,
                pages: reservation.pages,
                sealed,
            };
            let before = self.residents.insert(reservation.key, resident);
            assert!(before.is_none(), "{} was published twice", reservation.key);
            published.push(reservation.key);
        }
        published
    }

    fn drop_finished(&mut self) {
        self.reservations
            .retain(|other| !other.is_doomed || other.parts.iter().any(|part| *part != Part::Done));
        self.leases
            .retain(|lease| !lease.is_orphan || !lease.readers.is_empty());
    }
}

pub(super) fn overlap(a: SlotRef, a_pages: u32, b: SlotRef, b_pages: u32) -> bool {
    a.page < b.page + b_pages && b.page < a.page + a_pages
}
