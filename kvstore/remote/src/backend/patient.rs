//! A store that is waited for only so long, call by call: for a person who wants an answer or a reason.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::timeout;

use super::{Backend, Body, Fault, Hold, Meta, Mode, Replaced, Version, Versioned, Written};
use crate::{Direction, FaultKind};

/// The store in front of another one.
pub(crate) struct Patient {
    inner: Arc<dyn Backend>,
    patience: Duration,
}

impl Patient {
    /// Each call of `inner` has so long.
    pub(crate) fn new(inner: Arc<dyn Backend>, patience: Duration) -> Self {
        Self { inner, patience }
    }

    fn late(&self) -> Fault {
        let text = format!("the store did not answer within {:?}", self.patience);
        Fault::new(FaultKind::Stalled, text)
    }

    async fn timed<T>(&self, call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        timeout(self.patience, call)
            .await
            .unwrap_or_else(|_| Err(self.late()))
    }
}

#[async_trait]
impl Backend for Patient {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    async fn put(&self, name: &str, object: Bytes, mode: Mode, hold: Hold) -> Result<Written, Fault> {
        self.timed(self.inner.put(name, object, mode, hold)).await
    }

    async fn get(&self, name: &str, range: Range<u64>, hold: Hold) -> Result<Option<Body>, Fault> {
        self.timed(self.inner.get(name, range, hold)).await
    }

    async fn exist(&self, names: &[String], hold: Hold) -> Vec<Result<bool, Fault>> {
        timeout(self.patience, self.inner.exist(names, hold))
            .await
            .unwrap_or_else(|_| vec![Err(self.late()); names.len()])
    }

    async fn delete(&self, names: Vec<String>, hold: Hold) -> Result<u64, Fault> {
        self.timed(self.inner.delete(names, hold)).await
    }

    async fn put_small(&self, name: &str, bytes: Bytes) -> Result<Written, Fault> {
        self.timed(self.inner.put_small(name, bytes)).await
    }

    async fn get_small(&self, name: &str, bytes_max: u64) -> Result<Option<Versioned>, Fault> {
        self.timed(self.inner.get_small(name, bytes_max)).await
    }

    async fn replace_small(
        &self,
        name: &str,
        bytes: Bytes,
        expected: Option<Version>,
    ) -> Result<Replaced, Fault> {
        self.timed(self.inner.replace_small(name, bytes, expected)).await
    }

    async fn list(&self, directory: &str, after: Option<&str>, most: usize) -> Result<Vec<Meta>, Fault> {
        self.timed(self.inner.list(directory, after, most)).await
    }

    async fn directories(&self, directory: &str) -> Result<Vec<String>, Fault> {
        self.timed(self.inner.directories(directory)).await
    }

    async fn now(&self) -> Result<SystemTime, Fault> {
        self.timed(self.inner.now()).await
    }

    async fn probe(&self, direction: Direction) -> Result<(), Fault> {
        self.timed(self.inner.probe(direction)).await
    }
}
