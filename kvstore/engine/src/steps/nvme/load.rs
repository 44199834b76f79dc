//! A device tells what is there.

use std::collections::BTreeSet;

use kvstore_types::{
    Extent, NamespaceDescriptor, NamespaceGeometry, NamespaceId, PAGE_BYTES, SegmentRef, Tier,
};

use crate::block::{BlockIndex, ExtentHandle, Space};
use crate::config::{EngineConfig, NvmeTuning};
use crate::effect::{Effect, Effects, NamespaceFault, Note};
use crate::engine::Engine;
use crate::event::FoundBlock;
use crate::nvme::{DeviceState, Place, SegmentState, device_index};
use crate::space::namespace_bytes;

/// What became of a copy that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// The block is found there from now on.
    Yes,
    /// The block has another copy that is to be kept.
    Superseded,
    /// It cannot be used.
    Unusable,
}

impl Engine {
    /// A file has the name of a segment and cannot be used. It takes room, and is left alone.
    pub(super) fn on_segment_unusable(&mut self, device: usize, index: u32) {
        let books = &mut self.nvme.devices[device];
        let is_new = books.segments.get(index).state == SegmentState::Absent;
        if books.state != DeviceState::Loading || index >= NvmeTuning::SEGMENTS_MAX || !is_new {
            self.counters.nvme_events_unknown += 1;
            return;
        }
        books.segments.set_state(index, SegmentState::Broken);
    }

    pub(super) fn on_segment_found(&mut self, device: usize, segment: SegmentRef, tail: u32) {
        let books = &mut self.nvme.devices[device];
        let is_new = books.segments.get(segment.index).state == SegmentState::Absent;
        // A number beyond all that can be configured would take memory for all below it.
        if books.state != DeviceState::Loading || segment.index >= NvmeTuning::SEGMENTS_MAX || !is_new {
            self.counters.nvme_events_unknown += 1;
            return;
        }
        books.segments.found(segment.index, segment.generation.0, tail);
    }

    pub(super) fn on_namespace_found(
        &mut self,
        device: usize,
        descriptor: &NamespaceDescriptor,
        geometry: &NamespaceGeometry,
        effects: &mut Effects,
    ) {
        if self.nvme.devices[device].state != DeviceState::Loading {
            self.counters.nvme_events_unknown += 1;
            return;
        }
        let index = match self.judge_namespace(descriptor, geometry) {
            Ok(Some(index)) => index,
            Ok(None) => self.pool.intern(descriptor.clone(), geometry.clone()),
            Err(fault) => {
                self.counters.nvme_namespaces_dropped += 1;
                effects.list.push(Effect::Note(Note::NvmeNamespaceDropped {
                    device: device_index(device),
                    namespace: descriptor.id(),
                    fault,
                }));
                return;
            }
        };
        let namespace = self.pool.spaces.get_mut(index);
        namespace.kept |= 1 << device;
        if self.nvme.devices[device].told.insert(index) {
            namespace.tellers += 1;
        }
    }

    /// The number of a namespace that a device tells of, if it is known, or why its blocks cannot be used.
    fn judge_namespace(
        &self,
        descriptor: &NamespaceDescriptor,
        geometry: &NamespaceGeometry,
    ) -> Result<Option<u32>, NamespaceFault> {
        if let Some(index) = self.pool.spaces.find(descriptor.id()) {
            let known = self.pool.spaces.get(index);
            let is_same = known.descriptor == *descriptor && known.geometry == *geometry;
            return if is_same {
                Ok(Some(index))
            } else {
                Err(NamespaceFault::Differs)
            };
        }
        if !is_usable(geometry, &self.config) {
            return Err(NamespaceFault::Geometry);
        }
        let bytes = self.pool.spaces.bytes() + self.fields_bytes() + namespace_bytes(descriptor, geometry);
        if bytes > self.config.descriptor_bytes_max {
            return Err(NamespaceFault::NoMemory);
        }
        Ok(None)
    }

    pub(super) fn on_blocks_found(&mut self, device: usize, blocks: &[FoundBlock], effects: &mut Effects) {
        if self.nvme.devices[device].state != DeviceState::Loading {
            self.counters.nvme_events_unknown += 1;
            return;
        }
        self.pool.blocks.reserve(self.pool.blocks.len() + blocks.len());
        self.nvme.extents.reserve(blocks.len());
        effects.list.reserve(blocks.len());
        let mut last = None;
        for found in blocks {
            let taken = self.take_found(device, found, &mut last, effects);
            *match taken {
                Taken::Yes => &mut self.counters.nvme_blocks_loaded,
                Taken::Superseded => &mut self.counters.nvme_blocks_superseded,
                Taken::Unusable => &mut self.counters.nvme_blocks_dropped,
            } += 1;
            if taken != Taken::Yes {
                let extent = Extent {
                    segment: found.segment,
                    page: found.page,
                    pages: found.pages,
                };
                self.forget(device, extent, effects);
            }
        }
    }

