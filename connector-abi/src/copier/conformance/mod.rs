//! One suite over every backend: what a copier promises, whatever its device is.
//!
//! It runs on host memory, on the stand-in driver in each of its versions, pinned and not, and on a GPU where there is one.

#![expect(clippy::cast_possible_truncation, reason = "test sizes are small")]

pub(super) mod cuda;
mod host;
mod layouts;

use std::alloc::Layout;
use std::time::Duration;

use kvstore_types::SlotRef;

use super::*;
pub(super) use layouts::CacheLayout;
use layouts::{BLOCKS, layouts};

/// A device, as the suite sees it.
pub(super) trait Rig {
    /// A new copier for the device.
    fn copier(&self) -> Copier;
    /// Device memory of its own.
    fn allocate(&mut self, bytes: usize) -> usize;
    /// Writes device memory, and waits for it.
    fn write(&self, at: usize, bytes: &[u8]);
    /// Reads device memory, and waits for it.
    fn read(&self, at: usize, bytes: usize) -> Vec<u8>;
    /// What the engine's stream was given comes before a copy after this.
    fn after(&self) -> After;
    /// Gives work to the engine's stream: to fill memory, later if the device can be late.
    fn compute(&self, at: usize, value: u8, bytes: usize);
}

/// Memory that plays the region.
pub(super) struct FakeRegion {
    pins: Pins,
    base: *mut u8,
    layout: Layout,
}

// SAFETY: the memory is the value's own, and is reached through `base` only.
unsafe impl Send for FakeRegion {}
// SAFETY: as above; who writes where is agreed by slots.
unsafe impl Sync for FakeRegion {}

impl FakeRegion {
    pub(super) fn new(bytes: usize) -> Arc<Self> {
        let layout = Layout::from_size_align(bytes, 4096).unwrap();
        // SAFETY: the size is not 0.
        let base = unsafe { std::alloc::alloc(layout) };
        assert!(!base.is_null());
        let region = Self {
            pins: Pins::default(),
            base,
            layout,
        };
        region.fill(0x11);
        Arc::new(region)
    }

    pub(super) fn fill(&self, value: u8) {
        // SAFETY: the whole of the value's own memory; tests fill it only while no copy is under way.
        unsafe { self.base.write_bytes(value, self.layout.size()) };
    }

    pub(super) fn contents(&self) -> Vec<u8> {
        // SAFETY: the whole of the value's own memory; tests look only while no copy is under way.
        unsafe { std::slice::from_raw_parts(self.base, self.layout.size()) }.to_vec()
    }
}

// SAFETY: allocated until the value is dropped; `Drop` has the pins let go first.
unsafe impl SlotMemory for FakeRegion {
    fn base(&self) -> *mut u8 {
        self.base
    }

    fn bytes(&self) -> u64 {
        self.layout.size() as u64
    }

    fn pins(&self) -> &Pins {
        &self.pins
    }
}

impl Drop for FakeRegion {
    fn drop(&mut self) {
        drop(std::mem::take(&mut self.pins));
        // SAFETY: allocated by `new` with this layout.
        unsafe { std::alloc::dealloc(self.base, self.layout) };
    }
}

/// Numbers that look random and are the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 32) as u8).collect()
    }
}

const SLOTS: u32 = 24;
/// Where this rank's part begins in a slot.
const RANK_OFFSET: u64 = 4096;

/// A copier, a group of one layout, and a region with slots for it.
pub(super) struct Bench<R> {
    pub(super) rig: R,
    pub(super) copier: Copier,
    pub(super) region: Arc<FakeRegion>,
    pub(super) window: SlotWindow,
    layout: CacheLayout,
    runs: Vec<PageRun>,
    random: Random,
}

