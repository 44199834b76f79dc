//! The bytes that consumers in other languages are tested with: `tests/llmd/testdata/golden.json`.

use kvstore_types::{AttentionKind, BlockDescriptor, BlockHash, GroupIndex, NamespaceId, Tier};
use serde_json::Value;

use super::msgpack::Writer;
use super::{Encoding, Media, Mix, Style, Told, encode_batch};
use crate::feed::{GroupShape, NamespaceShape};
use crate::tiers::TierSet;

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/llmd/testdata/golden.json"
);

#[test]
fn batches_have_the_bytes_that_consumers_are_tested_with() {
    let file: Value = serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap();
    let mut compared = 0;
    for case in list(&file["cases"]) {
        let events = list(&case["batch"]["events"]);
        if events.iter().any(|event| !event["lora_id"].is_null()) {
            // Old engines number their adapters. Nothing here knows such a number.
            continue;
        }
        let encoding = match text(&case["encoding"]) {
            Some("array") => Encoding::Array,
            _ => Encoding::Map,
        };
        let media = Media::new(&["cpu".into(), "storage".into(), "storage".into()]);
        let shape = shape(events);
        let style = Style {
            encoding,
            media: &media,
            tiers: tiers(events),
            shape: Some(&shape),
            mix: Mix::default(),
        };
        let told: Vec<Told> = events.iter().flat_map(told).collect();
        let seconds = case["batch"]["ts"].as_f64().unwrap();
        let mut bytes = Vec::new();
        let left_out = encode_batch(seconds, &told, style, &mut bytes);
        assert_eq!(left_out, 0, "{} as {encoding:?}", case["name"]);
        assert_eq!(
            bytes,
            octets(&case["payload"]),
            "{} as {encoding:?}",
            case["name"]
        );
        compared += 1;
    }
    assert!(compared > 20, "{compared} of them is too few");
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

fn octets(value: &Value) -> Vec<u8> {
    let digits = text(value).unwrap();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn hash(value: &Value) -> BlockHash {
    BlockHash(octets(value).try_into().unwrap())
}

fn number(value: &Value) -> Option<u32> {
    value.as_u64().map(|number| u32::try_from(number).unwrap())
}

/// Groups are only said where there are several, so there are two of them then.
fn shape(events: &[Value]) -> NamespaceShape {
    let mut sizes = events.iter().filter_map(|event| number(&event["block_size"]));
    let tokens_per_block = sizes.next_back().unwrap_or(64);
    let window_tokens = 1024;
    let kinds = [
        AttentionKind::Full,
        AttentionKind::SlidingWindow { window_tokens },
    ];
    let count = if events.iter().any(|event| !event["group_idx"].is_null()) {
        2
    } else {
        1
    };
    NamespaceShape {
        namespace: NamespaceId([0; 16]),
        model: None,
        groups: kinds[..count]
            .iter()
            .map(|kind| GroupShape {
                kind: *kind,
                tokens_per_block,
            })
            .collect(),
    }
}

fn tiers(events: &[Value]) -> TierSet {
    let is_remote = events
        .iter()
        .any(|event| text(&event["locality"]) == Some("REMOTE"));
    if is_remote {
        TierSet::of(Tier::Remote)
    } else {
        TierSet::ALL
    }
}

/// What has to be told so that this event comes of it.
fn told(event: &Value) -> Vec<Told> {
    let hashes: Vec<BlockHash> = list(&event["block_hashes"]).iter().map(hash).collect();
    let tokens: Vec<u32> = list(&event["token_ids"]).iter().filter_map(number).collect();
    let (count, length) = (hashes.len(), tokens.len() / hashes.len());
    let mut parent = (!event["parent_block_hash"].is_null()).then(|| hash(&event["parent_block_hash"]));
    let mut all = Vec::new();
    for (at, hash) in hashes.into_iter().enumerate() {
        let stored = (text(&event["type"]) == Some("BlockStored")).then(|| {
            let extra_keys = packed(list(&event["extra_keys"]), at, count);
            let descriptor = BlockDescriptor {
                parent,
                tokens: tokens[at * length..(at + 1) * length].into(),
                lora_name: text(&event["lora_name"]),
                extra_keys: &extra_keys,
            };
            descriptor.encode().unwrap()
        });
        parent = Some(hash);
        all.push(Told {
            medium: u8::from(text(&event["medium"]) == Some("storage")),
            group: GroupIndex(u8::try_from(number(&event["group_idx"]).unwrap_or(0)).unwrap()),
            hash,
            stored,
        });
    }
    all
}

/// A block's share of the entries, which are lists of texts, as MessagePack; nothing if none of them says anything.
fn packed(entries: &[Value], block: usize, blocks: usize) -> Vec<u8> {
    let count = entries.len() / blocks;
    let ours = &entries[block * count..(block + 1) * count];
    let mut bytes = Vec::new();
    if ours.iter().all(Value::is_null) {
        return bytes;
    }
    let mut out = Writer::new(&mut bytes);
    out.array(count);
    for entry in ours {
        if entry.is_null() {
            out.nil();
        } else {
            out.array(list(entry).len());
            list(entry)
                .iter()
                .filter_map(text)
                .for_each(|text| out.text(text));
        }
    }
    bytes
}
