//! The books of the remote tier.

use std::collections::BTreeMap;

use crate::block::{BlockState, ExtentHandle, mark};
use crate::engine::Engine;
use crate::nvme::Source;
use crate::remote::Operation;

impl Engine {
    /// What is counted is what is under way, each pin has its store, and states allow what blocks have.
    pub(super) fn check_remote(&self) {
        let (mut counts, mut bytes, mut pinned) = ([0_u32; 3], 0, 0);
        let mut asking = BTreeMap::<u64, usize>::new();
        for operation in self.remote.operations.values() {
            match operation {
                Operation::Store(store) => {
                    counts[0] += 1;
                    bytes += store.bytes;
                    if let Some((block, slot)) = store.pinned {
                        let record = self.pool.blocks.get(block);
                        assert_eq!(
                            (record.state, record.slot, self.pool.key(record)),
                            (BlockState::Resident, slot, store.key),
                            "what is being taken stays where it is"
                        );
                        assert!(record.has(mark::STORING), "what is being taken is pinned");
                        pinned += 1;
                    }
                }
                Operation::Fetch { promotion } => {
                    counts[1] += 1;
                    let source = self
                        .nvme
                        .promotions
                        .get(*promotion)
                        .map(|promotion| promotion.source);
                    assert_eq!(source, Some(Source::Remote), "a fetch has its promotion");
                }
                Operation::Exists { wait, .. } => {
                    counts[2] += 1;
                    *asking.entry(*wait).or_default() += 1;
                }
            }
        }
        let remote = &self.remote;
        assert_eq!(
            (
                [remote.stores, remote.fetches, remote.questions],
                remote.storing_bytes
            ),
            (counts, bytes),
            "what is under way at the remote tier is counted"
        );
        for (id, wait) in self.nvme.waits.iter() {
            assert_eq!(
                wait.asking,
                asking.remove(&id).unwrap_or(0),
                "a look-up counts its questions"
            );
        }
        let config = remote.config.as_ref();
        let queue_max = config.map_or(0, |config| config.write_queue_max);
        assert!(
            remote.queue.len() <= queue_max,
            "the queue of stores keeps its bound"
        );
        self.check_remote_records(pinned);
    }

    fn check_remote_records(&self, pinned: usize) {
        let (mut storing, mut only) = (0, 0);
        for (_, block) in self.pool.blocks.iter() {
            storing += usize::from(block.has(mark::STORING));
            only += usize::from(block.state == BlockState::Remote);
            assert!(
                block.state != BlockState::Remote || (block.is_remote && block.extent == ExtentHandle::NONE),
                "a block that is in the remote tier only has a copy there and none on NVMe"
            );
            assert!(
                !block.has(mark::LEAVING) || block.has(mark::STORING),
                "what leaves when it has been taken is being taken"
            );
        }
        assert_eq!(storing, pinned, "each pin has its store");
        assert_eq!(
            self.pool.blocks.remote_only(),
            only,
            "what is in the remote tier only is counted"
        );
        self.pool.check_leaving();
    }
}
