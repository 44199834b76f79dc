//! The shared region as pinned memory, so that the device reads and writes slots by itself.
//!
//! Pinning takes about a tenth of a second for each GiB, so a thread does it, piece by piece. The device touches the
//! region only once all of it is pinned: until then, and after a failure, copies go through a buffer
//! ([`bounce`](super::bounce)). So a failure can give back what was pinned before it without asking who uses it.
//!
//! ```text
//! UnderWay ──all pieces──▶ Pinned ──the memory goes──▶ (unpinned)
//!     └──a piece is refused, or the copier is closed──▶ Failed: nothing is pinned
//! ```
//!
//! A registration hangs on its memory and is told to let go right before the memory goes, in whichever thread that happens:
//! copies hold the memory, so none of them is under way then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::context::Context;
use crate::ClientError;
use crate::copier::pins::Hold;
use crate::copier::{PinStage, SlotMemory};
use crate::guest::spawn_guest;

/// One memory's pinning.
pub(super) struct Registration {
    context: Arc<Context>,
    piece_bytes: usize,
    progress: Mutex<Progress>,
    /// To the thread of the copier that made it.
    orders: Sender<PinOrder>,
}

struct Progress {
    stage: PinStage,
    /// Addresses of the pieces that are pinned.
    pieces: Vec<usize>,
    bytes: u64,
    error: Option<String>,
    took: Duration,
}

/// What is known of a pinning.
#[derive(Clone, Debug)]
pub(super) struct PinReport {
    pub(super) stage: PinStage,
    pub(super) bytes: u64,
    pub(super) took: Duration,
    pub(super) error: Option<String>,
}

impl Registration {
    fn new(context: &Arc<Context>, piece_bytes: usize, orders: &Sender<PinOrder>) -> Self {
        Self {
            context: Arc::clone(context),
            piece_bytes,
            orders: orders.clone(),
            progress: Mutex::new(Progress {
                stage: PinStage::UnderWay,
                pieces: Vec::new(),
                bytes: 0,
                error: None,
                took: Duration::ZERO,
            }),
        }
    }

    /// Whether the device may touch the memory.
    pub(super) fn is_pinned(&self) -> bool {
        self.lock().stage == PinStage::Pinned
    }

    /// The memory is pinned in pieces of this size, counted from its start; no single copy may cross from one to the next.
    pub(super) fn piece_bytes(&self) -> usize {
        self.piece_bytes
    }

    pub(super) fn report(&self) -> PinReport {
        let progress = self.lock();
        PinReport {
            stage: progress.stage,
            bytes: progress.bytes,
            took: progress.took,
            error: progress.error.clone(),
        }
    }

    /// Pins all pieces, or none.
    fn pin_all(&self, memory: &Arc<dyn SlotMemory>, ending: &AtomicBool) {
        let began = Instant::now();
        let outcome = self.pin_pieces(memory, ending);
        let mut progress = self.lock();
        progress.took = began.elapsed();
        match outcome {
            Ok(()) => progress.stage = PinStage::Pinned,
            Err(error) => {
                self.unpin(&mut progress);
                progress.error = Some(error);
                progress.stage = PinStage::Failed;
            }
        }
    }

    fn pin_pieces(&self, memory: &Arc<dyn SlotMemory>, ending: &AtomicBool) -> Result<(), String> {
        let total = usize::try_from(memory.bytes()).map_err(|error| error.to_string())?;
        let mut offset = 0;
        while offset < total {
            if ending.load(Ordering::Relaxed) {
                return Err("the copier was closed".to_owned());
            }
            if Arc::strong_count(memory) == 1 {
                return Err("nobody uses the region any more".to_owned());
            }
            let bytes = self.piece_bytes.min(total - offset);
            // SAFETY: `offset` is below the memory's size.
            let base = unsafe { memory.base().add(offset) };
            let entered = self.context.enter().map_err(|error| error.to_string())?;
            // SAFETY: the registration lets go before its memory is unmapped, and unpins all pieces that are noted.
            let pinned = unsafe { entered.pin(base, bytes) };
            pinned.map_err(|error| format!("{error} (piece of {bytes} bytes at {offset} of {total})"))?;
            let mut progress = self.lock();
            progress.pieces.push(base.expose_provenance());
            progress.bytes += bytes as u64;
            offset += bytes;
        }
        Ok(())
    }

    /// Gives back all pieces. What the driver refuses, it has forgotten or will with the context.
    fn unpin(&self, progress: &mut Progress) {
        progress.bytes = 0;
        let pieces = std::mem::take(&mut progress.pieces);
        if pieces.is_empty() {
            return;
        }
        if let Ok(entered) = self.context.enter() {
            for base in pieces {
                let _ = entered.unpin(std::ptr::with_exposed_provenance_mut(base));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold for Registration {
    fn let_go(&self) {
        let mut progress = self.lock();
        self.unpin(&mut progress);
        progress.stage = PinStage::None;
    }

    fn drop_elsewhere(&self, memory: Arc<dyn SlotMemory>) {
        // If that copier is closed, it is dropped here.
        let _ = self.orders.send(PinOrder::Drop(memory));
    }
}

/// What the thread is told.
enum PinOrder {
    /// To pin; the memory stays meanwhile.
    Pin(Arc<Registration>, Arc<dyn SlotMemory>),
    /// To let go of memory.
    Drop(Arc<dyn SlotMemory>),
    /// To end. Registrations keep senders, so the channel does not close by itself.
    End,
}

/// The thread that pins, `kvt-cuda-pin`.
pub(super) struct Registrar {
    context: Arc<Context>,
    piece_bytes: usize,
    orders: Sender<PinOrder>,
    ending: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Registrar {
    pub(super) fn start(context: &Arc<Context>, piece_bytes: usize) -> Result<Self, ClientError> {
        let (orders, receiver) = channel();
        let ending = Arc::new(AtomicBool::new(false));
        let (context, seen) = (Arc::clone(context), Arc::clone(&ending));
        let thread = spawn_guest("kvt-cuda-pin".to_owned(), move || {
            pin_what_comes(&receiver, &seen);
        });
        let thread = thread.map_err(|source| ClientError::Io {
            what: "start the pinning thread",
            source,
        })?;
        Ok(Self {
            context,
            piece_bytes,
            orders,
            ending,
            thread: Some(thread),
        })
    }

    /// The memory's registration; begins it if nobody has.
    pub(super) fn registration(&self, memory: &Arc<dyn SlotMemory>) -> Arc<Registration> {
        let mut new = false;
        let registration = memory.pins().get_or_attach(|| {
            new = true;
            Registration::new(&self.context, self.piece_bytes, &self.orders)
        });
        if new {
            let order = PinOrder::Pin(Arc::clone(&registration), Arc::clone(memory));
            // The thread listens until the copier is dropped.
            let _ = self.orders.send(order);
        }
        registration
    }
}

impl Drop for Registrar {
    /// Ends after the piece that is being pinned.
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        let _ = self.orders.send(PinOrder::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn pin_what_comes(orders: &Receiver<PinOrder>, ending: &AtomicBool) {
    while let Ok(order) = orders.recv() {
        match order {
            PinOrder::Pin(registration, memory) => registration.pin_all(&memory, ending),
            PinOrder::Drop(memory) => drop(memory),
            PinOrder::End => return,
        }
    }
}
