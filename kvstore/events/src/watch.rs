//! Watching: every copy in every tier, as it comes and goes, for subscribers within the daemon.
//!
//! A watch begins with a snapshot or where an earlier one ended, and then follows every change. Changes are numbered from 1
//! on, without gaps, for as long as the daemon runs; a filter hides some numbers. With the daemon's boot epoch a number says
//! where a watcher was, and a watch that resumes there misses nothing, as long as what came since is among the recent
//! changes that are kept.
//!
//! While the snapshot is told, changes are told between its slices, and both say what is true at that moment: a
//! watcher that takes each block of the snapshot for a `Stored` ends with the truth. What was there before the snapshot and is not
//! in it is gone.

use std::collections::VecDeque;
use std::sync::Arc;

use kvstore_types::{BlockKey, BootEpoch, DescriptorBytes, NamespaceId, Tier};
use tokio::sync::watch;

use crate::book::{Book, Change, Log, TenantIndex};
use crate::counters::EventCounters;
use crate::shared::Shared;
use crate::tiers::TierSet;

/// Records that one step of a snapshot looks at, at most.
const SLICE: usize = 1024;

/// Where watches come from. Can be cloned and used from any thread and runtime.
#[derive(Clone, Debug)]
pub struct WatchSource {
    shared: Arc<Shared>,
}

/// What a watcher wants to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchFilter {
    /// Only this tenant's blocks: its place in the list of tenants.
    pub tenant: Option<TenantIndex>,
    /// Only this namespace's blocks.
    pub namespace: Option<NamespaceId>,
    /// Only copies in these tiers.
    pub tiers: TierSet,
}

impl Default for WatchFilter {
    fn default() -> Self {
        Self {
            tenant: None,
            namespace: None,
            tiers: TierSet::ALL,
        }
    }
}

/// One thing a watcher is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// The block has copies in these tiers: part of the snapshot.
    Present {
        /// Whose.
        tenant: TenantIndex,
        /// Its name.
        key: BlockKey,
        /// Where, as far as the filter lets through.
        tiers: TierSet,
        /// What it is about.
        descriptor: Option<DescriptorBytes>,
    },
    /// The snapshot is complete: whoever has heard everything up to here knows all there is. From here on a watch can be
    /// resumed.
    SnapshotComplete {
        /// Number of the last change that is contained; 0 before the first.
        sequence: u64,
    },
    /// A copy became usable.
    Stored {
        /// Number of the change.
        sequence: u64,
        /// Whose.
        tenant: TenantIndex,
        /// The block's name.
        key: BlockKey,
        /// Where the copy is.
        tier: Tier,
        /// What the block is about.
        descriptor: Option<DescriptorBytes>,
    },
    /// A usable copy is gone.
    Removed {
        /// Number of the change.
        sequence: u64,
        /// Whose.
        tenant: TenantIndex,
        /// The block's name.
        key: BlockKey,
        /// Where the copy was.
        tier: Tier,
    },
}

/// The watcher was too slow: changes it has not heard are no longer kept. It can begin anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the watcher is too slow: change {wanted} is no longer kept, the oldest that is has number {oldest}")]
pub struct Lagged {
    /// The change it would have heard next.
    pub wanted: u64,
    /// The oldest change that is still kept.
    pub oldest: u64,
}

/// Why a watch cannot go on where an earlier one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// It is no longer known what came since.
    #[error(transparent)]
    Lagged(#[from] Lagged),
    /// There was no such change.
    #[error(
        "no change {given} has happened, the last one has number {last}; was it another start of the daemon?"
    )]
    Unknown {
        /// The number that was given.
        given: u64,
        /// The number of the last change.
        last: u64,
    },
}

/// One watcher.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    filter: WatchFilter,
    changed: watch::Receiver<u64>,
    /// Number of the next change.
    next: u64,
    /// The next record of the snapshot; none when it is complete.
    snapshot: Option<usize>,
}

impl WatchSource {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The daemon's boot epoch: numbers of changes mean nothing under another one.
    pub fn epoch(&self) -> BootEpoch {
        self.shared.epoch
    }

    /// Number of the last change: a watch that begins soon can go on from there.
    pub fn sequence(&self) -> u64 {
        let mut book = self.shared.book();
        book.watcher_may_come();
        book.changes().head()
    }

    /// Everything that the announcer counts, now.
    pub fn count(&self) -> EventCounters {
        self.shared.count()
    }

    /// Begins a watch: with a snapshot, or, if `resume_from` is the number of the last change that was heard, with the
    /// one after it.
    pub fn subscribe(&self, filter: WatchFilter, resume_from: Option<u64>) -> Result<Watch, ResumeError> {
        let changed = self.shared.hear_changes();
        let mut book = self.shared.book();
        let last = book.changes().head();
        let next = match resume_from {
            None => last + 1,
            Some(given) if given > last => return Err(ResumeError::Unknown { given, last }),
            Some(given) => given + 1,
        };
        kept(book.changes(), next)?;
        book.watcher_came();
        drop(book);
        self.shared.counters.watchers.add(1);
        Ok(Watch {
            shared: Arc::clone(&self.shared),
            filter,
            changed,
            next,
            snapshot: resume_from.is_none().then_some(0),
        })
    }
}

