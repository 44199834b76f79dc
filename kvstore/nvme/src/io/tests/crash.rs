//! Whatever a device does to writes that it has answered, and whenever the power is cut: after the next start every block
//! that is found is exactly the block of its name, or says that it is not.
//!
//! Random orders go through the real carrier over a device that lies, beside the real maintenance thread. Then the image
//! that is left is opened and read like any other directory. `KVTIER_CRASH_SEEDS` asks for more seeds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvstore_types::{BlockKey, Extent, IoOutcome, OperationId, ReadClass, SegmentGeneration, SegmentRef};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::rig::{PAGE, fill, key, memory, payload, spec, take};
use crate::directory::{Directory, SegmentFile};
use crate::format::tests::namespace;
use crate::io::CarrierSpec;
use crate::io::carrier::Carrier;
use crate::io::lying::{Faults, Lying, Platter};
use crate::maintenance::{FileTable, Maintenance, MaintenanceHandle, MaintenanceOrder, MaintenanceSpec};
use crate::stats::Counters;
use crate::{Device, DeviceEvent, DeviceSpec, Direct, FoundBlock, IoEngine, Memory, Order};

const SEGMENTS: u32 = 3;
const SEGMENT_PAGES: u32 = 64;
const SLOT_PAGES: u32 = 8;
const SLOTS: u32 = 16;
const WATCHDOG: Duration = Duration::from_mins(1);

/// Files that the maintenance thread gives, until the test hands them on.
#[derive(Clone, Default)]
struct Files(Arc<Mutex<Vec<NewFile>>>);

type NewFile = (u32, Arc<SegmentFile>);

impl FileTable for Files {
    fn add(&self, index: u32, file: Arc<SegmentFile>) {
        self.0.lock().unwrap().push((index, file));
    }

    fn remove(&self, _: u32) {}
}

/// What an operation was for.
enum Asked {
    Write(BlockKey, Extent),
    Read(BlockKey, Extent, u32),
    Move(BlockKey, Extent),
    Other,
}

struct Run {
    rng: SmallRng,
    carrier: Carrier,
    platter: Arc<Mutex<Platter>>,
    maintenance: Maintenance,
    to_maintenance: MaintenanceHandle,
    files: Files,
    events: Receiver<Vec<DeviceEvent>>,
    memory: Arc<Memory>,
    asked: BTreeMap<OperationId, Asked>,
    slots_free: Vec<u32>,
    /// What was acknowledged and is not overwritten, by place.
    stored: BTreeMap<(u32, u32), (BlockKey, Extent)>,
    segment: SegmentRef,
    tail: u32,
    numbers: u64,
}

fn directory_spec(path: &Path, memory: Arc<Memory>) -> DeviceSpec {
    let segment_bytes = u64::from(SEGMENT_PAGES) * PAGE as u64;
    DeviceSpec {
        segment_bytes,
        ..spec(path, memory, IoEngine::Threads, Direct::Never)
    }
}

impl Run {
    fn new(path: &Path, seed: u64, faults: Faults) -> Self {
        let memory = memory((SLOTS * SLOT_PAGES) as usize * PAGE);
        let spec = directory_spec(path, memory.clone());
        let (directory, inventory) = Directory::open(&spec).unwrap();
        let (sender, events) = mpsc::channel();
        let files = Files::default();
        let platter = Platter::new(seed, faults);
        let tier = directory.key().clone();
        let sink = |sender: Sender<_>| Arc::new(move |events| drop(sender.send(events)));
        let maintenance_spec = MaintenanceSpec {
            thread: "kvt-maint-0".into(),
            name: "test/0".into(),
            catalogue_bytes_max: 64 << 20,
            names_bytes_max: 16 << 20,
            catalogue_delay: Duration::ZERO,
        };
        let maintenance = Maintenance::spawn(
            directory,
            inventory,
            maintenance_spec,
            Box::new(files.clone()),
            sink(sender.clone()),
        )
        .unwrap();
        let to_maintenance = maintenance.handle();
        let told = maintenance.handle();
        let carrier = CarrierSpec {
            name: "test/0".into(),
            memory: memory.clone(),
            tier,
            segment_pages: SEGMENT_PAGES,
            depth: 4,
            counters: Arc::new(Counters::default()),
            sink: sink(sender),
            written: Box::new(move |block| told.written(block)),
        };
        let carrier = Carrier::new(Box::new(Lying::new(platter.clone(), 4)), carrier);
        let segment = SegmentRef {
            index: 0,
            generation: SegmentGeneration(0),
        };
        let mut run = Self {
            rng: SmallRng::seed_from_u64(seed),
            carrier,
            platter,
            maintenance,
            to_maintenance,
            files,
            events,
            memory,
            asked: BTreeMap::new(),
            slots_free: (0..SLOTS).collect(),
            stored: BTreeMap::new(),
            segment,
            tail: 1,
            numbers: seed << 32,
        };
        run.prepare();
        run
    }

