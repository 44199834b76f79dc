//! The I/O thread of a device, `kvt-nvme-N`: it moves blocks between slots and segment files and proves what it read.
//!
//! ```text
//!            demand    ┐
//!   orders ─ prefetch  ├─ whose turn? ─▶ backend ─▶ device ─▶ ended ─▶ check ─▶ events
//!            write/move┤      ▲                                   │
//!            verify    ┘   header, checksum                       └─ written ─▶ maintenance
//! ```
//!
//! What always holds
//! - At most `depth` transfers are at the device, and of what nobody waits for only a little, so that a read never waits
//!   behind a queue of writes.
//! - Memory belongs to a transfer until its completion has been reaped. Nothing is answered before, also at the end.
//! - The device is given its next work before the thread computes a checksum.
//! - A thread with nothing to do sleeps.

mod backend;
mod buffer;
mod carrier;
#[cfg(test)]
pub(crate) mod lying;
mod proof;
mod queues;
mod task;
#[cfg(test)]
pub(crate) mod tests;
mod threads;
mod turn;
mod uring;
mod wake;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::thread::{self, JoinHandle};

use tracing::error;

use self::backend::Backend;
use self::carrier::Carrier;
pub(crate) use self::carrier::CarrierSpec;
use self::threads::Threads;
use self::uring::{NoUring, Uring};
use self::wake::Wake;
use crate::directory::SegmentFile;
use crate::maintenance::FileTable;
use crate::{DeviceEvent, IoEngine, Order};

/// The thread, from its owner's side.
#[derive(Debug)]
pub(crate) struct IoThread {
    handle: IoHandle,
    thread: Option<JoinHandle<()>>,
    pub(crate) engine: EngineFound,
}

/// What others keep to speak to the thread. The queue has no bound of its own: the engine bounds what it orders.
#[derive(Clone, Debug)]
pub(crate) struct IoHandle {
    sender: Sender<Message>,
    wake: Arc<Wake>,
}

/// How the thread gives reads and writes to the kernel.
#[derive(Clone, Debug)]
pub(crate) struct EngineFound {
    pub(crate) name: &'static str,
    /// Why not by io_uring, where that was wanted.
    pub(crate) reason: Option<String>,
}

