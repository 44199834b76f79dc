//! Whose turn it is, seen from the device: a device that ends one transfer after the other, in the order they came.

use std::sync::{Arc, Mutex};

use kvstore_types::{IoOutcome, OperationId, ReadClass};
use tempfile::TempDir;

use super::rig::{PAGE, SEGMENT_PAGES, extent, fill, key, memory, payload, spec};
use crate::directory::Directory;
use crate::io::CarrierSpec;
use crate::io::backend::Direction;
use crate::io::carrier::Carrier;
use crate::io::lying::{Faults, Lying, Platter};
use crate::stats::Counters;
use crate::{DeviceEvent, Direct, IoEngine, Order};

/// Pages of every block here.
const PAGES: u32 = 8;
const SLOTS: u64 = 64;

/// A carrier over a lying device, moved by the test.
pub(super) struct Stage {
    pub(super) carrier: Carrier,
    pub(super) platter: Arc<Mutex<Platter>>,
    outcomes: Arc<Mutex<Vec<(OperationId, IoOutcome)>>>,
    pub(super) counters: Arc<Counters>,
    _place: TempDir,
}

impl Stage {
    pub(super) fn new(depth: usize, seed: u64, faults: Faults) -> Self {
        let place = tempfile::tempdir().unwrap();
        let memory = memory(usize::try_from(SLOTS).unwrap() * PAGES as usize * PAGE);
        let path = place.path().join("tier");
        let spec = spec(&path, memory.clone(), IoEngine::Threads, Direct::Never);
        let (mut directory, _) = Directory::open(&spec).unwrap();
        for slot in 0..SLOTS {
            let bytes = (PAGES as usize - 1) * PAGE;
            fill(
                &memory,
                usize::try_from(offset(slot)).unwrap() + PAGE,
                &payload(key(slot), bytes),
            );
        }
        let outcomes = Arc::new(Mutex::new(Vec::new()));
        let (told, counters) = (outcomes.clone(), Arc::new(Counters::default()));
        let carrier = CarrierSpec {
            name: spec.name,
            memory,
            tier: directory.key().clone(),
            segment_pages: SEGMENT_PAGES,
            depth,
            counters: counters.clone(),
            sink: Arc::new(move |events| {
                for event in events {
                    if let DeviceEvent::Done {
                        operation, outcome, ..
                    } = event
                    {
                        told.lock().unwrap().push((operation, outcome));
                    }
                }
            }),
            written: Box::new(|_| {}),
        };
        let platter = Platter::new(seed, faults);
        platter.lock().unwrap().in_order = true;
        let mut carrier = Carrier::new(Box::new(Lying::new(platter.clone(), depth)), carrier);
        for index in 1..3 {
            carrier.add_file(index, directory.create_segment(index).unwrap());
        }
        Self {
            carrier,
            platter,
            outcomes,
            counters,
            _place: place,
        }
    }

    /// One transfer more ends.
    pub(super) fn step(&mut self) {
        while self.carrier.round() {}
        self.carrier.sleep();
        while self.carrier.round() {}
    }

    pub(super) fn finish(&mut self) {
        while !self.carrier.is_idle() {
            self.step();
        }
    }

    /// Blocks in the order the device was given their transfers, as numbers of the place.
    fn begun(&self) -> Vec<(Direction, u64)> {
        let begun = self.platter.lock().unwrap().begun.clone();
        let place = |&(direction, _, offset): &(_, _, u64)| {
            (direction, (offset / PAGE as u64 - 1) / u64::from(PAGES))
        };
        begun.iter().map(place).collect()
    }

    pub(super) fn outcomes(&self) -> Vec<(OperationId, IoOutcome)> {
        self.outcomes.lock().unwrap().clone()
    }
}

pub(super) fn offset(slot: u64) -> u64 {
    slot * u64::from(PAGES) * PAGE as u64
}

/// Block `number` lies at place `number` and comes from or goes to slot `number`.
pub(super) fn write(number: u64) -> Order {
    let extent = extent(1, 1 + u32::try_from(number).unwrap() * PAGES, PAGES);
    let operation = OperationId(number);
    Order::Write {
        operation,
        extent,
        offset: offset(number),
        key: key(number),
        descriptor: Vec::new(),
    }
}

pub(super) fn read(number: u64, operation: u64, class: ReadClass) -> Order {
    let extent = extent(1, 1 + u32::try_from(number).unwrap() * PAGES, PAGES);
    let operation = OperationId(operation);
    Order::Read {
        operation,
        extent,
        offset: offset(number),
        key: key(number),
        class,
    }
}

fn verify(number: u64, operation: u64) -> Order {
    let extent = extent(1, 1 + u32::try_from(number).unwrap() * PAGES, PAGES);
    Order::Verify {
        operation: OperationId(operation),
        extent,
        key: key(number),
    }
}

