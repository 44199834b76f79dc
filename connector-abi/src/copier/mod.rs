//! Copies between the engine's device pages and slots of the shared region.
//!
//! A [`Copier`] belongs to one worker and knows where the pages of each KV cache group lie. A batch names transfers
//! (slot, device block, block in chunk); everything in it is checked before a byte moves, then a [`DeviceCopy`]
//! moves it:
//!
//! ```text
//! transfers ──check──▶ CopyJob ──▶ DeviceCopy ──▶ CopyResult
//!                      holds the mapped region, so it outlives a lost session
//! ```
//!
//! Backends are the only thing that knows what a device is: [`HostCopy`] for this process's own memory, [`CudaCopy`] for
//! CUDA. One conformance suite runs over both; CUDA's stand-in driver needs no GPU.

mod copy_loop;
mod cuda;
mod group;
mod host;
mod job;
mod pins;
mod workers;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use copy_loop::{CopyLoop, Stores};
pub use cuda::{CudaCopy, CudaOptions, DriverError};
pub use group::{DeviceGroup, PageRun};
pub use host::HostCopy;
pub use job::{CopyJob, Piece, SlotMemory, SlotWindow, Transfer};
pub use pins::Pins;
pub(crate) use pins::drop_elsewhere;

use crate::ClientError;

/// Which way a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Device pages to slots.
    Store,
    /// Slots to device pages.
    Load,
}

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyOutcome {
    /// All bytes have arrived.
    Done,
    /// A bug in the library; the target's bytes are undefined.
    Panicked,
    /// The device refused it. Nothing is under way any more; the target's bytes are undefined.
    Failed,
    /// The device is lost, and whether it still touches the memory cannot be found out: a store's slots must not be given
    /// back while this process lives.
    Lost,
}

/// What the engine had under way when a batch was submitted, and the batch has to come after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The caller did not say. Right where the device is the CPU; other devices refuse it.
    Unsaid,
    /// Nothing: the device is done with the pages already.
    Nothing,
    /// What this stream was given before: a `CUstream`, 0 for the default one. The point is noted during the call.
    Stream(usize),
    /// What this event stands for: a `CUevent`, which stays as it is until the batch has ended.
    Event(usize),
}

/// How far the region is pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PinStage {
    /// It is not asked for.
    #[default]
    None,
    /// A thread is at it; copies go through a buffer meanwhile.
    UnderWay,
    /// All of it: the device reads and writes slots by itself.
    Pinned,
    /// It was refused and nothing is pinned; copies go through a buffer.
    Failed,
}

/// What a backend can say of its device.
#[derive(Clone, Debug, Default)]
pub struct DeviceReport {
    /// The device's name; empty for the CPU.
    pub device: String,
    /// Whether many pieces go to the device in one call.
    pub batched: bool,
    /// Whether the device is lost.
    pub lost: bool,
    /// The region of the last batch.
    pub pinning: PinStage,
    /// Bytes of it that are pinned.
    pub pinned_bytes: u64,
    /// How long that took, once it is over.
    pub pinning_took: Duration,
    /// What was refused last, as a sentence.
    pub trouble: Option<String>,
}

/// The end of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyResult {
    /// The tag it was submitted with.
    pub tag: u64,
    /// How it ended.
    pub outcome: CopyOutcome,
    /// Bytes copied.
    pub bytes: u64,
}

/// Moves the bytes of checked batches. Results come back in the order in which batches end.
pub trait DeviceCopy: Send {
    /// Refuses pages that this device does not reach.
    fn check_pages(&self, _group: &DeviceGroup) -> Result<(), ClientError> {
        Ok(())
    }

    /// Makes ready for copies of slots in this memory, in the background.
    fn prepare(&mut self, _memory: &Arc<dyn SlotMemory>) {}

    /// Takes a batch; [`ClientError::QueueFull`] if as many as may be have not been collected yet.
    fn submit(&mut self, job: CopyJob, after: After) -> Result<(), ClientError>;

    /// Takes the next result, if there is one. Never blocks.
    fn poll(&mut self) -> Option<CopyResult>;

    /// Sleeps until a result can be taken, nothing is under way, or the timeout. Whether there is a result.
    fn wait(&mut self, timeout: Duration) -> bool;

