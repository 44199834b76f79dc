//! Look-ups that wait for blocks on their way into host memory.
//!
//! Every look-up that waits is answered exactly once: when nothing it waits for is under way any more and the remote tier
//! has answered all its questions, at its deadline,
//! when it is released, or when its engine's namespace changes; unless its session ends before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use kvstore_types::{BlockHash, NamespaceId, SessionId, Tag};

use crate::pool::Hold;

/// One look-up that waits.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) session: SessionId,
    pub(crate) tag: Tag,
    /// The namespace it was asked in.
    pub(crate) namespace: NamespaceId,
    /// The keys of each group.
    pub(crate) keys: Vec<Vec<BlockHash>>,
    /// The answer may not be longer than what was promised, which the quota was counted for.
    pub(crate) tokens_max: u64,
    /// Blocks counted against the session's quota.
    pub(crate) quota: usize,
    /// Blocks that are there, held until the answer.
    pub(crate) holds: Vec<Hold>,
    /// The reads it waits for that have not ended, and perhaps some that have.
    pub(crate) promotions: Vec<u32>,
    /// How many have not.
    pub(crate) waiting: usize,
    /// How many have brought their block from NVMe, and from the remote tier.
    pub(crate) arrived: [u64; 2],
    /// Questions to the remote tier that have no answer.
    pub(crate) asking: usize,
    /// When it began.
    pub(crate) since: Instant,
    /// When it is answered in any case.
    pub(crate) deadline: Instant,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    all: BTreeMap<u64, Wait>,
    /// The same in order of deadline.
    order: BTreeSet<(Instant, u64)>,
    last: u64,
}

impl Waits {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// All of them, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Wait)> {
        self.all.iter().map(|(&id, wait)| (id, wait))
    }

    /// The number that the next one gets.
    pub(crate) fn next(&self) -> u64 {
        self.last + 1
    }

    /// Adds one.
    pub(crate) fn add(&mut self, wait: Wait) -> u64 {
        self.last += 1;
        self.order.insert((wait.deadline, self.last));
        self.all.insert(self.last, wait);
        self.last
    }

    /// One of them, to be changed.
    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut Wait> {
        self.all.get_mut(&id)
    }

    /// Takes one out.
    pub(crate) fn remove(&mut self, id: u64) -> Option<Wait> {
        let wait = self.all.remove(&id)?;
        self.order.remove(&(wait.deadline, id));
        Some(wait)
    }

    /// The first deadline, and whose it is.
    pub(crate) fn first(&self) -> Option<(Instant, u64)> {
        self.order.first().copied()
    }
}
