//! Who is at the other end of a socket, and how to know for certain that it is dead.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    time::{Duration, Instant},
};

use rustix::{
    fs::{fstat, fstatfs},
    io::Errno,
    net::{RecvFlags, recv},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::doorbell::poll_readable;

/// `f_type` of the filesystem pidfds live in since Linux 6.9, where an inode names one process for ever.
const PIDFS_MAGIC: i64 = 0x5049_4446;

/// The peer of a unix socket, as it was when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Its process id as this process sees it; `None` if it lives in a pid namespace that cannot be seen from here.
    pub pid: Option<u32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

/// How a handle to a process was got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PidfdSource {
    /// `SO_PEERPIDFD`: it is the process that connected.
    Socket,
    /// `pidfd_open` of the pid that connected: another process if that pid was used again before the call.
    Pid,
}

/// Why there is no handle to the peer's process.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The process is dead already.
    #[error("the peer's process is gone")]
    Gone,
    /// The kernel has no `SO_PEERPIDFD` (Linux 6.5) and the pid is not visible from here.
    #[error(
        "the peer's process cannot be seen from this pid namespace: want Linux 6.5 or the host's pid namespace"
    )]
    Invisible,
    /// The kernel refused.
    #[error("could not {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A handle to a process that becomes readable when the process is dead: all its memory is unmapped and all its
/// files, those of device drivers included, are closed then.
#[derive(Debug)]
pub struct PeerProcess {
    pidfd: OwnedFd,
    pid: Option<u32>,
    source: PidfdSource,
}

/// Who connected (`SO_PEERCRED`).
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<PeerCredentials> {
    let peer: libc::ucred = socket_option(socket, libc::SO_PEERCRED)?;
    // A peer whose pid namespace is not below ours shows the pid 0.
    Ok(PeerCredentials {
        pid: u32::try_from(peer.pid).ok().filter(|&pid| pid != 0),
        uid: peer.uid,
        gid: peer.gid,
    })
}

/// Whether the peer has closed its end, without taking anything out of the socket.
pub fn hung_up(socket: BorrowedFd<'_>) -> io::Result<bool> {
    match recv(socket, &mut [0_u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Ok((_, count)) => Ok(count == 0),
        Err(Errno::AGAIN | Errno::INTR) => Ok(false),
        Err(Errno::CONNRESET | Errno::PIPE) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

impl PeerProcess {
    /// The process that connected to `socket`.
    pub fn of_socket(socket: BorrowedFd<'_>) -> Result<Self, PeerError> {
        let io = |what| move |source| PeerError::Io { what, source };
        let pid = peer_credentials(socket)
            .map_err(io("read the peer's credentials"))?
            .pid;
        match socket_option::<libc::c_int>(socket, libc::SO_PEERPIDFD) {
            Ok(pidfd) => {
                // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
                let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
                Ok(Self {
                    pidfd,
                    pid,
                    source: PidfdSource::Socket,
                })
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Self::of_pid(pid),
            // A peer that has been reaped: ESRCH, and EINVAL before Linux 6.16.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL)) => {
                Err(PeerError::Gone)
            }
            Err(source) => Err(io("open the peer's pidfd")(source)),
        }
    }

    /// The fallback for kernels without `SO_PEERPIDFD`.
    fn of_pid(pid: Option<u32>) -> Result<Self, PeerError> {
        let raw = pid
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
            .ok_or(PeerError::Invisible)?;
        match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self {
                pidfd,
                pid,
                source: PidfdSource::Pid,
            }),
            Err(Errno::SRCH) => Err(PeerError::Gone),
            Err(error) => Err(PeerError::Io {
                what: "open the peer's pid",
                source: error.into(),
            }),
        }
    }

    /// Its pid when it connected, for people. Never decide by it.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// How the handle was got.
    pub fn source(&self) -> PidfdSource {
        self.source
    }

    /// Whether the process is dead.
    pub fn is_dead(&self) -> io::Result<bool> {
        self.wait_dead(Duration::ZERO)
    }

    /// Waits until the process is dead, or `timeout` is over (`false`).
    pub fn wait_dead(&self, timeout: Duration) -> io::Result<bool> {
        poll_readable(self.pidfd.as_fd(), Instant::now().checked_add(timeout))
    }

    /// Whether both handles name one process. `false` is always a safe answer: each handle proves a death by itself.
    pub fn is_same(&self, other: &Self) -> io::Result<bool> {
        if let (Some(own), Some(others)) = (self.inode()?, other.inode()?) {
            return Ok(own == others);
        }
        // Older kernels: a pid belongs to one process for as long as that process lives.
        let one_pid = self.pid.is_some() && self.pid == other.pid;
        Ok(one_pid && !self.is_dead()? && !other.is_dead()?)
    }

    fn inode(&self) -> io::Result<Option<u64>> {
        if fstatfs(&self.pidfd)?.f_type != PIDFS_MAGIC {
            return Ok(None);
        }
        Ok(Some(fstat(&self.pidfd)?.st_ino))
    }
}

impl AsFd for PeerProcess {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl AsRawFd for PeerProcess {
    fn as_raw_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }
}

/// A plain-old-data socket option, for those that rustix has no call for (and `SO_PEERCRED`, whose pid rustix takes
/// to be never 0).
fn socket_option<T: Copy>(socket: BorrowedFd<'_>, name: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::uninit();
    let mut length = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes into `value`, which has that many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            value.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if length as usize != size_of::<T>() {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    // SAFETY: the kernel has written all bytes, as just checked; both types asked for (a struct of integers and an
    // integer) may hold any bits.
    Ok(unsafe { value.assume_init() })
}

#[cfg(test)]
mod tests;
