//! Blocks are stored behind everything else.

use super::*;

#[test]
fn what_is_sealed_is_stored_and_its_slot_stays_until_its_bytes_are_taken() {
    let mut bed = Bed::with_remote(|_| {});
    bed.store(0..16);
    let stores = bed.stores();
    assert_eq!(stores.len(), 16);
    assert_eq!(bed.reserve(SCHEDULER, &hashes(20..21)), [Grant::NoSpace]);
    let operation = stores[0].0;
    bed.hear(RemoteEvent::Taken { operation });
    assert!(matches!(
        bed.reserve(SCHEDULER, &hashes(20..21))[..],
        [Grant::Slot(_)]
    ));
    // The block has left host memory; that it is stored is heard later.
    let effects = bed.stored(operation, RemoteOutcome::Done);
    assert_eq!(announced(&effects), (vec![0], vec![]));
    assert_eq!((bed.places(0), bed.places(1)), ((false, true), (true, false)));
    assert_eq!(bed.engine.counters().remote_stored, 1);
}

#[test]
fn the_namespace_comes_first_and_is_forgotten_with_its_last_block() {
    let mut bed = Bed::with_remote(|_| {});
    bed.store(0..1);
    assert!(matches!(bed.remote[0], RemoteOrder::KeepNamespace { .. }));
    let operation = bed.stores()[0].0;
    bed.stored(operation, RemoteOutcome::Done);
    bed.remote.clear();
    bed.end(WORKER, SessionEnd::Closed);
    bed.end(SCHEDULER, SessionEnd::Closed);
    assert!(bed.remote.is_empty(), "a block is left");
    bed.step(Event::EvictRange(crate::event::EvictRange {
        namespace: None,
        tier: None,
        cursor: 0,
        is_dry_run: false,
    }));
    assert_eq!(bed.places(0), (false, true));
    bed.attach(SCHEDULER, 3, profile(2, Role::Scheduler, 1));
    bed.attach(WORKER, 4, profile(2, Role::Worker(Rank(0)), 1));
    bed.asks(1, &hashes(0..1));
    let operation = bed.fetches()[0].0;
    bed.fetched(operation, RemoteOutcome::Missing);
    bed.end(WORKER, SessionEnd::Closed);
    bed.end(SCHEDULER, SessionEnd::Closed);
    assert!(matches!(bed.remote[..], [RemoteOrder::ForgetNamespace { .. }]));
}

#[test]
fn a_tier_that_is_out_of_service_is_told_nothing_and_catches_up_later() {
    let mut bed = Bed::with_remote(|_| {});
    bed.service(RemoteDirection::Write, false);
    bed.store(0..3);
    assert_eq!(bed.stores(), []);
    assert!(!bed.engine.has_work(), "an idle daemon sleeps");
    bed.service(RemoteDirection::Write, true);
    let stores = bed.stores();
    assert_eq!(stores.iter().map(|store| store.1).collect::<Vec<_>>(), [0, 1, 2]);
    // What fails because the tier does is tried again; what was refused is not.
    bed.service(RemoteDirection::Write, false);
    bed.stored(stores[0].0, RemoteOutcome::Unavailable);
    bed.stored(stores[1].0, RemoteOutcome::Refused);
    bed.stored(stores[2].0, RemoteOutcome::TimedOut);
    bed.service(RemoteDirection::Write, true);
    let again = bed.stores();
    assert_eq!(again.iter().map(|store| store.1).collect::<Vec<_>>(), [0]);
}

#[test]
fn bounds_hold_and_what_does_not_fit_is_counted() {
    let mut bed = Bed::with_remote(|remote| {
        remote.write_bytes_max = 2 * 4096;
        remote.write_queue_max = 3;
    });
    bed.store(0..8);
    let stores = bed.stores();
    assert_eq!(stores.len(), 2);
    // All eight came before any could be ordered: three found a place.
    assert_eq!(bed.engine.counters().remote_store_queue_full, 5);
    assert_eq!(bed.engine.occupancy().remote_queue, 1);
    bed.stored(stores[0].0, RemoteOutcome::AlreadyPresent);
    assert_eq!(bed.stores().len(), 1);
    assert_eq!(bed.engine.counters().remote_store_present, 1);
}

#[test]
fn with_second_touch_the_first_hit_stores() {
    let mut bed = Bed::with_remote(|remote| remote.admission = RemoteAdmission::SecondTouch);
    bed.service(RemoteDirection::Read, false);
    bed.store(0..3);
    assert_eq!(bed.stores(), []);
    bed.look_up(SCHEDULER, 1, &hashes(0..2));
    bed.look_up(SCHEDULER, 2, &hashes(0..2));
    assert_eq!(bed.stores().len(), 2);
}

