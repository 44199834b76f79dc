//! An object store: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.

mod azure;
mod build;
mod credentials;
mod endpoint;
mod fault;
mod gcs;
mod http;
mod lacks;
mod s3;
#[cfg(test)]
pub(crate) mod tests;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, PutResult,
    UpdateVersion,
};

use self::fault::{Answer, asking, chain_text, fault};
use super::{Backend, Body, Fault, Hold, Meta, Mode, Replaced, Version, Versioned, Written};
use crate::format::{ROOT, hex};
use crate::{Direction, FaultKind, SpecError, StoreSpec, WriterId};

pub(crate) use self::build::Surroundings;
pub use self::endpoint::Endpoint;
pub use self::lacks::Lack;
pub(crate) use self::lacks::lacks;

/// How often it is looked whether the bucket is there while everything misses.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Heads of one call that are under way at a time: each waits for the network and costs little else.
const HEADS_AT_ONCE: usize = 64;

/// The backend.
pub(crate) struct StoreBackend {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    what: String,
    probe_name: String,
    /// When the bucket was last known to be there, or looked for.
    looked: Mutex<Option<Instant>>,
}

impl StoreBackend {
    /// Prepares a client. Nothing is asked of the store.
    pub(crate) fn new(
        spec: &StoreSpec,
        surroundings: &Surroundings<'_>,
        writer: &WriterId,
    ) -> Result<Self, SpecError> {
        Ok(Self {
            store: build::build(spec, surroundings)?,
            prefix: Path::parse(&spec.prefix)
                .map_err(|error| SpecError::Store(format!("prefix {:?}: {error}", spec.prefix)))?,
            what: spec.to_string(),
            // One of 256 names: pods whose node has another name at each start leave no more of them behind.
            probe_name: format!("{ROOT}/probe-{}", hex(&writer.node()[..1])),
            looked: Mutex::new(None),
        })
    }

    fn path(&self, name: &str) -> Path {
        // Names are made of hexadecimal digits, slashes and letters of ours: nothing in them has to be escaped.
        Path::from(format!("{}/{name}", self.prefix))
    }

    async fn put_bytes(&self, name: &str, payload: PutPayload, mode: PutMode) -> Answer<PutResult> {
        let options = PutOptions::from(mode);
        asking(self.store.put_opts(&self.path(name), payload, options)).await
    }

    async fn create(&self, name: &str, payload: PutPayload) -> Result<Written, Fault> {
        let answer = self.put_bytes(name, payload, PutMode::Create).await;
        match &answer.result {
            Ok(_) => Ok(Written::New),
            // S3's 409 has the same error and means that another writer is at it and may yet fail. Azure's says that the object is there.
            Err(error @ object_store::Error::AlreadyExists { .. })
                if answer.status() != Some(409) || chain_text(error).contains("BlobAlreadyExists") =>
            {
                Ok(Written::AlreadyPresent)
            }
            Err(error) => Err(fault("put", error, &answer.seen)),
        }
    }

    async fn get_range(&self, name: &str, range: Option<Range<u64>>) -> Answer<GetResult> {
        let options = GetOptions::new().with_range(range.map(GetRange::Bounded));
        let path = self.path(name);
        asking(self.store.get_opts(&path, options)).await
    }

    /// The answer to a head has no body, so one that was refused does not say why: one of them is asked for again, with a body.
    async fn name_faults(&self, names: &[String], found: &mut [Result<bool, Fault>]) {
        let mute = [FaultKind::Denied, FaultKind::Protocol];
        let is_mute =
            |result: &Result<bool, Fault>| result.as_ref().is_err_and(|fault| mute.contains(&fault.kind));
        let Some(at) = found.iter().position(is_mute) else {
            return;
        };
        let told = self.get_range(&names[at], Some(0..1)).await.or_fault("get");
        if let Err(told) = told
            && told.kind.is_certain()
        {
            for result in found.iter_mut().filter(|result| is_mute(result)) {
                *result = Err(told.clone());
            }
        }
    }

    /// Where all heads missed, the bucket may be gone: every few seconds something is asked for whose answer tells. It is done by a call that is
    /// due anyway, as a look at a mount is, so an idle tier asks nothing.
    async fn look_for_bucket(&self, found: &mut [Result<bool, Fault>]) {
        let is_there = found.iter().any(|answer| matches!(answer, Ok(true)));
        let is_missing = |answer: &Result<bool, Fault>| matches!(answer, Ok(false));
        if is_there {
            return self.note_look();
        }
        if !found.iter().any(is_missing) || !self.begins_look() {
            return;
        }
        if let Err(fault) = self.probe(Direction::Read).await
            && fault.kind == FaultKind::NotThere
        {
            for answer in found.iter_mut().filter(|answer| is_missing(answer)) {
                *answer = Err(fault.clone());
            }
        }
    }

