//! The backend whose device is this process's own memory.

use std::collections::VecDeque;
use std::time::Duration;

use super::workers::Workers;
use super::{
    After, CopyJob, CopyLoop, CopyOutcome, CopyResult, DeviceCopy, Direction, JOBS_MAX, THREADS_MAX,
};
use crate::ClientError;

/// Copies with the CPU, in the caller's thread or in threads of its own.
pub struct HostCopy {
    mode: Mode,
}

enum Mode {
    /// Copies run inside `submit`.
    Inline {
        copy_loop: CopyLoop,
        done: VecDeque<CopyResult>,
    },
    /// Copies run in threads named `kvt-copy-<n>`.
    Threads(Workers),
}

impl HostCopy {
    /// Starts `threads` threads; 0 means that copies run in the caller's.
    pub fn new(threads: usize) -> Result<Self, ClientError> {
        if threads > THREADS_MAX {
            return Err(ClientError::range(
                "threads",
                format_args!("at most {THREADS_MAX}"),
                threads,
            ));
        }
        let copy_loop = CopyLoop::detect();
        let mode = if threads == 0 {
            Mode::Inline {
                copy_loop,
                done: VecDeque::new(),
            }
        } else {
            Mode::Threads(Workers::start(threads, copy_loop)?)
        };
        Ok(Self { mode })
    }
}

impl DeviceCopy for HostCopy {
    fn submit(&mut self, job: CopyJob, after: After) -> Result<(), ClientError> {
        if matches!(after, After::Stream(_) | After::Event(_)) {
            return Err(ClientError::BadArgument(
                "copies by the CPU know no streams or events".to_owned(),
            ));
        }
        if self.uncollected() >= JOBS_MAX {
            return Err(ClientError::QueueFull {
                queue: "the copier's queue",
                wanted: 1,
                unit: "batches",
            });
        }
        match &mut self.mode {
            Mode::Inline { copy_loop, done } => {
                copy_pages(*copy_loop, &job, 0..job.page_count());
                done.push_back(CopyResult {
                    tag: job.tag(),
                    outcome: CopyOutcome::Done,
                    bytes: job.bytes(),
                });
            }
            Mode::Threads(workers) => workers.submit(job),
        }
        Ok(())
    }

    fn poll(&mut self) -> Option<CopyResult> {
        match &mut self.mode {
            Mode::Inline { done, .. } => done.pop_front(),
            Mode::Threads(workers) => workers.poll(),
        }
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        match &mut self.mode {
            Mode::Inline { done, .. } => !done.is_empty(),
            Mode::Threads(workers) => workers.wait(timeout),
        }
    }

    fn uncollected(&self) -> usize {
        match &self.mode {
            Mode::Inline { done, .. } => done.len(),
            Mode::Threads(workers) => workers.uncollected(),
        }
    }
}

/// Copies a range of a batch's pages and makes them visible.
pub(super) fn copy_pages(copy_loop: CopyLoop, job: &CopyJob, pages: std::ops::Range<usize>) {
    let batch_bytes = job.bytes();
    job.for_each_piece(pages, |piece| {
        let stores = copy_loop.choose(job.direction(), batch_bytes, piece.bytes);
        let (source, target) = match job.direction() {
            Direction::Store => (piece.device, piece.slot),
            Direction::Load => (piece.slot, piece.device),
        };
        // SAFETY: the batch was checked to lie within device pages and region, which are apart; that nobody else
        // touches them is promised by the caller of `Copier::set_group` and by the lease or reservation on the slot.
        unsafe { copy_loop.copy(stores, source, target, piece.bytes) };
    });
    copy_loop.fence();
}
