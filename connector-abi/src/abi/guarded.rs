//! An object behind an opaque C pointer.

use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::kvt_status;
use crate::ClientError;
use crate::guest::HomeProcess;

/// Keeps the last error for `kvt_*_error`, refuses to go on after a panic, and knows the process it belongs to.
pub(super) struct Guarded<T> {
    object: T,
    error: Option<ClientError>,
    /// The rendered error; its pointer is given out until the next call.
    text: CString,
    poisoned: bool,
    home: HomeProcess,
}

impl<T> Guarded<T> {
    pub(super) fn new(object: T) -> Self {
        Self {
            object,
            error: None,
            text: CString::default(),
            poisoned: false,
            home: HomeProcess::current(),
        }
    }

    /// Runs one call on the object.
    pub(super) fn call(&mut self, body: impl FnOnce(&mut T) -> Result<(), ClientError>) -> kvt_status {
        if self.poisoned {
            return self.fail(ClientError::Poisoned);
        }
        match catch_unwind(AssertUnwindSafe(|| body(&mut self.object))) {
            Ok(Ok(())) => kvt_status::KVT_OK,
            Ok(Err(error)) => self.fail(error),
            Err(_) => {
                self.poisoned = true;
                self.fail(ClientError::Poisoned)
            }
        }
    }

    /// The object of a call that also needs another object; `None` after a panic.
    pub(super) fn object(&mut self) -> Option<&mut T> {
        (!self.poisoned).then_some(&mut self.object)
    }

    /// Keeps an error and says its status.
    pub(super) fn fail(&mut self, error: ClientError) -> kvt_status {
        let status = kvt_status::from(&error);
        self.error = Some(error);
        status
    }

    /// The text of the last failure, rendered now: most failures (a full ring, a lost session) are never asked for.
    pub(super) fn error_text(&mut self) -> *const c_char {
        if let Some(error) = self.error.take() {
            self.text = c_text(&describe(&error));
        }
        self.text.as_ptr()
    }

    /// Takes the object out to be closed. `None` in a forked child: what lies in the object belongs to the parent, so
    /// it is forgotten.
    pub(super) fn into_object(self) -> Option<T> {
        if self.home.is_here() {
            return Some(self.object);
        }
        std::mem::forget(self.object);
        None
    }
}

/// An error with its causes, as one line.
pub(super) fn describe(error: &ClientError) -> String {
    let mut line = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !line.contains(&cause_text) {
            line = format!("{line}: {cause_text}");
        }
        source = cause.source();
    }
    line
}

/// A C string; a NUL inside ends it early.
pub(super) fn c_text(text: &str) -> CString {
    let bytes = text.split('\0').next().unwrap_or_default();
    CString::new(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_panic_the_object_answers_nothing_but_that() {
        let mut guarded = Guarded::new(1);
        let status = guarded.call(|_| panic!("a bug"));
        assert_eq!(status, kvt_status::KVT_PANIC);
        let status = guarded.call(|_| Ok(()));
        assert_eq!(status, kvt_status::KVT_PANIC);
    }

    #[test]
    fn the_last_failure_can_be_read_more_than_once() {
        let mut guarded = Guarded::new(1);
        guarded.call(|_| Err(ClientError::range("rank", "below 2", 7)));
        for _ in 0..2 {
            // SAFETY: the string is valid until the next call on the object.
            let text = unsafe { std::ffi::CStr::from_ptr(guarded.error_text()) };
            assert_eq!(text, c"rank: want below 2, got 7");
        }
    }

    #[test]
    fn a_forked_child_is_given_nothing_to_close() {
        let guarded = Guarded::new(());
        // SAFETY: the child calls nothing but getpid and _exit before it is gone.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = i32::from(guarded.into_object().is_some());
            // SAFETY: ends the child without running what belongs to the parent.
            unsafe { libc::_exit(code) };
        }
        let mut status = -1;
        // SAFETY: `status` is a place for the child's status.
        let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
        assert_eq!((waited, status), (child, 0));
        assert!(guarded.into_object().is_some(), "the parent still has it");
    }
}
