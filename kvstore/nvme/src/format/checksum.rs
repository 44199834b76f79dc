//! The checksum of a payload in memory that others may write to meanwhile.

use xxhash_rust::xxh3::Xxh3;

/// Bytes that are copied out at a time. A copy that stays in the first-level cache costs a third of the speed: measured
/// for 2 MiB, 18.5 GB/s with 4 KiB (18.4 with 16 KiB) against 29 GB/s without a copy, five times what a device delivers.
const PIECE_BYTES: usize = 4 << 10;

/// XXH3-128 of `bytes` bytes at `payload`.
///
/// Clients map slots and may write to them whenever they like, so no reference to the payload is made: it is copied out
/// piece by piece, and only copies are looked at. What a client changes meanwhile is its tenant's own bytes and makes
/// another checksum, no more.
///
/// # Safety
/// `payload` is valid for reads of `bytes` bytes until this returns.
pub(crate) unsafe fn payload_checksum(payload: *const u8, bytes: usize) -> u128 {
    let mut hasher = Xxh3::new();
    let mut piece = [0_u8; PIECE_BYTES];
    let mut done = 0;
    while done < bytes {
        let length = PIECE_BYTES.min(bytes - done);
        // SAFETY: within what the caller vouches for; `piece` is private. Every bit pattern is a valid `u8`.
        unsafe {
            payload
                .wrapping_add(done)
                .copy_to_nonoverlapping(piece.as_mut_ptr(), length);
        };
        hasher.update(&piece[..length]);
        done += length;
    }
    hasher.digest128()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_the_checksum_of_the_whole() {
        let bytes: Vec<u8> = (0..3 * PIECE_BYTES + 5)
            .map(|at| at.to_le_bytes()[at % 2])
            .collect();
        for length in [
            0,
            1,
            240,
            241,
            PIECE_BYTES - 1,
            PIECE_BYTES,
            PIECE_BYTES + 1,
            bytes.len(),
        ] {
            // SAFETY: within the vector, which nobody writes to.
            let sum = unsafe { payload_checksum(bytes.as_ptr(), length) };
            assert_eq!(
                sum,
                xxhash_rust::xxh3::xxh3_128(&bytes[..length]),
                "{length} bytes"
            );
        }
    }
}
