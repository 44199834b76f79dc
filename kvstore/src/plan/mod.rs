//! Which sizes of tiers give which hit ratio: what `kvtier plan` computes, without a daemon.
//!
//! ```text
//!   a trace or a made-up mix ─▶ requests ─▶ reuse distances ─▶ a curve of hits over size ─▶ table, picture
//! ```
//!
//! The curve is exact for LRU caches that hold each other's blocks: GPU memory, host memory and NVMe, each with its size. Other
//! policies (the daemon's default is S3-FIFO) do a little better where many blocks are used once.

mod picture;
mod requests;
mod reuse;

use serde::Serialize;

pub(crate) use self::picture::svg;
pub(crate) use self::requests::{Mix, Requests, read_trace};
use self::reuse::Reuse;

/// What a model's KV cache takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bytes of one token, all layers and all ranks of the node together.
    pub(crate) bytes_per_token: u64,
}

impl Shape {
    /// Keys and values of a model with ordinary attention.
    pub(crate) const fn of(layers: u64, kv_heads: u64, head_size: u64, value_bytes: u64) -> Self {
        Self {
            bytes_per_token: 2_u64
                .saturating_mul(layers)
                .saturating_mul(kv_heads)
                .saturating_mul(head_size)
                .saturating_mul(value_bytes),
        }
    }
}

/// What caches of different sizes do with some requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Plan {
    /// Requests, blocks of their prompts, and different ones.
    pub(crate) requests: u64,
    /// Blocks of all prompts.
    pub(crate) block_references: u64,
    /// Different ones.
    pub(crate) distinct_blocks: u64,
    /// Bytes of one.
    pub(crate) block_bytes: u64,
    /// Part of all blocks that a cache without bounds hits.
    pub(crate) hit_ratio_most: f64,
    /// GPU memory for KV cache, and what it hits alone.
    pub(crate) gpu: Point,
    /// Sizes and what they hit, each with all that is faster.
    pub(crate) points: Vec<Point>,
    /// The smallest sizes for parts of what can be hit at all.
    pub(crate) goals: Vec<Goal>,
}

/// One size.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Point {
    /// Bytes of the largest tier.
    pub(crate) bytes: u64,
    /// Part of all blocks that is hit.
    pub(crate) hit_ratio: f64,
    /// Part that is hit because of what there is beyond GPU memory.
    pub(crate) gained: f64,
}

/// The smallest size for something.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Goal {
    /// Part of what can be hit at all.
    pub(crate) part: f64,
    /// Bytes of the largest tier.
    pub(crate) bytes: u64,
    /// Part of all blocks that is hit.
    pub(crate) hit_ratio: f64,
}

/// Parts of what can be hit at all, for which sizes are told.
const GOALS: [f64; 4] = [0.5, 0.8, 0.95, 1.0];

impl Plan {
    /// Measures some requests. Without sizes, those from one block to all are told, each twice the one before.
    pub(crate) fn new(requests: &Requests, shape: Shape, gpu_bytes: u64, sizes: &[u64]) -> Self {
        let reuse = Reuse::of(requests.blocks.iter().map(Vec::as_slice));
        let block_bytes = shape
            .bytes_per_token
            .saturating_mul(requests.tokens_per_block)
            .max(1);
        let ratio = |hits: u64| share(hits, reuse.references);
        let of_gpu = reuse.hits(gpu_bytes / block_bytes);
        let point = |bytes: u64| {
            let hits = reuse.hits(bytes / block_bytes).max(of_gpu);
            Point {
                bytes,
                hit_ratio: ratio(hits),
                gained: ratio(hits - of_gpu),
            }
        };
        let footprint = block_bytes.saturating_mul(reuse.distinct);
        let chosen = if sizes.is_empty() {
            doubling(block_bytes, footprint)
        } else {
            sizes.to_vec()
        };
        let goals = GOALS.iter().filter_map(|&part| {
            let blocks = reuse.blocks_for(part)?;
            Some(Goal {
                part,
                bytes: blocks.saturating_mul(block_bytes),
                hit_ratio: ratio(reuse.hits(blocks)),
            })
        });
        Self {
            requests: requests.blocks.len() as u64,
            block_references: reuse.references,
            distinct_blocks: reuse.distinct,
            block_bytes,
            hit_ratio_most: ratio(reuse.hits_most()),
            gpu: point(gpu_bytes),
            points: chosen.into_iter().map(point).collect(),
            goals: goals.collect(),
        }
    }
}

/// Powers of two from the first that holds a block to the first that holds everything; at most 24 of them.
fn doubling(block_bytes: u64, footprint: u64) -> Vec<u64> {
    let last = footprint.checked_next_power_of_two().unwrap_or(u64::MAX);
    let first = block_bytes.next_power_of_two().max(last >> 23).max(1);
    std::iter::successors(Some(first), |size| size.checked_mul(2))
        .take_while(|size| *size <= last)
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "ratios are shown")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_each_size_hits_beyond_the_gpu() {
        // Two prompts by turns, of two blocks each: a cache of four blocks hits them, one of three does not.
        let requests = Requests {
            blocks: (0..10)
                .map(|turn| vec![turn % 2 * 10, turn % 2 * 10 + 1])
                .collect(),
            tokens_per_block: 16,
        };
        let shape = Shape::of(2, 2, 8, 2);
        assert_eq!(shape.bytes_per_token, 128);
        let plan = Plan::new(&requests, shape, 3 * 2048, &[2048, 3 * 2048, 4 * 2048, 1 << 30]);
        assert_eq!(
            (plan.block_bytes, plan.distinct_blocks, plan.block_references),
            (2048, 4, 20)
        );
        let ratios: Vec<f64> = plan.points.iter().map(|point| point.hit_ratio).collect();
        // With three blocks the first of each prompt is still there, because it is used last.
        assert_eq!(ratios, [0.4, 0.4, 0.8, 0.8]);
        assert!((plan.gpu.hit_ratio - 0.4).abs() < 1e-9);
        assert!((plan.points[2].gained - 0.4).abs() < 1e-9);
        assert_eq!(plan.goals.last().map(|goal| goal.bytes), Some(4 * 2048));
        assert!((plan.hit_ratio_most - 0.8).abs() < 1e-9);
    }

    #[test]
    fn sizes_double_until_all_is_held() {
        assert_eq!(doubling(1000, 5000), [1024, 2048, 4096, 8192]);
        assert_eq!(doubling(1, u64::MAX >> 1).len(), 24);
        assert_eq!(doubling(1000, 0), Vec::<u64>::new());
    }
}
