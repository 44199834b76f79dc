//! Good manners inside somebody else's process.

use std::io;
use std::mem::MaybeUninit;
use std::thread::JoinHandle;

/// Starts a thread in which all signals are blocked, so that the host's handlers keep running in the host's threads.
pub(crate) fn spawn_guest(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let before = block_signals();
    let thread = std::thread::Builder::new().name(name).spawn(body);
    if let Some(before) = before {
        // SAFETY: `before` is the mask this thread had; the old one is not asked for.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    }
    thread
}

/// Blocks all signals in this thread; threads it starts inherit that. The mask from before, if that worked.
fn block_signals() -> Option<libc::sigset_t> {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: writes a whole set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    // SAFETY: `all` is a set; `before` is written if the call succeeds.
    let status = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) };
    // SAFETY: the call succeeded, so the set was written.
    (status == 0).then(|| unsafe { before.assume_init() })
}

/// Remembers the process an object was made in. A forked child has a copy of the object but not its threads and
/// mappings, and must not speak for its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HomeProcess(rustix::process::Pid);

impl HomeProcess {
    /// This process.
    pub(crate) fn current() -> Self {
        Self(rustix::process::getpid())
    }

    /// Whether this is still that process.
    pub(crate) fn is_here(self) -> bool {
        self == Self::current()
    }
}

/// Random bytes from the kernel. Before its pool is ready, at the very start of a machine, this blocks for a moment.
pub(crate) fn random_bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}