impl<R: Rig> Bench<R> {
    pub(super) fn new(mut rig: R, layout: CacheLayout) -> Self {
        let runs = layout.runs(|bytes| rig.allocate(bytes));
        let block_bytes: usize = runs.iter().map(|run| run.page_bytes).sum();
        let rank_bytes = block_bytes as u64 * u64::from(layout.blocks_per_chunk);
        let slot_bytes = (RANK_OFFSET + rank_bytes).next_multiple_of(4096);
        let region = FakeRegion::new((4096 + slot_bytes * u64::from(SLOTS)) as usize);
        let window = SlotWindow {
            memory: Arc::clone(&region) as Arc<dyn SlotMemory>,
            slot_bytes,
            rank_offset: RANK_OFFSET,
            rank_bytes,
        };
        let mut copier = rig.copier();
        // SAFETY: the pages live as long as the rig, and are touched by copies and by the test when none is under way.
        unsafe {
            copier
                .set_group(0, layout.blocks_per_chunk, runs.clone())
                .unwrap();
        };
        copier.prepare(&window.memory);
        while copier.report().pinning == PinStage::UnderWay {
            std::thread::yield_now();
        }
        Self {
            rig,
            copier,
            region,
            window,
            layout,
            runs,
            random: Random(0x9e37_79b9_7f4a_7c15),
        }
    }

    pub(super) fn transfer(&self, slot: u32, device_block: u32, block_in_chunk: u32) -> Transfer {
        let page = 1 + u64::from(slot) * self.window.slot_bytes / 4096;
        Transfer {
            slot: SlotRef {
                page: page as u32,
                generation: 1,
            },
            device_block,
            block_in_chunk,
        }
    }

    pub(super) fn submit(&mut self, tag: u64, direction: Direction, transfers: &[Transfer]) {
        let after = self.rig.after();
        self.submit_after(tag, direction, transfers, after).unwrap();
    }

    pub(super) fn submit_after(
        &mut self,
        tag: u64,
        direction: Direction,
        transfers: &[Transfer],
        after: After,
    ) -> Result<(), ClientError> {
        let request = CopyRequest {
            tag,
            direction,
            after,
            group: 0,
            transfers,
        };
        self.copier.submit(self.window.clone(), request)
    }

    pub(super) fn finish(&mut self) -> CopyResult {
        assert!(self.copier.wait(Duration::from_mins(1)), "a batch ends");
        self.copier.poll().unwrap()
    }

    fn finish_well(&mut self, bytes: u64) {
        let result = self.finish();
        assert_eq!(
            (result.outcome, result.bytes),
            (CopyOutcome::Done, bytes),
            "{:?}",
            self.copier.report()
        );
    }

    /// Random bytes into every tensor.
    fn scramble(&mut self) {
        for run in self.runs.clone() {
            let bytes = self.random.bytes(run.end() - run.base);
            self.rig.write(run.base, &bytes);
        }
    }

    /// A device block's bytes: its page of each run.
    fn block(&self, block: u32) -> Vec<u8> {
        let page = |run: &PageRun| {
            self.rig
                .read(run.base + block as usize * run.stride_bytes, run.page_bytes)
        };
        self.runs.iter().flat_map(page).collect()
    }

    fn place(&self, transfer: &Transfer) -> usize {
        let block_bytes = self.window.rank_bytes / u64::from(self.layout.blocks_per_chunk);
        (transfer.slot.byte_offset() + RANK_OFFSET + u64::from(transfer.block_in_chunk) * block_bytes)
            as usize
    }

    fn bytes_of(&self, transfers: &[Transfer]) -> u64 {
        transfers.len() as u64 * self.window.rank_bytes / u64::from(self.layout.blocks_per_chunk)
    }

    /// Each device block once, to places all over the slots.
    fn scattered(&mut self) -> Vec<Transfer> {
        let per_chunk = self.layout.blocks_per_chunk;
        let mut places: Vec<_> = (0..SLOTS)
            .flat_map(|slot| (0..per_chunk).map(move |place| (slot, place)))
            .collect();
        let mut transfers = Vec::new();
        for block in 0..BLOCKS as u32 {
            let (slot, place) = places.swap_remove(self.random.next() as usize % places.len());
            transfers.push(self.transfer(slot, block, place));
        }
        transfers
    }

    /// Whole chunks, one after another.
    fn in_order(&self) -> Vec<Transfer> {
        let per_chunk = self.layout.blocks_per_chunk;
        (0..BLOCKS as u32)
            .map(|block| self.transfer(block / per_chunk, block, block % per_chunk))
            .collect()
    }

