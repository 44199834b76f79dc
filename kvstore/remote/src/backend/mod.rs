//! What a store can do, whatever it is. One conformance suite (`tests`) runs over all of them.

#[cfg(test)]
pub(crate) mod lying;
pub(crate) mod memory;
pub(crate) mod mount;
pub(crate) mod patient;
pub(crate) mod store;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Direction, FaultKind, Reserve, Room};

/// What an operation holds of the budget. It is dropped when the store is done with the operation, which may be long after
/// everybody stopped waiting for it.
pub(crate) type Hold = Arc<dyn Any + Send + Sync>;

/// Why a store did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What kind of fault.
    pub(crate) kind: FaultKind,
    /// For people. It is made of our own words, numbers and names of errors only: what a store says may hold secrets.
    pub(crate) text: String,
    /// How long the store asked to be left alone.
    pub(crate) retry_after: Option<Duration>,
}

impl Fault {
    pub(crate) fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            retry_after: None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.text)
    }
}

/// How an object that may be there already was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    New,
    AlreadyPresent,
}

/// Whether an object that is there already is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It stays: all that ever have this name have equal content.
    Create,
    /// It is known to be damaged.
    Replace,
}

/// What a store says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    /// Its name within its directory.
    pub(crate) name: String,
    /// How long it is.
    pub(crate) bytes: u64,
    /// When it was written, by the store's clock.
    pub(crate) modified: SystemTime,
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Body {
    /// The bytes that were asked for, in pieces.
    pub(crate) pieces: Vec<Bytes>,
    /// Length of the whole object.
    pub(crate) object_bytes: u64,
}

/// Names one content of a small object, so that it is replaced only if it has not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version(pub(crate) String);

/// A small object with its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Versioned {
    pub(crate) bytes: Bytes,
    pub(crate) version: Version,
    /// When it was written, by the store's clock.
    pub(crate) modified: SystemTime,
}

/// How a conditional replacement ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Replaced {
    /// It is what was given, in this version.
    Done(Version),
    /// Somebody else was faster.
    Lost,
}

/// A store.
///
/// Nothing here waits for ever on its own account, and nothing has a deadline: whoever calls stops waiting when it is time.
/// A call that nobody waits for any more may go on, and has the hold as long as it does. `Ok(None)`: there is no such object.
#[async_trait]
pub(crate) trait Backend: Send + Sync + 'static {
    /// For people: what it is and how it works.
    fn describe(&self) -> String;

    /// How much room there is, as far as it was told last. Asks nobody.
    fn room(&self) -> Option<Room> {
        None
    }

    /// From now on so much stays free, where there is a file system.
    fn set_reserve(&self, _reserve: Reserve) {}

    /// Writes an object. Nobody ever sees part of it. Its bytes begin on a page and are whole pages.
    async fn put(&self, name: &str, object: Bytes, mode: Mode, hold: Hold) -> Result<Written, Fault>;

    /// Reads an object, or a part of it that begins and ends on pages. Not more than `range.end` bytes, whatever the store
    /// has.
    async fn get(&self, name: &str, range: Range<u64>, hold: Hold) -> Result<Option<Body>, Fault>;

    /// Which of these objects are there, in their order.
    async fn exist(&self, names: &[String], hold: Hold) -> Vec<Result<bool, Fault>>;

    /// Removes objects; those that are not there are removed already. How many were removed, as far as the store tells.
    async fn delete(&self, names: Vec<String>, hold: Hold) -> Result<u64, Fault>;

    /// Writes a small object, unless there is one.
    async fn put_small(&self, name: &str, bytes: Bytes) -> Result<Written, Fault>;

    /// Reads a small object whole; one with more than `bytes_max` bytes is a fault.
    async fn get_small(&self, name: &str, bytes_max: u64) -> Result<Option<Versioned>, Fault>;

    /// Replaces a small object if its version is still `expected`; `None`: if there is none.
    async fn replace_small(
        &self,
        name: &str,
        bytes: Bytes,
        expected: Option<Version>,
    ) -> Result<Replaced, Fault>;

    /// Objects of one directory in the order of their names: at most `most`, behind `after`.
    async fn list(&self, directory: &str, after: Option<&str>, most: usize) -> Result<Vec<Meta>, Fault>;

    /// Directories in a directory.
    async fn directories(&self, directory: &str) -> Result<Vec<String>, Fault>;

    /// What time it is by the store's clock: when something was written that was written just now.
    async fn now(&self) -> Result<SystemTime, Fault>;

    /// Whether the store is in service for reading, or for writing. Never called while it goes on in the same direction.
    async fn probe(&self, direction: Direction) -> Result<(), Fault>;
}
