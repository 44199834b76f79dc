//! Engine groups: the sessions of one inference engine, and what waits for them.
//!
//! ```text
//!                 last worker attaches
//!   Incomplete ─────────────────────────▶ Complete (has a namespace)
//!        ▲                                    │
//!        └──────── a worker's session ends ───┘
//! ```
//!
//! A **ward** is what is left of an ended scheduler's leases: blocks that some process of the engine may still be
//! reading. It ends when each process that could is proven dead or has closed its session cleanly, and never earlier.
//!
//! Invariants
//! - A ward always waits for somebody.
//! - A member that hung up and is not proven dead (a zombie) is waited for by every ward that begins while its group
//!   lasts.

use std::time::Instant;

use kvstore_types::{NamespaceDescriptor, NamespaceGeometry, ProcessId, SessionId};

use crate::block::BlockIndex;

/// Whom a ward waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Waiter {
    /// A worker that is attached: it may close cleanly.
    Session(SessionId),
    /// A process whose session hung up: only its death is proof.
    Process(ProcessId),
}

/// Leased blocks whose session is gone.
#[derive(Debug)]
pub(crate) struct Ward {
    /// Whom it waits for, sorted.
    pub(crate) waits: Vec<Waiter>,
    /// The blocks, sorted, each leased once.
    pub(crate) blocks: Vec<BlockIndex>,
    /// When the oldest of the leases began.
    pub(crate) since: Instant,
}

/// More wards than this are merged, which is safe: they then wait for all the others' processes too.
const WARDS_MAX: usize = 64;

/// The sessions of one engine.
#[derive(Debug, Default)]
pub(crate) struct EngineGroup {
    /// Fields every member has stated alike. None while there are no members.
    pub(crate) common: Option<NamespaceDescriptor>,
    /// The scheduler.
    pub(crate) scheduler: Option<SessionId>,
    /// The workers by rank.
    pub(crate) workers: Vec<Option<SessionId>>,
    /// Processes of members that hung up and are not proven dead.
    pub(crate) zombies: Vec<ProcessId>,
    /// What waits.
    pub(crate) wards: Vec<Ward>,
    /// The namespace last composed. The group is attached to it until the group is gone or composes another.
    pub(crate) namespace: Option<u32>,
    /// What makes the namespace unique since the engine was reset.
    pub(crate) nonce: Option<[u8; 16]>,
}

impl EngineGroup {
    /// All members.
    pub(crate) fn members(&self) -> impl Iterator<Item = SessionId> {
        self.scheduler
            .into_iter()
            .chain(self.workers.iter().flatten().copied())
    }

    /// Whether all ranks are attached.
    pub(crate) fn is_complete(&self) -> bool {
        !self.workers.is_empty() && self.workers.iter().all(Option::is_some)
    }

    /// The namespace, while all ranks are attached.
    pub(crate) fn ready_namespace(&self) -> Option<u32> {
        self.namespace.filter(|_| self.is_complete())
    }

    /// Whether nothing is left of it.
    pub(crate) fn is_over(&self) -> bool {
        self.members().next().is_none() && self.wards.is_empty()
    }

    /// Everyone who might be reading what this group has leased.
    pub(crate) fn readers(&self) -> Vec<Waiter> {
        let workers = self
            .workers
            .iter()
            .flatten()
            .map(|&session| Waiter::Session(session));
        workers
            .chain(self.zombies.iter().map(|&process| Waiter::Process(process)))
            .collect()
    }

    /// Begins a ward. `waits` and `blocks` are sorted and not empty. The answer is the blocks that were waiting for
    /// the same processes already: their lease is not needed twice.
    #[must_use]
    pub(crate) fn add_ward(&mut self, ward: Ward) -> Vec<BlockIndex> {
        let same = self.wards.iter().position(|other| other.waits == ward.waits);
        match same {
            Some(at) => self.wards[at].merge(ward),
            None if self.wards.len() >= WARDS_MAX => self.wards[0].merge(ward),
            None => {
                self.wards.push(ward);
                Vec::new()
            }
        }
    }

