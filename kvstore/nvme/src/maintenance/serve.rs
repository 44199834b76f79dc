//! After the start: orders and what was written, in the order in which they came.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use kvstore_types::{IoOutcome, OperationId, SegmentRef};
use tracing::{error, warn};

use super::queue::{BATCH, Message, Queue};
use super::stats::Counters;
use super::{CreditSender, FileTable, MaintenanceOrder, MaintenanceSpec};
use crate::catalogue::{Applied, Catalogue, Change};
use crate::directory::{Directory, DirectoryError, Inventory};
use crate::{DeviceEvent, EventSink};

/// Everything the thread owns.
pub(super) struct Worker {
    pub(super) directory: Directory,
    pub(super) spec: MaintenanceSpec,
    pub(super) files: Box<dyn FileTable>,
    pub(super) sink: EventSink,
    pub(super) queue: Arc<Queue>,
    pub(super) counters: Arc<Counters>,
    pub(super) catalogue: Option<Catalogue>,
    pub(super) ledger: Ledger,
}

/// What the catalogue lacks.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Segments of which a block is not in the catalogue. They are never called full in this use.
    lossy: BTreeSet<u32>,
    /// Whether the catalogue was heard to fail, so that it is said once.
    has_complained: bool,
}

impl Worker {
    /// Loads, then serves until the queue is closed and empty.
    pub(super) fn run(mut self, inventory: &Inventory, credits: &CreditSender, back: &Receiver<()>) {
        let work = std::panic::AssertUnwindSafe(|| {
            self.load(inventory, credits, back);
            self.serve();
        });
        if std::panic::catch_unwind(work).is_err() {
            let reason =
                "the maintenance thread panicked; restart the daemon, and please report it".to_owned();
            (self.sink)(vec![DeviceEvent::Lost { reason }]);
        }
    }

    fn serve(&mut self) {
        let mut changes = Vec::with_capacity(BATCH);
        loop {
            let taken = self.queue.take(self.spec.catalogue_delay);
            for message in taken.messages {
                match message {
                    Message::Written(written) => changes.push(Change::Block {
                        extent: written.extent,
                        key: written.key,
                        descriptor: written.descriptor,
                    }),
                    Message::Order(MaintenanceOrder::Forget { extent }) => {
                        changes.push(Change::Forget(extent))
                    }
                    Message::Order(order) => {
                        self.write(&mut changes);
                        self.obey(order);
                    }
                }
                if changes.len() >= BATCH {
                    self.write(&mut changes);
                }
            }
            self.write(&mut changes);
            self.ledger.lossy.extend(taken.lossy);
            self.count_catalogue();
            if taken.is_closed {
                break;
            }
        }
        if let Some(catalogue) = &self.catalogue
            && let Err(error) = catalogue.flush()
        {
            warn!(device = self.spec.name, %error, "the catalogue could not be written out");
        }
    }

    fn obey(&mut self, order: MaintenanceOrder) {
        let operation = order.operation();
        let outcome = match order {
            MaintenanceOrder::KeepNamespace { descriptor, geometry } => {
                let kept = self.directory.keep_namespace(&descriptor, &geometry);
                self.outcome(kept)
            }
            MaintenanceOrder::CreateSegment { index, .. } => {
                let created = self.directory.create_segment(index);
                self.outcome(created.map(|file| self.files.add(index, file)))
            }
            MaintenanceOrder::DeleteSegment { index, .. } => {
                self.files.remove(index);
                self.apply(&[Change::SegmentDeleted(index)]);
                let deleted = self.directory.delete_segment(index);
                self.outcome(deleted)
            }
            MaintenanceOrder::OpenSegment { segment, .. } => self.open_segment(segment),
            MaintenanceOrder::SegmentFull { segment } => {
                self.mark_full(segment);
                IoOutcome::Done
            }
            // Collected with what was written.
            MaintenanceOrder::Forget { .. } => IoOutcome::Done,
        };
        if let Some(operation) = operation {
            self.answer(operation, outcome);
        }
    }

    /// First the catalogue forgets what was in the segment, then the segment's header begins its next use: whichever of
    /// the two a crash leaves undone, the header is what counts at the next start.
    fn open_segment(&mut self, segment: SegmentRef) -> IoOutcome {
        self.ledger.lossy.remove(&segment.index);
        self.apply(&[Change::OpenSegment(segment)]);
        let opened = self.directory.write_segment_header(segment);
        self.outcome(opened)
    }

    /// Nothing more will be written to a segment: it need not be scanned at the next start, if the catalogue has all of it.
    pub(super) fn mark_full(&mut self, segment: SegmentRef) {
        if !self.ledger.lossy.contains(&segment.index) {
            self.apply(&[Change::SegmentFull(segment)]);
        }
    }

    fn write(&mut self, changes: &mut Vec<Change>) {
        if !changes.is_empty() {
            self.apply(changes);
            changes.clear();
        }
    }

    /// Applies changes to the catalogue. What it does not take is remembered.
    pub(super) fn apply(&mut self, changes: &[Change]) {
        let result = self.catalogue.as_mut().map(|catalogue| catalogue.write(changes));
        match result {
            Some(Ok(Applied::Whole)) => return self.counters.written(changes.len() as u64),
            Some(Ok(Applied::WithoutBlocks)) => self.complain("it has used up its room"),
            Some(Err(error)) => {
                self.counters.error();
                self.complain(&error.to_string());
            }
            None => {}
        }
        self.counters.dropped(changes.len() as u64);
        let lost = changes.iter().filter_map(|change| match change {
            Change::Block { extent, .. } => Some(extent.segment.index),
            // The record of an earlier use may still be there.
            Change::OpenSegment(segment) => Some(segment.index),
            _ => None,
        });
        self.ledger.lossy.extend(lost);
    }

    fn complain(&mut self, why: &str) {
        if !self.ledger.has_complained {
            self.ledger.has_complained = true;
            warn!(
                device = self.spec.name,
                why,
                "the catalogue does not take everything; what it lacks is read from headers at the next start"
            );
        }
    }

    /// Counts the catalogue's bytes.
    pub(super) fn count_catalogue(&self) {
        self.counters
            .catalogue(self.catalogue.as_ref().map(Catalogue::bytes));
    }

    fn outcome<T>(&self, result: Result<T, DirectoryError>) -> IoOutcome {
        match result {
            Ok(_) => IoOutcome::Done,
            Err(problem) => {
                self.counters.order_failed();
                error!(device = self.spec.name, %problem, "an order about the device's files failed");
                problem.outcome()
            }
        }
    }

    fn answer(&self, operation: OperationId, outcome: IoOutcome) {
        (self.sink)(vec![DeviceEvent::Done { operation, outcome }]);
    }
}
