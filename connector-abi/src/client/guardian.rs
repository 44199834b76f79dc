//! The thread that looks after a session while nobody calls it.
//!
//! ```text
//!   Watching ──the daemon hung up──▶ Seeking ──attached──▶ Offering ──adopted──▶ Watching
//!                                       ▲                     │
//!                                       └── that one hung up ─┘
//! ```
//!
//! It sleeps on the daemon's socket. When the daemon is gone it lets go of the region and attaches again, also if the
//! engine is idle and calls nothing: a daemon that starts anew has to find its predecessor's memory free, and could
//! not start if each client kept it until its next request.
//!
//! Nobody joins it: it ends by itself once the session is gone, at the latest when its attempt's deadline passes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use connector_shm::{Attachment, hung_up};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::attach::Attacher;
use super::backoff::Backoff;
use super::region::RegionCell;
use crate::ClientError;
use crate::guest::{random_bytes, spawn_guest};

/// The session's handle on the thread. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Guardian {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    attacher: Arc<Attacher>,
    state: Mutex<State>,
    /// Whether the phase is another than watching. Lets a session that is well look without taking the lock.
    away: AtomicBool,
    changed: Condvar,
    /// Wakes the thread out of watching.
    bell: OwnedFd,
}

#[derive(Debug)]
struct State {
    ending: bool,
    phase: Phase,
    /// Why the last attempt failed.
    failure: Option<String>,
}

#[derive(Debug)]
enum Phase {
    /// The session is attached, over this socket and with this region.
    Watching(Arc<UnixStream>, Arc<RegionCell>),
    /// Nobody is there.
    Seeking,
    /// A new attachment waits for the session to adopt it; the second socket is the thread's own handle on its first.
    Offering(Box<Attachment>, Arc<UnixStream>),
}

/// What the thread does next.
enum Task {
    End,
    Watch(Arc<UnixStream>),
    Seek,
}