    /// Whether it is time to look for the bucket. Others that miss at the same time do not look as well.
    fn begins_look(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
        if is_due {
            *looked = Some(Instant::now());
        }
        is_due
    }

    /// It was just seen.
    fn note_look(&self) {
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    async fn get_body(&self, name: &str, range: Range<u64>) -> Result<Option<Body>, Fault> {
        let wanted = range.end.saturating_sub(range.start);
        let answer = self.get_range(name, Some(range.clone())).await;
        let seen = answer.seen.clone();
        let found = match answer.result {
            Ok(found) => found,
            Err(error) => {
                return match fault("get", &error, &seen) {
                    // There is nothing where the range begins: the object is shorter than any block.
                    _ if seen.status() == Some(416) => Ok(Some(Body {
                        pieces: Vec::new(),
                        object_bytes: 0,
                    })),
                    fault if fault.kind == FaultKind::NotThere && !is_bucket_gone(&fault.text) => Ok(None),
                    fault => Err(fault),
                };
            }
        };
        let object_bytes = found.meta.size;
        let promised = object_bytes.min(range.end).saturating_sub(range.start);
        let (mut body, mut pieces, mut bytes) = (found.into_stream(), Vec::new(), 0);
        while let Some(piece) = body
            .try_next()
            .await
            .map_err(|error| fault("get", &error, &seen))?
        {
            bytes += piece.len() as u64;
            pieces.push(piece);
            if bytes > wanted {
                return Err(Fault::new(
                    FaultKind::Protocol,
                    "get: more bytes than were asked for",
                ));
            }
        }
        if bytes < promised {
            let text = format!("get: {bytes} of {promised} bytes came");
            return Err(Fault::new(FaultKind::Truncated, text));
        }
        Ok(Some(Body { pieces, object_bytes }))
    }
}

#[async_trait]
impl Backend for StoreBackend {
    fn describe(&self) -> String {
        self.what.clone()
    }

    async fn put(&self, name: &str, object: Bytes, mode: Mode, _hold: Hold) -> Result<Written, Fault> {
        let payload = PutPayload::from(object);
        match mode {
            Mode::Create => self.create(name, payload).await,
            Mode::Replace => {
                let answer = self.put_bytes(name, payload, PutMode::Overwrite).await;
                answer.or_fault("put").map(|_| Written::New)
            }
        }
    }

    async fn get(&self, name: &str, range: Range<u64>, _hold: Hold) -> Result<Option<Body>, Fault> {
        self.get_body(name, range).await
    }

    async fn exist(&self, names: &[String], _hold: Hold) -> Vec<Result<bool, Fault>> {
        let paths: Vec<Path> = names.iter().map(|name| self.path(name)).collect();
        let head = |path: Path| async move {
            let answer = asking(self.store.head(&path)).await;
            match &answer.result {
                Ok(_) => Ok(true),
                // A head has no body, so a bucket that is not there looks the same.
                Err(object_store::Error::NotFound { .. }) => Ok(false),
                Err(error) => Err(fault("head", error, &answer.seen)),
            }
        };
        let heads = stream::iter(paths).map(head).buffered(HEADS_AT_ONCE);
        let mut found: Vec<Result<bool, Fault>> = heads.collect().await;
        self.name_faults(names, &mut found).await;
        self.look_for_bucket(&mut found).await;
        found
    }

    async fn delete(&self, names: Vec<String>, _hold: Hold) -> Result<u64, Fault> {
        let paths: Vec<_> = names.iter().map(|name| Ok(self.path(name))).collect();
        let all = async {
            let mut results = self.store.delete_stream(stream::iter(paths).boxed());
            let (mut removed, mut failed) = (0, None);
            while let Some(result) = results.next().await {
                match result {
                    Ok(_) => removed += 1,
                    Err(object_store::Error::NotFound { source, .. })
                        if !is_bucket_gone(&format!("{source:?}")) => {}
                    Err(error) => failed = Some(error),
                }
            }
            failed.map_or(Ok(removed), Err)
        };
        asking(all).await.or_fault("delete")
    }

    async fn put_small(&self, name: &str, bytes: Bytes) -> Result<Written, Fault> {
        self.create(name, bytes.into()).await
    }

