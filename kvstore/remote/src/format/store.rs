//! `v1/store`: which store this is, at a mount. Whoever writes there first makes it, and it never changes.
//!
//! ```text
//! 0       8         12     16       32
//! | magic | version | zero | id     | checksum |
//! ```

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::FORMAT_VERSION;
use super::layout::{read_prefix, seal, strip_checksum};

const MAGIC: [u8; 8] = *b"KVTSTORE";

/// Tells a store from every other one. Drawn at random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreId(pub(crate) [u8; 16]);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fixed {
    magic: [u8; 8],
    version: U32,
    zero: U32,
    id: [u8; 16],
}

const _: () = assert!(size_of::<Fixed>() == 32);

impl StoreId {
    /// Its bytes.
    pub(crate) fn encode(self) -> Vec<u8> {
        let fixed = Fixed {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            zero: U32::new(0),
            id: self.0,
        };
        seal(fixed.as_bytes().to_vec())
    }

    /// Reads it back; `None` if it is not one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let covered = strip_checksum(bytes)?;
        let fixed: Fixed = read_prefix(covered)?;
        let is_whole = covered.len() == size_of::<Fixed>()
            && fixed.magic == MAGIC
            && fixed.version.get() == FORMAT_VERSION
            && fixed.zero.get() == 0;
        is_whole.then_some(Self(fixed.id))
    }
}
