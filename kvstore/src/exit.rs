//! The daemon's exit codes, after `sysexits.h`.

use std::process::ExitCode;

/// Why the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to.
    Done,
    /// The command line or the configuration is wrong. Nothing was bound or touched.
    BadConfig,
    /// A thread of the daemon ended by itself.
    Internal,
    /// The system refused something that should work.
    System,
    /// The socket cannot be made or an NVMe directory cannot be used, or another instance has it.
    CannotServe,
    /// The configuration is sound, but does not fit this machine. Nothing was bound or touched.
    DoesNotFit,
}

/// All of them.
pub const ALL: [Exit; 6] = [
    Exit::Done,
    Exit::BadConfig,
    Exit::Internal,
    Exit::System,
    Exit::CannotServe,
    Exit::DoesNotFit,
];

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::BadConfig => 64,
            Self::Internal => 70,
            Self::System => 71,
            Self::CannotServe => 73,
            Self::DoesNotFit => 78,
        }
    }

    /// For people.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "ended by a signal (SIGTERM, SIGINT), drained or not; the socket is removed",
            Self::BadConfig => "bad command line or configuration; nothing was bound or touched",
            Self::Internal => "a thread of the daemon ended by itself: a bug",
            Self::System => {
                "the system refused memory, files or threads, or what was to be printed could not be written"
            }
            Self::CannotServe => {
                "the socket cannot be made, or another instance or a stranger's socket is there; or a port of events.bind or \
                 events.replay is taken; or an NVMe directory is in use, missing with its parent, no directory, closed to \
                 this user, or without the direct I/O that nvme.direct = \"always\" demands"
            }
            Self::DoesNotFit => {
                "sound configuration that does not fit this machine, or not the size of the segments that an NVMe \
                 directory has; nothing was bound or touched"
            }
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
