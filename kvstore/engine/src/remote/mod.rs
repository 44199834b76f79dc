//! The remote tier's books: whether it is in service, what is under way and what waits. The decisions are in
//! `steps/remote`.
//!
//! ```text
//!   publish, hit, eviction ─▶ queue ─▶ store ─▶ known to be there
//!   look-up ─▶ question ─▶ known to be there ─▶ promotion ─▶ resident
//! ```
//!
//! What is at the store is shared with other nodes, so nothing here is certain: a block that is known to be there may have
//! been removed by whoever sweeps the store. It is a miss then, and forgotten.

mod queue;

use std::collections::HashMap;

use kvstore_types::{BlockKey, DescriptorBytes, OperationId, SlotRef};

pub(crate) use queue::StoreQueue;

use crate::block::BlockIndex;
use crate::config::RemoteConfig;
use crate::event::RemoteDirection;
use crate::hash::FixedState;

/// An order that has not been answered.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// A block is being stored.
    Store(Store),
    /// A block is being fetched.
    Fetch { promotion: u32 },
    /// A look-up has asked which blocks there are.
    Exists { wait: u64, keys: Vec<BlockKey> },
}

/// A block that is being stored.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    /// Its record and slot, which stay until the bytes have been taken; none: they have been.
    pub(crate) pinned: Option<(BlockIndex, SlotRef)>,
    pub(crate) key: BlockKey,
    pub(crate) descriptor: Option<DescriptorBytes>,
    pub(crate) bytes: u64,
}

/// The tier.
#[derive(Debug)]
pub(crate) struct Remote {
    /// None: there is no such tier.
    pub(crate) config: Option<RemoteConfig>,
    /// By [`RemoteDirection`].
    in_service: [bool; 2],
    pub(crate) operations: HashMap<OperationId, Operation, FixedState>,
    pub(crate) queue: StoreQueue,
    /// Bytes of stores without an answer.
    pub(crate) storing_bytes: u64,
    pub(crate) stores: u32,
    pub(crate) fetches: u32,
    pub(crate) questions: u32,
    /// The next record that is looked at for something to forget.
    pub(crate) hand: u32,
    /// Whether a tick would do something at once.
    pub(crate) has_work: bool,
}

impl Remote {
    /// A tier that has not said yet that it is in service.
    pub(crate) fn new(config: Option<&RemoteConfig>) -> Self {
        Self {
            config: config.cloned(),
            in_service: [false; 2],
            operations: HashMap::default(),
            queue: StoreQueue::default(),
            storing_bytes: 0,
            stores: 0,
            fetches: 0,
            questions: 0,
            hand: 0,
            has_work: false,
        }
    }

    /// Whether it is in service in one direction.
    pub(crate) fn is_in_service(&self, direction: RemoteDirection) -> bool {
        self.in_service[direction as usize]
    }

    /// It came into or went out of service.
    pub(crate) fn set_service(&mut self, direction: RemoteDirection, is_available: bool) {
        self.in_service[direction as usize] = is_available && self.config.is_some();
    }

    /// Whether look-ups ask it.
    pub(crate) fn serves_reads(&self) -> bool {
        let may_wait = |config: &RemoteConfig| !config.promotion_deadline.is_zero();
        self.is_in_service(RemoteDirection::Read) && self.config.as_ref().is_some_and(may_wait)
    }

    /// Whether so many more bytes may be stored now.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        let max = self.config.as_ref().map_or(0, |config| config.write_bytes_max);
        self.storing_bytes == 0 || self.storing_bytes.saturating_add(bytes) <= max
    }
}
