//! What the fuzz targets (`fuzz/`) and the replay of their corpus call: every decoder with any bytes.
//!
//! A decoder that accepts bytes must have understood all of them, so encoding what it gave makes the same bytes. Where a
//! checksum would stop everything that a fuzzer tries, it is made good and the decoder is asked again.
#![allow(
    clippy::missing_panics_doc,
    reason = "a property that does not hold is a panic, which is what a fuzzer looks for"
)]

use xxhash_rust::xxh3::Xxh3;

use super::layout::{CHECKSUM_BYTES, checksum};
use super::{BlockHeader, Lease, PAGE, StoreId, Touched, decode_namespace, encode_namespace};

/// The first page of a block's object.
pub fn remote_block(data: &[u8]) {
    let mut page = [0; PAGE];
    let length = data.len().min(PAGE);
    page[..length].copy_from_slice(&data[..length]);
    check_block(&page);
    let mut hasher = Xxh3::new();
    hasher.update(&page[..240]);
    hasher.update(&page[256..]);
    page[240..256].copy_from_slice(&hasher.digest128().to_le_bytes());
    check_block(&page);
}

fn check_block(page: &[u8; PAGE]) {
    if let Ok((header, descriptor)) = BlockHeader::decode(page) {
        let mut again = [0xff; PAGE];
        header.encode(descriptor, &mut again);
        assert!(again == *page, "a block header has two encodings");
    }
}

/// The small objects: namespaces, leases, access records, identities.
pub fn remote_small(data: &[u8]) {
    check_small(data);
    let covered = &data[..data.len().saturating_sub(CHECKSUM_BYTES)];
    check_small(&[covered, &checksum(covered)].concat());
}

fn check_small(bytes: &[u8]) {
    if let Ok((descriptor, geometry)) = decode_namespace(bytes) {
        let again = encode_namespace(&descriptor, &geometry);
        assert!(again == bytes, "a namespace has two encodings");
    }
    if let Some(lease) = Lease::decode(bytes) {
        assert!(lease.encode() == bytes, "a lease has two encodings");
    }
    if let Some(touched) = Touched::decode(bytes) {
        assert!(touched.encode() == bytes, "an access record has two encodings");
    }
    if let Some(store) = StoreId::decode(bytes) {
        assert!(store.encode() == bytes, "an identity has two encodings");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::format::tests::samples;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 2] = [("remote_block", remote_block), ("remote_small", remote_small)];

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
