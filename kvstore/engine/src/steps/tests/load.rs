//! Look-ups, holds, leases.

use super::*;

#[test]
fn a_leased_block_is_never_evicted_and_a_held_one_last() {
    let mut bed = Bed::attached();
    bed.store(0..16);
    bed.look_up(SCHEDULER, 1, &hashes(0..8));
    let grants = bed.commit(1, 2, 0, 8);
    assert!(grants.iter().all(|grant| matches!(grant, Grant::Slot(_))));
    bed.look_up(SCHEDULER, 3, &hashes(0..12));
    // Four blocks nobody holds, four that are held, eight that are leased.
    assert_eq!(
        bed.reserve(SCHEDULER, &hashes(20..24))
            .iter()
            .filter(|grant| **grant == Grant::NoSpace)
            .count(),
        0
    );
    assert_eq!(bed.engine.counters().holds_taken_back, 0);
    let grants = bed.reserve(SCHEDULER, &hashes(30..36));
    assert_eq!(grants.iter().filter(|grant| **grant == Grant::NoSpace).count(), 2);
    assert_eq!(bed.engine.counters().holds_taken_back, 4);
    let lost = bed.commit(3, 4, 6, 6);
    assert_eq!(lost.iter().filter(|grant| **grant == Grant::Lost).count(), 4);
    bed.step(Event::LeaseRelease {
        session: SCHEDULER,
        lease: Tag(2),
    });
    assert_eq!(bed.engine.occupancy().slots_leased, 2);
}

#[test]
fn a_commit_without_a_look_up_loses_everything_and_leases_nothing() {
    let mut bed = Bed::attached();
    assert_eq!(bed.commit(77, 78, 0, 3), [Grant::Lost; 3]);
    assert_eq!(bed.engine.occupancy().leases, 0);
    bed.step(Event::LeaseRelease {
        session: SCHEDULER,
        lease: Tag(78),
    });
    bed.step(Event::LookupRelease {
        session: SCHEDULER,
        tag: Tag(77),
    });
    assert_eq!(bed.engine.counters().releases_unknown, 2);
}

#[test]
fn a_session_may_hold_so_much_and_no_more() {
    let mut bed = Bed::attached();
    bed.store(0..16);
    assert_eq!(bed.look_up(SCHEDULER, 1, &hashes(0..16)).0, 256);
    assert_eq!(
        bed.look_up(SCHEDULER, 2, &hashes(0..5)),
        (0, LookupOutcome::QuotaExceeded)
    );
    assert_eq!(
        bed.look_up(SCHEDULER, 3, &hashes(0..4)),
        (64, LookupOutcome::Complete)
    );
    assert_eq!(
        bed.look_up(SCHEDULER, 4, &hashes(0..1)),
        (0, LookupOutcome::QuotaExceeded)
    );
    assert_eq!(bed.engine.counters().lookups_over_quota, 2);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story")]
fn a_sliding_window_group_holds_only_its_window() {
    let mut bed = Bed::new(config());
    let group = |kind| GroupGeometry {
        kind,
        tokens_per_block: 16,
        rank_bytes: 4096,
    };
    let groups = vec![
        group(AttentionKind::Full),
        group(AttentionKind::SlidingWindow { window_tokens: 17 }),
    ];
    let with_groups = |role| SessionProfile {
        groups: groups.clone(),
        ..profile(1, role, 1)
    };
    bed.attach(SCHEDULER, 1, with_groups(Role::Scheduler));
    bed.attach(WORKER, 2, with_groups(Role::Worker(Rank(0))));
    let (full, window) = (hashes(0..4), hashes(0..4));
    let stored = [
        GroupKeys {
            group: 0,
            hashes: &full,
        },
        GroupKeys {
            group: 1,
            hashes: &window[2..3],
        },
    ];
    bed.step(Event::Reserve {
        session: SCHEDULER,
        tag: Tag(1),
        groups: &stored,
        runs: &[],
    });
    let slots: Vec<SlotRef> = bed
        .effects
        .grants
        .iter()
        .filter_map(|g| {
            if let Grant::Slot(slot) = g {
                Some(*slot)
            } else {
                None
            }
        })
        .collect();
    bed.seal(WORKER, &slots);
    let asked = [
        GroupKeys {
            group: 0,
            hashes: &full,
        },
        GroupKeys {
            group: 1,
            hashes: &window,
        },
    ];
    bed.step(Event::Lookup {
        session: SCHEDULER,
        tag: Tag(2),
        groups: &asked,
        tokens_max: 100,
    });
    assert!(matches!(
        bed.completion(),
        Completion::Lookup { hit_tokens: 48, .. }
    ));
    let spans = [
        GroupSpan {
            group: 0,
            first: 0,
            count: 3,
        },
        GroupSpan {
            group: 1,
            first: 2,
            count: 1,
        },
    ];
    assert_eq!(bed.effects.spans, spans);
    // A group that is not named has no blocks.
    bed.step(Event::Lookup {
        session: SCHEDULER,
        tag: Tag(3),
        groups: &asked[..1],
        tokens_max: 100,
    });
    assert!(matches!(
        bed.completion(),
        Completion::Lookup { hit_tokens: 0, .. }
    ));
}