#[test]
fn a_demand_read_overtakes_a_queue_of_writes() {
    let mut stage = Stage::new(4, 1, Faults::default());
    stage.carrier.accept(write(0));
    stage.finish();
    (1..40).for_each(|number| stage.carrier.accept(write(number)));
    stage.step();
    let before = stage.begun().len();
    stage.carrier.accept(read(0, 100, ReadClass::Demand));
    stage.step();
    let begun = stage.begun();
    assert_eq!(
        begun[before],
        (Direction::Read, 0),
        "the read is given to the device next: {begun:?}"
    );
    let answered = stage.outcomes().len();
    // At most half of the depth was at the device before it.
    stage.step();
    stage.step();
    let answers = stage.outcomes();
    let place = answers
        .iter()
        .position(|&(operation, _)| operation == OperationId(100));
    assert!(place.is_some_and(|place| place <= answered + 2), "{answers:?}");
    stage.finish();
    assert_eq!(stage.outcomes().len(), 41);
}

#[test]
fn demand_goes_before_prefetch_and_prefetch_before_writes_and_verifying_comes_last() {
    let mut stage = Stage::new(1, 1, Faults::default());
    (0..6).for_each(|number| stage.carrier.accept(write(number)));
    stage.finish();
    let before = stage.begun().len();
    stage.carrier.accept(verify(0, 100));
    stage.carrier.accept(write(20));
    stage.carrier.accept(read(1, 101, ReadClass::Prefetch));
    stage.carrier.accept(read(2, 102, ReadClass::Demand));
    stage.carrier.accept(read(3, 103, ReadClass::Prefetch));
    stage.carrier.accept(read(4, 104, ReadClass::Demand));
    stage.finish();
    let reads = |number| (Direction::Read, number);
    let expected = [
        reads(2),
        reads(4),
        reads(1),
        reads(3),
        (Direction::Write, 20),
        reads(0),
    ];
    assert_eq!(stage.begun()[before..], expected);
}

#[test]
fn a_read_that_becomes_urgent_or_is_not_any_more_changes_its_place() {
    let mut stage = Stage::new(1, 1, Faults::default());
    (0..6).for_each(|number| stage.carrier.accept(write(number)));
    stage.finish();
    let before = stage.begun().len();
    for number in 0..4 {
        let class = if number < 2 {
            ReadClass::Demand
        } else {
            ReadClass::Prefetch
        };
        stage.carrier.accept(read(number, 100 + number, class));
    }
    let set = |number, class| Order::SetClass {
        operation: OperationId(number),
        class,
    };
    stage.carrier.accept(set(103, ReadClass::Demand));
    stage.carrier.accept(set(100, ReadClass::Prefetch));
    stage.carrier.accept(set(999, ReadClass::Demand));
    stage.finish();
    let begun: Vec<_> = stage.begun()[before..]
        .iter()
        .map(|&(_, number)| number)
        .collect();
    assert_eq!(begun, [1, 3, 2, 0]);
    assert_eq!(stage.outcomes().len(), 10, "each is answered once");
}

#[test]
fn every_single_failing_transfer_is_answered_for_its_block_alone() {
    let total = {
        let mut stage = Stage::new(3, 5, Faults::default());
        drop(run_all_kinds(&mut stage));
        stage.platter.lock().unwrap().begun.len() as u64
    };
    for errno in [libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EAGAIN, libc::EINTR] {
        for fails in 0..total {
            let mut stage = Stage::new(3, 5, Faults::default());
            stage.platter.lock().unwrap().fails = Some((fails, errno));
            let direction = run_all_kinds(&mut stage);
            let bad: Vec<_> = stage
                .outcomes()
                .into_iter()
                .filter(|&(_, outcome)| outcome != IoOutcome::Done)
                .collect();
            match errno {
                libc::EAGAIN | libc::EINTR => assert_eq!(bad, [], "tried again"),
                _ => {
                    let full = errno != libc::EIO && direction(fails) == Direction::Write;
                    let expected = if full {
                        IoOutcome::NoSpace
                    } else {
                        IoOutcome::Failed
                    };
                    assert_eq!(
                        bad.first().map(|&(_, outcome)| outcome),
                        Some(expected),
                        "{fails} {errno}"
                    );
                }
            }
        }
    }
}

/// Writes six blocks, then reads, moves and verifies each of those; each is answered. What was not written is not read.
fn run_all_kinds(stage: &mut Stage) -> impl Fn(u64) -> Direction + use<> {
    (0..6).for_each(|number| stage.carrier.accept(write(number)));
    stage.finish();
    let written: Vec<u64> = stage
        .outcomes()
        .iter()
        .filter(|(_, outcome)| *outcome == IoOutcome::Done)
        .map(|(operation, _)| operation.0)
        .collect();
    for &number in &written {
        let from = extent(1, 1 + u32::try_from(number).unwrap() * PAGES, PAGES);
        let to = extent(2, from.page, PAGES);
        stage
            .carrier
            .accept(read(number, 100 + number, ReadClass::Demand));
        let operation = OperationId(200 + number);
        stage.carrier.accept(Order::Move {
            operation,
            from,
            to,
            key: key(number),
        });
        stage.carrier.accept(verify(number, 300 + number));
    }
    stage.finish();
    assert_eq!(
        stage.outcomes().len(),
        6 + 3 * written.len(),
        "everything is answered once"
    );
    let begun = stage.platter.lock().unwrap().begun.clone();
    move |call| begun[usize::try_from(call).unwrap()].0
}
