//! What is counted, for `kvtier status`.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::book::BookCounters;
use crate::shared::Shared;
use crate::wire::Told;

/// Counts of the running daemon.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) feed_overflows: Counter,
    pub(crate) snapshots: Counter,
    pub(crate) peers: Counter,
    pub(crate) connections: Counter,
    pub(crate) announcements: Counter,
    pub(crate) messages: Counter,
    pub(crate) bytes: Counter,
    pub(crate) blocks_stored: Counter,
    pub(crate) blocks_removed: Counter,
    pub(crate) blocks_left_out: Counter,
    pub(crate) replays: Counter,
    pub(crate) relays: Counter,
    pub(crate) watchers: Counter,
    pub(crate) watchers_lagged: Counter,
}

impl Counters {
    /// Blocks have been told.
    pub(crate) fn told(&self, told: &[Told]) {
        let stored = told.iter().filter(|told| told.stored.is_some()).count() as u64;
        self.blocks_stored.add(stored);
        self.blocks_removed.add(told.len() as u64 - stored);
    }
}

/// One number.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A snapshot of everything that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounters {
    /// Blocks that are known.
    pub blocks: u64,
    /// Blocks that are announced: known with all before them, and described.
    pub blocks_announced: u64,
    /// Blocks that would be if there were a name for them: no engine that serves them has said its address and model.
    pub blocks_unnamed: u64,
    /// What the model counted.
    pub book: BookCounters,
    /// Times the engine thread said more than could be taken in, so that a snapshot was asked for.
    pub feed_overflows: u64,
    /// Snapshots that were asked for.
    pub snapshots: u64,
    /// Routers that are connected.
    pub peers: u64,
    /// Connections of routers since the start.
    pub connections: u64,
    /// Times everything was announced to a router from the start.
    pub announcements: u64,
    /// Messages sent.
    pub messages: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Blocks told as stored, once for each topic and medium.
    pub blocks_stored: u64,
    /// Blocks told as removed, likewise.
    pub blocks_removed: u64,
    /// Blocks that were not told because what was said of them does not fit their namespace.
    pub blocks_left_out: u64,
    /// Requests to replay.
    pub replays: u64,
    /// Engines that relay what becomes of their blocks.
    pub relays: u64,
    /// Watchers that are there.
    pub watchers: u64,
    /// Watchers that were too slow, since the start.
    pub watchers_lagged: u64,
}

impl EventCounters {
    /// Every number with its name.
    pub fn named(&self) -> [(&'static str, u64); 21] {
        [
            ("blocks", self.blocks),
            ("blocks_announced", self.blocks_announced),
            ("blocks_unnamed", self.blocks_unnamed),
            ("blocks_without_descriptor", self.book.blocks_without_descriptor),
            ("descriptors_malformed", self.book.descriptors_malformed),
            ("removals_forgotten", self.book.removals_forgotten),
            ("names_refused", self.book.names_refused),
            ("feed_overflows", self.feed_overflows),
            ("snapshots", self.snapshots),
            ("peers", self.peers),
            ("connections", self.connections),
            ("announcements", self.announcements),
            ("messages", self.messages),
            ("sent_bytes", self.bytes),
            ("blocks_stored", self.blocks_stored),
            ("blocks_removed", self.blocks_removed),
            ("blocks_left_out", self.blocks_left_out),
            ("replays", self.replays),
            ("relays", self.relays),
            ("watchers", self.watchers),
            ("watchers_lagged", self.watchers_lagged),
        ]
    }
}

impl Shared {
    /// Everything that is counted, now.
    pub(crate) fn count(&self) -> EventCounters {
        let summary = self.summary();
        let counters = &self.counters;
        EventCounters {
            blocks: summary.blocks as u64,
            blocks_announced: summary.blocks_announced as u64,
            blocks_unnamed: summary.blocks_unnamed as u64,
            book: summary.counters,
            feed_overflows: counters.feed_overflows.get(),
            snapshots: counters.snapshots.get(),
            peers: counters.peers.get(),
            connections: counters.connections.get(),
            announcements: counters.announcements.get(),
            messages: counters.messages.get(),
            bytes: counters.bytes.get(),
            blocks_stored: counters.blocks_stored.get(),
            blocks_removed: counters.blocks_removed.get(),
            blocks_left_out: counters.blocks_left_out.get(),
            replays: counters.replays.get(),
            relays: counters.relays.get(),
            watchers: counters.watchers.get(),
            watchers_lagged: counters.watchers_lagged.get(),
        }
    }
}
