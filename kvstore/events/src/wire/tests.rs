//! Golden bytes, and what clients may say.

use kvstore_types::{AttentionKind, BlockDescriptor, BlockHash, DescriptorBytes, GroupIndex, NamespaceId};

use super::{Encoding, ExtraKeysError, Media, Mix, Style, Told, check_extra_keys, encode_batch};
use crate::feed::{GroupShape, NamespaceShape};
use crate::testing::{Event, Value, decode_batch, decode_value};
use crate::tiers::TierSet;

const FULL: AttentionKind = AttentionKind::Full;

fn shape(kinds: &[AttentionKind]) -> NamespaceShape {
    NamespaceShape {
        namespace: NamespaceId([0; 16]),
        model: None,
        groups: kinds
            .iter()
            .map(|kind| GroupShape {
                kind: *kind,
                tokens_per_block: 2,
            })
            .collect(),
    }
}

fn media() -> Media {
    Media::new(&["cpu".to_owned(), "storage".to_owned(), "storage".to_owned()])
}

fn descriptor(parent: Option<u8>, tokens: [u32; 2], lora: Option<&str>, extra: &[u8]) -> DescriptorBytes {
    BlockDescriptor {
        parent: parent.map(|number| BlockHash([number; 32])),
        tokens: tokens.to_vec().into(),
        lora_name: lora,
        extra_keys: extra,
    }
    .encode()
    .unwrap()
}

fn stored(number: u8, group: u8, descriptor: DescriptorBytes) -> Told {
    Told {
        medium: 0,
        group: GroupIndex(group),
        hash: BlockHash([number; 32]),
        stored: Some(descriptor),
    }
}

fn removed(number: u8, medium: u8, group: u8) -> Told {
    Told {
        medium,
        group: GroupIndex(group),
        hash: BlockHash([number; 32]),
        stored: None,
    }
}