    /// Stores and loads again, compared with a model byte by byte.
    fn check_there_and_back(&mut self, transfers: &[Transfer]) {
        self.scramble();
        let mut model = self.region.contents();
        let blocks: Vec<_> = transfers
            .iter()
            .map(|transfer| self.block(transfer.device_block))
            .collect();
        for (transfer, block) in transfers.iter().zip(&blocks) {
            let at = self.place(transfer);
            model[at..at + block.len()].copy_from_slice(block);
        }
        let bytes = self.bytes_of(transfers);
        self.submit(1, Direction::Store, transfers);
        self.finish_well(bytes);
        assert!(
            self.region.contents() == model,
            "{}: only the named bytes change",
            self.layout.name
        );
        self.scramble();
        self.submit(2, Direction::Load, transfers);
        self.finish_well(bytes);
        for (transfer, block) in transfers.iter().zip(&blocks) {
            assert!(
                self.block(transfer.device_block) == *block,
                "{}: {transfer:?}",
                self.layout.name
            );
        }
        assert!(
            self.region.contents() == model,
            "{}: a load changes no slot",
            self.layout.name
        );
    }
}

/// The whole suite. `make` makes a new rig.
pub(super) fn check<R: Rig>(make: impl Fn() -> R) {
    for layout in layouts() {
        let mut bench = Bench::new(make(), layout);
        let (in_order, scattered) = (bench.in_order(), bench.scattered());
        bench.check_there_and_back(&in_order);
        bench.check_there_and_back(&scattered);
    }
    check_stores_come_after_the_engines_work(make());
    check_loads_come_after_the_engines_work(make());
    check_two_groups(make());
    check_both_directions_at_once(make());
    check_the_queues_bound(make());
    check_an_empty_batch(make());
    check_closing(make());
}

fn check_stores_come_after_the_engines_work<R: Rig>(rig: R) {
    let mut bench = Bench::new(rig, CacheLayout::simple());
    for round in 1..8_u8 {
        let run = bench.runs[0];
        bench.rig.compute(run.base, round, run.end() - run.base);
        let transfers = bench.in_order();
        bench.submit(1, Direction::Store, &transfers);
        // What the engine does next with the pages would be wrong: they are the copy's until it is over.
        bench.finish();
        let contents = bench.region.contents();
        for transfer in &transfers {
            let at = bench.place(transfer);
            assert!(
                contents[at..at + run.page_bytes]
                    .iter()
                    .all(|byte| *byte == round),
                "round {round}"
            );
        }
    }
}

fn check_loads_come_after_the_engines_work<R: Rig>(rig: R) {
    let mut bench = Bench::new(rig, CacheLayout::simple());
    bench.region.fill(0xab);
    let run = bench.runs[0];
    for _ in 0..8 {
        bench.rig.compute(run.base, 1, run.end() - run.base);
        let transfers = bench.in_order();
        bench.submit(1, Direction::Load, &transfers);
        bench.finish();
        assert!((0..BLOCKS as u32).all(|block| bench.block(block).iter().all(|byte| *byte == 0xab)));
    }
}

/// Groups have pages of their own, and slots of their own size; one batch is of one group.
fn check_two_groups<R: Rig>(rig: R) {
    let mut bench = Bench::new(rig, CacheLayout::simple());
    bench.scramble();
    let other = layouts().swap_remove(6);
    let runs = other.runs(|bytes| bench.rig.allocate(bytes));
    for run in &runs {
        let bytes = bench.random.bytes(run.end() - run.base);
        bench.rig.write(run.base, &bytes);
    }
    // SAFETY: as in `Bench::new`.
    unsafe {
        bench
            .copier
            .set_group(5, other.blocks_per_chunk, runs.clone())
            .unwrap();
    };
    let rank_bytes =
        runs.iter().map(|run| run.page_bytes as u64).sum::<u64>() * u64::from(other.blocks_per_chunk);
    let window = SlotWindow {
        slot_bytes: (RANK_OFFSET + rank_bytes).next_multiple_of(4096),
        rank_bytes,
        ..bench.window.clone()
    };
    // Its slot lies behind those that the first group uses here.
    let first_group = bench.in_order();
    let page = u32::try_from(1 + 8 * bench.window.slot_bytes / 4096).unwrap();
    let slot = SlotRef { page, generation: 1 };
    let second_group = [2, 9].map(|device_block| Transfer {
        slot,
        device_block,
        block_in_chunk: u32::from(device_block == 9),
    });
    let request = CopyRequest {
        tag: 2,
        direction: Direction::Store,
        after: bench.rig.after(),
        group: 5,
        transfers: &second_group,
    };
    bench.submit(1, Direction::Store, &first_group);
    bench.copier.submit(window.clone(), request).unwrap();
    assert_eq!(
        [bench.finish().outcome, bench.finish().outcome],
        [CopyOutcome::Done; 2]
    );
    let contents = bench.region.contents();
    for transfer in &first_group {
        let (at, block) = (bench.place(transfer), bench.block(transfer.device_block));
        assert!(contents[at..at + block.len()] == *block);
    }
    let at = (slot.byte_offset() + RANK_OFFSET) as usize;
    let page_of = |block: usize, run: &PageRun| {
        bench
            .rig
            .read(run.base + block * run.stride_bytes, run.page_bytes)
    };
    let expected: Vec<u8> = [2, 9]
        .iter()
        .flat_map(|block| runs.iter().flat_map(move |run| page_of(*block, run)))
        .collect();
    assert!(contents[at..at + expected.len()] == *expected);
}

