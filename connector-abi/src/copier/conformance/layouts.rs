//! The shapes that KV caches come in.

use crate::copier::PageRun;

/// Device blocks of every cache.
pub(super) const BLOCKS: usize = 16;

/// Where the pages of one run lie in a tensor.
#[derive(Clone, Copy, Debug)]
struct Pages {
    tensor: usize,
    offset: usize,
    stride_bytes: usize,
    page_bytes: usize,
}

/// A KV cache group's shape.
#[derive(Clone, Debug)]
pub(in crate::copier) struct CacheLayout {
    pub(super) name: &'static str,
    pub(super) blocks_per_chunk: u32,
    /// Bytes of each tensor.
    tensors: Vec<usize>,
    pages: Vec<Pages>,
}

impl CacheLayout {
    /// One tensor with pages of 4 KiB, four blocks a chunk.
    pub(in crate::copier) fn simple() -> Self {
        Self::of_tensors("one tensor", 4, 1, 4096, 4096)
    }

    /// Tensors of equal shape, a page in each.
    fn of_tensors(
        name: &'static str,
        blocks_per_chunk: u32,
        count: usize,
        page_bytes: usize,
        stride_bytes: usize,
    ) -> Self {
        let pages = |tensor| Pages {
            tensor,
            offset: 0,
            stride_bytes,
            page_bytes,
        };
        Self {
            name,
            blocks_per_chunk,
            tensors: vec![BLOCKS * stride_bytes; count],
            pages: (0..count).map(pages).collect(),
        }
    }

    /// The runs, in tensors that `allocate` makes.
    pub(super) fn runs(&self, allocate: impl FnMut(usize) -> usize) -> Vec<PageRun> {
        let bases: Vec<_> = self.tensors.iter().copied().map(allocate).collect();
        let run = |pages: &Pages| PageRun {
            base: bases[pages.tensor] + pages.offset,
            stride_bytes: pages.stride_bytes,
            page_bytes: pages.page_bytes,
            page_count: BLOCKS,
        };
        self.pages.iter().map(run).collect()
    }
}

pub(super) fn layouts() -> Vec<CacheLayout> {
    let apart = |tensor| {
        [0, BLOCKS * 2048].map(|offset| Pages {
            tensor,
            offset,
            stride_bytes: 2048,
            page_bytes: 2048,
        })
    };
    vec![
        CacheLayout::simple(),
        CacheLayout::of_tensors("a page in each layer, K and V interleaved", 1, 6, 8192, 8192),
        CacheLayout {
            name: "a page in each layer, K and V apart",
            blocks_per_chunk: 2,
            tensors: vec![2 * BLOCKS * 2048; 3],
            pages: (0..3).flat_map(apart).collect(),
        },
        CacheLayout::of_tensors("all layers of a block together", 1, 1, 6 * 8192, 6 * 8192),
        CacheLayout::of_tensors(
            "MLA: one latent vector of 576 half floats a token",
            1,
            3,
            16 * 1152,
            16 * 1152,
        ),
        CacheLayout::of_tensors("FP8 MLA: 656 packed bytes a token", 4, 2, 16 * 656, 16 * 656),
        CacheLayout::of_tensors("FP8 with scales behind the values, padded", 2, 3, 16 * 132, 2304),
        CacheLayout::of_tensors("pages of odd sizes with gaps", 4, 3, 1001, 1013),
        CacheLayout {
            name: "layers of different widths in one tensor",
            blocks_per_chunk: 4,
            tensors: vec![BLOCKS * 3072],
            pages: [(0, 1), (1, 1023), (1024, 2000)]
                .map(|(offset, page_bytes)| Pages {
                    tensor: 0,
                    offset,
                    stride_bytes: 3072,
                    page_bytes,
                })
                .to_vec(),
        },
    ]
}
