//! A maintenance thread over a real directory, and blocks written into its files as the I/O thread would.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvstore_types::{
    BlockHash, BlockKey, Extent, GroupIndex, IoOutcome, OperationId, SegmentGeneration, SegmentRef,
};
use tempfile::TempDir;

use crate::directory::{Directory, DirectorySpec, Pages, SegmentFile};
use crate::format::tests::namespace;
use crate::format::{BlockHeader, PAGE, TierKey};
use crate::maintenance::{
    FileTable, Maintenance, MaintenanceHandle, MaintenanceOrder, MaintenanceSpec, Written,
};
use crate::{DeviceEvent, Direct, FoundBlock, LoadReport};

pub(super) const SEGMENT_PAGES: u32 = 64;
const WATCHDOG: Duration = Duration::from_mins(1);

/// How a stage is set up.
#[derive(Clone, Copy)]
pub(super) struct Setting {
    pub(super) segment_pages: u32,
    pub(super) segments_max: u32,
    pub(super) catalogue_bytes_max: u64,
    pub(super) names_bytes_max: u64,
}

pub(super) const USUAL: Setting = Setting {
    segment_pages: SEGMENT_PAGES,
    segments_max: 64,
    catalogue_bytes_max: 64 << 20,
    names_bytes_max: 16 << 20,
};

#[derive(Clone, Default)]
struct Files(Arc<Mutex<BTreeMap<u32, Arc<SegmentFile>>>>);

impl FileTable for Files {
    fn add(&self, index: u32, file: Arc<SegmentFile>) {
        self.0.lock().unwrap().insert(index, file);
    }

    fn remove(&self, index: u32) {
        self.0.lock().unwrap().remove(&index);
    }
}

/// A place for a tier.
pub(super) struct Place(TempDir);

impl Place {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn tier(&self) -> PathBuf {
        self.0.path().join("tier")
    }

    pub(super) fn catalogue(&self) -> PathBuf {
        self.tier().join("catalogue")
    }

    pub(super) fn segment(&self, index: u32) -> PathBuf {
        self.tier().join(format!("segment-{index:08}.kvt"))
    }

    /// A copy of a directory of small files, beside the tier.
    pub(super) fn keep(&self, directory: &Path, name: &str) -> PathBuf {
        let copy = self.0.path().join(name);
        copy_directory(directory, &copy);
        copy
    }

    pub(super) fn start(&self) -> Stage {
        self.start_with(USUAL)
    }

    pub(super) fn start_with(&self, setting: Setting) -> Stage {
        Stage::new(&self.tier(), setting)
    }

    /// What a start tells.
    pub(super) fn told(&self) -> Told {
        let mut stage = self.start();
        let told = stage.load();
        stage.stop();
        told
    }
}

/// Everything a start told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Generation and tail.
    pub(super) segments: BTreeMap<u32, (u64, u32)>,
    pub(super) namespaces: usize,
    pub(super) unusable: Vec<u32>,
    pub(super) blocks: Vec<FoundBlock>,
    pub(super) report: LoadReport,
}

impl Told {
    /// First pages of the blocks in a segment.
    pub(super) fn pages(&self, index: u32) -> Vec<u32> {
        let of_segment = self
            .blocks
            .iter()
            .filter(|block| block.extent.segment.index == index);
        of_segment.map(|block| block.extent.page).collect()
    }

