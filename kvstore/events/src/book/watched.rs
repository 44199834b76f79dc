//! Whether changes are kept for watchers: while there are any, and afterwards for as long as one who comes back where it left
//! would find all that it has missed.

use super::Book;

/// Who watches.
#[derive(Debug, Default)]
pub(super) struct Watched {
    watchers: usize,
    /// Whoever was told where the changes are has missed too many of them from this position on.
    until: u64,
}

impl Watched {
    /// Whether nobody could go on from any earlier change once the one at this position has happened.
    pub(super) fn is_over(&self, position: u64) -> bool {
        self.watchers == 0 && position >= self.until
    }
}

impl Book {
    /// Somebody watches from now on.
    pub(crate) fn watcher_came(&mut self) {
        self.watched.watchers += 1;
    }

    /// Somebody does not watch any more, and may come back.
    pub(crate) fn watcher_left(&mut self) {
        self.watched.watchers -= 1;
        self.watcher_may_come();
    }

    /// Somebody knows where the changes are now, and may watch from there on.
    pub(crate) fn watcher_may_come(&mut self) {
        self.watched.until = self.changes.head() + self.limits.changes as u64;
    }
}
