//! The directory in `fixtures/`, made from nothing but the encoders, and a device to read it with.
//!
//! ```text
//! segment 0   | header | A: 3 pages | B: 4 pages |
//! segment 1   | header | C: 3 pages | D: 3 pages | free |
//! ```
//!
//! The committed files are version 1 as it was first written. After a change of version
//! `KVTIER_BLESS=1 cargo test -p kvstore-nvme fixtures` writes those of the new one, and the old ones stay beside them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvstore_types::{
    BlockHash, BlockKey, Extent, GroupIndex, IoOutcome, OperationId, ReadClass, SegmentGeneration, SegmentRef,
};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::directory::segment_name;
use crate::format::tests::{KEY, namespace};
use crate::format::{
    BlockHeader, FORMAT_VERSION, PAGE, SegmentHeader, Superblock, TierKey, encode_namespace,
};
use crate::{Device, DeviceEvent, DeviceSpec, Direct, IoEngine, LoadReport, Memory, OpenError, Order};

pub(super) const TENANT: &str = "test";
pub(super) const SEGMENT_BYTES: u64 = 8 * PAGE as u64;
const WATCHDOG: Duration = Duration::from_mins(1);
const SLOT_BYTES: u64 = 4 * PAGE as u64;

/// A, B, C and D: segment, first page, pages, group.
const BLOCKS: [(u32, u32, u32, u8); 4] = [(0, 1, 3, 0), (0, 4, 4, 1), (1, 1, 3, 0), (1, 4, 3, 0)];

pub(super) fn block(number: usize) -> (BlockKey, Extent) {
    let (index, page, pages, group) = BLOCKS[number];
    let key = BlockKey {
        namespace: namespace().0.id(),
        group: GroupIndex(group),
        hash: BlockHash(*blake3::hash(&[u8::try_from(number).unwrap()]).as_bytes()),
    };
    let segment = SegmentRef {
        index,
        generation: SegmentGeneration(1),
    };
    (key, Extent { segment, page, pages })
}

/// The payload follows from the name, so that a block can be told from every other one.
fn payload(key: &BlockKey, bytes: u64) -> Vec<u8> {
    let mut payload = vec![0; usize::try_from(bytes).unwrap()];
    blake3::Hasher::new_keyed(&key.hash.0)
        .finalize_xof()
        .fill(&mut payload);
    payload
}

/// A segment file with its blocks.
pub(super) fn segment_file(tier: &TierKey, index: u32, generation: u64) -> Vec<u8> {
    let mut file = vec![0; usize::try_from(SEGMENT_BYTES).unwrap()];
    let segment = SegmentRef {
        index,
        generation: SegmentGeneration(generation),
    };
    let header = SegmentHeader { segment, pages: 8 };
    header.encode(tier, (&mut file[..PAGE]).try_into().unwrap());
    for (number, &(at, page, ..)) in BLOCKS.iter().enumerate() {
        if at == index {
            let bytes = block_bytes(tier, number);
            file[page as usize * PAGE..][..bytes.len()].copy_from_slice(&bytes);
        }
    }
    file
}

fn block_bytes(tier: &TierKey, number: usize) -> Vec<u8> {
    let (key, extent) = block(number);
    let payload_bytes = BlockHeader::payload_bytes_of(&extent);
    let payload = payload(&key, payload_bytes);
    let header = BlockHeader {
        key,
        extent,
        payload_bytes,
        checksum: xxhash_rust::xxh3::xxh3_128(&payload),
    };
    let mut page = [0; PAGE];
    header.encode(tier, format!("descriptor {number}").as_bytes(), &mut page);
    [page.as_slice(), &payload].concat()
}

pub(super) fn namespace_file() -> String {
    format!("namespace-{}.kvt", namespace().0.id())
}

/// All files.
fn good() -> BTreeMap<String, Vec<u8>> {
    let (descriptor, geometry) = namespace();
    let superblock = Superblock {
        key: KEY,
        tenant: TENANT.into(),
        segment_bytes: SEGMENT_BYTES,
    };
    BTreeMap::from([
        ("tier.kvt".to_owned(), superblock.encode().to_vec()),
        (segment_name(0), segment_file(&KEY, 0, 1)),
        (segment_name(1), segment_file(&KEY, 1, 1)),
        (namespace_file(), encode_namespace(&descriptor, &geometry)),
    ])
}

/// The same with one bit of A's payload and one of C's header wrong, and B cut off.
fn damaged() -> BTreeMap<String, Vec<u8>> {
    let mut files = good();
    let first = files.get_mut(&segment_name(0)).unwrap();
    first[2 * PAGE + 77] ^= 0x10;
    first.truncate(6 * PAGE);
    files.get_mut(&segment_name(1)).unwrap()[PAGE + 90] ^= 1;
    files
}

