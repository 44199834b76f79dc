//! Finding what is on the device when it is opened.
//!
//! ```text
//!   headers of all segments ─┬─ as the catalogue has it, and full ─▶ blocks from the catalogue ─┐
//!                            └─ anything else ──▶ scan ──▶ blocks from headers, catalogue ◀─────┴─▶ events ─▶ Loaded
//! ```
//!
//! A catalogue that turns out to be damaged while it is read is made anew, and every segment is scanned; those that were
//! told already are only entered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use kvstore_types::{BlockKey, Extent, SegmentGeneration, SegmentRef};
use tracing::{error, info, warn};

use super::headers;
use super::scan::{Proof, Scan, ScannedBlock, highest_generation, scan};
use super::serve::Worker;
use super::tell::Teller;
use crate::FoundBlock;
use crate::catalogue::{Catalogue, CatalogueError, Change, Condition};
use crate::directory::{Inventory, Namespaces, SegmentFile};
use crate::format::SegmentRecord;

/// Segments scanned at a time, so that the device has more than one small read to do.
const SCANNERS: usize = 8;
/// Most bytes of payloads that are read at a start to prove blocks that the catalogue does not know.
const PROOF_BYTES_MAX: u64 = 1 << 30;

/// A segment that has to be scanned.
#[derive(Clone, Copy, Debug)]
struct Doubtful {
    index: u32,
    /// As its header says; none if the header says nothing.
    generation: Option<SegmentGeneration>,
    /// As the catalogue had it.
    recorded: Option<SegmentGeneration>,
    /// Told before: its blocks are only to be entered.
    is_told: bool,
}

/// A segment that has been scanned.
struct Scanned {
    doubtful: Doubtful,
    segment: SegmentRef,
    /// Pages its file has, at most as many as a segment has.
    end: u32,
    scan: Scan,
}

impl Worker {
    /// Tells everything; stops where it is when the queue is closed.
    pub(super) fn load(&mut self, inventory: &Inventory) {
        let all = inventory.segments.len();
        let mut teller = Teller::new(
            self.spec.name.clone(),
            Arc::clone(&self.sink),
            Arc::clone(&self.queue),
            all,
        );
        for &(index, _) in &inventory.unusable {
            teller.unusable(index);
        }
        self.open_catalogue(&mut teller);
        let records = self.records(&mut teller);
        let (full, mut doubtful) = self.sort_segments(&records);
        teller.knows(self.namespaces());
        if let Err((told, error)) = self.tell_full(&full, &mut teller) {
            self.renew_catalogue(&error, &mut teller);
            doubtful.extend(full.iter().enumerate().map(|(at, segment)| Doubtful {
                index: segment.index,
                generation: Some(segment.generation),
                recorded: None,
                is_told: at < told,
            }));
        }
        self.tell_doubtful(&doubtful, &mut teller);
        self.flush();
        if all == 0 {
            // There was nothing to be rebuilt.
            teller.report.catalogue_rebuilt = None;
        }
        self.drop_unused(&teller, inventory.unusable.is_empty());
        self.counters
            .catalogue(self.catalogue.as_ref().map(Catalogue::bytes));
        teller.finish();
    }

    /// Namespaces of which no block is left, and which the engine therefore never heard of. Whoever attaches with one again
    /// has it kept again before the first write. What could not be read may have blocks of any of them.
    fn drop_unused(&mut self, teller: &Teller, are_all_usable: bool) {
        if !are_all_usable || self.ledger.has_unread {
            self.ledger.guarded = teller.namespaces().collect();
        }
        if teller.is_stopped() {
            return;
        }
        for id in teller.unused() {
            self.drop_namespace(id);
        }
    }

    fn open_catalogue(&mut self, teller: &mut Teller) {
        let path = self.directory.catalogue_path();
        let opened = Catalogue::open(&path, self.directory.key().id, self.spec.catalogue_bytes_max);
        let device = &self.spec.name;
        let rebuilt = match opened {
            Ok((catalogue, condition)) => {
                self.catalogue = Some(catalogue);
                match condition {
                    Condition::Good => None,
                    Condition::New { why } => {
                        info!(device, why, "made a new catalogue; segments are scanned");
                        Some(why)
                    }
                }
            }
            Err(trouble) => {
                let cause = std::error::Error::source(&trouble)
                    .map(ToString::to_string)
                    .unwrap_or_default();
                error!(device, error = %trouble, cause, "works without a catalogue: every start reads all headers");
                Some(format!("{trouble}: {cause}"))
            }
        };
        teller.report.catalogue_rebuilt = rebuilt;
    }

