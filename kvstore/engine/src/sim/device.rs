//! Simulated devices: what they may be ordered to do, and how they carry it out, late and in any order.

use std::collections::VecDeque;
use std::time::Instant;

use kvstore_types::{Extent, NamespaceId, OperationId, PAGE_BYTES};

use super::disk::{Copy, Disk, Segment, Tale};
use super::random::Random;
use crate::config::NvmeConfig;
use crate::effect::NvmeOrder;

/// Where a device is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Loading,
    Serving,
    Lost,
}

/// An order that has not been answered.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) operation: OperationId,
    pub(super) order: NvmeOrder,
    /// The bytes of a write, as they were when it was ordered.
    pub(super) bytes: Vec<u64>,
}

/// One device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) disk: Disk,
    pub(super) life: Life,
    pub(super) tales: VecDeque<Tale>,
    pub(super) pending: Vec<Pending>,
    /// Orders that fail, of a hundred.
    pub(super) trouble: usize,
    /// Whether a file could not be deleted in this life: it stays.
    pub(super) is_stuck: bool,
    /// Writes ordered since the rate was last set.
    pub(super) flow: Flow,
}

/// What a limit of the write rate is measured by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    since: Instant,
    bytes: u64,
    /// The highest rate that tokens may have been saved under.
    burst: u64,
}

impl Flow {
    /// Nothing written. Tokens may be left of the rate there was `before`.
    pub(super) fn new(since: Instant, before: Option<u64>) -> Self {
        Self {
            since,
            bytes: 0,
            burst: before.unwrap_or(0),
        }
    }

    fn add(&mut self, now: Instant, rate: u64, bytes: u64) {
        self.bytes += bytes;
        self.burst = self.burst.max(rate).max(bytes);
        let millis = u64::try_from((now - self.since).as_millis()).unwrap_or(u64::MAX);
        let most = self.burst + rate * (millis + 1) / 1000 + 1;
        assert!(
            self.bytes <= most,
            "promise 7: {} bytes were written in {millis} ms, more than {rate} a second",
            self.bytes
        );
    }
}

