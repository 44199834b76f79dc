//! Ends, deaths and lies.

use super::*;

#[test]
fn a_hung_up_scheduler_leaves_its_leases_until_every_process_is_dead() {
    let mut bed = Bed::attached();
    bed.store(0..4);
    bed.look_up(SCHEDULER, 1, &hashes(0..4));
    bed.commit(1, 2, 0, 4);
    let effects = bed.end(SCHEDULER, SessionEnd::HungUp);
    assert!(effects.contains(&Effect::Note(Note::Quarantined {
        slots: 4,
        session: SCHEDULER
    })));
    bed.step(Event::ProcessDied {
        process: ProcessId(1),
    });
    assert_eq!(
        bed.engine.occupancy().slots_leased,
        4,
        "the worker may still be copying"
    );
    let effects = bed
        .step(Event::ProcessDied {
            process: ProcessId(2),
        })
        .to_vec();
    assert!(effects.contains(&Effect::Note(Note::QuarantineLifted { slots: 4 })));
    let left = bed.engine.occupancy();
    assert_eq!(
        (
            left.slots_leased,
            left.slots_resident,
            left.sessions,
            left.engine_groups
        ),
        (0, 4, 0, 0)
    );
}

#[test]
fn a_clean_close_of_all_members_needs_no_proof_of_death() {
    let mut bed = Bed::attached();
    bed.store(0..4);
    bed.look_up(SCHEDULER, 1, &hashes(0..4));
    bed.commit(1, 2, 0, 4);
    bed.slots(SCHEDULER, &hashes(5..7));
    bed.end(SCHEDULER, SessionEnd::Closed);
    let left = bed.engine.occupancy();
    assert_eq!(
        (left.slots_leased, left.slots_quarantined, left.leases_quarantined),
        (4, 2, 4)
    );
    bed.end(WORKER, SessionEnd::Closed);
    let left = bed.engine.occupancy();
    assert_eq!(
        (left.slots_leased, left.slots_quarantined, left.slots_filling),
        (0, 0, 0)
    );
}

#[test]
fn a_hung_up_workers_slots_wait_for_its_death_and_no_longer() {
    let mut bed = Bed::attached();
    let slots = bed.slots(SCHEDULER, &hashes(0..2));
    bed.end(WORKER, SessionEnd::HungUp);
    assert_eq!(bed.engine.occupancy().slots_quarantined, 2);
    // The same process comes back under a new session: what it was told before is not its any more.
    bed.attach(SessionId(50), 2, profile(1, Role::Worker(Rank(0)), 1));
    assert_eq!(
        bed.seal(SessionId(50), &slots),
        Completion::Seal {
            sealed: 0,
            published: 0,
            stale: 2
        }
    );
    assert_eq!(bed.engine.occupancy().slots_quarantined, 2);
    bed.step(Event::ProcessDied {
        process: ProcessId(2),
    });
    let left = bed.engine.occupancy();
    assert_eq!((left.slots_quarantined, left.sessions), (0, 1));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn breaking_the_protocol_costs_the_session_and_says_why() {
    type Lie = fn(&mut Bed);
    let cases: [(Lie, &str); 8] = [
        (
            |bed| {
                _ = bed.step(Event::Reserve {
                    session: WORKER,
                    tag: Tag(9),
                    groups: &[],
                    runs: &[],
                });
            },
            "a worker may not reserve",
        ),
        (
            |bed| {
                _ = bed.step(Event::Seal {
                    session: SCHEDULER,
                    tag: Tag(9),
                    slots: &[],
                });
            },
            "a scheduler may not seal",
        ),
        (
            |bed| {
                let slots = [SlotRef {
                    page: 0,
                    generation: 1,
                }];
                bed.step(Event::Seal {
                    session: WORKER,
                    tag: Tag(9),
                    slots: &slots,
                });
            },
            "slot page 0 generation 1 is not this engine's",
        ),
        (
            |bed| {
                let groups = [
                    GroupKeys {
                        group: 0,
                        hashes: &[],
                    },
                    GroupKeys {
                        group: 0,
                        hashes: &[],
                    },
                ];
                bed.step(Event::Lookup {
                    session: SCHEDULER,
                    tag: Tag(9),
                    groups: &groups,
                    tokens_max: 1,
                });
            },
            "group 0 does not exist or is named twice",
        ),
        (
            |bed| {
                bed.look_up(SCHEDULER, 1, &hashes(0..2));
                bed.step(Event::Lookup {
                    session: SCHEDULER,
                    tag: Tag(1),
                    groups: &[],
                    tokens_max: 1,
                });
            },
            "tag #1 is already in use",
        ),
        (
            |bed| {
                bed.look_up(SCHEDULER, 1, &hashes(0..2));
                bed.commit(1, 2, 1, 2);
            },
            "span 1+2 of group 0 is not part of the look-up",
        ),
        (
            |bed| _ = bed.commit(1, 2, 0, u32::MAX),
            "is not part of the look-up",
        ),
        (
            |bed| {
                (1..4).for_each(|tag| _ = bed.look_up(SCHEDULER, tag, &hashes(0..1)));
                bed.step(Event::Lookup {
                    session: SCHEDULER,
                    tag: Tag(9),
                    groups: &[],
                    tokens_max: 1,
                });
            },
            "more than 3 look-ups and leases are alive",
        ),
    ];
    for (lie, expected) in cases {
        let mut bed = Bed::attached();
        bed.store(0..4);
        lie(&mut bed);
        let violation = bed.violation().to_string();
        assert!(
            violation.contains(expected),
            "{violation:?} should contain {expected:?}"
        );
        assert_eq!(bed.engine.occupancy().sessions, 1);
    }
}

#[test]
fn events_of_sessions_that_are_not_there_do_nothing() {
    let mut bed = Bed::attached();
    let session = SessionId(404);
    let events = [
        Event::SessionEnded {
            session,
            end: SessionEnd::HungUp,
        },
        Event::Lookup {
            session,
            tag: Tag(1),
            groups: &[],
            tokens_max: 1,
        },
        Event::LookupRelease { session, tag: Tag(1) },
        Event::LoadCommit {
            session,
            tag: Tag(1),
            lease: Tag(2),
            spans: &[],
        },
        Event::LeaseRelease {
            session,
            lease: Tag(2),
        },
        Event::Reserve {
            session,
            tag: Tag(1),
            groups: &[],
            runs: &[],
        },
        Event::Seal {
            session,
            tag: Tag(1),
            slots: &[],
        },
        Event::Abort {
            session,
            tag: Tag(1),
            slots: &[],
        },
        Event::Reset {
            session,
            tag: Tag(1),
            nonce: [0; 16],
        },
        Event::ProcessDied {
            process: ProcessId(404),
        },
    ];
    for event in events {
        assert_eq!(bed.step(event), []);
    }
    assert_eq!(bed.engine.counters().events_unknown_session, 9);
}
