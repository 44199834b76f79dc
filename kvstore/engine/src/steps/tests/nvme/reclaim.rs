//! Segments are reclaimed, and their number follows the configuration.

use super::*;

fn is_move(order: &NvmeOrder) -> bool {
    matches!(order, NvmeOrder::Move { .. })
}

#[test]
fn any_number_of_blocks_can_be_written_into_few_segments() {
    for segments_max in 2..6 {
        let mut bed = Bed::with_nvme(config_with(|nvme| nvme.tuning.segments_max = segments_max));
        for first in (0..240).step_by(4) {
            bed.store(first..first + 4);
            bed.settle();
            let occupancy = bed.engine.occupancy();
            assert!(occupancy.nvme_segments_total <= u64::from(segments_max));
        }
        let counters = *bed.engine.counters();
        assert_eq!(counters.nvme_written, 240, "{segments_max} segments");
        assert!(
            counters.nvme_reclaimed_segments > 30,
            "{segments_max} segments: {counters:?}"
        );
        assert_eq!(bed.engine.wakes_at(), None);
        assert!(!bed.engine.has_work());
    }
}

#[test]
fn blocks_that_were_hit_are_carried_over_and_others_leave() {
    let mut bed = Bed::with_nvme(config_with(|nvme| nvme.tuning.segments_max = 2));
    bed.store(0..4);
    bed.settle();
    bed.look_up(SCHEDULER, 1, &hashes(0..2));
    bed.release(1);
    bed.store(10..11);
    let effects = bed.settle();
    let gone = removals(&effects);
    assert_eq!(
        gone,
        [
            (2, Tier::Nvme, RemovalCause::Reclaimed),
            (3, Tier::Nvme, RemovalCause::Reclaimed)
        ]
    );
    assert_eq!(bed.engine.counters().nvme_carried_over, 2);
    bed.flush_host();
    assert_eq!(
        (bed.residency(0), bed.residency(2)),
        ((false, true), (false, false))
    );
    bed.ask(1, &hashes(0..2));
    assert_eq!(answers(&bed.settle()), [(1, 32)]);
}

#[test]
fn a_segment_that_is_read_is_not_opened_before_the_read_is_over() {
    let mut bed = Bed::with_nvme(config_with(|nvme| nvme.tuning.segments_max = 2));
    bed.store_cold(0..4);
    bed.ask(1, &hashes(0..4));
    for number in 10..13 {
        bed.store(number..number + 1);
        bed.settle_but(|order| is_read(order) || is_move(order));
    }
    let old = |order: &NvmeOrder| {
        let NvmeOrder::OpenSegment { segment, .. } = order else {
            return false;
        };
        segment.index == 0 && segment.generation.0 > 1
    };
    assert!(bed.order(old).is_none());
    let reads = bed.take_orders(is_read);
    assert_eq!(reads.len(), 4);
    for (device, read) in reads {
        bed.done(device, &read, IoOutcome::Done);
    }
    bed.settle();
    assert!(bed.residency(0).0);
    assert_eq!(bed.engine.occupancy().nvme_queue, 0);
}

#[test]
fn a_block_dropped_while_it_is_carried_over_is_forgotten_at_its_new_place() {
    let mut bed = Bed::with_nvme(config_with(|nvme| nvme.tuning.segments_max = 2));
    bed.store(0..4);
    bed.settle();
    bed.look_up(SCHEDULER, 1, &hashes(0..1));
    bed.release(1);
    bed.store(10..11);
    bed.settle_but(is_move);
    let (device, order) = bed.order(is_move).unwrap();
    bed.flush_host();
    bed.ask(2, &hashes(0..1));
    bed.answer(is_read, IoOutcome::Failed);
    assert_eq!(bed.residency(0), (false, false));
    bed.done(device, &order, IoOutcome::Done);
    let NvmeOrder::Move { to, .. } = order else {
        panic!("{order:?} is no move")
    };
    let forgets = bed.take_orders(|order| matches!(order, NvmeOrder::Forget { .. }));
    assert!(forgets.contains(&(0, NvmeOrder::Forget { extent: to })));
}

#[test]
fn shrinking_reclaims_and_deletes_and_growing_creates() {
    let mut bed = Bed::with_nvme(config_with(|nvme| nvme.tuning.segments_max = 6));
    for first in (0..16).step_by(4) {
        bed.store(first..first + 4);
        bed.settle();
    }
    assert_eq!(bed.engine.occupancy().nvme_segments_total, 6);
    let mut tune = |segments_max| {
        let tuning = NvmeTuning {
            segments_max,
            ..tuning()
        };
        bed.step(Event::NvmeTuned { tuning });
        bed.settle();
        bed.engine.occupancy()
    };
    let small = tune(2);
    assert_eq!(small.nvme_segments_total, 2);
    assert!(small.nvme_blocks <= 8, "{small:?}");
    assert_eq!(tune(5).nvme_segments_total, 5);
    assert_eq!(tune(0).nvme_segments_total, 5, "what cannot work changes nothing");
    bed.store(20..24);
    bed.settle();
    assert_eq!(bed.residency(23), (true, true));
}

#[test]
fn a_full_segment_is_told_when_all_its_writes_are_answered() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store(0..5);
    bed.settle_but(is_write);
    let is_full = |order: &NvmeOrder| matches!(order, NvmeOrder::SegmentFull { .. });
    assert!(bed.order(is_full).is_none());
    bed.settle();
    assert_eq!(bed.take_orders(is_full).len(), 1);
}
