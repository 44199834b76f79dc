//! Reading the headers in a segment, where the catalogue does not know all of it.
//!
//! From a good header the search jumps behind its block. Anything else may be a gap (a write that failed or did not come
//! to its end) with blocks behind it, so it goes on page by page, in large reads; what was never written is a hole for
//! the file system and is jumped over.
//!
//! A block that the catalogue does not know may be one whose write a kill cut short: a good header, and a payload that is
//! not there. If it were told, an engine that has the block would hear that it is present and not store it again. So the
//! payloads of such blocks are read, as far as the catalogue knew this use of the segment; it is only ever a little behind.
//!
//! A payload cannot pose as a header: a header names its own place and carries a MAC that only the daemon can make.

use std::sync::atomic::{AtomicU64, Ordering};

use kvstore_types::{BlockKey, DescriptorBytes, Extent, SegmentGeneration, SegmentRef};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

use crate::FoundBlock;
use crate::directory::{Pages, SegmentFile};
use crate::format::{BlockHeader, PAGE, TierKey};

/// Pages read at a time where a header is searched.
const SEARCH_PAGES: u32 = 256;
/// Pages read at a time where blocks are so small that one read covers several.
const SMALL_PAGES: u32 = 64;
/// Blocks of at most so many pages are small.
const SMALL_BLOCK_PAGES: u32 = 16;
/// After so many pages that cannot be read the rest of the segment is given up.
const ERRORS_MAX: u32 = 64;

/// A block that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScannedBlock {
    pub(super) extent: Extent,
    pub(super) key: BlockKey,
    pub(super) descriptor: Vec<u8>,
}

impl ScannedBlock {
    /// The block as it is told.
    pub(super) fn found(&self) -> FoundBlock {
        FoundBlock {
            key: self.key,
            extent: self.extent,
            descriptor: DescriptorBytes::kept(&self.descriptor),
        }
    }
}

/// What was found in one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// In order of place; they do not overlap.
    pub(super) blocks: Vec<ScannedBlock>,
    /// The first page behind the last block.
    pub(super) tail: u32,
    /// Blocks with good headers that are not there in full, because the file ends before they do.
    pub(super) cut_off: u64,
    /// Blocks with good headers whose payload was never written to its end.
    pub(super) unfinished: u64,
    /// Pages that could not be read.
    pub(super) errors: u32,
}

/// What is known of a segment's blocks beside their headers.
pub(super) struct Proof<'p> {
    /// Blocks that were whole when the catalogue was told of them, in order of place. None: it does not know this use of
    /// the segment, and headers are believed.
    pub(super) entered: Option<Vec<(u32, BlockKey)>>,
    /// Bytes of payloads that may still be read; beyond them headers are believed.
    pub(super) budget: &'p AtomicU64,
}

impl Proof<'_> {
    /// Whether the block's payload is as its header says, where that has to be proven.
    fn is_whole(&self, header: &BlockHeader, window: &mut Window<'_>) -> bool {
        let Some(entered) = &self.entered else { return true };
        let place = entered.binary_search_by_key(&header.extent.page, |&(page, _)| page);
        if place.is_ok_and(|at| entered[at].1 == header.key) {
            return true;
        }
        let spend = |left: u64| left.checked_sub(header.payload_bytes);
        if self
            .budget
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend)
            .is_err()
        {
            return true;
        }
        window.payload_checksum(header) == Some(header.checksum)
    }
}

/// Finds the blocks of one use of a segment. `is_stopped` is asked now and then.
pub(super) fn scan(
    file: &SegmentFile,
    key: &TierKey,
    segment: SegmentRef,
    proof: &Proof<'_>,
    is_stopped: &dyn Fn() -> bool,
) -> Scan {
    let mut scan = Scan {
        tail: 1,
        ..Scan::default()
    };
    let mut window = Window::new(file);
    let end = window.end;
    let (mut page, mut ahead) = (1, 1);
    while page < end && scan.errors < ERRORS_MAX && !is_stopped() {
        let Some(bytes) = window.page(page, ahead) else {
            scan.errors += 1;
            page += 1;
            continue;
        };
        match good_header(key, bytes, segment.index, page) {
            Some((header, descriptor)) if header.extent.segment == segment => {
                let extent = header.extent;
                page += extent.pages;
                ahead = if extent.pages > SMALL_BLOCK_PAGES {
                    1
                } else {
                    SMALL_PAGES
                };
                if page > end {
                    scan.cut_off += 1;
                    break;
                }
                scan.tail = page;
                let (key, descriptor) = (header.key, descriptor.to_vec());
                if proof.is_whole(&header, &mut window) {
                    scan.blocks.push(ScannedBlock {
                        extent,
                        key,
                        descriptor,
                    });
                } else {
                    scan.unfinished += 1;
                }
            }
            _ => {
                let is_zero = bytes.iter().all(|&byte| byte == 0);
                page = if is_zero {
                    next_data(file, page + 1)
                } else {
                    page + 1
                };
                ahead = SEARCH_PAGES;
            }
        }
    }
    scan
}

