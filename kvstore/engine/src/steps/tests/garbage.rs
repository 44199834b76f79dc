//! Any event, with any numbers in it, in any order: nothing panics and the books close.

use kvstore_types::DescriptorRun;
use proptest::prelude::*;

use super::*;

/// Numbers that are likely to mean something, and some that cannot.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0_u32..5, 2 => 0_u32..20, 1 => Just(u32::MAX), 1 => any::<u32>()]
}

fn slots() -> impl Strategy<Value = Vec<SlotRef>> {
    let slot = (number(), number()).prop_map(|(page, generation)| SlotRef { page, generation });
    proptest::collection::vec(slot, 0..4)
}

fn spans() -> impl Strategy<Value = Vec<GroupSpan>> {
    let span =
        (0_u32..3, number(), number()).prop_map(|(group, first, count)| GroupSpan { group, first, count });
    proptest::collection::vec(span, 0..3)
}

fn keys() -> impl Strategy<Value = Vec<(u32, Vec<BlockHash>)>> {
    let group = prop_oneof![9 => 0_u32..2, 1 => any::<u32>()];
    let hashes = (0_u8..8, 0_u8..8).prop_map(|(first, count)| hashes(first..first + count));
    proptest::collection::vec((group, hashes), 0..3)
}

/// An event, and the slots that were granted last in place of random ones where `reuse` says so.
#[derive(Clone, Debug)]
struct Garbage {
    kind: u8,
    session: u64,
    tag: u64,
    lease: u64,
    keys: Vec<(u32, Vec<BlockHash>)>,
    slots: Vec<SlotRef>,
    spans: Vec<GroupSpan>,
    reuse: bool,
    tokens: u64,
}

fn garbage() -> impl Strategy<Value = Garbage> {
    let tokens = prop_oneof![Just(u64::MAX), 0_u64..200];
    let names = (0_u8..18, 0_u64..6, 0_u64..4, 0_u64..4);
    (names, keys(), slots(), spans(), any::<bool>(), tokens).prop_map(
        |((kind, session, tag, lease), keys, slots, spans, reuse, tokens)| Garbage {
            kind,
            session,
            tag,
            lease,
            keys,
            slots,
            spans,
            reuse,
            tokens,
        },
    )
}

fn strange_profile(garbage: &Garbage) -> SessionProfile {
    let role = match garbage.tag {
        0 => Role::Scheduler,
        1 => Role::Observer,
        rank => Role::Worker(Rank(u16::try_from(rank - 2).unwrap())),
    };
    let window_tokens = u32::try_from(garbage.lease).unwrap();
    let windowed = GroupGeometry {
        kind: AttentionKind::SlidingWindow { window_tokens },
        tokens_per_block: 8,
        rank_bytes: garbage.tokens,
    };
    let mut profile = profile(
        u8::try_from(garbage.lease % 2).unwrap(),
        role,
        1 + u16::from(garbage.reuse),
    );
    if garbage.keys.len() == 1 {
        profile.groups.push(windowed);
    }
    profile
}

const TOKENS: [u32; 64] = [7; 64];

fn strange_runs(garbage: &Garbage) -> Vec<DescriptorRun<'static>> {
    let runs = garbage.spans.iter().map(|span| DescriptorRun {
        blocks: span.count,
        tokens_per_block: 16 * (span.first % 2),
        parent: garbage.reuse.then_some(BlockHash([9; 32])),
        tokens: &TOKENS[..span.count.saturating_mul(16).min(64) as usize],
        ..DescriptorRun::undescribed(0)
    });
    runs.collect()
}

fn named_groups(garbage: &Garbage) -> Vec<GroupKeys<'_>> {
    let groups = garbage.keys.iter().map(|(group, hashes)| GroupKeys {
        group: *group,
        hashes,
    });
    groups.collect()
}

fn apply(bed: &mut Bed, granted: &mut Vec<SlotRef>, garbage: &Garbage) {
    let (session, tag, lease) = (SessionId(garbage.session), Tag(garbage.tag), Tag(garbage.lease));
    let groups = named_groups(garbage);
    let slots = if garbage.reuse {
        granted.clone()
    } else {
        garbage.slots.clone()
    };
    let end = if garbage.reuse {
        SessionEnd::Closed
    } else {
        SessionEnd::HungUp
    };
    let runs = &strange_runs(garbage);
    let (groups, spans, slots) = (groups.as_slice(), garbage.spans.as_slice(), slots.as_slice());
    let event = match garbage.kind {
        0..=4 => {
            let process = ProcessId(garbage.session / 2);
            Event::SessionOpened {
                session,
                process,
                profile: strange_profile(garbage),
            }
        }
        5 => Event::SessionEnded { session, end },
        6 => Event::ProcessDied {
            process: ProcessId(garbage.session / 2),
        },
        7 | 8 => Event::Lookup {
            session,
            tag,
            groups,
            tokens_max: garbage.tokens,
        },
        9 => Event::LookupRelease { session, tag },
        10 => Event::LoadCommit {
            session,
            tag,
            lease,
            spans,
        },
        11 => Event::LeaseRelease { session, lease },
        12 | 13 => Event::Reserve {
            session,
            tag,
            groups,
            runs,
        },
        14 | 15 => Event::Seal { session, tag, slots },
        16 if garbage.reuse => Event::Reset {
            session,
            tag,
            nonce: [9; 16],
        },
        16 => Event::Abort { session, tag, slots },
        _ => Event::Tick,
    };
    bed.step(event);
    let new = bed.effects.grants.iter().filter_map(|grant| match grant {
        Grant::Slot(slot) => Some(*slot),
        _ => None,
    });
    let new: Vec<SlotRef> = new.collect();
    if !new.is_empty() {
        *granted = new;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]
    #[test]
    fn no_sequence_of_events_panics_or_unbalances_the_books(
        events in proptest::collection::vec(garbage(), 1..120)
    ) {
        let mut bed = Bed::new(EngineConfig { watermark_low: 0.3, watermark_high: 0.6, ..config() });
        let mut granted = Vec::new();
        for garbage in &events {
            apply(&mut bed, &mut granted, garbage);
        }
    }
}
