//! The first page of a segment: whose it is, and which use of it what follows belongs to.
//!
//! ```text
//! 0       8         12      16        32           40      44      4064
//! | magic | version | index | tier id | generation | pages | zeroes | MAC |
//! ```

use std::mem::offset_of;

use kvstore_types::{SegmentGeneration, SegmentRef};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::block::HeaderError;
use super::layout::{equal, is_zero, mac, read_prefix, write_prefix};
use super::{FORMAT_VERSION, PAGE, TierKey};

const MAGIC: [u8; 8] = *b"KVTSEGMT";
const FIXED_BYTES: usize = 44;
const MAC_AT: usize = PAGE - 32;

/// What a segment's header page says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Its number, and its present use.
    pub(crate) segment: SegmentRef,
    /// All its pages, this one included.
    pub(crate) pages: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fixed {
    magic: [u8; 8],
    version: U32,
    index: U32,
    tier: [u8; 16],
    generation: U64,
    pages: U32,
}

const _: () = assert!(size_of::<Fixed>() == FIXED_BYTES);
const _: () = assert!(offset_of!(Fixed, version) == 8);
const _: () = assert!(offset_of!(Fixed, tier) == 16);
const _: () = assert!(offset_of!(Fixed, generation) == 32);

impl SegmentHeader {
    /// Fills the whole page.
    pub(crate) fn encode(&self, key: &TierKey, page: &mut [u8; PAGE]) {
        let fixed = Fixed {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            index: U32::new(self.segment.index),
            tier: key.id,
            generation: U64::new(self.segment.generation.0),
            pages: U32::new(self.pages),
        };
        page.fill(0);
        write_prefix(&fixed, page);
        let mac = mac(key, [&page[..MAC_AT], &[]]);
        page[MAC_AT..].copy_from_slice(&mac);
    }

    /// Checks a page. Whether it is this file's header is for the caller to compare.
    pub(crate) fn decode(key: &TierKey, page: &[u8; PAGE]) -> Result<Self, HeaderError> {
        let fixed: Fixed = read_prefix(page).ok_or(HeaderError::Magic)?;
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
        let (covered, stored) = page.split_at(MAC_AT);
        let mac = mac(key, [covered, &[]]);
        if !stored.try_into().is_ok_and(|stored| equal(&mac, stored)) {
            return Err(HeaderError::Mac);
        }
        if !is_zero(&covered[FIXED_BYTES..]) {
            return Err(HeaderError::Malformed("padding is not zero"));
        }
        let generation = SegmentGeneration(fixed.generation.get());
        if generation.0 == 0 || fixed.pages.get() < 2 {
            return Err(HeaderError::Malformed(
                "want generation 1 or more and 2 pages or more",
            ));
        }
        Ok(Self {
            segment: SegmentRef {
                index: fixed.index.get(),
                generation,
            },
            pages: fixed.pages.get(),
        })
    }
}
