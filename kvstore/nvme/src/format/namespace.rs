//! `namespace-*.kvt`: what a namespace stands for, so that headers alone are enough to rebuild everything.
//!
//! ```text
//! 0       8         12                 16      20      24
//! | magic | version | descriptor bytes | groups | ranks | descriptor | group* | checksum |
//! group = | kind (u32) | window tokens (u32) | tokens per block (u32) | zero (u32) | slot bytes (u64)
//!         | rank offset (u64), rank bytes (u64) for each rank |
//! ```
//!
//! Offsets and slot bytes follow from the rest. They are kept and compared, so that blocks are lost, not misread, should
//! that arithmetic ever change.

use kvstore_types::{
    AttentionKind, DescriptorError, GroupGeometry, GroupLayout, NamespaceDescriptor, NamespaceGeometry,
};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::FORMAT_VERSION;
use super::layout::{CHECKSUM_BYTES, checksum, read_prefix};

const MAGIC: [u8; 8] = *b"KVTNAMES";

/// Why a namespace file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NamespaceFileError {
    /// It does not begin as such a file does.
    #[error("it is not a kvtier namespace file")]
    Magic,
    /// Another version's.
    #[error("format version {found}, want {FORMAT_VERSION}")]
    Version {
        /// The version.
        found: u32,
    },
    /// It was changed after it was made.
    #[error("wrong checksum")]
    Checksum,
    /// It has been cut off or makes no sense.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// Its descriptor is none.
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    /// Its geometry is not what its ranks make.
    #[error("its geometry does not follow from its ranks")]
    Geometry,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fixed {
    magic: [u8; 8],
    version: U32,
    descriptor_bytes: U32,
    group_count: U32,
    rank_count: U32,
}

#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct GroupFixed {
    kind: U32,
    window_tokens: U32,
    tokens_per_block: U32,
    zero: U32,
    slot_bytes: U64,
}

#[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RankFixed {
    offset: U64,
    bytes: U64,
}

const _: () = assert!(size_of::<Fixed>() == 24);
const _: () = assert!(size_of::<GroupFixed>() == 24);
const _: () = assert!(size_of::<RankFixed>() == 16);

