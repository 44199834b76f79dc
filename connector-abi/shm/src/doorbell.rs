//! What wakes a side that sleeps: one end of a pair of connected sockets.
//!
//! Not an eventfd, because both processes share an eventfd's file status flags: a client could clear `O_NONBLOCK`,
//! fill the counter, and so make the daemon's next ring block for ever. `MSG_DONTWAIT` holds for one call whatever
//! the peer does to the socket. Each side holds its own end, so a peer that dies is seen here, too.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};

/// Bytes taken out at once. An honest peer leaves one for each sleep.
const DRAIN_BYTES: usize = 64;

/// One side's doorbell: rings the peer, and is rung by it.
#[derive(Debug)]
pub struct Doorbell {
    socket: OwnedFd,
}

/// Why a doorbell does not work any more. The session is over.
#[derive(Debug, thiserror::Error)]
pub enum DoorbellError {
    /// The peer has closed its end, or is dead.
    #[error("the peer has closed its doorbell")]
    PeerGone,
    /// The kernel refused.
    #[error("the doorbell does not work")]
    Io(#[source] io::Error),
}

/// Why [`Doorbell::wait`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The peer rang.
    Rung,
    /// The time is over.
    TimedOut,
}

impl Doorbell {
    /// Makes two connected doorbells, one for each side. They are not inherited over `exec`.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, two) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok((Self { socket: one }, Self { socket: two }))
    }

    /// Another handle to the same end, for whoever waits on it.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.try_clone()?,
        })
    }

    /// Wakes the peer. Never blocks; a bell that is full of unheard rings will wake the peer as well.
    pub fn ring(&self) -> Result<(), DoorbellError> {
        loop {
            match send(&self.socket, &[1], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) | Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(DoorbellError::PeerGone),
                Err(error) => return Err(DoorbellError::Io(error.into())),
            }
        }
    }

    /// Takes the rings that have come; says whether there were any. Never blocks. Look at the rings of memory
    /// *after* this call: what was published before the ring is visible then.
    pub fn drain(&self) -> Result<bool, DoorbellError> {
        let mut bytes = [0; DRAIN_BYTES];
        loop {
            match recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(Errno::CONNRESET) => return Err(DoorbellError::PeerGone),
                // One piece is enough: an honest peer rings again for what it publishes from now on, and reading
                // on for as long as a hostile one writes would never end.
                Ok(_) => return Ok(true),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(DoorbellError::Io(error.into())),
            }
        }
    }

    /// Sleeps until the peer rings or `timeout` (`None`: no limit) is over, and takes the rings.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Wake, DoorbellError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if self.drain()? {
                return Ok(Wake::Rung);
            }
            if !poll_readable(self.socket.as_fd(), deadline).map_err(DoorbellError::Io)? {
                return Ok(Wake::TimedOut);
            }
        }
    }
}

impl From<OwnedFd> for Doorbell {
    /// Takes an end that the other process passed on.
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl From<Doorbell> for OwnedFd {
    fn from(doorbell: Doorbell) -> Self {
        doorbell.socket
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Waits until `fd` can be read, has hung up, or the deadline has passed (`false`).
pub(crate) fn poll_readable(fd: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<bool> {
    poll_for(fd, PollFlags::IN, deadline)
}

/// Waits until `fd` shows one of `events` or an error, or the deadline has passed (`false`).
pub(crate) fn poll_for(fd: BorrowedFd<'_>, events: PollFlags, deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        // A time too long for the kernel's type is as good as no limit.
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::from_borrowed_fd(fd, events)], left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use rustix::fs::{OFlags, fcntl_setfl};

    use super::*;

    const WATCHDOG: Duration = Duration::from_secs(20);

    #[test]
    fn a_ring_wakes_the_other_side_and_is_taken_once() {
        let (one, two) = Doorbell::pair().unwrap();
        assert!(!two.drain().unwrap());
        one.ring().unwrap();
        one.ring().unwrap();
        assert_eq!(two.wait(Some(WATCHDOG)).unwrap(), Wake::Rung);
        assert!(!two.drain().unwrap());
        assert_eq!(two.wait(Some(Duration::from_millis(1))).unwrap(), Wake::TimedOut);
    }

    #[test]
    fn a_dead_peer_is_noticed_by_ringing_and_by_waiting() {
        let (one, two) = Doorbell::pair().unwrap();
        drop(two);
        assert!(matches!(one.ring(), Err(DoorbellError::PeerGone)));
        assert!(matches!(one.wait(None), Err(DoorbellError::PeerGone)));
    }

    #[test]
    fn a_peer_that_makes_its_bell_blocking_and_never_listens_blocks_nobody() {
        let (ours, theirs) = Doorbell::pair().unwrap();
        fcntl_setfl(&theirs, OFlags::empty()).unwrap();
        fcntl_setfl(&ours, OFlags::empty()).unwrap();
        let (done, finished) = mpsc::channel();
        let ringer = thread::spawn(move || {
            (0..100_000).for_each(|_| ours.ring().unwrap());
            assert!(!ours.drain().unwrap());
            done.send(()).unwrap();
        });
        finished.recv_timeout(WATCHDOG).unwrap();
        ringer.join().unwrap();
        drop(theirs);
    }
}
