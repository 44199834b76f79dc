//! What the engine orders: whether it may, and what follows at once.

use kvstore_types::{DeviceIndex, NamespaceId, OperationId, PAGE_BYTES};

use super::device::{Life, Pending};
use super::transfers::{JUNK, Transfer};
use super::world::World;
use crate::config::NvmeConfig;
use crate::effect::NvmeOrder;

impl World {
    /// The engine orders something.
    pub(super) fn take_order(&mut self, device: DeviceIndex, order: NvmeOrder) {
        let at = usize::from(device.0);
        let Some(config) = self.config.nvme.clone() else {
            panic!("{order:?} and there is no NVMe")
        };
        self.check_order(device, &order);
        let segment_pages = u32::try_from(config.segment_bytes / 4096).unwrap_or(u32::MAX);
        match order {
            NvmeOrder::KeepNamespace { descriptor, geometry } => {
                let kept = (descriptor.clone(), geometry);
                self.devices[at].disk.namespaces.insert(descriptor.id(), kept);
            }
            NvmeOrder::DropNamespace { namespace } => self.drop_namespace(at, namespace),
            NvmeOrder::Forget { extent } => self.devices[at].forget(extent),
            NvmeOrder::SegmentFull { segment } => {
                self.devices[at].full(segment.index, segment.generation.0);
            }
            NvmeOrder::SetClass { operation, .. } => {
                let is_read = |pending: &Pending| {
                    pending.operation == operation && matches!(pending.order, NvmeOrder::Read { .. })
                };
                let mut pending = self.devices[at].pending.iter();
                assert!(pending.any(is_read), "{operation:?} is no read that is under way");
            }
            NvmeOrder::CreateSegment { operation, index } => {
                self.devices[at].check_create(index, &config);
                self.devices[at].accept(operation, order, Vec::new());
            }
            NvmeOrder::DeleteSegment { operation, index } => {
                self.check_unwanted(at, index, "deleted");
                self.devices[at].accept(operation, order, Vec::new());
            }
            NvmeOrder::OpenSegment { operation, segment } => {
                self.check_unwanted(at, segment.index, "opened");
                let segments = self.devices[at].disk.segments.values();
                let before = segments.map(|segment| segment.generation).max().unwrap_or(0);
                assert!(
                    segment.generation.0 > before,
                    "{segment:?} comes after generation {before}"
                );
                self.devices[at].accept(operation, order, Vec::new());
            }
            NvmeOrder::Verify {
                operation,
                extent,
                key,
            } => {
                self.devices[at].check_source(extent, &key);
                self.devices[at].accept(operation, order, Vec::new());
            }
            NvmeOrder::Move {
                operation,
                from,
                to,
                key,
            } => {
                self.devices[at].check_source(from, &key);
                self.devices[at].check_target(to, key.namespace, segment_pages);
                assert_eq!(from.pages, to.pages, "a move keeps the length");
                self.devices[at].accept(operation, order, Vec::new());
                self.tally.moves += 1;
            }
            NvmeOrder::Write { .. } => self.take_write(at, order, &config, segment_pages),
            NvmeOrder::Read { .. } => self.take_read(at, order),
        }
    }

    /// Whether a device may be told anything like this now, and under this name.
    fn check_order(&mut self, device: DeviceIndex, order: &NvmeOrder) {
        let life = self.devices[usize::from(device.0)].life;
        assert!(life != Life::Lost, "{device} is lost and was told {order:?}");
        let may_be_early = matches!(
            order,
            NvmeOrder::Read { .. } | NvmeOrder::SetClass { .. } | NvmeOrder::Forget { .. }
        );
        assert!(
            life == Life::Serving || may_be_early,
            "{device} is loading and was told {order:?}"
        );
        if let Some(operation) = operation_of(order) {
            assert!(self.operations.insert(operation), "{operation:?} was used twice");
        }
    }

