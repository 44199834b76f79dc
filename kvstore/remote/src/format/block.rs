//! The first page of a block's object: what is behind it.
//!
//! ```text
//! 0       8         12                 16          32      33   40              48     80         96
//! | magic | version | descriptor bytes | namespace | group | 0  | payload bytes | hash | checksum | zeroes
//! 240               256
//! | header checksum | descriptor ... zeroes to the end of the page |
//! ```

use std::mem::offset_of;

use kvstore_types::{BlockHash, BlockKey, Corruption, GroupIndex, NamespaceId};
use xxhash_rust::xxh3::Xxh3;
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::layout::{is_zero, read_prefix};
use super::{FORMAT_VERSION, PAGE};
use crate::DESCRIPTOR_BYTES_MAX;

const MAGIC: [u8; 8] = *b"KVTROBJ\0";
const FIXED_BYTES: usize = 256;
const SUM_AT: usize = 240;

/// What the first page says, but for the descriptor, which stays in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    /// The block.
    pub(crate) key: BlockKey,
    /// Bytes behind this page: whole pages, at least one.
    pub(crate) payload_bytes: u64,
    /// XXH3-128 of the payload.
    pub(crate) checksum: u128,
}

/// Why a page is not a header that may be believed. Nothing that it says is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// The page does not begin as a header does.
    #[error("no header: wrong magic")]
    Magic,
    /// Another version's header.
    #[error("header of format version {found}, want {FORMAT_VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// A length in it leads out of the page.
    #[error("descriptor of {found} bytes, want at most {DESCRIPTOR_BYTES_MAX}")]
    Descriptor {
        /// The length.
        found: u32,
    },
    /// It was changed after it was made.
    #[error("wrong header checksum")]
    Checksum,
    /// It is whole and makes no sense all the same, or its padding is not zero.
    #[error("malformed header: {0}")]
    Malformed(&'static str),
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fixed {
    magic: [u8; 8],
    version: U32,
    descriptor_bytes: U32,
    namespace: [u8; 16],
    group: u8,
    zero_group: [u8; 7],
    payload_bytes: U64,
    hash: [u8; 32],
    checksum: U128,
    zero: [u8; 144],
    header_checksum: U128,
}

const _: () = assert!(size_of::<Fixed>() == FIXED_BYTES);
const _: () = assert!(FIXED_BYTES + DESCRIPTOR_BYTES_MAX == PAGE);
const _: () = assert!(offset_of!(Fixed, version) == 8);
const _: () = assert!(offset_of!(Fixed, group) == 32);
const _: () = assert!(offset_of!(Fixed, payload_bytes) == 40);
const _: () = assert!(offset_of!(Fixed, checksum) == 80);
const _: () = assert!(offset_of!(Fixed, header_checksum) == SUM_AT);

impl BlockHeader {
    /// Fills the whole page.
    ///
    /// # Panics
    /// When the descriptor is longer than [`DESCRIPTOR_BYTES_MAX`]: the caller has refused such a block before.
    pub(crate) fn encode(&self, descriptor: &[u8], page: &mut [u8; PAGE]) {
        assert!(
            descriptor.len() <= DESCRIPTOR_BYTES_MAX,
            "a descriptor fits in its page"
        );
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most DESCRIPTOR_BYTES_MAX, see above"
        )]
        let descriptor_bytes = descriptor.len() as u32;
        let fixed = Fixed {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            descriptor_bytes: U32::new(descriptor_bytes),
            namespace: self.key.namespace.0,
            group: self.key.group.0,
            zero_group: [0; 7],
            payload_bytes: U64::new(self.payload_bytes),
            hash: self.key.hash.0,
            checksum: U128::new(self.checksum),
            zero: [0; 144],
            header_checksum: U128::ZERO,
        };
        page.fill(0);
        page[..FIXED_BYTES].copy_from_slice(fixed.as_bytes());
        page[FIXED_BYTES..][..descriptor.len()].copy_from_slice(descriptor);
        let sum = header_checksum(page);
        page[SUM_AT..FIXED_BYTES].copy_from_slice(&sum.to_le_bytes());
    }

    /// Checks a page and gives the header and the descriptor in it.
    pub(crate) fn decode(page: &[u8; PAGE]) -> Result<(Self, &[u8]), HeaderError> {
        let fixed: Fixed = read_prefix(page).ok_or(HeaderError::Magic)?;
        if fixed.magic != MAGIC {
            return Err(HeaderError::Magic);
        }
        let found = fixed.version.get();
        if found != FORMAT_VERSION {
            return Err(HeaderError::Version { found });
        }
        let found = fixed.descriptor_bytes.get();
        let end = FIXED_BYTES.saturating_add(found as usize);
        let descriptor = page
            .get(FIXED_BYTES..end)
            .ok_or(HeaderError::Descriptor { found })?;
        if header_checksum(page) != fixed.header_checksum.get() {
            return Err(HeaderError::Checksum);
        }
        if !is_zero(&page[end..]) || !is_zero(&fixed.zero) || !is_zero(&fixed.zero_group) {
            return Err(HeaderError::Malformed("padding is not zero"));
        }
        let header = Self {
            key: BlockKey {
                namespace: NamespaceId(fixed.namespace),
                group: GroupIndex(fixed.group),
                hash: BlockHash(fixed.hash),
            },
            payload_bytes: fixed.payload_bytes.get(),
            checksum: fixed.checksum.get(),
        };
        if header.payload_bytes == 0 || !header.payload_bytes.is_multiple_of(PAGE as u64) {
            return Err(HeaderError::Malformed("the payload is not whole pages"));
        }
        Ok((header, descriptor))
    }

    /// Compares what was asked for with what a good header says. The payload is compared by who has it.
    pub(crate) fn check(&self, key: &BlockKey, payload_bytes: u64) -> Result<(), Corruption> {
        if self.key != *key {
            return Err(Corruption::Key);
        }
        if self.payload_bytes != payload_bytes {
            return Err(Corruption::Payload);
        }
        Ok(())
    }
}

/// XXH3-128 of the page without the place of the sum itself.
fn header_checksum(page: &[u8; PAGE]) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&page[..SUM_AT]);
    hasher.update(&page[FIXED_BYTES..]);
    hasher.digest128()
}
