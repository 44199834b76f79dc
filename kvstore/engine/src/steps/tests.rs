//! The contract, event by event, against one small engine.

use std::time::Instant;

use kvstore_types::{
    AttentionKind, BlockHash, EngineGroupId, Field, GroupGeometry, GroupSpan, NamespaceId, ProcessId, Rank,
    SessionId, SlotRef, Tag,
};

use crate::config::{EngineConfig, PolicyKind};
use crate::effect::{
    Completion, Effect, Effects, Grant, LookupOutcome, Note, Refusal, RemovalCause, Violation,
};
use crate::engine::Engine;
use crate::event::{Event, GroupKeys, Role, SessionEnd, SessionProfile};

const SCHEDULER: SessionId = SessionId(10);
const WORKER: SessionId = SessionId(11);

fn config() -> EngineConfig {
    EngineConfig {
        region_bytes: 4096 * 17,
        header_bytes: 4096,
        arena_bytes: 4096 * 4,
        policy: PolicyKind::Lru,
        watermark_low: 0.5,
        watermark_high: 1.0,
        sessions_max: 8,
        holds_per_session_max: 20,
        operations_per_session_max: 3,
    }
}

fn profile(engine: u8, role: Role, ranks: u16) -> SessionProfile {
    SessionProfile {
        engine_group: EngineGroupId([engine; 16]),
        engine_name: "test".into(),
        role,
        rank_count: ranks,
        fields: vec![field("model.id", "m")],
        rank_fields: Vec::new(),
        groups: vec![GroupGeometry {
            kind: AttentionKind::Full,
            tokens_per_block: 16,
            rank_bytes: 4096,
        }],
    }
}

fn field(tag: &str, value: &str) -> Field {
    Field {
        tag: tag.into(),
        value: value.into(),
    }
}

fn hashes(numbers: std::ops::Range<u8>) -> Vec<BlockHash> {
    numbers.map(|number| BlockHash([number; 32])).collect()
}

struct Bed {
    engine: Engine,
    effects: Effects,
    now: Instant,
}

impl Bed {
    fn new(config: EngineConfig) -> Self {
        Self {
            engine: Engine::new(config).unwrap(),
            effects: Effects::default(),
            now: Instant::now(),
        }
    }

    /// One engine of one rank, attached.
    fn attached() -> Self {
        let mut bed = Self::new(config());
        bed.attach(SCHEDULER, 1, profile(1, Role::Scheduler, 1));
        bed.attach(WORKER, 2, profile(1, Role::Worker(Rank(0)), 1));
        bed
    }

    fn step(&mut self, event: Event<'_>) -> &[Effect] {
        self.effects.clear();
        self.engine.step(self.now, event, &mut self.effects);
        self.engine.check_invariants();
        &self.effects.list
    }

    fn attach(&mut self, session: SessionId, process: u64, profile: SessionProfile) -> Vec<Effect> {
        self.step(Event::SessionOpened {
            session,
            process: ProcessId(process),
            profile,
        })
        .to_vec()
    }

    fn refusal(&mut self, session: u64, profile: SessionProfile) -> Refusal {
        match self.attach(SessionId(session), session, profile).as_slice() {
            [Effect::SessionRefused { refusal, .. }] => refusal.clone(),
            other => panic!("{other:?} is no refusal"),
        }
    }

    fn completion(&self) -> Completion {
        match self.effects.list.last() {
            Some(Effect::Complete { completion, .. }) => completion.clone(),
            other => panic!("{other:?} is no completion"),
        }
    }

    fn violation(&self) -> Violation {
        let cut_off = self.effects.list.iter().find_map(|effect| match effect {
            Effect::CutOff { violation, .. } => Some(*violation),
            _ => None,
        });
        cut_off.expect("a cut-off")
    }

