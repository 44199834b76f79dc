//! Reads MessagePack and vLLM's events back.

use std::collections::BTreeMap;

/// Any value.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the kinds of MessagePack")]
pub enum Value {
    Nil,
    Bool(bool),
    Uint(u64),
    Int(i64),
    Float(f64),
    Text(String),
    Binary(Vec<u8>),
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
}

/// An event as a router sees it.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Blocks came.
    Stored {
        /// Their hashes, each after its parent.
        hashes: Vec<Vec<u8>>,
        /// The parent of the first.
        parent: Option<Vec<u8>>,
        /// The tokens of all of them.
        tokens: Vec<u64>,
        /// Tokens of each.
        block_size: u64,
        /// Where.
        medium: String,
        /// The adapter.
        lora_name: Option<String>,
        /// Of each block, if any has them.
        extra_keys: Option<Vec<Value>>,
        /// The group, where it is said.
        group: Option<u64>,
    },
    /// Blocks went.
    Removed {
        /// Their hashes.
        hashes: Vec<Vec<u8>>,
        /// From where.
        medium: String,
        /// The group, where it is said.
        group: Option<u64>,
    },
    /// All blocks went.
    Cleared,
}

/// One value, and what follows it.
pub fn decode_value(bytes: &[u8]) -> Option<(Value, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    let take = |rest: &'_ [u8], count: usize| -> Option<usize> { (rest.len() >= count).then_some(count) };
    let number = |rest: &[u8], width: usize| -> Option<u64> {
        take(rest, width)?;
        Some(
            rest[..width]
                .iter()
                .fold(0, |sum, byte| (sum << 8) | u64::from(*byte)),
        )
    };
    let counted = |width: usize| -> Option<(usize, &[u8])> {
        Some((usize::try_from(number(rest, width)?).ok()?, &rest[width..]))
    };
    let text = |(count, rest): (usize, &'_ [u8])| -> Option<(Value, usize)> {
        take(rest, count)?;
        let text = String::from_utf8(rest[..count].to_vec()).ok()?;
        Some((Value::Text(text), count))
    };
    Some(match kind {
        0x00..=0x7f => (Value::Uint(u64::from(kind)), rest),
        0xe0..=0xff => (Value::Int(i64::from(kind.cast_signed())), rest),
        0xc0 => (Value::Nil, rest),
        0xc2 | 0xc3 => (Value::Bool(kind == 0xc3), rest),
        0xca => {
            let bits = u32::try_from(number(rest, 4)?).ok()?;
            (Value::Float(f64::from(f32::from_bits(bits))), &rest[4..])
        }
        0xcb => (Value::Float(f64::from_bits(number(rest, 8)?)), &rest[8..]),
        0xcc..=0xcf => {
            let width = 1 << (kind - 0xcc);
            (Value::Uint(number(rest, width)?), &rest[width..])
        }
        0xd0..=0xd3 => {
            let width = 1 << (kind - 0xd0);
            let shift = 64 - 8 * width;
            let value = (number(rest, width)? << shift).cast_signed() >> shift;
            (Value::Int(value), &rest[width..])
        }
        0xa0..=0xbf => {
            let (value, count) = text((usize::from(kind & 0x1f), rest))?;
            (value, &rest[count..])
        }
        0xd9..=0xdb => {
            let (count, rest) = counted(1 << (kind - 0xd9))?;
            let (value, count) = text((count, rest))?;
            (value, &rest[count..])
        }
        0xc4..=0xc6 => {
            let (count, rest) = counted(1 << (kind - 0xc4))?;
            take(rest, count)?;
            (Value::Binary(rest[..count].to_vec()), &rest[count..])
        }
        0x90..=0x9f => array(usize::from(kind & 0x0f), rest)?,
        0xdc | 0xdd => {
            let (count, rest) = counted(if kind == 0xdc { 2 } else { 4 })?;
            array(count, rest)?
        }
        0x80..=0x8f => map(usize::from(kind & 0x0f), rest)?,
        0xde | 0xdf => {
            let (count, rest) = counted(if kind == 0xde { 2 } else { 4 })?;
            map(count, rest)?
        }
        _ => return None,
    })
}

