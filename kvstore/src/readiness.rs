//! Whether everything is up, and what is waited for if not. Written by whoever starts or ends something, read by the
//! admin API and the probes.

use std::sync::{Arc, Mutex, PoisonError};

/// Shared by all who write and read it.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    waiting_for: Arc<Mutex<Option<String>>>,
}

impl Readiness {
    /// Nothing is up yet.
    pub(crate) fn new() -> Self {
        Self {
            waiting_for: Arc::new(Mutex::new(Some("the daemon is starting".to_owned()))),
        }
    }

    /// What is waited for from now on.
    pub(crate) fn wait_for(&self, what: impl Into<String>) {
        self.set(Some(what.into()));
    }

    /// Everything is up.
    pub(crate) fn ready(&self) {
        self.set(None);
    }

    /// What is waited for; none if everything is up.
    pub(crate) fn waiting_for(&self) -> Option<String> {
        // A text is whole whoever panicked.
        self.waiting_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, what: Option<String>) {
        *self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }
}
