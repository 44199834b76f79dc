//! Look-ups ask the remote tier, and wait for what is there.

use super::*;

const fn pending(blocks: u64) -> Completion {
    Completion::LookupPending {
        hit_tokens: 16 * blocks,
    }
}

#[test]
fn what_is_not_here_is_asked_for_fetched_together_and_shared() {
    let mut bed = Bed::with_remote(|_| {});
    bed.store(0..2);
    assert_eq!(bed.asks(1, &hashes(0..8)), pending(8));
    let questions = bed.questions();
    assert_eq!(questions.len(), 1);
    assert_eq!(questions[0].1, [2, 3, 4, 5, 6, 7]);
    let effects = bed.existence(questions[0].0, &[true, true, true, false, false, false]);
    assert_eq!(announced(&effects).0, [2, 3, 4]);
    let fetches = bed.fetches();
    assert_eq!(fetches.iter().map(|fetch| fetch.1).collect::<Vec<_>>(), [2, 3, 4]);
    // Who comes later waits for the same fetches, and asks for what is behind them.
    assert_eq!(bed.asks(2, &hashes(0..4)), pending(4));
    assert_eq!((bed.fetches(), bed.questions()), (vec![], vec![]));
    let mut effects = Vec::new();
    for &(operation, _) in fetches.iter().rev() {
        effects.extend(bed.fetched(operation, RemoteOutcome::Done));
    }
    assert_eq!(hits(&effects), [(1, 80), (2, 64)]);
    assert_eq!(bed.places(4), (true, true));
    assert_eq!(bed.commit(1, 5, 0, 5).len(), 5);
    assert_eq!(bed.engine.counters().remote_hit_blocks, 5);
    assert_eq!(bed.engine.wakes_at(), None);
}

#[test]
fn what_is_known_to_be_there_is_fetched_without_asking() {
    let mut bed = Bed::with_remote(|_| {});
    bed.store(0..4);
    for (operation, _) in bed.stores() {
        bed.stored(operation, RemoteOutcome::Done);
    }
    bed.flush();
    assert_eq!(bed.places(0), (false, true));
    assert_eq!(bed.engine.occupancy().remote_only_blocks, 4);
    assert_eq!(bed.asks(1, &hashes(0..4)), pending(4));
    assert_eq!((bed.fetches().len(), bed.questions().len()), (4, 0));
}

#[test]
fn at_the_deadline_what_is_here_is_the_answer() {
    let mut bed = Bed::with_remote(|_| {});
    bed.store(0..2);
    bed.asks(1, &hashes(0..4));
    let question = bed.questions()[0].0;
    assert_eq!(bed.engine.wakes_at(), Some(bed.now + Duration::from_secs(1)));
    bed.now += Duration::from_secs(1);
    let effects = bed.step(Event::Tick).to_vec();
    assert_eq!(hits(&effects), [(1, 32)]);
    assert_eq!(bed.engine.counters().remote_lookups_late, 1);
    // What is learned too late is known for the next one.
    bed.existence(question, &[true, true]);
    assert_eq!(bed.fetches(), []);
    assert_eq!(bed.asks(2, &hashes(0..4)), pending(4));
    assert_eq!((bed.fetches().len(), bed.questions().len()), (2, 0));
}

