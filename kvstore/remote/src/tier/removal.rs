//! Removing blocks from the store because a person wants it: for all nodes at once.
//!
//! It needs no lease: of two who remove the same, one finds it gone, and who reads a block meanwhile has it whole or misses.
//! What this node knows of the blocks is forgotten with them. Other nodes find out when they ask for them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use kvstore_types::{BlockKey, NamespaceId};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::shared::Shared;
use crate::backend::patient::Patient;
use crate::backend::{Backend, Fault, Hold};
use crate::format::{HEADER_BYTES, block_directories, block_name, parse_block_name};
use crate::listing::{EAGER, Page, pages};
use crate::sweep::namespaces;

/// Blocks that are removed together.
const REMOVED_AT_ONCE: usize = 200;

/// Pieces that may wait to be heard: whoever does not listen any more is noticed at the next one.
const PIECES_WAITING: usize = 1;

/// What is to be removed from a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The blocks of all namespaces below the tier's prefix, whoever wrote them.
    All,
    /// The blocks of a namespace. What it stands for stays there.
    Namespace(NamespaceId),
    /// These blocks.
    Blocks(Vec<BlockKey>),
}

/// A piece of a removal, or of counting what one would remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Blocks.
    pub blocks: u64,
    /// Bytes of their objects.
    pub bytes: u64,
    /// Whether nothing comes behind it.
    pub is_last: bool,
}

/// The way to the store of an open tier, for work that takes long. Good for as long as the tier is open.
#[derive(Clone)]
pub struct Remover {
    shared: Arc<Shared>,
    runtime: Handle,
}

impl Remover {
    pub(super) fn new(shared: Arc<Shared>, runtime: Handle) -> Self {
        Self { shared, runtime }
    }

    /// Removes blocks, or counts them, one bounded piece after the other. It is complete when the last piece has come; an error, or a
    /// channel that ends before, says that it is not. Whoever drops the channel has stopped it.
    pub fn remove(&self, what: Removal, is_dry_run: bool) -> mpsc::Receiver<Result<Removed, String>> {
        let (pieces, heard) = mpsc::channel(PIECES_WAITING);
        let work = Work {
            backend: self.patient(),
            shared: self.shared.clone(),
            is_dry_run,
            pieces: pieces.clone(),
        };
        self.runtime.spawn(async move {
            let end = match work.carry_out(what).await {
                Ok(()) => Ok(Removed {
                    is_last: true,
                    ..Removed::default()
                }),
                Err(Stopped::Fault(fault)) => Err(fault.to_string()),
                Err(Stopped::Unheard) => return,
            };
            let _ = pieces.send(end).await;
        });
        heard
    }

    /// The namespaces that are at the store.
    pub async fn namespaces(&self) -> Result<Vec<NamespaceId>, String> {
        let backend = self.patient();
        let found = self.runtime.spawn(async move { namespaces(&*backend).await });
        let found = found.await.map_err(|_| "the tier was closed".to_owned())?;
        found.map_err(|fault| fault.to_string())
    }

    /// The store, which gets as much time for each call as a store of a block has.
    fn patient(&self) -> Arc<dyn Backend> {
        let patience: Duration = self.shared.spec.timing.write;
        Arc::new(Patient::new(self.shared.backend.clone(), patience))
    }
}

impl std::fmt::Debug for Remover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remover").finish_non_exhaustive()
    }
}

/// Why a removal ended early.
enum Stopped {
    /// The store failed.
    Fault(Fault),
    /// Nobody listens any more.
    Unheard,
}

impl From<Fault> for Stopped {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// One removal.
struct Work {
    backend: Arc<dyn Backend>,
    shared: Arc<Shared>,
    is_dry_run: bool,
    pieces: mpsc::Sender<Result<Removed, String>>,
}

/// A block that is there, with the bytes of its object.
type Found = (BlockKey, u64);

impl Work {
    async fn carry_out(&self, what: Removal) -> Result<(), Stopped> {
        match what {
            Removal::All => {
                for namespace in namespaces(&*self.backend).await? {
                    self.remove_namespace(namespace).await?;
                }
            }
            Removal::Namespace(namespace) => self.remove_namespace(namespace).await?,
            Removal::Blocks(keys) => self.remove_blocks(keys).await?,
        }
        Ok(())
    }

    async fn remove_namespace(&self, namespace: NamespaceId) -> Result<(), Stopped> {
        let mut pages = pages(&self.backend, block_directories(namespace), EAGER);
        while let Some(Page {
            directory, objects, ..
        }) = pages.try_next().await?
        {
            let blocks = objects.iter().filter_map(|object| {
                let key = parse_block_name(namespace, &directory, &object.name)?;
                Some((key, object.bytes))
            });
            for some in blocks.collect::<Vec<Found>>().chunks(REMOVED_AT_ONCE) {
                self.take(some).await?;
            }
        }
        Ok(())
    }

    /// In their order, so that what is left of a prefix that is named from its end can still be found while this goes on.
    async fn remove_blocks(&self, keys: Vec<BlockKey>) -> Result<(), Stopped> {
        let mut seen = HashSet::new();
        let keys: Vec<BlockKey> = keys.into_iter().filter(|key| seen.insert(*key)).collect();
        for some in keys.chunks(REMOVED_AT_ONCE) {
            let names: Vec<String> = some.iter().map(block_name).collect();
            let hold: Hold = Arc::new(());
            let answers = self.backend.exist(&names, hold).await.into_iter();
            let answers = answers.collect::<Result<Vec<bool>, Fault>>()?;
            let there = some.iter().zip(answers).filter(|&(_, is_there)| is_there);
            let found: Vec<Found> = there.map(|(key, _)| (*key, self.object_bytes(key))).collect();
            if !found.is_empty() {
                self.take(&found).await?;
            }
        }
        Ok(())
    }

    /// How long a block's object is, as far as its namespace is known here.
    fn object_bytes(&self, key: &BlockKey) -> u64 {
        let namespace = self.shared.namespaces.get(key.namespace).ok();
        let payload = namespace.and_then(|namespace| namespace.payload_bytes(key).ok());
        payload.map_or(0, |payload| HEADER_BYTES + payload)
    }

    /// Removes a few, or only counts them.
    async fn take(&self, found: &[Found]) -> Result<(), Stopped> {
        if !self.is_dry_run {
            let names = found.iter().map(|(key, _)| block_name(key)).collect();
            let hold: Hold = Arc::new(());
            self.backend.delete(names, hold).await?;
            let (now, mut existence) = (Instant::now(), self.shared.existence());
            for (key, _) in found {
                existence.set_missing(now, *key);
            }
        }
        let piece = Removed {
            blocks: found.len() as u64,
            bytes: found.iter().map(|(_, bytes)| bytes).sum(),
            is_last: false,
        };
        self.pieces.send(Ok(piece)).await.map_err(|_| Stopped::Unheard)
    }
}
