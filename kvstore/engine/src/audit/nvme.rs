//! The books of the NVMe tier.

use std::collections::BTreeMap;

use crate::block::{BlockState, ExtentHandle, mark};
use crate::engine::Engine;
use crate::nvme::{Device, DeviceState, Operation, Place, SegmentState, Source};

/// What is under way at one device.
#[derive(Debug, Default, PartialEq, Eq)]
struct UnderWay {
    readers: BTreeMap<u32, u32>,
    writers: BTreeMap<u32, u32>,
    counts: [u32; 4],
    writing_bytes: u64,
}

impl Engine {
    /// Each copy is in exactly one chain, its block names it, and no two overlap.
    pub(super) fn check_copies(&self) {
        let mut seen = 0;
        for (number, device) in self.nvme.devices.iter().enumerate() {
            let (mut blocks, mut pages) = (0, 0);
            for (index, segment) in device.segments.iter() {
                let mut places: Vec<(u32, u32)> = Vec::new();
                for handle in self.nvme.extents.iter(segment.chain) {
                    let entry = self.nvme.extents.get(handle);
                    let record = self.pool.blocks.get(entry.block);
                    assert_eq!(record.extent, handle, "a copy's block names it");
                    assert_eq!(
                        (entry.place.device(), entry.place.index()),
                        (number, index),
                        "a copy is in its segment's chain"
                    );
                    let length = self.pool.pages_of(record.space);
                    places.push((entry.place.page, length));
                    pages += u64::from(length);
                }
                assert_eq!(
                    places.len(),
                    segment.chain.len as usize,
                    "a chain counts its copies"
                );
                blocks += places.len() as u64;
                places.sort_unstable();
                let mut free_from = 1;
                for (page, length) in places {
                    assert!(page >= free_from, "copies do not overlap");
                    free_from = page + length;
                }
                assert!(
                    free_from <= segment.tail && segment.tail <= device.segments.pages(),
                    "copies lie before their segment's tail"
                );
            }
            assert_eq!(
                (device.blocks, device.pages),
                (blocks, pages),
                "a device counts its copies"
            );
            seen += blocks;
        }
        assert_eq!(self.nvme.extents.len() as u64, seen, "each copy is in a chain");
        self.check_records(seen);
    }

    /// Each of `copies` copies belongs to one block, and states allow what blocks have.
    fn check_records(&self, copies: u64) {
        let mut named = 0;
        for (index, block) in self.pool.blocks.iter() {
            let has_copy = block.extent != ExtentHandle::NONE;
            named += u64::from(has_copy);
            if has_copy {
                assert_eq!(
                    self.nvme.extents.get(block.extent).block,
                    index,
                    "a block's copy names it"
                );
            }
            assert!(
                block.state != BlockState::Stored || has_copy,
                "a stored block has a copy"
            );
            if block.state != BlockState::Resident {
                let idle = (
                    block.holds,
                    block.leases,
                    block.marks & !(mark::HIT | mark::KEPT_ON_NVME),
                );
                assert_eq!(
                    idle,
                    (0, 0, 0),
                    "only a resident block is held, leased, written or kept in host memory"
                );
            }
            if block.state == BlockState::Promoting {
                let promotion = self.nvme.promotions.get(block.link);
                assert_eq!(
                    promotion.map(|promotion| promotion.block),
                    Some(index),
                    "a block on its way names its read"
                );
            }
        }
        assert_eq!(named, copies, "each copy belongs to one block");
    }

    /// What segments and devices count is what is under way, and states allow it.
    pub(super) fn check_segments(&self) {
        let mut all: Vec<UnderWay> = self.nvme.devices.iter().map(|_| UnderWay::default()).collect();
        let mut written = 0;
        for (device, operation) in self.nvme.operations.values() {
            written += u32::from(matches!(operation, Operation::Write { .. }));
            self.count_operation(&mut all[usize::from(device.0)], operation);
        }
        let pinned = self
            .pool
            .blocks
            .iter()
            .filter(|(_, block)| block.has(mark::WRITING));
        assert_eq!(pinned.count(), written as usize, "each write has its pin");
        for (device, expected) in self.nvme.devices.iter().zip(all) {
            let of = |count: fn(&crate::nvme::Segment) -> u32| -> BTreeMap<u32, u32> {
                let counts = device
                    .segments
                    .iter()
                    .map(|(index, segment)| (index, count(segment)));
                counts.filter(|&(_, count)| count > 0).collect()
            };
            let actual = UnderWay {
                readers: of(|segment| segment.readers),
                writers: of(|segment| segment.writers),
                counts: [
                    device.writes,
                    device.reads,
                    device.moves,
                    u32::from(device.is_verifying),
                ],
                writing_bytes: device.writing_bytes,
            };
            assert_eq!(actual, expected, "what is under way is counted");
            check_states(device);
        }
    }