    /// Enters a block that a device has. `last` is the namespace looked for last, and its number if it is known.
    fn take_found(
        &mut self,
        device: usize,
        found: &FoundBlock,
        last: &mut Option<(NamespaceId, Option<u32>)>,
        effects: &mut Effects,
    ) -> Taken {
        let key = found.key;
        let namespace = match *last {
            Some((id, index)) if id == key.namespace => index,
            _ => self.pool.spaces.find(key.namespace),
        };
        *last = Some((key.namespace, namespace));
        let Some(namespace) = namespace else {
            return Taken::Unusable;
        };
        let is_group = usize::from(key.group.0) < self.pool.spaces.get(namespace).classes.len();
        let space = Space::new(namespace, key.group.0);
        if !is_group || self.pool.pages_of(space) != found.pages || !self.is_inside(device, found) {
            return Taken::Unusable;
        }
        let block = match self.pool.blocks.find(space, &key.hash) {
            Some(block) if !self.give_up_older(device, block, found, effects) => return Taken::Superseded,
            Some(block) => block,
            None => {
                self.pool.spaces.get_mut(namespace).blocks += 1;
                self.pool.blocks.insert_stored(space, key.hash)
            }
        };
        if self.pool.blocks.describe(block, found.descriptor.as_ref()) {
            // A copy in host memory may have been announced before.
            self.announce_described(block, effects);
        }
        let place = Place::new(device, found.segment.index, found.page);
        let was_stored = self.pool.blocks.get(block).extent != ExtentHandle::NONE;
        let extent = self.nvme.attach(place, block, found.pages);
        self.pool.blocks.get_mut(block).extent = extent;
        if was_stored {
            return Taken::Yes;
        }
        self.pool.spaces.get_mut(namespace).stored += 1;
        self.keep_copy(block);
        let tier = Tier::Nvme;
        effects.list.push(Effect::BlockStored {
            key,
            tier,
            descriptor: self.pool.blocks.descriptor(block),
        });
        Taken::Yes
    }

    /// A block that was carried over has two good copies until the segment it came from is used again, and that segment is the
    /// first to be. So the copy in the segment that was opened last is the one to keep. False if that is the one known already.
    fn give_up_older(
        &mut self,
        device: usize,
        block: BlockIndex,
        found: &FoundBlock,
        effects: &mut Effects,
    ) -> bool {
        let handle = self.pool.blocks.get(block).extent;
        if handle == ExtentHandle::NONE {
            return true;
        }
        let place = self.nvme.extents.get(handle).place;
        let known = self.nvme.extent_at(place, found.pages);
        if place.device() != device || known.segment.generation >= found.segment.generation {
            return false;
        }
        self.nvme.detach(handle, found.pages);
        self.counters.nvme_blocks_superseded += 1;
        self.forget(device, known, effects);
        true
    }

    /// Whether a block lies in a segment that was told, in its present use; its tail is then behind the block.
    fn is_inside(&mut self, device: usize, found: &FoundBlock) -> bool {
        let segments = &mut self.nvme.devices[device].segments;
        let pages = segments.pages();
        let segment = segments.get(found.segment.index);
        let is_told =
            segment.state == SegmentState::Found && segment.generation == found.segment.generation.0;
        let end = found.page.checked_add(found.pages).filter(|&end| end <= pages);
        let Some(end) = end.filter(|_| is_told && found.page > 0) else {
            return false;
        };
        let tail = &mut segments.get_mut(found.segment.index).tail;
        *tail = end.max(*tail);
        true
    }

    pub(super) fn on_device_loaded(&mut self, index: usize) {
        let device = &mut self.nvme.devices[index];
        if device.state != DeviceState::Loading {
            self.counters.nvme_events_unknown += 1;
            return;
        }
        device.state = DeviceState::Serving;
        let told = std::mem::take(&mut device.told);
        let segments = &mut device.segments;
        let found = segments
            .iter()
            .filter(|(_, segment)| segment.state == SegmentState::Found);
        for segment in found.map(|(index, _)| index).collect::<Vec<_>>() {
            let books = *segments.get(segment);
            // The smallest block has a header page and one page of payload.
            let has_room = books.tail + 2 <= segments.pages();
            let is_empty = books.chain.len == 0 && books.readers == 0;
            let state = if is_empty {
                SegmentState::Free
            } else if has_room {
                segments.partial.push_back(segment);
                SegmentState::Open
            } else {
                segments.get_mut(segment).is_told_full = true;
                SegmentState::Full
            };
            segments.set_state(segment, state);
        }
        self.end_telling(told);
    }

    /// A device will tell of no more blocks of these namespaces.
    pub(super) fn end_telling(&mut self, told: BTreeSet<u32>) {
        for namespace in told {
            self.pool.spaces.get_mut(namespace).tellers -= 1;
            self.pool.drop_unused(namespace);
        }
    }
}

/// Whether blocks of this shape fit into slots.
fn is_usable(geometry: &NamespaceGeometry, config: &EngineConfig) -> bool {
    let count = geometry.groups.len();
    let most = config.arena_bytes.saturating_sub(config.slot_header_bytes());
    let mut sizes = geometry.groups.iter().map(|group| group.slot_bytes);
    let fits = |bytes: u64| bytes > 0 && bytes.is_multiple_of(PAGE_BYTES) && bytes <= most;
    (1..=NamespaceGeometry::GROUPS_MAX).contains(&count)
        && sizes.all(fits)
        && geometry.groups.iter().all(|group| group.tokens_per_block > 0)
}
