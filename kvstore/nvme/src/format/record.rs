//! Keys and values of the catalogue.
//!
//! ```text
//! blocks    key   segment index (u32, big-endian) ‖ page (u32, big-endian)      so that order is order of place
//!           value | version (u8) | group (u8) | descriptor bytes (u16) | pages (u32) | generation (u64)
//!                 | namespace (16) | hash (32) | descriptor |
//! segments  key   segment index (u32, big-endian)
//!           value | version (u8) | full (u8) | zeroes (2) | tail (u32) | generation (u64) |
//! ```
//!
//! RocksDB has its own checksums, and every record is only a hint: nothing here is protected again.

use kvstore_types::{BlockHash, BlockKey, GroupIndex, NamespaceId, SegmentGeneration};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::layout::read_prefix;
use crate::DESCRIPTOR_BYTES_MAX;

const VERSION: u8 = 1;
const BLOCK_FIXED_BYTES: usize = 64;

/// The catalogue's key of the block at this place.
pub(crate) fn place_key(segment_index: u32, page: u32) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&segment_index.to_be_bytes());
    key[4..].copy_from_slice(&page.to_be_bytes());
    key
}

/// Segment index and page of a key made by [`place_key`]; none if it is not one.
pub(crate) fn split_place_key(key: &[u8]) -> Option<(u32, u32)> {
    let (index, page) = key.split_first_chunk::<4>()?;
    let page = page.try_into().ok()?;
    Some((u32::from_be_bytes(*index), u32::from_be_bytes(page)))
}

/// The catalogue's key of a segment.
pub(crate) fn segment_key(segment_index: u32) -> [u8; 4] {
    segment_index.to_be_bytes()
}

/// Why a value of the catalogue cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    /// Another version's.
    #[error("record of version {found}, want {VERSION}")]
    Version {
        /// The version.
        found: u8,
    },
    /// Too short, too long, or nonsense.
    #[error("malformed record: {0}")]
    Malformed(&'static str),
}

/// What the catalogue knows of the block at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockRecord<'d> {
    /// The block.
    pub(crate) key: BlockKey,
    /// Its pages, header included.
    pub(crate) pages: u32,
    /// The use of the segment it was written in.
    pub(crate) generation: SegmentGeneration,
    /// Its descriptor.
    pub(crate) descriptor: &'d [u8],
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct BlockFixed {
    version: u8,
    group: u8,
    descriptor_bytes: U16,
    pages: U32,
    generation: U64,
    namespace: [u8; 16],
    hash: [u8; 32],
}

const _: () = assert!(size_of::<BlockFixed>() == BLOCK_FIXED_BYTES);

impl<'d> BlockRecord<'d> {
    /// The value's bytes.
    ///
    /// # Panics
    /// When the descriptor is longer than [`DESCRIPTOR_BYTES_MAX`]: such a block was never written.
    pub(crate) fn encode(&self) -> Vec<u8> {
        assert!(
            self.descriptor.len() <= DESCRIPTOR_BYTES_MAX,
            "a descriptor fits in its page"
        );
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most DESCRIPTOR_BYTES_MAX, see above"
        )]
        let descriptor_bytes = self.descriptor.len() as u16;
        let fixed = BlockFixed {
            version: VERSION,
            group: self.key.group.0,
            descriptor_bytes: U16::new(descriptor_bytes),
            pages: U32::new(self.pages),
            generation: U64::new(self.generation.0),
            namespace: self.key.namespace.0,
            hash: self.key.hash.0,
        };
        [fixed.as_bytes(), self.descriptor].concat()
    }

    /// Reads a value back.
    pub(crate) fn decode(bytes: &'d [u8]) -> Result<Self, RecordError> {
        check_version(bytes)?;
        let fixed: BlockFixed = read_prefix(bytes).ok_or(RecordError::Malformed("it is too short"))?;
        let descriptor = &bytes[BLOCK_FIXED_BYTES..];
        if descriptor.len() != usize::from(fixed.descriptor_bytes.get())
            || descriptor.len() > DESCRIPTOR_BYTES_MAX
        {
            return Err(RecordError::Malformed("wrong length of the descriptor"));
        }
        if fixed.pages.get() < 2 || fixed.generation.get() == 0 {
            return Err(RecordError::Malformed(
                "want 2 pages or more and generation 1 or more",
            ));
        }
        Ok(Self {
            key: BlockKey {
                namespace: NamespaceId(fixed.namespace),
                group: GroupIndex(fixed.group),
                hash: BlockHash(fixed.hash),
            },
            pages: fixed.pages.get(),
            generation: SegmentGeneration(fixed.generation.get()),
            descriptor,
        })
    }
}

/// What the catalogue knows of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentRecord {
    /// Its use that the catalogue's blocks belong to.
    pub(crate) generation: SegmentGeneration,
    /// The first page behind its last block, once nothing more will be written to this use and all of it is known.
    pub(crate) full_tail: Option<u32>,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SegmentFixed {
    version: u8,
    full: u8,
    zero: [u8; 2],
    tail: U32,
    generation: U64,
}

const _: () = assert!(size_of::<SegmentFixed>() == 16);

impl SegmentRecord {
    /// The value's bytes.
    pub(crate) fn encode(&self) -> [u8; 16] {
        let fixed = SegmentFixed {
            version: VERSION,
            full: u8::from(self.full_tail.is_some()),
            zero: [0; 2],
            tail: U32::new(self.full_tail.unwrap_or(0)),
            generation: U64::new(self.generation.0),
        };
        zerocopy::transmute!(fixed)
    }

    /// Reads a value back.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        check_version(bytes)?;
        let fixed =
            SegmentFixed::read_from_bytes(bytes).map_err(|_| RecordError::Malformed("want 16 bytes"))?;
        let full_tail = match (fixed.full, fixed.tail.get()) {
            (0, 0) => None,
            (1, tail) if tail > 0 => Some(tail),
            _ => return Err(RecordError::Malformed("full and tail do not agree")),
        };
        if fixed.zero != [0; 2] {
            return Err(RecordError::Malformed("padding is not zero"));
        }
        Ok(Self {
            generation: SegmentGeneration(fixed.generation.get()),
            full_tail,
        })
    }
}

fn check_version(bytes: &[u8]) -> Result<(), RecordError> {
    match bytes.first() {
        Some(&VERSION) => Ok(()),
        Some(&found) => Err(RecordError::Version { found }),
        None => Err(RecordError::Malformed("it is empty")),
    }
}
