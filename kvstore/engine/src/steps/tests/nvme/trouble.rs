//! Devices fail.

use super::*;

fn store_one(bed: &mut Bed, number: u8) {
    bed.store(number..number + 1);
    bed.settle_but(is_write);
}

#[test]
fn a_failed_write_suspends_writing_and_one_probe_resumes_it() {
    let mut bed = Bed::with_nvme(nvme_config());
    store_one(&mut bed, 0);
    let effects = bed.answer(is_write, IoOutcome::NoSpace);
    assert!(matches!(notes(&effects)[..], [Note::NvmeWritesSuspended { .. }]));
    store_one(&mut bed, 1);
    assert!(bed.order(is_write).is_none());
    assert!(bed.engine.nvme_devices().all(|device| device.writes_suspended));
    // Five seconds, then ten, with one write each.
    for seconds in [5, 10, 20, 40, 60, 60] {
        let wakes_at = bed.engine.wakes_at().unwrap();
        assert_eq!(wakes_at - bed.now, Duration::from_secs(seconds));
        bed.later(Duration::from_secs(seconds));
        assert_eq!(bed.orders.iter().filter(|(_, order)| is_write(order)).count(), 1);
        assert_eq!(notes(&bed.answer(is_write, IoOutcome::Failed)), []);
    }
    bed.later(Duration::from_mins(1));
    let effects = bed.answer(is_write, IoOutcome::Done);
    assert!(matches!(notes(&effects)[..], [Note::NvmeWritesResumed { .. }]));
    bed.settle();
    assert_eq!((bed.residency(0), bed.residency(1)), ((true, true), (true, true)));
    assert_eq!(bed.engine.counters().nvme_no_space, 1);
    assert_eq!(bed.engine.wakes_at(), None);
}

#[test]
fn with_nothing_to_write_a_suspended_device_wakes_nobody() {
    let mut bed = Bed::with_nvme(nvme_config());
    store_one(&mut bed, 0);
    bed.answer(is_write, IoOutcome::Failed);
    // The block is queued again; when it has left host memory there is nothing left to try.
    bed.flush_host();
    bed.later(Duration::from_hours(1));
    assert_eq!(bed.engine.wakes_at(), None);
}

#[test]
fn another_device_takes_what_one_could_not_write() {
    let mut bed = Bed::with_nvme(config_with(|nvme| nvme.device_count = 2));
    store_one(&mut bed, 0);
    bed.answer(is_write, IoOutcome::Failed);
    bed.settle();
    assert_eq!(bed.residency(0), (true, true));
}

#[test]
fn a_lost_device_takes_its_copies_with_it_and_the_others_go_on() {
    let mut bed = Bed::with_nvme(config_with(|nvme| nvme.device_count = 2));
    bed.store(100..101);
    bed.settle();
    bed.store_cold(0..4);
    let effects = bed.tell(0, NvmeEvent::Lost);
    let gone = removals(&effects);
    assert_eq!(gone.len(), 3);
    assert!(
        gone.iter()
            .all(|gone| (gone.1, gone.2) == (Tier::Nvme, RemovalCause::DeviceLost))
    );
    assert!(notes(&effects).contains(&Note::NvmeDeviceLost {
        device: DeviceIndex(0)
    }));
    let blocks: Vec<(&str, u64)> = bed
        .engine
        .nvme_devices()
        .map(|device| (device.state, device.blocks))
        .collect();
    assert_eq!(blocks, [("lost", 0), ("serving", 2)]);
    bed.orders.clear();
    bed.store(30..34);
    bed.settle();
    assert_eq!(bed.engine.occupancy().nvme_blocks, 6);
}

#[test]
fn reads_that_fail_again_and_again_take_a_device_out_of_service() {
    let mut bed = Bed::with_nvme(config_with(|nvme| nvme.tuning.segments_max = 20));
    for first in (0..40).step_by(4) {
        bed.store(first..first + 4);
        bed.settle();
    }
    bed.flush_host();
    for number in 0..16 {
        assert_eq!(bed.engine.counters().nvme_devices_lost, 0);
        bed.ask(1, &hashes(number..number + 1));
        let effects = bed.answer(is_read, IoOutcome::Failed);
        assert_eq!(answers(&effects), [(1, 0)]);
        assert_eq!(
            removals(&effects)[0],
            (number, Tier::Nvme, RemovalCause::Unreadable)
        );
    }
    assert_eq!(bed.engine.counters().nvme_devices_lost, 1);
    assert_eq!(bed.engine.occupancy().nvme_blocks, 0);
    bed.orders.clear();
    bed.store(50..52);
    assert_eq!(bed.orders, []);
    assert_eq!(bed.engine.wakes_at(), None);
}

#[test]
fn a_read_that_a_lost_device_never_answered_keeps_its_slot() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store_cold(0..1);
    bed.ask(1, &hashes(0..1));
    let (device, read) = bed.order(is_read).unwrap();
    bed.tell(0, NvmeEvent::Lost);
    assert_eq!(bed.engine.occupancy().nvme_reads_in_flight, 1);
    assert_eq!(answers(&bed.later(Duration::from_secs(1))), [(1, 0)]);
    let slots = bed.reserve(SCHEDULER, &hashes(100..108));
    assert_eq!(
        slots
            .iter()
            .filter(|grant| matches!(grant, Grant::Slot(_)))
            .count(),
        7
    );
    bed.done(device, &read, IoOutcome::Failed);
    assert_eq!(bed.engine.occupancy().slots_free, 1);
}

#[test]
fn a_file_that_cannot_be_made_leaves_the_others_in_use() {
    let mut bed = Bed::new(nvme_config());
    bed.tell(0, NvmeEvent::Loaded);
    let is_create = |order: &NvmeOrder| matches!(order, NvmeOrder::CreateSegment { .. });
    bed.answer(is_create, IoOutcome::Done);
    bed.answer(is_create, IoOutcome::Done);
    let effects = bed.answer(is_create, IoOutcome::NoSpace);
    assert!(matches!(
        notes(&effects)[..],
        [Note::NvmeSegmentNotCreated { segments: 3, .. }]
    ));
    bed.answer(is_create, IoOutcome::NoSpace);
    bed.enter();
    for first in (0..40).step_by(4) {
        bed.store(first..first + 4);
        bed.settle();
    }
    assert_eq!(bed.engine.counters().nvme_written, 40);
    assert_eq!(bed.engine.occupancy().nvme_segments_total, 2);
    assert_eq!(bed.engine.wakes_at(), None);
    bed.later(Duration::from_mins(1));
    bed.settle();
    assert_eq!(bed.engine.occupancy().nvme_segments_total, 4);
}

#[test]
fn answers_to_nothing_are_counted() {
    let mut bed = Bed::with_nvme(nvme_config());
    let event = || NvmeEvent::Done {
        operation: OperationId(999),
        outcome: IoOutcome::Done,
    };
    bed.tell(0, event());
    bed.tell(9, event());
    bed.tell(0, NvmeEvent::Loaded);
    assert_eq!(bed.engine.counters().nvme_events_unknown, 3);
}
