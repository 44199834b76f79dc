//! How the I/O thread is woken from its sleep.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{read, write};

/// An eventfd, written only while its owner is asleep, so that giving orders to a busy thread costs no system call.
///
/// Both sides say what they do before they look at the other: the sleeper announces its sleep and then looks for work, the
/// waker leaves its work and then looks for a sleeper. So at least one of them sees the other.
#[derive(Debug)]
pub(crate) struct Wake {
    fd: OwnedFd,
    asleep: AtomicBool,
}

impl Wake {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            fd,
            asleep: AtomicBool::new(false),
        })
    }

    /// Wakes the owner if it sleeps. Called after the work was left for it.
    pub(crate) fn wake(&self) {
        // SYNC(sleep announced): pairs with the fence in `announce_sleep`.
        fence(Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // It can only fail when the counter is full, and then the owner is being woken already.
            let _ = write(&self.fd, &1_u64.to_ne_bytes());
        }
    }

    /// Called by the owner, which then looks for work once more and sleeps if there is none.
    pub(crate) fn announce_sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        // SYNC(sleep announced): pairs with the fence in `wake`.
        fence(Ordering::SeqCst);
    }

    /// Called by the owner when it is awake again.
    pub(crate) fn rise(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Takes the signal out, so that the next one is noticed.
    pub(crate) fn drain(&self) {
        let mut counter = [0_u8; 8];
        // Nothing to take out is fine: a signal may have been taken before.
        let _ = read(&self.fd, &mut counter);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
