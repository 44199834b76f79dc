//! What the maintenance thread counts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Figures of the maintenance thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MaintenanceStats {
    /// Changes that wait to be written into the catalogue, and orders that wait.
    pub waiting: u64,
    /// Changes that were written into the catalogue.
    pub changes_written: u64,
    /// Changes that were not: the queue was full, or the catalogue had no room or could not be written.
    pub changes_dropped: u64,
    /// Batches the catalogue refused.
    pub catalogue_errors: u64,
    /// Bytes of the catalogue on disk.
    pub catalogue_bytes: u64,
    /// Whether there is a catalogue at all.
    pub has_catalogue: bool,
    /// Orders about files that failed.
    pub orders_failed: u64,
    /// Bytes that new segments may take on the file system, as it was last looked at; none if it does not say.
    pub room_bytes: Option<u64>,
}

/// Stands for no number of bytes.
const UNKNOWN: u64 = u64::MAX;

#[derive(Debug)]
pub(super) struct Counters {
    written: AtomicU64,
    dropped: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    has_catalogue: AtomicBool,
    orders_failed: AtomicU64,
    room: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            written: AtomicU64::default(),
            dropped: AtomicU64::default(),
            errors: AtomicU64::default(),
            bytes: AtomicU64::default(),
            has_catalogue: AtomicBool::default(),
            orders_failed: AtomicU64::default(),
            room: AtomicU64::new(UNKNOWN),
        }
    }
}

impl Counters {
    pub(super) fn written(&self, count: u64) {
        self.written.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn dropped(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn order_failed(&self) {
        self.orders_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes that new segments may take; none if nobody knows.
    pub(super) fn room(&self, bytes: Option<u64>) {
        self.room.store(bytes.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }

    /// Bytes of the catalogue; none if there is none.
    pub(super) fn catalogue(&self, bytes: Option<u64>) {
        self.bytes.store(bytes.unwrap_or(0), Ordering::Relaxed);
        self.has_catalogue.store(bytes.is_some(), Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self, waiting: usize) -> MaintenanceStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        MaintenanceStats {
            waiting: waiting as u64,
            changes_written: read(&self.written),
            changes_dropped: read(&self.dropped),
            catalogue_errors: read(&self.errors),
            catalogue_bytes: read(&self.bytes),
            has_catalogue: self.has_catalogue.load(Ordering::Relaxed),
            orders_failed: read(&self.orders_failed),
            room_bytes: Some(read(&self.room)).filter(|bytes| *bytes != UNKNOWN),
        }
    }
}