#[test]
fn on_eviction_what_is_about_to_leave_is_stored_first() {
    let change = |remote: &mut RemoteConfig| remote.admission = RemoteAdmission::OnEviction;
    let mut config = remote_config(change);
    config.watermark_high = 0.8;
    let mut bed = Bed::new(config);
    bed.service(RemoteDirection::Write, true);
    bed.attach(SCHEDULER, 1, profile(1, Role::Scheduler, 1));
    bed.attach(WORKER, 2, profile(1, Role::Worker(Rank(0)), 1));
    bed.store(0..14);
    while bed.engine.has_work() {
        bed.step(Event::Tick);
    }
    let stores = bed.stores();
    assert_eq!(stores.len(), 6, "down to the low watermark");
    assert_eq!(bed.engine.occupancy().slots_resident, 14);
    for &(operation, _) in &stores[1..] {
        bed.hear(RemoteEvent::Taken { operation });
    }
    assert_eq!(bed.engine.occupancy().slots_resident, 9);
    // What is wanted meanwhile stays.
    let wanted = stores[0].1;
    bed.look_up(SCHEDULER, 1, &hashes(wanted..wanted + 1));
    bed.stored(stores[0].0, RemoteOutcome::Done);
    assert_eq!(bed.places(wanted), (true, true));
    for &(operation, _) in &stores[1..] {
        bed.stored(operation, RemoteOutcome::Done);
    }
    assert_eq!(bed.places(stores[1].1), (false, true));
    // Nobody waits for a store.
    bed.store(20..27);
    bed.slots(SCHEDULER, &hashes(30..33));
    assert_eq!(bed.engine.counters().remote_left_unstored, 3);
}

#[test]
fn answers_that_nobody_asked_for_change_nothing() {
    let mut bed = Bed::with_remote(|_| {});
    bed.store(0..1);
    let operation = bed.stores()[0].0;
    bed.fetched(operation, RemoteOutcome::Done);
    bed.existence(operation, &[true]);
    bed.stored(OperationId(99), RemoteOutcome::Done);
    bed.hear(RemoteEvent::Taken {
        operation: OperationId(99),
    });
    assert_eq!(bed.engine.counters().remote_events_unknown, 4);
    bed.hear(RemoteEvent::Taken { operation });
    bed.hear(RemoteEvent::Taken { operation });
    assert_eq!(bed.engine.counters().remote_events_unknown, 5);
    bed.stored(operation, RemoteOutcome::Done);
    assert_eq!(bed.places(0), (true, true));
}

/// Asks for blocks to leave a tier. The answer is how many are not known to be in the remote tier any more, and how many were busy.
fn evict(bed: &mut Bed, tier: Option<Tier>, is_dry_run: bool) -> ((u64, u64), Vec<Effect>) {
    let ask = crate::event::EvictRange {
        namespace: None,
        tier,
        cursor: 0,
        is_dry_run,
    };
    let effects = bed.step(Event::EvictRange(ask)).to_vec();
    let answer = effects.iter().find_map(|effect| match effect {
        Effect::RangeEvicted(evicted) => Some((evicted.remote_blocks, evicted.busy_blocks)),
        _ => None,
    });
    (answer.expect("an answer"), effects)
}

#[test]
fn what_was_removed_from_the_remote_tier_is_forgotten_and_what_is_under_way_is_busy() {
    let mut bed = Bed::with_remote(|_| {});
    bed.store(0..4);
    for (operation, _) in bed.stores() {
        bed.stored(operation, RemoteOutcome::Done);
    }
    let usage = |bed: &Bed| bed.engine.namespaces().next().unwrap();
    assert_eq!(
        (usage(&bed).remote_blocks, usage(&bed).remote_bytes),
        (4, 4 * 4096)
    );
    assert_eq!(usage(&bed).traffic.remote_written_bytes, 4 * 4096);
    bed.flush();
    // One is being fetched, and three are there only.
    assert_eq!(
        bed.asks(1, &hashes(0..1)),
        Completion::LookupPending { hit_tokens: 16 }
    );
    let fetch = bed.fetches()[0].0;
    // Whoever names no tier means those of this node.
    assert_eq!(evict(&mut bed, None, false).0.0, 0);
    assert_eq!(evict(&mut bed, Some(Tier::Remote), true).0, (3, 1));
    assert_eq!(usage(&bed).remote_blocks, 4, "what is only counted stays");
    let (answer, effects) = evict(&mut bed, Some(Tier::Remote), false);
    assert_eq!(answer, (3, 1));
    let told: Vec<_> = (1..4).map(|number| (number, RemovalCause::Requested)).collect();
    assert_eq!(announced(&effects), (vec![], told));
    assert_eq!((usage(&bed).remote_blocks, usage(&bed).remote_bytes), (1, 4096));
    assert_eq!(bed.engine.counters().remote_removed_on_request, 3);
    // What was on its way arrives, or is found to be gone.
    bed.fetched(fetch, RemoteOutcome::Done);
    assert_eq!(usage(&bed).traffic.remote_read_bytes, 4096);
    assert_eq!(bed.places(0), (true, true));
    assert_eq!(evict(&mut bed, Some(Tier::Remote), false).0, (1, 0));
    assert_eq!(bed.places(0), (true, false), "memory keeps its copy");
}
