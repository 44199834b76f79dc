//! The bytes at the store: encoding and decoding, no I/O. `LAYOUT.md` specifies each of them and changes together with this.
//!
//! Everything is little-endian with explicit widths and begins with a magic and a version, whose places are frozen. What
//! is decoded has been checked whole: one wrong bit anywhere, padding included, is an error.

mod block;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod layout;
mod lease;
mod names;
mod namespace;
mod store;
#[cfg(test)]
pub(crate) mod tests;
mod touched;

pub(crate) use block::BlockHeader;
#[cfg(test)]
pub(crate) use block::HeaderError;
pub(crate) use lease::Lease;
pub(crate) use names::{
    LEASE_NAME, ROOT, TEMPORARY, block_directories, block_name, namespace_name, parse_block_name,
    parse_namespace_directory, temporary_directory, temporary_name, touched_directory, touched_name,
};
pub(crate) use namespace::{decode_namespace, encode_namespace};
pub(crate) use store::StoreId;
pub(crate) use touched::{TOUCHED_BLOCKS_MAX, Touched, TouchedBlock};

/// One page in bytes, as an array length.
pub(crate) const PAGE: usize = 4096;

/// The version of all formats of this room. They change together.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Bytes of a block's object in front of its payload.
pub(crate) const HEADER_BYTES: u64 = PAGE as u64;

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes that hexadecimal digits stand for; capital letters are not ours.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}
