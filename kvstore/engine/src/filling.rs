//! Reservations that are not finished: one for each slot that a client may still write to.
//!
//! ```text
//!              each part:                                   the whole:
//!   Open(session) ── seal, abort, closed ──▶ Done           all parts Done ──▶ published, or freed if it is doomed
//!        │ hung up                            ▲
//!        ▼                                    │
//!   Orphan(process) ───── proof of death ─────┘
//! ```
//!
//! The scheduler's abort makes all open parts `Done` at once if no worker has shown that it was told of the slot.
//!
//! Invariants
//! - A filling that may still be published has a record in `Filling` state; a doomed one has none, so its key can be
//!   reserved anew while its slot waits.
//! - A slot with a part that is not `Done` is never handed out: some process may still write to it.

use std::time::Instant;

use kvstore_types::{EngineGroupId, ProcessId, SessionId, SlotRef};

use crate::block::BlockIndex;

/// One rank's part of a slot that is being filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// This worker will seal or abort it.
    Open(SessionId),
    /// Its worker hung up: this process may still be writing.
    Orphan(ProcessId),
    /// Nobody will write to it any more.
    Done,
}

/// One reservation of one slot.
#[derive(Debug)]
pub(crate) struct Filling {
    /// Its block; `NONE` once it is doomed.
    pub(crate) block: BlockIndex,
    /// The slot.
    pub(crate) slot: SlotRef,
    /// Grows with each reservation: in the order of its engine's keys, so parents come before children.
    pub(crate) number: u64,
    /// The engine it was handed to.
    pub(crate) group: EngineGroupId,
    /// When.
    pub(crate) since: Option<Instant>,
    /// The scheduler it was handed to.
    pub(crate) reserver: SessionId,
    /// Whether the end of a session doomed it.
    pub(crate) quarantined: bool,
    /// Whether a worker has shown that it was told of the slot, by sealing or aborting its part.
    pub(crate) is_told: bool,
    /// One for each rank.
    pub(crate) parts: Vec<Part>,
    live: bool,
}

impl Filling {
    /// Whether it will never be published.
    pub(crate) fn is_doomed(&self) -> bool {
        self.block == BlockIndex::NONE
    }

    /// Whether no process may write to the slot any more.
    pub(crate) fn is_done(&self) -> bool {
        self.parts.iter().all(|&part| part == Part::Done)
    }
}

/// All unfinished reservations. Entries are reused with their memory.
#[derive(Debug, Default)]
pub(crate) struct Fillings {
    entries: Vec<Filling>,
    vacant: Vec<u32>,
    doomed: usize,
    /// How many there have been.
    count: u64,
}

impl Fillings {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.vacant.len()
    }

    /// How many of them are doomed.
    pub(crate) fn doomed(&self) -> usize {
        self.doomed
    }

    /// Whether a number names a reservation.
    pub(crate) fn is_live(&self, index: u32) -> bool {
        self.entries.get(index as usize).is_some_and(|entry| entry.live)
    }

    /// Sets the block of a reservation just added.
    pub(crate) fn set_block(&mut self, index: u32, block: BlockIndex) {
        let before = std::mem::replace(&mut self.entries[index as usize].block, block);
        self.doomed -= usize::from(before == BlockIndex::NONE && block != BlockIndex::NONE);
    }

    /// Dooms a reservation. The answer is its block, `NONE` if it was doomed already.
    pub(crate) fn take_block(&mut self, index: u32) -> BlockIndex {
        let block = std::mem::replace(&mut self.entries[index as usize].block, BlockIndex::NONE);
        self.doomed += usize::from(block != BlockIndex::NONE);
        block
    }

    /// Adds a reservation whose block is set next, with [`Fillings::set_block`].
    pub(crate) fn add(
        &mut self,
        slot: SlotRef,
        group: EngineGroupId,
        reserver: SessionId,
        since: Option<Instant>,
        workers: impl Iterator<Item = SessionId>,
    ) -> u32 {
        let block = BlockIndex::NONE;
        self.doomed += 1;
        self.count += 1;
        let number = self.count;
        let Some(index) = self.vacant.pop() else {
            let parts = workers.map(Part::Open).collect();
            self.entries.push(Filling {
                block,
                slot,
                number,
                group,
                reserver,
                since,
                quarantined: false,
                is_told: false,
                parts,
                live: true,
            });
            return u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX);
        };
        let entry = &mut self.entries[index as usize];
        let mut parts = std::mem::take(&mut entry.parts);
        parts.clear();
        parts.extend(workers.map(Part::Open));
        *entry = Filling {
            block,
            slot,
            number,
            group,
            reserver,
            since,
            quarantined: false,
            is_told: false,
            parts,
            live: true,
        };
        index
    }

    /// A reservation.
    pub(crate) fn get(&self, index: u32) -> &Filling {
        &self.entries[index as usize]
    }

    /// A reservation, to be changed.
    pub(crate) fn get_mut(&mut self, index: u32) -> &mut Filling {
        &mut self.entries[index as usize]
    }

    /// Forgets a reservation.
    pub(crate) fn remove(&mut self, index: u32) {
        self.doomed -= usize::from(self.entries[index as usize].is_doomed());
        self.entries[index as usize].live = false;
        self.vacant.push(index);
    }

    /// Numbers of all reservations of which `wanted` holds. Walks all of them: for the rare ends of sessions.
    pub(crate) fn select(&self, wanted: impl Fn(&Filling) -> bool) -> Vec<u32> {
        let numbered = (0_u32..).zip(&self.entries);
        numbered
            .filter(|(_, entry)| entry.live && wanted(entry))
            .map(|(index, _)| index)
            .collect()
    }
}
