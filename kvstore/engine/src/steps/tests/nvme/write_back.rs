//! Sealed blocks are written.

use super::*;

#[test]
fn slots_have_a_header_page_that_the_namespace_does_not_know_of() {
    let with = |nvme| {
        let mut bed = Bed::new(EngineConfig {
            nvme,
            ..nvme_config()
        });
        bed.attach(SCHEDULER, 1, profile(1, Role::Scheduler, 1));
        let effects = bed.attach(WORKER, 2, profile(1, Role::Worker(Rank(0)), 1));
        let ready = effects.into_iter().find_map(|effect| match effect {
            Effect::NamespaceReady {
                namespace, groups, ..
            } => Some((namespace, groups)),
            _ => None,
        });
        ready.unwrap()
    };
    let (without, with) = (with(None), with(nvme_config().nvme));
    assert_eq!(without.0, with.0);
    assert_eq!((without.1[0].slot_bytes, with.1[0].slot_bytes), (4096, 8192));
    assert_eq!(
        (without.1[0].rank_offsets[0], with.1[0].rank_offsets[0]),
        (0, 4096)
    );
    let mut bed = Bed::new(nvme_config());
    let mut large = profile(1, Role::Worker(Rank(0)), 1);
    large.groups[0].rank_bytes = 4096 * 4;
    assert!(matches!(
        bed.refusal(30, large),
        Refusal::BlockTooLarge {
            slot_bytes: 20480,
            ..
        }
    ));
}

#[test]
fn a_sealed_block_is_written_and_found_in_both_tiers() {
    let mut bed = Bed::with_nvme(nvme_config());
    let slots = bed.store(0..2);
    bed.settle_but(is_write);
    let keeps = bed.take_orders(|order| matches!(order, NvmeOrder::KeepNamespace { .. }));
    assert_eq!(keeps.len(), 1, "a device hears of a namespace once");
    let writes = bed.take_orders(is_write);
    let places: Vec<_> = writes
        .iter()
        .map(|(_, order)| match order {
            NvmeOrder::Write { extent, slot, .. } => (extent.page, extent.pages, *slot),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(places, [(1, 2, slots[0]), (3, 2, slots[1])]);
    assert_eq!(bed.residency(0), (true, false));
    let effects = bed.done(0, &writes[1].1, IoOutcome::Done);
    assert!(matches!(
        effects[..],
        [Effect::BlockStored { tier: Tier::Nvme, .. }]
    ));
    assert_eq!(
        (bed.residency(0), bed.residency(1)),
        ((true, false), (true, true))
    );
    let occupancy = bed.engine.occupancy();
    assert_eq!((occupancy.nvme_blocks, occupancy.nvme_bytes_used), (1, 8192));
    assert_eq!(occupancy.nvme_writes_in_flight, 1);
}

#[test]
fn a_block_that_is_being_written_is_never_evicted() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store(0..8);
    bed.settle_but(is_write);
    // All eight slots are pinned: four writes at the open segment, and as many as follow when there is room.
    let pinned = bed.engine.occupancy().nvme_writes_in_flight;
    assert_eq!(pinned, 8);
    assert_eq!(bed.reserve(SCHEDULER, &hashes(50..51)), [Grant::NoSpace]);
    bed.settle();
    assert!(matches!(
        bed.reserve(SCHEDULER, &hashes(50..51))[..],
        [Grant::Slot(_)]
    ));
    assert_eq!(bed.residency(7), (false, true));
}

#[test]
fn a_block_that_left_before_its_turn_is_counted_and_not_written() {
    let mut bed = Bed::new(nvme_config());
    bed.enter();
    // The device is still loading.
    bed.store(0..8);
    bed.store(10..14);
    bed.tell(0, NvmeEvent::Loaded);
    bed.settle();
    let counters = bed.engine.counters();
    assert_eq!((counters.nvme_write_stale, counters.nvme_written), (4, 8));
}

#[test]
fn second_touch_writes_what_was_hit_and_nothing_else() {
    let mut bed = Bed::with_nvme(config_with(|nvme| nvme.tuning.admission = Admission::SecondTouch));
    bed.store(0..4);
    bed.settle();
    assert_eq!(bed.engine.counters().nvme_written, 0);
    assert_eq!(bed.engine.counters().nvme_not_admitted, 4);
    bed.look_up(SCHEDULER, 1, &hashes(0..2));
    bed.look_up(SCHEDULER, 2, &hashes(0..2));
    bed.settle();
    assert_eq!(bed.engine.counters().nvme_written, 2);
    assert_eq!((bed.residency(1).1, bed.residency(2).1), (true, false));
}

#[test]
fn writes_keep_to_their_rate_and_time_wakes_the_engine_for_them() {
    let mut bed = Bed::with_nvme(config_with(|nvme| nvme.tuning.write_rate = Some(8192)));
    bed.store(0..3);
    bed.settle();
    assert_eq!(bed.engine.counters().nvme_written, 1);
    for written in 2..4 {
        let wakes_at = bed.engine.wakes_at().unwrap();
        assert_eq!(wakes_at - bed.now, Duration::from_secs(1));
        bed.later(Duration::from_millis(999));
        assert_eq!(bed.orders.iter().filter(|(_, order)| is_write(order)).count(), 0);
        bed.later(Duration::from_millis(1));
        bed.settle();
        assert_eq!(bed.engine.counters().nvme_written, written);
    }
    assert_eq!(bed.engine.wakes_at(), None);
}

#[test]
fn bytes_under_way_and_the_queue_are_bounded() {
    let mut bed = Bed::with_nvme(config_with(|nvme| {
        nvme.write_bytes_max = 8192 * 2;
        nvme.write_queue_max = 3;
    }));
    bed.store(0..2);
    bed.settle_but(is_write);
    bed.store(2..7);
    let occupancy = bed.engine.occupancy();
    assert_eq!((occupancy.nvme_writes_in_flight, occupancy.nvme_queue), (2, 3));
    assert_eq!(bed.engine.counters().nvme_write_queue_full, 2);
    bed.settle();
    assert_eq!(bed.engine.occupancy().nvme_blocks, 5);
}

#[test]
fn blocks_are_spread_over_devices() {
    let mut bed = Bed::with_nvme(config_with(|nvme| nvme.device_count = 2));
    // The first block waits for segments to be opened, and goes to the device that is the first to have one.
    bed.store(0..1);
    bed.settle();
    bed.store(1..5);
    bed.settle();
    let blocks: Vec<u64> = bed.engine.nvme_devices().map(|device| device.blocks).collect();
    assert_eq!(blocks, [3, 2]);
}

#[test]
fn a_block_larger_than_a_segment_is_not_written() {
    let mut bed = Bed::with_nvme(config_with(|nvme| nvme.segment_bytes = 4096 * 3));
    bed.store(0..1);
    bed.settle();
    assert_eq!(bed.engine.counters().nvme_written, 1, "one block fits exactly");
    let mut bed = Bed::new(config_with(|nvme| nvme.segment_bytes = 4096 * 3));
    let wide = |role| {
        let mut wide = profile(1, role, 1);
        wide.groups[0].rank_bytes = 8192;
        wide
    };
    bed.attach(SCHEDULER, 1, wide(Role::Scheduler));
    bed.attach(WORKER, 2, wide(Role::Worker(Rank(0))));
    bed.tell(0, NvmeEvent::Loaded);
    bed.store(0..1);
    bed.settle();
    assert_eq!(bed.engine.counters().nvme_too_large, 1);
}
