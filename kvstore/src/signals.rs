//! The signals the daemon listens for.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To end; by this signal.
    End(&'static str),
    /// To read the configuration again.
    Reload,
}

/// The signals that end the daemon, the one that makes it read its configuration again, and one that must not end it.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    /// Never asked; being listened for is what keeps it from killing the daemon. The write that went beyond
    /// RLIMIT_FSIZE then fails with an error that can be told.
    _file_too_large: Signal,
}

impl Signals {
    /// Listens from now on; needs a runtime.
    pub(crate) fn new() -> io::Result<Self> {
        let file_too_large = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            _file_too_large: signal(file_too_large)?,
        })
    }

    /// The next signal of any kind.
    pub(crate) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End("SIGTERM"),
            _ = self.interrupt.recv() => Asked::End("SIGINT"),
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }

    /// The next signal that asks for the end. One that asks for something else is kept until [`next`](Self::next).
    pub(crate) async fn end(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
