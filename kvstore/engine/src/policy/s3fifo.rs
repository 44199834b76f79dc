//! S3-FIFO, from Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023.
//!
//! ```text
//!   new ──▶ small (10 %) ── hit twice ──▶ main (90 %) ◀─┐ hit: one turn more, one hit less
//!                │ else                      │ ────────┘
//!                ▼                           ▼ else
//!              ghost ── comes again ──▶ main    gone
//! ```
//!
//! Hits are counted in two bits of the block's own record (`heat`), so a look-up touches no memory of the policy. A
//! block that was looked up once and never again leaves through the small queue and cannot flush the main one.
//!
//! Invariant: each node is in exactly one of the two queues, or vacant.

use super::ghost::Ghost;
use super::{Herd, Policy};
use crate::block::BlockIndex;

const NONE: u32 = u32::MAX;

/// Share of the small queue: one in this many.
const SMALL_SHARE: usize = 10;

/// Hits in the small queue that earn a place in the main one.
const HEAT_TO_STAY: u8 = 2;

/// Hot blocks that one search spares before it takes even a hot one: bounds a step when everything is hot.
const REPRIEVES_MAX: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    block: BlockIndex,
    younger: u32,
    /// The next older node; in a vacant node the next vacant one.
    older: u32,
    /// The fingerprint's upper 31 bits, and whether the node is in the main queue.
    fingerprint_and_queue: u32,
}

impl Node {
    fn queue(self) -> Queue {
        if self.fingerprint_and_queue & 1 == 0 {
            Queue::Small
        } else {
            Queue::Main
        }
    }

    fn fingerprint(self) -> u32 {
        self.fingerprint_and_queue >> 1
    }
}

#[derive(Debug)]
struct Ends {
    youngest: u32,
    oldest: u32,
    len: usize,
}

/// Blocks in two queues, and the names of some that left.
#[derive(Debug)]
pub(crate) struct S3Fifo {
    nodes: Vec<Node>,
    vacant: u32,
    small: Ends,
    main: Ends,
    ghost: Ghost,
}

impl S3Fifo {
    /// No blocks.
    pub(crate) fn new() -> Self {
        let ends = || Ends {
            youngest: NONE,
            oldest: NONE,
            len: 0,
        };
        Self {
            nodes: Vec::new(),
            vacant: NONE,
            small: ends(),
            main: ends(),
            ghost: Ghost::new(),
        }
    }

    fn ends(&mut self, queue: Queue) -> &mut Ends {
        match queue {
            Queue::Small => &mut self.small,
            Queue::Main => &mut self.main,
        }
    }

    fn node(&mut self, handle: u32) -> &mut Node {
        &mut self.nodes[handle as usize]
    }

    fn push(&mut self, handle: u32, queue: Queue) {
        let older = std::mem::replace(&mut self.ends(queue).youngest, handle);
        self.ends(queue).len += 1;
        let node = self.node(handle);
        node.younger = NONE;
        node.older = older;
        node.fingerprint_and_queue = (node.fingerprint_and_queue & !1) | u32::from(queue == Queue::Main);
        match older {
            NONE => self.ends(queue).oldest = handle,
            older => self.node(older).younger = handle,
        }
    }

    fn unlink(&mut self, handle: u32) {
        let node = *self.node(handle);
        let queue = node.queue();
        match node.younger {
            NONE => self.ends(queue).youngest = node.older,
            younger => self.node(younger).older = node.older,
        }
        match node.older {
            NONE => self.ends(queue).oldest = node.younger,
            older => self.node(older).younger = node.younger,
        }
        self.ends(queue).len -= 1;
    }

    fn forget(&mut self, handle: u32) -> BlockIndex {
        self.unlink(handle);
        let vacant = std::mem::replace(&mut self.vacant, handle);
        let node = self.node(handle);
        node.older = vacant;
        node.block
    }

    /// The queue whose turn it is: the small one when it has more than its share.
    fn next_queue(&self) -> Queue {
        let small_wanted = (self.len() / SMALL_SHARE).max(1);
        if self.main.len == 0 || self.small.len > small_wanted {
            Queue::Small
        } else {
            Queue::Main
        }
    }
}