impl Watch {
    /// Waits until there is something to tell, and appends about `count` events to `events`. After an error the watch
    /// says nothing more.
    pub async fn next(&mut self, count: usize, events: &mut VecDeque<WatchEvent>) -> Result<(), Lagged> {
        let had = events.len();
        loop {
            // What changes from here on wakes the wait below.
            self.changed.mark_unchanged();
            if self.take(count, events)? {
                continue;
            }
            if events.len() > had {
                return Ok(());
            }
            if self.changed.changed().await.is_err() {
                // The sender lives as long as `shared`.
                return std::future::pending().await;
            }
        }
    }

    /// Resolves when a change that it has not heard yet is no longer kept, for those who cannot pass on what they have.
    pub async fn lagged(&mut self) -> Lagged {
        loop {
            self.changed.mark_unchanged();
            if let Err(lagged) = kept(self.shared.book().changes(), self.next) {
                self.shared.counters.watchers_lagged.add(1);
                return lagged;
            }
            if self.changed.changed().await.is_err() {
                // The sender lives as long as `shared`.
                return std::future::pending().await;
            }
        }
    }

    /// What is there now, without waiting: appends about `count` events. `true`: it has looked at much and found nothing to
    /// say, and there is more to look at.
    pub fn take(&mut self, count: usize, events: &mut VecDeque<WatchEvent>) -> Result<bool, Lagged> {
        let shared = Arc::clone(&self.shared);
        let book = shared.book();
        let had = events.len();
        let log = book.changes();
        if let Err(lagged) = kept(log, self.next) {
            self.shared.counters.watchers_lagged.add(1);
            return Err(lagged);
        }
        let count = count.max(1);
        let mut looked = 0;
        for (_, change) in log.since(self.next - 1).take(SLICE) {
            if events.len() - had >= count {
                break;
            }
            self.tell(change, events);
            self.next += 1;
            looked += 1;
        }
        if self.next > log.head() {
            looked += self.go_on(&book, count.saturating_sub(events.len() - had), events);
        }
        Ok(events.len() == had && looked > 0)
    }

    /// Goes on with the snapshot; every change up to now has been told. Returns how many records it has looked at.
    fn go_on(&mut self, book: &Book, count: usize, events: &mut VecDeque<WatchEvent>) -> usize {
        let Some(start) = self.snapshot else {
            return 0;
        };
        let places = book.places();
        let mut end = start;
        let had = events.len();
        for record in places.iter().skip(start).take(SLICE) {
            if events.len() - had >= count {
                break;
            }
            end += 1;
            if record.tiers.is_empty() {
                continue;
            }
            let (tenant, key) = book.key_of(record);
            let tiers = record.tiers.intersection(self.filter.tiers);
            if self.filter.hears(tenant, &key) && !tiers.is_empty() {
                events.push_back(WatchEvent::Present {
                    tenant,
                    key,
                    tiers,
                    descriptor: record.descriptor.clone(),
                });
            }
        }
        self.snapshot = Some(end);
        if end >= places.len() {
            self.snapshot = None;
            events.push_back(WatchEvent::SnapshotComplete {
                sequence: self.next - 1,
            });
        }
        end - start
    }

    fn tell(&self, change: &Change, events: &mut VecDeque<WatchEvent>) {
        if !self.filter.hears(change.tenant, &change.key) {
            return;
        }
        let (sequence, tenant, key) = (self.next, change.tenant, change.key);
        let gone = change.before.without(change.after);
        let come = change.after.without(change.before);
        for tier in gone.intersection(self.filter.tiers).iter() {
            events.push_back(WatchEvent::Removed {
                sequence,
                tenant,
                key,
                tier,
            });
        }
        for tier in come.intersection(self.filter.tiers).iter() {
            events.push_back(WatchEvent::Stored {
                sequence,
                tenant,
                key,
                tier,
                descriptor: change.descriptor.clone(),
            });
        }
    }

    /// Number of the last change that was told, or that the filter has hidden: where another watch can go on once the
    /// snapshot is complete.
    pub fn sequence(&self) -> u64 {
        self.next - 1
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.book().watcher_left();
        self.shared.counters.watchers.subtract(1);
    }
}

impl WatchFilter {
    fn hears(&self, tenant: TenantIndex, key: &BlockKey) -> bool {
        self.tenant.is_none_or(|wanted| wanted == tenant)
            && self.namespace.is_none_or(|wanted| wanted == key.namespace)
    }
}

/// Whether the change of this number, and so all after it, is still kept or yet to come.
fn kept(log: &Log, number: u64) -> Result<(), Lagged> {
    let oldest = log.tail() + 1;
    if number < oldest {
        return Err(Lagged {
            wanted: number,
            oldest,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
