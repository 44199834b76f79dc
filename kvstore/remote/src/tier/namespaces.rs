//! Namespaces that this node has to do with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvstore_types::{BlockKey, NamespaceDescriptor, NamespaceGeometry, NamespaceId};

use crate::backend::{Backend, Fault, Written};
use crate::format::{decode_namespace, encode_namespace, namespace_name};
use crate::{FaultKind, Refusal};

/// Most bytes of a namespace's object that are read.
const OBJECT_BYTES_MAX: u64 = 1 << 20;

/// The namespaces.
#[derive(Default)]
pub(super) struct Namespaces(Mutex<HashMap<NamespaceId, Arc<Namespace>>>);

/// How long a namespace is not used after the store was seen to keep something else: for the first time, and at most. What was
/// wrong with the object may have been mended since.
const DIFFERS_MIN: Duration = Duration::from_secs(5);
const DIFFERS_MAX: Duration = Duration::from_mins(1);

/// One namespace.
pub(super) struct Namespace {
    id: NamespaceId,
    descriptor: NamespaceDescriptor,
    geometry: NamespaceGeometry,
    /// What the store was seen to keep under its name.
    seen: Mutex<Seen>,
    /// Held by the one who asks.
    asking: tokio::sync::Mutex<()>,
    /// When the store kept nothing.
    absent: Mutex<Option<Instant>>,
}

/// What a store keeps under a namespace's name, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// Nobody asked yet.
    Unknown,
    /// What the namespace stands for. That never changes.
    Same,
    /// Something else.
    Differs {
        /// When it is asked again.
        until: Instant,
        /// How long it was believed.
        wait: Duration,
        /// What is wrong with it.
        problem: String,
    },
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
                seen: Mutex::new(Seen::Unknown),
                asking: tokio::sync::Mutex::default(),
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

    /// Whether the store is known to keep the same under the namespace's name; `None`: nobody asked yet, or it is to be asked
    /// again.
    pub(super) fn is_kept(&self, now: Instant) -> Option<bool> {
        match &*self.seen() {
            Seen::Same => Some(true),
            Seen::Differs { until, .. } if now < *until => Some(false),
            Seen::Differs { .. } | Seen::Unknown => None,
        }
    }

    /// The same for those who only read. Where the store keeps nothing it has no blocks either, and that is not asked again
    /// for a while.
    pub(super) fn may_be_read(&self, ask_every: Duration) -> Option<bool> {
        let is_absent = |absent: Instant| absent.elapsed() < ask_every;
        self.is_kept(Instant::now())
            .or_else(|| self.absent().is_some_and(is_absent).then_some(true))
    }

    /// Asks the store whether it keeps something else under the name.
    pub(super) async fn check(&self, backend: &dyn Backend) -> Result<bool, Fault> {
        let _asking = self.asking.lock().await;
        if let Some(is_kept) = self.is_kept(Instant::now()) {
            return Ok(is_kept);
        }
        let is_same = self.compare(backend).await?;
        if is_same.is_none() {
            *self.absent() = Some(Instant::now());
        }
        Ok(is_same.unwrap_or(true))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn absent(&self) -> MutexGuard<'_, Option<Instant>> {
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sees to it that the store keeps what the namespace stands for; `false`: it keeps something else.
    pub(super) async fn keep(&self, backend: &dyn Backend) -> Result<bool, Fault> {
        let _asking = self.asking.lock().await;
        if let Some(is_kept) = self.is_kept(Instant::now()) {
            return Ok(is_kept);
        }
        let name = namespace_name(self.id);
        let bytes = encode_namespace(&self.descriptor, &self.geometry);
        if let Written::New = backend.put_small(&name, bytes.into()).await? {
            self.judge(Ok(()));
            return Ok(true);
        }
        let gone = || Fault::new(FaultKind::Server, format!("{name} is there and is not"));
        self.compare(backend).await?.ok_or_else(gone)
    }

    /// Compares what the store keeps; `None`: it keeps nothing. What differs is read once more before it is believed.
    async fn compare(&self, backend: &dyn Backend) -> Result<Option<bool>, Fault> {
        let name = namespace_name(self.id);
        let mut compared = Ok(());
        for _ in 0..2 {
            let Some(found) = backend.get_small(&name, OBJECT_BYTES_MAX).await? else {
                return Ok(None);
            };
            compared = self.difference(&found.bytes);
            if compared.is_ok() {
                break;
            }
        }
        Ok(Some(self.judge(compared)))
    }

    /// What is wrong with an object that should say what this namespace is.
    fn difference(&self, found: &[u8]) -> Result<(), String> {
        if found == encode_namespace(&self.descriptor, &self.geometry) {
            return Ok(());
        }
        Err(match decode_namespace(found) {
            Ok((descriptor, _)) => match self.descriptor.difference(&descriptor) {
                Some(tag) => format!("field {tag:?} differs"),
                None => "the geometry differs".to_owned(),
            },
            Err(error) => error.to_string(),
        })
    }

    /// Keeps in mind how a comparison ended, and tells people if that is new: whether it is the same.
    fn judge(&self, compared: Result<(), String>) -> bool {
        let mut seen = self.seen();
        let before = match &*seen {
            Seen::Differs { wait, problem, .. } => Some((*wait, problem.clone())),
            Seen::Unknown | Seen::Same => None,
        };
        let (namespace, object) = (self.id, namespace_name(self.id));
        let Err(problem) = compared else {
            *seen = Seen::Same;
            if before.is_some() {
                tracing::info!(%namespace, object, "the remote store keeps a namespace's object again: its blocks are used");
            }
            return true;
        };
        if before.as_ref().is_none_or(|(_, before)| *before != problem) {
            tracing::error!(
                %namespace,
                object,
                problem,
                "the remote store keeps something else under a namespace's name: none of its blocks are used until it is mended"
            );
        }
        let wait = before.map_or(DIFFERS_MIN, |(wait, _)| (wait * 2).min(DIFFERS_MAX));
        let until = Instant::now() + wait;
        *seen = Seen::Differs { until, wait, problem };
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryStore;
    use crate::testing::namespace;

    /// One bad answer switched a namespace off for as long as the daemon lived.
    #[tokio::test]
    async fn an_object_that_is_mended_is_used_again_after_a_while() {
        let (store, name) = (MemoryStore::default(), namespace_name(namespace().0.id()));
        let (namespaces, (descriptor, geometry)) = (Namespaces::default(), namespace());
        let id = descriptor.id();
        namespaces.add(descriptor, geometry);
        let one = namespaces.get(id).unwrap();
        let bytes = encode_namespace(&one.descriptor, &one.geometry);
        let mut bad = bytes.clone();
        bad[20] ^= 1;
        store.put_small(&name, bad.into()).await.unwrap();
        let mut waits = Vec::new();
        for _ in 0..6 {
            assert_eq!(one.check(&store).await, Ok(false));
            assert_eq!(one.keep(&store).await, Ok(false));
            let now = Instant::now();
            assert_eq!(one.is_kept(now), Some(false));
            let Seen::Differs { until, wait, .. } = &mut *one.seen() else {
                panic!("it differs")
            };
            assert!(*until <= now + *wait);
            waits.push(wait.as_secs());
            *until = now;
        }
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        assert_eq!(one.is_kept(Instant::now()), None, "it is to be asked again");
        assert!(store.tamper(&name, |object| object.copy_from_slice(&bytes)));
        assert_eq!(one.check(&store).await, Ok(true));
        assert_eq!(one.is_kept(Instant::now()), Some(true));
    }
}