fn array(count: usize, mut rest: &[u8]) -> Option<(Value, &[u8])> {
    let mut values = Vec::new();
    for _ in 0..count {
        let (value, after) = decode_value(rest)?;
        values.push(value);
        rest = after;
    }
    Some((Value::Array(values), rest))
}

fn map(count: usize, mut rest: &[u8]) -> Option<(Value, &[u8])> {
    let mut values = Vec::new();
    for _ in 0..count {
        let (name, after) = decode_value(rest)?;
        let (value, after) = decode_value(after)?;
        values.push((name, value));
        rest = after;
    }
    Some((Value::Map(values), rest))
}

/// A whole batch, as strictly as the strictest router reads it.
pub fn decode_batch(payload: &[u8]) -> Vec<Event> {
    let (Value::Array(batch), rest) = decode_value(payload).expect("MessagePack") else {
        panic!("a batch is an array");
    };
    assert!(rest.is_empty(), "a batch is one value");
    let [Value::Float(_), Value::Array(events), Value::Nil] = batch.as_slice() else {
        panic!("a batch has three values: {batch:?}");
    };
    events.iter().map(event).collect()
}

const STORED: [&str; 11] = [
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
    "kv_cache_spec_sliding_window",
];
const REMOVED: [&str; 3] = ["block_hashes", "medium", "group_idx"];

/// An event's values by name, whichever form it has.
fn named(value: &Value) -> BTreeMap<String, Value> {
    let mut named = BTreeMap::new();
    match value {
        Value::Array(values) => {
            let Some(Value::Text(tag)) = values.first() else {
                panic!("an event begins with its tag: {value:?}");
            };
            let names: &[&str] = if tag == "BlockStored" { &STORED } else { &REMOVED };
            assert!(values.len() <= names.len() + 1, "{value:?}");
            named.insert("type".to_owned(), values[0].clone());
            let names = names.iter().map(|name| (*name).to_owned());
            named.extend(names.zip(values[1..].iter().cloned()));
        }
        Value::Map(values) => {
            for (name, value) in values {
                let Value::Text(name) = name else {
                    panic!("names are texts: {name:?}");
                };
                named.insert(name.clone(), value.clone());
            }
        }
        other => panic!("neither an array nor a map: {other:?}"),
    }
    named
}

fn event(value: &Value) -> Event {
    let mut named = named(value);
    let mut get = |name: &str| named.remove(name).unwrap_or(Value::Nil);
    let Value::Text(tag) = get("type") else {
        panic!("no tag");
    };
    if tag == "AllBlocksCleared" {
        return Event::Cleared;
    }
    let hashes = list(get("block_hashes")).into_iter().map(binary).collect();
    let medium = text(get("medium")).expect("a medium");
    let group = number(&get("group_idx"));
    match tag.as_str() {
        "BlockRemoved" => Event::Removed {
            hashes,
            medium,
            group,
        },
        "BlockStored" => Event::Stored {
            hashes,
            parent: match get("parent_block_hash") {
                Value::Nil => None,
                other => Some(binary(other)),
            },
            tokens: list(get("token_ids"))
                .iter()
                .map(|token| number(token).expect("a token"))
                .collect(),
            block_size: number(&get("block_size")).expect("a block size"),
            medium,
            lora_name: text(get("lora_name")),
            extra_keys: match get("extra_keys") {
                Value::Nil => None,
                other => Some(list(other)),
            },
            group,
        },
        other => panic!("a router drops the batch: {other:?}"),
    }
}

fn list(value: Value) -> Vec<Value> {
    let Value::Array(values) = value else {
        panic!("no array: {value:?}");
    };
    values
}

fn binary(value: Value) -> Vec<u8> {
    let Value::Binary(bytes) = value else {
        panic!("no hash: {value:?}");
    };
    assert_eq!(bytes.len(), 32);
    bytes
}

fn text(value: Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text),
        Value::Nil => None,
        other => panic!("no text: {other:?}"),
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Uint(number) => Some(*number),
        Value::Nil => None,
        other => panic!("no number: {other:?}"),
    }
}
