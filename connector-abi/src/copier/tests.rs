//! One suite over both modes of the host backend, against a model that copies page by page.

#![expect(clippy::cast_possible_truncation, reason = "test sizes are small")]

use std::time::Duration;

use kvstore_types::SlotRef;
use proptest::prelude::*;

use super::conformance::FakeRegion;
use super::*;

const SLOT_BYTES: u64 = 8192;
const SLOTS: u32 = 8;

/// Two tensors whose pages interleave with gaps, and a region.
struct Bench {
    copier: Copier,
    device: Vec<u8>,
    region: Arc<FakeRegion>,
    window: SlotWindow,
    page_bytes: [usize; 2],
    stride: usize,
}

const BLOCKS: usize = 16;
const BLOCKS_PER_CHUNK: u32 = 4;

impl Bench {
    fn new(threads: usize, page_bytes: [usize; 2], gap: usize) -> Self {
        let stride = page_bytes.iter().sum::<usize>() + gap;
        let mut device: Vec<u8> = (0..stride * BLOCKS).map(|i| (i * 31 % 251) as u8).collect();
        let region = FakeRegion::new((SLOT_BYTES * u64::from(SLOTS)) as usize);
        let window = SlotWindow {
            memory: Arc::clone(&region) as Arc<dyn SlotMemory>,
            slot_bytes: SLOT_BYTES,
            rank_offset: 64,
            rank_bytes: (page_bytes[0] + page_bytes[1]) as u64 * u64::from(BLOCKS_PER_CHUNK),
        };
        let base = device.as_mut_ptr().expose_provenance();
        let run = |offset, page_bytes| PageRun {
            base: base + offset,
            stride_bytes: stride,
            page_bytes,
            page_count: BLOCKS,
        };
        let runs = vec![run(0, page_bytes[0]), run(page_bytes[0], page_bytes[1])];
        let mut copier = Copier::host(threads).unwrap();
        // SAFETY: the pages live in `device`, which outlives all batches: tests wait for them.
        unsafe { copier.set_group(0, BLOCKS_PER_CHUNK, runs).unwrap() };
        Self {
            copier,
            device,
            region,
            window,
            page_bytes,
            stride,
        }
    }

    fn submit(&mut self, direction: Direction, transfers: &[Transfer]) -> Result<(), ClientError> {
        let request = CopyRequest {
            tag: 7,
            direction,
            after: After::Unsaid,
            group: 0,
            transfers,
        };
        self.copier.submit(self.window.clone(), request)
    }

    fn finish(&mut self) -> CopyResult {
        assert!(self.copier.wait(Duration::from_mins(1)));
        self.copier.poll().unwrap()
    }

    fn region_bytes(&self) -> Vec<u8> {
        self.region.contents()
    }

    /// Where a transfer's block lies in the region and in the device.
    fn places(&self, transfer: &Transfer) -> (usize, usize, usize) {
        let block_bytes: usize = self.page_bytes.iter().sum();
        let slot = transfer.slot.byte_offset() as usize + 64 + transfer.block_in_chunk as usize * block_bytes;
        (slot, transfer.device_block as usize * self.stride, block_bytes)
    }
}

fn transfer(slot: u32, device_block: u32, block_in_chunk: u32) -> Transfer {
    Transfer {
        slot: SlotRef {
            page: slot * 2,
            generation: 1,
        },
        device_block,
        block_in_chunk,
    }
}

fn check_store(threads: usize, page_bytes: [usize; 2], gap: usize, transfers: &[Transfer]) {
    let mut bench = Bench::new(threads, page_bytes, gap);
    let mut model = bench.region_bytes();
    for transfer in transfers {
        let (slot, device, bytes) = bench.places(transfer);
        model[slot..slot + bytes].copy_from_slice(&bench.device[device..device + bytes]);
    }
    bench.submit(Direction::Store, transfers).unwrap();
    let result = bench.finish();
    assert_eq!((result.tag, result.outcome), (7, CopyOutcome::Done));
    assert!(bench.region_bytes() == model, "only the named bytes change");
    let before = bench.device.clone();
    bench.device.fill(0);
    bench.submit(Direction::Load, transfers).unwrap();
    bench.finish();
    for transfer in transfers {
        let (_, device, bytes) = bench.places(transfer);
        assert!(bench.device[device..device + bytes] == before[device..device + bytes]);
    }
    let touched: usize = transfers.len() * bench.page_bytes.iter().sum::<usize>();
    let filled = bench.device.iter().filter(|byte| **byte != 0).count();
    assert!(filled <= touched, "gaps between pages stay as they are");
}

#[test]
fn stores_and_loads_move_exactly_the_named_bytes() {
    let whole = [
        transfer(1, 3, 0),
        transfer(1, 4, 1),
        transfer(1, 5, 2),
        transfer(1, 15, 3),
    ];
    let scattered = [transfer(3, 9, 2), transfer(1, 0, 0), transfer(2, 2, 3)];
    for threads in [0, 1, 3] {
        for (page_bytes, gap) in [([640, 640], 0), ([100, 28], 13), ([1, 1000], 1)] {
            check_store(threads, page_bytes, gap, &whole);
            check_store(threads, page_bytes, gap, &scattered);
        }
    }
}

