//! Transfers by io_uring.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use io_uring::squeue::Entry;
use io_uring::{IoUring, Probe, opcode, types};
use tracing::{info, warn};

use super::backend::{Backend, Completion, Direction, Transfer};
use super::wake::Wake;
use crate::Memory;
use crate::directory::SegmentFile;

/// Memory is registered in pieces of this size, so that registering one keeps the thread from its work only shortly.
const PIECE_BYTES: usize = 256 << 20;
/// Most pieces the kernel takes.
const PIECES_MAX: usize = 16_384;
/// The completion of the poll that notices a wake-up.
const WAKE_TOKEN: u64 = u64::MAX;

/// The entry for a transfer of a file that is named by number in the kernel's table, or by descriptor.
macro_rules! build {
    ($fd:expr, $transfer:expr, $piece:expr) => {{
        let (place, bytes, offset) = ($transfer.place.0, $transfer.bytes, $transfer.offset);
        match ($transfer.direction, $piece) {
            (Direction::Read, Some(piece)) => opcode::ReadFixed::new($fd, place, bytes, piece)
                .offset(offset)
                .build(),
            (Direction::Read, None) => opcode::Read::new($fd, place, bytes).offset(offset).build(),
            (Direction::Write, Some(piece)) => opcode::WriteFixed::new($fd, place, bytes, piece)
                .offset(offset)
                .build(),
            (Direction::Write, None) => opcode::Write::new($fd, place, bytes).offset(offset).build(),
        }
    }};
}

/// A ring of one thread.
pub(crate) struct Uring {
    ring: IoUring,
    wake: Arc<Wake>,
    files: HashMap<u32, Arc<SegmentFile>>,
    /// Segments below this number have a place in the kernel's table of files. The last place is the lock's.
    files_registered: u32,
    files_max: u32,
    pieces: Pieces,
    depth: usize,
    under_way: usize,
    completions: Vec<Completion>,
    /// Whether the poll on `wake` is under way.
    listening: bool,
    complained: bool,
}

/// Which parts of memory the kernel has pinned, so that a transfer need not do it.
struct Pieces {
    memory: Arc<Memory>,
    piece_bytes: usize,
    /// Pieces from the start that are registered.
    registered: usize,
    /// Pieces there will be, fewer if the kernel refuses.
    count: usize,
}

impl Pieces {
    fn new(memory: Arc<Memory>, piece_bytes: usize) -> Self {
        let piece_bytes = piece_bytes.max(memory.bytes().div_ceil(PIECES_MAX).next_multiple_of(4096));
        let count = memory.bytes().div_ceil(piece_bytes);
        Self {
            memory,
            piece_bytes,
            registered: 0,
            count,
        }
    }

    fn range(&self, index: usize) -> (usize, usize) {
        let start = index * self.piece_bytes;
        (start, self.piece_bytes.min(self.memory.bytes() - start))
    }

    /// The registered piece that all of a transfer's memory lies in.
    fn find(&self, transfer: &Transfer) -> Option<u16> {
        let offset = (transfer.place.0 as usize).checked_sub(self.memory.base() as usize)?;
        let end = offset.checked_add(transfer.bytes as usize)?;
        // Beyond the memory lies whatever else is mapped there, a buffer of ours perhaps.
        if end > self.memory.bytes() || transfer.bytes == 0 {
            return None;
        }
        let (first, last) = (offset / self.piece_bytes, (end - 1) / self.piece_bytes);
        if first != last || first >= self.registered {
            return None;
        }
        u16::try_from(first).ok()
    }
}

/// Why there is no ring, for people.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoUring {
    #[error("io_uring is forbidden here (by a container's seccomp profile or kernel.io_uring_disabled)")]
    Forbidden,
    #[error("this kernel has no io_uring")]
    Missing,
    #[error("this kernel's io_uring lacks {0}")]
    Lacks(&'static str),
    #[error("could not make a ring: {0}")]
    Other(io::Error),
}

impl From<io::Error> for NoUring {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden,
            Some(libc::ENOSYS) => Self::Missing,
            _ => Self::Other(error),
        }
    }
}

impl Uring {
    /// A ring for `depth` transfers at a time and `files_max` segments, used by the calling thread only.
    pub(crate) fn start(
        depth: usize,
        files_max: u32,
        memory: Arc<Memory>,
        wake: Arc<Wake>,
    ) -> Result<Self, NoUring> {
        Self::with_pieces(depth, files_max, Pieces::new(memory, PIECE_BYTES), wake)
    }