    async fn get_small(&self, name: &str, bytes_max: u64) -> Result<Option<Versioned>, Fault> {
        let answer = self.get_range(name, None).await;
        let seen = answer.seen.clone();
        let found = match answer.result {
            Ok(found) => found,
            Err(error) => {
                let fault = fault("get", &error, &seen);
                let is_missing = fault.kind == FaultKind::NotThere && !is_bucket_gone(&fault.text);
                return if is_missing { Ok(None) } else { Err(fault) };
            }
        };
        let meta = found.meta.clone();
        if meta.size > bytes_max {
            let text = format!("{name} has {} bytes, want at most {bytes_max}", meta.size);
            return Err(Fault::new(FaultKind::NameTaken, text));
        }
        let bytes = found.bytes().await.map_err(|error| fault("get", &error, &seen))?;
        Ok(Some(Versioned {
            bytes,
            version: version(meta.e_tag, meta.version),
            modified: meta.last_modified.into(),
        }))
    }

    async fn replace_small(
        &self,
        name: &str,
        bytes: Bytes,
        expected: Option<Version>,
    ) -> Result<Replaced, Fault> {
        let mode = expected.map_or(PutMode::Create, |version| PutMode::Update(update(&version)));
        let answer = self.put_bytes(name, bytes.into(), mode).await;
        match answer.result {
            Ok(done) => Ok(Replaced::Done(version(done.e_tag, done.version))),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. }
                | object_store::Error::NotModified { .. },
            ) => Ok(Replaced::Lost),
            Err(error) => match fault("put", &error, &answer.seen) {
                // What was to be replaced has been removed.
                fault if fault.kind == FaultKind::NotThere && !is_bucket_gone(&fault.text) => {
                    Ok(Replaced::Lost)
                }
                fault => Err(fault),
            },
        }
    }

    async fn list(&self, directory: &str, after: Option<&str>, most: usize) -> Result<Vec<Meta>, Fault> {
        let prefix = self.path(directory);
        let found = match after {
            Some(after) => {
                let offset = Path::from(format!("{prefix}/{after}"));
                self.store.list_with_offset(Some(&prefix), &offset)
            }
            None => self.store.list(Some(&prefix)),
        };
        let inside = format!("{prefix}/");
        let wanted = found.try_filter_map(|meta| {
            let name = meta.location.as_ref().strip_prefix(&inside);
            // A store that does not know where to begin, or begins with it, gives what was seen again: a listing would never end.
            let is_new = |name: &&str| after.is_none_or(|after| *name > after);
            let name = name
                .filter(|name| !name.contains('/'))
                .filter(is_new)
                .map(str::to_owned);
            let meta = name.map(|name| Meta {
                name,
                bytes: meta.size,
                modified: SystemTime::from(meta.last_modified),
            });
            async { Ok(meta) }
        });
        asking(wanted.take(most).try_collect()).await.or_fault("list")
    }

    async fn directories(&self, directory: &str) -> Result<Vec<String>, Fault> {
        let prefix = self.path(directory);
        let found = asking(self.store.list_with_delimiter(Some(&prefix))).await;
        let found = found.or_fault("list")?;
        let names = found.common_prefixes.iter().filter_map(Path::filename);
        Ok(names.map(str::to_owned).collect())
    }

    async fn now(&self) -> Result<SystemTime, Fault> {
        self.probe(Direction::Write).await?;
        let found = self.get_small(&self.probe_name, 0).await?;
        // Another node may have written it since, which is later still.
        let gone = || Fault::new(FaultKind::Server, "a probe is there and is not");
        Ok(found.ok_or_else(gone)?.modified)
    }

    async fn probe(&self, direction: Direction) -> Result<(), Fault> {
        match direction {
            // Whether it is there or not: a bucket that is not, or may not be read, answers otherwise.
            Direction::Read => self.get_small(&self.probe_name, 0).await.map(|_| ()),
            Direction::Write => {
                let answer = self
                    .put_bytes(&self.probe_name, PutPayload::new(), PutMode::Overwrite)
                    .await;
                answer.or_fault("put").map(|_| ())
            }
        }
    }
}

/// What stores say where it is the bucket that is not there, and not one object. The last is all that is left of Azure's
/// answer to one of many deletions.
const BUCKET_GONE: [&str; 4] = [
    "NoSuchBucket",
    "ContainerNotFound",
    "ContainerBeingDeleted",
    "specified container does not exist",
];

fn is_bucket_gone(text: &str) -> bool {
    BUCKET_GONE.iter().any(|said| text.contains(said))
}

/// Both names that a store may have for a content, as one.
fn version(e_tag: Option<String>, version: Option<String>) -> Version {
    let (e_tag, version) = (e_tag.unwrap_or_default(), version.unwrap_or_default());
    Version(format!("{e_tag}\n{version}"))
}

fn update(Version(both): &Version) -> UpdateVersion {
    let (e_tag, version) = both.split_once('\n').unwrap_or((both, ""));
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    UpdateVersion {
        e_tag: some(e_tag),
        version: some(version),
    }
}
