//! Transfers by pread and pwrite on a pool of threads, where io_uring is not to be had.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, poll};

use super::backend::{Backend, Completion, Direction, Transfer};
use super::wake::Wake;
use crate::directory::SegmentFile;

/// Most threads: enough to keep a device busy at the block sizes there are.
const THREADS_MAX: usize = 16;

/// The pool.
pub(crate) struct Threads {
    shared: Arc<Shared>,
    wake: Arc<Wake>,
    files: HashMap<u32, Arc<SegmentFile>>,
    pushed: Vec<Work>,
    workers: Vec<JoinHandle<()>>,
}

struct Work {
    transfer: Transfer,
    file: Option<Arc<SegmentFile>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work_came: Condvar,
}

#[derive(Default)]
struct State {
    work: VecDeque<Work>,
    completions: Vec<Completion>,
    ending: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Threads {
    /// Starts the pool for `depth` transfers at a time.
    pub(crate) fn start(depth: usize, name: &str, wake: Arc<Wake>) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let mut pool = Self {
            shared,
            wake,
            files: HashMap::new(),
            pushed: Vec::new(),
            workers: Vec::new(),
        };
        for number in 0..depth.clamp(1, THREADS_MAX) {
            let (shared, wake) = (pool.shared.clone(), pool.wake.clone());
            let builder = thread::Builder::new().name(format!("{name}-{number}"));
            pool.workers.push(builder.spawn(move || work(&shared, &wake))?);
        }
        Ok(pool)
    }
}

impl Backend for Threads {
    fn name(&self) -> &'static str {
        "threads"
    }

    fn depth_max(&self) -> usize {
        self.workers.len()
    }

    fn add_file(&mut self, index: u32, file: Arc<SegmentFile>) {
        self.files.insert(index, file);
    }

    fn remove_file(&mut self, index: u32) {
        self.files.remove(&index);
    }

    unsafe fn push(&mut self, transfer: Transfer) {
        let file = self.files.get(&transfer.file).cloned();
        self.pushed.push(Work { transfer, file });
    }

    fn enter(&mut self, wait: bool) {
        let mut state = self.shared.lock();
        if !self.pushed.is_empty() {
            let count = self.pushed.len();
            state.work.extend(self.pushed.drain(..));
            // As many threads as there is work, not all of them.
            (0..count).for_each(|_| self.shared.work_came.notify_one());
        }
        let nothing_yet = state.completions.is_empty();
        drop(state);
        if wait && nothing_yet {
            // An interrupted or failed poll counts as being woken: the caller looks around and comes back.
            let _ = poll(
                &mut [PollFd::from_borrowed_fd(self.wake.as_fd(), PollFlags::IN)],
                None,
            );
            self.wake.drain();
        }
    }

    fn reap(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.shared.lock().completions);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Every thread ends what it has begun, so no memory is touched afterwards; the rest is not begun.
        let mut state = self.shared.lock();
        state.ending = true;
        state.work.clear();
        drop(state);
        self.shared.work_came.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

fn work(shared: &Shared, wake: &Wake) {
    loop {
        let mut state = shared.lock();
        while state.work.is_empty() && !state.ending {
            state = shared
                .work_came
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let Some(work) = state.work.pop_front() else {
            return;
        };
        drop(state);
        let result = match &work.file {
            Some(file) => carry_out(&work.transfer, file),
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        // The file is let go before the completion is seen, so that whoever removes the segment then frees its space.
        drop(work.file);
        shared.lock().completions.push(Completion {
            token: work.transfer.token,
            result,
        });
        wake.wake();
    }
}

fn carry_out(transfer: &Transfer, file: &SegmentFile) -> io::Result<u32> {
    let (fd, place, bytes) = (file.as_raw_fd(), transfer.place.0, transfer.bytes as usize);
    let offset = libc::off_t::try_from(transfer.offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let moved = match transfer.direction {
        // SAFETY: whoever pushed the transfer vouches for the bytes until its completion, which comes after this.
        Direction::Read => unsafe { libc::pread(fd, place.cast(), bytes, offset) },
        // SAFETY: as above.
        Direction::Write => unsafe { libc::pwrite(fd, place.cast(), bytes, offset) },
    };
    u32::try_from(moved).map_err(|_| io::Error::last_os_error())
}