impl Guardian {
    /// A guardian whose thread has not been started: it will seek unless it is told what to watch.
    pub(super) fn new(attacher: Arc<Attacher>) -> Result<Self, ClientError> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = bell.map_err(|error| io_error("make an event descriptor", error.into()))?;
        let state = State {
            ending: false,
            phase: Phase::Seeking,
            failure: None,
        };
        let shared = Shared {
            attacher,
            state: Mutex::new(state),
            away: AtomicBool::new(true),
            changed: Condvar::new(),
            bell,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Starts the thread. Once.
    pub(super) fn start(&self) -> Result<(), ClientError> {
        let shared = Arc::clone(&self.shared);
        let started = spawn_guest("kvt-guardian".to_owned(), move || shared.run());
        started
            .map(drop)
            .map_err(|error| io_error("start a thread", error))
    }

    /// The session is attached: watch this socket, and let go of this region when it hangs up.
    pub(super) fn watch(&self, socket: Arc<UnixStream>, region: Arc<RegionCell>) {
        let mut state = self.shared.lock();
        state.phase = Phase::Watching(socket, region);
        self.shared.away.store(false, Ordering::Relaxed);
        drop(state);
        self.shared.wake();
    }

    /// Whether the daemon that the session was attached to is gone.
    pub(super) fn is_away(&self) -> bool {
        self.shared.away.load(Ordering::Relaxed)
    }

    /// The session has given its attachment up.
    pub(super) fn seek(&self) {
        let mut state = self.shared.lock();
        if matches!(state.phase, Phase::Watching(..)) {
            state.phase = Phase::Seeking;
            self.shared.away.store(true, Ordering::Relaxed);
            drop(state);
            self.shared.wake();
        }
    }

    /// The new attachment, once there is one. Say [`watch`](Self::watch) next.
    pub(super) fn take(&self) -> Option<Attachment> {
        let mut state = self.shared.lock();
        match std::mem::replace(&mut state.phase, Phase::Seeking) {
            Phase::Offering(attachment, _) => Some(*attachment),
            phase => {
                state.phase = phase;
                None
            }
        }
    }

    /// Why the last attempt failed.
    pub(super) fn failure(&self) -> Option<String> {
        self.shared.lock().failure.clone()
    }

    /// Sleeps until there is a new attachment, or the timeout. Whether there is one.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let no_offer = |state: &mut State| !matches!(state.phase, Phase::Offering(..));
        let waited = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), timeout, no_offer);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !no_offer(&mut state)
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.wake();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // A counter that is full wakes as well; there is no other way for this to fail.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        self.changed.notify_all();
    }

    fn run(&self) {
        let mut backoff = Backoff::new();
        loop {
            match self.task() {
                Task::End => return,
                Task::Watch(socket) => {
                    backoff = Backoff::new();
                    self.watch(&socket);
                }
                // Without jitter it works as well, only more of a crowd.
                Task::Seek if self.pause(backoff.wait(random_bytes().map_or(0, u64::from_ne_bytes))) => {
                    self.attempt();
                }
                Task::Seek => {}
            }
        }
    }

    fn task(&self) -> Task {
        let state = self.lock();
        match &state.phase {
            _ if state.ending => Task::End,
            Phase::Watching(socket, _) | Phase::Offering(_, socket) => Task::Watch(Arc::clone(socket)),
            Phase::Seeking => Task::Seek,
        }
    }

    /// Sleeps until the daemon hangs up or somebody rings.
    fn watch(&self, socket: &Arc<UnixStream>) {
        let mut fds = [
            PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
            PollFd::new(&self.bell, PollFlags::IN),
        ];
        // Interrupted, or out of memory for a moment: the loop comes back here.
        let _ = poll(&mut fds, None);
        let _ = rustix::io::read(&self.bell, &mut [0_u8; 8]);
        if matches!(hung_up(socket.as_fd()), Ok(false)) {
            return;
        }
        let mut state = self.lock();
        let is_same = match &state.phase {
            Phase::Watching(watched, _) | Phase::Offering(_, watched) => Arc::ptr_eq(watched, socket),
            Phase::Seeking => false,
        };
        if is_same {
            let gone = std::mem::replace(&mut state.phase, Phase::Seeking);
            self.away.store(true, Ordering::Relaxed);
            drop(state);
            if let Phase::Watching(_, region) = &gone {
                region.release_unless_addressed();
            }
        }
    }

    fn attempt(&self) {
        let offer = self.attacher.attach().and_then(|attachment| {
            let socket = attachment.socket.try_clone();
            let socket = socket.map_err(|error| io_error("share a socket", error))?;
            Ok(Phase::Offering(Box::new(attachment), Arc::new(socket)))
        });
        let mut state = self.lock();
        match offer {
            Ok(offer) if matches!(state.phase, Phase::Seeking) => {
                state.phase = offer;
                state.failure = None;
                drop(state);
                self.changed.notify_all();
            }
            // Somebody else attached meanwhile: this one is dropped.
            Ok(_) => {}
            // Refusals are tried again, too: a daemon may be replaced, or may not have noticed yet that this
            // session's last attachment is over.
            Err(error) => state.failure = Some(error.to_string()),
        }
    }

    /// Sleeps between two attempts; `false` if there is nothing to attempt any more.
    fn pause(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let mut state = self.lock();
        while !state.ending && matches!(state.phase, Phase::Seeking) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            (state, _) = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        false
    }
}

fn io_error(what: &'static str, source: io::Error) -> ClientError {
    ClientError::Io { what, source }
}

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::*;
    use crate::test_peer::{TestSocket, until};

    #[test]
    fn the_thread_ends_when_nobody_waits_for_it_any_more() {
        let options = TestSocket::new().options(Role::Scheduler);
        let attacher = Arc::new(Attacher::new(options).unwrap());
        let guardian = Guardian::new(Arc::clone(&attacher)).unwrap();
        guardian.start().unwrap();
        assert!(!guardian.wait(Duration::from_millis(1)));
        drop(guardian);
        until(|| (Arc::strong_count(&attacher) == 1).then_some(()));
    }
}