    /// The same with smaller pieces of memory.
    #[cfg(test)]
    pub(crate) fn with_piece_bytes(
        depth: usize,
        files_max: u32,
        memory: Arc<Memory>,
        wake: Arc<Wake>,
        piece_bytes: usize,
    ) -> Result<Self, NoUring> {
        Self::with_pieces(depth, files_max, Pieces::new(memory, piece_bytes), wake)
    }

    fn with_pieces(
        depth: usize,
        files_max: u32,
        mut pieces: Pieces,
        wake: Arc<Wake>,
    ) -> Result<Self, NoUring> {
        let entries = u32::try_from(depth + 1).unwrap_or(u32::MAX).next_power_of_two();
        let ring = make_ring(entries)?;
        check_operations(&ring)?;
        let files_registered = match ring
            .submitter()
            .register_files_sparse(files_max.saturating_add(1))
        {
            Ok(()) => files_max,
            Err(error) => {
                info!(%error, "files are not registered with io_uring");
                0
            }
        };
        let count = u32::try_from(pieces.count).unwrap_or(u32::MAX);
        if let Err(error) = ring.submitter().register_buffers_sparse(count) {
            info!(%error, "memory is not registered with io_uring");
            pieces.count = 0;
        }
        Ok(Self {
            ring,
            wake,
            files: HashMap::new(),
            files_registered,
            files_max,
            pieces,
            depth,
            under_way: 0,
            completions: Vec::new(),
            listening: false,
            complained: false,
        })
    }

    /// Gives the kernel a hold on the directory's lock for as long as the ring lives. A killed process is gone before its
    /// last transfers are: the kernel ends them, and then the ring, on its own. With this hold the directory stays locked
    /// until then, so that nobody meets a late write.
    pub(crate) fn hold(&mut self, lock: BorrowedFd<'_>) {
        if self.files_registered < self.files_max {
            return;
        }
        let (place, fd) = (self.files_max, lock.as_raw_fd());
        if let Err(error) = self.ring.submitter().register_files_update(place, &[fd]) {
            warn!(%error, "the lock is not registered with io_uring: after a kill it may be free too early");
        }
    }

    fn entry(&self, transfer: &Transfer) -> Option<Entry> {
        let file = self.files.get(&transfer.file)?;
        let entry = if transfer.file < self.files_registered {
            build!(types::Fixed(transfer.file), transfer, self.pieces.find(transfer))
        } else {
            build!(types::Fd(file.as_raw_fd()), transfer, self.pieces.find(transfer))
        };
        Some(entry.user_data(transfer.token))
    }

