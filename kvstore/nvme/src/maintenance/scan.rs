//! A segment's blocks by their headers, where the catalogue does not know all of them.

use kvstore_types::{BlockKey, Extent, SegmentRef};

use crate::directory::{Pages, SegmentFile};
use crate::format::{BlockHeader, PAGE, TierKey};

/// Pages read at a time where blocks are small, and where a header is looked for page by page.
const WINDOW_PAGES: u32 = 256;
/// From this size on only the header page of a block is read.
const LARGE_PAGES: u32 = 16;

/// A block that a header names. Its payload has not been looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    pub(super) extent: Extent,
    pub(super) key: BlockKey,
    pub(super) descriptor: Vec<u8>,
}

/// What was found in one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Its blocks, in order of place.
    pub(super) blocks: Vec<Scanned>,
    /// Behind the last of them.
    pub(super) tail: u32,
    /// Pages that could not be read, or that the file does not have.
    pub(super) pages_missing: u32,
}

/// Reads the headers of one use of a segment of `pages` pages.
///
/// Where a block begins follows from the one before. A write that never ended leaves a gap; there the next header is looked
/// for page by page. What an earlier use left behind is no header of this one.
pub(super) fn scan(file: &SegmentFile, key: &TierKey, segment: SegmentRef, pages: u32) -> Scan {
    let mut scan = Scan {
        tail: 1,
        ..Scan::default()
    };
    let mut window = Window::new(file, pages);
    let (mut page, mut step) = (1, 1);
    while page < pages {
        let Some(bytes) = window.page(page, step) else {
            scan.pages_missing += 1;
            page += 1;
            continue;
        };
        match block_at(key, segment, page, pages, bytes) {
            Some(block) => {
                step = if block.extent.pages < LARGE_PAGES {
                    WINDOW_PAGES
                } else {
                    1
                };
                page += block.extent.pages;
                scan.tail = page;
                scan.blocks.push(block);
            }
            None => {
                step = WINDOW_PAGES;
                page += 1;
            }
        }
    }
    scan
}

fn block_at(
    key: &TierKey,
    segment: SegmentRef,
    page: u32,
    pages: u32,
    bytes: &[u8; PAGE],
) -> Option<Scanned> {
    let (header, descriptor) = BlockHeader::decode(key, bytes).ok()?;
    let extent = header.extent;
    let is_here = extent.segment == segment && extent.page == page;
    let fits = extent.pages > 1 && extent.pages <= pages - page;
    (is_here && fits).then(|| Scanned {
        extent,
        key: header.key,
        descriptor: descriptor.to_vec(),
    })
}

/// Pages that were read together.
struct Window<'a> {
    file: &'a SegmentFile,
    memory: Pages,
    pages: u32,
    start: u32,
    count: u32,
}

impl<'a> Window<'a> {
    fn new(file: &'a SegmentFile, pages: u32) -> Self {
        Self {
            file,
            memory: Pages::new(WINDOW_PAGES as usize),
            pages,
            start: 0,
            count: 0,
        }
    }

    /// A page. If it has to be read, so are those behind it, `ahead` in all.
    fn page(&mut self, page: u32, ahead: u32) -> Option<&[u8; PAGE]> {
        if page < self.start || page >= self.start + self.count {
            let wanted = ahead.min(self.pages - page);
            self.read(page, wanted);
            if self.count == 0 && wanted > 1 {
                // One bad page must not hide its neighbours.
                self.read(page, 1);
            }
        }
        let at = page.checked_sub(self.start).filter(|&at| at < self.count)?;
        Some(self.memory.page(at as usize))
    }

    fn read(&mut self, page: u32, count: u32) {
        let bytes = count as usize * PAGE;
        let read = self.file.read_at(&mut self.memory[..bytes], page).unwrap_or(0);
        self.start = page;
        self.count = u32::try_from(read / PAGE).unwrap_or(0);
    }
}
