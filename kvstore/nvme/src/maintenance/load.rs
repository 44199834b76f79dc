//! The start: everything that is on the device is told, a segment at a time.
//!
//! A segment that the catalogue calls full is taken from it, if the segment's own header says that it is still in that
//! use. Of all others the headers are read, because the catalogue is written behind the data.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use kvstore_types::{NamespaceDescriptor, NamespaceGeometry, NamespaceId, SegmentGeneration, SegmentRef};
use tracing::{info, warn};

use super::CreditSender;
use super::headers::{self, Use};
use super::scan::{Scan, scan};
use super::serve::Worker;
use crate::catalogue::{Catalogue, Change, Condition};
use crate::directory::Inventory;
use crate::format::SegmentRecord;
use crate::{Credit, DeviceEvent, FoundBlock, LoadReport};

/// Blocks told at a time.
const BLOCKS_PER_EVENT: usize = 4096;
/// Such portions that were told and not yet taken in.
const CREDITS: usize = 8;
/// How often the log hears how far it is.
const PROGRESS: Duration = Duration::from_secs(2);
/// The smallest block, in pages: a header and a payload.
const BLOCK_PAGES_MIN: u32 = 2;

/// Where taken credits come back. One place more, for the wake-up at the end.
pub(super) fn credits() -> (CreditSender, Receiver<()>) {
    sync_channel(CREDITS + 1)
}

/// What the loader knows and has done.
struct Loading {
    namespaces: HashMap<NamespaceId, Option<(NamespaceDescriptor, NamespaceGeometry)>>,
    unused: BTreeSet<NamespaceId>,
    credits_out: usize,
    report: LoadReport,
    began: Instant,
    said: Instant,
}

/// The shutdown came first.
struct GaveUp;

impl Worker {
    /// Tells everything, and says so.
    pub(super) fn load(&mut self, inventory: &Inventory, credits: &CreditSender, back: &Receiver<()>) {
        let began = Instant::now();
        let mut loading = Loading {
            namespaces: HashMap::new(),
            unused: BTreeSet::new(),
            credits_out: 0,
            report: LoadReport::default(),
            began,
            said: began,
        };
        for (index, why) in &inventory.unusable {
            warn!(
                device = self.spec.name,
                segment = index,
                why,
                "segment file cannot be used"
            );
        }
        let records = self.open_catalogue(&mut loading.report);
        self.read_namespaces(&mut loading);
        let segments = headers::read_all(&self.directory);
        loading.report.segments = u32::try_from(segments.len()).unwrap_or(u32::MAX);
        for (index, found) in segments {
            if self
                .load_segment(index, found, &records, &mut loading, (credits, back))
                .is_err()
            {
                return;
            }
            loading.tell_progress(&self.spec.name);
        }
        for id in &loading.unused {
            // If it fails the file is collected at a later start.
            let _ = self.directory.drop_namespace(*id);
        }
        self.count_catalogue();
        loading.report.duration = began.elapsed();
        (self.sink)(vec![DeviceEvent::Loaded(loading.report)]);
    }

