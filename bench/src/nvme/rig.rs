//! One device in a temporary directory, and memory with slots.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use kvstore_nvme::{
    Device, DeviceEvent, DeviceSpec, DeviceStats, Direct, IoEngine, LoadReport, Memory, Order,
};
use kvstore_types::{
    AttentionKind, BlockHash, BlockKey, Extent, Field, GroupGeometry, GroupIndex, IoOutcome,
    NamespaceDescriptor, NamespaceGeometry, OperationId, PAGE_BYTES, ReadClass, SegmentGeneration,
    SegmentRef,
};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use tempfile::TempDir;

use crate::arguments::{Arguments, NvmeMemory};
use crate::interrupt;

const WATCHDOG: Duration = Duration::from_mins(5);
const FILL_STEP: usize = 1 << 20;

/// What to open.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) payload_bytes: u64,
    /// Blocks that a segment holds.
    pub(crate) blocks_per_segment: u32,
    pub(crate) segments: u32,
    pub(crate) io: IoEngine,
    /// Transfers at the device.
    pub(crate) depth: u32,
    /// Slots in memory.
    pub(crate) slots: u32,
    /// That memory's pages.
    pub(crate) memory: NvmeMemory,
}

impl Shape {
    /// Bytes of a block on the device: its header page and its payload.
    pub(crate) fn block_bytes(&self) -> u64 {
        self.payload_bytes + PAGE_BYTES
    }

    fn block_pages(&self) -> u32 {
        u32::try_from(self.block_bytes() / PAGE_BYTES).unwrap_or(u32::MAX)
    }

    fn segment_bytes(&self) -> u64 {
        PAGE_BYTES + u64::from(self.blocks_per_segment) * self.block_bytes()
    }

    /// The place of a block.
    pub(crate) fn extent(&self, segment: SegmentRef, number: u32) -> Extent {
        let pages = self.block_pages();
        Extent {
            segment,
            page: 1 + number * pages,
            pages,
        }
    }
}

/// A directory that goes away with this value, or when the bench is interrupted.
pub(crate) fn place(arguments: &Arguments) -> anyhow::Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("kvtier-bench-nvme-");
    let made = match &arguments.nvme_directory {
        Some(parent) => builder.tempdir_in(parent),
        None => builder.tempdir(),
    };
    let directory = made.context("could not make a directory for the NVMe figures")?;
    interrupt::remove_when_interrupted(directory.path())?;
    Ok(directory)
}

/// The name of block `number`.
pub(crate) fn key(namespace: &NamespaceDescriptor, number: u64) -> BlockKey {
    let mut hash = [0xA5; 32];
    SmallRng::seed_from_u64(number).fill_bytes(&mut hash[8..]);
    hash[..8].copy_from_slice(&number.to_le_bytes());
    BlockKey {
        namespace: namespace.id(),
        group: GroupIndex(0),
        hash: BlockHash(hash),
    }
}

/// An open device.
pub(crate) struct Rig {
    pub(crate) shape: Shape,
    pub(crate) namespace: NamespaceDescriptor,
    device: Device,
    memory: Arc<Memory>,
    directory: PathBuf,
    events: Receiver<Vec<DeviceEvent>>,
    /// Events that came together with one that was waited for.
    rest: std::collections::VecDeque<DeviceEvent>,
    operation_next: u64,
}

impl Rig {
    /// Opens a directory that is new, and waits until it is loaded.
    pub(crate) fn make(directory: &Path, shape: Shape) -> anyhow::Result<Self> {
        let memory = slots(&shape)?;
        let mut rig = Self::open(directory, shape, memory)?;
        rig.loaded()?;
        rig.keep_namespace()?;
        for index in 0..rig.shape.segments {
            let operation = rig.operation();
            rig.submit(Order::CreateSegment { operation, index });
            ensure!(
                rig.next_done()?.1 == IoOutcome::Done,
                "segment {index} was not made"
            );
        }
        Ok(rig)
    }

    /// Opens a directory, and waits for nothing.
    pub(crate) fn open(directory: &Path, shape: Shape, memory: Arc<Memory>) -> anyhow::Result<Self> {
        let (sender, events) = mpsc::channel();
        let spec = DeviceSpec {
            name: "bench/0".to_owned(),
            tenant: "bench".to_owned(),
            directory: directory.to_owned(),
            segment_bytes: shape.segment_bytes(),
            segments_max: shape.segments,
            catalogue_bytes_max: 1 << 30,
            io: shape.io,
            direct: Direct::Auto,
            depth: shape.depth,
            catalogue_delay: Duration::from_millis(50),
            memory: memory.clone(),
        };
        let namespace = NamespaceDescriptor::new([Field {
            tag: "bench".to_owned(),
            value: b"kvtier-bench".to_vec(),
        }])?;
        let device = Device::open(&spec, Arc::new(move |events| drop(sender.send(events))))?;
        Ok(Self {
            shape,
            namespace,
            device,
            memory,
            directory: directory.to_owned(),
            events,
            rest: std::collections::VecDeque::new(),
            operation_next: 0,
        })
    }

    /// Closes it in good order, and gives what it takes to open it again.
    pub(crate) fn close(self) -> (PathBuf, Shape, Arc<Memory>) {
        let Self {
            shape,
            device,
            memory,
            directory,
            ..
        } = self;
        device.shutdown();
        (directory, shape, memory)
    }