    fn prepare(&mut self) {
        let (descriptor, geometry) = namespace();
        self.to_maintenance
            .submit(MaintenanceOrder::KeepNamespace { descriptor, geometry });
        for index in 0..SEGMENTS {
            let operation = self.number(Asked::Other);
            self.to_maintenance
                .submit(MaintenanceOrder::CreateSegment { operation, index });
            self.wait_for(operation);
        }
        for (index, file) in self.files.0.lock().unwrap().drain(..) {
            self.carrier.add_file(index, file);
        }
        self.open(0);
    }

    fn number(&mut self, asked: Asked) -> OperationId {
        self.numbers += 1;
        let operation = OperationId(self.numbers);
        self.asked.insert(operation, asked);
        operation
    }

    /// Waits for the maintenance thread.
    fn wait_for(&mut self, operation: OperationId) {
        while self.asked.contains_key(&operation) {
            let events = self.events.recv_timeout(WATCHDOG).unwrap();
            self.hear(events);
        }
    }

    fn open(&mut self, index: u32) {
        // The engine begins a segment's next use when nothing of the last one is under way or wanted.
        self.settle();
        self.stored.retain(|&(segment, _), _| segment != index);
        let generation = SegmentGeneration(self.segment.generation.0 + 1);
        self.segment = SegmentRef { index, generation };
        self.tail = 1;
        let (operation, segment) = (self.number(Asked::Other), self.segment);
        self.to_maintenance
            .submit(MaintenanceOrder::OpenSegment { operation, segment });
        self.wait_for(operation);
    }

    fn settle(&mut self) {
        while !self.carrier.is_idle() {
            while self.carrier.round() {}
            self.carrier.sleep();
        }
        while self.carrier.round() {}
        while let Ok(events) = self.events.try_recv() {
            self.hear(events);
        }
    }

    fn hear(&mut self, events: Vec<DeviceEvent>) {
        for event in events {
            let DeviceEvent::Done {
                operation, outcome, ..
            } = event
            else {
                continue;
            };
            let good = outcome == IoOutcome::Done;
            match self.asked.remove(&operation).unwrap() {
                Asked::Write(key, extent) | Asked::Move(key, extent) if good => {
                    self.stored
                        .insert((extent.segment.index, extent.page), (key, extent));
                }
                Asked::Read(key, extent, slot) => {
                    if good {
                        assert!(has(&self.memory, slot, extent, key), "wrong bytes in {extent:?}");
                    }
                    self.slots_free.push(slot);
                }
                Asked::Write(..) | Asked::Move(..) | Asked::Other => {}
            }
        }
    }

    /// One random thing.
    fn step(&mut self) {
        let pages = self.rng.random_range(2..=SLOT_PAGES);
        match self.rng.random_range(0..10) {
            0..5 => self.write(pages),
            5 | 6 => self.read(),
            7 => self.relocate(),
            8 => drop(self.carrier.round()),
            _ => {
                while self.carrier.round() {}
                self.carrier.sleep();
            }
        }
        while let Ok(events) = self.events.try_recv() {
            self.hear(events);
        }
    }

