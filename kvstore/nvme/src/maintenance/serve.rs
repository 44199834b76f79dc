//! Carrying out orders, and entering what was written into the catalogue behind the data.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvstore_types::{
    IoOutcome, NamespaceDescriptor, NamespaceGeometry, NamespaceId, OperationId, SegmentRef,
};
use tracing::{error, info, warn};

use super::queue::{BATCH, Message, Queue, SLEEP_MAX, Taken};
use super::stats::Counters;
use super::{FileTable, MaintenanceOrder, MaintenanceSpec};
use crate::catalogue::{Applied, Catalogue, CatalogueError, Change};
use crate::directory::{Directory, DirectoryError, Inventory};
use crate::{DeviceEvent, EventSink, OrderTimes};

/// How often a trouble that goes on is said.
const COMPLAIN_EVERY: Duration = Duration::from_mins(1);

/// What the thread owns.
pub(super) struct Worker {
    pub(super) directory: Directory,
    pub(super) spec: MaintenanceSpec,
    pub(super) files: Box<dyn FileTable>,
    pub(super) sink: EventSink,
    pub(super) queue: Arc<Queue>,
    pub(super) counters: Arc<Counters>,
    /// None if none could be made; then everything is scanned at the next start.
    pub(super) catalogue: Option<Catalogue>,
    pub(super) ledger: Ledger,
}

/// What is on its way into the catalogue.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Changes that have not been written yet, in order.
    pending: Vec<Change>,
    /// Segments of whose present use the catalogue does not know everything.
    pub(super) lossy: BTreeSet<u32>,
    /// Namespaces whose files could not be written, to be tried again.
    owed: Vec<(NamespaceDescriptor, NamespaceGeometry)>,
    /// Namespaces that were there at a start that could not read everything: blocks of them may be found at the next.
    pub(super) guarded: BTreeSet<NamespaceId>,
    /// The start could not read everything.
    pub(super) has_unread: bool,
    /// When a trouble with the catalogue was last said; none while it is well.
    complained: Option<Instant>,
    /// When the directory was last looked at.
    looked: Option<Instant>,
}

impl Worker {
    /// The thread: load, then serve until the queue is closed.
    pub(super) fn run(mut self, inventory: &Inventory) {
        let ended = catch_unwind(AssertUnwindSafe(|| {
            self.look();
            self.load(inventory);
            while self.serve() {
                if self
                    .ledger
                    .looked
                    .is_none_or(|looked| looked.elapsed() >= SLEEP_MAX)
                {
                    self.look();
                }
            }
            self.close();
        }));
        if ended.is_err() {
            self.give_up();
        }
    }

    /// Serves what is waiting, or waits. False when that was the last.
    fn serve(&mut self) -> bool {
        let Taken {
            messages,
            lossy,
            is_closed,
        } = self.queue.take(self.spec.catalogue_delay);
        // What was dropped belongs to uses that were open before anything taken now was carried out.
        self.ledger.lossy.extend(lossy);
        for message in messages {
            match message {
                Message::Written(block) => {
                    let (extent, key, descriptor) = (block.extent, block.key, block.descriptor);
                    self.change(Change::Block {
                        extent,
                        key,
                        descriptor,
                    });
                }
                Message::Order(order) => self.carry_out(order),
            }
        }
        self.flush();
        !is_closed
    }

    /// Looks whether the directory is still there, and what room its file system has. Files that were removed can be read and written as
    /// long as they are open, so nothing else would notice until a file is made.
    fn look(&mut self) {
        self.ledger.looked = Some(Instant::now());
        self.counters.room(self.directory.room_bytes());
        if self.directory.is_removed() {
            // Heard once, as the device is lost then.
            (self.sink)(vec![DeviceEvent::Lost {
                reason: "its files were removed while the daemon ran".into(),
            }]);
            if let Err(cause) = self.directory.give_back_removed() {
                warn!(%cause, "the space of removed segments is free again only when the daemon ends");
            }
        }
    }

    fn carry_out(&mut self, order: MaintenanceOrder) {
        match order {
            MaintenanceOrder::KeepNamespace { descriptor, geometry } => {
                // The gate asks again when the last try failed.
                if !self.ledger.owed.iter().any(|(owed, _)| *owed == descriptor) {
                    self.ledger.owed.push((descriptor, geometry));
                }
                self.keep_namespaces();
            }
            MaintenanceOrder::DropNamespace { namespace } => self.drop_namespace(namespace),
            MaintenanceOrder::CreateSegment { operation, index } => {
                let created = self.directory.create_segment(index);
                if let Ok(file) = &created {
                    self.files.add(index, Arc::clone(file));
                }
                self.counters.room(self.directory.room_bytes());
                self.answer(operation, created.map(drop));
            }
            MaintenanceOrder::DeleteSegment { operation, index } => {
                self.files.remove(index);
                self.change(Change::SegmentDeleted(index));
                self.flush();
                self.ledger.lossy.remove(&index);
                let deleted = self.directory.delete_segment(index);
                self.answer(operation, deleted);
            }
            MaintenanceOrder::OpenSegment { operation, segment } => {
                self.keep_namespaces();
                self.ledger.lossy.remove(&segment.index);
                self.change(Change::OpenSegment(segment));
                self.flush();
                let opened = self.directory.write_segment_header(segment);
                self.answer(operation, opened);
            }
            MaintenanceOrder::Forget { extent } => self.change(Change::Forget(extent)),
            MaintenanceOrder::SegmentFull { segment } => self.segment_full(segment),
        }
    }