    /// Closes it and opens it again with other memory.
    pub(crate) fn renew(self) -> anyhow::Result<Self> {
        let (directory, shape, memory) = self.close();
        // While the old memory is there, the new one is other pages.
        let other = slots(&shape)?;
        drop(memory);
        let mut rig = Self::open(&directory, shape, other)?;
        rig.loaded()?;
        Ok(rig)
    }

    pub(crate) fn stats(&self) -> DeviceStats {
        self.device.stats()
    }

    pub(crate) fn operation(&mut self) -> OperationId {
        self.operation_next += 1;
        OperationId(self.operation_next)
    }

    pub(crate) fn submit(&self, order: Order) {
        self.device.submit(vec![order]);
    }

    pub(crate) fn submit_all(&self, orders: Vec<Order>) {
        self.device.submit(orders);
    }

    /// The next event.
    pub(crate) fn next(&mut self) -> anyhow::Result<DeviceEvent> {
        loop {
            if let Some(event) = self.rest.pop_front() {
                if let DeviceEvent::Lost { reason } = event {
                    bail!("the device was lost: {reason}");
                }
                return Ok(event);
            }
            let events = self.events.recv_timeout(WATCHDOG);
            self.rest
                .extend(events.context("the device did not answer in time")?);
        }
    }

    /// The next answer to an order.
    pub(crate) fn next_done(&mut self) -> anyhow::Result<(OperationId, IoOutcome)> {
        loop {
            if let DeviceEvent::Done {
                operation, outcome, ..
            } = self.next()?
            {
                return Ok((operation, outcome));
            }
        }
    }

    fn loaded(&mut self) -> anyhow::Result<LoadReport> {
        loop {
            if let DeviceEvent::Loaded(report) = self.next()? {
                return Ok(report);
            }
        }
    }

    fn keep_namespace(&self) -> anyhow::Result<()> {
        let group = GroupGeometry {
            kind: AttentionKind::Full,
            tokens_per_block: 16,
            rank_bytes: self.shape.payload_bytes,
        };
        let geometry = NamespaceGeometry::compose(&[&[group]])?;
        let descriptor = self.namespace.clone();
        self.submit(Order::KeepNamespace { descriptor, geometry });
        Ok(())
    }

    /// Begins a segment's next use.
    pub(crate) fn open_segment(&mut self, segment: SegmentRef) -> anyhow::Result<()> {
        let operation = self.operation();
        self.submit(Order::OpenSegment { operation, segment });
        let (done, outcome) = self.next_done()?;
        ensure!(
            (done, outcome) == (operation, IoOutcome::Done),
            "{segment:?} was not opened: {outcome:?}"
        );
        Ok(())
    }

    /// The order to write a block from a slot.
    pub(crate) fn write(&mut self, segment: SegmentRef, number: u32, slot: u32) -> Order {
        Order::Write {
            operation: self.operation(),
            extent: self.shape.extent(segment, number),
            offset: u64::from(slot) * self.shape.block_bytes(),
            key: self.key_at(segment, number),
            descriptor: Vec::new(),
        }
    }

    /// The order to read a block into a slot.
    pub(crate) fn read(&mut self, segment: SegmentRef, number: u32, slot: u32) -> Order {
        Order::Read {
            operation: self.operation(),
            extent: self.shape.extent(segment, number),
            offset: u64::from(slot) * self.shape.block_bytes(),
            key: self.key_at(segment, number),
            class: ReadClass::Demand,
        }
    }

    fn key_at(&self, segment: SegmentRef, number: u32) -> BlockKey {
        key(
            &self.namespace,
            u64::from(segment.index) << 32 | u64::from(number),
        )
    }
}

/// A segment in its `generation`.
pub(crate) fn segment(index: u32, generation: u64) -> SegmentRef {
    SegmentRef {
        index,
        generation: SegmentGeneration(generation),
    }
}

/// Slots full of bytes that do not compress.
fn slots(shape: &Shape) -> anyhow::Result<Arc<Memory>> {
    let (flags, page_bytes) = match shape.memory {
        NvmeMemory::Small => (MemfdFlags::CLOEXEC, PAGE_BYTES),
        NvmeMemory::Huge => (
            MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
            2 << 20,
        ),
    };
    let bytes = (u64::from(shape.slots) * shape.block_bytes()).next_multiple_of(page_bytes);
    let file = memfd_create("kvtier-bench", flags).context("could not make memory")?;
    ftruncate(&file, bytes)?;
    // Takes the pages, so that a shortage is an error and no signal.
    fallocate(&file, FallocateFlags::empty(), 0, bytes)
        .context("not enough memory; huge pages are set aside with vm.nr_hugepages")?;
    let memory = Memory::map(file.as_fd(), bytes).context("could not map memory")?;
    let mut random = SmallRng::seed_from_u64(1);
    let mut step = vec![0; FILL_STEP];
    let mut at = 0;
    while at < bytes {
        let length = usize::try_from(bytes - at).unwrap_or(FILL_STEP).min(FILL_STEP);
        random.fill_bytes(&mut step[..length]);
        memory.write(at, &step[..length]);
        at += length as u64;
    }
    Ok(memory)
}
