//! Blocks by io_uring, on a runtime of its own.
//!
//! A future of this runtime owns the memory it gives to the kernel, and runs to its end whoever stops waiting for it: it is
//! never dropped half-way.

use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::{File, OpenOptions, StatxBuilder, remove_file, rename};

use super::claim::Allowed;
use super::files::{FILE_MODE, Files, Open, body, let_it_wait};
use super::root::At;
use super::{fault, is_absent, object_fault};
use crate::backend::{Body, Fault, Hold, Mode, Written};
use crate::buffer::Buffer;
use crate::{FaultKind, MountIo, SpecError, SyncPolicy};

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;
type Job = Box<dyn FnOnce() -> LocalFuture + Send>;

/// The way to the runtime. When it is dropped the runtime ends, after what is under way.
pub(super) struct Uring {
    jobs: mpsc::UnboundedSender<Job>,
}

impl Uring {
    /// Starts the runtime, if it is asked for and to be had; else why there is none. At most `threads` calls block at a time.
    pub(super) fn start(
        io: MountIo,
        threads: usize,
        name: &str,
    ) -> Result<(Option<Self>, Option<String>), SpecError> {
        if io == MountIo::Threads {
            return Ok((None, None));
        }
        let (jobs, orders) = mpsc::unbounded_channel();
        let (answer, answered) = std::sync::mpsc::channel();
        let spawned = thread::Builder::new()
            .name("kvt-remote-ring".to_owned())
            .spawn(move || serve(orders, threads, &answer));
        let started = match spawned {
            Ok(_) => answered
                .recv()
                .unwrap_or_else(|_| Err(io::Error::other("its thread ended"))),
            Err(error) => Err(error),
        };
        match (started, io) {
            (Ok(()), _) => Ok((Some(Self { jobs }), None)),
            (Err(error), MountIo::IoUring) => Err(SpecError::Uring(name.to_owned(), error)),
            (Err(error), _) => Ok((None, Some(format!("no io_uring: {error}")))),
        }
    }

    /// Runs a job to its end. `hold` is dropped then.
    pub(super) async fn run<T, F>(
        &self,
        hold: Hold,
        job: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            Box::pin(async move {
                let _hold = hold;
                let _ = answer.send(job().await);
            })
        });
        let gone = |_| Fault::new(FaultKind::Server, "the io_uring thread ended");
        self.jobs
            .send(job)
            .map_err(|_| Fault::new(FaultKind::Server, "the io_uring thread ended"))?;
        answered.await.map_err(gone)
    }
}

fn serve(
    mut jobs: mpsc::UnboundedReceiver<Job>,
    threads: usize,
    answer: &std::sync::mpsc::Sender<io::Result<()>>,
) {
    // `tokio_uring::start` panics where io_uring is forbidden; this says so.
    let started = tokio_uring::Runtime::new(tokio_uring::builder().entries(256));
    let runtime = match started.and_then(|runtime| bound_workers(threads).map(|()| runtime)) {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = answer.send(Err(error));
            return;
        }
    };
    let _ = answer.send(Ok(()));
    runtime.block_on(async move {
        let mut under_way = Vec::new();
        while let Some(job) = jobs.recv().await {
            under_way.retain(|task: &tokio::task::JoinHandle<()>| !task.is_finished());
            under_way.push(tokio_uring::spawn(job()));
        }
        for task in under_way {
            let _ = task.await;
        }
    });
}

/// What would block (names, and writes that make a file longer) is done by threads of the kernel's. Left alone it takes four
/// for each core: eight on two cores are too few for a mount that is slow to answer, and hundreds on a large machine are too
/// many for one that hangs. They belong to the thread that made a ring, so any ring of this thread can say how many.
fn bound_workers(threads: usize) -> io::Result<()> {
    let most = u32::try_from(threads).unwrap_or(u32::MAX);
    let ring = io_uring::IoUring::new(1)?;
    match ring.submitter().register_iowq_max_workers(&mut [most, most]) {
        // Before Linux 5.15 there was no way to say it.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other,
    }
}

/// Writes an object: a temporary file, its bytes, its name.
pub(super) async fn put(
    files: Arc<Files>,
    open: Open,
    name: String,
    temporary: PathBuf,
    object: Bytes,
    mode: Mode,
) -> Result<Written, Fault> {
    let at = at(&files, object.len() as u64).await?;
    if mode == Mode::Create && is_there(&at.path(&name)).await? {
        return Ok(Written::AlreadyPresent);
    }
    let written = match put_temporary(&files, &at, open, &temporary, object).await {
        Ok(()) => name_file(&files, &at, &temporary, &name).await,
        Err(fault) => Err(fault),
    };
    if let Err(fault) = written {
        let _ = remove_file(at.path(&temporary)).await;
        return Err(fault);
    }
    Ok(Written::New)
}

/// The directory, for a call that writes so many bytes. Looking at it may block, so that is done elsewhere.
async fn at(files: &Arc<Files>, bytes: u64) -> Result<Allowed, Fault> {
    if let Some(at) = files.root.held(bytes) {
        return Ok(at);
    }
    let files = files.clone();
    blocking(move || files.root.look(bytes)).await
}

async fn is_there(path: &Path) -> Result<bool, Fault> {
    let mut builder = StatxBuilder::new();
    let asked = builder
        .pathname(path)
        .map_err(|error| fault("look at a file", &error))?
        .flags(libc::AT_SYMLINK_NOFOLLOW)
        .mask(libc::STATX_TYPE);
    match asked.statx().await {
        Ok(found) => Ok(is_file(&found)),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(object_fault("look at a file", &error)),
    }
}

