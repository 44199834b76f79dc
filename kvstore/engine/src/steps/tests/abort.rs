//! A scheduler's abort is its promise that no worker was told of the slots.

use super::*;

fn abort(bed: &mut Bed, session: SessionId, slots: &[SlotRef]) -> Completion {
    bed.step(Event::Abort {
        session,
        tag: Tag(3),
        slots,
    });
    bed.completion()
}

fn two_ranks() -> Bed {
    let mut bed = Bed::new(config());
    bed.attach(SCHEDULER, 1, profile(1, Role::Scheduler, 2));
    bed.attach(SessionId(1), 2, profile(1, Role::Worker(Rank(0)), 2));
    bed.attach(SessionId(2), 3, profile(1, Role::Worker(Rank(1)), 2));
    bed
}

const ABORTED: Completion = Completion::Abort { aborted: 2, stale: 0 };
const STALE: Completion = Completion::Abort { aborted: 0, stale: 2 };

#[test]
fn slots_that_a_reset_lost_are_free_when_the_scheduler_aborts_them() {
    let mut bed = two_ranks();
    let slots = bed.slots(SCHEDULER, &hashes(0..2));
    bed.step(Event::Reset {
        session: SCHEDULER,
        tag: Tag(5),
        nonce: [7; 16],
    });
    assert_eq!(bed.engine.occupancy().slots_quarantined, 2);
    assert_eq!(abort(&mut bed, SCHEDULER, &slots), ABORTED);
    assert_eq!(bed.engine.occupancy().bytes_used, 0);
    assert_eq!(abort(&mut bed, SCHEDULER, &slots), STALE);
}

#[test]
fn slots_that_a_replaced_worker_lost_are_free_when_the_scheduler_aborts_them() {
    let mut bed = two_ranks();
    let slots = bed.slots(SCHEDULER, &hashes(0..2));
    bed.end(SessionId(1), SessionEnd::Closed);
    bed.attach(SessionId(4), 2, profile(1, Role::Worker(Rank(0)), 2));
    assert_eq!(bed.engine.occupancy().slots_quarantined, 2);
    assert_eq!(abort(&mut bed, SCHEDULER, &slots), ABORTED);
    assert_eq!(bed.engine.occupancy().bytes_used, 0);
}

#[test]
fn a_worker_that_hung_up_is_waited_for_whatever_the_scheduler_says() {
    let mut bed = two_ranks();
    let slots = bed.slots(SCHEDULER, &hashes(0..2));
    bed.end(SessionId(1), SessionEnd::HungUp);
    assert_eq!(abort(&mut bed, SCHEDULER, &slots), ABORTED);
    assert_eq!(bed.engine.occupancy().slots_quarantined, 2);
    assert_eq!(abort(&mut bed, SCHEDULER, &slots), STALE);
    let process = ProcessId(2);
    bed.step(Event::ProcessDied { process });
    assert_eq!(bed.engine.occupancy().bytes_used, 0);
}

#[test]
fn a_worker_that_has_sealed_was_told_and_so_may_the_others_be() {
    let mut bed = two_ranks();
    let slots = bed.slots(SCHEDULER, &hashes(0..2));
    bed.seal(SessionId(1), &slots);
    assert_eq!(abort(&mut bed, SCHEDULER, &slots), ABORTED);
    assert_eq!(abort(&mut bed, SCHEDULER, &slots), STALE);
    assert_eq!(bed.engine.occupancy().slots_quarantined, 2);
    // The same if the block was lost before, and by an abort.
    let more = bed.slots(SCHEDULER, &hashes(4..6));
    abort(&mut bed, SessionId(2), &more);
    assert_eq!(abort(&mut bed, SCHEDULER, &more), STALE);
    assert_eq!(bed.engine.occupancy().slots_quarantined, 4);
    bed.seal(SessionId(2), &slots);
    bed.seal(SessionId(1), &more);
    assert_eq!(bed.engine.occupancy().bytes_used, 0);
}

#[test]
fn a_scheduler_that_came_later_cannot_promise_for_the_one_before() {
    let mut bed = two_ranks();
    let slots = bed.slots(SCHEDULER, &hashes(0..2));
    bed.end(SCHEDULER, SessionEnd::Closed);
    bed.attach(SessionId(20), 1, profile(1, Role::Scheduler, 2));
    assert_eq!(abort(&mut bed, SessionId(20), &slots), STALE);
    assert_eq!(bed.engine.occupancy().slots_quarantined, 2);
}
