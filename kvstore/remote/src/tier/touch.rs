//! Which blocks this node has read, collected until the store is told.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use kvstore_types::{BlockKey, NamespaceId};

use crate::format::{TOUCHED_BLOCKS_MAX, Touched, TouchedBlock};

/// The collection. Bounded: a namespace whose record is full is told at once.
#[derive(Debug, Default)]
pub(super) struct TouchLog {
    blocks: HashMap<NamespaceId, HashSet<TouchedBlock>>,
    /// When the first of them came.
    since: Option<Instant>,
}

impl TouchLog {
    /// A block was read. The record of its namespace, if it is full now.
    pub(super) fn add(&mut self, now: Instant, key: &BlockKey) -> Option<Touched> {
        self.since.get_or_insert(now);
        let blocks = self.blocks.entry(key.namespace).or_default();
        blocks.insert(TouchedBlock::from(key));
        if blocks.len() < TOUCHED_BLOCKS_MAX {
            return None;
        }
        let blocks = self.blocks.remove(&key.namespace)?;
        Some(record(key.namespace, blocks))
    }

    /// When the store is to be told.
    pub(super) fn due(&self, every: Duration) -> Option<Instant> {
        self.since.map(|since| since + every)
    }

    /// Everything, to be told.
    pub(super) fn take(&mut self) -> Vec<Touched> {
        self.since = None;
        let all = self.blocks.drain();
        all.map(|(namespace, blocks)| record(namespace, blocks)).collect()
    }
}

fn record(namespace: NamespaceId, blocks: HashSet<TouchedBlock>) -> Touched {
    let mut blocks: Vec<_> = blocks.into_iter().collect();
    blocks.sort_unstable();
    Touched { namespace, blocks }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::key;

    #[test]
    fn a_block_is_told_once_however_often_it_is_read() {
        let (mut log, now) = (TouchLog::default(), Instant::now());
        let every = Duration::from_secs(10);
        assert_eq!(log.due(every), None);
        for _ in 0..5 {
            assert_eq!(log.add(now, &key(1)), None);
            assert_eq!(log.add(now + every, &key(2)), None);
        }
        assert_eq!(log.due(every), Some(now + every));
        let told = log.take();
        assert_eq!((told.len(), told[0].blocks.len()), (1, 2));
        assert_eq!((log.due(every), log.take().len()), (None, 0));
    }

    #[test]
    fn a_full_record_is_told_at_once() {
        let (mut log, now) = (TouchLog::default(), Instant::now());
        let mut told = Vec::new();
        for number in 0..TOUCHED_BLOCKS_MAX as u64 {
            told.extend(log.add(now, &key(number)));
        }
        assert_eq!((told.len(), told[0].blocks.len()), (1, TOUCHED_BLOCKS_MAX));
        assert_eq!(log.take().len(), 0);
    }
}
