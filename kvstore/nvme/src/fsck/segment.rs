//! One segment against its header and the catalogue.

use std::collections::BTreeMap;

use kvstore_types::{BlockKey, SegmentGeneration, SegmentRef};

use super::walk::{Walk, Walked, Walker};
use super::{Check, FsckError};
use crate::catalogue::{Applied, Change};
use crate::directory::{Pages, SegmentFile, SegmentHeaderError};
use crate::format::SegmentRecord;
use crate::maintenance::highest_generation;

/// Pages and key of each entry, by its page.
type Entries = BTreeMap<u32, (u32, BlockKey)>;

/// What the catalogue should say of a segment.
struct Verdict<'w> {
    segment: SegmentRef,
    good: Vec<&'w Walked>,
    /// Nothing may be appended, and no headers are read at a start: there are some that must not be found.
    full: bool,
    /// It says something else.
    differs: bool,
}

impl Check<'_> {
    /// Checks one segment and, if that is wanted, makes its part of the catalogue anew where it is wrong.
    pub(super) fn check_segment(
        &mut self,
        index: u32,
        record: Option<SegmentRecord>,
    ) -> Result<(), FsckError> {
        let Some(file) = self.directory.segment(index).cloned() else {
            return Ok(());
        };
        self.check_length(&file);
        let Some(generation) = self.generation(&file, record) else {
            return Ok(());
        };
        let segment = SegmentRef { index, generation };
        let record = record.filter(|record| record.generation == generation);
        let walk = self.walk(&file, segment);
        let entries = match record {
            Some(_) => self.entries(segment)?,
            None => Entries::new(),
        };
        let verdict = self.compare(segment, record, &walk, entries);
        if self.options.repair && verdict.differs {
            self.rewrite(&verdict)?;
        }
        Ok(())
    }

    fn check_length(&mut self, file: &SegmentFile) {
        let expected = self.directory.segment_pages();
        let actual = file.pages().unwrap_or(0);
        if actual < expected {
            self.report.counts.segments_damaged += 1;
            self.report.problem(format!(
                "segment {} has been cut off: want {expected} pages, got {actual}; blocks that were there are lost, and its \
                 room comes back when it is used again",
                file.index
            ));
        }
    }

    /// The use that the segment is in, as its header says; if that is damaged, the latest that anything knows of, which
    /// is what a start goes by.
    fn generation(&mut self, file: &SegmentFile, record: Option<SegmentRecord>) -> Option<SegmentGeneration> {
        let error = match self.directory.read_segment_header(file.index) {
            Ok(header) => return Some(header.segment.generation),
            Err(error) => error,
        };
        let recorded = record.map_or(SegmentGeneration(0), |record| record.generation);
        let generation = highest_generation(file, self.directory.key(), &|| false).max(recorded);
        if generation.0 == 0 && is_blank(file) {
            self.report.counts.segments_unused += 1;
            return None;
        }
        // One that was cut off to nothing has been counted.
        if !matches!(error, SegmentHeaderError::Short) {
            self.report.counts.segments_damaged += 1;
        }
        self.report.problem(format!("segment {}: {error}", file.index));
        (generation.0 > 0).then_some(generation)
    }

    /// Everything in it, proven.
    fn walk(&mut self, file: &SegmentFile, segment: SegmentRef) -> Walk {
        let walker = Walker {
            file,
            tier: self.directory.key(),
            segment,
            pages: self.directory.segment_pages(),
            verify_payloads: self.options.verify_payloads,
        };
        let walk = walker.walk();
        self.progress.bytes_read += walk.bytes_read;
        self.report.counts.pages_unreadable += walk.pages_unreadable;
        walk
    }

    fn entries(&self, segment: SegmentRef) -> Result<Entries, FsckError> {
        let Some(catalogue) = &self.catalogue else {
            return Ok(Entries::new());
        };
        let mut blocks = catalogue.blocks()?;
        blocks
            .of(segment)
            .map(|entry| {
                let entry = entry?;
                Ok((entry.extent.page, (entry.extent.pages, entry.key)))
            })
            .collect()
    }

    /// Counts and names every disagreement.
    fn compare<'w>(
        &mut self,
        segment: SegmentRef,
        record: Option<SegmentRecord>,
        walk: &'w Walk,
        mut entries: Entries,
    ) -> Verdict<'w> {
        let was_full = record.is_some_and(|record| record.full_tail.is_some());
        let mut verdict = Verdict {
            segment,
            good: Vec::new(),
            full: was_full,
            differs: record.is_none(),
        };
        self.report.counts.entries += entries.len() as u64;
        for block in &walk.blocks {
            let page = block.extent.page;
            let entry = entries.remove(&page);
            if block.payload_damaged {
                verdict.full = true;
                self.report.counts.payloads_damaged += 1;
                let text = format!("block {}: its payload is damaged", block.key);
                verdict.differs |= self.bad(segment, page, entry.is_some() || record.is_none(), &text);
                continue;
            }
            self.count_good(block);
            verdict.good.push(block);
            if entry.is_none() {
                self.report.counts.blocks_without_entry += 1;
                verdict.differs = true;
            } else if entry != Some((block.extent.pages, block.key)) {
                self.entry_without_block(segment, page, "the catalogue has another block");
                verdict.differs = true;
            }
        }
        for &(page, error) in &walk.damaged {
            self.report.counts.headers_damaged += 1;
            let matters = entries.remove(&page).is_some() || record.is_none();
            verdict.differs |= self.bad(segment, page, matters, &error.to_string());
        }
        for &page in entries.keys() {
            self.entry_without_block(segment, page, "the catalogue has a block, there is none");
            verdict.differs = true;
        }
        verdict
    }

    /// Something bad at this page. It matters if a start would believe in it; else it is a write that never ended.
    fn bad(&mut self, segment: SegmentRef, page: u32, matters: bool, text: &str) -> bool {
        if matters {
            self.report
                .problem(format!("segment {} page {page}: {text}", segment.index));
        } else {
            self.report.counts.blocks_unfinished += 1;
        }
        matters
    }

    fn entry_without_block(&mut self, segment: SegmentRef, page: u32, text: &str) {
        self.report.counts.entries_without_block += 1;
        self.report
            .problem(format!("segment {} page {page}: {text}", segment.index));
    }

    fn count_good(&mut self, block: &Walked) {
        let counts = &mut self.report.counts;
        counts.blocks_good += 1;
        counts.payload_bytes_good += block.payload_bytes;
        if !self.namespaces.contains(&block.key.namespace) {
            counts.blocks_nameless += 1;
            *self.nameless.entry(block.key.namespace).or_default() += 1;
        }
    }

    /// Makes the catalogue say what is there.
    fn rewrite(&mut self, verdict: &Verdict<'_>) -> Result<(), FsckError> {
        let Some(catalogue) = &mut self.catalogue else {
            return Ok(());
        };
        let mut applied = catalogue.write(&[Change::OpenSegment(verdict.segment)])?;
        for blocks in verdict.good.chunks(CHANGES_PER_WRITE) {
            let changes: Vec<Change> = blocks.iter().map(|block| entry_of(block)).collect();
            if catalogue.write(&changes)? == Applied::WithoutBlocks {
                applied = Applied::WithoutBlocks;
            }
        }
        let index = verdict.segment.index;
        if applied == Applied::WithoutBlocks {
            let text = format!(
                "segment {index}: the catalogue has no room for all its blocks; starts will read its headers"
            );
            self.report.notes.push(text);
        } else if verdict.full {
            // Its tail is taken from what has been written.
            catalogue.write(&[Change::SegmentFull(verdict.segment)])?;
        }
        let text = format!(
            "segment {index}: the catalogue has its {} good blocks",
            verdict.good.len()
        );
        self.report.repairs.push(text);
        Ok(())
    }
}

/// Entries written at a time.
const CHANGES_PER_WRITE: usize = 256;

fn entry_of(block: &Walked) -> Change {
    Change::Block {
        extent: block.extent,
        key: block.key,
        descriptor: block.descriptor.clone(),
    }
}

fn is_blank(file: &SegmentFile) -> bool {
    let mut page = Pages::new(1);
    file.read_at(&mut page, 0).is_ok_and(|read| read == page.len()) && page.iter().all(|&byte| byte == 0)
}