fn committed(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/v{FORMAT_VERSION}/{kind}"))
}

#[test]
fn fixtures_are_what_the_encoders_write() {
    for (kind, files) in [("good", good()), ("damaged", damaged())] {
        let place = committed(kind);
        if std::env::var_os("KVTIER_BLESS").is_some() {
            fs::create_dir_all(&place).unwrap();
            for (name, bytes) in &files {
                fs::write(place.join(name), bytes).unwrap();
            }
        }
        for (name, bytes) in files {
            let path = place.join(name);
            assert!(fs::read(&path).unwrap() == bytes, "{} differs", path.display());
        }
    }
}

/// A committed directory, copied to where it may be written to.
pub(super) fn copy(kind: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(committed(kind)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), place.path().join(entry.file_name())).unwrap();
    }
    place
}

pub(super) fn flip(path: &Path, at: usize) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at as u64).unwrap();
}

pub(super) fn cut(path: &Path, bytes: usize) {
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(bytes as u64)
        .unwrap();
}

/// A device that was opened and has told everything.
pub(super) struct Opened {
    device: Device,
    events: Receiver<DeviceEvent>,
    memory: Arc<Memory>,
    generations: BTreeMap<u32, SegmentGeneration>,
    /// Blocks that were told, by their numbers.
    pub(super) told: Vec<usize>,
    pub(super) report: LoadReport,
}

impl Opened {
    pub(super) fn new(directory: &Path) -> Result<Self, OpenError> {
        let fd = memfd_create("slots", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, SLOT_BYTES).unwrap();
        let memory = Memory::map(fd.as_fd(), SLOT_BYTES).unwrap();
        let spec = DeviceSpec {
            name: "test/0".into(),
            tenant: TENANT.into(),
            directory: directory.to_owned(),
            segment_bytes: SEGMENT_BYTES,
            segments_max: 4,
            catalogue_bytes_max: 64 << 20,
            io: IoEngine::Auto,
            direct: Direct::Auto,
            depth: 4,
            catalogue_delay: Duration::from_millis(1),
            memory: Arc::clone(&memory),
        };
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let sink = move |events: Vec<DeviceEvent>| {
            let sender = sender.lock().unwrap();
            for event in events {
                // Nobody listens after the end.
                let _ = sender.send(event);
            }
        };
        let device = Device::open(&spec, Arc::new(sink))?;
        let mut opened = Self {
            device,
            events,
            memory,
            generations: BTreeMap::new(),
            told: Vec::new(),
            report: LoadReport::default(),
        };
        opened.load();
        Ok(opened)
    }

    fn load(&mut self) {
        loop {
            match self.events.recv_timeout(WATCHDOG).unwrap() {
                DeviceEvent::SegmentFound { segment, .. } => {
                    self.generations.insert(segment.index, segment.generation);
                }
                DeviceEvent::Blocks { blocks, .. } => {
                    let number = |key| (0..BLOCKS.len()).find(|&number| block(number).0 == key).unwrap();
                    self.told.extend(blocks.iter().map(|found| number(found.key)));
                }
                DeviceEvent::Loaded(report) => {
                    self.report = report;
                    // Which segments come first is the loader's business.
                    self.told.sort_unstable();
                    return;
                }
                DeviceEvent::Namespace { .. } => {}
                event => panic!("{event:?} while loading"),
            }
        }
    }

    /// Reads a block from where it was written, in the segment's present use.
    pub(super) fn read(&self, number: usize) -> IoOutcome {
        let (key, mut extent) = block(number);
        match self.generations.get(&extent.segment.index) {
            Some(&generation) if generation.0 > 0 => extent.segment.generation = generation,
            _ => {}
        }
        self.device.submit(vec![Order::Read {
            operation: OperationId(number as u64),
            extent,
            offset: 0,
            key,
            class: ReadClass::Demand,
        }]);
        let event = self.events.recv_timeout(WATCHDOG).unwrap();
        let DeviceEvent::Done {
            operation, outcome, ..
        } = event
        else {
            panic!("{event:?} while reading");
        };
        assert_eq!(operation.0, number as u64);
        if outcome == IoOutcome::Done {
            let bytes = BlockHeader::payload_bytes_of(&extent);
            let place = self.memory.at(PAGE as u64, bytes).unwrap();
            let mut read = vec![0; usize::try_from(bytes).unwrap()];
            // SAFETY: within the slot, which no transfer uses any more.
            unsafe { place.copy_to_nonoverlapping(read.as_mut_ptr(), read.len()) };
            assert!(read == payload(&key, bytes), "block {number} has wrong bytes");
        }
        outcome
    }

    pub(super) fn shutdown(self) {
        self.device.shutdown();
    }
}