/// Many batches under way in both directions end each once, and each with its own bytes.
fn check_both_directions_at_once<R: Rig>(rig: R) {
    let mut bench = Bench::new(rig, CacheLayout::simple());
    bench.scramble();
    let half = BLOCKS as u32 / 2;
    let before: Vec<_> = (0..BLOCKS as u32).map(|block| bench.block(block)).collect();
    // Slots 12 to 15 hold what the upper half is going to be.
    let upper: Vec<_> = (0..half).map(|i| bench.transfer(12 + i / 4, i, i % 4)).collect();
    bench.submit(0, Direction::Store, &upper);
    bench.finish();
    for round in 0..40_u32 {
        let block = round % half;
        let store = [bench.transfer(block / 4, block, block % 4)];
        let load = [bench.transfer(12 + block / 4, half + block, block % 4)];
        bench.submit(u64::from(round), Direction::Store, &store);
        bench.submit(u64::from(100 + round), Direction::Load, &load);
    }
    let mut tags: Vec<_> = (0..80).map(|_| bench.finish()).collect();
    assert!(tags.iter().all(|result| result.outcome == CopyOutcome::Done));
    tags.sort_by_key(|result| result.tag);
    let expected: Vec<u64> = (0..40).chain(100..140).collect();
    assert_eq!(tags.iter().map(|result| result.tag).collect::<Vec<_>>(), expected);
    let contents = bench.region.contents();
    for block in 0..half {
        let at = bench.place(&bench.transfer(block / 4, block, block % 4));
        let stored = &before[block as usize];
        assert!(contents[at..at + stored.len()] == **stored);
        assert!(bench.block(half + block) == *stored);
    }
}

fn check_the_queues_bound<R: Rig>(rig: R) {
    let mut bench = Bench::new(rig, CacheLayout::simple());
    let one = [bench.transfer(1, 0, 0)];
    for tag in 0..JOBS_MAX as u64 {
        bench.submit(tag, Direction::Store, &one);
    }
    let after = bench.rig.after();
    let error = bench.submit_after(0, Direction::Store, &one, after).unwrap_err();
    assert!(matches!(error, ClientError::QueueFull { .. }), "{error}");
    bench.finish();
    bench.submit(0, Direction::Store, &one);
    assert_eq!(bench.copier.uncollected(), JOBS_MAX);
    for _ in 0..JOBS_MAX {
        bench.finish();
    }
    assert!(!bench.copier.wait(Duration::from_mins(1)), "nothing is under way");
}

fn check_an_empty_batch<R: Rig>(rig: R) {
    let mut bench = Bench::new(rig, CacheLayout::simple());
    bench.submit(5, Direction::Load, &[]);
    bench.finish_well(0);
}

/// Closing waits for copies, and then nobody holds the region.
fn check_closing<R: Rig>(rig: R) {
    let mut bench = Bench::new(rig, CacheLayout::simple());
    bench.scramble();
    let transfers = bench.in_order();
    let blocks: Vec<_> = transfers
        .iter()
        .map(|transfer| bench.block(transfer.device_block))
        .collect();
    for tag in 0..20 {
        bench.submit(tag, Direction::Store, &transfers);
    }
    bench.copier = Copier::host(0).unwrap();
    let contents = bench.region.contents();
    for (transfer, block) in transfers.iter().zip(&blocks) {
        let at = bench.place(transfer);
        assert!(contents[at..at + block.len()] == **block);
    }
    let Bench {
        region, window, rig, ..
    } = bench;
    drop(window);
    assert_eq!(Arc::strong_count(&region), 1);
    drop(region);
    drop(rig);
}