#[test]
fn whatever_a_fetch_ends_with_but_the_block_is_a_miss() {
    let cases = [
        (RemoteOutcome::Missing, Some(RemovalCause::Missing)),
        (RemoteOutcome::Corrupt, Some(RemovalCause::Corrupt)),
        (RemoteOutcome::Unavailable, None),
        (RemoteOutcome::TimedOut, None),
        (RemoteOutcome::Refused, None),
    ];
    for (outcome, gone) in cases {
        let mut bed = Bed::with_remote(|_| {});
        bed.asks(1, &hashes(0..2));
        let question = bed.questions()[0].0;
        bed.existence(question, &[true, true]);
        let fetches = bed.fetches();
        bed.fetched(fetches[0].0, RemoteOutcome::Done);
        let effects = bed.fetched(fetches[1].0, outcome);
        assert_eq!(hits(&effects), [(1, 16)], "{outcome:?}");
        let expected: Vec<_> = gone.map(|cause| (1, cause)).into_iter().collect();
        assert_eq!(announced(&effects).1, expected, "{outcome:?}");
        assert_eq!(bed.places(1), (false, gone.is_none()), "{outcome:?}");
        assert_eq!(bed.engine.occupancy().slots_resident, 1);
        // Computed again it may be stored, whatever became of the copy.
        assert!(matches!(
            bed.reserve(SCHEDULER, &hashes(1..2))[..],
            [Grant::Slot(_)]
        ));
    }
}

#[test]
fn out_of_service_a_look_up_is_answered_as_without_the_tier() {
    let mut bed = Bed::with_remote(|_| {});
    bed.store(0..4);
    for (operation, _) in bed.stores() {
        bed.stored(operation, RemoteOutcome::Done);
    }
    bed.flush();
    bed.service(RemoteDirection::Read, false);
    assert_eq!(bed.look_up(SCHEDULER, 1, &hashes(0..4)).0, 0);
    assert_eq!((bed.fetches(), bed.questions()), (vec![], vec![]));
    bed.service(RemoteDirection::Read, true);
    assert_eq!(bed.asks(2, &hashes(0..4)), pending(4));
}

#[test]
fn without_a_deadline_nothing_is_asked() {
    let mut bed = Bed::with_remote(|remote| remote.promotion_deadline = Duration::ZERO);
    assert_eq!(bed.look_up(SCHEDULER, 1, &hashes(0..4)).0, 0);
    assert_eq!(bed.engine.counters().remote_lookups, 0);
}

#[test]
fn a_full_hit_in_host_memory_asks_nobody() {
    let mut bed = Bed::with_remote(|_| {});
    bed.store(0..4);
    assert_eq!(bed.look_up(SCHEDULER, 1, &hashes(0..4)).0, 64);
    assert_eq!(bed.questions(), []);
}

#[test]
fn whoever_gives_up_is_answered_and_the_fetch_goes_on() {
    let mut bed = Bed::with_remote(|_| {});
    bed.asks(1, &hashes(0..1));
    let question = bed.questions()[0].0;
    bed.existence(question, &[true]);
    let (fetch, _) = bed.fetches()[0];
    let (session, tag) = (SCHEDULER, Tag(1));
    let effects = bed.step(Event::LookupRelease { session, tag }).to_vec();
    assert_eq!(hits(&effects), [(1, 0)]);
    let is_prefetch = |order: &RemoteOrder| {
        matches!(
            order,
            RemoteOrder::SetClass {
                class: kvstore_types::ReadClass::Prefetch,
                ..
            }
        )
    };
    assert!(bed.remote.iter().any(is_prefetch));
    bed.fetched(fetch, RemoteOutcome::Done);
    assert_eq!(bed.look_up(SCHEDULER, 2, &hashes(0..1)).0, 16);
}

#[test]
fn no_more_is_remembered_than_may_be() {
    let mut bed = Bed::with_remote(|remote| remote.known_max = 3);
    bed.service(RemoteDirection::Read, true);
    bed.asks(1, &hashes(0..20));
    let question = bed.questions()[0].0;
    bed.existence(question, &[true; 20]);
    while bed.engine.has_work() {
        bed.step(Event::Tick);
    }
    assert_eq!(bed.engine.occupancy().remote_only_blocks, 3);
    assert!(bed.engine.counters().remote_forgotten > 0);
}

#[test]
fn a_look_up_that_may_not_hold_so_much_is_answered_from_here() {
    let mut bed = Bed::with_remote(|_| {});
    bed.store(0..2);
    // Twenty blocks may be held.
    assert_eq!(bed.look_up(SCHEDULER, 1, &hashes(0..30)).0, 32);
    assert_eq!(bed.questions(), []);
}
