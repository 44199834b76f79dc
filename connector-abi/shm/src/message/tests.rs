use std::sync::Arc;

use kvstore_types::{BlockHash, GroupSpan, NamespaceId, SlotRef, Tag};
use memmap2::MmapMut;
use proptest::prelude::*;

use super::*;
use crate::{
    Consumer, MessageBuffer,
    memory::{Mapping, RingLines, RingMemory},
};

mod events;
mod runs;
mod trace;

const CAPACITY: usize = 64 << 10;

fn ring() -> (Producer, Consumer) {
    let lines = RingLines {
        tail: 0,
        head: 128,
        consumer_sleeping: 256,
        producer_waiting: 384,
        bytes: 512,
        capacity: CAPACITY,
    };
    let mapping = Arc::new(Mapping::new(MmapMut::map_anon(512 + CAPACITY).unwrap().into()));
    let memory = || RingMemory::new(Arc::clone(&mapping), lines);
    (Producer::new(memory()), Consumer::new(memory()))
}

fn wire(encode: impl FnOnce(&mut Producer) -> Result<(), SendError>) -> Vec<u8> {
    let (mut producer, mut consumer) = ring();
    encode(&mut producer).unwrap();
    consumer
        .pop_into(&mut MessageBuffer::new())
        .unwrap()
        .unwrap()
        .to_vec()
}

/// Bytes in memory that is aligned as decoding wants it.
fn aligned<T>(bytes: &[u8], read: impl FnOnce(&[u8]) -> T) -> T {
    let mut buffer = MessageBuffer::new();
    let place = buffer.reserve(bytes.len());
    place.copy_from_slice(bytes);
    read(place)
}

/// A message of numbers below 2^32, in which each may be given as a whole little-endian word.
fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

const SPANS: [GroupSpan; 1] = [GroupSpan {
    group: 1,
    first: 2,
    count: 3,
}];
const SLOTS: [SlotRef; 2] = [
    SlotRef {
        page: 5,
        generation: 6,
    },
    SlotRef {
        page: 7,
        generation: 8,
    },
];

