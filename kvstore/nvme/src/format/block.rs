//! The header page of a block: what is behind it, proven by a MAC.
//!
//! ```text
//! 0       8       12          16      32            40         48    52    56            64
//! | magic | version | descriptor | tier id | segment, page | generation | pages | group | payload bytes |
//! 64          80     112        128      224   256
//! | namespace | hash | checksum | zeroes | MAC | descriptor ... zeroes to the end of the page |
//! ```

use std::mem::offset_of;

use kvstore_types::{
    BlockHash, BlockKey, Corruption, Extent, GroupIndex, NamespaceId, SegmentGeneration, SegmentRef,
};
use zerocopy::little_endian::{U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::layout::{equal, is_zero, mac, read_prefix, write_prefix};
use super::{FORMAT_VERSION, PAGE, TierKey};
use crate::DESCRIPTOR_BYTES_MAX;

const MAGIC: [u8; 8] = *b"KVTBLOCK";
const FIXED_BYTES: usize = 256;
const MAC_AT: usize = 224;

/// What a block's header page says, but for the descriptor, which stays in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    /// The block.
    pub(crate) key: BlockKey,
    /// Where it was written, this page included.
    pub(crate) extent: Extent,
    /// Bytes of payload behind this page.
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
    /// The header names another directory.
    #[error("another tier's header: of tier {}, want {}", super::hex(.found), super::hex(.expected))]
    Foreign {
        /// That directory's id.
        found: [u8; 16],
        /// This directory's id.
        expected: [u8; 16],
    },
    /// A length in it leads out of the page.
    #[error("descriptor of {found} bytes, want at most {DESCRIPTOR_BYTES_MAX}")]
    Descriptor {
        /// The length.
        found: u32,
    },
    /// It was changed after it was made, or somebody else made it.
    #[error("wrong header MAC or checksum")]
    Mac,
    /// It is genuine and makes no sense all the same, or its padding is not zero.
    #[error("malformed header: {0}")]
    Malformed(&'static str),
}

impl HeaderError {
    /// The header names another directory than this key's.
    pub(super) fn foreign(found: [u8; 16], key: &TierKey) -> Self {
        Self::Foreign {
            found,
            expected: key.id,
        }
    }

    /// How a read that found this ends.
    pub(crate) fn corruption(self) -> Corruption {
        match self {
            Self::Foreign { .. } => Corruption::Foreign,
            _ => Corruption::Header,
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fixed {
    magic: [u8; 8],
    version: U32,
    descriptor_bytes: U32,
    tier: [u8; 16],
    segment_index: U32,
    page: U32,
    generation: U64,
    pages: U32,
    group: u8,
    zero_group: [u8; 3],
    payload_bytes: U64,
    namespace: [u8; 16],
    hash: [u8; 32],
    checksum: U128,
    zero: [u8; 96],
    mac: [u8; 32],
}

const _: () = assert!(size_of::<Fixed>() == FIXED_BYTES);
const _: () = assert!(FIXED_BYTES + DESCRIPTOR_BYTES_MAX == PAGE);
const _: () = assert!(offset_of!(Fixed, version) == 8);
const _: () = assert!(offset_of!(Fixed, tier) == 16);
const _: () = assert!(offset_of!(Fixed, generation) == 40);
const _: () = assert!(offset_of!(Fixed, payload_bytes) == 56);
const _: () = assert!(offset_of!(Fixed, checksum) == 112);
const _: () = assert!(offset_of!(Fixed, mac) == MAC_AT);

impl BlockHeader {
    /// Bytes of payload that an extent has room for.
    pub(crate) fn payload_bytes_of(extent: &Extent) -> u64 {
        u64::from(extent.pages.saturating_sub(1)) * PAGE as u64
    }

    /// Fills the whole page.
    ///
    /// # Panics
    /// When the descriptor is longer than [`DESCRIPTOR_BYTES_MAX`]: the caller has refused such a block before.
    pub(crate) fn encode(&self, key: &TierKey, descriptor: &[u8], page: &mut [u8; PAGE]) {
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
            tier: key.id,
            segment_index: U32::new(self.extent.segment.index),
            page: U32::new(self.extent.page),
            generation: U64::new(self.extent.segment.generation.0),
            pages: U32::new(self.extent.pages),
            group: self.key.group.0,
            zero_group: [0; 3],
            payload_bytes: U64::new(self.payload_bytes),
            namespace: self.key.namespace.0,
            hash: self.key.hash.0,
            checksum: U128::new(self.checksum),
            zero: [0; 96],
            mac: [0; 32],
        };
        page.fill(0);
        write_prefix(&fixed, page);
        page[FIXED_BYTES..][..descriptor.len()].copy_from_slice(descriptor);
        let mac = mac(key, [&page[..MAC_AT], descriptor]);
        page[MAC_AT..FIXED_BYTES].copy_from_slice(&mac);
    }

    /// Checks a page, which must be private memory, and gives the header and the descriptor in it.
    pub(crate) fn decode<'p>(key: &TierKey, page: &'p [u8; PAGE]) -> Result<(Self, &'p [u8]), HeaderError> {
        let fixed: Fixed = read_prefix(page).ok_or(HeaderError::Magic)?;
        check_beginning(&fixed, key)?;
        let found = fixed.descriptor_bytes.get();
        let end = FIXED_BYTES.saturating_add(found as usize);
        let descriptor = page
            .get(FIXED_BYTES..end)
            .ok_or(HeaderError::Descriptor { found })?;
        if !equal(&mac(key, [&page[..MAC_AT], descriptor]), &fixed.mac) {
            return Err(HeaderError::Mac);
        }
        if !is_zero(&page[end..]) || !is_zero(&fixed.zero) || !is_zero(&fixed.zero_group) {
            return Err(HeaderError::Malformed("padding is not zero"));
        }
        let header = fixed.header();
        header.check_sizes()?;
        Ok((header, descriptor))
    }

    fn check_sizes(&self) -> Result<(), HeaderError> {
        let malformed = |what| Err(HeaderError::Malformed(what));
        if self.extent.page == 0 {
            return malformed("it claims the segment's first page");
        }
        if self.extent.page.checked_add(self.extent.pages).is_none() {
            return malformed("its pages end beyond any segment");
        }
        let payload_pages = self.payload_bytes.div_ceil(PAGE as u64);
        if payload_pages == 0 || payload_pages + 1 != u64::from(self.extent.pages) {
            return malformed("payload bytes and pages do not agree");
        }
        Ok(())
    }
}

/// Everything that is compared before the MAC: what tells an unknown version or another directory from damage.
fn check_beginning(fixed: &Fixed, key: &TierKey) -> Result<(), HeaderError> {
    if fixed.magic != MAGIC {
        return Err(HeaderError::Magic);
    }
    let found = fixed.version.get();
    if found != FORMAT_VERSION {
        return Err(HeaderError::Version { found });
    }
    if fixed.tier != key.id {
        return Err(HeaderError::foreign(fixed.tier, key));
    }
    Ok(())
}

impl Fixed {
    fn header(&self) -> BlockHeader {
        BlockHeader {
            key: BlockKey {
                namespace: NamespaceId(self.namespace),
                group: GroupIndex(self.group),
                hash: BlockHash(self.hash),
            },
            extent: Extent {
                segment: SegmentRef {
                    index: self.segment_index.get(),
                    generation: SegmentGeneration(self.generation.get()),
                },
                page: self.page.get(),
                pages: self.pages.get(),
            },
            payload_bytes: self.payload_bytes.get(),
            checksum: self.checksum.get(),
        }
    }
}
