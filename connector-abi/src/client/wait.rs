//! Sleeping until something happens.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use connector_shm::Sleep;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Session;
use crate::ClientError;

/// How long the ring is watched before sleeping: a little more than it takes the daemon to wake up and answer.
const SPIN: Duration = Duration::from_micros(60);
/// Looks at the ring between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 16;

impl Session {
    /// Sleeps until an answer can be polled, the session's state is another than the caller knows of (by [`info`](Self::info)
    /// or a wait that ended for it), or the timeout; `false` means the timeout.
    /// Finding the daemon gone is an error, and so is a session that is lost for good. A session that is being
    /// reattached sleeps until [`info`](Self::info) can adopt the new attachment.
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, ClientError> {
        if self.link().is_err() {
            return match self.guardian() {
                Some(guardian) => Ok(guardian.wait(timeout)),
                None => Err(self.lost()),
            };
        }
        let begin = Instant::now();
        let deadline = begin.checked_add(timeout);
        if self.spin(begin, timeout.min(SPIN))? {
            return Ok(true);
        }
        loop {
            if self.something_happened()? {
                return Ok(true);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                self.check_liveness()?;
                return Ok(false);
            }
            self.sleep(left)?;
        }
    }

    fn spin(&mut self, begin: Instant, time: Duration) -> Result<bool, ClientError> {
        while begin.elapsed() < time {
            for _ in 0..LOOKS_PER_CLOCK {
                if self.something_happened()? {
                    return Ok(true);
                }
                std::hint::spin_loop();
            }
        }
        Ok(false)
    }

    fn something_happened(&mut self) -> Result<bool, ClientError> {
        self.pump()?;
        // This takes in an answer that has just come as well, so answers are looked for afterwards: one that was only taken in
        // would be slept over, on a ring that is empty. So would a change that came between the caller's look and this one, if it
        // were compared with anything but what the caller knows.
        let state = self.look().state;
        let is_changed = state != self.told;
        self.told = state;
        Ok(is_changed || self.has_pending())
    }

    /// Sleeps on doorbell and socket. May wake for nothing.
    fn sleep(&mut self, left: Option<Duration>) -> Result<(), ClientError> {
        let link = self.link()?;
        match link.end.begin_sleep(0) {
            Ok(Sleep::Stay) => return Ok(()),
            Ok(Sleep::Go) => {}
            Err(error) => return Err(self.give_up(ClientError::PeerMisbehaved(error.to_string()))),
        }
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [
            PollFd::from_borrowed_fd(link.end.doorbell().as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(link.socket.as_fd(), PollFlags::IN),
        ];
        let polled = poll(&mut fds, timeout.as_ref());
        let socket_spoke = !fds[1].revents().is_empty();
        link.end.end_sleep();
        let rung = link.end.doorbell().drain().map(|_| ());
        match polled {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(self.lose(format!("waiting failed: {error}"))),
        }
        // What the daemon said before it went is worth hearing first.
        self.pump()?;
        if self.has_pending() {
            return Ok(());
        }
        self.after_ringing(rung)?;
        if socket_spoke {
            return Err(self.lose("it closed the connection".to_owned()));
        }
        Ok(())
    }
}