    /// Puts an entry where the kernel looks for them.
    fn put(&mut self, entry: &Entry) {
        loop {
            // SAFETY: the entry is the poll on `wake`, which lives as long as the ring, or a transfer, whose memory its
            // pusher vouches for until it is reaped; dropping the ring waits for that.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return;
            }
            self.submit(0);
        }
    }

    fn listen(&mut self) {
        if !self.listening {
            let fd = types::Fd(self.wake.as_fd().as_raw_fd());
            let events = u32::try_from(libc::POLLIN).unwrap_or(0);
            self.put(&opcode::PollAdd::new(fd, events).build().user_data(WAKE_TOKEN));
            self.listening = true;
        }
    }

    fn submit(&mut self, want: usize) {
        match self.ring.submitter().submit_and_wait(want) {
            Ok(_) => {}
            // A signal came, or the kernel is short of memory or of room for completions: the caller reaps what there
            // is and comes back.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR)) => {}
            Err(error) => {
                // Nothing can be taken back that was given to the kernel, so there is nothing to do but try again.
                if !self.complained {
                    warn!(%error, "io_uring did not take what it was given; trying again");
                    self.complained = true;
                }
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }

    /// Takes completions out of the ring.
    fn collect(&mut self) {
        let mut woken = false;
        for entry in self.ring.completion() {
            if entry.user_data() == WAKE_TOKEN {
                woken = true;
                continue;
            }
            self.under_way -= 1;
            let result = u32::try_from(entry.result())
                .map_err(|_| io::Error::from_raw_os_error(entry.result().saturating_neg()));
            self.completions.push(Completion {
                token: entry.user_data(),
                result,
            });
        }
        if woken {
            self.wake.drain();
            self.listening = false;
        }
    }
}

impl Backend for Uring {
    fn name(&self) -> &'static str {
        "io-uring"
    }

    fn depth_max(&self) -> usize {
        self.depth
    }

    fn add_file(&mut self, index: u32, file: Arc<SegmentFile>) {
        self.update_file(index, file.as_raw_fd());
        self.files.insert(index, file);
    }

    fn remove_file(&mut self, index: u32) {
        // What was pushed for it has been handed over and has its own hold on the file.
        self.enter(false);
        self.update_file(index, -1);
        self.files.remove(&index);
    }

    unsafe fn push(&mut self, transfer: Transfer) {
        match self.entry(&transfer) {
            Some(entry) => {
                self.under_way += 1;
                self.put(&entry);
            }
            None => self.completions.push(Completion {
                token: transfer.token,
                result: Err(io::Error::from(io::ErrorKind::NotFound)),
            }),
        }
    }

    fn enter(&mut self, wait: bool) {
        self.collect();
        if wait && self.completions.is_empty() {
            self.listen();
            self.submit(1);
        } else {
            let submission = self.ring.submission();
            if !submission.is_empty() || submission.taskrun() || submission.cq_overflow() {
                drop(submission);
                self.submit(0);
            }
        }
        self.collect();
    }

    fn reap(&mut self, completions: &mut Vec<Completion>) {
        completions.append(&mut self.completions);
    }

    fn prepare_memory(&mut self) -> bool {
        let index = self.pieces.registered;
        if index >= self.pieces.count {
            return false;
        }
        let (start, bytes) = self.pieces.range(index);
        let base = self.pieces.memory.base().wrapping_add(start);
        let vector = libc::iovec {
            iov_base: base.cast(),
            iov_len: bytes,
        };
        let slot = u32::try_from(index).unwrap_or(u32::MAX);
        // SAFETY: the bytes are mapped as long as `pieces.memory` lives, which is dropped after the ring.
        match unsafe {
            self.ring
                .submitter()
                .register_buffers_update(slot, &[vector], None)
        } {
            Ok(()) => self.pieces.registered += 1,
            Err(error) => {
                let registered_bytes = self.registered_bytes();
                let memory_bytes = self.pieces.memory.bytes();
                info!(
                    %error,
                    registered_bytes,
                    memory_bytes,
                    "the rest of the memory is not registered with io_uring; a higher limit of locked memory helps"
                );
                self.pieces.count = index;
            }
        }
        index < self.pieces.count
    }

    fn registered_bytes(&self) -> u64 {
        (self.pieces.registered * self.pieces.piece_bytes).min(self.pieces.memory.bytes()) as u64
    }
}

impl Uring {
    fn update_file(&mut self, index: u32, fd: RawFd) {
        if index >= self.files_registered {
            return;
        }
        if let Err(error) = self.ring.submitter().register_files_update(index, &[fd]) {
            info!(%error, segment = index, "files from this one on are not registered with io_uring");
            self.files_registered = index;
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // The kernel may write to the memory of what is under way until its completion comes.
        while self.under_way > 0 {
            self.submit(1);
            self.collect();
        }
        // The rest of the ring ends when the kernel finds the time; the lock need not wait for it.
        if self.files_registered == self.files_max {
            let _ = self.ring.submitter().register_files_update(self.files_max, &[-1]);
        }
    }
}

/// A ring with as much of what makes it cheap as this kernel has.
fn make_ring(entries: u32) -> io::Result<IoUring> {
    let deferred = IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .build(entries);
    let cooperative = |_| {
        IoUring::builder()
            .setup_coop_taskrun()
            .setup_taskrun_flag()
            .build(entries)
    };
    let plain = |_| IoUring::builder().build(entries);
    deferred.or_else(cooperative).or_else(plain)
}

fn check_operations(ring: &IoUring) -> Result<(), NoUring> {
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    for (code, name) in [
        (opcode::Read::CODE, "read"),
        (opcode::Write::CODE, "write"),
        (opcode::ReadFixed::CODE, "read into registered memory"),
        (opcode::WriteFixed::CODE, "write from registered memory"),
        (opcode::PollAdd::CODE, "poll"),
    ] {
        if !probe.is_supported(code) {
            return Err(NoUring::Lacks(name));
        }
    }
    Ok(())
}
