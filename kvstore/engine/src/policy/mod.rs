//! Who leaves when the tier is full. One policy for each size class.
//!
//! A policy orders blocks and nothing else: whether a block may go at all (it is not leased, it is not held) is asked
//! of the [`Herd`]. What it may not take it passes over, moving it to the young end, so that the next search does not
//! begin with the same blocks.

mod ghost;
mod lru;
mod s3fifo;

use std::fmt;

use crate::block::BlockIndex;
use crate::config::PolicyKind;

/// An eviction order over the resident blocks of one size class.
pub(crate) trait Policy: fmt::Debug + Send {
    /// A block became resident. The answer is the handle it is known by here.
    fn insert(&mut self, block: BlockIndex, fingerprint: u32) -> u32;

    /// A look-up hit the block. (The block's heat has been raised already.)
    fn touch(&mut self, handle: u32);

    /// A block leaves for a reason that is not ours.
    fn remove(&mut self, handle: u32);

    /// Chooses a block that may go and forgets it. Passes over at most `effort` blocks, and lowers it by as many.
    fn evict(&mut self, herd: &mut dyn Herd, effort: &mut u32) -> Option<BlockIndex>;

    /// Blocks known.
    fn len(&self) -> usize;
}

/// What a policy asks about blocks.
pub(crate) trait Herd {
    /// Whether the block may go.
    fn may_take(&self, block: BlockIndex) -> bool;

    /// The block's heat: hits since the policy last lowered it.
    fn heat_mut(&mut self, block: BlockIndex) -> &mut u8;
}

/// Makes a policy.
pub(crate) fn new(kind: PolicyKind) -> Box<dyn Policy> {
    match kind {
        PolicyKind::Lru => Box::new(lru::Lru::new()),
        PolicyKind::S3Fifo => Box::new(s3fifo::S3Fifo::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Blocks by number: what may go, and how hot it is.
    #[derive(Default)]
    struct TestHerd {
        kept: Vec<u32>,
        heat: BTreeMap<u32, u8>,
    }

    impl Herd for TestHerd {
        fn may_take(&self, block: BlockIndex) -> bool {
            !self.kept.contains(&block.0)
        }

        fn heat_mut(&mut self, block: BlockIndex) -> &mut u8 {
            self.heat.entry(block.0).or_default()
        }
    }

    #[test]
    fn every_policy_gives_up_each_block_once_and_never_a_kept_one() {
        for kind in [PolicyKind::Lru, PolicyKind::S3Fifo] {
            let mut policy = new(kind);
            let handles: Vec<_> = (0..100)
                .map(|block| policy.insert(BlockIndex(block), block))
                .collect();
            let mut herd = TestHerd {
                kept: (0..100).step_by(7).collect(),
                ..TestHerd::default()
            };
            policy.remove(handles[50]);
            let mut taken: Vec<u32> = std::iter::from_fn(|| policy.evict(&mut herd, &mut 1000))
                .map(|block| block.0)
                .collect();
            taken.sort_unstable();
            let expected: Vec<u32> = (0..100).filter(|block| block % 7 != 0 && *block != 50).collect();
            assert_eq!(taken, expected, "{kind:?}");
            assert_eq!(policy.len(), herd.kept.len(), "{kind:?}");
        }
    }

    #[test]
    fn a_search_ends_when_its_effort_is_spent() {
        for kind in [PolicyKind::Lru, PolicyKind::S3Fifo] {
            let mut policy = new(kind);
            (0..100).for_each(|block| _ = policy.insert(BlockIndex(block), block));
            let mut herd = TestHerd {
                kept: (0..99).collect(),
                ..TestHerd::default()
            };
            let mut effort = 10;
            assert_eq!(policy.evict(&mut herd, &mut effort), None, "{kind:?}");
            assert_eq!(effort, 0, "{kind:?}");
            // The next searches go on where this one ended.
            let found = (0..20).find_map(|_| policy.evict(&mut herd, &mut 10));
            assert_eq!(found, Some(BlockIndex(99)), "{kind:?}");
        }
    }

    #[test]
    fn a_scan_flushes_lru_and_not_s3_fifo() {
        // A search that meets only hot blocks takes one after some reprieves, so a few may go.
        for (kind, survivors_expected) in [(PolicyKind::Lru, 0..=0), (PolicyKind::S3Fifo, 95..=100)] {
            let mut policy = new(kind);
            let mut herd = TestHerd::default();
            for block in 0..1000 {
                let handle = policy.insert(BlockIndex(block), block);
                if block < 100 {
                    (0..2).for_each(|_| policy.touch(handle));
                    *herd.heat_mut(BlockIndex(block)) = 2;
                }
            }
            let mut alive: Vec<u32> = (0..1000).collect();
            for block in 1000..5000 {
                let victim = policy.evict(&mut herd, &mut 1000).unwrap().0;
                alive.retain(|&block| block != victim);
                policy.insert(BlockIndex(block), block);
                alive.push(block);
            }
            let survivors = alive.iter().filter(|&&block| block < 100).count();
            assert!(survivors_expected.contains(&survivors), "{kind:?}: {survivors}");
        }
    }
}