    fn take_write(&mut self, at: usize, order: NvmeOrder, config: &NvmeConfig, segment_pages: u32) {
        let NvmeOrder::Write {
            operation,
            extent,
            slot,
            key,
            ..
        } = order
        else {
            return;
        };
        self.devices[at].check_target(extent, key.namespace, segment_pages);
        let (pages, is_read) = (extent.pages, false);
        self.model.transfer_begun(
            operation,
            Transfer {
                key,
                slot,
                pages,
                is_read,
                is_remote: false,
            },
        );
        let bytes = self.model.memory[self.model.payload(slot, pages)].to_vec();
        self.devices[at].accept(operation, order, bytes);
        self.devices[at].check_writes(self.now, pages, config);
        self.tally.writes += 1;
    }

    fn take_read(&mut self, at: usize, order: NvmeOrder) {
        let NvmeOrder::Read {
            operation,
            extent,
            slot,
            key,
            ..
        } = order
        else {
            return;
        };
        self.devices[at].check_source(extent, &key);
        let (pages, is_read) = (extent.pages, true);
        self.model.transfer_begun(
            operation,
            Transfer {
                key,
                slot,
                pages,
                is_read,
                is_remote: false,
            },
        );
        self.model.fill(slot, pages, JUNK);
        self.devices[at].accept(operation, order, Vec::new());
        let reads = self.model.transfers.values().filter(|transfer| transfer.is_read);
        let bytes: u64 = reads
            .clone()
            .map(|transfer| u64::from(transfer.pages) * PAGE_BYTES)
            .sum();
        let max = self
            .config
            .nvme
            .as_ref()
            .map_or(0, |config| config.promotion_bytes_max);
        assert!(
            bytes <= max || reads.count() == 1,
            "promise 7: {bytes} bytes are on their way, more than {max}"
        );
        self.tally.reads += 1;
    }

    /// A segment is opened or deleted: no block may count on it.
    fn check_unwanted(&mut self, at: usize, segment: u32, what: &str) {
        self.devices[at].check_unwanted(segment, what);
        let own = self.devices[at].disk.segments[&segment].copies.values();
        for copy in own.filter(|copy| copy.is_known && self.model.stored.contains(&copy.key)) {
            let key = &copy.key;
            let beside = self.devices[at].disk.knows_beside(key, segment);
            let elsewhere = (0..self.devices.len()).any(|other| other != at && self.knows(other, key));
            assert!(
                beside || elsewhere,
                "promise 6: segment {segment} is {what} with the only copy of {key} in it"
            );
        }
        let segment = self.devices[at].disk.segments.get_mut(&segment);
        let copies = segment
            .into_iter()
            .flat_map(|segment| segment.copies.values_mut());
        copies.for_each(|copy| copy.is_known = false);
    }
}

impl World {
    /// What a namespace stands for is not needed any more: there is no copy of a block of it that anybody was told of.
    fn drop_namespace(&mut self, at: usize, namespace: NamespaceId) {
        let is_writing = |pending: &Pending| matches!(&pending.order, NvmeOrder::Write { key, .. } if key.namespace == namespace);
        let device = &mut self.devices[at];
        let writing = device.pending.iter().find(|pending| is_writing(pending));
        assert!(
            writing.is_none(),
            "namespace {namespace} is dropped during {writing:?}"
        );
        let stored = self.model.stored.iter().find(|key| key.namespace == namespace);
        assert!(
            stored.is_none(),
            "promise 6: namespace {namespace} is dropped with {stored:?}"
        );
        let dropped = device.disk.namespaces.remove(&namespace);
        assert!(
            dropped.is_some(),
            "namespace {namespace} is dropped and was not kept"
        );
        self.tally.namespaces_dropped += 1;
    }
}

fn operation_of(order: &NvmeOrder) -> Option<OperationId> {
    match order {
        NvmeOrder::KeepNamespace { .. }
        | NvmeOrder::DropNamespace { .. }
        | NvmeOrder::SetClass { .. }
        | NvmeOrder::Forget { .. }
        | NvmeOrder::SegmentFull { .. } => None,
        NvmeOrder::CreateSegment { operation, .. }
        | NvmeOrder::DeleteSegment { operation, .. }
        | NvmeOrder::OpenSegment { operation, .. }
        | NvmeOrder::Write { operation, .. }
        | NvmeOrder::Read { operation, .. }
        | NvmeOrder::Move { operation, .. }
        | NvmeOrder::Verify { operation, .. } => Some(*operation),
    }
}