    fn count_operation(&self, all: &mut UnderWay, operation: &Operation) {
        let pages_at = |place: Place, pages| self.nvme.extent_at(place, pages).bytes();
        match *operation {
            Operation::Create { .. } | Operation::Delete { .. } | Operation::Open { .. } => {}
            Operation::Write {
                place,
                pages,
                block,
                slot,
                ..
            } => {
                *all.writers.entry(place.index()).or_default() += 1;
                all.counts[0] += 1;
                all.writing_bytes += pages_at(place, pages);
                let record = self.pool.blocks.get(block);
                assert_eq!(
                    (record.state, record.slot),
                    (BlockState::Resident, slot),
                    "what is written stays where it is"
                );
            }
            Operation::Read { promotion } => {
                all.counts[1] += 1;
                if let Some(Source::Nvme(place)) = self.nvme.promotions.get(promotion).map(|p| p.source) {
                    *all.readers.entry(place.index()).or_default() += 1;
                }
            }
            Operation::Move { from, to, .. } => {
                *all.readers.entry(from.index()).or_default() += 1;
                *all.writers.entry(to.index()).or_default() += 1;
                all.counts[2] += 1;
            }
            Operation::Verify { place, .. } => {
                *all.readers.entry(place.index()).or_default() += 1;
                all.counts[3] += 1;
            }
        }
    }

    /// Waiting look-ups wait for reads that are under way, and their sessions know of them.
    pub(super) fn check_waits(&self) {
        let mut waiting = BTreeMap::<u64, usize>::new();
        for (_, block) in self.pool.blocks.iter() {
            if block.state == BlockState::Promoting
                && let Some(promotion) = self.nvme.promotions.get(block.link)
            {
                promotion
                    .waiters
                    .iter()
                    .for_each(|&id| *waiting.entry(id).or_default() += 1);
            }
        }
        for (id, wait) in self.nvme.waits.iter() {
            let session = self.sessions.get(&wait.session);
            let known = session.and_then(|session| session.waits.get(&wait.tag));
            assert_eq!(known, Some(&id), "a look-up that waits has its session");
            assert_eq!(
                waiting.remove(&id).unwrap_or(0),
                wait.waiting,
                "a look-up counts what it waits for"
            );
            assert!(wait.waiting + wait.asking > 0, "a look-up waits for something");
            assert!(
                wait.holds.len() + wait.waiting <= wait.quota,
                "a look-up that waits keeps its quota"
            );
        }
        assert!(waiting.is_empty(), "who is waited for by nobody is told so");
        let known = self.sessions.values().map(|session| session.waits.len());
        assert_eq!(
            known.sum::<usize>(),
            self.nvme.waits.len(),
            "each look-up waits once"
        );
    }
}

fn check_states(device: &Device) {
    let segments = &device.segments;
    let (mut existing, mut open) = (0, 0);
    for (index, segment) in segments.iter() {
        let is_used = segment.chain.len + segment.readers + segment.writers > 0;
        let may_be_used = matches!(
            segment.state,
            SegmentState::Found | SegmentState::Open | SegmentState::Full | SegmentState::Reclaiming
        );
        assert!(
            !is_used || may_be_used,
            "segment {index} is {:?} and in use",
            segment.state
        );
        existing += u32::from(segment.state != SegmentState::Absent);
        open += usize::from(segment.state == SegmentState::Open);
    }
    assert_eq!(segments.existing(), existing, "files are counted");
    let is_open = |index: &u32| segments.get(*index).state == SegmentState::Open;
    let named = segments.current.iter().chain(&segments.partial);
    let ahead = segments.ahead.iter().filter(|index| is_open(index));
    assert!(named.clone().all(is_open), "the segment that is written is open");
    assert_eq!(
        named.chain(ahead).count(),
        open,
        "each open segment will be written"
    );
    assert!(
        device.state != DeviceState::Serving || segments.count(SegmentState::Found) == 0,
        "what was found is sorted out"
    );
}
