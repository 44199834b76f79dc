//! A mounted directory that several nodes share: NFS, Lustre, CephFS, GPFS, a volume of a cluster.
//!
//! System calls at such a mount may block for ever, and nothing can call them back. So each is made by a thread of a pool
//! whose size is fixed, or by the kernel for io_uring; what they work on belongs to them until they are done. Whoever waits
//! for them stops waiting when it is time.

mod claim;
mod files;
mod pool;
mod root;
mod small;
#[cfg(test)]
pub(crate) mod tests;
mod uring;

use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::OnceCell;

use self::files::{Files, Open};
use self::pool::Pool;
use self::uring::Uring;
use super::{Backend, Body, Fault, Hold, Meta, Mode, Replaced, Version, Versioned, Written};
use crate::buffer::BufferPool;
use crate::chance::draw;
use crate::format::{StoreId, temporary_name};
use crate::{Direction, FaultKind, MountSpec, Reserve, Room, SpecError, WriterId};

/// Most small calls (listings, leases) that wait for a thread.
const QUEUE_MAX: usize = 1024;

/// Threads that look for the names of one call.
const LOOKERS: usize = 16;

/// The backend.
pub(crate) struct MountBackend {
    files: Arc<Files>,
    pool: Pool,
    /// One thread for each direction, so that a probe never waits behind what hangs.
    probes: [Pool; 2],
    uring: Option<Uring>,
    uring_reason: Option<String>,
    open: OnceCell<Open>,
    numbers: AtomicU64,
    writer: WriterId,
    buffers: Arc<BufferPool>,
}

impl MountBackend {
    /// Starts the threads. Nothing is asked of the mount: it may hang.
    pub(crate) fn start(
        spec: &MountSpec,
        name: &str,
        writer: WriterId,
        buffers: Arc<BufferPool>,
    ) -> Result<Self, SpecError> {
        if !spec.root.is_absolute() {
            return Err(SpecError::Mount(format!(
                "want an absolute path, got {}",
                spec.root.display()
            )));
        }
        let is_below = |part: Component<'_>| matches!(part, Component::Normal(_));
        if !Path::new(&spec.prefix).components().all(is_below) {
            let text = format!("want a prefix of plain names, got {:?}", spec.prefix);
            return Err(SpecError::Mount(text));
        }
        let threads = spec.threads.clamp(1, 256);
        let (uring, uring_reason) = Uring::start(spec.io, threads, name)?;
        let pool = |threads, kind: &str| Pool::new(&format!("kvt-remote-{kind}"), threads, QUEUE_MAX);
        Ok(Self {
            files: Arc::new(Files::new(spec)),
            pool: pool(threads, "io"),
            probes: [pool(1, "probe-r"), pool(1, "probe-w")],
            uring,
            uring_reason,
            open: OnceCell::new(),
            numbers: AtomicU64::new(0),
            writer,
            buffers,
        })
    }

