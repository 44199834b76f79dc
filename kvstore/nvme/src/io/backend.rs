//! What moves bytes between memory and segment files. This is the seam where tests put a device that lies.

use std::io;
use std::sync::Arc;

use crate::directory::SegmentFile;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the file to memory.
    Read,
    /// From memory to the file.
    Write,
}

/// An address that belongs to the transfer that names it, until its completion has been reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(pub(crate) *mut u8);

// SAFETY: a place is only an address. Whoever pushes a transfer vouches for the bytes behind it.
unsafe impl Send for Place {}

/// One read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    /// Comes back with the completion. `u64::MAX` is not used.
    pub(crate) token: u64,
    /// Which way.
    pub(crate) direction: Direction,
    /// The segment.
    pub(crate) file: u32,
    /// Where in its file.
    pub(crate) offset: u64,
    /// Where in memory.
    pub(crate) place: Place,
    /// How many.
    pub(crate) bytes: u32,
}

/// The end of a transfer: the memory is the caller's again.
#[derive(Debug)]
pub(crate) struct Completion {
    /// Of which transfer.
    pub(crate) token: u64,
    /// How many bytes were moved, or why none.
    pub(crate) result: Result<u32, io::Error>,
}

/// Carries out transfers, many at a time, in no order. Used by one thread; files come and go while it runs. Dropping it
/// waits until no transfer uses memory any more.
pub(crate) trait Backend {
    /// Its name in logs and metrics.
    fn name(&self) -> &'static str;

    /// Most transfers that can be under way.
    fn depth_max(&self) -> usize;

    /// From now on transfers may name this segment.
    fn add_file(&mut self, index: u32, file: Arc<SegmentFile>);

    /// No transfer names this segment any more; its file is let go.
    fn remove_file(&mut self, index: u32);

    /// Takes a transfer; it begins at the latest with the next [`enter`](Self::enter). One that names a segment without a
    /// file ends with an error.
    ///
    /// # Safety
    /// The bytes at the transfer's place stay mapped, and nobody relies on their value, until its completion was reaped.
    unsafe fn push(&mut self, transfer: Transfer);

    /// Hands what was pushed to the kernel. With `wait`, returns when there is a completion to reap or the thread was
    /// woken.
    fn enter(&mut self, wait: bool);

    /// Takes the completions there are.
    fn reap(&mut self, completions: &mut Vec<Completion>);

    /// Does one piece of what makes transfers cheaper and can be done at any time; says whether there was one.
    fn prepare_memory(&mut self) -> bool {
        false
    }

    /// Bytes of memory that transfers need not look up any more.
    fn registered_bytes(&self) -> u64 {
        0
    }
}

/// Takes the place of a backend that must not be used any more.
pub(crate) struct NoBackend;

impl Backend for NoBackend {
    fn name(&self) -> &'static str {
        "none"
    }

    fn depth_max(&self) -> usize {
        0
    }

    fn add_file(&mut self, _: u32, _: Arc<SegmentFile>) {}

    fn remove_file(&mut self, _: u32) {}

    unsafe fn push(&mut self, _: Transfer) {}

    fn enter(&mut self, _: bool) {}

    fn reap(&mut self, _: &mut Vec<Completion>) {}
}