fn encode(told: &[Told], encoding: Encoding, shape: &NamespaceShape) -> Vec<u8> {
    let media = media();
    let style = Style {
        encoding,
        media: &media,
        tiers: TierSet::ALL,
        shape: Some(shape),
        mix: Mix::default(),
    };
    let mut bytes = Vec::new();
    let left_out = encode_batch(1.5, told, style, &mut bytes);
    assert_eq!(left_out, 0);
    bytes
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// A hash of 32 equal bytes, as it stands on the wire.
fn wire_hash(number: u8) -> String {
    format!("c420{}", hex(&[number; 32]))
}

#[test]
fn a_stored_chain_is_one_event_with_these_bytes() {
    let told = [
        stored(1, 0, descriptor(None, [7, 300], None, &[])),
        stored(2, 0, descriptor(Some(1), [70_000, 0], None, &[])),
    ];
    let expected = format!(
        "93 cb3ff8000000000000 91 98 ab{} 92 {} {} c0 94 07 cd012c ce00011170 00 02 c0 a3637075 c0 c0",
        hex(b"BlockStored"),
        wire_hash(1),
        wire_hash(2)
    );
    let bytes = encode(&told, Encoding::Array, &shape(&[FULL]));
    assert_eq!(hex(&bytes), expected.replace(' ', ""));
}

#[test]
fn a_removal_has_these_bytes() {
    let told = [removed(1, 1, 0), removed(2, 1, 0)];
    let expected = format!(
        "93 cb3ff8000000000000 91 93 ac{} 92 {} {} a7{} c0",
        hex(b"BlockRemoved"),
        wire_hash(1),
        wire_hash(2),
        hex(b"storage")
    );
    let bytes = encode(&told, Encoding::Array, &shape(&[FULL]));
    assert_eq!(hex(&bytes), expected.replace(' ', ""));
}

#[test]
fn a_removal_as_a_map_has_the_bytes_that_vllm_writes() {
    let bytes = encode(&[removed(1, 0, 0)], Encoding::Map, &shape(&[FULL, FULL]));
    let expected = format!(
        "93 cb3ff8000000000000 91 84 a474797065 ac{} ac{} 91 {} a6{} a3637075 a9{} 00 c0",
        hex(b"BlockRemoved"),
        hex(b"block_hashes"),
        wire_hash(1),
        hex(b"medium"),
        hex(b"group_idx")
    );
    assert_eq!(hex(&bytes), expected.replace(' ', ""));
}

#[test]
fn a_stored_block_of_a_window_as_a_map_names_everything() {
    let window = AttentionKind::SlidingWindow { window_tokens: 64 };
    let told = [Told {
        medium: 1,
        ..stored(
            3,
            1,
            descriptor(Some(2), [1, 2], Some("ad"), &[0x91, 0x91, 0xa1, b'x']),
        )
    }];
    let bytes = encode(&told, Encoding::Map, &shape(&[FULL, window]));
    let (Value::Array(batch), _) = decode_value(&bytes).unwrap() else {
        panic!("a batch is an array");
    };
    let Value::Array(events) = &batch[1] else {
        panic!("events are an array");
    };
    let Value::Map(event) = &events[0] else {
        panic!("an event is a map");
    };
    let text = |text: &str| Value::Text(text.to_owned());
    let expected = [
        ("type", text("BlockStored")),
        ("block_hashes", Value::Array(vec![Value::Binary(vec![3; 32])])),
        ("parent_block_hash", Value::Binary(vec![2; 32])),
        ("token_ids", Value::Array(vec![Value::Uint(1), Value::Uint(2)])),
        ("block_size", Value::Uint(2)),
        ("lora_id", Value::Nil),
        ("medium", text("storage")),
        ("lora_name", text("ad")),
        ("extra_keys", Value::Array(vec![Value::Array(vec![text("x")])])),
        ("group_idx", Value::Uint(1)),
        ("kv_cache_spec_kind", text("sliding_window")),
        ("kv_cache_spec_sliding_window", Value::Uint(64)),
        ("locality", text("LOCAL")),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(name, value)| (text(name), value))
        .collect();
    assert_eq!(event, &expected);
}

/// Routers index blocks without a group; with one they want the kind as well.
#[test]
fn the_group_is_said_unless_there_is_one_of_full_attention() {
    let window = AttentionKind::SlidingWindow { window_tokens: 64 };
    for (kinds, group, said) in [
        (vec![FULL], 0, None),
        (vec![window], 0, Some(0)),
        (vec![FULL, window], 0, Some(0)),
        (vec![FULL, window], 1, Some(1)),
    ] {
        let told = [
            stored(1, group, descriptor(None, [1, 2], None, &[])),
            removed(1, 0, group),
        ];
        for encoding in [Encoding::Array, Encoding::Map] {
            let events = decode_batch(&encode(&told, encoding, &shape(&kinds)));
            for event in events {
                let (Event::Stored { group, .. } | Event::Removed { group, .. }) = event else {
                    panic!("nothing is cleared");
                };
                assert_eq!(group, said, "{kinds:?}");
            }
        }
    }
}

#[test]
fn only_blocks_of_one_chain_and_adapter_are_told_together() {
    let told = [
        stored(1, 0, descriptor(None, [1, 2], None, &[])),
        stored(2, 0, descriptor(Some(1), [3, 4], Some("a"), &[])),
        stored(3, 0, descriptor(Some(2), [5, 6], Some("a"), &[0x91, 0x90])),
        stored(4, 0, descriptor(Some(2), [7, 8], Some("a"), &[])),
    ];
    let events = decode_batch(&encode(&told, Encoding::Array, &shape(&[FULL])));
    let counts: Vec<_> = events
        .iter()
        .map(|event| match event {
            Event::Stored {
                hashes, extra_keys, ..
            } => (hashes.len(), extra_keys.clone()),
            Event::Removed { .. } | Event::Cleared => panic!("nothing is removed"),
        })
        .collect();
    let extra = Some(vec![Value::Nil, Value::Array(Vec::new())]);
    assert_eq!(counts, [(1, None), (2, extra), (1, None)]);
}

/// A router deals the entries out evenly, so every block of a run has as many: nothing is that many nils.
#[test]
fn blocks_of_several_of_the_engines_have_an_entry_for_each() {
    let salt: &[u8] = b"\x92\x91\xa1s\xc0";
    let image: &[u8] = b"\xdc\x00\x02\xc0\x91\x92\xa1i\x03";
    let told = [
        stored(1, 0, descriptor(None, [1, 2], None, salt)),
        stored(2, 0, descriptor(Some(1), [3, 4], None, &[])),
        stored(3, 0, descriptor(Some(2), [5, 6], None, image)),
        stored(4, 0, descriptor(Some(3), [7, 8], None, b"\x91\x90")),
        stored(5, 0, descriptor(Some(4), [9, 0], None, b"\x90")),
    ];
    let text = |text: &str| Value::Text(text.to_owned());
    let (nil, list) = (Value::Nil, Value::Array);
    let pair = list(vec![text("i"), Value::Uint(3)]);
    let expected = [
        vec![
            list(vec![text("s")]),
            nil.clone(),
            nil.clone(),
            nil.clone(),
            nil.clone(),
            list(vec![pair]),
        ],
        vec![list(Vec::new()), nil],
    ];
    for encoding in [Encoding::Array, Encoding::Map] {
        let events = decode_batch(&encode(&told, encoding, &shape(&[FULL])));
        let said: Vec<_> = events
            .into_iter()
            .map(|event| match event {
                Event::Stored { extra_keys, .. } => extra_keys.unwrap(),
                Event::Removed { .. } | Event::Cleared => panic!("nothing is removed"),
            })
            .collect();
        assert_eq!(said, expected);
    }
}

#[test]
fn a_block_whose_tokens_do_not_fit_its_namespace_is_left_out() {
    let media = media();
    let shape = shape(&[FULL]);
    let style = Style {
        encoding: Encoding::Array,
        media: &media,
        tiers: TierSet::ALL,
        shape: Some(&shape),
        mix: Mix::default(),
    };
    let odd = BlockDescriptor {
        parent: None,
        tokens: vec![1, 2, 3].into(),
        lora_name: None,
        extra_keys: &[],
    };
    let told = [
        stored(1, 0, odd.encode().unwrap()),
        stored(2, 0, descriptor(None, [1, 2], None, &[])),
    ];
    let mut bytes = Vec::new();
    let left_out = encode_batch(0.0, &told, style, &mut bytes);
    assert_eq!((decode_batch(&bytes).len(), left_out), (1, 1));
}

#[test]
fn large_counts_take_wide_forms_that_are_read_back() {
    let told: Vec<Told> = (0..70_000_u32)
        .map(|number| {
            let mut told = removed(0, 0, 0);
            told.hash.0[..4].copy_from_slice(&number.to_be_bytes());
            told
        })
        .collect();
    let events = decode_batch(&encode(&told, Encoding::Array, &shape(&[FULL])));
    let [Event::Removed { hashes, .. }] = events.as_slice() else {
        panic!("one event");
    };
    assert_eq!(hashes.len(), 70_000);
}

#[test]
fn extra_keys_are_nothing_or_one_array_of_arrays_that_everybody_understands() {
    let deep = [vec![0x91; 9], vec![0xc0]].concat();
    let shallow = [vec![0x91; 8], vec![0xc0]].concat();
    for (bytes, expected) in [
        (&b""[..], Ok(())),
        (b"\xc0", Ok(())),
        (b"\x90", Ok(())),
        (b"\x91\x92\xa1x\x92\xa1y\xcd\x01\x00", Ok(())),
        (b"\x93\xc0\x91\xa1x\xdc\x00\x00", Ok(())),
        (b"\xdc\x00\x01\x91\xa1x", Ok(())),
        (
            b"\x91\x97\xc0\xc2\xff\x05\xd3\0\0\0\0\0\0\0\x01\xcb\0\0\0\0\0\0\0\0\xc4\x02\xff\xff",
            Ok(()),
        ),
        (&shallow, Ok(())),
        (&deep, Err(ExtraKeysError::Depth)),
        (b"\xa1x", Err(ExtraKeysError::NoArray)),
        (b"\x81\xa1x\xa1y", Err(ExtraKeysError::NoArray)),
        (b"\x91\xa1x", Err(ExtraKeysError::EntryNoArray)),
        (b"\x92\xc0\x07", Err(ExtraKeysError::EntryNoArray)),
        (b"\x91\x91\x81\xa1x\xa1y", Err(ExtraKeysError::Kind(0x81))),
        (b"\x91\x91\xd4\x01\x00", Err(ExtraKeysError::Kind(0xd4))),
        (b"\x91\x91\xc1", Err(ExtraKeysError::Kind(0xc1))),
        (b"\x91\x91\xa1\xff", Err(ExtraKeysError::Text)),
        (b"\x91\x91", Err(ExtraKeysError::Length)),
        (b"\x92\xc0", Err(ExtraKeysError::Length)),
        (b"\x91", Err(ExtraKeysError::Length)),
        (b"\x90\x90", Err(ExtraKeysError::Length)),
        (b"\xc0\xc0", Err(ExtraKeysError::Length)),
        (b"\xdd\xff\xff\xff\xff", Err(ExtraKeysError::Length)),
        (b"\x91\x91\xdb\xff\xff\xff\xff", Err(ExtraKeysError::Length)),
        (&[0x90; 4000], Err(ExtraKeysError::TooLong)),
    ] {
        assert_eq!(check_extra_keys(bytes), expected, "{}", hex(bytes));
    }
}

#[test]
fn tiers_with_one_name_are_one_medium() {
    let all = TierSet::ALL;
    let media = |names: [&str; 3]| Media::new(&names.map(str::to_owned));
    assert_eq!(media(["cpu", "storage", "Storage"]).set(all).iter().count(), 2);
    assert_eq!(media(["cpu", "disk", "pool"]).set(all).iter().count(), 3);
    assert_eq!(media(["cpu", "CPU", "cpu"]).set(all).iter().count(), 1);
}

/// Everything that can stand in a batch, for the decoders of others: tests/vllm/test_events.py reads the same files.
fn everything() -> (Vec<Told>, NamespaceShape) {
    let window = AttentionKind::SlidingWindow { window_tokens: 64 };
    let told = vec![
        removed(9, 0, 0),
        removed(9, 1, 1),
        stored(1, 0, descriptor(None, [7, 300], None, &[])),
        stored(
            2,
            0,
            descriptor(Some(1), [70_000, 0], None, &[0x91, 0x91, 0xa1, b'x']),
        ),
        Told {
            medium: 1,
            ..stored(3, 1, descriptor(Some(2), [5, 6], Some("adapter"), &[]))
        },
    ];
    (told, shape(&[FULL, window]))
}

/// `KVTIER_BLESS=1` writes the files anew.
#[test]
fn the_fixtures_are_what_is_written() {
    let place = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let (told, shape) = everything();
    for (name, encoding) in [("array", Encoding::Array), ("map", Encoding::Map)] {
        let path = place.join(format!("batch-{name}.msgpack"));
        let bytes = encode(&told, encoding, &shape);
        if std::env::var_os("KVTIER_BLESS").is_some() {
            std::fs::write(&path, &bytes).unwrap();
        }
        assert!(
            std::fs::read(&path).is_ok_and(|kept| kept == bytes),
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_clearing_is_one_event_without_values() {
    let event = b"\xb0AllBlocksCleared".as_slice();
    for (encoding, begin) in [
        (Encoding::Array, b"\x91\x91".as_slice()),
        (Encoding::Map, b"\x91\x81\xa4type"),
    ] {
        let mut batch = Vec::new();
        super::cleared_batch(0.0, encoding, &mut batch);
        assert!(batch.ends_with(&[begin, event, b"\xc0"].concat()), "{batch:?}");
    }
}
