//! What a person asks a store about: which namespaces, how much, what would go.
//!
//! It has a backend of its own and works beside a running daemon, or without one. Each call of the store has its time.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::{StreamExt, TryStreamExt, stream};
use kvstore_types::{NamespaceDescriptor, NamespaceGeometry, NamespaceId};
use tokio::runtime::Runtime;

use crate::backend::patient::Patient;
use crate::backend::store::Surroundings;
use crate::backend::{Backend, Fault, Meta};
use crate::buffer::BufferPool;
use crate::format::{
    block_directories, decode_namespace, namespace_name, parse_block_name, temporary_directory,
};
use crate::listing::{EAGER, pages};
use crate::stats::Counters;
use crate::sweep::{Sweep, SweepNow, SweepReport, Sweeper, is_of_one_object, namespaces};
use crate::tier::make_backend;
use crate::{BackendSpec, SpecError, SweepSpec, WriterId};

/// Hears how far a listing is: objects that were found, and whether another one of a namespace's 256 directories is done with.
pub type Progress = dyn Fn(usize, bool) + Send + Sync;

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
    /// Whether its object can be read, or there is none.
    pub is_readable: bool,
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

impl Usage {
    fn add(&mut self, object: &Meta) {
        self.blocks += 1;
        self.bytes += object.bytes;
        let modified = object.modified;
        self.oldest = Some(self.oldest.map_or(modified, |oldest| oldest.min(modified)));
        self.newest = Some(self.newest.map_or(modified, |newest| newest.max(modified)));
    }
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
            let ids = namespaces(&*self.backend).await?;
            let found = stream::iter(ids).map(|id| self.described(id)).buffered(EAGER);
            found.try_collect().await
        })
    }

    async fn described(&self, id: NamespaceId) -> Result<NamespaceFound, Fault> {
        let (described, is_readable) = match self.backend.get_small(&namespace_name(id), 1 << 20).await {
            Ok(None) => (Err("it has no namespace object".to_owned()), true),
            Ok(Some(object)) => {
                let decoded = decode_namespace(&object.bytes);
                (decoded.map_err(|error| error.to_string()), true)
            }
            // The others can be told all the same.
            Err(fault) if is_of_one_object(&fault) => (Err(fault.to_string()), false),
            Err(fault) => return Err(fault),
        };
        Ok(NamespaceFound {
            id,
            described,
            is_readable,
        })
    }

    /// How much a namespace uses.
    pub fn du(&self, namespace: NamespaceId, progress: &Progress) -> Result<Usage, String> {
        self.wait(async {
            let mut usage = Usage::default();
            let mut pages = pages(&self.backend, block_directories(namespace), EAGER);
            while let Some(page) = pages.try_next().await? {
                for object in &page.objects {
                    if parse_block_name(namespace, &page.directory, &object.name).is_some() {
                        usage.add(object);
                    } else {
                        usage.unknown += 1;
                    }
                }
                progress(page.objects.len(), page.is_last);
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
        progress: &Progress,
    ) -> Result<SweepReport, String> {
        self.wait(async {
            let sweep = Sweep {
                backend: &self.backend,
                namespace,
                limits: sweep.limits,
                temporary_age: sweep.temporary_age,
                now,
                held: None,
                lists_at_once: EAGER,
                progress,
            };
            sweep.run().await.1
        })
    }

    /// Sweeps all namespaces now. Waits at most `wait` for another node's lease, and takes it over when it has expired. `stop`
    /// ends it early. Its own lease is given back in each case; `None`: it was stopped.
    pub fn gc(
        &self,
        sweep: &SweepSpec,
        wait: Duration,
        stop: impl Future<Output = ()>,
        progress: Arc<Progress>,
    ) -> Result<Option<SweepNow>, String> {
        let counters = Arc::new(Counters::default());
        let mut sweeper =
            Sweeper::new(self.backend.clone(), self.writer, sweep.clone(), counters).eager(progress);
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
        let told = |fault: Fault| format!("{}: {fault}", self.backend.describe());
        self.runtime.block_on(future).map_err(told)
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("store", &self.backend.describe())
            .finish_non_exhaustive()
    }
}
