//! A directory with two segments, memory with slots, and an I/O thread.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvstore_types::{
    BlockHash, BlockKey, Extent, GroupIndex, IoOutcome, NamespaceId, OperationId, ReadClass,
    SegmentGeneration, SegmentRef,
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use tempfile::TempDir;

use crate::directory::Directory;
use crate::io::{CarrierSpec, IoThread};
use crate::maintenance::{FileTable, Written};
use crate::stats::Counters;
use crate::{DeviceEvent, DeviceSpec, Direct, IoEngine, Memory, Order};

pub(crate) const PAGE: usize = 4096;
pub(crate) const SEGMENT_PAGES: u32 = 2048;
/// Pages of a slot, header included.
const SLOT_PAGES: usize = 48;
const SLOTS: usize = 64;
/// The descriptor of a block whose write makes the thread panic.
pub(crate) const PANIC: &[u8] = b"panic";
const WATCHDOG: Duration = Duration::from_mins(1);

/// Which engine, over which file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) io: IoEngine,
    pub(crate) direct: Direct,
    pub(crate) parent: &'static str,
}

impl Setting {
    /// All that this machine has.
    pub(crate) fn all() -> Vec<Self> {
        let mut settings = Vec::new();
        for io in [IoEngine::Threads, IoEngine::IoUring] {
            for (direct, parent) in [
                (Direct::Auto, "/tmp"),
                (Direct::Never, "/tmp"),
                (Direct::Auto, "/dev/shm"),
            ] {
                settings.push(Self { io, direct, parent });
            }
        }
        settings
    }
}

pub(crate) fn extent(index: u32, page: u32, pages: u32) -> Extent {
    let segment = SegmentRef {
        index,
        generation: SegmentGeneration(7),
    };
    Extent { segment, page, pages }
}

pub(crate) fn key(number: u64) -> BlockKey {
    let mut hash = [0xA5; 32];
    hash[..8].copy_from_slice(&number.to_le_bytes());
    BlockKey {
        namespace: NamespaceId([3; 16]),
        group: GroupIndex(1),
        hash: BlockHash(hash),
    }
}

/// The payload of a block is made from its name, so that a block can be told from every other one.
pub(crate) fn payload(key: BlockKey, bytes: usize) -> Vec<u8> {
    let mut seed = 0_u64;
    for chunk in key.hash.0.chunks_exact(8) {
        seed = seed.rotate_left(7) ^ u64::from_le_bytes(chunk.try_into().unwrap());
    }
    let mut payload = Vec::with_capacity(bytes);
    while payload.len() < bytes {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        payload.extend_from_slice(&(seed ^ (seed >> 29)).to_le_bytes());
    }
    payload
}

pub(crate) fn memory(bytes: usize) -> Arc<Memory> {
    let fd = memfd_create("slots", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, bytes as u64).unwrap();
    Memory::map(fd.as_fd(), bytes as u64).unwrap()
}

/// Puts bytes into memory.
pub(crate) fn fill(memory: &Memory, offset: usize, bytes: &[u8]) {
    let place = memory.at(offset as u64, bytes.len() as u64).unwrap();
    // SAFETY: the bytes lie in the mapping, and no transfer uses them.
    unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
}

/// Takes bytes out of memory.
pub(crate) fn take(memory: &Memory, offset: usize, bytes: usize) -> Vec<u8> {
    let mut copy = vec![0; bytes];
    let place = memory.at(offset as u64, bytes as u64).unwrap();
    // SAFETY: the bytes lie in the mapping, and no transfer uses them.
    unsafe { place.copy_to_nonoverlapping(copy.as_mut_ptr(), bytes) };
    copy
}

pub(crate) fn spec(directory: &Path, memory: Arc<Memory>, io: IoEngine, direct: Direct) -> DeviceSpec {
    DeviceSpec {
        name: "test/0".into(),
        tenant: "test".into(),
        directory: directory.to_owned(),
        segment_bytes: u64::from(SEGMENT_PAGES) * PAGE as u64,
        segments_max: 8,
        catalogue_bytes_max: 64 << 20,
        io,
        direct,
        depth: 8,
        catalogue_delay: Duration::from_millis(1),
        memory,
    }
}

pub(crate) struct Rig {
    pub(crate) io: IoThread,
    directory: Directory,
    memory: Arc<Memory>,
    pub(crate) counters: Arc<Counters>,
    events: Receiver<Vec<DeviceEvent>>,
    written: Arc<Mutex<Vec<Written>>>,
    outcomes: HashMap<OperationId, IoOutcome>,
    orders: Vec<Order>,
    pub(crate) lost: Option<String>,
    operation_next: u64,
    slot_next: usize,
    key_next: u64,
    tails: [u32; 3],
    place: TempDir,
}

impl Rig {
    pub(crate) fn new(setting: Setting, depth: usize) -> Self {
        let place = tempfile::tempdir_in(setting.parent).unwrap();
        let memory = memory(SLOTS * SLOT_PAGES * PAGE);
        let spec = spec(
            &place.path().join("tier"),
            memory.clone(),
            setting.io,
            setting.direct,
        );
        let (mut directory, _) = Directory::open(&spec).unwrap();
        let counters = Arc::new(Counters::default());
        let (sender, events) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let told = written.clone();
        let carrier = CarrierSpec {
            name: spec.name.clone(),
            memory: memory.clone(),
            tier: directory.key().clone(),
            segment_pages: SEGMENT_PAGES,
            depth,
            counters: counters.clone(),
            sink: Arc::new(move |events| drop(sender.send(events))),
            written: Box::new(move |block: Written| {
                assert_ne!(block.descriptor, PANIC, "as the test asked for");
                told.lock().unwrap().push(block);
            }),
        };
        let io = IoThread::spawn("kvt-nvme-0", setting.io, 8, directory.lock().unwrap(), carrier).unwrap();
        for index in 1..3 {
            io.handle().add(index, directory.create_segment(index).unwrap());
        }
        Self {
            io,
            directory,
            memory,
            counters,
            events,
            written,
            outcomes: HashMap::new(),
            orders: Vec::new(),
            lost: None,
            operation_next: 0,
            slot_next: 0,
            key_next: 0,
            tails: [1; 3],
            place,
        }
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory.bytes() as u64
    }

