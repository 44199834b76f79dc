//! What several formats share: checksums, zero padding, fixed parts.

use zerocopy::FromBytes;

/// Bytes of the checksum at the end of small objects.
pub(super) const CHECKSUM_BYTES: usize = 16;

/// The little-endian bytes of XXH3-128.
pub(super) fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    xxhash_rust::xxh3::xxh3_128(bytes).to_le_bytes()
}

/// Whether padding is what an encoder writes.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Without a way out in the middle the compiler uses wide registers.
    bytes.iter().fold(0, |seen, &byte| seen | byte) == 0
}

/// The fixed part at the start of `bytes`, copied out; `None` if they are too few.
pub(super) fn read_prefix<T: FromBytes>(bytes: &[u8]) -> Option<T> {
    T::read_from_prefix(bytes).ok().map(|(value, _)| value)
}

/// What a small object says, without its checksum, if that is right.
pub(super) fn strip_checksum(bytes: &[u8]) -> Option<&[u8]> {
    let (covered, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    (checksum(covered) == *sum).then_some(covered)
}

/// A small object with its checksum at the end.
pub(super) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}