    fn open_catalogue(&mut self, report: &mut LoadReport) -> BTreeMap<u32, SegmentRecord> {
        let path = self.directory.catalogue_path();
        let opened = Catalogue::open(&path, self.directory.key().id, self.spec.catalogue_bytes_max);
        let (mut catalogue, condition) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                warn!(device = self.spec.name, %error, "no catalogue: every start will read all headers");
                report.catalogue_rebuilt = Some(error.to_string());
                return BTreeMap::new();
            }
        };
        if let Condition::New { why } = condition {
            report.catalogue_rebuilt = Some(why);
        }
        let records = match catalogue.segments() {
            Ok(records) => records.into_iter().collect(),
            Err(error) => {
                match self.replace_catalogue(&error.to_string(), report) {
                    Some(new) => catalogue = new,
                    None => return BTreeMap::new(),
                }
                BTreeMap::new()
            }
        };
        self.catalogue = Some(catalogue);
        records
    }

    fn replace_catalogue(&mut self, why: &str, report: &mut LoadReport) -> Option<Catalogue> {
        warn!(
            device = self.spec.name,
            why, "the catalogue is damaged and made anew"
        );
        report.catalogue_rebuilt = Some(why.to_owned());
        // The old one is closed before its files go.
        self.catalogue = None;
        let path = self.directory.catalogue_path();
        Catalogue::create(&path, self.directory.key().id, self.spec.catalogue_bytes_max).ok()
    }

    fn read_namespaces(&self, loading: &mut Loading) {
        let namespaces = match self.directory.namespaces() {
            Ok(namespaces) => namespaces,
            Err(error) => {
                warn!(device = self.spec.name, %error, "no namespaces can be read, so no blocks can be used");
                return;
            }
        };
        for (file, why) in namespaces.damaged {
            warn!(
                device = self.spec.name,
                file, why, "namespace file cannot be used; its blocks are lost"
            );
        }
        for (descriptor, geometry) in namespaces.good {
            let id = descriptor.id();
            loading.unused.insert(id);
            loading.namespaces.insert(id, Some((descriptor, geometry)));
        }
    }

    fn load_segment(
        &mut self,
        index: u32,
        found: Use,
        records: &BTreeMap<u32, SegmentRecord>,
        loading: &mut Loading,
        credits: (&CreditSender, &Receiver<()>),
    ) -> Result<(), GaveUp> {
        let record = records.get(&index);
        let generation = match found {
            Use::Known(generation) => generation,
            Use::Never => SegmentGeneration(0),
            Use::Damaged(why) => {
                warn!(
                    device = self.spec.name,
                    segment = index,
                    why,
                    "segment header cannot be used"
                );
                record.map_or(SegmentGeneration(0), |record| record.generation)
            }
        };
        let segment = SegmentRef { index, generation };
        if generation.0 == 0 {
            (self.sink)(vec![DeviceEvent::SegmentFound { segment, tail: 1 }]);
            return Ok(());
        }
        let is_full =
            record.is_some_and(|record| record.generation == generation && record.full_tail.is_some());
        let blocks = if is_full {
            self.catalogued(segment, loading)
        } else {
            None
        };
        match blocks {
            Some(blocks) => {
                // Nothing may be appended: it would not be looked for after the next start.
                let tail = self.directory.segment_pages();
                self.tell_segment(segment, tail, blocks, loading, credits)
            }
            None => self.scan_segment(segment, record.copied(), loading, credits),
        }
    }

    /// A full segment's blocks as the catalogue has them; none if it cannot be read.
    fn catalogued(&mut self, segment: SegmentRef, loading: &mut Loading) -> Option<Vec<FoundBlock>> {
        let catalogue = self.catalogue.as_ref()?;
        let read = catalogue.blocks(segment).and_then(|blocks| {
            let found = blocks.map(|block| block.map(|(extent, key)| FoundBlock { key, extent }));
            found.collect::<Result<Vec<_>, _>>()
        });
        match read {
            Ok(blocks) => Some(blocks),
            Err(error) => {
                self.catalogue = self.replace_catalogue(&error.to_string(), &mut loading.report);
                None
            }
        }
    }

    fn scan_segment(
        &mut self,
        segment: SegmentRef,
        record: Option<SegmentRecord>,
        loading: &mut Loading,
        credits: (&CreditSender, &Receiver<()>),
    ) -> Result<(), GaveUp> {
        let pages = self.directory.segment_pages();
        let scanned = match self.directory.segment(segment.index) {
            Some(file) => scan(file, self.directory.key(), segment, pages),
            None => Scan::default(),
        };
        loading.report.segments_scanned += 1;
        if scanned.pages_missing > 0 {
            let pages = scanned.pages_missing;
            warn!(
                device = self.spec.name,
                segment = segment.index,
                pages,
                "pages of a segment cannot be read"
            );
        }
        let blocks = scanned.blocks.iter().map(|block| FoundBlock {
            key: block.key,
            extent: block.extent,
        });
        let blocks: Vec<FoundBlock> = blocks.collect();
        let tail = scanned.tail.max(1);
        let told = self.tell_segment(segment, tail, blocks, loading, credits);
        self.enter_scanned(segment, record, scanned, tail + BLOCK_PAGES_MIN > pages);
        told
    }

    /// What was scanned is in the catalogue afterwards.
    fn enter_scanned(
        &mut self,
        segment: SegmentRef,
        record: Option<SegmentRecord>,
        scanned: Scan,
        is_full: bool,
    ) {
        let is_known = record.is_some_and(|record| record.generation == segment.generation);
        let mut changes = Vec::new();
        if !is_known {
            changes.push(Change::OpenSegment(segment));
        }
        changes.extend(scanned.blocks.into_iter().map(|block| Change::Block {
            extent: block.extent,
            key: block.key,
            descriptor: block.descriptor,
        }));
        for batch in changes.chunks(BLOCKS_PER_EVENT) {
            self.apply(batch);
        }
        if is_full {
            self.mark_full(segment);
        }
    }

    fn tell_segment(
        &self,
        segment: SegmentRef,
        tail: u32,
        blocks: Vec<FoundBlock>,
        loading: &mut Loading,
        (credits, back): (&CreditSender, &Receiver<()>),
    ) -> Result<(), GaveUp> {
        let mut events = vec![DeviceEvent::SegmentFound { segment, tail }];
        for blocks in blocks.chunks(BLOCKS_PER_EVENT) {
            let known = self.known(blocks, loading, &mut events);
            loading.report.blocks_dropped += (blocks.len() - known.len()) as u64;
            loading.report.blocks += known.len() as u64;
            loading.wait_for_credit(back);
            if self.queue.is_closed() {
                return Err(GaveUp);
            }
            loading.credits_out += 1;
            events.push(DeviceEvent::Blocks {
                blocks: known,
                credit: Credit::new(credits.clone()),
            });
            (self.sink)(std::mem::take(&mut events));
        }
        if !events.is_empty() {
            (self.sink)(events);
        }
        Ok(())
    }

    /// The blocks whose namespace is known, which is told before the first of them.
    fn known(
        &self,
        blocks: &[FoundBlock],
        loading: &mut Loading,
        events: &mut Vec<DeviceEvent>,
    ) -> Vec<FoundBlock> {
        let mut known = Vec::with_capacity(blocks.len());
        for block in blocks {
            let Some(entry) = loading.namespaces.get_mut(&block.key.namespace) else {
                continue;
            };
            if let Some((descriptor, geometry)) = entry.take() {
                loading.unused.remove(&block.key.namespace);
                events.push(DeviceEvent::Namespace { descriptor, geometry });
            }
            known.push(*block);
        }
        known
    }
}

impl Loading {
    fn wait_for_credit(&mut self, back: &Receiver<()>) {
        while back.try_recv().is_ok() {
            self.credits_out = self.credits_out.saturating_sub(1);
        }
        while self.credits_out >= CREDITS {
            if back.recv().is_err() {
                return;
            }
            self.credits_out -= 1;
        }
    }

    fn tell_progress(&mut self, device: &str) {
        if self.said.elapsed() >= PROGRESS {
            self.said = Instant::now();
            let (blocks, scanned) = (self.report.blocks, self.report.segments_scanned);
            let seconds = self.began.elapsed().as_secs();
            info!(
                device,
                blocks,
                segments_scanned = scanned,
                of = self.report.segments,
                seconds,
                "loading"
            );
        }
    }
}