impl Device {
    /// An empty one.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            flow: Flow::new(now, None),
            disk: Disk::default(),
            life: Life::Loading,
            tales: VecDeque::from([Tale::Loaded]),
            pending: Vec::new(),
            trouble: 0,
            is_stuck: false,
        }
    }

    /// Files there are or may be.
    pub(super) fn existing(&self) -> usize {
        let creating = |pending: &&Pending| matches!(pending.order, NvmeOrder::CreateSegment { .. });
        self.disk.segments.len() + self.pending.iter().filter(creating).count()
    }

    /// Takes an order that is answered later.
    pub(super) fn accept(&mut self, operation: OperationId, order: NvmeOrder, bytes: Vec<u64>) {
        self.pending.push(Pending {
            operation,
            order,
            bytes,
        });
    }

    /// A file is to be made.
    pub(super) fn check_create(&self, index: u32, config: &NvmeConfig) {
        let is_made = |pending: &Pending| matches!(pending.order, NvmeOrder::CreateSegment { index: other, .. } if other == index);
        assert!(
            !self.disk.segments.contains_key(&index) && !self.pending.iter().any(is_made),
            "segment {index} is made and there is one"
        );
        assert!(
            self.existing() < config.tuning.segments_max as usize,
            "promise 8: segment {index} would be one more than {}",
            config.tuning.segments_max
        );
    }

    /// Everything in a segment is to be forgotten, or its file to be deleted.
    pub(super) fn check_unwanted(&self, index: u32, what: &str) {
        assert!(
            self.disk.segments.contains_key(&index),
            "segment {index} is {what} and does not exist"
        );
        let busy = self.pending.iter().find(|pending| touches(&pending.order, index));
        assert!(
            busy.is_none(),
            "promise 4: segment {index} is {what} during {busy:?}"
        );
    }

    /// A block is to be written to an extent.
    pub(super) fn check_target(&mut self, extent: Extent, namespace: NamespaceId, segment_pages: u32) {
        assert!(
            self.disk.namespaces.contains_key(&namespace),
            "{extent:?} is written before its namespace is kept"
        );
        let index = extent.segment.index;
        let changing = self.pending.iter().find(|pending| changes(&pending.order, index));
        assert!(changing.is_none(), "{extent:?} is written during {changing:?}");
        let Some(segment) = self.disk.segments.get_mut(&index) else {
            panic!("{extent:?} is written and its segment does not exist")
        };
        assert!(
            segment.is_open && segment.generation == extent.segment.generation.0,
            "{extent:?} is written and its segment was not opened for it: {} {}",
            segment.is_open,
            segment.generation
        );
        assert!(
            extent.page >= segment.tail && extent.pages >= 2 && extent.page + extent.pages <= segment_pages,
            "promise 1: {extent:?} is written and does not lie between page {} and {segment_pages}",
            segment.tail
        );
        assert!(
            !segment.is_full,
            "{extent:?} is written and its segment was said to be full"
        );
        segment.tail = extent.page + extent.pages;
    }

    /// A block is to be read from an extent.
    pub(super) fn check_source(&self, extent: Extent, key: &kvstore_types::BlockKey) {
        let segment = self.disk.segments.get(&extent.segment.index);
        let segment = segment.filter(|segment| segment.generation == extent.segment.generation.0);
        let copy = segment.and_then(|segment| segment.copies.get(&extent.page));
        let is_right = |copy: &Copy| copy.is_known && copy.key == *key && copy.pages == extent.pages;
        assert!(
            copy.is_some_and(is_right),
            "{extent:?} is read for {key} and the device has {copy:?} there"
        );
        let index = extent.segment.index;
        let changing = self.pending.iter().find(|pending| changes(&pending.order, index));
        assert!(changing.is_none(), "{extent:?} is read during {changing:?}");
    }

    /// Writes under way are within their bound, and so is the rate.
    pub(super) fn check_writes(&mut self, now: Instant, pages: u32, config: &NvmeConfig) {
        if let Some(rate) = config.tuning.write_rate {
            self.flow.add(now, rate, u64::from(pages) * PAGE_BYTES);
        }
        let bytes = self.pending.iter().filter_map(|pending| match pending.order {
            NvmeOrder::Write { extent, .. } => Some(u64::from(extent.pages) * PAGE_BYTES),
            _ => None,
        });
        assert!(
            bytes.clone().count() <= 1 || bytes.clone().sum::<u64>() <= config.write_bytes_max,
            "promise 7: more than {} bytes are being written",
            config.write_bytes_max
        );
    }

    /// The engine lets go of a block.
    pub(super) fn forget(&mut self, extent: Extent) {
        let segment = self.disk.segments.get_mut(&extent.segment.index);
        let segment = segment.filter(|segment| segment.generation == extent.segment.generation.0);
        if let Some(copy) = segment.and_then(|segment| segment.copies.get_mut(&extent.page)) {
            copy.is_known = false;
        }
    }

    /// A segment will not be written to any more.
    pub(super) fn full(&mut self, index: u32, generation: u64) {
        let writing = self.pending.iter().find(|pending| writes(&pending.order, index));
        assert!(
            writing.is_none(),
            "segment {index} is said to be full during {writing:?}"
        );
        let segment = self.disk.segments.get_mut(&index);
        let Some(segment) = segment.filter(|segment| segment.generation == generation) else {
            panic!("segment {index} of generation {generation} is said to be full and does not exist")
        };
        segment.is_full = true;
    }

    /// Puts a block where it was ordered to.
    pub(super) fn put(&mut self, extent: Extent, copy: Copy) {
        if let Some(segment) = self.disk.segments.get_mut(&extent.segment.index) {
            segment.copies.insert(extent.page, copy);
        }
    }

    /// What is at an extent.
    pub(super) fn copy_at(&mut self, extent: Extent) -> Option<&mut Copy> {
        let segment = self.disk.segments.get_mut(&extent.segment.index)?;
        segment.copies.get_mut(&extent.page)
    }

    /// Carries out the lasting part of an order that changes the disk. What is written is not known to be there yet.
    pub(super) fn apply(&mut self, pending: &Pending) {
        match pending.order {
            NvmeOrder::CreateSegment { index, .. } => {
                self.disk.segments.insert(index, Segment::EMPTY);
            }
            NvmeOrder::DeleteSegment { index, .. } => {
                self.disk.segments.remove(&index);
            }
            NvmeOrder::OpenSegment { segment, .. } => {
                let generation = segment.generation.0;
                let next = Segment {
                    generation,
                    ..Segment::EMPTY
                };
                self.disk.segments.insert(segment.index, next);
            }
            NvmeOrder::Write {
                extent,
                key,
                ref descriptor,
                ..
            } => {
                let copy = Copy {
                    key,
                    descriptor: descriptor.clone(),
                    pages: extent.pages,
                    bytes: pending.bytes.clone(),
                    damage: None,
                    is_known: false,
                };
                self.put(extent, copy);
            }
            NvmeOrder::Move { from, to, .. } => {
                if let Some(copy) = self.copy_at(from).filter(|copy| copy.damage.is_none()) {
                    let copy = Copy {
                        is_known: false,
                        ..copy.clone()
                    };
                    self.put(to, copy);
                }
            }
            _ => {}
        }
    }

    /// The daemon is killed: what was under way has happened or not.
    pub(super) fn crash(&mut self, random: &mut Random) {
        for pending in std::mem::take(&mut self.pending) {
            if random.chance(50) {
                self.apply(&pending);
            }
        }
    }

    /// A new daemon opens it.
    pub(super) fn reopen(&mut self, now: Instant, config: &NvmeConfig, random: &mut Random) {
        self.flow = Flow::new(now, None);
        self.disk
            .reopen(config, random.pick(&[0, 0, 5]).unwrap_or(0), random);
        self.tales = self.disk.tell(random);
        self.life = Life::Loading;
        self.trouble = 0;
        self.is_stuck = false;
    }
}

/// Whether an order makes, forgets or deletes a segment.
fn changes(order: &NvmeOrder, segment: u32) -> bool {
    match order {
        NvmeOrder::CreateSegment { index, .. } | NvmeOrder::DeleteSegment { index, .. } => *index == segment,
        NvmeOrder::OpenSegment { segment: other, .. } => other.index == segment,
        _ => false,
    }
}

/// Whether an order writes to a segment.
fn writes(order: &NvmeOrder, segment: u32) -> bool {
    match order {
        NvmeOrder::Write { extent, .. } => extent.segment.index == segment,
        NvmeOrder::Move { to, .. } => to.segment.index == segment,
        _ => false,
    }
}

/// Whether an order has to do with a segment.
fn touches(order: &NvmeOrder, segment: u32) -> bool {
    let reads = match order {
        NvmeOrder::Read { extent, .. } | NvmeOrder::Verify { extent, .. } => extent.segment.index == segment,
        NvmeOrder::Move { from, .. } => from.segment.index == segment,
        _ => false,
    };
    reads || writes(order, segment) || changes(order, segment)
}
