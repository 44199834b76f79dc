//! A store in memory: the twin of the real ones, for tests and for people who try things out.
//!
//! It does what the trait says and nothing else. Several tiers can share one, as several nodes share a store.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Backend, Body, Fault, Hold, Meta, Mode, Replaced, Version, Versioned, Written};
use crate::{Direction, FaultKind};

#[derive(Clone, Debug)]
struct Object {
    bytes: Bytes,
    version: u64,
    modified: SystemTime,
}

#[derive(Debug)]
struct State {
    objects: BTreeMap<String, Object>,
    versions: u64,
    now: SystemTime,
}

/// The twin.
#[derive(Debug)]
pub struct MemoryStore {
    state: Mutex<State>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                objects: BTreeMap::new(),
                versions: 0,
                now: SystemTime::UNIX_EPOCH + Duration::from_hours(438_000),
            }),
        }
    }
}

impl MemoryStore {
    /// Moves the store's clock forward. It stands still otherwise.
    pub fn advance(&self, by: Duration) {
        self.lock().now += by;
    }

    /// Names of all objects.
    pub fn names(&self) -> Vec<String> {
        self.lock().objects.keys().cloned().collect()
    }

    /// Changes an object's bytes behind everybody's back. `false` if there is none.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.lock();
        let Some(object) = state.objects.get_mut(name) else {
            return false;
        };
        let mut bytes = object.bytes.to_vec();
        change(&mut bytes);
        object.bytes = bytes.into();
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before the lock is given up.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn insert(&mut self, name: &str, bytes: Bytes) -> Version {
        self.versions += 1;
        let object = Object {
            bytes,
            version: self.versions,
            modified: self.now,
        };
        self.objects.insert(name.to_owned(), object);
        Version(self.versions.to_string())
    }
}

#[async_trait]
impl Backend for MemoryStore {
    fn describe(&self) -> String {
        "in memory".to_owned()
    }

    async fn put(&self, name: &str, object: Bytes, mode: Mode, _hold: Hold) -> Result<Written, Fault> {
        let mut state = self.lock();
        if mode == Mode::Create && state.objects.contains_key(name) {
            return Ok(Written::AlreadyPresent);
        }
        state.insert(name, Bytes::copy_from_slice(&object));
        Ok(Written::New)
    }

    async fn get(&self, name: &str, range: Range<u64>, _hold: Hold) -> Result<Option<Body>, Fault> {
        let state = self.lock();
        let Some(object) = state.objects.get(name) else {
            return Ok(None);
        };
        let end = |at: u64| usize::try_from(at).map_or(object.bytes.len(), |at| at.min(object.bytes.len()));
        let piece = object.bytes.slice(end(range.start)..end(range.end));
        Ok(Some(Body {
            pieces: vec![piece],
            object_bytes: object.bytes.len() as u64,
        }))
    }

    async fn exist(&self, names: &[String], _hold: Hold) -> Vec<Result<bool, Fault>> {
        let state = self.lock();
        names
            .iter()
            .map(|name| Ok(state.objects.contains_key(name)))
            .collect()
    }

    async fn delete(&self, names: Vec<String>, _hold: Hold) -> Result<u64, Fault> {
        let mut state = self.lock();
        let removed = names.iter().filter(|name| state.objects.remove(*name).is_some());
        Ok(removed.count() as u64)
    }

    async fn put_small(&self, name: &str, bytes: Bytes) -> Result<Written, Fault> {
        let mut state = self.lock();
        if state.objects.contains_key(name) {
            return Ok(Written::AlreadyPresent);
        }
        state.insert(name, bytes);
        Ok(Written::New)
    }

    async fn get_small(&self, name: &str, bytes_max: u64) -> Result<Option<Versioned>, Fault> {
        let state = self.lock();
        let Some(object) = state.objects.get(name) else {
            return Ok(None);
        };
        if object.bytes.len() as u64 > bytes_max {
            let text = format!(
                "{name} has {} bytes, want at most {bytes_max}",
                object.bytes.len()
            );
            return Err(Fault::new(FaultKind::NameTaken, text));
        }
        Ok(Some(Versioned {
            bytes: object.bytes.clone(),
            version: Version(object.version.to_string()),
            modified: object.modified,
        }))
    }

    async fn replace_small(
        &self,
        name: &str,
        bytes: Bytes,
        expected: Option<Version>,
    ) -> Result<Replaced, Fault> {
        let mut state = self.lock();
        let found = state
            .objects
            .get(name)
            .map(|object| Version(object.version.to_string()));
        if found != expected {
            return Ok(Replaced::Lost);
        }
        Ok(Replaced::Done(state.insert(name, bytes)))
    }

    async fn list(&self, directory: &str, after: Option<&str>, most: usize) -> Result<Vec<Meta>, Fault> {
        let prefix = format!("{directory}/");
        let state = self.lock();
        let inside = state.objects.range(prefix.clone()..).map_while(|(name, object)| {
            let name = name.strip_prefix(&prefix)?;
            Some((name, object))
        });
        let wanted =
            inside.filter(|(name, _)| !name.contains('/') && after.is_none_or(|after| *name > after));
        let meta = |(name, object): (&str, &Object)| Meta {
            name: name.to_owned(),
            bytes: object.bytes.len() as u64,
            modified: object.modified,
        };
        Ok(wanted.take(most).map(meta).collect())
    }

    async fn directories(&self, directory: &str) -> Result<Vec<String>, Fault> {
        let prefix = format!("{directory}/");
        let state = self.lock();
        let inside = state.objects.keys().filter_map(|name| {
            let (directory, _) = name.strip_prefix(&prefix)?.split_once('/')?;
            Some(directory.to_owned())
        });
        let mut found: Vec<String> = inside.collect();
        found.dedup();
        Ok(found)
    }

    async fn now(&self) -> Result<SystemTime, Fault> {
        Ok(self.lock().now)
    }

    async fn probe(&self, _direction: Direction) -> Result<(), Fault> {
        Ok(())
    }
}