    fn take(&mut self, event: DeviceEvent) -> bool {
        match event {
            DeviceEvent::SegmentFound { segment, tail } => {
                let told = self.segments.insert(segment.index, (segment.generation.0, tail));
                assert_eq!(told, None, "segment {} was told twice", segment.index);
            }
            DeviceEvent::SegmentUnusable { index } => self.unusable.push(index),
            DeviceEvent::Namespace { .. } => self.namespaces += 1,
            DeviceEvent::Blocks { blocks, .. } => {
                assert!(self.namespaces > 0 && blocks.len() <= 4096);
                for block in &blocks {
                    let segment = block.extent.segment;
                    let (generation, tail) = self.segments[&segment.index];
                    assert_eq!(segment.generation.0, generation);
                    assert!(block.extent.page + block.extent.pages <= tail);
                    assert_eq!(
                        block.key,
                        key_of(block.extent),
                        "another block than was written there"
                    );
                }
                self.blocks.extend(blocks);
            }
            DeviceEvent::Loaded(report) => {
                self.report = report;
                return true;
            }
            other => panic!("did not expect {other:?}"),
        }
        false
    }
}

pub(super) struct Stage {
    maintenance: Maintenance,
    pub(super) handle: MaintenanceHandle,
    pub(super) events: Receiver<Vec<DeviceEvent>>,
    files: Files,
    /// Whoever holds it holds up the thread when it next says something.
    pub(super) gate: Arc<Mutex<()>>,
    pub(super) key: TierKey,
    operation: u64,
}

impl Stage {
    fn new(tier: &Path, setting: Setting) -> Self {
        let spec = DirectorySpec {
            path: tier,
            tenant: "test",
            segment_bytes: u64::from(setting.segment_pages) * PAGE as u64,
            segments_max: setting.segments_max,
            direct: Direct::Auto,
        };
        let (directory, inventory) = Directory::open_at(spec).unwrap();
        let key = directory.key().clone();
        let files = Files::default();
        let (sender, events) = mpsc::channel();
        let spec = MaintenanceSpec {
            thread: "kvt-maint-0".into(),
            name: "test/0".into(),
            catalogue_bytes_max: setting.catalogue_bytes_max,
            names_bytes_max: setting.names_bytes_max,
            catalogue_delay: Duration::from_millis(1),
        };
        let gate = Arc::new(Mutex::new(()));
        let held = Arc::clone(&gate);
        let sink = Arc::new(move |events| {
            drop(held.lock());
            drop(sender.send(events));
        });
        let maintenance =
            Maintenance::spawn(directory, inventory, spec, Box::new(files.clone()), sink).unwrap();
        let handle = maintenance.handle();
        Self {
            maintenance,
            handle,
            events,
            files,
            gate,
            key,
            operation: 0,
        }
    }

    pub(super) fn next(&self) -> Vec<DeviceEvent> {
        self.events.recv_timeout(WATCHDOG).expect("an event comes")
    }

    /// Everything until it is loaded.
    pub(super) fn load(&mut self) -> Told {
        let mut told = Told::default();
        let mut is_done = false;
        while !is_done {
            for event in self.next() {
                is_done |= told.take(event);
            }
        }
        // Segments that are scanned come in any order.
        told.blocks.sort_by_key(|block| block.extent);
        told
    }

    /// Submits an order and waits for its answer.
    pub(super) fn ask(&mut self, order: impl FnOnce(OperationId) -> MaintenanceOrder) -> IoOutcome {
        self.operation += 1;
        self.handle.submit(order(OperationId(self.operation)));
        match self.next().as_slice() {
            [
                DeviceEvent::Done {
                    operation, outcome, ..
                },
            ] if operation.0 == self.operation => *outcome,
            other => panic!("want the answer, got {other:?}"),
        }
    }

    pub(super) fn create(&mut self, index: u32) {
        let created = self.ask(|operation| MaintenanceOrder::CreateSegment { operation, index });
        assert_eq!(created, IoOutcome::Done);
    }

    pub(super) fn open(&mut self, segment: SegmentRef) {
        let opened = self.ask(|operation| MaintenanceOrder::OpenSegment { operation, segment });
        assert_eq!(opened, IoOutcome::Done);
    }

    pub(super) fn keep_namespace(&self) {
        let (descriptor, geometry) = namespace();
        self.handle
            .submit(MaintenanceOrder::KeepNamespace { descriptor, geometry });
    }

