//! What a person asks a store about: which namespaces, how much, what would go.
//!
//! It has a backend of its own and works beside a running daemon, or without one. Each call of the store has its time.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kvstore_types::{NamespaceDescriptor, NamespaceGeometry, NamespaceId};
use tokio::runtime::Runtime;

use crate::backend::patient::Patient;
use crate::backend::store::Surroundings;
use crate::backend::{Backend, Fault};
use crate::buffer::BufferPool;
use crate::format::{
    block_directories, decode_namespace, namespace_name, parse_block_name, temporary_directory,
};
use crate::stats::Counters;
use crate::sweep::{Sweep, SweepNow, SweepReport, Sweeper, namespaces};
use crate::tier::make_backend;
use crate::{BackendSpec, SpecError, SweepSpec, WriterId};

/// Objects that are listed together.
const LIST_AT_ONCE: usize = 1000;

/// An open store.
pub struct Admin {
    backend: Arc<dyn Backend>,
    writer: WriterId,
    runtime: Runtime,
}

/// A namespace at the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespaceFound {
    /// Its name.
    pub id: NamespaceId,
    /// What it stands for and what its blocks look like; else why nobody knows.
    pub described: Result<(NamespaceDescriptor, NamespaceGeometry), String>,
}

/// How much of a store a namespace uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Usage {
    /// Blocks.
    pub blocks: u64,
    /// Bytes of their objects.
    pub bytes: u64,
    /// Files that have no name yet.
    pub temporaries: u64,
    /// Objects in the place of blocks that are none.
    pub unknown: u64,
    /// When the block that was written first was, by the store's clock.
    pub oldest: Option<SystemTime>,
    /// And the one that was written last.
    pub newest: Option<SystemTime>,
}

impl Admin {
    /// Opens a store for questions. What the store does not answer within `patience` fails. `writer` sweeps, if that is asked
    /// for: no other process may be the same.
    pub fn open(spec: &BackendSpec, writer: WriterId, patience: Duration) -> Result<Self, SpecError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| SpecError::Threads("admin".to_owned(), error))?;
        let buffers = BufferPool::new(0);
        let backend = make_backend(spec, "admin", writer, &buffers, &Surroundings::real())?;
        Ok(Self {
            backend: Arc::new(Patient::new(backend, patience)),
            writer,
            runtime,
        })
    }

    /// The namespaces there are.
    pub fn ls(&self) -> Result<Vec<NamespaceFound>, String> {
        self.wait(async {
            let mut found = Vec::new();
            for id in namespaces(&*self.backend).await? {
                let object = self.backend.get_small(&namespace_name(id), 1 << 20).await?;
                let described = match object {
                    None => Err("it has no namespace object".to_owned()),
                    Some(object) => decode_namespace(&object.bytes).map_err(|error| error.to_string()),
                };
                found.push(NamespaceFound { id, described });
            }
            Ok(found)
        })
    }

    /// How much a namespace uses.
    pub fn du(&self, namespace: NamespaceId) -> Result<Usage, String> {
        self.wait(async {
            let mut usage = Usage::default();
            for directory in block_directories(namespace) {
                let mut after = None;
                loop {
                    let page = self
                        .backend
                        .list(&directory, after.as_deref(), LIST_AT_ONCE)
                        .await?;
                    let Some(last) = page.last() else { break };
                    after = Some(last.name.clone());
                    for object in page {
                        if parse_block_name(namespace, &directory, &object.name).is_none() {
                            usage.unknown += 1;
                            continue;
                        }
                        usage.blocks += 1;
                        usage.bytes += object.bytes;
                        let modified = object.modified;
                        usage.oldest = Some(usage.oldest.map_or(modified, |oldest| oldest.min(modified)));
                        usage.newest = Some(usage.newest.map_or(modified, |newest| newest.max(modified)));
                    }
                }
            }
            let directory = temporary_directory(namespace);
            let temporaries = self.backend.list(&directory, None, usize::MAX).await?;
            usage.temporaries = temporaries.len() as u64;
            Ok(usage)
        })
    }

    /// What a sweep would remove by these limits, as of `now` by the store's clock. Removes nothing.
    pub fn gc_dry_run(
        &self,
        namespace: NamespaceId,
        sweep: &SweepSpec,
        now: SystemTime,
    ) -> Result<SweepReport, String> {
        self.wait(async {
            let sweep = Sweep {
                backend: &self.backend,
                namespace,
                limits: sweep.limits,
                temporary_age: sweep.temporary_age,
                now,
                held: None,
            };
            sweep.run().await.map(|(report, _)| report)
        })
    }

    /// Sweeps all namespaces now. Waits at most `wait` for another node's lease, and takes it over when it has expired. `stop`
    /// ends it early. Its own lease is given back in each case; `None`: it was stopped.
    pub fn gc(
        &self,
        sweep: &SweepSpec,
        wait: Duration,
        stop: impl Future<Output = ()>,
    ) -> Result<Option<SweepNow>, String> {
        let counters = Arc::new(Counters::default());
        let mut sweeper = Sweeper::new(self.backend.clone(), self.writer, sweep.clone(), counters);
        self.wait(async {
            let swept = tokio::select! {
                swept = sweeper.sweep_now(Instant::now() + wait) => Some(swept?),
                () = stop => None,
            };
            if swept.is_none() {
                sweeper.give_back().await;
            }
            Ok(swept)
        })
    }

    fn wait<T>(&self, future: impl Future<Output = Result<T, Fault>>) -> Result<T, String> {
        self.runtime.block_on(future).map_err(|fault| fault.to_string())
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("store", &self.backend.describe())
            .finish_non_exhaustive()
    }
}
