//! Golden bytes, and the rule that one wrong bit anywhere is an error.
//!
//! The golden values are version 1 of the formats. If one of them changes, old objects cannot be read any more: that
//! needs a new format version, not a new golden value.

use std::fs;
use std::path::Path;

use kvstore_types::{
    AttentionKind, BlockHash, BlockKey, Corruption, Field, GroupGeometry, GroupIndex, NamespaceDescriptor,
    NamespaceGeometry, NamespaceId,
};
use proptest::prelude::*;

use super::namespace::NamespaceError;
use super::*;
use crate::{DESCRIPTOR_BYTES_MAX, WriterId};

pub(crate) fn header() -> BlockHeader {
    BlockHeader {
        key: BlockKey {
            namespace: NamespaceId([0x11; 16]),
            group: GroupIndex(3),
            hash: BlockHash([0x22; 32]),
        },
        payload_bytes: 8192,
        checksum: 0x3132_3334_3536_3738_393a_3b3c_3d3e_3f40,
    }
}

fn encoded(header: &BlockHeader, descriptor: &[u8]) -> [u8; PAGE] {
    let mut page = [0xee; PAGE];
    header.encode(descriptor, &mut page);
    page
}

pub(crate) fn namespace() -> (NamespaceDescriptor, NamespaceGeometry) {
    let field = |tag: &str, value: &str| Field {
        tag: tag.into(),
        value: value.into(),
    };
    let descriptor =
        NamespaceDescriptor::new([field("model.id", "m"), field("kv.dtype", "bfloat16")]).unwrap();
    let group = |kind, rank_bytes| GroupGeometry {
        kind,
        tokens_per_block: 16,
        rank_bytes,
    };
    let rank = |bytes| {
        [
            group(AttentionKind::Full, bytes),
            group(AttentionKind::SlidingWindow { window_tokens: 128 }, 2 * bytes),
        ]
    };
    let geometry = NamespaceGeometry::compose(&[&rank(100), &rank(4096)]).unwrap();
    (descriptor, geometry)
}

fn lease() -> Lease {
    Lease {
        token: 0x0102_0304_0506_0708,
        holder: WriterId([0xa7; 32]),
        duration_ms: 30_000,
    }
}

fn touched() -> Touched {
    let block = |number| {
        let mut key = header().key;
        key.hash.0[0] = number;
        TouchedBlock::from(&key)
    };
    Touched {
        namespace: NamespaceId([0x11; 16]),
        blocks: vec![block(1), block(2), block(3)],
    }
}

/// A whole object with a payload.
fn object() -> Vec<u8> {
    let payload: Vec<u8> = (0..8192_u32).map(|at| (at % 251) as u8).collect();
    let header = BlockHeader {
        checksum: xxhash_rust::xxh3::xxh3_128(&payload),
        ..header()
    };
    [&encoded(&header, b"parent and tokens")[..], &payload].concat()
}

/// What a fuzz target begins with: good bytes, and some that are wrong in an interesting way.
pub(crate) fn samples(target: &str) -> Vec<(&'static str, Vec<u8>)> {
    let with = |mut bytes: Vec<u8>, at: usize, value: u8| {
        bytes[at] = value;
        bytes
    };
    let (descriptor, geometry) = namespace();
    let named = encode_namespace(&descriptor, &geometry);
    match target {
        "remote_block" => {
            let good = encoded(&header(), b"parent and tokens")[..273].to_vec();
            vec![
                ("good", good.clone()),
                ("longest", encoded(&header(), &[7; DESCRIPTOR_BYTES_MAX]).to_vec()),
                ("too-long", with(good.clone(), 13, 0xff)),
                ("newer", with(good, 8, 2)),
            ]
        }
        "remote_small" => vec![
            ("namespace", named.clone()),
            ("groups", with(named.clone(), 16, 65)),
            ("newer", with(named, 8, 2)),
            ("lease", lease().encode()),
            ("touched", touched().encode()),
            ("store", StoreId([0x5e; 16]).encode()),
            ("count", with(touched().encode(), 12, 9)),
        ],
        other => panic!("no such target: {other}"),
    }
}

/// Name and bytes of each golden file: good ones, and what must not be taken for one.
fn fixtures() -> Vec<(&'static str, Vec<u8>)> {
    let (descriptor, geometry) = namespace();
    let flipped = |mut bytes: Vec<u8>, at: usize| {
        bytes[at] ^= 1;
        bytes
    };
    vec![
        ("good/block", object()),
        ("good/namespace", encode_namespace(&descriptor, &geometry)),
        ("good/lease", lease().encode()),
        ("good/touched", touched().encode()),
        ("good/store", StoreId([0x5e; 16]).encode()),
        ("damaged/store", flipped(StoreId([0x5e; 16]).encode(), 13)),
        ("damaged/block-payload", flipped(object(), 4096 + 5000)),
        ("damaged/block-header", flipped(object(), 97)),
        ("damaged/block-newer", flipped(object(), 9)),
        ("damaged/block-short", object()[..8192].to_vec()),
        (
            "damaged/namespace",
            flipped(encode_namespace(&descriptor, &geometry), 30),
        ),
        ("damaged/lease", flipped(lease().encode(), 20)),
        ("damaged/touched", flipped(touched().encode(), 33)),
    ]
}

