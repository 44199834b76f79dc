//! All blocks of one use of a segment, each proven as far as is asked for.

use kvstore_types::{BlockKey, Extent, SegmentRef};
use xxhash_rust::xxh3::Xxh3;

use crate::directory::{Pages, SegmentFile};
use crate::format::{BlockHeader, HeaderError, PAGE, TierKey};

/// Pages read at a time.
const WINDOW_PAGES: u32 = 256;

/// One block that a good header names.
#[derive(Clone, Debug)]
pub(super) struct Walked {
    pub(super) extent: Extent,
    pub(super) key: BlockKey,
    pub(super) descriptor: Vec<u8>,
    pub(super) payload_bytes: u64,
    /// Its payload is not what the header says.
    pub(super) payload_damaged: bool,
}

/// What is in a segment.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Its blocks, in order of place.
    pub(super) blocks: Vec<Walked>,
    /// Pages that begin like a header and are none, and why.
    pub(super) damaged: Vec<(u32, HeaderError)>,
    /// Pages that could not be read or that the file does not have.
    pub(super) pages_unreadable: u64,
    /// Bytes that were read.
    pub(super) bytes_read: u64,
}

/// A segment to be walked through.
pub(super) struct Walker<'a> {
    pub(super) file: &'a SegmentFile,
    pub(super) tier: &'a TierKey,
    pub(super) segment: SegmentRef,
    /// Pages that a segment has.
    pub(super) pages: u32,
    pub(super) verify_payloads: bool,
}

impl Walker<'_> {
    pub(super) fn walk(&self) -> Walk {
        let mut window = Window::new(self.file, self.pages);
        let mut walk = Walk::default();
        let mut page = 1;
        while page < self.pages {
            page = match window.page(page) {
                None => {
                    walk.pages_unreadable += 1;
                    page + 1
                }
                Some(bytes) => match self.decode(page, bytes) {
                    Ok(block) => self.take(block, &mut window, &mut walk),
                    Err(HeaderError::Magic) => page + 1,
                    Err(error) => {
                        walk.damaged.push((page, error));
                        page + 1
                    }
                },
            };
        }
        walk.bytes_read = window.bytes_read;
        walk
    }

    /// The block at this page. What another use of the segment left is as if there were nothing.
    fn decode(&self, page: u32, bytes: &[u8; PAGE]) -> Result<(BlockHeader, Vec<u8>), HeaderError> {
        let (header, descriptor) = BlockHeader::decode(self.tier, bytes)?;
        let extent = header.extent;
        let is_elsewhere = extent.segment.index != self.segment.index || extent.page != page;
        if is_elsewhere && extent.segment.generation == self.segment.generation {
            return Err(HeaderError::Malformed("it belongs to another place"));
        }
        if is_elsewhere || extent.segment != self.segment {
            return Err(HeaderError::Magic);
        }
        if extent.pages > self.pages - page {
            return Err(HeaderError::Malformed("its pages end beyond the segment"));
        }
        Ok((header, descriptor.to_vec()))
    }

    /// Notes a block and gives the page behind it.
    fn take(
        &self,
        (header, descriptor): (BlockHeader, Vec<u8>),
        window: &mut Window<'_>,
        walk: &mut Walk,
    ) -> u32 {
        let extent = header.extent;
        let payload_damaged = self.verify_payloads && checksum(&header, window) != Some(header.checksum);
        walk.blocks.push(Walked {
            extent,
            key: header.key,
            descriptor,
            payload_bytes: header.payload_bytes,
            payload_damaged,
        });
        extent.page + extent.pages
    }
}

/// The checksum of a block's payload; none if it cannot be read.
fn checksum(header: &BlockHeader, window: &mut Window<'_>) -> Option<u128> {
    let mut hasher = Xxh3::new();
    let mut left = header.payload_bytes;
    let first = header.extent.page + 1;
    for page in first..header.extent.page + header.extent.pages {
        let bytes = window.page(page)?;
        let length = left.min(PAGE as u64);
        #[expect(clippy::cast_possible_truncation, reason = "at most a page")]
        hasher.update(&bytes[..length as usize]);
        left -= length;
    }
    Some(hasher.digest128())
}

/// Pages that were read together.
struct Window<'a> {
    file: &'a SegmentFile,
    memory: Pages,
    pages: u32,
    start: u32,
    count: u32,
    bytes_read: u64,
}

impl<'a> Window<'a> {
    fn new(file: &'a SegmentFile, pages: u32) -> Self {
        let memory = Pages::new(WINDOW_PAGES as usize);
        Self {
            file,
            memory,
            pages,
            start: 0,
            count: 0,
            bytes_read: 0,
        }
    }

    fn page(&mut self, page: u32) -> Option<&[u8; PAGE]> {
        if page < self.start || page - self.start >= self.count {
            self.read(page, WINDOW_PAGES.min(self.pages - page));
            if self.count == 0 {
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
        self.bytes_read += read as u64;
    }
}