    /// Everything that was written to this use of the segment has come through the queue before.
    pub(super) fn segment_full(&mut self, segment: SegmentRef) {
        self.flush();
        if !self.ledger.lossy.contains(&segment.index) {
            self.change(Change::SegmentFull(segment));
        }
    }

    fn answer(&self, operation: OperationId, result: Result<(), DirectoryError>) {
        let outcome = match result {
            Ok(()) => IoOutcome::Done,
            Err(error) => {
                self.counters.order_failed();
                warn!(device = self.spec.name, operation = operation.0, %error, "an order failed");
                error.outcome()
            }
        };
        let times = OrderTimes::default();
        (self.sink)(vec![DeviceEvent::Done {
            operation,
            outcome,
            times,
        }]);
    }

    /// Writes the files of namespaces that are new, or whose files could not be written before.
    fn keep_namespaces(&mut self) {
        let (directory, files) = (&self.directory, &self.files);
        let bytes_max = self.spec.names_bytes_max;
        self.ledger.owed.retain(|(descriptor, geometry)| {
            let kept = directory.keep_namespace(descriptor, geometry, bytes_max);
            if let Err(error) = &kept {
                warn!(
                    namespace = %descriptor.id(), %error,
                    "a namespace is not kept: its blocks are not written"
                );
            }
            let outcome = kept
                .as_ref()
                .map_or_else(DirectoryError::outcome, |()| IoOutcome::Done);
            files.kept(descriptor.id(), outcome);
            kept.is_err()
        });
    }

    /// Deletes a namespace's file, unless what could not be read at the start may have blocks of it.
    pub(super) fn drop_namespace(&mut self, id: NamespaceId) {
        self.ledger.owed.retain(|(owed, _)| owed.id() != id);
        if self.ledger.guarded.contains(&id) {
            return;
        }
        if let Err(error) = self.directory.drop_namespace(id) {
            warn!(device = self.spec.name, %error, "an unused namespace is still there");
        }
    }

    /// Takes up a change, and writes a batch if there is one.
    pub(super) fn change(&mut self, change: Change) {
        self.ledger.pending.push(change);
        if self.ledger.pending.len() >= BATCH {
            self.flush();
        }
    }

    /// Writes all pending changes.
    pub(super) fn flush(&mut self) {
        if self.ledger.pending.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut self.ledger.pending);
        let Some(catalogue) = &mut self.catalogue else {
            return;
        };
        let applied = catalogue.write(&changes);
        self.counters.catalogue(Some(catalogue.bytes()));
        self.note(&changes, applied);
        // The memory is used again.
        self.ledger.pending = changes;
        self.ledger.pending.clear();
    }

    fn note(&mut self, changes: &[Change], applied: Result<Applied, CatalogueError>) {
        let blocks = changes
            .iter()
            .filter(|change| matches!(change, Change::Block { .. }))
            .count();
        let dropped = match applied {
            Ok(Applied::Whole) => 0,
            Ok(Applied::WithoutBlocks) => blocks,
            Err(_) => changes.len(),
        };
        self.counters.written((changes.len() - dropped) as u64);
        self.counters.dropped(dropped as u64);
        if dropped > 0 {
            self.ledger
                .lossy
                .extend(changes.iter().filter_map(Change::adds_to));
        }
        let device = &self.spec.name;
        let trouble = match applied {
            Ok(Applied::Whole) => {
                if self.ledger.complained.take().is_some() {
                    info!(device, "the catalogue takes changes again");
                }
                return;
            }
            Ok(Applied::WithoutBlocks) => {
                format!("it has used up its {} bytes", self.spec.catalogue_bytes_max)
            }
            Err(error) => {
                self.counters.error();
                error.to_string()
            }
        };
        if self
            .ledger
            .complained
            .is_none_or(|said| said.elapsed() >= COMPLAIN_EVERY)
        {
            warn!(
                device,
                trouble, "the catalogue does not take changes: the next start will read headers"
            );
            self.ledger.complained = Some(Instant::now());
        }
    }

    fn close(&mut self) {
        self.keep_namespaces();
        if let Some(Err(error)) = self.catalogue.as_ref().map(Catalogue::flush) {
            warn!(device = self.spec.name, %error, "the catalogue was not written out");
        }
    }

    /// After a panic: nobody waits for answers that do not come.
    fn give_up(&mut self) {
        error!(
            device = self.spec.name,
            "the maintenance thread panicked; the device is out of service"
        );
        self.queue.close();
        let orders = self.queue.take(Duration::ZERO).messages.into_iter();
        let failed = orders.filter_map(|message| match message {
            Message::Order(order) => order.operation(),
            Message::Written(_) => None,
        });
        let done = |operation| DeviceEvent::Done {
            operation,
            outcome: IoOutcome::Failed,
            times: OrderTimes::default(),
        };
        let mut events: Vec<_> = failed.map(done).collect();
        events.push(DeviceEvent::Lost {
            reason: "its maintenance thread panicked; see the log, and restart the daemon".into(),
        });
        (self.sink)(events);
    }
}