    fn room(&mut self, pages: u32) -> Extent {
        if self.tail + pages > SEGMENT_PAGES {
            let (full, next) = (self.segment, (self.segment.index + 1) % SEGMENTS);
            self.settle();
            self.to_maintenance
                .submit(MaintenanceOrder::SegmentFull { segment: full });
            self.open(next);
        }
        let extent = Extent {
            segment: self.segment,
            page: self.tail,
            pages,
        };
        self.tail += pages;
        extent
    }

    fn write(&mut self, pages: u32) {
        let extent = self.room(pages);
        let Some(slot) = self.slots_free.pop() else { return };
        // A slot that was written is free again when nothing is under way; so few are needed that there are enough.
        let (descriptor_bytes, key) = (self.rng.random_range(0..300), key_of(self.numbers));
        fill(
            &self.memory,
            offset(slot) + PAGE,
            &payload(key, (pages as usize - 1) * PAGE),
        );
        let operation = self.number(Asked::Write(key, extent));
        let descriptor = vec![7; descriptor_bytes];
        let offset = offset(slot) as u64;
        self.carrier.accept(Order::Write {
            operation,
            extent,
            offset,
            key,
            descriptor,
        });
        self.settle_if_short();
        self.slots_free.push(slot);
        self.slots_free.rotate_right(1);
    }

    /// Slots of writes are reused in turn, so none may be reused while it is being written.
    fn settle_if_short(&mut self) {
        if self.asked.len() >= SLOTS as usize / 2 {
            self.settle();
        }
    }

    fn any(&mut self) -> Option<(BlockKey, Extent)> {
        let count = self.stored.len();
        let at = (count > 0).then(|| self.rng.random_range(0..count))?;
        self.stored.values().nth(at).copied()
    }

    fn read(&mut self) {
        let Some((key, extent)) = self.any() else { return };
        let Some(slot) = self.slots_free.pop() else { return };
        let operation = self.number(Asked::Read(key, extent, slot));
        let class = if self.rng.random() {
            ReadClass::Demand
        } else {
            ReadClass::Prefetch
        };
        let offset = offset(slot) as u64;
        self.carrier.accept(Order::Read {
            operation,
            extent,
            offset,
            key,
            class,
        });
        self.settle_if_short();
    }

    fn relocate(&mut self) {
        let Some((key, from)) = self.any() else { return };
        let to = self.room(from.pages);
        if from.segment.index == to.segment.index {
            return;
        }
        let operation = self.number(Asked::Move(key, to));
        self.carrier.accept(Order::Move {
            operation,
            from,
            to,
            key,
        });
        self.settle_if_short();
    }

    /// The daemon is gone; gives what was acknowledged.
    fn end(mut self) -> BTreeMap<(u32, u32), (BlockKey, Extent)> {
        while let Ok(events) = self.events.try_recv() {
            self.hear(events);
        }
        drop(self.carrier);
        drop(self.maintenance);
        self.stored
    }
}

fn offset(slot: u32) -> usize {
    (slot * SLOT_PAGES) as usize * PAGE
}

fn has(memory: &Memory, slot: u32, extent: Extent, key: BlockKey) -> bool {
    let bytes = (extent.pages as usize - 1) * PAGE;
    take(memory, offset(slot) + PAGE, bytes) == payload(key, bytes)
}

/// A name in the namespace that the directory keeps.
fn key_of(number: u64) -> BlockKey {
    BlockKey {
        namespace: namespace().0.id(),
        ..key(number)
    }
}