    /// In the place of a catalogue that could not be read.
    fn renew_catalogue(&mut self, error: &CatalogueError, teller: &mut Teller) {
        let device = &self.spec.name;
        let cause = std::error::Error::source(error)
            .map(ToString::to_string)
            .unwrap_or_default();
        warn!(device, %error, cause, "the catalogue is damaged and is made anew; all segments are scanned");
        teller.report.catalogue_rebuilt = Some(format!("{error}: {cause}"));
        // Closed before its files are removed.
        self.catalogue = None;
        let path = self.directory.catalogue_path();
        match Catalogue::create(&path, self.directory.key().id, self.spec.catalogue_bytes_max) {
            Ok(catalogue) => self.catalogue = Some(catalogue),
            Err(error) => error!(device, %error, "works without a catalogue: every start reads all headers"),
        }
    }

    /// What the catalogue knows of segments. Those that are gone are forgotten.
    fn records(&mut self, teller: &mut Teller) -> BTreeMap<u32, SegmentRecord> {
        let listed = self
            .catalogue
            .as_ref()
            .map_or(Ok(Vec::new()), Catalogue::segments);
        let listed = listed.unwrap_or_else(|error| {
            self.renew_catalogue(&error, teller);
            Vec::new()
        });
        let mut records = BTreeMap::new();
        for (index, record) in listed {
            if self.directory.segment(index).is_some() {
                records.insert(index, record);
            } else {
                self.change(Change::SegmentDeleted(index));
            }
        }
        records
    }

    /// Segments whose blocks the catalogue knows, and those that have to be scanned. Their own headers decide.
    fn sort_segments(&self, records: &BTreeMap<u32, SegmentRecord>) -> (Vec<SegmentRef>, Vec<Doubtful>) {
        let (mut full, mut doubtful) = (Vec::new(), Vec::new());
        for (index, header) in headers::read_all(&self.directory) {
            let record = records.get(&index);
            let recorded = record.map(|record| record.generation);
            let generation = header.map(|header| header.segment.generation).ok();
            match generation {
                Some(generation)
                    if recorded == Some(generation)
                        && record.is_some_and(|record| record.full_tail.is_some()) =>
                {
                    full.push(SegmentRef { index, generation });
                }
                _ => doubtful.push(Doubtful {
                    index,
                    generation,
                    recorded,
                    is_told: false,
                }),
            }
        }
        (full, doubtful)
    }

    fn namespaces(&self) -> Namespaces {
        let device = &self.spec.name;
        let namespaces = self.directory.namespaces().unwrap_or_else(|error| {
            error!(device, %error, "the namespaces cannot be read: their blocks are not found");
            Namespaces::default()
        });
        for (file, why) in &namespaces.damaged {
            warn!(
                device,
                file, why, "a namespace cannot be used: its blocks are not found"
            );
        }
        namespaces
    }

    /// Tells full segments from the catalogue. In case of damage gives the number of those that were told.
    fn tell_full(&self, full: &[SegmentRef], teller: &mut Teller) -> Result<(), (usize, CatalogueError)> {
        let Some(catalogue) = &self.catalogue else {
            return Ok(());
        };
        let pages = self.directory.segment_pages();
        let mut blocks: Vec<FoundBlock> = Vec::new();
        let mut cursor = catalogue.blocks().map_err(|error| (0, error))?;
        for (at, &segment) in full.iter().enumerate() {
            if teller.is_stopped() {
                break;
            }
            // A segment is told whole or not at all, so that it need not be told twice.
            blocks.clear();
            let read = cursor.of(segment).try_for_each(|block| {
                blocks.push(block?);
                Ok(())
            });
            read.map_err(|error| (at, error))?;
            // What is appended to it would not be searched for at the next start, so there is no room in it.
            teller.segment(segment, pages);
            teller.blocks(self.end(segment.index), blocks.drain(..));
        }
        Ok(())
    }

