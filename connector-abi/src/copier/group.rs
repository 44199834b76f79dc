//! Where the device pages of one KV cache group lie.
//!
//! ```text
//! device block b = run 0's page b ‖ run 1's page b ‖ ...         (one run for each tensor, K and V, layer, ...)
//! rank's part of a slot = device block of chunk place 0 ‖ place 1 ‖ ... ‖ place blocks_per_chunk - 1
//! ```

use crate::ClientError;

/// Pages of one tensor: the page of device block `b` lies at `base + b * stride_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// Address of device block 0's page.
    pub base: usize,
    /// Distance between the pages of consecutive device blocks.
    pub stride_bytes: usize,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Number of device blocks.
    pub page_count: usize,
}

/// The pages of a group: checked arithmetic, so that an address inside can be computed without overflow.
#[derive(Debug)]
pub struct DeviceGroup {
    blocks_per_chunk: u32,
    runs: Vec<PageRun>,
    /// Where each run's page begins in a device block.
    offsets: Vec<usize>,
    block_bytes: usize,
    block_count: usize,
}

/// Most tensors a group may consist of.
const RUNS_MAX: usize = 4096;
/// Largest chunk, in device blocks.
const BLOCKS_PER_CHUNK_MAX: u32 = 1 << 16;
/// Largest part of one rank: as in `kvstore_types::NamespaceGeometry`.
const RANK_BYTES_MAX: usize = 1 << 34;

impl DeviceGroup {
    /// Checks the runs and lays them out.
    pub fn new(blocks_per_chunk: u32, runs: Vec<PageRun>) -> Result<Self, ClientError> {
        if blocks_per_chunk == 0 || blocks_per_chunk > BLOCKS_PER_CHUNK_MAX {
            let expected = format_args!("1 to {BLOCKS_PER_CHUNK_MAX}");
            return Err(ClientError::range("blocks_per_chunk", expected, blocks_per_chunk));
        }
        if runs.is_empty() || runs.len() > RUNS_MAX {
            return Err(ClientError::range(
                "run_count",
                format_args!("1 to {RUNS_MAX}"),
                runs.len(),
            ));
        }
        let (mut offsets, mut block_bytes, mut block_count) = (Vec::new(), 0_usize, usize::MAX);
        for (index, run) in runs.iter().enumerate() {
            check_run(index, run)?;
            offsets.push(block_bytes);
            block_bytes = block_bytes.saturating_add(run.page_bytes);
            block_count = block_count.min(run.page_count);
        }
        let chunk_bytes = block_bytes.saturating_mul(blocks_per_chunk as usize);
        if chunk_bytes > RANK_BYTES_MAX {
            let expected = format_args!("at most {RANK_BYTES_MAX}");
            return Err(ClientError::range("bytes of a chunk", expected, chunk_bytes));
        }
        Ok(Self {
            blocks_per_chunk,
            runs,
            offsets,
            block_bytes,
            block_count,
        })
    }

    /// Device blocks in a chunk.
    pub fn blocks_per_chunk(&self) -> u32 {
        self.blocks_per_chunk
    }

    /// Bytes of a device block.
    pub fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Bytes of a chunk: of one rank's part of a slot.
    pub fn chunk_bytes(&self) -> u64 {
        self.block_bytes as u64 * u64::from(self.blocks_per_chunk)
    }

    /// Device blocks that every run has a page for.
    pub fn block_count(&self) -> usize {
        self.block_count
    }

    /// The runs.
    pub fn runs(&self) -> &[PageRun] {
        &self.runs
    }

    /// Where a run's page begins in a device block.
    pub fn offset(&self, run: usize) -> usize {
        self.offsets[run]
    }
}

impl PageRun {
    /// One past the last byte of the last page.
    pub fn end(&self) -> usize {
        self.base + (self.page_count - 1) * self.stride_bytes + self.page_bytes
    }
}

fn check_run(index: usize, run: &PageRun) -> Result<(), ClientError> {
    let bad = |what: &str| {
        Err(ClientError::BadArgument(format!(
            "run {index}: {what}, got {run:?}"
        )))
    };
    if run.base == 0 {
        return bad("want a base that is not NULL");
    }
    if run.page_bytes == 0 || run.page_count == 0 {
        return bad("want page_bytes and page_count of at least 1");
    }
    if run.page_count > 1 && run.stride_bytes < run.page_bytes {
        return bad("want stride_bytes of at least page_bytes");
    }
    let length = (run.page_count - 1)
        .checked_mul(run.stride_bytes)
        .and_then(|last| last.checked_add(run.page_bytes));
    let fits = length
        .filter(|length| isize::try_from(*length).is_ok())
        .and_then(|length| run.base.checked_add(length));
    if fits.is_none() {
        return bad("want pages that lie within the address space");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: PageRun = PageRun {
        base: 4096,
        stride_bytes: 128,
        page_bytes: 64,
        page_count: 10,
    };

    #[test]
    fn pages_of_the_runs_lie_behind_each_other() {
        let wide = PageRun {
            page_bytes: 100,
            page_count: 7,
            ..RUN
        };
        let group = DeviceGroup::new(3, vec![RUN, wide, RUN]).unwrap();
        assert_eq!([group.offset(0), group.offset(1), group.offset(2)], [0, 64, 164]);
        assert_eq!(
            (group.block_bytes(), group.chunk_bytes(), group.block_count()),
            (228, 684, 7)
        );
    }

    #[test]
    fn what_cannot_be_addressed_is_refused_and_named() {
        let cases = [
            (1, vec![PageRun { base: 0, ..RUN }], "not NULL"),
            (
                1,
                vec![PageRun { page_bytes: 0, ..RUN }],
                "page_bytes and page_count",
            ),
            (
                1,
                vec![PageRun { page_count: 0, ..RUN }],
                "page_bytes and page_count",
            ),
            (
                1,
                vec![PageRun {
                    stride_bytes: 63,
                    ..RUN
                }],
                "stride_bytes",
            ),
            (
                1,
                vec![PageRun {
                    stride_bytes: usize::MAX / 2,
                    ..RUN
                }],
                "address space",
            ),
            (
                1,
                vec![PageRun {
                    base: usize::MAX - 100,
                    ..RUN
                }],
                "address space",
            ),
            (1, vec![], "run_count: want 1 to 4096, got 0"),
            (0, vec![RUN], "blocks_per_chunk: want 1 to 65536, got 0"),
            (
                65536,
                vec![PageRun {
                    page_bytes: 1 << 20,
                    stride_bytes: 1 << 20,
                    ..RUN
                }],
                "bytes of a chunk",
            ),
        ];
        for (blocks_per_chunk, runs, expected) in cases {
            let error = DeviceGroup::new(blocks_per_chunk, runs).unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} should contain {expected:?}");
        }
    }
}
