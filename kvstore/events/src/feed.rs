//! The way from an engine thread to the announcer: bounded, never waited for, and honest about what it lost.
//!
//! The engine thread collects items in memory of its own and hands them over once a round. The lock is held for an
//! exchange of two vectors, or for moving a batch behind another; the announcer takes everything with an exchange, so
//! neither ever waits for the other's work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvstore_types::{AttentionKind, BlockKey, DescriptorBytes, NamespaceId, SessionId, Tier};
use tokio::sync::Notify;

/// What the announcer is told of one tenant, in the order in which it happened.
#[derive(Clone, Debug, PartialEq)]
pub enum FeedItem {
    /// A copy became usable: in memory sealed by all ranks, elsewhere durable.
    Stored {
        /// Its name.
        key: BlockKey,
        /// Where the copy is.
        tier: Tier,
        /// What the block is about, if its client said.
        descriptor: Option<DescriptorBytes>,
    },
    /// A block that is there has been described only now.
    Described {
        /// Its name.
        key: BlockKey,
        /// What it is about.
        descriptor: DescriptorBytes,
    },
    /// A usable copy is gone.
    Removed {
        /// Its name.
        key: BlockKey,
        /// Where the copy was.
        tier: Tier,
    },
    /// What a namespace's blocks look like. May be said again.
    Namespace(Arc<NamespaceShape>),
    /// An engine serves this namespace under this name at this address. Said again with another namespace, it has moved.
    PodAttached {
        /// The session that said so; names the attachment.
        session: SessionId,
        /// The namespace of its blocks.
        namespace: NamespaceId,
        /// Where requests reach the engine: `ip:port`. Empty if it did not say; the served name still counts.
        pod: Arc<str>,
        /// The name that requests ask for. Empty likewise.
        model: Arc<str>,
    },
    /// The session relays what becomes of its engine's blocks itself, until it is over: nobody else announces the engine
    /// under its own name.
    RelayBegan {
        /// Which.
        session: SessionId,
    },
    /// The session is over.
    PodDetached {
        /// Which.
        session: SessionId,
    },
    /// From here to the end of the snapshot, `Stored` is also said of everything that is there already.
    SnapshotBegun {
        /// The number it was asked for with.
        number: u64,
    },
    /// All that is there has been said. What was known before and was not said again is gone.
    SnapshotEnded {
        /// The number it was asked for with.
        number: u64,
    },
}

/// What the announcer has to know of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceShape {
    /// Which.
    pub namespace: NamespaceId,
    /// The model's name as the namespace's descriptor has it; used while no engine says what it serves it as.
    pub model: Option<Arc<str>>,
    /// Its groups, in the engine's order.
    pub groups: Vec<GroupShape>,
}

/// One group of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupShape {
    /// How its layers attend.
    pub kind: AttentionKind,
    /// Tokens in each of its blocks.
    pub tokens_per_block: u32,
}

impl FeedItem {
    /// The block that it is about. A snapshot could say these again; the others are few (as many as sessions and
    /// snapshots) and never dropped.
    pub(crate) fn key(&self) -> Option<&BlockKey> {
        match self {
            Self::Stored { key, .. } | Self::Described { key, .. } | Self::Removed { key, .. } => Some(key),
            _ => None,
        }
    }

    /// What the block is about, if it says so.
    pub(crate) fn descriptor(&self) -> Option<&DescriptorBytes> {
        match self {
            Self::Stored { descriptor, .. } => descriptor.as_ref(),
            Self::Described { descriptor, .. } => Some(descriptor),
            _ => None,
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    items: Vec<FeedItem>,
    /// Items about blocks were dropped since the announcer looked.
    lost: bool,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    capacity: usize,
    bell: Arc<Notify>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing can panic while it is held but for want of memory.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine thread's end.
#[derive(Debug)]
pub struct FeedSender {
    shared: Arc<Shared>,
    batch: Vec<FeedItem>,
}

/// The announcer's end.
#[derive(Debug)]
pub struct FeedReceiver {
    shared: Arc<Shared>,
}

/// Items about blocks that wait at most; beyond it they are dropped, and the announcer asks for a snapshot.
pub const FEED_ITEMS_MAX: usize = 1 << 17;

/// Both ends of a tenant's feed. The bell is rung when there is something to take.
pub fn feed(capacity: usize, bell: Arc<Notify>) -> (FeedSender, FeedReceiver) {
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        capacity,
        bell,
    });
    let sender = FeedSender {
        shared: Arc::clone(&shared),
        batch: Vec::new(),
    };
    (sender, FeedReceiver { shared })
}

impl FeedSender {
    /// Keeps an item for the next [`flush`](Self::flush).
    pub fn push(&mut self, item: FeedItem) {
        self.batch.push(item);
    }

    /// Hands over everything that was kept, and wakes the announcer if it sleeps. If there is no room, what is about
    /// blocks is dropped and that is remembered.
    pub fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        {
            let mut queue = self.shared.lock();
            if queue.items.len().saturating_add(self.batch.len()) > self.shared.capacity {
                queue.lost |= self.batch.iter().any(|item| item.key().is_some());
                queue
                    .items
                    .extend(self.batch.drain(..).filter(|item| item.key().is_none()));
            } else if queue.items.is_empty() {
                std::mem::swap(&mut queue.items, &mut self.batch);
            } else {
                queue.items.append(&mut self.batch);
            }
        }
        self.shared.bell.notify_one();
    }

    /// How many items still fit, those kept for the next flush counted.
    pub fn room(&self) -> usize {
        let waiting = self.shared.lock().items.len();
        self.shared
            .capacity
            .saturating_sub(waiting)
            .saturating_sub(self.batch.len())
    }
}

impl FeedReceiver {
    /// Takes everything, in exchange for an empty vector. `true`: some of it was lost before, and only a snapshot
    /// tells what.
    pub fn take(&self, items: &mut Vec<FeedItem>) -> bool {
        items.clear();
        let mut queue = self.shared.lock();
        std::mem::swap(&mut queue.items, items);
        std::mem::take(&mut queue.lost)
    }
}

#[cfg(test)]
mod tests {
    use kvstore_types::{BlockHash, GroupIndex};

    use super::*;

    fn removed(number: u8) -> FeedItem {
        FeedItem::Removed {
            key: BlockKey {
                namespace: NamespaceId([0; 16]),
                group: GroupIndex(0),
                hash: BlockHash([number; 32]),
            },
            tier: Tier::Host,
        }
    }

    #[test]
    fn items_arrive_in_order() {
        let (mut sender, receiver) = feed(8, Arc::default());
        let mut taken = Vec::new();
        sender.push(removed(1));
        sender.flush();
        sender.push(removed(2));
        sender.flush();
        assert!(!receiver.take(&mut taken));
        assert_eq!(taken, [removed(1), removed(2)]);
        assert!(!receiver.take(&mut taken));
        assert!(taken.is_empty());
    }

    #[test]
    fn a_full_feed_drops_blocks_and_says_so_and_keeps_the_rest() {
        let (mut sender, receiver) = feed(2, Arc::default());
        let detached = FeedItem::PodDetached {
            session: SessionId(7),
        };
        for number in 0..2 {
            sender.push(removed(number));
        }
        sender.flush();
        assert_eq!(sender.room(), 0);
        sender.push(removed(9));
        sender.push(detached.clone());
        sender.flush();
        let mut taken = Vec::new();
        assert!(receiver.take(&mut taken));
        assert_eq!(taken, [removed(0), removed(1), detached]);
        assert!(!receiver.take(&mut taken), "it is said once");
    }
}