impl Policy for S3Fifo {
    fn insert(&mut self, block: BlockIndex, fingerprint: u32) -> u32 {
        let node = Node {
            block,
            younger: NONE,
            older: NONE,
            fingerprint_and_queue: fingerprint & !1,
        };
        let queue = if self.ghost.contains(node.fingerprint(), self.len()) {
            Queue::Main
        } else {
            Queue::Small
        };
        let handle = self.vacant;
        let handle = if handle == NONE {
            self.nodes.push(node);
            u32::try_from(self.nodes.len() - 1).unwrap_or(NONE)
        } else {
            self.vacant = self.node(handle).older;
            *self.node(handle) = node;
            handle
        };
        self.push(handle, queue);
        handle
    }

    fn touch(&mut self, _handle: u32) {}

    fn remove(&mut self, handle: u32) {
        self.forget(handle);
    }

    fn evict(&mut self, herd: &mut dyn Herd, effort: &mut u32) -> Option<BlockIndex> {
        let mut reprieves = REPRIEVES_MAX;
        // Where one queue holds nothing that may go, the other must be searched: each gets its own count of blocks
        // that were passed over in a row.
        let (mut passed_small, mut passed_main) = (0, 0);
        while *effort > 0 {
            let exhausted = (passed_small >= self.small.len, passed_main >= self.main.len);
            let queue = match exhausted {
                (true, true) => return None,
                (true, false) => Queue::Main,
                (false, true) => Queue::Small,
                (false, false) => self.next_queue(),
            };
            let handle = self.ends(queue).oldest;
            let block = self.node(handle).block;
            if !herd.may_take(block) {
                self.unlink(handle);
                self.push(handle, queue);
                *(if queue == Queue::Small {
                    &mut passed_small
                } else {
                    &mut passed_main
                }) += 1;
                *effort -= 1;
                continue;
            }
            let heat = herd.heat_mut(block);
            let stays = reprieves > 0 && *heat >= if queue == Queue::Small { HEAT_TO_STAY } else { 1 };
            if stays {
                reprieves -= 1;
                *heat = if queue == Queue::Small { 0 } else { *heat - 1 };
                self.unlink(handle);
                self.push(handle, Queue::Main);
                // It stands behind the ones passed over, so the main queue has to be gone through once more.
                passed_main = 0;
                continue;
            }
            if queue == Queue::Small {
                let fingerprint = self.node(handle).fingerprint();
                self.ghost.insert(fingerprint, self.len());
            }
            return Some(self.forget(handle));
        }
        None
    }

    fn len(&self) -> usize {
        self.small.len + self.main.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of one heat; block 1 must stay.
    struct Cold(u8);

    impl Herd for Cold {
        fn may_take(&self, block: BlockIndex) -> bool {
            block.0 != 1
        }

        fn heat_mut(&mut self, _block: BlockIndex) -> &mut u8 {
            &mut self.0
        }
    }

    #[test]
    fn a_block_that_comes_again_goes_to_the_main_queue() {
        let mut policy = S3Fifo::new();
        (0..10).for_each(|block| _ = policy.insert(BlockIndex(block), block << 8));
        assert_eq!(policy.evict(&mut Cold(0), &mut 10), Some(BlockIndex(0)));
        policy.insert(BlockIndex(77), 0);
        assert_eq!((policy.small.len, policy.main.len), (9, 1));
    }

    /// The search counted the kept block a second time when a hot one had gone behind it, and gave up.
    #[test]
    fn a_hot_block_behind_a_kept_one_is_found() {
        let mut policy = S3Fifo::new();
        for block in 1..3 {
            let handle = policy.insert(BlockIndex(block), block << 8);
            policy.unlink(handle);
            policy.push(handle, Queue::Main);
        }
        assert_eq!(policy.evict(&mut Cold(3), &mut 100), Some(BlockIndex(2)));
    }
}