/// Opens the directory like any other, and reads every block that is told: gives those that are good, and counts others.
fn reopen(path: &Path) -> (Vec<FoundBlock>, u64) {
    let memory = memory((SLOTS * SLOT_PAGES) as usize * PAGE);
    let (sender, events) = mpsc::channel();
    let sink = Arc::new(move |events| drop(sender.send(events)));
    let device = Device::open(&directory_spec(path, memory.clone()), sink).unwrap();
    let (mut found, mut loaded) = (Vec::new(), false);
    while !loaded {
        for event in events.recv_timeout(WATCHDOG).unwrap() {
            match event {
                DeviceEvent::Blocks { blocks, .. } => found.extend(blocks),
                DeviceEvent::Loaded(_) => loaded = true,
                DeviceEvent::Lost { reason } => panic!("{reason}"),
                _ => {}
            }
        }
    }
    let (mut good, mut bad) = (Vec::new(), 0);
    for (number, block) in found.into_iter().enumerate() {
        let operation = OperationId(number as u64);
        let (key, extent) = (block.key, block.extent);
        assert!(extent.pages <= SLOT_PAGES);
        fill(&memory, 0, &vec![0xEE; SLOT_PAGES as usize * PAGE]);
        device.submit(vec![Order::Read {
            operation,
            extent,
            offset: 0,
            key,
            class: ReadClass::Demand,
        }]);
        match events.recv_timeout(WATCHDOG).unwrap()[..] {
            [
                DeviceEvent::Done {
                    outcome: IoOutcome::Done,
                    ..
                },
            ] => {
                assert!(has(&memory, 0, extent, key), "wrong bytes in {extent:?}");
                good.push(block);
            }
            [DeviceEvent::Done { .. }] => bad += 1,
            ref other => panic!("unexpected {other:?}"),
        }
    }
    device.shutdown();
    (good, bad)
}

fn run_to_the_end(path: &Path, seed: u64, faults: Faults, power_cut: bool) -> Vec<(BlockKey, Extent)> {
    let mut run = Run::new(path, seed, faults);
    for _ in 0..run.rng.random_range(20..120) {
        run.step();
    }
    let platter = run.platter.clone();
    let forget_catalogue = run.rng.random_range(0..3) == 0;
    let stored = run.end();
    let mut platter = platter.lock().unwrap();
    if power_cut {
        platter.cut_power();
    }
    platter.write_out(path);
    if forget_catalogue {
        std::fs::remove_dir_all(path.join("catalogue")).unwrap();
    }
    stored.into_values().collect()
}

fn seeds(default: u64) -> u64 {
    std::env::var("KVTIER_CRASH_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    let path = place.path().join("tier");
    (place, path)
}

#[test]
fn a_killed_process_loses_nothing_that_was_acknowledged() {
    for seed in 0..seeds(60) {
        let (_place, path) = place();
        let stored = run_to_the_end(&path, seed, Faults::default(), false);
        let (good, _) = reopen(&path);
        for (key, extent) in stored {
            let found = good
                .iter()
                .any(|block| block.key == key && block.extent == extent);
            assert!(found, "seed {seed}: {extent:?} was acknowledged and is not found");
        }
    }
}

#[test]
fn a_power_cut_may_lose_blocks_and_never_changes_one() {
    let (mut good, mut bad, mut lost) = (0, 0, 0);
    for seed in 0..seeds(200) {
        let (_place, path) = place();
        let stored = run_to_the_end(&path, 1000 + seed, Faults::default(), true);
        let (found, damaged) = reopen(&path);
        lost += stored.len().saturating_sub(found.len());
        good += found.len();
        bad += damaged;
    }
    assert!(
        good > 0 && bad > 0 && lost > 0,
        "the device did not lie: {good} {bad} {lost}"
    );
}

#[test]
fn a_device_that_lies_while_it_runs_is_never_believed() {
    let faults = Faults {
        misdirected: 0.05,
        bit_flip: 0.05,
        short: 0.05,
        error: 0.05,
        no_space: 0.05,
    };
    let mut bad = 0;
    for seed in 0..seeds(60) {
        let (_place, path) = place();
        run_to_the_end(&path, 2000 + seed, faults, seed % 2 == 0);
        bad += reopen(&path).1;
    }
    assert!(bad > 0, "the device did not lie");
}
