//! Look-ups wait for blocks from NVMe.

use kvstore_types::{Corruption, ReadClass};

use super::*;

const PENDING: Completion = Completion::LookupPending { hit_tokens: 64 };

/// Four blocks on NVMe and not in host memory.
fn cold() -> Bed {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store_cold(0..4);
    assert_eq!(bed.residency(0), (false, true));
    bed
}

#[test]
fn what_is_on_nvme_is_promoted_together_and_shared() {
    let mut bed = cold();
    assert_eq!(bed.ask(1, &hashes(0..4)), PENDING);
    assert_eq!(
        bed.ask(2, &hashes(0..2)),
        Completion::LookupPending { hit_tokens: 32 }
    );
    let reads = bed.take_orders(is_read);
    assert_eq!(reads.len(), 4, "each block is read once");
    assert_eq!(bed.engine.occupancy().lookups_pending, 2);
    let mut effects = Vec::new();
    for (device, read) in reads.iter().rev() {
        effects.push(answers(&bed.done(*device, read, IoOutcome::Done)));
    }
    assert_eq!(effects, [vec![], vec![], vec![], vec![(1, 64), (2, 32)]]);
    assert_eq!(bed.commit(1, 5, 0, 4).len(), 4);
    assert_eq!(bed.residency(3), (true, true));
    assert_eq!(bed.engine.counters().nvme_hit_blocks, 6);
    assert_eq!(bed.engine.wakes_at(), None);
}

#[test]
fn a_host_hit_is_answered_at_once_beside_a_slow_promotion() {
    let mut bed = cold();
    bed.store(20..22);
    assert_eq!(bed.ask(1, &hashes(0..4)), PENDING);
    assert!(matches!(
        bed.ask(2, &hashes(20..22)),
        Completion::Lookup { hit_tokens: 32, .. }
    ));
}

#[test]
fn at_the_deadline_what_has_arrived_is_the_answer() {
    let mut bed = cold();
    bed.ask(1, &hashes(0..4));
    let (device, first) = bed.order(is_read).unwrap();
    bed.done(device, &first, IoOutcome::Done);
    assert_eq!(bed.engine.wakes_at(), Some(bed.now + Duration::from_secs(1)));
    assert_eq!(answers(&bed.later(Duration::from_millis(999))), []);
    let effects = bed.later(Duration::from_millis(1));
    assert_eq!(answers(&effects), [(1, 16)]);
    let less_urgent = bed.take_orders(|order| {
        matches!(
            order,
            NvmeOrder::SetClass {
                class: ReadClass::Prefetch,
                ..
            }
        )
    });
    assert_eq!(less_urgent.len(), 3);
    assert_eq!(bed.engine.counters().nvme_promotions_late, 1);
    assert_eq!(bed.engine.wakes_at(), None);
    // The reads go on, their slots stay theirs, and the blocks are found when they have come.
    assert_eq!(bed.engine.occupancy().nvme_reads_in_flight, 3);
    assert_eq!(bed.ask(2, &hashes(0..4)), PENDING);
    let urgent = bed.take_orders(|order| matches!(order, NvmeOrder::SetClass { .. }));
    assert_eq!(urgent.len(), 3);
    let effects = bed.settle();
    assert_eq!(answers(&effects), [(2, 64)]);
}

#[test]
fn a_slot_that_is_read_into_is_nobody_elses() {
    let mut bed = cold();
    bed.ask(1, &hashes(0..4));
    bed.later(Duration::from_secs(2));
    bed.end(SCHEDULER, SessionEnd::HungUp);
    bed.attach(SessionId(20), 5, profile(1, Role::Scheduler, 1));
    let granted = |grants: Vec<Grant>| {
        let slots = grants.into_iter().filter(|grant| matches!(grant, Grant::Slot(_)));
        slots.count()
    };
    assert_eq!(granted(bed.reserve(SessionId(20), &hashes(40..48))), 4);
    bed.settle();
    assert_eq!(granted(bed.reserve(SessionId(20), &hashes(50..58))), 4);
}

#[test]
fn a_released_look_up_is_answered_as_a_miss_and_its_tag_is_free() {
    let mut bed = cold();
    bed.ask(1, &hashes(0..4));
    assert_eq!(answers(&bed.release(1)), [(1, 0)]);
    assert_eq!(bed.engine.occupancy().lookups_pending, 0);
    assert_eq!(bed.engine.wakes_at(), None);
    assert_eq!(bed.ask(1, &hashes(0..4)), PENDING);
    assert_eq!(answers(&bed.settle()), [(1, 64)]);
}

#[test]
fn look_ups_that_wait_count_against_the_quotas() {
    let mut bed = cold();
    for tag in 1..4 {
        bed.ask(tag, &hashes(0..4));
    }
    bed.step(Event::Lookup {
        session: SCHEDULER,
        tag: Tag(4),
        groups: &[],
        tokens_max: 1,
    });
    assert_eq!(bed.violation(), Violation::TooManyOperations { max: 3 });
    assert_eq!(bed.engine.occupancy().lookups_pending, 0);
    let mut bed = cold();
    bed.ask(1, &hashes(0..4));
    bed.step(Event::Lookup {
        session: SCHEDULER,
        tag: Tag(1),
        groups: &[],
        tokens_max: 1,
    });
    assert_eq!(bed.violation(), Violation::TagInUse(Tag(1)));
}

