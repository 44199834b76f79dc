//! What the blocks of a namespace look like: groups, ranks and the bytes of a slot.
//!
//! A block's payload is one row that holds the parts of **all local ranks**, each at a fixed offset:
//!
//! ```text
//! slot   |<---- rank 0 ---->|pad|<---- rank 1 ---->|pad| ... |pad to a page|
//! offset  0                  rank_offset(1)             ...   slot_bytes
//! ```
//!
//! So one seal publishes all ranks together, and "one rank hits, another misses" cannot happen.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{PAGE_BYTES, Rank};

/// Each rank's part of a slot begins at a multiple of this many bytes (a cache line).
pub const RANK_ALIGN_BYTES: u64 = 64;

/// How a group of layers attends to its prefix, which decides what blocks a hit needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttentionKind {
    /// Every token attends to every earlier one (full attention, MLA): a hit needs all blocks from the start.
    Full,
    /// A token attends to the last `window_tokens` tokens, itself included: a hit of `n` tokens needs only the
    /// blocks that hold the `window_tokens - 1` tokens before position `n`.
    SlidingWindow {
        /// Length of the window in tokens, at least 1.
        window_tokens: u32,
    },
}

/// One KV cache group of an engine, as one session knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupGeometry {
    /// How its layers attend.
    pub kind: AttentionKind,
    /// Tokens covered by one block of ours (the engine's block size × blocks per chunk), at least 1.
    pub tokens_per_block: u32,
    /// Bytes of one rank's part of one block. What a worker says of itself; 0 in a scheduler's own view.
    pub rank_bytes: u64,
}

impl fmt::Display for GroupGeometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            AttentionKind::Full => f.write_str("full attention")?,
            AttentionKind::SlidingWindow { window_tokens } => {
                write!(f, "a sliding window of {window_tokens} tokens")?;
            }
        }
        write!(f, ", {} tokens a block", self.tokens_per_block)
    }
}

/// A run of consecutive blocks of one group, counted in blocks from the start of the sequence.
///
/// Shared with clients as three little-endian `u32` in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GroupSpan {
    /// Index of the group.
    pub group: u32,
    /// First block.
    pub first: u32,
    /// Number of blocks.
    pub count: u32,
}

/// The bytes of one group's slots.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupLayout {
    /// How its layers attend.
    pub kind: AttentionKind,
    /// Tokens covered by one block.
    pub tokens_per_block: u32,
    /// Where each rank's part begins, in bytes from the start of the slot.
    pub rank_offsets: Vec<u64>,
    /// Bytes of each rank's part.
    pub rank_bytes: Vec<u64>,
    /// Bytes of a slot: all parts, padded to a whole number of pages.
    pub slot_bytes: u64,
}

/// The shape of all blocks of a namespace, composed from what each rank says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamespaceGeometry {
    /// One layout for each group, in the engine's order.
    pub groups: Vec<GroupLayout>,
}

/// Why ranks do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// The namespace has no ranks or no groups, or more than can be named.
    #[error("want 1 to {max} {what}, got {actual}")]
    Count {
        /// "ranks" or "groups".
        what: &'static str,
        /// How many there may be.
        max: usize,
        /// How many there are.
        actual: usize,
    },
    /// A rank disagrees with rank 0 about a group.
    #[error("{rank} describes group {group} as {actual}, rank 0 as {expected}")]
    Disagreement {
        /// The rank that differs.
        rank: Rank,
        /// The group it differs in.
        group: usize,
        /// What rank 0 said.
        expected: GroupGeometry,
        /// What this rank said.
        actual: GroupGeometry,
    },
    /// A number that must be at least 1 is 0, or the slot would be larger than can be addressed.
    #[error("group {group}: {what} is {actual}, want 1 to {max}")]
    Range {
        /// The group.
        group: usize,
        /// What is out of range.
        what: &'static str,
        /// The value.
        actual: u64,
        /// The largest value allowed.
        max: u64,
    },
}

impl NamespaceGeometry {
    /// Most ranks one engine may have on a node.
    pub const RANKS_MAX: usize = 64;
    /// Most groups an engine may have.
    pub const GROUPS_MAX: usize = 64;
    /// Largest part of one rank, in bytes.
    pub const RANK_BYTES_MAX: u64 = 1 << 34;

