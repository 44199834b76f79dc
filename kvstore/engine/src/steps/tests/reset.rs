//! Resets: the namespace an engine has left never comes back to it.

use kvstore_types::NamespaceDescriptor;

use super::*;

fn reset(bed: &mut Bed, session: SessionId, nonce: u8) -> Option<NamespaceId> {
    bed.step(Event::Reset {
        session,
        tag: Tag(5),
        nonce: [nonce; 16],
    });
    match bed.completion() {
        Completion::Reset { namespace } => namespace,
        other => panic!("{other:?} is no answer to a reset"),
    }
}

/// The common field that leaves `room` bytes of the composed descriptor.
fn with_large_field(profile: SessionProfile, room: usize) -> SessionProfile {
    let fields = [field("model.id", ""), field("geometry", GEOMETRY)];
    let rest = NamespaceDescriptor::new(fields).unwrap().encoded_bytes();
    let value = "x".repeat(NamespaceDescriptor::BYTES_MAX - rest - room);
    SessionProfile {
        fields: vec![field("model.id", &value)],
        ..profile
    }
}

const GEOMETRY: &str = "full tokens=16 ranks=4096 slot=4096\n";
const NONCE_BYTES: usize = 8 + "reset.nonce".len() + 16;

#[test]
fn a_descriptor_that_leaves_no_room_for_a_nonce_is_refused() {
    let mut bed = Bed::new(config());
    let worker = || profile(1, Role::Worker(Rank(0)), 1);
    let refusal = bed
        .refusal(1, with_large_field(worker(), NONCE_BYTES - 1))
        .to_string();
    assert!(refusal.contains("at most 262144 are allowed"), "{refusal:?}");
    bed.attach(
        SCHEDULER,
        1,
        with_large_field(profile(1, Role::Scheduler, 1), NONCE_BYTES),
    );
    let effects = bed.attach(WORKER, 2, with_large_field(worker(), NONCE_BYTES));
    let before = ready_namespace(&effects)[0].1;
    bed.store(0..2);
    let after = reset(&mut bed, SCHEDULER, 7);
    assert!(after.is_some() && after != Some(before));
    assert_eq!(
        bed.look_up(SCHEDULER, 1, &hashes(0..2)),
        (0, LookupOutcome::Complete)
    );
}

#[test]
fn an_engine_that_can_have_no_new_namespace_has_none() {
    let mut bed = Bed::attached();
    bed.store(0..2);
    assert_eq!(bed.look_up(SCHEDULER, 1, &hashes(0..2)).0, 32);
    // Whatever may keep it from being composed: here the fields become too large behind the engine's back.
    let worker = bed.engine.sessions.get_mut(&WORKER).unwrap();
    worker.rank_fields = vec![field("large", &"x".repeat(NamespaceDescriptor::BYTES_MAX))];
    assert_eq!(reset(&mut bed, SCHEDULER, 7), None);
    assert_eq!(ready_namespace(&bed.effects.list), []);
    assert_eq!(
        bed.look_up(SCHEDULER, 3, &hashes(0..2)),
        (0, LookupOutcome::NotReady)
    );
    assert_eq!(bed.reserve(SCHEDULER, &hashes(5..6)), [Grant::NotReady]);
    assert_eq!(bed.commit(1, 2, 0, 2), [Grant::Lost; 2]);
    assert_eq!(bed.engine.counters().resets_without_namespace, 1);
    // With the cause gone the engine has a namespace again, and it is not the old one.
    bed.engine.sessions.get_mut(&WORKER).unwrap().rank_fields.clear();
    assert!(reset(&mut bed, SCHEDULER, 8).is_some());
    assert_eq!(
        bed.look_up(SCHEDULER, 4, &hashes(0..2)),
        (0, LookupOutcome::Complete)
    );
}

#[test]
fn an_engine_that_lives_is_not_forgotten_while_others_are_reset() {
    let mut bed = Bed::attached();
    bed.store(0..2);
    let after = reset(&mut bed, SCHEDULER, 7);
    for number in 0..5000_u32 {
        let mut id = [0xff; 16];
        id[..4].copy_from_slice(&number.to_le_bytes());
        bed.engine.resets.put(EngineGroupId(id), [1; 16]);
    }
    // A worker that is replaced composes the namespace anew.
    bed.end(WORKER, SessionEnd::Closed);
    let ready = ready_namespace(&bed.attach(SessionId(60), 2, profile(1, Role::Worker(Rank(0)), 1)));
    assert_eq!(Some(ready[0].1), after);
    assert_eq!(
        bed.look_up(SCHEDULER, 3, &hashes(0..2)),
        (0, LookupOutcome::Complete)
    );
    // Once it is gone it is remembered for a while longer, and taken back with its nonce.
    bed.end(SCHEDULER, SessionEnd::Closed);
    bed.end(SessionId(60), SessionEnd::Closed);
    assert_eq!(bed.engine.occupancy().engine_groups, 0);
    let ready = ready_namespace(&bed.attach(SessionId(61), 2, profile(1, Role::Worker(Rank(0)), 1)));
    assert_eq!(Some(ready[0].1), after);
}
