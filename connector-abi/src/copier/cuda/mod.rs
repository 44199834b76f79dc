//! The backend for CUDA devices.
//!
//! ```text
//! engine's thread            kvt-cuda-store, kvt-cuda-load                   device
//!   submit ─ note the point in the engine's stream
//!          └──order──▶ wait for that point, hand over pieces, note the end ──▶ copy engines
//!   poll   ◀─────────── ask whether the end was reached
//!                      kvt-cuda-pin: pins the region in the background
//! ```
//!
//! What always holds
//! - Nothing here waits on the engine's thread. Only dropping the copier does.
//! - A store begins after what the engine's stream was given before it was submitted, and so does a load.
//! - Memory that the device was given belongs to the batch until its event was reached, whoever lost interest.
//! - The device touches the region only when all of it is pinned; before, copies go through a buffer.
//! - What the driver refuses fails a batch, never the engine. A lost device fails all of them from then on.
//!
//! A kernel that gathers and scatters small pieces was left out: whether it is worth its share of the device is for a
//! measurement on one to say.

mod bounce;
mod context;
mod driver;
mod error;
mod issue;
mod lane;
mod registration;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant};

use context::{Context, Entered, EventPool};
use driver::{CopyBatch, Driver};
pub use error::DriverError;
use lane::{Lane, Order, Wait};
use registration::{Registrar, Registration};

use super::{
    After, CopyJob, CopyResult, DeviceCopy, DeviceGroup, DeviceReport, Direction, JOBS_MAX, PinStage,
    SlotMemory,
};
use crate::ClientError;

/// How to reach a device.
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// The driver library. `None`: `libcuda.so.1`, wherever the system has it.
    pub driver: Option<OsString>,
    /// The device's number as CUDA counts in this process. `None`: that of the context that is current in this thread.
    pub device: Option<u32>,
    /// Whether to pin the region.
    pub pin: bool,
    /// Bytes that are pinned by one call: at least 64 KiB, a multiple of 4 KiB.
    pub pin_piece_bytes: usize,
    /// Bytes of each direction's buffer for memory that is not pinned.
    pub bounce_bytes: usize,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self {
            driver: None,
            device: None,
            pin: true,
            // Far below what one call may take (drivers have failed from 96 GiB on), and short: the engine's own calls may wait
            // in the driver while a piece is pinned.
            pin_piece_bytes: 256 << 20,
            bounce_bytes: 8 << 20,
        }
    }
}

const PIN_PIECE_BYTES_MIN: usize = 64 << 10;
const PAGE_BYTES: usize = 4096;
const BOUNCE_BYTES_MIN: usize = 4096;
/// The first and the longest pause of a thread that waits for a result.
const PAUSES: [Duration; 2] = [Duration::from_micros(20), Duration::from_millis(1)];

/// Copies by a CUDA device.
pub struct CudaCopy {
    // Lanes end first: they wait for their copies.
    stores: Lane,
    loads: Lane,
    registrar: Option<Registrar>,
    registration: Option<Arc<Registration>>,
    results: VecDeque<CopyResult>,
    uncollected: usize,
    events: Arc<EventPool>,
    context: Arc<Context>,
    name: String,
}

impl CudaCopy {
    /// Loads the driver, finds the engine's context, makes streams and starts the threads.
    pub fn open(options: &CudaOptions) -> Result<Self, ClientError> {
        check_options(options)?;
        let driver = Driver::load(options.driver.as_deref())?;
        let context = Context::open(driver, options.device)?;
        let events = Arc::new(EventPool::new(&context));
        let registrar = if options.pin {
            Some(Registrar::start(&context, options.pin_piece_bytes)?)
        } else {
            None
        };
        Ok(Self {
            stores: Lane::start("kvt-cuda-store", &context, &events, options.bounce_bytes)?,
            loads: Lane::start("kvt-cuda-load", &context, &events, options.bounce_bytes)?,
            registrar,
            registration: None,
            results: VecDeque::new(),
            uncollected: 0,
            events,
            name: context.device_name(),
            context,
        })
    }

    fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::Store => &self.stores,
            Direction::Load => &self.loads,
        }
    }

    /// What the batch has to wait for. A point in the engine's stream is noted now.
    fn find_wait(&self, entered: &Entered<'_>, after: After) -> Result<Wait, ClientError> {
        match after {
            After::Unsaid => Err(ClientError::BadArgument(
                "a copy by CUDA: want to be told what it comes after, a stream or an event".to_owned(),
            )),
            After::Nothing => Ok(Wait::Nothing),
            After::Event(event) => Ok(Wait::Callers(event)),
            After::Stream(stream) => {
                if entered.is_capturing(stream)? {
                    return Err(ClientError::BadArgument(
                        "the stream that the copy comes after records a graph".to_owned(),
                    ));
                }
                let event = self.events.take(entered)?;
                event.record(entered, stream)?;
                Ok(Wait::Ours(event))
            }
        }
    }

    /// What the driver refused may be the news that the device is lost.
    fn note(&self, error: &DriverError) {
        if error.is_loss() {
            self.stores.lose(error);
            self.loads.lose(error);
        }
    }

    fn collect(&mut self) {
        if self.uncollected == self.results.len() {
            return;
        }
        let lanes = [&self.loads, &self.stores];
        match self.context.enter() {
            Ok(entered) => lanes.iter().for_each(|lane| lane.ask(&entered)),
            // Unless that was the end of the device, it is asked again with the next call.
            Err(error) => self.note(&error),
        }
        for lane in lanes {
            lane.take_results(&mut self.results);
        }
    }
}

impl DeviceCopy for CudaCopy {
    fn check_pages(&self, group: &DeviceGroup) -> Result<(), ClientError> {
        let entered = self.context.enter()?;
        for (index, run) in group.runs().iter().enumerate() {
            for address in [run.base, run.end() - 1] {
                if let Some(what) = entered.not_device_memory(address) {
                    return Err(ClientError::BadArgument(format!(
                        "run {index}: want memory of CUDA device {}, got {what} at {address:#x}",
                        self.context.device()
                    )));
                }
            }
        }
        Ok(())
    }

    fn prepare(&mut self, memory: &Arc<dyn SlotMemory>) {
        if let Some(registrar) = &self.registrar {
            self.registration = Some(registrar.registration(memory));
        }
    }

    fn submit(&mut self, job: CopyJob, after: After) -> Result<(), ClientError> {
        if self.uncollected >= JOBS_MAX {
            return Err(ClientError::QueueFull {
                queue: "the copier's queue",
                wanted: 1,
                unit: "batches",
            });
        }
        if let Some(lost) = self.lane(job.direction()).lost() {
            return Err(ClientError::DeviceLost(lost));
        }
        let wait = match self.context.enter() {
            Ok(entered) => self.find_wait(&entered, after)?,
            Err(error) => {
                self.note(&error);
                return Err(error.into());
            }
        };
        self.prepare(job.memory());
        let registration = self.registration.clone();
        self.lane(job.direction()).submit(Order {
            job,
            wait,
            registration,
        });
        self.uncollected += 1;
        Ok(())
    }

    fn poll(&mut self) -> Option<CopyResult> {
        self.collect();
        let result = self.results.pop_front()?;
        self.uncollected -= 1;
        Some(result)
    }

    fn wait(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let [mut pause, longest] = PAUSES;
        loop {
            self.collect();
            if !self.results.is_empty() || self.uncollected == 0 {
                return !self.results.is_empty();
            }
            let left = deadline.map_or(longest, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(longest);
        }
    }

    fn uncollected(&self) -> usize {
        self.uncollected
    }

    fn report(&self) -> DeviceReport {
        let pinning = self
            .registration
            .as_ref()
            .map(|registration| registration.report());
        let lost = self.stores.lost().or_else(|| self.loads.lost());
        let pin_error = pinning.as_ref().and_then(|pinning| pinning.error.clone());
        DeviceReport {
            device: self.name.clone(),
            batched: !matches!(self.context.driver.copy_batch, CopyBatch::None),
            lost: lost.is_some(),
            pinning: pinning.as_ref().map_or(PinStage::None, |pinning| pinning.stage),
            pinned_bytes: pinning.as_ref().map_or(0, |pinning| pinning.bytes),
            pinning_took: pinning.as_ref().map_or(Duration::ZERO, |pinning| pinning.took),
            trouble: lost
                .or_else(|| self.stores.trouble())
                .or_else(|| self.loads.trouble())
                .or(pin_error.map(|error| format!("the region is not pinned: {error}"))),
        }
    }
}

fn check_options(options: &CudaOptions) -> Result<(), ClientError> {
    let piece = options.pin_piece_bytes;
    if piece < PIN_PIECE_BYTES_MIN || !piece.is_multiple_of(PAGE_BYTES) {
        return Err(ClientError::range(
            "pin_piece_bytes",
            format_args!("at least {PIN_PIECE_BYTES_MIN}, a multiple of {PAGE_BYTES}"),
            piece,
        ));
    }
    if options.bounce_bytes < BOUNCE_BYTES_MIN {
        return Err(ClientError::range(
            "bounce_bytes",
            format_args!("at least {BOUNCE_BYTES_MIN}"),
            options.bounce_bytes,
        ));
    }
    Ok(())
}