    /// Batches that have been submitted and not collected.
    fn uncollected(&self) -> usize;

    /// What there is to say of the device.
    fn report(&self) -> DeviceReport {
        DeviceReport::default()
    }
}

/// Most batches that may be submitted and not collected.
pub const JOBS_MAX: usize = 1024;
/// Most transfers in one batch.
pub const TRANSFERS_MAX: usize = 1 << 20;
/// Most worker threads of one copier.
pub const THREADS_MAX: usize = 64;
/// Most KV cache groups.
const GROUPS_MAX: u32 = 64;

/// Knows the device pages of each group and has batches of them copied.
pub struct Copier {
    backend: Box<dyn DeviceCopy>,
    groups: BTreeMap<u32, Arc<DeviceGroup>>,
}

/// Copiers may move between threads: C programs are told so.
const _: () = {
    const fn moves<T: Send>() {}
    moves::<Copier>();
};

impl std::fmt::Debug for Copier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Copier")
            .field("groups", &self.groups)
            .finish_non_exhaustive()
    }
}

/// A batch of copies, as a caller asks for it.
#[derive(Clone, Copy, Debug)]
pub struct CopyRequest<'a> {
    /// Names the batch.
    pub tag: u64,
    /// Which way.
    pub direction: Direction,
    /// What it comes after.
    pub after: After,
    /// Index of the KV cache group.
    pub group: u32,
    /// What to copy.
    pub transfers: &'a [Transfer],
}

impl Copier {
    /// A copier over a backend.
    pub fn new(backend: Box<dyn DeviceCopy>) -> Self {
        Self {
            backend,
            groups: BTreeMap::new(),
        }
    }

    /// A copier whose device is this process's own memory. With 0 threads copies run in the caller's thread, inside
    /// [`submit`](Self::submit).
    pub fn host(threads: usize) -> Result<Self, ClientError> {
        Ok(Self::new(Box::new(HostCopy::new(threads)?)))
    }

    /// A copier whose device is a CUDA one.
    pub fn cuda(options: &CudaOptions) -> Result<Self, ClientError> {
        Ok(Self::new(Box::new(CudaCopy::open(options)?)))
    }

    /// Says where the pages of a group lie. Batches that were submitted before go on with what was set then.
    ///
    /// # Safety
    /// Each run's pages are memory of the backend's device that stays valid, and is not touched by others while a copy of it is
    /// under way, until this group is set again or the copier is dropped, and all batches submitted until then are done.
    pub unsafe fn set_group(
        &mut self,
        group: u32,
        blocks_per_chunk: u32,
        runs: Vec<PageRun>,
    ) -> Result<(), ClientError> {
        if group >= GROUPS_MAX {
            return Err(ClientError::range(
                "group",
                format_args!("below {GROUPS_MAX}"),
                group,
            ));
        }
        let pages = DeviceGroup::new(blocks_per_chunk, runs)?;
        self.backend.check_pages(&pages)?;
        self.groups.insert(group, Arc::new(pages));
        Ok(())
    }

    /// Checks a whole batch, then has it copied. If anything in it is wrong, nothing is copied.
    pub fn submit(&mut self, window: SlotWindow, request: CopyRequest<'_>) -> Result<(), ClientError> {
        let group = self.groups.get(&request.group).ok_or_else(|| {
            ClientError::BadArgument(format!("group {} has no device pages set", request.group))
        })?;
        let job = CopyJob::check(Arc::clone(group), window, request)?;
        self.backend.submit(job, request.after)
    }

    /// Makes ready for copies of slots in this memory: a region is pinned in the background, where the device wants that.
    /// The first batch does so too, but goes through a buffer then.
    pub fn prepare(&mut self, memory: &Arc<dyn SlotMemory>) {
        self.backend.prepare(memory);
    }

    /// What there is to say of the device.
    pub fn report(&self) -> DeviceReport {
        self.backend.report()
    }

    /// Takes the next result, if there is one.
    pub fn poll(&mut self) -> Option<CopyResult> {
        self.backend.poll()
    }

    /// Sleeps until a result can be taken, nothing is under way, or the timeout. Whether there is a result.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        self.backend.wait(timeout)
    }

    /// Batches that have been submitted and not collected.
    pub fn uncollected(&self) -> usize {
        self.backend.uncollected()
    }
}