/// Why the thread could not be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("nvme.io is \"io-uring\": {0}")]
    Uring(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

#[derive(Debug)]
enum Message {
    Orders(Vec<Order>),
    AddFile(u32, Arc<SegmentFile>),
    RemoveFile(u32, SyncSender<()>),
    End,
}

impl IoThread {
    /// Starts the thread, named `thread`, and waits until it knows how to work. The directory's `lock` is held until its
    /// last transfer has ended, whatever becomes of this process.
    pub(crate) fn spawn(
        thread: &str,
        io: IoEngine,
        segments_max: u32,
        lock: OwnedFd,
        spec: CarrierSpec,
    ) -> Result<Self, StartError> {
        let (sender, inbox) = mpsc::channel();
        let (ready, readiness) = mpsc::sync_channel(1);
        let wake = Arc::new(Wake::new()?);
        let handle = IoHandle {
            sender,
            wake: wake.clone(),
        };
        let name = thread.to_owned();
        let work = move || {
            // A ring is used by the thread that made it.
            let found = match find_engine(io, &name, segments_max, &lock, &spec, &wake) {
                Ok(found) => found,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let (backend, reason) = found;
            let _ = ready.send(Ok(EngineFound {
                name: backend.name(),
                reason,
            }));
            serve(&mut Carrier::new(backend, spec), &inbox, &wake);
        };
        let joiner = thread::Builder::new().name(thread.to_owned()).spawn(work)?;
        let gone = || StartError::Io(io::Error::other("the I/O thread ended at once"));
        let engine = readiness.recv().map_err(|_| gone())??;
        Ok(Self {
            handle,
            thread: Some(joiner),
            engine,
        })
    }

    pub(crate) fn handle(&self) -> IoHandle {
        self.handle.clone()
    }

    /// Ends it: what has begun is finished, the rest is answered as failed.
    pub(crate) fn shutdown(&mut self) {
        self.handle.send(Message::End);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the I/O thread panicked");
        }
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl IoHandle {
    /// Gives orders to the thread. Never waits.
    pub(crate) fn submit(&self, orders: Vec<Order>) {
        if !orders.is_empty() {
            self.send(Message::Orders(orders));
        }
    }

    fn send(&self, message: Message) {
        // Without a thread nothing is answered any more: that was told as `Lost`.
        if self.sender.send(message).is_ok() {
            self.wake.wake();
        }
    }
}

impl FileTable for IoHandle {
    fn add(&self, index: u32, file: Arc<SegmentFile>) {
        self.send(Message::AddFile(index, file));
    }

    /// Waits until the thread has let the file go: its space is free only then.
    fn remove(&self, index: u32) {
        let (done, gone) = mpsc::sync_channel(1);
        self.send(Message::RemoveFile(index, done));
        // An error: the thread has ended, and has let go of all files.
        let _ = gone.recv();
    }
}

type AnyBackend = Box<dyn Backend>;

fn find_engine(
    io: IoEngine,
    thread: &str,
    segments_max: u32,
    lock: &OwnedFd,
    spec: &CarrierSpec,
    wake: &Arc<Wake>,
) -> Result<(AnyBackend, Option<String>), StartError> {
    let uring = || {
        let mut ring = Uring::start(spec.depth, segments_max, spec.memory.clone(), wake.clone())?;
        ring.hold(lock.as_fd());
        Ok::<_, NoUring>(ring)
    };
    // A thread is not gone before its system call has ended, so the pool needs no hold.
    let threads = || Threads::start(spec.depth, thread, wake.clone());
    match io {
        IoEngine::Threads => Ok((Box::new(threads()?), None)),
        IoEngine::IoUring => match uring() {
            Ok(ring) => Ok((Box::new(ring), None)),
            Err(error) => Err(StartError::Uring(error.to_string())),
        },
        IoEngine::Auto => match uring() {
            Ok(ring) => Ok((Box::new(ring), None)),
            Err(error) => Ok((Box::new(threads()?), Some(error.to_string()))),
        },
    }
}

/// The life of the thread.
fn serve(carrier: &mut Carrier, inbox: &Receiver<Message>, wake: &Wake) {
    // The carrier is not used after a panic but to wait for what the kernel still does and to answer.
    let ran = catch_unwind(AssertUnwindSafe(|| run(carrier, inbox, wake)));
    if ran.is_err() {
        error!("the I/O thread panicked; its device is out of service");
        carrier.abandon();
        let reason = "an internal error in the I/O thread; restart the daemon".into();
        carrier.tell_one(DeviceEvent::Lost { reason });
    }
}

fn run(carrier: &mut Carrier, inbox: &Receiver<Message>, wake: &Wake) {
    loop {
        if take(carrier, inbox).is_none() {
            return carrier.end(wake);
        }
        if carrier.round() || carrier.prepare_memory() {
            continue;
        }
        wake.announce_sleep();
        match take(carrier, inbox) {
            None => {
                wake.rise();
                return carrier.end(wake);
            }
            Some(0) => carrier.sleep(),
            Some(_) => {}
        }
        wake.rise();
    }
}

/// Takes in what was sent and says how much; none: it is time to end.
fn take(carrier: &mut Carrier, inbox: &Receiver<Message>) -> Option<usize> {
    let mut count = 0;
    loop {
        match inbox.try_recv() {
            Ok(Message::Orders(orders)) => orders.into_iter().for_each(|order| carrier.accept(order)),
            Ok(Message::AddFile(index, file)) => carrier.add_file(index, file),
            Ok(Message::RemoveFile(index, done)) => {
                carrier.remove_file(index);
                let _ = done.try_send(());
            }
            Ok(Message::End) | Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => return Some(count),
        }
        count += 1;
    }
}
