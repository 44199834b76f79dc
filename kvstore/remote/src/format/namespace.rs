//! `v1/<namespace>/namespace`: what a namespace stands for, and what its blocks look like.
//!
//! ```text
//! 0       8         12                 16       20      24
//! | magic | version | descriptor bytes | groups | ranks | descriptor | group* | checksum |
//! group = | kind (u32) | window tokens (u32) | tokens per block (u32) | zero (u32) | slot bytes (u64)
//!         | rank bytes (u64) for each rank |
//! ```
//!
//! Slot bytes follow from the rest. They are kept and compared, so that blocks are lost, not misread, should that
//! arithmetic ever change.

use kvstore_types::{
    AttentionKind, DescriptorError, GroupGeometry, GroupLayout, NamespaceDescriptor, NamespaceGeometry,
};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::FORMAT_VERSION;
use super::layout::{read_prefix, seal, strip_checksum};

const MAGIC: [u8; 8] = *b"KVTRNAME";

/// Why an object does not say what a namespace stands for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NamespaceError {
    /// It does not begin as such an object does.
    #[error("it is not a kvtier namespace")]
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

const SHORT: NamespaceError = NamespaceError::Malformed("it is too short");

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

const _: () = assert!(size_of::<Fixed>() == 24);
const _: () = assert!(size_of::<GroupFixed>() == 24);

/// The object's bytes.
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
        for &rank_bytes in &group.rank_bytes {
            bytes.extend_from_slice(&rank_bytes.to_le_bytes());
        }
    }
    seal(bytes)
}

/// Reads an object back.
pub(crate) fn decode_namespace(
    bytes: &[u8],
) -> Result<(NamespaceDescriptor, NamespaceGeometry), NamespaceError> {
    let fixed: Fixed = read_prefix(bytes).ok_or(NamespaceError::Magic)?;
    if fixed.magic != MAGIC {
        return Err(NamespaceError::Magic);
    }
    let found = fixed.version.get();
    if found != FORMAT_VERSION {
        return Err(NamespaceError::Version { found });
    }
    let covered = strip_checksum(bytes).ok_or(NamespaceError::Checksum)?;
    let rest = covered.get(size_of::<Fixed>()..).ok_or(SHORT)?;
    let (descriptor, rest) = rest
        .split_at_checked(fixed.descriptor_bytes.get() as usize)
        .ok_or(SHORT)?;
    let descriptor = NamespaceDescriptor::decode(descriptor)?;
    let geometry = decode_geometry(&fixed, rest)?;
    Ok((descriptor, geometry))
}

fn decode_geometry(fixed: &Fixed, mut rest: &[u8]) -> Result<NamespaceGeometry, NamespaceError> {
    let (group_count, rank_count) = (fixed.group_count.get() as usize, fixed.rank_count.get() as usize);
    if group_count > NamespaceGeometry::GROUPS_MAX || rank_count > NamespaceGeometry::RANKS_MAX {
        return Err(NamespaceError::Malformed("too many groups or ranks"));
    }
    let mut ranks = vec![Vec::with_capacity(group_count); rank_count];
    let mut stored = Vec::with_capacity(group_count);
    for _ in 0..group_count {
        let (group, after) = GroupFixed::read_from_prefix(rest).map_err(|_| SHORT)?;
        let (bytes, after) = <[U64]>::ref_from_prefix_with_elems(after, rank_count).map_err(|_| SHORT)?;
        for (rank, bytes) in ranks.iter_mut().zip(bytes) {
            rank.push(rank_geometry(&group, bytes.get())?);
        }
        stored.push(group);
        rest = after;
    }
    if !rest.is_empty() {
        return Err(NamespaceError::Malformed("it is too long"));
    }
    let ranks: Vec<&[GroupGeometry]> = ranks.iter().map(Vec::as_slice).collect();
    let geometry = NamespaceGeometry::compose(&ranks).map_err(|_| NamespaceError::Geometry)?;
    if geometry.groups.iter().map(group_fixed).ne(stored) {
        return Err(NamespaceError::Geometry);
    }
    Ok(geometry)
}

fn rank_geometry(group: &GroupFixed, rank_bytes: u64) -> Result<GroupGeometry, NamespaceError> {
    let kind = match group.kind.get() {
        0 => AttentionKind::Full,
        1 => AttentionKind::SlidingWindow {
            window_tokens: group.window_tokens.get(),
        },
        _ => return Err(NamespaceError::Malformed("unknown kind of attention")),
    };
    Ok(GroupGeometry {
        kind,
        tokens_per_block: group.tokens_per_block.get(),
        rank_bytes,
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