#[test]
fn a_reset_answers_what_waits_with_a_miss() {
    let mut bed = cold();
    bed.ask(1, &hashes(0..4));
    let effects = bed
        .step(Event::Reset {
            session: SCHEDULER,
            tag: Tag(7),
            nonce: [1; 16],
        })
        .to_vec();
    assert_eq!(answers(&effects), [(1, 0)]);
    assert_eq!(answers(&bed.settle()), []);
    assert_eq!(bed.look_up(SCHEDULER, 8, &hashes(0..4)).0, 0);
}

#[test]
fn a_corrupt_copy_is_a_counted_miss_and_its_key_can_be_stored_again() {
    let mut bed = cold();
    bed.ask(1, &hashes(0..4));
    let second = |order: &NvmeOrder| matches!(order, NvmeOrder::Read { key, .. } if key.hash.0[0] == 1);
    let effects = bed.answer(second, IoOutcome::Corrupt(Corruption::Payload));
    assert_eq!(removals(&effects), [(1, Tier::Nvme, RemovalCause::Corrupt)]);
    let forget = |order: &NvmeOrder| matches!(order, NvmeOrder::Forget { .. });
    assert!(bed.order(forget).is_some());
    assert_eq!(answers(&bed.settle()), [(1, 16)]);
    assert_eq!(bed.engine.counters().nvme_corrupt_payload, 1);
    bed.release(1);
    bed.store(1..2);
    assert_eq!(bed.look_up(SCHEDULER, 2, &hashes(0..4)).0, 64);
}

#[test]
fn promotions_stop_where_no_slot_can_be_had() {
    let mut bed = cold();
    // Five of eight slots are being filled.
    bed.slots(SCHEDULER, &hashes(60..65));
    assert_eq!(
        bed.ask(1, &hashes(0..4)),
        Completion::LookupPending { hit_tokens: 48 }
    );
    assert_eq!(bed.take_orders(is_read).len(), 3);
    assert_eq!(bed.engine.counters().nvme_promotions_no_space, 1);
    let mut bed = cold();
    bed.slots(SCHEDULER, &hashes(60..68));
    assert!(matches!(
        bed.ask(1, &hashes(0..4)),
        Completion::Lookup { hit_tokens: 0, .. }
    ));
}

#[test]
fn bytes_on_their_way_are_bounded() {
    let mut bed = Bed::with_nvme(config_with(|nvme| nvme.promotion_bytes_max = 8192 * 2));
    bed.store_cold(0..4);
    assert_eq!(
        bed.ask(1, &hashes(0..4)),
        Completion::LookupPending { hit_tokens: 32 }
    );
    assert_eq!(bed.take_orders(is_read).len(), 2);
}

/// A look-up whose longest hit could not all be promoted waited for a shorter one, and went on holding the blocks of the
/// longer one. A sliding window needs other blocks for it, so the session held more than was counted.
#[test]
fn a_look_up_that_waits_for_a_shorter_hit_holds_and_counts_the_blocks_of_that_one() {
    let mut bed = Bed::new(config_with(|nvme| nvme.promotion_bytes_max = 8192 * 2));
    bed.tell(0, NvmeEvent::Loaded);
    let groups = vec![GroupGeometry {
        kind: AttentionKind::SlidingWindow { window_tokens: 33 },
        tokens_per_block: 16,
        rank_bytes: 4096,
    }];
    for (session, role) in [(SCHEDULER, Role::Scheduler), (WORKER, Role::Worker(Rank(0)))] {
        let groups = groups.clone();
        bed.attach(
            session,
            session.0,
            SessionProfile {
                groups,
                ..profile(1, role, 1)
            },
        );
    }
    bed.settle();
    bed.store_cold(0..3);
    bed.store(3..4);
    let hit_tokens = 32;
    assert_eq!(
        bed.ask(1, &hashes(0..2)),
        Completion::LookupPending { hit_tokens }
    );
    // Blocks 2 and 3 would be a longer hit, but block 2 has to stay where it is.
    assert_eq!(
        bed.ask(2, &hashes(0..4)),
        Completion::LookupPending { hit_tokens }
    );
    assert_eq!(bed.engine.occupancy().holds, 0);
    bed.settle();
    assert_eq!(bed.engine.occupancy().holds, 4);
}

#[test]
fn without_a_deadline_nothing_waits() {
    let mut bed = Bed::with_nvme(config_with(|nvme| nvme.promotion_deadline = Duration::ZERO));
    bed.store_cold(0..4);
    assert!(matches!(
        bed.ask(1, &hashes(0..4)),
        Completion::Lookup { hit_tokens: 0, .. }
    ));
    assert_eq!(bed.take_orders(is_read), []);
}

#[test]
fn a_key_that_is_on_nvme_is_not_stored_again() {
    let mut bed = cold();
    assert_eq!(bed.reserve(SCHEDULER, &hashes(0..1)), [Grant::AlreadyPresent]);
    bed.ask(1, &hashes(0..1));
    assert_eq!(bed.reserve(SCHEDULER, &hashes(0..1)), [Grant::AlreadyPresent]);
}

#[test]
fn what_a_waiting_look_up_has_is_held_for_it() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store_cold(2..4);
    bed.store(0..2);
    bed.settle();
    assert_eq!(bed.ask(1, &hashes(0..4)), PENDING);
    // Two are resident and held, two slots are read into: four are left.
    bed.slots(SCHEDULER, &hashes(70..74));
    assert_eq!(bed.engine.counters().holds_taken_back, 0);
    assert_eq!(answers(&bed.settle()), [(1, 64)]);
}