    /// Composes the geometry from the groups each rank reports, rank 0 first. Ranks may differ in `rank_bytes`
    /// (pipeline stages hold different layers) and in nothing else.
    pub fn compose(ranks: &[&[GroupGeometry]]) -> Result<Self, GeometryError> {
        check_count("ranks", ranks.len(), Self::RANKS_MAX)?;
        let first = ranks[0];
        check_count("groups", first.len(), Self::GROUPS_MAX)?;
        for (index, rank) in ranks.iter().enumerate() {
            check_count("groups", rank.len(), Self::GROUPS_MAX)?;
            check_agreement(index, first, rank)?;
        }
        let groups = (0..first.len())
            .map(|group| compose_group(group, first[group], ranks))
            .collect::<Result<_, _>>()?;
        Ok(Self { groups })
    }
}

fn check_count(what: &'static str, actual: usize, max: usize) -> Result<(), GeometryError> {
    if actual == 0 || actual > max {
        return Err(GeometryError::Count { what, max, actual });
    }
    Ok(())
}

fn check_agreement(
    index: usize,
    first: &[GroupGeometry],
    rank: &[GroupGeometry],
) -> Result<(), GeometryError> {
    if rank.len() != first.len() {
        return Err(GeometryError::Count {
            what: "groups",
            max: first.len(),
            actual: rank.len(),
        });
    }
    for (group, (&expected, &actual)) in first.iter().zip(rank).enumerate() {
        if (expected.kind, expected.tokens_per_block) != (actual.kind, actual.tokens_per_block) {
            let rank = Rank(u16::try_from(index).unwrap_or(u16::MAX));
            return Err(GeometryError::Disagreement {
                rank,
                group,
                expected,
                actual,
            });
        }
    }
    Ok(())
}

fn compose_group(
    group: usize,
    spec: GroupGeometry,
    ranks: &[&[GroupGeometry]],
) -> Result<GroupLayout, GeometryError> {
    let in_range = |what, actual, max| {
        if actual == 0 || actual > max {
            return Err(GeometryError::Range {
                group,
                what,
                actual,
                max,
            });
        }
        Ok(())
    };
    in_range(
        "tokens per block",
        u64::from(spec.tokens_per_block),
        u64::from(u32::MAX),
    )?;
    if let AttentionKind::SlidingWindow { window_tokens } = spec.kind {
        in_range("window tokens", u64::from(window_tokens), u64::from(u32::MAX))?;
    }
    let (mut rank_offsets, mut rank_bytes, mut end) = (Vec::new(), Vec::new(), 0_u64);
    for rank in ranks {
        let bytes = rank[group].rank_bytes;
        in_range("rank bytes", bytes, NamespaceGeometry::RANK_BYTES_MAX)?;
        rank_offsets.push(end);
        rank_bytes.push(bytes);
        end += bytes.next_multiple_of(RANK_ALIGN_BYTES);
    }
    let slot_bytes = end.next_multiple_of(PAGE_BYTES);
    Ok(GroupLayout {
        kind: spec.kind,
        tokens_per_block: spec.tokens_per_block,
        rank_offsets,
        rank_bytes,
        slot_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(rank_bytes: u64) -> GroupGeometry {
        GroupGeometry {
            kind: AttentionKind::Full,
            tokens_per_block: 16,
            rank_bytes,
        }
    }

    #[test]
    fn ranks_lie_behind_each_other_and_slots_end_on_a_page() {
        let geometry = NamespaceGeometry::compose(&[&[full(100)], &[full(4096)]]).unwrap();
        let group = &geometry.groups[0];
        assert_eq!(group.rank_offsets, [0, 128]);
        assert_eq!(group.slot_bytes, 8192);
    }

    #[test]
    fn what_does_not_fit_together_is_refused_and_named() {
        let other = GroupGeometry {
            tokens_per_block: 32,
            ..full(64)
        };
        let cases: [(&[&[GroupGeometry]], &str); 5] = [
            (&[], "want 1 to 64 ranks, got 0"),
            (&[&[]], "want 1 to 64 groups, got 0"),
            (&[&[full(64)], &[full(64), full(64)]], "want 1 to 1 groups, got 2"),
            (
                &[&[full(64)], &[other]],
                "rank 1 describes group 0 as full attention, 32 tokens a block, rank 0 as full attention, 16 tokens a block",
            ),
            (&[&[full(0)]], "group 0: rank bytes is 0"),
        ];
        for (ranks, expected) in cases {
            let error = NamespaceGeometry::compose(ranks).unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} should contain {expected:?}");
        }
    }
}