fn is_file(found: &libc::statx) -> bool {
    u32::from(found.stx_mode) & libc::S_IFMT == libc::S_IFREG
}

async fn put_temporary(
    files: &Arc<Files>,
    at: &Arc<At>,
    open: Open,
    temporary: &Path,
    object: Bytes,
) -> Result<(), Fault> {
    let file = create(files, at, temporary, open.flags()).await?;
    let (written, _) = file.write_all_at(object, 0).await;
    let synced = match written {
        Ok(()) if files.sync != SyncPolicy::None => {
            file.sync_data().await.map_err(|error| ("sync a file", error))
        }
        other => other.map_err(|error| ("write a file", error)),
    };
    let closed = file.close().await.map_err(|error| ("close a file", error));
    synced.and(closed).map_err(|(what, error)| fault(what, &error))
}

async fn create(files: &Arc<Files>, at: &Arc<At>, name: &Path, flags: i32) -> Result<File, Fault> {
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .custom_flags(flags);
    match options.open(at.path(name)).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_parent(files, at, name).await?;
            options.open(at.path(name)).await
        }
        other => other,
    }
    .map_err(|error| object_fault(&format!("create {}", name.display()), &error))
}

async fn name_file(files: &Arc<Files>, at: &Arc<At>, temporary: &Path, name: &str) -> Result<(), Fault> {
    if files.sync == SyncPolicy::Full {
        let (files, at) = (files.clone(), at.clone());
        let (temporary, name) = (temporary.to_owned(), name.to_owned());
        return blocking(move || files.rename(&at, &temporary, &name)).await;
    }
    let (from, to) = (at.path(temporary), at.path(name));
    match rename(&from, &to).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_parent(files, at, Path::new(name)).await?;
            rename(&from, &to).await
        }
        other => other,
    }
    .map_err(|error| object_fault(&format!("rename a file to {name}"), &error))
}

async fn make_parent(files: &Arc<Files>, at: &Arc<At>, name: &Path) -> Result<(), Fault> {
    let (files, at, name) = (files.clone(), at.clone(), name.to_owned());
    blocking(move || files.make_parent(&at, &name)).await
}

/// What io_uring has no call for; few, and as many at most as the budget allows.
async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    tokio::task::spawn_blocking(job)
        .await
        .unwrap_or_else(|_| Err(Fault::new(FaultKind::Server, "a call panicked")))
}

/// Reads from `start` on into the buffer, until it is full or the file ends.
pub(super) async fn get(
    files: Arc<Files>,
    open: Open,
    name: String,
    start: u64,
    mut buffer: Buffer,
) -> Result<Option<Body>, Fault> {
    let mut options = OpenOptions::new();
    // Opening a pipe would wait for somebody who writes into it.
    let flags = open.flags() | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    options.read(true).custom_flags(flags);
    let at = at(&files, 0).await?;
    let file = match options.open(at.path(&name)).await {
        Ok(file) => file,
        Err(error) if is_absent(&error) => {
            return blocking(move || files.check_root()).await.map(|()| None);
        }
        Err(error) => {
            let failed = fault(&format!("open {name}"), &error);
            let what = move || Ok(Files::is_no_file(&at, &name));
            return if blocking(what).await? {
                Ok(None)
            } else {
                Err(failed)
            };
        }
    };
    let read = match may_wait(&file) {
        Ok(()) => read(&file, start, &mut buffer).await,
        Err(error) => Err(fault("change a file's flags", &error)),
    };
    let closed = file.close().await;
    let read = read?;
    closed.map_err(|error| fault("close a file", &error))?;
    let Some((done, object_bytes)) = read else {
        return Ok(None);
    };
    body(buffer, start, done, object_bytes).map(Some)
}

/// `O_NONBLOCK` stays with the file otherwise, and then the ring itself waits for file systems that cannot read without waiting. No
/// device is asked for this.
#[expect(unsafe_code, reason = "the file only tells its descriptor's number")]
fn may_wait(file: &File) -> io::Result<()> {
    // SAFETY: the file is open for as long as it is borrowed.
    let_it_wait(unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) })
}

/// How much was read and how long the file is; `None`: it is no file.
async fn read(file: &File, start: u64, buffer: &mut Buffer) -> Result<Option<(usize, u64)>, Fault> {
    let mut builder: StatxBuilder = file.statx_builder();
    let found = builder
        .flags(libc::AT_EMPTY_PATH)
        .mask(libc::STATX_SIZE | libc::STATX_TYPE)
        .statx()
        .await
        .map_err(|error| fault("look at a file", &error))?;
    if !is_file(&found) {
        return Ok(None);
    }
    let object_bytes = found.stx_size;
    let (mut memory, range) = buffer.lend();
    let mut done = 0;
    let mut result = Ok(());
    // Asking again behind the end of a file whose length is odd would not be aligned any more.
    while start + (done as u64) < object_bytes && done < range.len() {
        let slice = memory.slice(range.start + done..range.end);
        let (read, slice) = file.read_at(slice, start + done as u64).await;
        memory = slice.into_inner();
        match read {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                result = Err(fault("read a file", &error));
                break;
            }
        }
    }
    buffer.put_back(memory);
    result.map(|()| Some((done, object_bytes)))
}
