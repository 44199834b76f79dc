//! What lies on one simulated device. It outlives the daemon.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kvstore_types::{
    BlockKey, Corruption, DescriptorBytes, NamespaceDescriptor, NamespaceGeometry, NamespaceId, PAGE_BYTES,
    SegmentGeneration, SegmentRef,
};

use super::random::Random;
use crate::config::NvmeConfig;
use crate::event::FoundBlock;

/// The bytes of one block, at the page of its segment that names it.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) key: BlockKey,
    pub(super) pages: u32,
    /// The payload, page by page.
    pub(super) bytes: Vec<u64>,
    /// What was written with it.
    pub(super) descriptor: Option<DescriptorBytes>,
    /// What a read would find wrong.
    pub(super) damage: Option<Corruption>,
    /// The engine was told of it, or heard that it was written, and has not let go of it.
    pub(super) is_known: bool,
}

/// One segment's file.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) generation: u64,
    pub(super) copies: BTreeMap<u32, Copy>,
    /// The first page that was not handed out in this use of the segment.
    pub(super) tail: u32,
    /// Whether it may be written to: its opening was answered, or it was told.
    pub(super) is_open: bool,
    /// The engine said so.
    pub(super) is_full: bool,
}

impl Segment {
    /// A file that was never opened.
    pub(super) const EMPTY: Self = Self {
        generation: 0,
        copies: BTreeMap::new(),
        tail: 1,
        is_open: false,
        is_full: false,
    };
}

/// Everything on one device.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) segments: BTreeMap<u32, Segment>,
    pub(super) namespaces: BTreeMap<NamespaceId, (NamespaceDescriptor, NamespaceGeometry)>,
}

/// One thing a device tells while it loads.
#[derive(Debug)]
pub(super) enum Tale {
    Segment(SegmentRef, u32),
    Namespace(NamespaceDescriptor, NamespaceGeometry),
    Blocks(Vec<FoundBlock>),
    Loaded,
}

impl Disk {
    /// Whether the engine may count on a copy of this block, whatever its bytes are by now.
    pub(super) fn knows(&self, key: &BlockKey) -> bool {
        self.copies()
            .any(|(_, _, copy)| copy.is_known && copy.key == *key)
    }

    /// Whether that is so outside of one segment.
    pub(super) fn knows_beside(&self, key: &BlockKey, segment: u32) -> bool {
        let mut others = self.copies().filter(|&(index, ..)| index != segment);
        others.any(|(_, _, copy)| copy.is_known && copy.key == *key)
    }

    /// All copies with their segments and pages.
    pub(super) fn copies(&self) -> impl Iterator<Item = (u32, u32, &Copy)> {
        let segments = self.segments.iter();
        segments.flat_map(|(&index, segment)| {
            segment
                .copies
                .iter()
                .map(move |(&page, copy)| (index, page, copy))
        })
    }

    /// The daemon is gone: what the next one finds. Changes whose order nobody saw answered are there or not. What the
    /// engine let go of may come back, because the catalogue is behind, unless its namespace is gone; what it relied on stays,
    /// unless it is damaged.
    pub(super) fn reopen(&mut self, config: &NvmeConfig, ghosts: usize, random: &mut Random) {
        while self.segments.len() > config.tuning.segments_max as usize {
            let indices: Vec<u32> = self.segments.keys().copied().collect();
            if let Some(index) = random.pick(&indices) {
                self.segments.remove(&index);
            }
        }
        for segment in self.segments.values_mut() {
            segment.copies.retain(|_, copy| {
                let is_lost = copy.damage == Some(Corruption::Header) && random.chance(50);
                (copy.is_known && !is_lost) || random.chance(50)
            });
            let end = segment.copies.iter().map(|(page, copy)| page + copy.pages).max();
            // The catalogue is behind: it may not know that a segment is full. If it does, nothing is appended.
            segment.is_full &= random.chance(80);
            segment.tail = if segment.is_full {
                u32::try_from(config.segment_bytes / PAGE_BYTES).unwrap_or(u32::MAX)
            } else {
                end.unwrap_or(1)
            };
            segment.is_open = segment.generation > 0;
            let namespaces = &self.namespaces;
            segment
                .copies
                .retain(|_, copy| namespaces.contains_key(&copy.key.namespace));
            for copy in segment.copies.values_mut() {
                copy.is_known = true;
                if random.chance(ghosts) {
                    // An entry of the catalogue whose bytes are somebody else's, or of another time.
                    copy.damage = random.pick(&Corruption::ALL);
                }
            }
        }
    }

    /// Tells what is there, in one of the orders that the contract allows.
    pub(super) fn tell(&self, random: &mut Random) -> VecDeque<Tale> {
        let mut tales: VecDeque<Tale> = self
            .segments
            .iter()
            .map(|(&index, segment)| tale_of(index, segment))
            .collect();
        let mut told = BTreeSet::new();
        if random.chance(50) {
            for (id, (descriptor, geometry)) in &self.namespaces {
                told.insert(*id);
                tales.push_back(Tale::Namespace(descriptor.clone(), geometry.clone()));
            }
        }
        let mut batch = Vec::new();
        for (index, page, copy) in self.copies() {
            if told.insert(copy.key.namespace) {
                let (descriptor, geometry) = &self.namespaces[&copy.key.namespace];
                tales.push_back(Tale::Namespace(descriptor.clone(), geometry.clone()));
            }
            batch.push(FoundBlock {
                key: copy.key,
                segment: SegmentRef {
                    index,
                    generation: SegmentGeneration(self.segments[&index].generation),
                },
                page,
                pages: copy.pages,
                descriptor: copy.descriptor.clone(),
            });
            if random.chance(20) {
                tales.push_back(Tale::Blocks(std::mem::take(&mut batch)));
            }
        }
        tales.push_back(Tale::Blocks(batch));
        tales.push_back(Tale::Loaded);
        tales
    }
}

fn tale_of(index: u32, segment: &Segment) -> Tale {
    let generation = SegmentGeneration(segment.generation);
    Tale::Segment(SegmentRef { index, generation }, segment.tail)
}