    /// A name that no file ever had.
    fn unique(&self) -> String {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number:016x}", self.writer)
    }

    /// How files are opened, found out by the first who asks.
    async fn open(&self) -> Result<Open, Fault> {
        let find = || async {
            let (files, probe) = (self.files.clone(), self.unique());
            let found = self.pool.run(None, move || files.probe_direct(&probe)).await??;
            tracing::info!(
                root = %self.files.root.path().display(),
                direct = found.direct,
                direct_reason = found.reason,
                "remote mount opened"
            );
            Ok(found)
        };
        self.open.get_or_try_init(find).await.copied()
    }

    async fn put_by(
        &self,
        open: Open,
        name: &str,
        object: Bytes,
        mode: Mode,
        hold: Hold,
    ) -> Result<Written, Fault> {
        let (name, files) = (name.to_owned(), self.files.clone());
        let temporary = PathBuf::from(temporary_name(&name, &self.unique()));
        if let Some(uring) = &self.uring {
            let job = move || uring::put(files, open, name, temporary, object, mode);
            return uring.run(hold, job).await?;
        }
        let job = move || files.put(open, &name, &temporary, &object, mode);
        self.pool.run(Some(hold), job).await?
    }

    async fn get_by(
        &self,
        open: Open,
        name: &str,
        range: &Range<u64>,
        hold: Hold,
    ) -> Result<Option<Body>, Fault> {
        let (files, start) = (self.files.clone(), range.start);
        let bytes = usize::try_from(range.end.saturating_sub(start)).unwrap_or(usize::MAX);
        let (name, buffer) = (name.to_owned(), self.buffers.take(bytes));
        if let Some(uring) = &self.uring {
            let job = move || uring::get(files, open, name, start, buffer);
            return uring.run(hold, job).await?;
        }
        let job = move || files.get(open, &name, start, buffer);
        self.pool.run(Some(hold), job).await?
    }

    /// A file system that was unmounted while it was held answers like one whose server is gone. A look tells the two apart.
    async fn explained<T>(&self, result: Result<T, Fault>) -> Result<T, Fault> {
        let fault = match result {
            Err(fault) if fault.kind == FaultKind::Connection => fault,
            other => return other,
        };
        let looked = self.small(|files, _| files.check_root()).await;
        Err(looked.err().unwrap_or(fault))
    }

    /// An identity that no other store has.
    fn draw_identity(&self) -> StoreId {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        hasher.update(&self.writer.0);
        hasher.update(self.files.root.prefix().as_os_str().as_encoded_bytes());
        hasher.update(&draw().to_le_bytes());
        StoreId(hasher.digest128().to_le_bytes())
    }

    async fn small<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Files, &str) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let (files, unique) = (self.files.clone(), self.unique());
        self.pool.run(None, move || job(&files, &unique)).await?
    }
}

#[async_trait]
impl Backend for MountBackend {
    fn describe(&self) -> String {
        let io = match (&self.uring, &self.uring_reason) {
            (Some(_), _) => "io_uring".to_owned(),
            (None, Some(reason)) => format!("threads ({reason})"),
            (None, None) => "threads".to_owned(),
        };
        format!("mount {} by {io}", self.files.root.path().display())
    }

    fn room(&self) -> Option<Room> {
        self.files.root.room()
    }

    fn set_reserve(&self, reserve: Reserve) {
        self.files.root.set_reserve(reserve);
    }

    async fn put(&self, name: &str, object: Bytes, mode: Mode, hold: Hold) -> Result<Written, Fault> {
        let (open, bytes) = (self.open().await?, object.len() as u64);
        let written = self.put_by(open, name, object, mode, hold).await;
        if self.files.root.has_lost_identity() {
            // A look has found out. What becomes of it is told in the log, and the next look sees it.
            let _ = self.small(Files::keep_identity).await;
        }
        if let Err(fault) = &written
            && fault.kind == FaultKind::NoSpace
        {
            self.files.note_refused(bytes);
        }
        self.explained(written).await
    }

    async fn get(&self, name: &str, range: Range<u64>, hold: Hold) -> Result<Option<Body>, Fault> {
        let open = self.open().await?;
        let found = self.get_by(open, name, &range, hold.clone()).await;
        let found = match found {
            // Another node removed it, or replaced it, while it was open here: its name leads to what is there now.
            Err(fault) if is_stale(&fault) => self.get_by(open, name, &range, hold).await,
            other => other,
        };
        self.explained(found).await
    }

    async fn exist(&self, names: &[String], hold: Hold) -> Vec<Result<bool, Fault>> {
        let share = names.len().div_ceil(LOOKERS).max(1);
        let parts = names.chunks(share).map(|names| {
            let (files, hold, names) = (self.files.clone(), hold.clone(), names.to_vec());
            async move {
                let count = names.len();
                let answer = self.pool.run(Some(hold), move || files.exist(&names)).await;
                answer.unwrap_or_else(|fault| vec![Err(fault); count])
            }
        });
        join_all(parts).await.into_iter().flatten().collect()
    }

