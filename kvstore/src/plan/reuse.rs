//! How far away the last use of each block is, exactly.
//!
//! An LRU cache of any size holds the top of one and the same stack: the blocks in the order of their last use. So one pass
//! over the requests tells for every size at once what would have been hit. The place of a block in the stack is the number
//! of blocks used since: a sum over a Fenwick tree with a one for the last use of each block.
//!
//! A request is served as the daemon does it: its blocks are looked up, those of its longest prefix that is there are hits, and
//! then all of them have been used, the first one last, because the rest is worth nothing without it.

use std::collections::HashMap;

/// What a cache of some size would have hit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reuse {
    /// Blocks of all requests.
    pub(crate) references: u64,
    /// Different ones.
    pub(crate) distinct: u64,
    /// `hits[n]`: blocks that a cache of `n` blocks hits and one of `n - 1` does not.
    hits: Vec<u64>,
}

impl Reuse {
    /// Measures requests: each is the names of its prompt's blocks, where a name stands for the whole prefix.
    pub(crate) fn of<'a>(requests: impl IntoIterator<Item = &'a [u64]>) -> Self {
        let mut stack = Stack::default();
        let mut reuse = Self::default();
        for blocks in requests {
            reuse.references += blocks.len() as u64;
            // A block is worth something only together with all before it, so it needs the cache that the deepest of them needs.
            let mut needed = 0;
            for block in blocks {
                let Some(depth) = stack.depth(*block) else { break };
                needed = needed.max(depth);
                if reuse.hits.len() <= needed {
                    reuse.hits.resize(needed + 1, 0);
                }
                reuse.hits[needed] += 1;
            }
            for block in blocks.iter().rev() {
                stack.touch(*block);
            }
        }
        reuse.distinct = stack.last_use.len() as u64;
        reuse
    }

    /// Blocks that an LRU cache of so many blocks hits.
    pub(crate) fn hits(&self, blocks: u64) -> u64 {
        let end = usize::try_from(blocks.saturating_add(1)).unwrap_or(usize::MAX);
        self.hits[..end.min(self.hits.len())].iter().sum()
    }

    /// Blocks that any cache could hit.
    pub(crate) fn hits_most(&self) -> u64 {
        self.hits.iter().sum()
    }

    /// The smallest cache, in blocks, that gets this part of what any could hit; none if nothing can be hit.
    pub(crate) fn blocks_for(&self, part: f64) -> Option<u64> {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part is not exact to the block"
        )]
        let wanted = (self.hits_most() as f64 * part).ceil() as u64;
        let mut sum = 0;
        let found = self.hits.iter().position(|hits| {
            sum += hits;
            sum > 0 && sum >= wanted
        });
        found.map(|blocks| blocks as u64)
    }
}

/// Blocks in the order of their last use.
#[derive(Debug, Default)]
struct Stack {
    /// When a block was used last; times begin with 1 and grow with each use.
    last_use: HashMap<u64, usize>,
    /// A Fenwick tree: one for each time that is the last use of a block.
    tree: Vec<u32>,
    now: usize,
}

impl Stack {
    /// The place of a block, the one used last being the first.
    fn depth(&self, block: u64) -> Option<usize> {
        let time = *self.last_use.get(&block)?;
        let older = self.sum(time - 1);
        Some(self.last_use.len() - older)
    }

    fn touch(&mut self, block: u64) {
        self.now += 1;
        if self.tree.len() <= self.now {
            self.grow();
        }
        if let Some(before) = self.last_use.insert(block, self.now) {
            self.add(before, false);
        }
        self.add(self.now, true);
    }

    /// A tree twice as large. Its last node sums up the lower half.
    fn grow(&mut self) {
        let before = self.tree.len().max(1);
        let all = if before > 1 { self.sum(before - 1) } else { 0 };
        self.tree.resize((2 * before).max(1024), 0);
        let mut node = before.next_power_of_two();
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        // Every power of two behind what was covers all of it.
        while node < self.tree.len() {
            self.tree[node] += all;
            node *= 2;
        }
    }

    fn add(&mut self, time: usize, is_last_use: bool) {
        let mut node = time;
        while node < self.tree.len() {
            if is_last_use {
                self.tree[node] += 1;
            } else {
                self.tree[node] -= 1;
            }
            node += node & node.wrapping_neg();
        }
    }

    /// How many last uses there are up to a time.
    fn sum(&self, time: usize) -> usize {
        let (mut node, mut sum) = (time, 0);
        while node > 0 {
            sum += self.tree[node] as usize;
            node &= node - 1;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache that is a list, the block used last in front.
    fn brute_force(requests: &[Vec<u64>], capacity: usize) -> u64 {
        let (mut cache, mut hits) = (Vec::<u64>::new(), 0);
        for blocks in requests {
            hits += blocks.iter().take_while(|block| cache.contains(block)).count() as u64;
            for block in blocks.iter().rev() {
                cache.retain(|other| other != block);
                cache.insert(0, *block);
                cache.truncate(capacity);
            }
        }
        hits
    }

    /// Conversations that go on, by a small generator of numbers.
    fn requests(seed: u64, count: usize) -> Vec<Vec<u64>> {
        let mut state = seed;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut conversations: Vec<Vec<u64>> = vec![Vec::new(); 20];
        let mut fresh = 0;
        (0..count)
            .map(|_| {
                let at = usize::try_from(next(20)).unwrap();
                let conversation = &mut conversations[at];
                if next(10) == 0 {
                    conversation.clear();
                }
                for _ in 0..next(5) {
                    fresh += 1;
                    conversation.push(fresh);
                }
                conversation.clone()
            })
            .collect()
    }

    #[test]
    fn every_size_hits_what_a_cache_of_that_size_would() {
        for seed in 1..6 {
            let requests = requests(seed, 400);
            let reuse = Reuse::of(requests.iter().map(Vec::as_slice));
            for capacity in [0, 1, 2, 3, 5, 8, 13, 40, 100, 250, 10_000] {
                let expected = brute_force(&requests, capacity);
                assert_eq!(
                    reuse.hits(capacity as u64),
                    expected,
                    "seed {seed}, {capacity} blocks"
                );
            }
            assert_eq!(reuse.hits_most(), brute_force(&requests, 1 << 20));
        }
    }

    #[test]
    fn the_smallest_cache_for_a_part_is_found() {
        let requests = requests(7, 400);
        let reuse = Reuse::of(requests.iter().map(Vec::as_slice));
        for part in [0.1, 0.5, 0.9, 1.0] {
            let blocks = reuse.blocks_for(part).unwrap();
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let share = |blocks| reuse.hits(blocks) as f64 / reuse.hits_most() as f64;
            assert!(
                share(blocks) >= part && share(blocks - 1) < part,
                "{part}: {blocks}"
            );
        }
        assert_eq!(Reuse::of([[1, 2].as_slice()]).blocks_for(0.5), None);
    }
}