    pub(super) fn full(&self, segment: SegmentRef) {
        self.handle.submit(MaintenanceOrder::SegmentFull { segment });
    }

    /// The namespace, and a segment that was just opened.
    pub(super) fn begin(&mut self, segment: SegmentRef) {
        self.keep_namespace();
        self.create(segment.index);
        self.open(segment);
    }

    pub(super) fn file(&self, index: u32) -> Arc<SegmentFile> {
        Arc::clone(&self.files.0.lock().unwrap()[&index])
    }

    pub(super) fn has_file(&self, index: u32) -> bool {
        self.files.0.lock().unwrap().contains_key(&index)
    }

    /// A block is written, and the catalogue does not hear of it.
    pub(super) fn write_silently(&self, extent: Extent) {
        let mut pages = Pages::new(extent.pages as usize);
        header_of(extent).encode(&self.key, &[6; 9], pages.page_mut(0));
        self.file(extent.segment.index)
            .write_at(&pages, extent.page)
            .unwrap();
    }

    /// Only a block's header is written, and the catalogue does not hear of it.
    pub(super) fn write_header(&self, extent: Extent) {
        let mut page = Pages::new(1);
        header_of(extent).encode(&self.key, &[], page.page_mut(0));
        self.file(extent.segment.index)
            .write_at(&page, extent.page)
            .unwrap();
    }

    /// The header of a block reaches the device, and its payload does not.
    pub(super) fn write_cut_short(&self, extent: Extent) {
        let mut page = Pages::new(1);
        let checksum = header_of(extent).checksum ^ 1;
        let header = BlockHeader {
            checksum,
            ..header_of(extent)
        };
        header.encode(&self.key, &[], page.page_mut(0));
        self.file(extent.segment.index)
            .write_at(&page, extent.page)
            .unwrap();
    }

    pub(super) fn write(&self, extent: Extent) {
        self.write_silently(extent);
        self.tell(extent);
    }

    /// The catalogue hears of a block, wherever that may be.
    pub(super) fn tell(&self, extent: Extent) {
        let (key, descriptor) = (key_of(extent), vec![6; 9]);
        self.handle.written(Written {
            extent,
            key,
            descriptor,
        });
    }

    /// Fills a segment with blocks of 3 pages, all that fit.
    pub(super) fn fill(&mut self, segment: SegmentRef) {
        for page in (1..SEGMENT_PAGES - 2).step_by(3) {
            self.write(extent(segment, page));
        }
    }

    pub(super) fn stop(self) {
        drop(self.maintenance);
    }
}

pub(super) fn segment(index: u32, generation: u64) -> SegmentRef {
    SegmentRef {
        index,
        generation: SegmentGeneration(generation),
    }
}

pub(super) fn extent(segment: SegmentRef, page: u32) -> Extent {
    Extent {
        segment,
        page,
        pages: 3,
    }
}

/// The block that is written to a place, so that one can be told from another.
pub(super) fn key_of(extent: Extent) -> BlockKey {
    let mut hash = [0xA5; 32];
    hash[..4].copy_from_slice(&extent.segment.index.to_le_bytes());
    hash[4..8].copy_from_slice(&extent.page.to_le_bytes());
    hash[8..16].copy_from_slice(&extent.segment.generation.0.to_le_bytes());
    BlockKey {
        namespace: namespace().0.id(),
        group: GroupIndex(1),
        hash: BlockHash(hash),
    }
}

/// The header of a block whose payload is all zeroes.
pub(super) fn header_of(extent: Extent) -> BlockHeader {
    let payload_bytes = BlockHeader::payload_bytes_of(&extent);
    BlockHeader {
        key: key_of(extent),
        extent,
        payload_bytes,
        checksum: xxhash_rust::xxh3::xxh3_128(&vec![0; usize::try_from(payload_bytes).unwrap()]),
    }
}

pub(super) fn copy_directory(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
