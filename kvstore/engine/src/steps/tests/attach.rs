//! Attaching, namespaces, resets.

use super::*;

#[test]
fn the_last_rank_completes_the_namespace_for_everyone() {
    let mut bed = Bed::new(config());
    assert_eq!(
        bed.attach(SessionId(1), 1, profile(1, Role::Worker(Rank(1)), 2))
            .len(),
        1
    );
    assert_eq!(
        bed.attach(SessionId(2), 2, profile(1, Role::Scheduler, 2)).len(),
        1
    );
    assert_eq!(
        bed.look_up(SessionId(2), 1, &hashes(0..1)),
        (0, LookupOutcome::NotReady)
    );
    assert_eq!(bed.reserve(SessionId(2), &hashes(0..2)), [Grant::NotReady; 2]);
    let ready = ready_namespace(&bed.attach(SessionId(3), 3, profile(1, Role::Worker(Rank(0)), 2)));
    assert_eq!(
        ready.iter().map(|(session, _)| session.0).collect::<Vec<_>>(),
        [2, 3, 1]
    );
    // A worker that comes back brings the same namespace back.
    bed.end(SessionId(1), SessionEnd::HungUp);
    assert_eq!(
        bed.look_up(SessionId(2), 2, &hashes(0..1)).1,
        LookupOutcome::NotReady
    );
    let again = ready_namespace(&bed.attach(SessionId(4), 1, profile(1, Role::Worker(Rank(1)), 2)));
    assert_eq!(again.len(), 3);
    assert_eq!(again[0].1, ready[0].1);
}

#[test]
fn what_does_not_fit_is_refused_and_named() {
    let mut bed = Bed::attached();
    let worker = |rank, ranks| profile(1, Role::Worker(Rank(rank)), ranks);
    let differs = SessionProfile {
        fields: vec![field("model.id", "other")],
        ..worker(0, 1)
    };
    let twice = SessionProfile {
        fields: vec![field("a", ""), field("a", "")],
        ..profile(9, Role::Scheduler, 1)
    };
    let large = |bytes| {
        let group = GroupGeometry {
            kind: AttentionKind::Full,
            tokens_per_block: 16,
            rank_bytes: bytes,
        };
        SessionProfile {
            groups: vec![group],
            ..profile(9, Role::Worker(Rank(0)), 1)
        }
    };
    let cases = [
        (
            worker(0, 1),
            "another session of this engine is attached as the worker of rank 0",
        ),
        (profile(1, Role::Scheduler, 1), "attached as its scheduler"),
        (worker(1, 1), "want a rank below 1, got rank 1"),
        (
            worker(0, 2),
            "want 1 ranks as in this engine's other sessions, got 2",
        ),
        (worker(0, 0), "want 1 to 64 ranks, got 0"),
        (differs, "descriptor field \"model.id\" differs"),
        (twice, "field \"a\" is given twice"),
        (
            large(4096 * 5),
            "a block of group 0 needs 20480 bytes, an arena has 16384",
        ),
        (large(0), "rank bytes is 0"),
    ];
    for (number, (profile, expected)) in (100..).zip(cases) {
        let refusal = bed.refusal(number, profile).to_string();
        assert!(
            refusal.contains(expected),
            "{refusal:?} should contain {expected:?}"
        );
    }
    assert_eq!(bed.engine.occupancy().sessions, 2);
    (20..26).for_each(|session| _ = bed.attach(SessionId(session), session, profile(9, Role::Observer, 1)));
    assert_eq!(
        bed.refusal(99, profile(9, Role::Observer, 1)),
        Refusal::SessionsExhausted { max: 8 }
    );
}

#[test]
fn engines_that_only_hash_differently_are_told_so() {
    let mut bed = Bed::new(config());
    let with_probe = |engine, probe| SessionProfile {
        fields: vec![field("hash.probe", probe)],
        ..profile(engine, Role::Worker(Rank(0)), 1)
    };
    let first = ready_namespace(&bed.attach(SessionId(1), 1, with_probe(1, "a")))[0].1;
    let effects = bed.attach(SessionId(2), 2, with_probe(2, "b"));
    let new = ready_namespace(&effects)[0].1;
    assert!(effects.contains(&Effect::Note(Note::HashSeedDiffers { existing: first, new })));
    assert_eq!(
        ready_namespace(&bed.attach(SessionId(3), 3, with_probe(3, "a")))[0].1,
        first
    );
}

