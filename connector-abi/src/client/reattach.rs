//! The thread that attaches again after a loss.
//!
//! It lives from the loss to the first success, and does nothing but connect, wait and connect. Its result waits here
//! until the session adopts it. Nobody joins it: it ends by itself, at the latest when its attempt's deadline passes.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use connector_shm::Attachment;

use super::attach::Attacher;
use super::backoff::Backoff;
use crate::guest::{random_bytes, spawn_guest};

/// The session's handle on the thread. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct Reattacher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ending: bool,
    attached: Option<Attachment>,
    /// Why the last attempt failed.
    failure: Option<String>,
}

impl Reattacher {
    /// Starts the thread.
    pub(super) fn start(attacher: Arc<Attacher>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let threads = Arc::clone(&shared);
        spawn_guest("kvt-reattach".to_owned(), move || threads.run(&attacher))?;
        Ok(Self { shared })
    }

    /// The new attachment, once there is one.
    pub(super) fn take(&self) -> Option<Attachment> {
        self.shared.lock().attached.take()
    }

    /// Why the last attempt failed.
    pub(super) fn failure(&self) -> Option<String> {
        self.shared.lock().failure.clone()
    }

    /// Sleeps until there is a new attachment, or the timeout. Whether there is one.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let state = self.shared.lock();
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, timeout, |state| state.attached.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.attached.is_some()
    }
}

impl Drop for Reattacher {
    fn drop(&mut self) {
        self.shared.lock().ending = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, attacher: &Attacher) {
        let mut backoff = Backoff::new();
        // Without jitter it works as well, only more of a crowd.
        while self.pause(backoff.wait(random_bytes().map_or(0, u64::from_ne_bytes))) {
            let attempt = attacher.attach();
            let mut state = self.lock();
            match attempt {
                Ok(attachment) if !state.ending => {
                    state.attached = Some(attachment);
                    drop(state);
                    self.changed.notify_all();
                    return;
                }
                Ok(_) => return,
                // Refusals are tried again, too: a daemon may be replaced, or may not have noticed yet that this
                // session's last attachment is over.
                Err(error) => state.failure = Some(error.to_string()),
            }
        }
    }

    /// Sleeps; `false` once the session is gone.
    fn pause(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let mut state = self.lock();
        while !state.ending {
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

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::*;
    use crate::test_peer::{TestSocket, until};

    #[test]
    fn the_thread_ends_when_nobody_waits_for_it_any_more() {
        let options = TestSocket::new().options(Role::Scheduler);
        let attacher = Arc::new(Attacher::new(options).unwrap());
        let reattacher = Reattacher::start(Arc::clone(&attacher)).unwrap();
        assert!(!reattacher.wait(Duration::from_millis(1)));
        drop(reattacher);
        until(|| (Arc::strong_count(&attacher) == 1).then_some(()));
    }
}