/// The highest generation that any header in the file has, where the segment's own header does not say it. 0: none.
pub(crate) fn highest_generation(
    file: &SegmentFile,
    key: &TierKey,
    is_stopped: &dyn Fn() -> bool,
) -> SegmentGeneration {
    let mut highest = SegmentGeneration(0);
    let mut window = Window::new(file);
    let (mut page, mut errors) = (1, 0);
    while page < window.end && errors < ERRORS_MAX && !is_stopped() {
        let Some(bytes) = window.page(page, SEARCH_PAGES) else {
            errors += 1;
            page += 1;
            continue;
        };
        if let Some((header, _)) = good_header(key, bytes, file.index, page) {
            highest = highest.max(header.extent.segment.generation);
        }
        let is_zero = bytes.iter().all(|&byte| byte == 0);
        page = if is_zero {
            next_data(file, page + 1)
        } else {
            page + 1
        };
    }
    highest
}

/// A header that was made for this place.
fn good_header<'p>(
    key: &TierKey,
    bytes: &'p [u8; PAGE],
    index: u32,
    page: u32,
) -> Option<(BlockHeader, &'p [u8])> {
    let (header, descriptor) = BlockHeader::decode(key, bytes).ok()?;
    let extent = &header.extent;
    (extent.segment.index == index && extent.page == page).then_some((header, descriptor))
}

/// The first page from `page` on that was ever written, as far as the file system can tell.
fn next_data(file: &SegmentFile, page: u32) -> u32 {
    match seek(file, SeekFrom::Data(u64::from(page) * PAGE as u64)) {
        Ok(offset) => u32::try_from(offset / PAGE as u64).unwrap_or(u32::MAX).max(page),
        // There is nothing more.
        Err(Errno::NXIO) => u32::MAX,
        // It cannot tell.
        Err(_) => page,
    }
}

/// The pages that were read last.
struct Window<'f> {
    file: &'f SegmentFile,
    buffer: Pages,
    first: u32,
    count: u32,
    /// The first page behind the file's last whole one.
    end: u32,
}

impl<'f> Window<'f> {
    fn new(file: &'f SegmentFile) -> Self {
        let buffer = Pages::new(SEARCH_PAGES as usize);
        let end = file.pages().unwrap_or(0);
        Self {
            file,
            buffer,
            first: 0,
            count: 0,
            end,
        }
    }

    /// A page before the end; if it has to be read, then so many pages from it on. None if it cannot be read.
    fn page(&mut self, page: u32, ahead: u32) -> Option<&[u8; PAGE]> {
        if !(self.first..self.first + self.count).contains(&page) {
            let ahead = ahead.min(self.end - page);
            // Where some page of many cannot be read, the others can, one by one.
            self.fill(page, ahead)
                .or_else(|| if ahead > 1 { self.fill(page, 1) } else { None })?;
        }
        Some(self.buffer.page((page - self.first) as usize))
    }

    /// The checksum of a block's payload; none if it cannot be read.
    fn payload_checksum(&mut self, header: &BlockHeader) -> Option<u128> {
        let mut hasher = Xxh3::new();
        let mut left = usize::try_from(header.payload_bytes).ok()?;
        let behind = header.extent.page + header.extent.pages;
        for page in header.extent.page + 1..behind {
            let bytes = self.page(page, SEARCH_PAGES.min(behind - page))?;
            let length = left.min(PAGE);
            hasher.update(&bytes[..length]);
            left -= length;
        }
        Some(hasher.digest128())
    }

    fn fill(&mut self, page: u32, count: u32) -> Option<()> {
        let bytes = count as usize * PAGE;
        self.count = 0;
        let read = self.file.read_at(&mut self.buffer[..bytes], page).ok()?;
        self.first = page;
        self.count = u32::try_from(read / PAGE).unwrap_or(0);
        (self.count > 0).then_some(())
    }
}
