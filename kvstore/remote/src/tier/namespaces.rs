//! Namespaces that this node has to do with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvstore_types::{BlockKey, NamespaceDescriptor, NamespaceGeometry, NamespaceId};
use tokio::sync::OnceCell;

use crate::backend::{Backend, Fault, Written};
use crate::format::{decode_namespace, encode_namespace, namespace_name};
use crate::{FaultKind, Refusal};

/// Most bytes of a namespace's object that are read.
const OBJECT_BYTES_MAX: u64 = 1 << 20;

/// The namespaces.
#[derive(Default)]
pub(super) struct Namespaces(Mutex<HashMap<NamespaceId, Arc<Namespace>>>);

/// One namespace.
pub(super) struct Namespace {
    id: NamespaceId,
    descriptor: NamespaceDescriptor,
    geometry: NamespaceGeometry,
    /// Whether the store keeps the same under its name. Asked once, by the first who needs it.
    kept: OnceCell<bool>,
    /// When the store kept nothing.
    absent: Mutex<Option<Instant>>,
}

impl Namespaces {
    /// Makes a namespace known.
    pub(super) fn add(&self, descriptor: NamespaceDescriptor, geometry: NamespaceGeometry) {
        let id = descriptor.id();
        self.lock().entry(id).or_insert_with(|| {
            Arc::new(Namespace {
                id,
                descriptor,
                geometry,
                kept: OnceCell::new(),
                absent: Mutex::new(None),
            })
        });
    }

    /// Forgets a namespace.
    pub(super) fn remove(&self, id: NamespaceId) {
        self.lock().remove(&id);
    }

    pub(super) fn get(&self, id: NamespaceId) -> Result<Arc<Namespace>, Refusal> {
        self.lock().get(&id).cloned().ok_or(Refusal::UnknownNamespace)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NamespaceId, Arc<Namespace>>> {
        // Every change is whole before the lock is given up.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Namespace {
    /// Bytes of a block's payload.
    pub(super) fn payload_bytes(&self, key: &BlockKey) -> Result<u64, Refusal> {
        let group = self.geometry.groups.get(usize::from(key.group.0));
        group.map(|group| group.slot_bytes).ok_or(Refusal::Malformed)
    }

    /// Whether the store is known to keep the same under the namespace's name; `None`: nobody asked yet.
    pub(super) fn is_kept(&self) -> Option<bool> {
        self.kept.get().copied()
    }

    /// The same for those who only read. Where the store keeps nothing it has no blocks either, and that is not asked again
    /// for a while.
    pub(super) fn may_be_read(&self, ask_every: Duration) -> Option<bool> {
        let is_absent = |absent: Instant| absent.elapsed() < ask_every;
        self.is_kept()
            .or_else(|| self.absent().is_some_and(is_absent).then_some(true))
    }

    /// Asks the store whether it keeps something else under the name.
    pub(super) async fn check(&self, backend: &dyn Backend) -> Result<bool, Fault> {
        let name = namespace_name(self.id);
        let Some(found) = backend.get_small(&name, OBJECT_BYTES_MAX).await? else {
            *self.absent() = Some(Instant::now());
            return Ok(true);
        };
        let is_kept = self.is_same(&found.bytes);
        Ok(*self.kept.get_or_init(|| async { is_kept }).await)
    }

    fn absent(&self) -> MutexGuard<'_, Option<Instant>> {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that the store keeps what the namespace stands for; `false`: it keeps something else.
    pub(super) async fn keep(&self, backend: &dyn Backend) -> Result<bool, Fault> {
        let kept = self.kept.get_or_try_init(|| self.compare(backend)).await?;
        Ok(*kept)
    }

    async fn compare(&self, backend: &dyn Backend) -> Result<bool, Fault> {
        let name = namespace_name(self.id);
        let bytes = encode_namespace(&self.descriptor, &self.geometry);
        if let Written::New = backend.put_small(&name, bytes.into()).await? {
            return Ok(true);
        }
        let found = backend.get_small(&name, OBJECT_BYTES_MAX).await?;
        let Some(found) = found else {
            return Err(Fault::new(FaultKind::Server, "a namespace is there and is not"));
        };
        Ok(self.is_same(&found.bytes))
    }

    /// Whether an object says what this namespace is; if not, a person has to hear of it.
    fn is_same(&self, found: &[u8]) -> bool {
        if found == encode_namespace(&self.descriptor, &self.geometry) {
            return true;
        }
        let what = match decode_namespace(found) {
            Ok((descriptor, _)) => match self.descriptor.difference(&descriptor) {
                Some(tag) => format!("field {tag:?} differs"),
                None => "the geometry differs".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        tracing::error!(
            namespace = %self.id,
            object = namespace_name(self.id),
            problem = what,
            "the remote store keeps something else under a namespace's name: none of its blocks are used"
        );
        false
    }
}
