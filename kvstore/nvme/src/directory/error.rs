//! Why a directory cannot be opened, or something in it not be done.

use std::io;
use std::path::{Path, PathBuf};

use kvstore_types::IoOutcome;

use crate::format::SuperblockError;

/// Why a directory cannot be used. Nothing in it has been deleted or changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// What was asked for can never work.
    #[error("{directory}: {problem}")]
    Spec {
        /// The directory.
        directory: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The system refused something.
    #[error("could not {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else lies where a file of ours has to be.
    #[error("{0} is not a regular file; remove it")]
    NotAFile(PathBuf),
    /// Another process uses it.
    #[error("{directory} is in use by {holder}; stop it, or give this daemon another directory")]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// `process 1234`, as far as is known.
        holder: String,
    },
    /// Its superblock cannot be used.
    #[error("{path}: {problem}; {advice}")]
    Superblock {
        /// The superblock.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What a person can do.
        advice: &'static str,
    },
    /// There are files and no superblock: either it is not ours, or the key to everything in it is lost.
    #[error(
        "{directory} has no tier.kvt and is not empty (it has {found:?}); empty it if nothing in it is wanted, or give \
         another directory"
    )]
    NotEmpty {
        /// The directory.
        directory: PathBuf,
        /// One of the files.
        found: String,
    },
    /// It belongs to another tenant.
    #[error("{directory} belongs to tenant {found:?}, want {expected:?}; give each tenant its own directory")]
    Tenant {
        /// The directory.
        directory: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wants it.
        expected: String,
    },
    /// Its segments have another size.
    #[error(
        "{directory} has segments of {found} bytes, want {expected}; set nvme.segment-bytes to {found}, or empty the \
         directory"
    )]
    SegmentBytes {
        /// The directory.
        directory: PathBuf,
        /// The size they have.
        found: u64,
        /// The size in the config.
        expected: u64,
    },
    /// The page cache cannot be passed by, and it was demanded.
    #[error("{directory}: no direct I/O: {reason}; set nvme.direct to \"auto\" or use another file system")]
    Direct {
        /// The directory.
        directory: PathBuf,
        /// Why not.
        reason: String,
    },
}

impl OpenError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            what,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn superblock(path: &Path, error: &SuperblockError) -> Self {
        let advice = match error {
            SuperblockError::Version { .. } => {
                "run the kvtierd that wrote it, or empty the directory to start anew with this one"
            }
            SuperblockError::Magic | SuperblockError::Damaged(_) => {
                "restore it from a copy, or empty the directory: without it nothing there can be verified"
            }
        };
        Self::Superblock {
            path: path.to_owned(),
            problem: error.to_string(),
            advice,
        }
    }
}

/// Why something could not be done in a directory that is open.
#[derive(Debug, thiserror::Error)]
#[error("could not {what} {path}: {source}")]
pub(crate) struct DirectoryError {
    pub(crate) what: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) source: io::Error,
}

impl DirectoryError {
    pub(crate) fn new(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self {
            what,
            path: path.to_owned(),
            source,
        }
    }

    /// How an order that failed for this ends.
    pub(crate) fn outcome(&self) -> IoOutcome {
        outcome_of(&self.source)
    }
}

impl From<DirectoryError> for OpenError {
    fn from(error: DirectoryError) -> Self {
        Self::Io {
            what: error.what,
            path: error.path,
            source: error.source,
        }
    }
}

/// `NoSpace` where room may come back, else `Failed`.
pub(crate) fn outcome_of(error: &io::Error) -> IoOutcome {
    match error.kind() {
        // ENOSPC and our own reserve; EDQUOT.
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => IoOutcome::NoSpace,
        _ => IoOutcome::Failed,
    }
}
