//! Golden bytes, and the rule that one wrong bit anywhere is an error.
//!
//! The golden values are version 1 of the formats. If one of them changes, old directories cannot be read any more: that
//! needs a new format version, not a new golden value.

use kvstore_types::{
    AttentionKind, BlockHash, BlockKey, Corruption, Extent, Field, GroupGeometry, GroupIndex,
    NamespaceDescriptor, NamespaceGeometry, NamespaceId, SegmentGeneration, SegmentRef,
};
use proptest::prelude::*;

use super::*;
use crate::DESCRIPTOR_BYTES_MAX;

pub(crate) use super::fuzz::KEY;

pub(crate) fn header() -> BlockHeader {
    BlockHeader {
        key: BlockKey {
            namespace: NamespaceId([0x11; 16]),
            group: GroupIndex(3),
            hash: BlockHash([0x22; 32]),
        },
        extent: Extent {
            segment: SegmentRef {
                index: 0x0102_0304,
                generation: SegmentGeneration(0x0506_0708_090a_0b0c),
            },
            page: 7,
            pages: 3,
        },
        payload_bytes: 8192,
        checksum: 0x3132_3334_3536_3738_393a_3b3c_3d3e_3f40,
    }
}

pub(crate) fn encoded(header: &BlockHeader, descriptor: &[u8]) -> [u8; PAGE] {
    let mut page = [0xee; PAGE];
    header.encode(&KEY, descriptor, &mut page);
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

fn superblock() -> Superblock {
    Superblock {
        key: KEY,
        tenant: "default".into(),
        segment_bytes: 64 << 10,
    }
}

fn segment_header() -> SegmentHeader {
    SegmentHeader {
        segment: SegmentRef {
            index: 12,
            generation: SegmentGeneration(5),
        },
        pages: 16,
    }
}

fn segment_page() -> [u8; PAGE] {
    let mut page = [0xee; PAGE];
    segment_header().encode(&KEY, &mut page);
    page
}

/// What a fuzz target begins with: good bytes, and some that are wrong in an interesting way.
#[expect(clippy::too_many_lines, reason = "a table with some samples for each target")]
pub(crate) fn samples(target: &str) -> Vec<(&'static str, Vec<u8>)> {
    let with = |mut bytes: Vec<u8>, at: usize, value: u8| {
        bytes[at] = value;
        bytes
    };
    let trimmed = |bytes: &[u8]| {
        let length = bytes
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        bytes[..length].to_vec()
    };
    match target {
        "block_header" => {
            let good = trimmed(&encoded(&header(), b"parent and tokens"));
            let longest = encoded(&header(), &[7; DESCRIPTOR_BYTES_MAX]).to_vec();
            let too_long = with(good.clone(), 13, 0xff);
            vec![
                ("good", good.clone()),
                ("longest", longest),
                ("too-long", too_long),
                ("newer", with(good, 8, 2)),
            ]
        }
        "segment_header" => {
            let good = trimmed(&segment_page()[..64]);
            vec![
                ("good", segment_page().to_vec()),
                ("unsigned", good.clone()),
                ("newer", with(good, 8, 2)),
            ]
        }
        "superblock" => {
            let good = superblock().encode();
            let short = trimmed(&good[..PAGE - 16]);
            vec![
                ("good", good.to_vec()),
                ("short", short.clone()),
                ("long-name", with(short.clone(), 73, 0xff)),
                ("newer", with(short, 8, 2)),
            ]
        }
        "namespace" => {
            let (descriptor, geometry) = namespace();
            let good = encode_namespace(&descriptor, &geometry);
            let groups = with(good.clone(), 16, 65);
            vec![
                ("good", good.clone()),
                ("groups", groups),
                ("newer", with(good, 8, 2)),
            ]
        }
        "records" => {
            let record = BlockRecord {
                key: header().key,
                pages: 3,
                generation: SegmentGeneration(5),
                descriptor: b"parent",
            };
            let segment = |full_tail| {
                SegmentRecord {
                    generation: SegmentGeneration(5),
                    full_tail,
                }
                .encode()
                .to_vec()
            };
            vec![
                ("block", record.encode()),
                ("full", segment(Some(9))),
                ("open", segment(None)),
            ]
        }
        target => panic!("no samples of {target}"),
    }
}

/// The first 16 bytes of the BLAKE3 digest, in hexadecimal digits.
fn digest(bytes: &[u8]) -> String {
    hex(&blake3::hash(bytes).as_bytes()[..16])
}

#[test]
fn a_block_header_has_these_bytes() {
    let page = encoded(&header(), b"parent and tokens");
    let expected = [
        (0, b"KVTBLOCK".to_vec()),
        (8, vec![1, 0, 0, 0]),
        (12, vec![17, 0, 0, 0]),
        (16, KEY.id.to_vec()),
        (32, vec![4, 3, 2, 1]),
        (36, vec![7, 0, 0, 0]),
        (40, vec![12, 11, 10, 9, 8, 7, 6, 5]),
        (48, vec![3, 0, 0, 0]),
        (52, vec![3, 0, 0, 0]),
        (56, vec![0, 32, 0, 0, 0, 0, 0, 0]),
        (64, vec![0x11; 16]),
        (80, vec![0x22; 32]),
        (112, (0x31..=0x40).rev().collect()),
        (128, vec![0; 96]),
        (256, b"parent and tokens".to_vec()),
        (273, vec![0; PAGE - 273]),
    ];
    for (at, bytes) in expected {
        assert_eq!(page[at..at + bytes.len()], bytes, "at {at}");
    }
    let mac = {
        let mut hasher = blake3::Hasher::new_keyed(&KEY.mac);
        hasher.update(&page[..224]).update(b"parent and tokens");
        hasher.finalize()
    };
    assert_eq!(&page[224..256], mac.as_bytes());
    assert_eq!(digest(&page), "de1e483df98ae4a0120a6082d182a2ee");
}

#[test]
fn the_other_formats_are_golden_values() {
    let (descriptor, geometry) = namespace();
    let record = BlockRecord {
        key: header().key,
        pages: 3,
        generation: SegmentGeneration(5),
        descriptor: b"parent",
    };
    let full = SegmentRecord {
        generation: SegmentGeneration(5),
        full_tail: Some(9),
    };
    assert_eq!(digest(&superblock().encode()), "f522664513cdfb70d89c860beda7d8f2");
    assert_eq!(digest(&segment_page()), "2ef9e8e0786d634127d40b6b7e6b782c");
    assert_eq!(
        digest(&encode_namespace(&descriptor, &geometry)),
        "9b55c6dee0beaf4839c9781ee8fc0d59"
    );
    assert_eq!(digest(&record.encode()), "0d5eb5be1f72f1208cc2b457b236f93e");
    assert_eq!(full.encode(), [1, 1, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(place_key(1, 0x0203), [0, 0, 0, 1, 0, 0, 2, 3]);
    assert_eq!(segment_key(0x0102), [0, 0, 1, 2]);
    assert_eq!(split_place_key(&place_key(u32::MAX, 5)), Some((u32::MAX, 5)));
    assert_eq!(
        (split_place_key(b"short"), split_place_key(b"too long!")),
        (None, None)
    );
}

#[test]
fn what_is_encoded_is_decoded() {
    let page = encoded(&header(), b"parent");
    assert_eq!(
        BlockHeader::decode(&KEY, &page),
        Ok((header(), b"parent".as_slice()))
    );
    let longest = [0xff; DESCRIPTOR_BYTES_MAX];
    let page = encoded(&header(), &longest);
    assert_eq!(
        BlockHeader::decode(&KEY, &page),
        Ok((header(), longest.as_slice()))
    );
    assert_eq!(SegmentHeader::decode(&KEY, &segment_page()), Ok(segment_header()));
    assert_eq!(Superblock::decode(&superblock().encode()), Ok(superblock()));
    let (descriptor, geometry) = namespace();
    let file = encode_namespace(&descriptor, &geometry);
    assert_eq!(decode_namespace(&file), Ok((descriptor, geometry)));
    for full_tail in [None, Some(1), Some(u32::MAX)] {
        let record = SegmentRecord {
            generation: SegmentGeneration(8),
            full_tail,
        };
        assert_eq!(SegmentRecord::decode(&record.encode()), Ok(record));
    }
}

/// Every single wrong bit of `good`, shown to `refuses`.
fn each_bit_flipped(good: &[u8], refuses: impl Fn(&[u8]) -> bool) {
    let mut bytes = good.to_vec();
    for bit in 0..good.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(refuses(&bytes), "bit {bit} may be wrong");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

fn page(bytes: &[u8]) -> &[u8; PAGE] {
    bytes.try_into().unwrap()
}

#[test]
fn one_wrong_bit_anywhere_is_an_error() {
    each_bit_flipped(&encoded(&header(), b"parent"), |bytes| {
        BlockHeader::decode(&KEY, page(bytes)).is_err()
    });
    each_bit_flipped(&segment_page(), |bytes| {
        SegmentHeader::decode(&KEY, page(bytes)).is_err()
    });
    each_bit_flipped(&superblock().encode(), |bytes| Superblock::decode(bytes).is_err());
    let (descriptor, geometry) = namespace();
    each_bit_flipped(&encode_namespace(&descriptor, &geometry), |bytes| {
        decode_namespace(bytes).is_err()
    });
}

#[test]
fn a_file_that_was_cut_off_or_has_grown_is_an_error() {
    let (descriptor, geometry) = namespace();
    for good in [
        superblock().encode().to_vec(),
        encode_namespace(&descriptor, &geometry),
    ] {
        let refused = |bytes: &[u8]| Superblock::decode(bytes).is_err() && decode_namespace(bytes).is_err();
        for length in 0..good.len() {
            assert!(refused(&good[..length]), "{length} bytes");
        }
        assert!(refused(&[good.as_slice(), &[0]].concat()));
    }
}

#[test]
fn a_header_of_another_directory_is_told_from_a_damaged_one() {
    let other = TierKey { id: [9; 16], ..KEY };
    let page = encoded(&header(), b"");
    let foreign = BlockHeader::decode(&other, &page).unwrap_err();
    assert_eq!(foreign, HeaderError::foreign(KEY.id, &other));
    assert_eq!(foreign.corruption(), Corruption::Foreign);
    for id in [KEY.id, other.id] {
        assert!(foreign.to_string().contains(&hex(&id)), "{foreign}");
    }
    // The same id with another key: somebody made it up.
    let forged = BlockHeader::decode(&TierKey { mac: [9; 32], ..KEY }, &page).unwrap_err();
    assert_eq!(
        (forged, forged.corruption()),
        (HeaderError::Mac, Corruption::Header)
    );
    assert_eq!(
        SegmentHeader::decode(&other, &segment_page()),
        Err(HeaderError::foreign(KEY.id, &other))
    );
}

#[test]
fn another_version_is_called_by_its_number() {
    let mut block = encoded(&header(), b"");
    let mut segment = segment_page();
    let mut tier = superblock().encode();
    let (descriptor, geometry) = namespace();
    let mut names = encode_namespace(&descriptor, &geometry);
    for bytes in [&mut block[..], &mut segment, &mut tier, &mut names] {
        bytes[8] = 2;
    }
    assert_eq!(
        BlockHeader::decode(&KEY, &block),
        Err(HeaderError::Version { found: 2 })
    );
    assert_eq!(
        SegmentHeader::decode(&KEY, &segment),
        Err(HeaderError::Version { found: 2 })
    );
    assert_eq!(
        Superblock::decode(&tier),
        Err(SuperblockError::Version { found: 2 })
    );
    assert_eq!(
        decode_namespace(&names),
        Err(NamespaceFileError::Version { found: 2 })
    );
    // Also when nothing behind the version is as it is today.
    assert_eq!(
        Superblock::decode(&tier[..12]),
        Err(SuperblockError::Version { found: 2 })
    );
    assert_eq!(BlockRecord::decode(&[7]), Err(RecordError::Version { found: 7 }));
    assert_eq!(
        SegmentRecord::decode(&[7]),
        Err(RecordError::Version { found: 7 })
    );
}

#[test]
fn a_genuine_header_that_makes_no_sense_is_refused() {
    type Change = fn(&mut BlockHeader);
    let cases: [(Change, &str); 5] = [
        (|header| header.extent.page = 0, "first page"),
        (|header| header.extent.page = u32::MAX, "end beyond"),
        (|header| header.payload_bytes = 8193, "do not agree"),
        (|header| header.payload_bytes = 4096, "do not agree"),
        (
            |header| (header.extent.pages, header.payload_bytes) = (1, 0),
            "do not agree",
        ),
    ];
    for (change, expected) in cases {
        let mut header = header();
        change(&mut header);
        let error = BlockHeader::decode(&KEY, &encoded(&header, b""))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
}

#[test]
fn a_geometry_that_does_not_follow_from_its_ranks_is_refused() {
    let (descriptor, mut geometry) = namespace();
    geometry.groups[1].rank_offsets[1] += 64;
    let file = encode_namespace(&descriptor, &geometry);
    assert_eq!(decode_namespace(&file), Err(NamespaceFileError::Geometry));
    let (_, mut geometry) = namespace();
    geometry.groups[0].slot_bytes += 4096;
    assert_eq!(
        decode_namespace(&encode_namespace(&descriptor, &geometry)),
        Err(NamespaceFileError::Geometry)
    );
    let empty = NamespaceGeometry { groups: Vec::new() };
    assert_eq!(
        decode_namespace(&encode_namespace(&descriptor, &empty)),
        Err(NamespaceFileError::Geometry)
    );
}

proptest! {
    #[test]
    fn any_block_header_is_decoded_as_it_was(
        (namespace, group, hash) in any::<([u8; 16], u8, [u8; 32])>(),
        (index, generation, checksum) in any::<(u32, u64, u128)>(),
        (first, pages, short) in (1..1_000_000_u32, 2..1_000_000_u32, 0..4096_u64),
        descriptor in proptest::collection::vec(any::<u8>(), 0..DESCRIPTOR_BYTES_MAX),
    ) {
        let header = BlockHeader {
            key: BlockKey { namespace: NamespaceId(namespace), group: GroupIndex(group), hash: BlockHash(hash) },
            extent: Extent {
                segment: SegmentRef { index, generation: SegmentGeneration(generation) },
                page: first,
                pages,
            },
            payload_bytes: u64::from(pages - 1) * 4096 - short,
            checksum,
        };
        let page = encoded(&header, &descriptor);
        prop_assert_eq!(BlockHeader::decode(&KEY, &page), Ok((header, descriptor.as_slice())));
        let record = BlockRecord {
            key: header.key,
            pages,
            generation: SegmentGeneration(generation.max(1)),
            descriptor: &descriptor,
        };
        let bytes = record.encode();
        prop_assert_eq!(BlockRecord::decode(&bytes), Ok(record));
    }

    #[test]
    fn garbage_is_refused_or_means_what_it_says(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Superblock::decode(&bytes).is_err());
        prop_assert!(decode_namespace(&bytes).is_err());
        if let Ok(record) = BlockRecord::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes.clone());
        }
        if let Ok(record) = SegmentRecord::decode(&bytes) {
            prop_assert_eq!(record.encode().to_vec(), bytes);
        }
    }
}
