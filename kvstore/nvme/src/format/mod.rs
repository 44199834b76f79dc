//! The bytes on disk: encoding and decoding, no I/O. `FORMAT.md` specifies each of them and changes together with this.
//!
//! Everything is little-endian with explicit widths and begins with a magic and a version, whose places are frozen. What
//! is decoded has been checked whole: one wrong bit anywhere, padding included, is an error.

mod block;
mod checksum;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod layout;
mod namespace;
mod record;
mod segment;
mod superblock;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use block::{BlockHeader, HeaderError};
pub(crate) use checksum::payload_checksum;
#[cfg(test)]
pub(crate) use namespace::NamespaceFileError;
pub(crate) use namespace::{decode_namespace, encode_namespace};
#[cfg(test)]
pub(crate) use record::RecordError;
pub(crate) use record::{BlockRecord, SegmentRecord, place_key, segment_key, split_place_key};
pub(crate) use segment::SegmentHeader;
pub(crate) use superblock::{Superblock, SuperblockError, TENANT_BYTES_MAX};

/// One page in bytes, as an array length.
pub(crate) const PAGE: usize = 4096;

/// The version of all formats of this room. They change together.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// What is secret and what is public about a directory: headers carry the id and prove that they know the key.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct TierKey {
    /// Random name of the directory, written into every header.
    pub(crate) id: [u8; 16],
    /// Random key of the headers' MAC. It never leaves the superblock, so no client can make a header.
    pub(crate) mac: [u8; 32],
}

impl std::fmt::Debug for TierKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TierKey({})", hex(&self.id))
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