#[test]
fn requests_are_golden_bytes() {
    let hashes = [BlockHash([0xaa; 32]), BlockHash([0xbb; 32])];
    let groups = [
        GroupKeys {
            group: 0,
            hashes: &hashes[..1],
        },
        GroupKeys {
            group: 3,
            hashes: &hashes[1..],
        },
    ];
    let keys = Keys::new(&groups);
    let tag = Tag(9 << 32 | 4);
    let mut packed = words(&[0, 1, 3, 1]);
    packed.extend([[0xaa; 32], [0xbb; 32]].concat());
    let with_keys = |head: &[u32]| [words(head), packed.clone()].concat();
    let cases = [
        (
            Request::Lookup {
                tag,
                tokens_max: 77,
                keys,
            },
            with_keys(&[112, 1, 4, 9, 2, 0, 77, 0]),
        ),
        (Request::LookupRelease { tag }, words(&[32, 2, 4, 9, 0, 0, 0, 0])),
        (
            Request::LoadCommit {
                tag,
                lease: Tag(1 << 32),
                spans: &SPANS,
            },
            words(&[48, 3, 4, 9, 1, 0, 0, 1, 1, 2, 3, 0]),
        ),
        (
            Request::LeaseRelease { lease: tag },
            words(&[32, 4, 4, 9, 0, 0, 0, 0]),
        ),
        (
            Request::Reserve { tag, keys },
            with_keys(&[112, 5, 4, 9, 2, 0, 0, 0]),
        ),
        (
            Request::Seal { tag, slots: &SLOTS },
            words(&[48, 6, 4, 9, 2, 0, 0, 0, 5, 6, 7, 8]),
        ),
        (
            Request::Abort { tag, slots: &SLOTS },
            words(&[48, 7, 4, 9, 2, 0, 0, 0, 5, 6, 7, 8]),
        ),
        (
            Request::Reset { tag, nonce: [1; 16] },
            words(&[
                48, 8, 4, 9, 0, 0, 0, 0, 0x101_0101, 0x101_0101, 0x101_0101, 0x101_0101,
            ]),
        ),
        (Request::Counters { tag }, words(&[32, 9, 4, 9, 0, 0, 0, 0])),
        (Request::Close, words(&[32, 10, 0, 0, 0, 0, 0, 0])),
    ];
    for (request, expected) in cases {
        let bytes = wire(|producer| request.encode(producer));
        assert_eq!(bytes, expected, "{request:?}");
        aligned(&bytes, |bytes| assert_eq!(Request::decode(bytes), Ok(request)));
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table with one case for each completion")]
fn completions_are_golden_bytes() {
    let tag = Tag(4);
    let layout = RankLayout {
        slot_bytes: 4096,
        rank_offset: 128,
        rank_bytes: 100,
    };
    let ones = [0x101_0101; 4];
    let id = NamespaceId([1; 16]);
    let head = |length, op, tag, count, arg32, arg, upper| vec![length, op, tag, 0, count, arg32, arg, upper];
    let with = |mut head: Vec<u32>, tail: &[u32]| {
        head.extend(tail);
        words(&head)
    };
    let outcome = LookupOutcome::QuotaExceeded;
    let cases = [
        (
            Completion::Lookup {
                tag,
                hit_tokens: 77,
                outcome,
                spans: &SPANS,
            },
            with(head(48, 1, 4, 1, 2, 77, 0), &[1, 2, 3, 0]),
        ),
        (
            Completion::LookupPending {
                tag,
                hit_tokens: (3 << 32) + 77,
            },
            with(head(32, 2, 4, 0, 0, 77, 3), &[]),
        ),
        (
            Completion::Load {
                lease: tag,
                lost: 1,
                grants: &SLOTS,
            },
            with(head(48, 3, 4, 2, 1, 0, 0), &[5, 6, 7, 8]),
        ),
        (
            Completion::Reserve { tag, grants: &SLOTS },
            with(head(48, 5, 4, 2, 0, 0, 0), &[5, 6, 7, 8]),
        ),
        (
            Completion::Seal {
                tag,
                published: 1,
                sealed: 2,
                stale: 3,
            },
            with(head(32, 6, 4, 0, 3, 1, 2), &[]),
        ),
        (
            Completion::Abort {
                tag,
                aborted: 1,
                stale: 3,
            },
            with(head(32, 7, 4, 0, 3, 1, 0), &[]),
        ),
        (
            Completion::Reset {
                tag,
                namespace: Some(id),
            },
            with(head(48, 8, 4, 0, 1, 0, 0), &ones),
        ),
        (
            Completion::Reset { tag, namespace: None },
            with(head(48, 8, 4, 0, 0, 0, 0), &[0; 4]),
        ),
        (
            Completion::Counters { tag, json: "{}" },
            with(head(40, 9, 4, 2, 0, 0, 0), &[0x7d7b, 0]),
        ),
        (
            Completion::NamespaceReady {
                namespace: id,
                groups: &[layout],
            },
            with(
                head(72, 32, 0, 1, 0, 0, 0),
                &[ones.as_slice(), &[4096, 0, 128, 0, 100, 0]].concat(),
            ),
        ),
        (Completion::Draining, with(head(32, 33, 0, 0, 0, 0, 0), &[])),
    ];
    for (completion, expected) in cases {
        let bytes = wire(|producer| completion.encode(producer));
        assert_eq!(bytes, expected, "{completion:?}");
        assert_eq!(bytes.len(), completion.wire_bytes(), "{completion:?}");
        aligned(&bytes, |bytes| {
            assert_eq!(Completion::decode(bytes), Ok(completion));
        });
    }
    assert_eq!(
        GrantReason::Lost.to_wire(),
        SlotRef {
            page: 0,
            generation: 6
        }
    );
}

#[test]
fn what_is_wrong_with_a_request_is_named() {
    let cases: [(&[u32], &str); 16] = [
        (
            &[40, 9, 0, 0, 0, 0, 0, 0],
            "the header says 40 bytes, the message has 32",
        ),
        (&[32, 0, 0, 0, 0, 0, 0, 0], "unknown operation 0"),
        (&[32, 15, 0, 0, 0, 0, 0, 0], "unknown operation 15"),
        (
            &[32, 1 << 16 | 9, 0, 0, 0, 0, 0, 0],
            "counters: flags is 0x1, want 0",
        ),
        (&[32, 9, 0, 0, 0, 5, 0, 0], "counters: arg32 is 0x5, want 0"),
        (&[32, 9, 0, 0, 0, 0, 0, 1], "counters: arg is 0x100000000, want 0"),
        (&[32, 9, 0, 0, 2, 0, 0, 0], "counters: count is 0x2, want 0"),
        (
            &[40, 9, 0, 0, 0, 0, 0, 0, 0, 0],
            "counters: 0 bytes of payload follow from its counts, got 8",
        ),
        (&[32, 10, 1, 0, 0, 0, 0, 0], "close: tag is 0x1, want 0"),
        (
            &[32, 6, 0, 0, u32::MAX, 0, 0, 0],
            "seal: 34359738360 bytes of payload follow from its counts, got 0",
        ),
        (
            &[48, 3, 0, 0, 1, 0, 0, 0, 1, 2, 3, 4],
            "load commit: padding is 0x4, want 0",
        ),
        (
            &[32, 1, 0, 0, 65, 0, 0, 0],
            "lookup: the number of groups is 65, at most 64 are allowed",
        ),
        (
            &[32, 5, 0, 0, 1, 0, 0, 0],
            "reserve: 8 bytes of payload follow from its counts, got 0",
        ),
        (
            &[40, 5, 0, 0, 1, 0, 0, 0, 0, u32::MAX],
            "reserve: 137438953448 bytes of payload follow",
        ),
        (
            &[40, 8, 0, 0, 0, 0, 0, 0, 0, 0],
            "reset: 16 bytes of payload follow from its counts, got 8",
        ),
        (
            &[48, 8, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0],
            "reset: count is 0x1, want 0",
        ),
    ];
    for (message, expected) in cases {
        let error = aligned(&words(message), |bytes| {
            Request::decode(bytes).unwrap_err().to_string()
        });
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
}

#[test]
fn what_is_wrong_with_a_completion_is_named() {
    let cases: [(&[u32], &str); 10] = [
        (&[32, 4, 0, 0, 0, 0, 0, 0], "unknown operation 4"),
        (&[32, 2, 0, 0, 1, 0, 0, 0], "lookup pending: count is 0x1, want 0"),
        (&[32, 2, 0, 0, 0, 1, 0, 0], "lookup pending: arg32 is 0x1, want 0"),
        (
            &[40, 2, 0, 0, 0, 0, 0, 0, 0, 0],
            "lookup pending: 0 bytes of payload follow from its counts, got 8",
        ),
        (&[32, 1, 0, 0, 0, 3, 0, 0], "lookup: outcome is 3, want 0 to 2"),
        (
            &[40, 9, 0, 0, 1, 0, 0, 0, 0xff, 0],
            "counters: the payload is not UTF-8",
        ),
        (
            &[48, 8, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0],
            "reset: arg32 is 2, want 0 or 1",
        ),
        (&[48, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], "reset: namespace is 1"),
        (&[32, 7, 0, 0, 0, 0, 0, 1], "abort: the upper half of arg is 0x1"),
        (
            &[32, 32, 0, 0, 0, 0, 0, 0],
            "namespace ready: 16 bytes of payload follow",
        ),
    ];
    for (message, expected) in cases {
        let error = aligned(&words(message), |bytes| {
            Completion::decode(bytes).unwrap_err().to_string()
        });
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
}

#[test]
fn a_message_cut_at_any_byte_is_refused() {
    let hashes = [BlockHash([0xaa; 32]); 3];
    let groups = [GroupKeys {
        group: 0,
        hashes: &hashes,
    }];
    let request = Request::Lookup {
        tag: Tag(1),
        tokens_max: 1,
        keys: Keys::new(&groups),
    };
    let bytes = wire(|producer| request.encode(producer));
    for end in 0..bytes.len() {
        aligned(&bytes[..end], |bytes| {
            assert!(Request::decode(bytes).is_err(), "{end}");
        });
    }
}

#[test]
fn a_message_larger_than_the_ring_is_refused_and_nothing_is_sent() {
    let (mut producer, mut consumer) = ring();
    let hashes = vec![BlockHash([1; 32]); CAPACITY / 32];
    let groups = [GroupKeys {
        group: 0,
        hashes: &hashes,
    }];
    let request = Request::Reserve {
        tag: Tag(1),
        keys: Keys::new(&groups),
    };
    let expected = SendError::TooLarge {
        needed: CAPACITY + 40,
        capacity: CAPACITY,
    };
    assert_eq!(request.encode(&mut producer), Err(expected));
    assert!(consumer.is_empty().unwrap());
}

fn hashes() -> impl Strategy<Value = Vec<Vec<[u8; 32]>>> {
    prop::collection::vec(prop::collection::vec(any::<[u8; 32]>(), 0..20), 0..8)
}

fn pairs() -> impl Strategy<Value = Vec<(u32, u32)>> {
    prop::collection::vec(any::<(u32, u32)>(), 0..50)
}

fn round_trip(request: Request<'_>) {
    let bytes = wire(|producer| request.encode(producer));
    aligned(&bytes, |bytes| assert_eq!(Request::decode(bytes), Ok(request)));
}

fn complete_round_trip(completion: Completion<'_>) {
    let bytes = wire(|producer| completion.encode(producer));
    assert_eq!(bytes.len(), completion.wire_bytes());
    aligned(&bytes, |bytes| {
        assert_eq!(Completion::decode(bytes), Ok(completion));
    });
}

proptest! {
    #[test]
    fn keys_come_out_as_they_went_in(
        parts in hashes(), first in any::<u32>(), tag in any::<u64>(), tokens_max in any::<u64>(),
    ) {
        let parts: Vec<Vec<BlockHash>> = parts.into_iter().map(|part| part.into_iter().map(BlockHash).collect()).collect();
        let group = |(index, part)| GroupKeys { group: first.wrapping_add(index), hashes: part };
        let groups: Vec<_> = (0..).zip(parts.iter().map(Vec::as_slice)).map(group).collect();
        let keys = Keys::new(&groups);
        round_trip(Request::Lookup { tag: Tag(tag), tokens_max, keys });
        round_trip(Request::Reserve { tag: Tag(tag), keys });
    }

    #[test]
    fn slots_and_spans_come_out_as_they_went_in(pairs in pairs(), tag in any::<u64>(), other in any::<u32>()) {
        let tag = Tag(tag);
        let slots: Vec<_> = pairs.iter().map(|&(page, generation)| SlotRef { page, generation }).collect();
        let spans: Vec<_> = pairs.iter().map(|&(first, count)| GroupSpan { group: other, first, count }).collect();
        round_trip(Request::Seal { tag, slots: &slots });
        round_trip(Request::Abort { tag, slots: &slots });
        round_trip(Request::LoadCommit { tag, lease: Tag(other.into()), spans: &spans });
        complete_round_trip(Completion::Load { lease: tag, lost: other, grants: &slots });
        complete_round_trip(Completion::Reserve { tag, grants: &slots });
        let outcome = LookupOutcome::Complete;
        complete_round_trip(Completion::Lookup { tag, hit_tokens: other.into(), outcome, spans: &spans });
        complete_round_trip(Completion::LookupPending { tag, hit_tokens: u64::from(other) << 7 });
        complete_round_trip(Completion::Seal { tag, published: other, sealed: !other, stale: other });
    }

    #[test]
    fn text_comes_out_as_it_went_in(json in ".{0,40}", tag in any::<u64>()) {
        complete_round_trip(Completion::Counters { tag: Tag(tag), json: &json });
    }

    /// Whatever decodes is exactly what encoding produces: there is one encoding of each message.
    #[test]
    fn random_bytes_never_panic_and_decode_only_if_canonical(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200), op in 0_u16..40, count in 0_u32..6, tidy in any::<bool>(),
    ) {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        if tidy && bytes.len() >= 32 {
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            bytes[4..6].copy_from_slice(&op.to_le_bytes());
            bytes[6..8].fill(0);
            bytes[16..20].copy_from_slice(&count.to_le_bytes());
            bytes[20..32].fill(0);
        }
        aligned(&bytes, |message| {
            if let Ok(request) = Request::decode(message) {
                assert_eq!(wire(|producer| request.encode(producer)), message);
            }
            if let Ok(completion) = Completion::decode(message) {
                assert_eq!(wire(|producer| completion.encode(producer)), message);
            }
        });
    }

    #[test]
    fn a_message_with_one_byte_changed_never_panics(
        parts in hashes(), at in any::<prop::sample::Index>(), value in any::<u8>(),
    ) {
        let parts: Vec<Vec<BlockHash>> = parts.into_iter().map(|part| part.into_iter().map(BlockHash).collect()).collect();
        let groups: Vec<_> = parts.iter().map(|part| GroupKeys { group: 1, hashes: part }).collect();
        let request = Request::Lookup { tag: Tag(1), tokens_max: 2, keys: Keys::new(&groups) };
        let mut bytes = wire(|producer| request.encode(producer));
        let at = at.index(bytes.len());
        bytes[at] = value;
        aligned(&bytes, |message| {
            if let Ok(request) = Request::decode(message) {
                assert_eq!(wire(|producer| request.encode(producer)), message);
            }
        });
    }
}