#[test]
fn contiguous_neighbours_are_one_piece() {
    let bench = Bench::new(0, [640, 640], 0);
    let transfers = [
        transfer(1, 3, 0),
        transfer(1, 4, 1),
        transfer(1, 9, 2),
        transfer(2, 10, 3),
    ];
    let request = CopyRequest {
        tag: 0,
        direction: Direction::Store,
        after: After::Unsaid,
        group: 0,
        transfers: &transfers,
    };
    let job = CopyJob::check(
        Arc::clone(&bench.copier.groups[&0]),
        bench.window.clone(),
        request,
    )
    .unwrap();
    let mut sizes = Vec::new();
    job.for_each_piece(0..job.page_count(), |piece| sizes.push(piece.bytes));
    assert_eq!(sizes, [2560, 1280, 1280]);
}

#[test]
fn a_batch_with_anything_wrong_in_it_moves_nothing() {
    let good = transfer(1, 0, 0);
    let cases = [
        (
            transfer(1, BLOCKS as u32, 0),
            "transfer 1: device_block: want below 16, got 16",
        ),
        (
            transfer(1, 0, 4),
            "transfer 1: block_in_chunk: want below 4, got 4",
        ),
        (transfer(0, 0, 0), "slot at page 0"),
        (transfer(SLOTS, 0, 0), "within the region's"),
        (transfer(u32::MAX / 2, 0, 0), "within the region's"),
    ];
    for (bad, expected) in cases {
        let mut bench = Bench::new(0, [640, 640], 0);
        let before = bench.region_bytes();
        let error = bench
            .submit(Direction::Store, &[good, bad])
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
        assert!(bench.region_bytes() == before);
        assert_eq!(bench.copier.poll(), None);
    }
}

#[test]
fn pages_that_do_not_fit_the_namespace_are_refused() {
    let mut bench = Bench::new(0, [640, 640], 0);
    bench.window.rank_bytes -= 1;
    let error = bench.submit(Direction::Load, &[transfer(1, 0, 0)]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("bytes of a chunk of group 0: want 5119"),
        "{error}"
    );
}

#[test]
fn device_pages_inside_the_region_are_refused() {
    let mut bench = Bench::new(0, [640, 640], 0);
    let run = PageRun {
        base: bench.region.base().expose_provenance() + 4096,
        stride_bytes: 1280,
        page_bytes: 1280,
        page_count: 4,
    };
    // SAFETY: no copy of these pages is ever started.
    unsafe { bench.copier.set_group(0, BLOCKS_PER_CHUNK, vec![run]).unwrap() };
    let error = bench.submit(Direction::Load, &[transfer(1, 0, 0)]).unwrap_err();
    assert!(error.to_string().contains("outside the shared region"), "{error}");
}

#[test]
fn a_full_queue_says_so_and_takes_more_once_results_are_collected() {
    for threads in [0, 2] {
        let mut bench = Bench::new(threads, [640, 640], 0);
        for _ in 0..JOBS_MAX {
            bench.submit(Direction::Store, &[transfer(1, 0, 0)]).unwrap();
        }
        let error = bench.submit(Direction::Store, &[transfer(1, 0, 0)]).unwrap_err();
        assert!(matches!(error, ClientError::QueueFull { .. }), "{error}");
        bench.finish();
        bench.submit(Direction::Store, &[transfer(1, 0, 0)]).unwrap();
        assert_eq!(bench.copier.uncollected(), JOBS_MAX);
        for _ in 0..JOBS_MAX {
            bench.finish();
        }
        assert!(!bench.copier.wait(Duration::from_mins(1)), "nothing is under way");
    }
}

#[test]
fn an_empty_batch_ends_at_once() {
    for threads in [0, 2] {
        let mut bench = Bench::new(threads, [640, 640], 0);
        bench.submit(Direction::Load, &[]).unwrap();
        assert_eq!(bench.finish().bytes, 0);
    }
}

#[test]
fn dropping_a_copier_waits_for_its_copies_and_frees_the_region() {
    let mut bench = Bench::new(2, [640, 640], 0);
    for _ in 0..100 {
        bench
            .submit(Direction::Store, &[transfer(1, 0, 0), transfer(2, 1, 1)])
            .unwrap();
    }
    let (region, device) = (bench.region, bench.device);
    drop(bench.copier);
    drop(bench.window);
    assert_eq!(Arc::strong_count(&region), 1);
    drop(device);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_batch_equals_copying_page_by_page(
        places in proptest::collection::btree_map((1_u32..SLOTS, 0_u32..BLOCKS_PER_CHUNK), 0_u32..BLOCKS as u32, 0..20),
        pages in [1_usize..700, 1_usize..700],
        gap in 0_usize..40,
        threads in 0_usize..3,
    ) {
        // A device block is loaded from one place only: which of two would win is nobody's business.
        let mut taken = std::collections::BTreeSet::new();
        let transfers: Vec<_> = places
            .into_iter()
            .filter(|(_, block)| taken.insert(*block))
            .map(|((slot, place), block)| transfer(slot, block, place))
            .collect();
        check_store(threads, pages, gap, &transfers);
    }
}