    /// A member or a process is not waited for any more, or only as `now`. The answer is the blocks nobody waits for.
    #[must_use]
    pub(crate) fn resolve(&mut self, was: Waiter, now: Option<Waiter>) -> Vec<BlockIndex> {
        for ward in &mut self.wards {
            if let Ok(at) = ward.waits.binary_search(&was) {
                ward.waits.remove(at);
                if let Some(Err(at)) = now.map(|now| ward.waits.binary_search(&now)) {
                    ward.waits.splice(at..at, now);
                }
            }
        }
        let (over, waiting) = std::mem::take(&mut self.wards)
            .into_iter()
            .partition(|ward| ward.waits.is_empty());
        self.wards = waiting;
        Vec::into_iter(over).flat_map(|ward: Ward| ward.blocks).collect()
    }
}

impl Ward {
    /// Takes another ward in; blocks that both have are given back once.
    fn merge(&mut self, other: Self) -> Vec<BlockIndex> {
        self.since = self.since.min(other.since);
        self.waits.extend(other.waits);
        self.waits.sort_unstable();
        self.waits.dedup();
        self.blocks.extend(other.blocks);
        self.blocks.sort_unstable();
        take_duplicates(&mut self.blocks)
    }
}

/// Removes repetitions from a sorted list and gives them back.
pub(crate) fn take_duplicates(blocks: &mut Vec<BlockIndex>) -> Vec<BlockIndex> {
    let mut duplicates = Vec::new();
    blocks.dedup_by(|later, earlier| {
        let same = later == earlier;
        if same {
            duplicates.push(*later);
        }
        same
    });
    duplicates
}

/// One line for each group, for the descriptor: everything that places bytes in a slot.
pub(crate) fn render_geometry(geometry: &NamespaceGeometry) -> String {
    let lines = geometry.groups.iter().map(|group| {
        let kind = match group.kind {
            kvstore_types::AttentionKind::Full => "full".to_owned(),
            kvstore_types::AttentionKind::SlidingWindow { window_tokens } => {
                format!("window={window_tokens}")
            }
        };
        let ranks: Vec<String> = group.rank_bytes.iter().map(u64::to_string).collect();
        format!(
            "{kind} tokens={} ranks={} slot={}\n",
            group.tokens_per_block,
            ranks.join(","),
            group.slot_bytes
        )
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ward(waits: &[Waiter], blocks: &[u32]) -> Ward {
        let blocks = blocks.iter().map(|&block| BlockIndex(block)).collect();
        Ward {
            waits: waits.to_vec(),
            blocks,
            since: Instant::now(),
        }
    }

    const WORKER: Waiter = Waiter::Session(SessionId(1));
    const PROCESS: Waiter = Waiter::Process(ProcessId(9));

    #[test]
    fn a_ward_ends_with_the_last_process_it_waits_for() {
        let mut group = EngineGroup::default();
        assert_eq!(group.add_ward(ward(&[WORKER, PROCESS], &[1, 2])), []);
        assert_eq!(group.resolve(PROCESS, None), []);
        let hung_up = Waiter::Process(ProcessId(7));
        assert_eq!(group.resolve(WORKER, Some(hung_up)), []);
        assert_eq!(group.resolve(hung_up, None), [BlockIndex(1), BlockIndex(2)]);
        assert!(group.is_over());
    }

    #[test]
    fn wards_that_wait_for_the_same_processes_become_one() {
        let mut group = EngineGroup::default();
        assert_eq!(group.add_ward(ward(&[WORKER], &[1, 2])), []);
        assert_eq!(group.add_ward(ward(&[WORKER], &[2, 3])), [BlockIndex(2)]);
        assert_eq!(group.wards.len(), 1);
        assert_eq!(group.resolve(WORKER, None).len(), 3);
    }

    #[test]
    fn the_number_of_wards_is_bounded() {
        let mut group = EngineGroup::default();
        for process in 0..1000 {
            let number = u32::try_from(process).unwrap();
            assert_eq!(
                group.add_ward(ward(&[Waiter::Process(ProcessId(process))], &[number])),
                []
            );
        }
        assert_eq!(group.wards.len(), WARDS_MAX);
        let freed: usize = (0..1000)
            .map(|process| group.resolve(Waiter::Process(ProcessId(process)), None).len())
            .sum();
        assert_eq!(freed, 1000);
    }
}
