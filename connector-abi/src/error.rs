//! Why an operation of the client library could not be done.

use std::io;
use std::path::PathBuf;

use crate::copier::DriverError;

/// What went wrong, with what the caller needs to act on it. Each maps to one `kvt_status`.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// A pointer that must not be NULL is.
    #[error("{0} is NULL")]
    NullArgument(&'static str),
    /// An argument is out of its range; the text names it.
    #[error("{0}")]
    BadArgument(String),
    /// The session has no daemon at the other end.
    #[error("the daemon is gone: {0}")]
    Lost(String),
    /// The namespace is not known yet.
    #[error("other ranks of this engine have not attached yet")]
    NotReady,
    /// The daemon does not want this client; its own words.
    #[error("the daemon refused: {0}")]
    Refused(String),
    /// Nobody answers at the socket.
    #[error("no daemon at {}", path.display())]
    Unavailable {
        /// Where the socket was expected.
        path: PathBuf,
        /// What connecting said.
        source: io::Error,
    },
    /// A daemon is there, and lets nobody in for now.
    #[error("the daemon at {} lets nobody in: {text}", path.display())]
    Ending {
        /// Its socket.
        path: PathBuf,
        /// Its own words.
        text: String,
    },
    /// Nothing happened in the time that was given.
    #[error("{0} took longer than allowed")]
    Timeout(&'static str),
    /// A bounded queue has no room now.
    #[error("no room in {queue} for {wanted} more {unit}; nothing was sent")]
    QueueFull {
        /// Which queue.
        queue: &'static str,
        /// What was wanted.
        wanted: usize,
        /// Of what.
        unit: &'static str,
    },
    /// It would never fit.
    #[error("{what} of {actual} {unit} is larger than the {max} that fit; nothing was sent")]
    TooLarge {
        /// What was to be sent.
        what: &'static str,
        /// How large it is.
        actual: usize,
        /// How large it may be.
        max: usize,
        /// In what unit.
        unit: &'static str,
    },
    /// The two sides do not speak the same version.
    #[error("version mismatch: {0}")]
    VersionMismatch(String),
    /// The operating system refused something.
    #[error("could not {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// The daemon's side of the shared memory does not make sense.
    #[error("the daemon broke the protocol: {0}")]
    PeerMisbehaved(String),
    /// This build cannot do that.
    #[error("{0} is not supported by this libkvtier")]
    Unsupported(&'static str),
    /// There is no driver for the device, or none that will do.
    #[error("no CUDA driver: {0}")]
    NoDriver(String),
    /// The device's driver refused something. Nothing of it is under way.
    #[error("the device refused: {0}")]
    Device(DriverError),
    /// The device does no more work for this process.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
    /// The object is not usable after an earlier bug.
    #[error("an earlier call ended in a bug of the library (panic); close this object")]
    Poisoned,
}

impl ClientError {
    /// A `BadArgument` that says what was expected and what was given.
    pub fn range(what: &str, expected: impl std::fmt::Display, actual: impl std::fmt::Display) -> Self {
        Self::BadArgument(format!("{what}: want {expected}, got {actual}"))
    }
}
