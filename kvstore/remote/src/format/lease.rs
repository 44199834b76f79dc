//! `v1/sweeper`: who removes what is too old or too much.
//!
//! ```text
//! 0       8         12              16     24       56
//! | magic | version | duration (ms) | token | holder | checksum |
//! ```

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::FORMAT_VERSION;
use super::layout::{read_prefix, seal, strip_checksum};
use crate::WriterId;

const MAGIC: [u8; 8] = *b"KVTLEASE";

/// What the lease says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Grows with each new holder: work begun under a smaller one must stop.
    pub(crate) token: u64,
    /// Who holds it.
    pub(crate) holder: WriterId,
    /// How long it is to be believed after it was seen to change, in milliseconds; 0: it was given back.
    pub(crate) duration_ms: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fixed {
    magic: [u8; 8],
    version: U32,
    duration_ms: U32,
    token: U64,
    holder: [u8; 32],
}

const _: () = assert!(size_of::<Fixed>() == 56);

impl Lease {
    /// Its bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let fixed = Fixed {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            duration_ms: U32::new(self.duration_ms),
            token: U64::new(self.token),
            holder: self.holder.0,
        };
        seal(fixed.as_bytes().to_vec())
    }

    /// Reads it back; `None` if it is not one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let covered = strip_checksum(bytes)?;
        let fixed: Fixed = read_prefix(covered)?;
        if covered.len() != size_of::<Fixed>()
            || fixed.magic != MAGIC
            || fixed.version.get() != FORMAT_VERSION
        {
            return None;
        }
        Some(Self {
            token: fixed.token.get(),
            holder: WriterId(fixed.holder),
            duration_ms: fixed.duration_ms.get(),
        })
    }
}