#[test]
fn a_reset_leaves_the_old_namespace_to_the_others() {
    let mut bed = Bed::attached();
    bed.attach(SessionId(20), 3, profile(2, Role::Scheduler, 1));
    bed.attach(SessionId(21), 4, profile(2, Role::Worker(Rank(0)), 1));
    bed.store(0..2);
    let filling = bed.slots(SCHEDULER, &hashes(5..6));
    assert_eq!(bed.look_up(SCHEDULER, 1, &hashes(0..2)).0, 32);
    bed.step(Event::Reset {
        session: SCHEDULER,
        tag: Tag(5),
        nonce: [7; 16],
    });
    let Completion::Reset {
        namespace: Some(namespace),
    } = bed.completion()
    else {
        panic!("a namespace")
    };
    assert_eq!(
        ready_namespace(&bed.effects.list),
        [(SCHEDULER, namespace), (WORKER, namespace)]
    );
    assert_eq!(
        bed.seal(WORKER, &filling),
        Completion::Seal {
            sealed: 0,
            published: 0,
            stale: 1
        }
    );
    assert_eq!(bed.commit(1, 2, 0, 2), [Grant::Lost; 2]);
    assert_eq!(bed.look_up(SCHEDULER, 3, &hashes(0..2)).0, 0);
    assert_eq!(bed.look_up(SessionId(20), 3, &hashes(0..2)).0, 32);
    // An engine that loses its sessions does not come back to the namespace it left.
    bed.end(SCHEDULER, SessionEnd::Closed);
    bed.end(WORKER, SessionEnd::Closed);
    let ready = ready_namespace(&bed.attach(SessionId(60), 2, profile(1, Role::Worker(Rank(0)), 1)));
    assert_eq!(ready, [(SessionId(60), namespace)]);
}

#[test]
fn tags_of_composed_fields_are_refused_as_common_ones() {
    let mut bed = Bed::new(config());
    for (number, tag) in (1..).zip(["rank.0.a", "rank.", "geometry", "reset.nonce"]) {
        let refusal = bed.refusal(
            number,
            SessionProfile {
                fields: vec![field(tag, "x")],
                ..profile(1, Role::Worker(Rank(0)), 1)
            },
        );
        assert_eq!(refusal, Refusal::ReservedTag { tag: tag.into() });
    }
    // A rank's own fields have its prefix before them and cannot be taken for anything else.
    let own = SessionProfile {
        fields: vec![field("ranks", "x"), field("geometry.kind", "x")],
        rank_fields: vec![field("geometry", "x"), field("rank.0.a", "x")],
        ..profile(1, Role::Worker(Rank(0)), 1)
    };
    assert_eq!(ready_namespace(&bed.attach(SessionId(9), 9, own)).len(), 1);
}

#[test]
fn a_scheduler_that_knows_other_groups_is_told_so_in_words() {
    let mut bed = Bed::new(config());
    bed.attach(WORKER, 2, profile(1, Role::Worker(Rank(0)), 1));
    let scheduler = |kind, count| SessionProfile {
        groups: vec![
            GroupGeometry {
                kind,
                tokens_per_block: 32,
                rank_bytes: 0
            };
            count
        ],
        ..profile(1, Role::Scheduler, 1)
    };
    let window = AttentionKind::SlidingWindow { window_tokens: 128 };
    let cases = [
        (
            scheduler(window, 1),
            "the scheduler describes KV cache group 0 as a sliding window of 128 tokens, 32 tokens a block, the \
             workers as full attention, 16 tokens a block",
        ),
        (
            scheduler(AttentionKind::Full, 2),
            "want 1 KV cache groups of the scheduler as of the workers, got 2",
        ),
    ];
    for (number, (profile, expected)) in (20..).zip(cases) {
        assert_eq!(bed.refusal(number, profile).to_string(), expected);
    }
}