    async fn delete(&self, names: Vec<String>, hold: Hold) -> Result<u64, Fault> {
        let files = self.files.clone();
        self.pool.run(Some(hold), move || files.delete(&names)).await?
    }

    async fn put_small(&self, name: &str, bytes: Bytes) -> Result<Written, Fault> {
        let name = name.to_owned();
        self.small(move |files, unique| small::put(files, &name, unique, &bytes))
            .await
    }

    async fn get_small(&self, name: &str, bytes_max: u64) -> Result<Option<Versioned>, Fault> {
        let name = name.to_owned();
        self.small(move |files, _| small::get(files, &name, bytes_max))
            .await
    }

    async fn replace_small(
        &self,
        name: &str,
        bytes: Bytes,
        expected: Option<Version>,
    ) -> Result<Replaced, Fault> {
        let name = name.to_owned();
        self.small(move |files, unique| small::replace(files, &name, unique, &bytes, expected))
            .await
    }

    async fn list(&self, directory: &str, after: Option<&str>, most: usize) -> Result<Vec<Meta>, Fault> {
        let (directory, after) = (directory.to_owned(), after.map(str::to_owned));
        self.small(move |files, _| files.list(&directory, after.as_deref(), most))
            .await
    }

    async fn directories(&self, directory: &str) -> Result<Vec<String>, Fault> {
        let directory = directory.to_owned();
        self.small(move |files, _| files.directories(&directory)).await
    }

    async fn now(&self) -> Result<SystemTime, Fault> {
        self.small(Files::now).await
    }

    async fn probe(&self, direction: Direction) -> Result<(), Fault> {
        let (files, unique) = (self.files.clone(), self.unique());
        match direction {
            Direction::Read => self.probes[0].run(None, move || files.probe_read()).await?,
            Direction::Write => {
                let identity = self.draw_identity();
                let job = move || files.probe_write(&unique, identity);
                self.probes[1].run(None, job).await?
            }
        }
    }
}

/// The same of a call about one object: what is in the way of its name is not in the way of others.
pub(super) fn object_fault(what: &str, error: &std::io::Error) -> Fault {
    use rustix::io::Errno;
    let fault = fault(what, error);
    match Errno::from_io_error(error) {
        Some(Errno::NOTDIR | Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST | Errno::LOOP) => Fault {
            kind: FaultKind::NameTaken,
            ..fault
        },
        _ => fault,
    }
}

/// Whether there is no such file: nothing has its name, or what should be a directory above it is none.
pub(super) fn is_absent(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
    )
}

/// Whether a file was removed by another node while it was open, as a network file system says it.
fn is_stale(fault: &Fault) -> bool {
    fault.kind == FaultKind::Connection && fault.text.ends_with("(os error 116)")
}

/// What a failed call means. A file that is not there is not a fault; who calls this has ruled that out.
pub(super) fn fault(what: &str, error: &std::io::Error) -> Fault {
    use rustix::io::Errno;
    let kind = match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NODEV | Errno::NXIO) => FaultKind::NotThere,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => FaultKind::Denied,
        Some(Errno::KEYEXPIRED | Errno::KEYREVOKED | Errno::KEYREJECTED | Errno::NOKEY) => {
            FaultKind::Credentials
        }
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => FaultKind::NoSpace,
        Some(Errno::TIMEDOUT | Errno::AGAIN) => FaultKind::Stalled,
        // Something that is no file has the name: asking again does not help.
        Some(Errno::LOOP | Errno::ISDIR) => FaultKind::Protocol,
        Some(
            Errno::STALE
            | Errno::NOTCONN
            | Errno::CONNRESET
            | Errno::CONNREFUSED
            | Errno::CONNABORTED
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NETUNREACH
            | Errno::SHUTDOWN,
        ) => FaultKind::Connection,
        _ if error.kind() == std::io::ErrorKind::UnexpectedEof => FaultKind::Truncated,
        _ => FaultKind::Server,
    };
    Fault::new(kind, format!("{what}: {error}"))
}