/// The file's bytes.
pub(crate) fn encode_namespace(descriptor: &NamespaceDescriptor, geometry: &NamespaceGeometry) -> Vec<u8> {
    let descriptor = descriptor.encode();
    let ranks = geometry.groups.first().map_or(0, |group| group.rank_bytes.len());
    let fixed = Fixed {
        magic: MAGIC,
        version: U32::new(FORMAT_VERSION),
        descriptor_bytes: count(descriptor.len()),
        group_count: count(geometry.groups.len()),
        rank_count: count(ranks),
    };
    let mut bytes = [fixed.as_bytes(), &descriptor].concat();
    for group in &geometry.groups {
        bytes.extend_from_slice(group_fixed(group).as_bytes());
        for (&offset, &rank_bytes) in group.rank_offsets.iter().zip(&group.rank_bytes) {
            let rank = RankFixed {
                offset: U64::new(offset),
                bytes: U64::new(rank_bytes),
            };
            bytes.extend_from_slice(rank.as_bytes());
        }
    }
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

/// Reads a file back.
pub(crate) fn decode_namespace(
    bytes: &[u8],
) -> Result<(NamespaceDescriptor, NamespaceGeometry), NamespaceFileError> {
    let fixed = check_beginning(bytes)?;
    let malformed = NamespaceFileError::Malformed;
    let (covered, sum) = bytes
        .split_last_chunk::<CHECKSUM_BYTES>()
        .ok_or(malformed("it is too short"))?;
    if checksum(covered) != *sum {
        return Err(NamespaceFileError::Checksum);
    }
    let rest = covered
        .get(size_of::<Fixed>()..)
        .ok_or(malformed("it is too short"))?;
    let (descriptor, rest) = rest
        .split_at_checked(fixed.descriptor_bytes.get() as usize)
        .ok_or(malformed("it is too short"))?;
    let descriptor = NamespaceDescriptor::decode(descriptor)?;
    let geometry = decode_geometry(&fixed, rest)?;
    Ok((descriptor, geometry))
}

fn check_beginning(bytes: &[u8]) -> Result<Fixed, NamespaceFileError> {
    let fixed: Fixed = read_prefix(bytes).ok_or(NamespaceFileError::Magic)?;
    if fixed.magic != MAGIC {
        return Err(NamespaceFileError::Magic);
    }
    let found = fixed.version.get();
    if found != FORMAT_VERSION {
        return Err(NamespaceFileError::Version { found });
    }
    Ok(fixed)
}

fn decode_geometry(fixed: &Fixed, mut rest: &[u8]) -> Result<NamespaceGeometry, NamespaceFileError> {
    let malformed = NamespaceFileError::Malformed;
    let (group_count, rank_count) = (fixed.group_count.get() as usize, fixed.rank_count.get() as usize);
    if group_count > NamespaceGeometry::GROUPS_MAX || rank_count > NamespaceGeometry::RANKS_MAX {
        return Err(malformed("too many groups or ranks"));
    }
    let mut stored = Vec::with_capacity(group_count);
    for _ in 0..group_count {
        let (group, after) = GroupFixed::read_from_prefix(rest).map_err(|_| malformed("it is too short"))?;
        let (ranks, after) = <[RankFixed]>::ref_from_prefix_with_elems(after, rank_count)
            .map_err(|_| malformed("it is too short"))?;
        stored.push((group, ranks));
        rest = after;
    }
    if !rest.is_empty() {
        return Err(malformed("it is too long"));
    }
    let ranks: Vec<Vec<GroupGeometry>> = (0..rank_count)
        .map(|rank| {
            stored
                .iter()
                .map(|(group, ranks)| rank_geometry(group, ranks[rank]))
                .collect()
        })
        .collect::<Result<_, _>>()?;
    let ranks: Vec<&[GroupGeometry]> = ranks.iter().map(Vec::as_slice).collect();
    let geometry = NamespaceGeometry::compose(&ranks).map_err(|_| NamespaceFileError::Geometry)?;
    let same = geometry
        .groups
        .iter()
        .zip(&stored)
        .all(|(layout, (group, ranks))| {
            let offsets = layout.rank_offsets.iter().zip(*ranks);
            group_fixed(layout) == *group
                && offsets
                    .into_iter()
                    .all(|(&offset, rank)| offset == rank.offset.get())
        });
    if same {
        Ok(geometry)
    } else {
        Err(NamespaceFileError::Geometry)
    }
}

fn rank_geometry(group: &GroupFixed, rank: RankFixed) -> Result<GroupGeometry, NamespaceFileError> {
    let kind = match group.kind.get() {
        0 => AttentionKind::Full,
        1 => AttentionKind::SlidingWindow {
            window_tokens: group.window_tokens.get(),
        },
        _ => return Err(NamespaceFileError::Malformed("unknown kind of attention")),
    };
    Ok(GroupGeometry {
        kind,
        tokens_per_block: group.tokens_per_block.get(),
        rank_bytes: rank.bytes.get(),
    })
}

fn group_fixed(group: &GroupLayout) -> GroupFixed {
    let (kind, window_tokens) = match group.kind {
        AttentionKind::Full => (0, 0),
        AttentionKind::SlidingWindow { window_tokens } => (1, window_tokens),
    };
    GroupFixed {
        kind: U32::new(kind),
        window_tokens: U32::new(window_tokens),
        tokens_per_block: U32::new(group.tokens_per_block),
        zero: U32::ZERO,
        slot_bytes: U64::new(group.slot_bytes),
    }
}

/// A count that a descriptor or a geometry has bounded long before it comes here.
fn count(value: usize) -> U32 {
    U32::new(u32::try_from(value).unwrap_or(u32::MAX))
}
