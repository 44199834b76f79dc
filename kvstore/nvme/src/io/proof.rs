//! The proof that bytes are the block they should be, and the header that makes it possible.

use kvstore_types::{BlockKey, Corruption, Extent};

use crate::format::{BlockHeader, PAGE, TierKey, payload_checksum};

/// Writes the header of a block whose payload lies behind `place`.
///
/// # Safety
/// `place` is valid for reads and writes of the extent's bytes until this returns.
pub(super) unsafe fn seal_block(
    tier: &TierKey,
    place: *mut u8,
    extent: Extent,
    key: BlockKey,
    descriptor: &[u8],
) {
    let payload_bytes = BlockHeader::payload_bytes_of(&extent);
    // SAFETY: the payload is the part of the extent's bytes behind the header page.
    let checksum = unsafe { checksum_behind(place, payload_bytes) };
    let header = BlockHeader {
        key,
        extent,
        payload_bytes,
        checksum,
    };
    let mut page = [0; PAGE];
    header.encode(tier, descriptor, &mut page);
    // SAFETY: the header page is the first of the extent's bytes; `page` is private.
    unsafe { place.copy_from_nonoverlapping(page.as_ptr(), PAGE) };
}

/// Checks that what lies at `place` is the block `key` as it was written to `extent`, and gives its descriptor.
///
/// # Safety
/// `place` is valid for reads of the extent's bytes until this returns.
pub(super) unsafe fn check_block(
    tier: &TierKey,
    place: *const u8,
    extent: Extent,
    key: BlockKey,
) -> Result<Vec<u8>, Corruption> {
    // Clients can write to slots at any time, so the header is looked at in a copy of our own.
    let mut page = [0; PAGE];
    // SAFETY: the header page is the first of the extent's bytes; `page` is private.
    unsafe { place.copy_to_nonoverlapping(page.as_mut_ptr(), PAGE) };
    let (header, descriptor) =
        BlockHeader::decode(tier, &page).map_err(crate::format::HeaderError::corruption)?;
    if header.extent != extent {
        return Err(Corruption::Place);
    }
    if header.key != key {
        return Err(Corruption::Key);
    }
    let payload_bytes = BlockHeader::payload_bytes_of(&extent);
    if header.payload_bytes != payload_bytes {
        return Err(Corruption::Payload);
    }
    // SAFETY: the payload is the part of the extent's bytes behind the header page.
    let checksum = unsafe { checksum_behind(place, payload_bytes) };
    if header.checksum != checksum {
        return Err(Corruption::Payload);
    }
    Ok(descriptor.to_vec())
}

/// The checksum of the payload behind the header page at `place`.
///
/// # Safety
/// `place` is valid for reads of a page and `bytes` bytes more.
unsafe fn checksum_behind(place: *const u8, bytes: u64) -> u128 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it lies in memory, so its length fits"
    )]
    let bytes = bytes as usize;
    // SAFETY: the caller's promise.
    unsafe { payload_checksum(place.wrapping_add(PAGE), bytes) }
}
