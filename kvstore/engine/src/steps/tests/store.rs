//! Reservations, seals, eviction.

use kvstore_types::Tier;

use super::*;

#[test]
fn a_block_is_found_when_all_ranks_have_sealed_and_not_before() {
    let mut bed = Bed::new(config());
    bed.attach(SCHEDULER, 1, profile(1, Role::Scheduler, 2));
    bed.attach(SessionId(1), 1, profile(1, Role::Worker(Rank(0)), 2));
    bed.attach(SessionId(2), 2, profile(1, Role::Worker(Rank(1)), 2));
    let slots = bed.slots(SCHEDULER, &hashes(0..2));
    assert_eq!(
        bed.seal(SessionId(1), &slots),
        Completion::Seal {
            sealed: 2,
            published: 0,
            stale: 0
        }
    );
    assert_eq!(bed.look_up(SCHEDULER, 1, &hashes(0..2)).0, 0);
    assert_eq!(bed.reserve(SCHEDULER, &hashes(0..1)), [Grant::Filling]);
    assert_eq!(
        bed.seal(SessionId(1), &slots),
        Completion::Seal {
            sealed: 0,
            published: 0,
            stale: 2
        }
    );
    assert_eq!(
        bed.seal(SessionId(2), &slots),
        Completion::Seal {
            sealed: 2,
            published: 2,
            stale: 0
        }
    );
    assert!(matches!(bed.effects.list[0], Effect::BlockStored { key, .. } if key.hash == hashes(0..1)[0]));
    assert_eq!(bed.look_up(SCHEDULER, 2, &hashes(0..3)).0, 32);
    assert_eq!(bed.reserve(SCHEDULER, &hashes(1..2)), [Grant::AlreadyPresent]);
}

#[test]
fn an_aborted_slot_is_free_when_the_last_rank_is_done_with_it() {
    let mut bed = Bed::new(config());
    bed.attach(SCHEDULER, 1, profile(1, Role::Scheduler, 2));
    bed.attach(SessionId(1), 1, profile(1, Role::Worker(Rank(0)), 2));
    bed.attach(SessionId(2), 2, profile(1, Role::Worker(Rank(1)), 2));
    let slots = bed.slots(SCHEDULER, &hashes(0..1));
    bed.step(Event::Abort {
        session: SessionId(1),
        tag: Tag(3),
        slots: &slots,
    });
    assert_eq!(bed.completion(), Completion::Abort { aborted: 1, stale: 0 });
    assert_eq!(bed.engine.occupancy().slots_quarantined, 1);
    // The key is free for another try at once.
    let again = bed.slots(SCHEDULER, &hashes(0..1));
    assert_eq!(
        bed.seal(SessionId(2), &slots),
        Completion::Seal {
            sealed: 0,
            published: 0,
            stale: 1
        }
    );
    assert_eq!(bed.engine.occupancy().slots_quarantined, 0);
    bed.step(Event::Abort {
        session: SCHEDULER,
        tag: Tag(4),
        slots: &again,
    });
    assert_eq!(bed.completion(), Completion::Abort { aborted: 1, stale: 0 });
    assert_eq!(bed.engine.occupancy().bytes_used, 0);
}

#[test]
fn draining_refuses_stores_and_newcomers_and_lets_the_rest_finish() {
    let mut bed = Bed::attached();
    let slots = bed.slots(SCHEDULER, &hashes(0..2));
    bed.step(Event::Drain);
    assert_eq!(bed.reserve(SCHEDULER, &hashes(2..3)), [Grant::Draining]);
    assert_eq!(
        bed.seal(WORKER, &slots),
        Completion::Seal {
            sealed: 2,
            published: 2,
            stale: 0
        }
    );
    assert_eq!(bed.look_up(SCHEDULER, 1, &hashes(0..2)).0, 32);
    assert_eq!(bed.refusal(99, profile(3, Role::Scheduler, 1)), Refusal::Draining);
}

#[test]
fn the_watermark_is_restored_in_steps_and_then_the_engine_rests() {
    let mut bed = Bed::new(EngineConfig {
        watermark_high: 0.75,
        ..config()
    });
    bed.attach(SCHEDULER, 1, profile(1, Role::Scheduler, 1));
    bed.attach(WORKER, 2, profile(1, Role::Worker(Rank(0)), 1));
    bed.store(0..12);
    assert!(!bed.engine.has_work());
    bed.store(12..13);
    assert!(bed.engine.has_work());
    let effects = bed.step(Event::Tick).to_vec();
    let evicted = |effect: &&Effect| {
        matches!(
            effect,
            Effect::BlockRemoved {
                tier: Tier::Host,
                cause: RemovalCause::Evicted,
                ..
            }
        )
    };
    assert_eq!(effects.iter().filter(evicted).count(), 5);
    assert!(!bed.engine.has_work());
    // Where nothing may go there is nothing to do, and no reason to spin.
    assert_eq!(bed.look_up(SCHEDULER, 1, &hashes(0..7)).0, 7 * 16);
    bed.store(20..28);
    bed.look_up(SCHEDULER, 2, &hashes(20..28));
    assert!(bed.engine.has_work());
    bed.step(Event::Tick);
    assert!(!bed.engine.has_work());
    assert_eq!(bed.engine.occupancy().slots_resident, 15);
}

#[test]
fn an_arena_moves_to_a_size_that_has_less_than_its_share() {
    let mut bed = Bed::attached();
    bed.store(0..16);
    let group = GroupGeometry {
        kind: AttentionKind::Full,
        tokens_per_block: 16,
        rank_bytes: 8192,
    };
    let large = |role| SessionProfile {
        groups: vec![group],
        ..profile(2, role, 1)
    };
    bed.attach(SessionId(20), 3, large(Role::Scheduler));
    bed.attach(SessionId(21), 4, large(Role::Worker(Rank(0))));
    // Four arenas, two sizes: two arenas of two slots each, and not one more.
    let grants = bed.reserve(SessionId(20), &hashes(0..5));
    assert_eq!(
        grants
            .iter()
            .filter(|grant| matches!(grant, Grant::Slot(_)))
            .count(),
        4
    );
    assert_eq!(grants[4], Grant::NoSpace);
    let moved = |effect: &&Effect| {
        matches!(
            effect,
            Effect::BlockRemoved {
                tier: Tier::Host,
                cause: RemovalCause::ArenaMoved,
                ..
            }
        )
    };
    assert_eq!(bed.effects.list.iter().filter(moved).count(), 8);
    assert_eq!(bed.engine.counters().arenas_moved, 2);
}