    fn tell_doubtful(&mut self, doubtful: &[Doubtful], teller: &mut Teller) {
        if doubtful.is_empty() {
            return;
        }
        let (sender, receiver) = mpsc::sync_channel(SCANNERS);
        let (next, queue) = (AtomicUsize::new(0), Arc::clone(&self.queue));
        let budget = AtomicU64::new(PROOF_BYTES_MAX);
        // Shared with the threads below, while `self` enters what they find.
        let files: Vec<_> = doubtful
            .iter()
            .filter_map(|&doubtful| {
                let file = Arc::clone(self.directory.segment(doubtful.index)?);
                let (entered, budget) = (self.entered(doubtful), &budget);
                Some((doubtful, file, Proof { entered, budget }))
            })
            .collect();
        let (key, pages) = (self.directory.key().clone(), self.directory.segment_pages());
        let (files, next, key) = (&files, &next, &key);
        let is_stopped = move || queue.is_closed();
        let is_stopped = &is_stopped;
        thread::scope(|scope| {
            for _ in 0..SCANNERS.min(files.len()) {
                let sender = sender.clone();
                scope.spawn(move || {
                    while let Some((doubtful, file, proof)) = files.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let scanned = scan_segment(*doubtful, file, proof, key, pages, is_stopped);
                        // The receiver is there until all senders are gone.
                        if is_stopped() || sender.send(scanned).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(sender);
            for scanned in receiver {
                self.tell_scanned(&scanned, teller);
            }
        });
    }

    fn tell_scanned(&mut self, scanned: &Scanned, teller: &mut Teller) {
        let Scanned {
            doubtful,
            segment,
            end,
            scan,
        } = scanned;
        let pages = self.directory.segment_pages();
        if teller.is_stopped() {
            return;
        }
        self.repair_header(*doubtful, *segment);
        // Behind pages that cannot be read there may be blocks: nothing is appended.
        let tail = if scan.errors > 0 {
            pages
        } else {
            scan.tail.clamp(1, pages)
        };
        if scan.errors > 0 {
            self.ledger.has_unread = true;
            let (device, index, errors) = (&self.spec.name, segment.index, scan.errors);
            warn!(
                device,
                segment = index,
                errors,
                "pages of a segment cannot be read"
            );
        }
        if !doubtful.is_told {
            teller.report.segments_scanned += 1;
            teller.report.blocks_dropped += scan.cut_off + self.count_missing(*doubtful, *segment, scan);
            teller.report.blocks_unfinished += scan.unfinished;
            teller.segment(*segment, tail);
            teller.blocks(*end, scan.blocks.iter().map(ScannedBlock::found));
            teller.send();
        }
        if segment.generation.0 == 0 {
            return;
        }
        self.change(Change::OpenSegment(*segment));
        for block in &scan.blocks {
            let (extent, key, descriptor) = (block.extent, block.key, block.descriptor.clone());
            self.change(Change::Block {
                extent,
                key,
                descriptor,
            });
        }
        // The engine takes it for full when not even the smallest block fits, and says so no more.
        let has_room = tail + 2 <= pages;
        if scan.errors == 0 && (doubtful.is_told || !has_room) {
            self.segment_full(*segment);
        }
    }

    /// Gives a segment whose header says nothing the header of what is in it, so that appending to it is safe.
    fn repair_header(&self, doubtful: Doubtful, segment: SegmentRef) {
        if doubtful.generation.is_some() || segment.generation.0 == 0 {
            return;
        }
        let (device, index, generation) = (&self.spec.name, segment.index, segment.generation.0);
        match self.directory.write_segment_header(segment) {
            Ok(()) => warn!(
                device,
                segment = index,
                generation,
                "a segment's damaged header was written again"
            ),
            Err(error) => warn!(device, segment = index, %error, "a segment's header is damaged"),
        }
    }

    /// Blocks that the catalogue was told of in the use that the segment is in, where it knows that use.
    fn entered(&self, doubtful: Doubtful) -> Option<Vec<(u32, BlockKey)>> {
        let generation = doubtful
            .generation
            .filter(|&generation| doubtful.recorded == Some(generation))?;
        let mut cursor = self.catalogue.as_ref()?.blocks().ok()?;
        let index = doubtful.index;
        let blocks = cursor.of(SegmentRef { index, generation });
        blocks
            .map(|block| block.map(|block| (block.extent.page, block.key)))
            .collect::<Result<_, _>>()
            .ok()
    }

    /// Blocks that the catalogue knows in this use of the segment and that are not there.
    fn count_missing(&self, doubtful: Doubtful, segment: SegmentRef, scan: &Scan) -> u64 {
        let (Some(catalogue), true) = (&self.catalogue, doubtful.recorded == Some(segment.generation)) else {
            return 0;
        };
        let Ok(mut cursor) = catalogue.blocks() else {
            return 0;
        };
        let is_found = |extent: &Extent| {
            scan.blocks
                .binary_search_by_key(&extent.page, |block| block.extent.page)
                .is_ok()
        };
        let missing = cursor
            .of(segment)
            .filter(|block| matches!(block, Ok(block) if !is_found(&block.extent)));
        missing.count() as u64
    }

    fn end(&self, index: u32) -> u32 {
        self.directory
            .segment(index)
            .map_or(0, |file| end(file, self.directory.segment_pages()))
    }
}

/// Pages of a segment that its file has.
fn end(file: &SegmentFile, pages: u32) -> u32 {
    file.pages().unwrap_or(0).min(pages)
}

fn scan_segment(
    doubtful: Doubtful,
    file: &SegmentFile,
    proof: &Proof<'_>,
    key: &crate::format::TierKey,
    pages: u32,
    is_stopped: &dyn Fn() -> bool,
) -> Scanned {
    // Without a header the segment is in the latest use that anything knows of.
    let generation = doubtful.generation.unwrap_or_else(|| {
        let recorded = doubtful.recorded.unwrap_or_default();
        highest_generation(file, key, is_stopped).max(recorded)
    });
    let segment = SegmentRef {
        index: doubtful.index,
        generation,
    };
    let scan = if generation.0 == 0 {
        Scan {
            tail: 1,
            ..Scan::default()
        }
    } else {
        scan(file, key, segment, proof, is_stopped)
    };
    Scanned {
        doubtful,
        segment,
        end: end(file, pages),
        scan,
    }
}