    pub(crate) fn segment_path(&self, index: u32) -> PathBuf {
        self.place
            .path()
            .join("tier")
            .join(format!("segment-{index:08}.kvt"))
    }

    pub(crate) fn order(&mut self, order: impl FnOnce(OperationId) -> Order) -> OperationId {
        let operation = OperationId(self.operation_next);
        self.operation_next += 1;
        self.orders.push(order(operation));
        operation
    }

    fn slot(&mut self) -> usize {
        let slot = self.slot_next % SLOTS;
        self.slot_next += 1;
        slot * SLOT_PAGES * PAGE
    }

    /// Orders a read into another slot than the last ones.
    pub(crate) fn read(&mut self, key: BlockKey, extent: Extent, class: ReadClass) -> (OperationId, usize) {
        let slot = self.slot();
        fill(&self.memory, slot, &vec![0xEE; PAGE * SLOT_PAGES]);
        let offset = slot as u64;
        let operation = self.order(|operation| Order::Read {
            operation,
            extent,
            offset,
            key,
            class,
        });
        (operation, slot)
    }

    pub(crate) fn write(&mut self, pages: u32) -> (OperationId, BlockKey, Extent) {
        let (slot, key) = (self.slot(), key(self.key_next));
        self.key_next += 1;
        let extent = extent(1, self.tails[1], pages);
        self.tails[1] += pages;
        fill(
            &self.memory,
            slot + PAGE,
            &payload(key, (pages as usize - 1) * PAGE),
        );
        let (offset, descriptor) = (slot as u64, vec![0xD5; pages as usize * 10]);
        let operation = self.order(|operation| Order::Write {
            operation,
            extent,
            offset,
            key,
            descriptor,
        });
        (operation, key, extent)
    }

    /// Writes blocks of these numbers of pages, one behind the other.
    pub(crate) fn write_all(&mut self, sizes: &[u32]) -> Vec<(BlockKey, Extent)> {
        let writes: Vec<_> = sizes.iter().map(|&pages| self.write(pages)).collect();
        self.submit();
        let blocks = writes.into_iter().map(|(operation, key, extent)| {
            assert_eq!(self.outcome(operation), IoOutcome::Done);
            (key, extent)
        });
        blocks.collect()
    }

    pub(crate) fn submit(&mut self) {
        self.io.handle().submit(std::mem::take(&mut self.orders));
    }

    /// Orders a write that makes the thread panic when it is done.
    pub(crate) fn write_and_panic(&mut self) -> OperationId {
        let (extent, key, descriptor) = (extent(1, 1, 2), key(0), PANIC.to_vec());
        self.order(|operation| Order::Write {
            operation,
            extent,
            offset: 0,
            key,
            descriptor,
        })
    }

    /// Waits until the device is lost.
    pub(crate) fn wait_until_lost(&mut self) {
        while self.lost.is_none() {
            let events = self.events.recv_timeout(WATCHDOG).unwrap();
            self.hear(events);
        }
    }

    /// Waits for an answer.
    pub(crate) fn outcome(&mut self, operation: OperationId) -> IoOutcome {
        loop {
            if let Some(outcome) = self.outcomes.remove(&operation) {
                return outcome;
            }
            let events = self.events.recv_timeout(WATCHDOG).unwrap();
            self.hear(events);
        }
    }

    fn hear(&mut self, events: Vec<DeviceEvent>) {
        for event in events {
            match event {
                DeviceEvent::Done {
                    operation, outcome, ..
                } => {
                    assert_eq!(self.outcomes.insert(operation, outcome), None, "answered twice");
                }
                DeviceEvent::Lost { reason } => self.lost = Some(reason),
                event => panic!("unexpected {event:?}"),
            }
        }
    }

    pub(crate) fn slot_has(&self, slot: usize, extent: Extent, key: BlockKey) -> bool {
        let bytes = (extent.pages as usize - 1) * PAGE;
        take(&self.memory, slot + PAGE, bytes) == payload(key, bytes)
    }

    pub(crate) fn written(&self) -> Vec<Written> {
        self.written.lock().unwrap().clone()
    }

    pub(crate) fn remove_file(&mut self, index: u32) {
        self.io.handle().remove(index);
        let path = self.segment_path(index);
        self.directory.delete_segment(index).unwrap();
        assert!(!path.exists());
    }
}

/// Changes a file behind everybody's back.
pub(crate) fn change_file(path: &Path, change: impl FnOnce(&File)) {
    change(&OpenOptions::new().read(true).write(true).open(path).unwrap());
}

/// Descriptors of this process that a file, deleted or not, is open under.
pub(crate) fn open_files_of(path: &Path) -> usize {
    let links = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let targets = links.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    targets
        .filter(|target| target.to_string_lossy().starts_with(&*path.to_string_lossy()))
        .count()
}
