//! The model and who waits for its changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvstore_types::BootEpoch;
use tokio::sync::watch;

use crate::book::{Book, Summary};
use crate::counters::Counters;

/// What the announcer, the publisher and the watchers have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    book: Mutex<Book>,
    /// For those who must not wait for the model.
    summary: Mutex<Summary>,
    /// Counts the times the model has changed.
    changed: watch::Sender<u64>,
    pub(crate) counters: Counters,
    pub(crate) epoch: BootEpoch,
}

impl Shared {
    pub(crate) fn new(book: Book, epoch: BootEpoch) -> Arc<Self> {
        Arc::new(Self {
            book: Mutex::new(book),
            summary: Mutex::default(),
            changed: watch::Sender::new(0),
            counters: Counters::default(),
            epoch,
        })
    }

    /// The model. Held for as long as a slice of work takes, and never while anything is waited for.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        // What a panic left is still bounded and consistent enough to go on: it is announced anew on each subscription.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The model in numbers, as it was lately.
    pub(crate) fn summary(&self) -> Summary {
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes everybody who waits for changes.
    pub(crate) fn tell_changed(&self) {
        let summary = self.book().summary();
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner) = summary;
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Hears when the model has changed.
    pub(crate) fn hear_changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