    fn reserve(&mut self, session: SessionId, hashes: &[BlockHash]) -> Vec<Grant> {
        self.step(Event::Reserve {
            session,
            tag: Tag(1),
            groups: &[GroupKeys { group: 0, hashes }],
        });
        self.effects.grants.clone()
    }

    fn slots(&mut self, session: SessionId, hashes: &[BlockHash]) -> Vec<SlotRef> {
        let slot = |grant| {
            if let Grant::Slot(slot) = grant {
                slot
            } else {
                panic!("{grant:?} is no slot")
            }
        };
        self.reserve(session, hashes).into_iter().map(slot).collect()
    }

    fn seal(&mut self, session: SessionId, slots: &[SlotRef]) -> Completion {
        self.step(Event::Seal {
            session,
            tag: Tag(2),
            slots,
        });
        self.completion()
    }

    fn store(&mut self, numbers: std::ops::Range<u8>) -> Vec<SlotRef> {
        let slots = self.slots(SCHEDULER, &hashes(numbers));
        self.seal(WORKER, &slots);
        slots
    }

    fn look_up(&mut self, session: SessionId, tag: u64, hashes: &[BlockHash]) -> (u64, LookupOutcome) {
        let groups = [GroupKeys { group: 0, hashes }];
        self.step(Event::Lookup {
            session,
            tag: Tag(tag),
            groups: &groups,
            tokens_max: u64::MAX,
        });
        match self.completion() {
            Completion::Lookup {
                hit_tokens, outcome, ..
            } => (hit_tokens, outcome),
            other => panic!("{other:?} is no answer to a look-up"),
        }
    }

    fn commit(&mut self, tag: u64, lease: u64, first: u32, count: u32) -> Vec<Grant> {
        let spans = [GroupSpan {
            group: 0,
            first,
            count,
        }];
        self.step(Event::LoadCommit {
            session: SCHEDULER,
            tag: Tag(tag),
            lease: Tag(lease),
            spans: &spans,
        });
        self.effects.grants.clone()
    }

    fn end(&mut self, session: SessionId, end: SessionEnd) -> Vec<Effect> {
        self.step(Event::SessionEnded { session, end }).to_vec()
    }
}

fn ready_namespace(effects: &[Effect]) -> Vec<(SessionId, NamespaceId)> {
    let ready = effects.iter().filter_map(|effect| match effect {
        Effect::NamespaceReady {
            session, namespace, ..
        } => Some((*session, *namespace)),
        _ => None,
    });
    ready.collect()
}

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
    assert!(matches!(bed.effects.list[0], Effect::BlockStored { key } if key.hash == hashes(0..1)[0]));
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
                cause: RemovalCause::Evicted,
                ..
            }
        )
    };
    assert_eq!(effects.iter().filter(evicted).count(), 5);
    assert!(!bed.engine.has_work());
    // Where nothing may go there is nothing to do, and no reason to spin.
    bed.look_up(SCHEDULER, 1, &hashes(8..13));
    bed.store(20..28);
    bed.look_up(SCHEDULER, 2, &hashes(20..28));
    assert!(bed.engine.has_work());
    bed.step(Event::Tick);
    assert!(!bed.engine.has_work());
    assert_eq!(bed.engine.occupancy().holds, 13);
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
                cause: RemovalCause::ArenaMoved,
                ..
            }
        )
    };
    assert_eq!(bed.effects.list.iter().filter(moved).count(), 8);
    assert_eq!(bed.engine.counters().arenas_moved, 2);
}

#[test]
fn breaking_the_protocol_costs_the_session_and_says_why() {
    type Lie = fn(&mut Bed);
    let cases: [(Lie, &str); 8] = [
        (
            |bed| {
                _ = bed.step(Event::Reserve {
                    session: WORKER,
                    tag: Tag(9),
                    groups: &[],
                })
            },
            "a worker may not reserve",
        ),
        (
            |bed| {
                _ = bed.step(Event::Seal {
                    session: SCHEDULER,
                    tag: Tag(9),
                    slots: &[],
                })
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
