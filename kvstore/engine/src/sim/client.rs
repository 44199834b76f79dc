//! A simulated engine: a scheduler, some workers, what they remember, and what their processes are doing.

use std::collections::BTreeMap;

use kvstore_types::{
    AttentionKind, BlockHash, EngineGroupId, Field, GroupGeometry, GroupLayout, GroupSpan, NamespaceId,
    PAGE_BYTES, ProcessId, Rank, SessionId, SlotRef, Tag,
};

use super::random::digest_all;
use crate::event::{Role, SessionProfile};

/// One member: a process and its session, if it has one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) role: Role,
    pub(super) process: ProcessId,
    /// The session as the client knows it.
    pub(super) session: Option<SessionId>,
}

/// What a worker has done about its part of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The scheduler has told nobody.
    Untold,
    /// The copy may be under way.
    Told,
    /// The copy is done.
    Written,
    /// Sealed, aborted or given up.
    Finished,
}

/// A slot the client was granted to fill.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) slot: SlotRef,
    pub(super) group: u32,
    pub(super) hash: BlockHash,
    pub(super) identity: u64,
    pub(super) layout: GroupLayout,
    /// For each rank: who may write, and how far it is.
    pub(super) parts: Vec<(ProcessId, SessionId, Progress)>,
}

/// A look-up that is alive.
#[derive(Clone, Debug)]
pub(super) struct LookUp {
    pub(super) spans: Vec<GroupSpan>,
    pub(super) keys: Vec<Vec<BlockHash>>,
    /// Where each held block lay when it was looked up.
    pub(super) slots: BTreeMap<(u32, u32), SlotRef>,
}

/// A block being loaded.
#[derive(Clone, Debug)]
pub(super) struct Loading {
    pub(super) slot: SlotRef,
    pub(super) group: u32,
    pub(super) hash: BlockHash,
}

/// One simulated engine.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: EngineGroupId,
    pub(super) model: u8,
    pub(super) geometry: usize,
    pub(super) members: Vec<Member>,
    /// What its weights are; part of the content it writes.
    pub(super) weights: u64,
    pub(super) namespace: Option<(NamespaceId, Vec<GroupLayout>)>,
    pub(super) tags: u64,
    pub(super) lookups: BTreeMap<Tag, LookUp>,
    pub(super) leases: BTreeMap<Tag, Vec<Loading>>,
    pub(super) tasks: Vec<Task>,
}

/// Groups of each kind of model: kind, tokens a block, pages of one rank's part.
const GEOMETRIES: [&[(AttentionKind, u32, u64)]; 4] = [
    &[(AttentionKind::Full, 4, 1)],
    &[
        (AttentionKind::Full, 4, 2),
        (AttentionKind::SlidingWindow { window_tokens: 9 }, 8, 1),
    ],
    &[
        (AttentionKind::SlidingWindow { window_tokens: 6 }, 4, 1),
        (AttentionKind::SlidingWindow { window_tokens: 13 }, 4, 3),
    ],
    &[(AttentionKind::Full, 8, 3)],
];

/// Kinds of models there are.
pub(super) const GEOMETRY_COUNT: usize = GEOMETRIES.len();

impl Client {
    /// What makes the bytes it writes its own: all that its namespace must tell apart.
    pub(super) fn identity(&self) -> u64 {
        digest_all(&[
            u64::from(self.model),
            self.geometry as u64,
            self.ranks() as u64,
            self.weights,
        ])
    }

    /// Its number of workers.
    pub(super) fn ranks(&self) -> usize {
        self.members.len() - 1
    }

    /// Tokens of a block of each group.
    pub(super) fn tokens_per_block(&self) -> impl Iterator<Item = u32> + use<> {
        GEOMETRIES[self.geometry].iter().map(|&(_, tokens, _)| tokens)
    }

    /// The scheduler's session.
    pub(super) fn scheduler(&self) -> Option<SessionId> {
        self.members[0].session
    }

    /// A new tag.
    pub(super) fn tag(&mut self) -> Tag {
        self.tags += 1;
        Tag(self.tags)
    }

    /// What a member says of itself.
    pub(super) fn profile(&self, role: Role) -> SessionProfile {
        let pages = |pages| {
            if role == Role::Scheduler {
                0
            } else {
                pages * PAGE_BYTES
            }
        };
        let groups = GEOMETRIES[self.geometry]
            .iter()
            .map(|&(kind, tokens_per_block, part_pages)| GroupGeometry {
                kind,
                tokens_per_block,
                rank_bytes: pages(part_pages),
            });
        let rank_fields = match role {
            Role::Worker(Rank(rank)) => vec![Field {
                tag: "tp.rank".into(),
                value: vec![rank.to_le_bytes()[0]],
            }],
            Role::Scheduler | Role::Observer => Vec::new(),
        };
        SessionProfile {
            engine_group: self.id,
            engine_name: "simulated".into(),
            role,
            rank_count: u16::try_from(self.ranks()).unwrap_or(0),
            fields: vec![Field {
                tag: "model.id".into(),
                value: vec![self.model],
            }],
            rank_fields,
            groups: groups.collect(),
            pod: String::new(),
            model: String::new(),
        }
    }

    /// Hashes of one chain of blocks, one list a group.
    pub(super) fn chain(&self, chain: usize, blocks: usize) -> Vec<Vec<BlockHash>> {
        let groups = 0..GEOMETRIES[self.geometry].len() as u64;
        let hashes = groups.map(|group| {
            (0..blocks as u64)
                .map(|block| hash(chain as u64, group, block))
                .collect()
        });
        hashes.collect()
    }
}

impl Task {
    /// The pages of one rank's part.
    pub(super) fn pages(&self, rank: usize) -> std::ops::Range<usize> {
        part_pages(&self.layout, self.slot, rank)
    }

    /// What one rank writes.
    pub(super) fn content(&self, rank: usize) -> u64 {
        content(self.identity, self.group, &self.hash, rank)
    }
}

/// The pages of one rank's part of a slot.
pub(super) fn part_pages(layout: &GroupLayout, slot: SlotRef, rank: usize) -> std::ops::Range<usize> {
    let page = |bytes: u64| usize::try_from(bytes / PAGE_BYTES).unwrap_or(0);
    let start = slot.page as usize + page(layout.rank_offsets[rank]);
    start..start + page(layout.rank_bytes[rank])
}

/// The only right bytes of a block's part.
pub(super) fn content(identity: u64, group: u32, hash: &BlockHash, rank: usize) -> u64 {
    digest_all(&[identity, u64::from(group), hash.words()[0], rank as u64])
}

fn hash(chain: u64, group: u64, block: u64) -> BlockHash {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&digest_all(&[chain, group, block]).to_le_bytes());
    bytes[8..16].copy_from_slice(&block.to_le_bytes());
    BlockHash(bytes)
}
