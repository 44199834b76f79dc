//! What the fuzz targets (`fuzz/`) and the replay of their corpus call: every decoder with any bytes.
//!
//! A decoder that accepts bytes must have understood all of them, so encoding what it gave makes the same bytes. Where a
//! MAC or a checksum would stop everything that a fuzzer tries, it is made good and the decoder is asked again.
#![allow(
    clippy::missing_panics_doc,
    reason = "a property that does not hold is a panic, which is what a fuzzer looks for"
)]

use super::layout::{CHECKSUM_BYTES, PAGE_CHECKSUM_AT, checksum, mac};
use super::{
    BlockHeader, BlockRecord, PAGE, SegmentHeader, SegmentRecord, Superblock, TierKey, decode_namespace,
    encode_namespace,
};

/// The directory that the corpus belongs to.
pub(crate) const KEY: TierKey = TierKey {
    id: *b"a tier of a test",
    mac: *b"thirty-two bytes that are secret",
};

/// The bytes as a page, cut off or with zeroes behind them.
fn page_of(data: &[u8]) -> [u8; PAGE] {
    let mut page = [0; PAGE];
    let length = data.len().min(PAGE);
    page[..length].copy_from_slice(&data[..length]);
    page
}

/// The header page of a block.
pub fn block_header(data: &[u8]) {
    let mut page = page_of(data);
    check_block_header(&page);
    let length = u32::from_le_bytes([page[12], page[13], page[14], page[15]]) as usize;
    if let Some(descriptor) = page[256..].get(..length) {
        let good = mac(&KEY, [&page[..224], descriptor]);
        page[224..256].copy_from_slice(&good);
        check_block_header(&page);
    }
}

fn check_block_header(page: &[u8; PAGE]) {
    if let Ok((header, descriptor)) = BlockHeader::decode(&KEY, page) {
        let mut again = [0xff; PAGE];
        header.encode(&KEY, descriptor, &mut again);
        assert!(again == *page, "a block header has two encodings");
    }
}

/// The header page of a segment.
pub fn segment_header(data: &[u8]) {
    let mut page = page_of(data);
    check_segment_header(&page);
    let good = mac(&KEY, [&page[..PAGE - 32], &[]]);
    page[PAGE - 32..].copy_from_slice(&good);
    check_segment_header(&page);
}

fn check_segment_header(page: &[u8; PAGE]) {
    if let Ok(header) = SegmentHeader::decode(&KEY, page) {
        let mut again = [0xff; PAGE];
        header.encode(&KEY, &mut again);
        assert!(again == *page, "a segment header has two encodings");
    }
}

/// `tier.kvt`.
pub fn superblock(data: &[u8]) {
    check_superblock(data);
    let mut page = page_of(data);
    let good = checksum(&page[..PAGE_CHECKSUM_AT]);
    page[PAGE_CHECKSUM_AT..].copy_from_slice(&good);
    check_superblock(&page);
}

fn check_superblock(bytes: &[u8]) {
    if let Ok(superblock) = Superblock::decode(bytes) {
        assert!(superblock.encode() == bytes, "a superblock has two encodings");
    }
}

/// `namespace-*.kvt`.
pub fn namespace(data: &[u8]) {
    check_namespace(data);
    let covered = &data[..data.len().saturating_sub(CHECKSUM_BYTES)];
    check_namespace(&[covered, &checksum(covered)].concat());
}

fn check_namespace(bytes: &[u8]) {
    if let Ok((descriptor, geometry)) = decode_namespace(bytes) {
        let again = encode_namespace(&descriptor, &geometry);
        assert!(again == bytes, "a namespace file has two encodings");
    }
}

/// Values of the catalogue.
pub fn records(data: &[u8]) {
    if let Ok(record) = BlockRecord::decode(data) {
        assert!(record.encode() == data, "a block's record has two encodings");
    }
    if let Ok(record) = SegmentRecord::decode(data) {
        assert!(record.encode() == data, "a segment's record has two encodings");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::format::tests::samples;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 5] = [
        ("block_header", block_header),
        ("segment_header", segment_header),
        ("superblock", superblock),
        ("namespace", namespace),
        ("records", records),
    ];

    #[test]
    fn the_corpus_of_the_fuzz_targets_is_handled() {
        for (name, target) in TARGETS {
            let place = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../fuzz/corpus")
                .join(name);
            if std::env::var_os("KVTIER_BLESS").is_some() {
                fs::create_dir_all(&place).unwrap();
                for (sample, bytes) in samples(name) {
                    fs::write(place.join(sample), bytes).unwrap();
                }
            }
            let mut count = 0;
            for entry in fs::read_dir(&place).unwrap() {
                target(&fs::read(entry.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count >= 3, "{}: want some files, got {count}", place.display());
        }
    }
}
