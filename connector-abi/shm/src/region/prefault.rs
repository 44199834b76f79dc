//! Touching every page of a region before the first client does, so that its cost sits on the daemon's cgroup and
//! no store ever finds the memory exhausted (which the kernel answers with a signal).

use std::{
    io,
    num::NonZeroUsize,
    ops::ControlFlow,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

use memmap2::Advice;

use super::Region;

/// Bytes one thread touches at a time: small enough for progress, a multiple of every page size.
const PIECE_BYTES: usize = 64 << 20;

/// How to prefault.
pub struct Prefault<'a> {
    /// Threads that touch pages.
    pub threads: NonZeroUsize,
    /// Told, from any of the threads, how many bytes have been touched so far; may stop the work.
    pub progress: &'a (dyn Fn(u64) -> ControlFlow<()> + Sync),
}

/// Why a region is not prefaulted.
#[derive(Debug, thiserror::Error)]
pub enum PrefaultError {
    /// The kernel has not as many pages as the region needs.
    #[error("the kernel gave only {touched} of the region's {bytes} bytes")]
    Memory {
        /// Bytes touched before.
        touched: u64,
        /// Bytes of the region.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("could not start a thread to touch pages")]
    Thread(#[source] io::Error),
    /// The progress function said so.
    #[error("stopped after {touched} of the region's {bytes} bytes")]
    Stopped {
        /// Bytes touched before.
        touched: u64,
        /// Bytes of the region.
        bytes: u64,
    },
}

impl Region {
    /// Touches every page, in parallel. Blocks until done.
    pub fn prefault(&self, how: &Prefault<'_>) -> Result<(), PrefaultError> {
        let work = Work {
            region: self,
            next: AtomicUsize::new(0),
            touched: AtomicU64::new(0),
            failure: Mutex::new(None),
        };
        thread::scope(|scope| {
            for index in 0..how.threads.get() {
                let builder = thread::Builder::new().name(format!("kvt-prefault-{index}"));
                if let Err(error) = builder.spawn_scoped(scope, || work.run(how.progress)) {
                    work.fail(PrefaultError::Thread(error));
                }
            }
        });
        work.failure
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or(Ok(()), Err)
    }
}

struct Work<'a> {
    region: &'a Region,
    next: AtomicUsize,
    touched: AtomicU64,
    failure: Mutex<Option<PrefaultError>>,
}

impl Work<'_> {
    fn run(&self, progress: &(dyn Fn(u64) -> ControlFlow<()> + Sync)) {
        let bytes = self.region.map.len();
        loop {
            let offset = self.next.fetch_add(PIECE_BYTES, Ordering::Relaxed);
            if offset >= bytes {
                return;
            }
            let length = PIECE_BYTES.min(bytes - offset);
            if let Err(source) = self.touch(offset, length) {
                let touched = self.touched.load(Ordering::Relaxed);
                return self.fail(PrefaultError::Memory {
                    touched,
                    bytes: bytes as u64,
                    source,
                });
            }
            let touched = self.touched.fetch_add(length as u64, Ordering::Relaxed) + length as u64;
            if progress(touched).is_break() {
                return self.fail(PrefaultError::Stopped {
                    touched,
                    bytes: bytes as u64,
                });
            }
        }
    }

    fn touch(&self, offset: usize, length: usize) -> io::Result<()> {
        match self
            .region
            .map
            .advise_range(Advice::PopulateWrite, offset, length)
        {
            // Kernels before 5.14 do not know the advice.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.touch_each_page(offset, length);
                Ok(())
            }
            result => result,
        }
    }

    fn touch_each_page(&self, offset: usize, length: usize) {
        for at in (offset..offset + length).step_by(4096) {
            let place = self.region.base().wrapping_add(at);
            // SAFETY: in the mapping, and accessed atomically, so it disturbs nobody who writes there already.
            let byte = unsafe { AtomicU8::from_ptr(place) };
            byte.fetch_or(0, Ordering::Relaxed);
        }
    }

    /// Keeps the first failure and leaves no work to the other threads.
    fn fail(&self, error: PrefaultError) {
        self.next.store(self.region.map.len(), Ordering::Relaxed);
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }
}