#[test]
fn the_bytes_of_version_1_are_golden() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1");
    for (name, bytes) in fixtures() {
        let path = place.join(name);
        if std::env::var_os("KVTIER_BLESS").is_some() {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        assert!(fs::read(&path).unwrap() == bytes, "{name} differs");
    }
}

#[test]
fn good_fixtures_are_read_and_damaged_ones_are_not() {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1");
    let read = |name: &str| fs::read(place.join(name)).unwrap();
    let page = |name: &str| *read(name).first_chunk::<PAGE>().unwrap();
    let good = page("good/block");
    let (found, descriptor) = BlockHeader::decode(&good).unwrap();
    let sum = |name: &str| xxhash_rust::xxh3::xxh3_128(&read(name)[PAGE..]);
    assert_eq!((found.key, descriptor), (header().key, &b"parent and tokens"[..]));
    assert_eq!(found.checksum, sum("good/block"));
    assert_ne!(found.checksum, sum("damaged/block-payload"));
    assert_ne!(found.checksum, sum("damaged/block-short"));
    assert_eq!(
        BlockHeader::decode(&page("damaged/block-header")),
        Err(HeaderError::Checksum)
    );
    assert_eq!(
        BlockHeader::decode(&page("damaged/block-newer")),
        Err(HeaderError::Version { found: 0x101 })
    );
    assert_eq!(decode_namespace(&read("good/namespace")), Ok(namespace()));
    assert_eq!(
        decode_namespace(&read("damaged/namespace")),
        Err(NamespaceError::Checksum)
    );
    assert_eq!(Lease::decode(&read("good/lease")), Some(lease()));
    assert_eq!(Lease::decode(&read("damaged/lease")), None);
    assert_eq!(Touched::decode(&read("good/touched")), Some(touched()));
    assert_eq!(Touched::decode(&read("damaged/touched")), None);
    assert_eq!(StoreId::decode(&read("good/store")), Some(StoreId([0x5e; 16])));
    assert_eq!(StoreId::decode(&read("damaged/store")), None);
}

#[test]
fn every_bit_of_a_header_page_is_proven() {
    let good = encoded(&header(), b"descriptor");
    assert_eq!(BlockHeader::decode(&good), Ok((header(), &b"descriptor"[..])));
    for at in 0..PAGE {
        for bit in 0..8 {
            let mut page = good;
            page[at] ^= 1 << bit;
            assert!(BlockHeader::decode(&page).is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn every_bit_and_every_byte_of_small_objects_is_proven() {
    let (descriptor, geometry) = namespace();
    let objects = [
        encode_namespace(&descriptor, &geometry),
        lease().encode(),
        touched().encode(),
        StoreId([0x5e; 16]).encode(),
    ];
    let is_any = |bytes: &[u8]| {
        decode_namespace(bytes).is_ok()
            || Lease::decode(bytes).is_some()
            || Touched::decode(bytes).is_some()
            || StoreId::decode(bytes).is_some()
    };
    for object in objects {
        assert!(is_any(&object));
        for at in 0..object.len() {
            assert!(!is_any(&object[..at]), "cut off at {at}");
            for bit in 0..8 {
                let mut bytes = object.clone();
                bytes[at] ^= 1 << bit;
                assert!(!is_any(&bytes), "byte {at}, bit {bit}");
            }
        }
    }
}

#[test]
fn a_header_is_compared_with_what_was_asked_for() {
    let header = header();
    assert_eq!(header.check(&header.key, 8192), Ok(()));
    assert_eq!(header.check(&header.key, 4096), Err(Corruption::Payload));
    let mut other = header.key;
    other.group = GroupIndex(4);
    assert_eq!(header.check(&other, 8192), Err(Corruption::Key));
    other = header.key;
    other.namespace.0[15] ^= 1;
    assert_eq!(header.check(&other, 8192), Err(Corruption::Key));
    other = header.key;
    other.hash.0[31] ^= 1;
    assert_eq!(header.check(&other, 8192), Err(Corruption::Key));
}

#[test]
fn a_payload_that_is_not_whole_pages_is_no_block() {
    for payload_bytes in [0, 1, 4095, 4097] {
        let header = BlockHeader {
            payload_bytes,
            ..header()
        };
        let page = encoded(&header, &[]);
        assert!(
            matches!(BlockHeader::decode(&page), Err(HeaderError::Malformed(_))),
            "{payload_bytes}"
        );
    }
}

proptest! {
    #[test]
    fn any_header_comes_back(
        group: u8, namespace: [u8; 16], hash: [u8; 32], checksum: u128, pages in 1_u64..1 << 20,
        descriptor in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let key = BlockKey {
            namespace: NamespaceId(namespace),
            group: GroupIndex(group),
            hash: BlockHash(hash),
        };
        let header = BlockHeader { key, payload_bytes: pages * PAGE as u64, checksum };
        let page = encoded(&header, &descriptor);
        prop_assert_eq!(BlockHeader::decode(&page), Ok((header, &descriptor[..])));
    }
}
