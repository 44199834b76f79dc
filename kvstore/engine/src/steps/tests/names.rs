//! The memory of descriptors is bounded.

use kvstore_types::Tier;

use super::*;

/// Room for two namespaces of [`large`] engines and the fields of the sessions of one.
const DESCRIPTORS_MAX: usize = 55_000;

fn bed() -> Bed {
    Bed::new(EngineConfig {
        descriptor_bytes_max: DESCRIPTORS_MAX,
        ..config()
    })
}

fn large(engine: u8, role: Role) -> SessionProfile {
    SessionProfile {
        fields: vec![field("model.id", &"x".repeat(12_000 + usize::from(engine)))],
        ..profile(engine, role, 1)
    }
}

/// Attaches an engine, stores `blocks` and detaches it again.
fn visit(bed: &mut Bed, engine: u8, blocks: u8) -> Vec<Effect> {
    let mut effects = attach(bed, engine);
    bed.store(0..blocks);
    effects.extend(detach(bed));
    effects
}

fn attach(bed: &mut Bed, engine: u8) -> Vec<Effect> {
    let mut effects = bed.attach(SCHEDULER, 1, large(engine, Role::Scheduler));
    effects.extend(bed.attach(WORKER, 2, large(engine, Role::Worker(Rank(0)))));
    effects
}

fn detach(bed: &mut Bed) -> Vec<Effect> {
    let mut effects = bed.end(SCHEDULER, SessionEnd::Closed);
    effects.extend(bed.end(WORKER, SessionEnd::Closed));
    effects
}

fn dropped(effects: &[Effect]) -> Vec<NamespaceId> {
    let dropped = effects.iter().filter_map(|effect| match effect {
        Effect::BlockRemoved {
            key,
            tier: Tier::Host,
            cause: RemovalCause::NamespaceDropped,
        } => Some(key.namespace),
        _ => None,
    });
    dropped.collect()
}

#[test]
fn the_namespace_left_longest_ago_goes_for_a_new_one() {
    let mut bed = bed();
    let first = ready_namespace(&visit(&mut bed, 1, 2))[0].1;
    visit(&mut bed, 2, 3);
    // The first is used again, so that the second is the one to go.
    let again = visit(&mut bed, 1, 0);
    assert_eq!(ready_namespace(&again)[0].1, first);
    assert_eq!(bed.engine.occupancy().namespaces, 2);
    let effects = visit(&mut bed, 3, 1);
    assert!(matches!(
        effects[0],
        Effect::SessionAdmitted { session: SCHEDULER }
    ));
    let gone = dropped(&effects);
    assert_eq!(gone.len(), 3);
    assert!(!gone.contains(&first));
    assert_eq!(bed.engine.counters().removed_namespace_dropped, 3);
    assert_eq!(bed.engine.occupancy().slots_resident, 3);
    assert_eq!(bed.engine.descriptor(gone[0]), None);
    attach(&mut bed, 1);
    assert_eq!(bed.look_up(SCHEDULER, 1, &hashes(0..2)).0, 32);
}

#[test]
fn any_number_of_engines_may_come_and_go() {
    let mut bed = bed();
    (0..100).for_each(|engine| _ = visit(&mut bed, engine, 1));
    assert_eq!(bed.engine.counters().sessions_refused, 0);
    assert_eq!(bed.engine.counters().published, 100);
    assert!(bed.engine.occupancy().namespaces <= 3);
}

#[test]
fn where_everything_is_in_use_the_next_engine_is_refused() {
    let mut bed = bed();
    visit(&mut bed, 1, 2);
    attach(&mut bed, 2);
    bed.store(0..4);
    let scheduler = large(3, Role::Scheduler);
    let effects = bed.attach(SessionId(30), 3, scheduler);
    assert!(
        matches!(effects[0], Effect::SessionAdmitted { .. }),
        "{effects:?}"
    );
    let before = bed.engine.occupancy();
    let refusal = bed.refusal(31, large(3, Role::Worker(Rank(0))));
    let max = DESCRIPTORS_MAX;
    assert_eq!(refusal, Refusal::DescriptorsExhausted { max });
    assert_eq!(bed.engine.occupancy(), before, "no block went in vain");
    // Observers need nothing, and with the other engine gone there is room.
    bed.attach(SessionId(32), 4, large(9, Role::Observer));
    detach(&mut bed);
    let effects = bed.attach(SessionId(33), 3, large(3, Role::Worker(Rank(0))));
    assert_eq!(ready_namespace(&effects).len(), 2);
}

#[test]
fn a_namespace_with_a_lease_stays_until_the_lease_is_over() {
    let mut bed = bed();
    attach(&mut bed, 1);
    bed.store(0..2);
    bed.look_up(SCHEDULER, 1, &hashes(0..1));
    bed.commit(1, 2, 0, 1);
    bed.step(Event::Reset {
        session: SCHEDULER,
        tag: Tag(5),
        nonce: [1; 16],
    });
    assert_eq!(bed.engine.occupancy().namespaces, 2);
    // The third has no room but the first's, one block of which is being read.
    bed.step(Event::Reset {
        session: SCHEDULER,
        tag: Tag(6),
        nonce: [2; 16],
    });
    bed.store(0..1);
    bed.step(Event::Reset {
        session: SCHEDULER,
        tag: Tag(7),
        nonce: [3; 16],
    });
    let namespaces = bed.engine.occupancy().namespaces;
    assert_eq!((namespaces, bed.engine.occupancy().slots_resident), (2, 1));
    assert_eq!(bed.engine.occupancy().slots_leased, 1);
    bed.step(Event::LeaseRelease {
        session: SCHEDULER,
        lease: Tag(2),
    });
    bed.store(0..1);
    bed.step(Event::Reset {
        session: SCHEDULER,
        tag: Tag(8),
        nonce: [4; 16],
    });
    assert!(matches!(
        bed.completion(),
        Completion::Reset { namespace: Some(_) }
    ));
    assert!(bed.engine.occupancy().namespaces <= 2);
}

#[test]
fn fields_of_sessions_that_wait_for_others_count_too() {
    let mut bed = bed();
    let lone = |engine, session: u64| (SessionId(session), large(engine, Role::Scheduler));
    let refused = (0..8).filter(|&engine| {
        let (session, profile) = lone(engine, 100 + u64::from(engine));
        matches!(
            bed.attach(session, u64::from(engine), profile)[..],
            [Effect::SessionRefused { .. }]
        )
    });
    assert_eq!(refused.count(), 4);
}
