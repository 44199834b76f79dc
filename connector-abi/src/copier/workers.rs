//! Threads that share batches of copies.
//!
//! ```text
//! submit ─▶ [job][job]...  each thread takes the next range of the front job's pages, until none is left
//!                │ last range done
//!                ▼
//! poll   ◀─ [result][result]...
//! ```
//!
//! Batches and results together are bounded by the caller ([`super::JOBS_MAX`]). Threads without work sleep.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::host::copy_pages;
use super::{CopyJob, CopyLoop, CopyOutcome, CopyResult};
use crate::ClientError;
use crate::guest::spawn_guest;

/// What a thread takes at a time, in bytes: long enough (about 100 µs) that taking costs nothing, short enough that
/// threads end together.
const RANGE_BYTES: u64 = 1 << 20;

/// The threads and what they share.
pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// There is work, or the end has come.
    work: Condvar,
    /// There is a result.
    done: Condvar,
    copy_loop: CopyLoop,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Arc<Batch>>,
    /// Pages of the front batch that a thread has taken.
    pages_taken: usize,
    results: VecDeque<CopyResult>,
    uncollected: usize,
    ending: bool,
}

struct Batch {
    job: CopyJob,
    progress: Mutex<Progress>,
}

struct Progress {
    pages_left: usize,
    outcome: CopyOutcome,
}

impl Workers {
    pub(super) fn start(count: usize, copy_loop: CopyLoop) -> Result<Self, ClientError> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            copy_loop,
        });
        let mut workers = Self {
            shared: Arc::clone(&shared),
            threads: Vec::new(),
        };
        for index in 0..count {
            let shared = Arc::clone(&shared);
            let thread = spawn_guest(format!("kvt-copy-{index}"), move || shared.run());
            // Dropping `workers` on an error ends the threads that were started.
            workers.threads.push(thread.map_err(|source| ClientError::Io {
                what: "start a copy thread",
                source,
            })?);
        }
        Ok(workers)
    }

    pub(super) fn submit(&self, job: CopyJob) {
        let pages_left = job.page_count();
        let result = CopyResult {
            tag: job.tag(),
            outcome: CopyOutcome::Done,
            bytes: 0,
        };
        let mut state = self.shared.lock();
        state.uncollected += 1;
        if pages_left == 0 {
            state.results.push_back(result);
            return;
        }
        state.queue.push_back(Arc::new(Batch {
            job,
            progress: Mutex::new(Progress {
                pages_left,
                outcome: CopyOutcome::Done,
            }),
        }));
        drop(state);
        self.shared.work.notify_all();
    }

    pub(super) fn poll(&self) -> Option<CopyResult> {
        let mut state = self.shared.lock();
        let result = state.results.pop_front()?;
        state.uncollected -= 1;
        Some(result)
    }

    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.shared.lock();
        while state.results.is_empty() && state.uncollected > 0 {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                break;
            }
            let left = left.unwrap_or(Duration::from_hours(1));
            (state, _) = self
                .shared
                .done
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        !state.results.is_empty()
    }

    pub(super) fn uncollected(&self) -> usize {
        self.shared.lock().uncollected
    }
}

impl Drop for Workers {
    /// Waits for all batches: memory that a copy uses belongs to the copy until it is done.
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            // A thread cannot panic outside `catch_unwind`; if it did all the same, there is nobody to tell.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while let Some((batch, pages)) = self.take() {
            let count = pages.len();
            let copy = || copy_pages(self.copy_loop, &batch.job, pages);
            let panicked = catch_unwind(AssertUnwindSafe(copy)).is_err();
            self.finish(&batch, count, panicked);
        }
    }

    /// The next range of pages, or `None` once all is done and the end has come.
    fn take(&self) -> Option<(Arc<Batch>, Range<usize>)> {
        let mut state = self.lock();
        loop {
            if let Some(front) = state.queue.front() {
                let batch = Arc::clone(front);
                let count = batch.job.page_count();
                let first = state.pages_taken;
                let last = count.min(first + pages_per_range(&batch.job));
                state.pages_taken = last;
                if last == count {
                    state.queue.pop_front();
                    state.pages_taken = 0;
                }
                return Some((batch, first..last));
            }
            if state.ending {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn finish(&self, batch: &Batch, pages: usize, panicked: bool) {
        let mut progress = batch.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.pages_left -= pages;
        if panicked {
            progress.outcome = CopyOutcome::Panicked;
        }
        if progress.pages_left > 0 {
            return;
        }
        let result = CopyResult {
            tag: batch.job.tag(),
            outcome: progress.outcome,
            bytes: batch.job.bytes(),
        };
        drop(progress);
        self.lock().results.push_back(result);
        self.done.notify_all();
    }
}

fn pages_per_range(job: &CopyJob) -> usize {
    let page_bytes = (job.bytes() / job.page_count().max(1) as u64).max(1);
    usize::try_from(RANGE_BYTES / page_bytes).map_or(1, |pages| pages.max(1))
}
