//! What has come to be announced or is no longer, for the ledger, which takes it before anybody is told.

use kvstore_types::BlockKey;

use super::Book;
use super::namespace::TenantIndex;
use crate::tiers::TierSet;

/// Entries that memory is kept for.
const KEPT_ROOM: usize = 4096;

/// A block that is announced from now on, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JournalEntry {
    pub(crate) tenant: TenantIndex,
    pub(crate) key: BlockKey,
    pub(crate) is_announced: bool,
}

/// Entries since they were last taken.
#[derive(Debug, Default)]
pub(super) struct Journal {
    entries: Vec<JournalEntry>,
    /// Somebody takes them.
    is_kept: bool,
}

impl Book {
    /// From now on it is kept, or no longer.
    pub(crate) fn keep_journal(&mut self, is_kept: bool) {
        self.journal.is_kept = is_kept;
        self.journal.entries.clear();
    }

    /// What there is in it.
    pub(crate) fn journal(&self) -> &[JournalEntry] {
        &self.journal.entries
    }

    /// It has been taken.
    pub(crate) fn clear_journal(&mut self) {
        self.journal.entries.clear();
        self.journal.entries.shrink_to(KEPT_ROOM);
    }

    pub(super) fn journalize(&mut self, index: u32, before: TierSet, after: TierSet) {
        if !self.journal.is_kept || before.is_empty() == after.is_empty() {
            return;
        }
        let (tenant, key) = self.key_of(self.records.get(index));
        self.journal.entries.push(JournalEntry {
            tenant,
            key,
            is_announced: before.is_empty(),
        });
    }
}
