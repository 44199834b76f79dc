//! Segment files.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use kvstore_types::SegmentRef;
use rustix::fs::{FallocateFlags, OFlags, fallocate, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::Directory;
use super::error::DirectoryError;
use super::files::{partial, remove, sync_parent};
use super::names::segment_name;
use super::pages::Pages;
use super::room::Room;
use crate::format::{HeaderError, PAGE, SegmentHeader, TierKey};

/// Pages of zeroes written at a time where the file system cannot preallocate.
const ZERO_PAGES: usize = 256;

/// An open segment file. Reads and writes are at whole pages, from memory aligned to a page.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    /// Its number.
    pub(crate) index: u32,
    file: File,
}

impl SegmentFile {
    /// Whole pages that the file has: fewer than a segment has if it was cut off.
    pub(crate) fn pages(&self) -> io::Result<u32> {
        let pages = self.file.metadata()?.len() / PAGE as u64;
        Ok(u32::try_from(pages).unwrap_or(u32::MAX))
    }

    /// Reads from `page` on, as much as there is; gives the number of bytes.
    pub(crate) fn read_at(&self, buffer: &mut [u8], page: u32) -> io::Result<usize> {
        let (mut done, start) = (0, u64::from(page) * PAGE as u64);
        while done < buffer.len() {
            match self.file.read_at(&mut buffer[done..], start + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            // A file that ends within a page: the rest of it cannot be read directly.
            if done % PAGE != 0 {
                break;
            }
        }
        Ok(done)
    }

    /// Gives back the space of a file that nobody can open any more. One that still has a name keeps its bytes.
    fn give_back_if_removed(&self) -> io::Result<()> {
        if self.file.metadata()?.nlink() == 0 {
            self.file.set_len(0)?;
        }
        Ok(())
    }

    /// Writes from `page` on.
    pub(crate) fn write_at(&self, buffer: &[u8], page: u32) -> io::Result<()> {
        self.file.write_all_at(buffer, u64::from(page) * PAGE as u64)
    }
}

impl AsFd for SegmentFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for SegmentFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Why a segment's header page says nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SegmentHeaderError {
    /// There is no such file.
    #[error("there is no segment {0}")]
    Absent(u32),
    /// It could not be read.
    #[error("could not read the segment header: {0}")]
    Io(#[from] io::Error),
    /// The file is shorter than a page.
    #[error("the file is shorter than a page")]
    Short,
    /// The page is no header. All zeroes: the segment was never used.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// A good header, of another segment or of segments of another size.
    #[error("header of segment {index} with {pages} pages")]
    Place {
        /// The segment.
        index: u32,
        /// Its pages.
        pages: u32,
    },
}

impl Directory {
    /// Gives back the space of segments whose files were removed: whoever removed them wants it, and files that are open keep
    /// it. Reads that are under way come back short, and what is read short is a miss.
    pub(crate) fn give_back_removed(&self) -> io::Result<()> {
        self.segments().try_for_each(|file| file.give_back_if_removed())
    }

    /// A segment's file, if there is one.
    pub(crate) fn segment(&self, index: u32) -> Option<&Arc<SegmentFile>> {
        self.segments.get(&index)
    }

    /// All segments' files, in order of number.
    pub(crate) fn segments(&self) -> impl ExactSizeIterator<Item = &Arc<SegmentFile>> {
        self.segments.values()
    }

    /// Makes a segment's file with all its space taken, durably, full of zeroes: its generation is 0. After an error
    /// nothing of it is left. A file that is there already is left as it is. Where the file system would be left with less
    /// than its reserve there is no space.
    pub(crate) fn create_segment(&mut self, index: u32) -> Result<Arc<SegmentFile>, DirectoryError> {
        if let Some(file) = self.segments.get(&index) {
            return Ok(Arc::clone(file));
        }
        let path = self.path.join(segment_name(index));
        // One that could not be opened has blocks in it, or is a stranger's.
        if fs::symlink_metadata(&path).is_ok() {
            return Err(DirectoryError::new("create", &path)(
                io::ErrorKind::AlreadyExists.into(),
            ));
        }
        let partial = partial(&path);
        let made = make_whole(&partial, self.segment_bytes).and_then(|()| fs::rename(&partial, &path));
        if let Err(source) = made {
            let _ = fs::remove_file(&partial);
            return Err(DirectoryError::new("create", &path)(source));
        }
        let opened = sync_parent(&path).and_then(|()| self.open_segment(index));
        if opened.is_err() {
            let _ = fs::remove_file(&path);
        }
        opened
    }

    /// Removes a segment's file, durably. Its space is free at once, although others may still have it open.
    pub(crate) fn delete_segment(&mut self, index: u32) -> Result<(), DirectoryError> {
        let path = self.path.join(segment_name(index));
        if let Some(file) = self.segments.get(&index) {
            file.file
                .set_len(0)
                .map_err(DirectoryError::new("cut off", &path))?;
        }
        remove(&path)?;
        self.segments.remove(&index);
        Ok(())
    }

    /// Begins a segment's use, durably: what was written under another generation is not valid any more. Space that
    /// the file has lost is taken again before.
    pub(crate) fn write_segment_header(&self, segment: SegmentRef) -> Result<(), DirectoryError> {
        let path = self.path.join(segment_name(segment.index));
        let write = || {
            let file = self.segments.get(&segment.index).ok_or(io::ErrorKind::NotFound)?;
            let metadata = file.file.metadata()?;
            if metadata.len() < self.segment_bytes || metadata.blocks() * 512 < self.segment_bytes {
                take_space(&file.file, self.segment_bytes)?;
            }
            let mut page = Pages::new(1);
            SegmentHeader {
                segment,
                pages: self.segment_pages(),
            }
            .encode(&self.key, page.page_mut(0));
            file.write_at(&page, 0)?;
            file.file.sync_data()
        };
        write().map_err(DirectoryError::new("open for its next use", &path))
    }

    /// Reads and checks a segment's header page.
    pub(crate) fn read_segment_header(&self, index: u32) -> Result<SegmentHeader, SegmentHeaderError> {
        let file = self
            .segments
            .get(&index)
            .ok_or(SegmentHeaderError::Absent(index))?;
        let mut page = Pages::new(1);
        if file.read_at(&mut page, 0)? < PAGE {
            return Err(SegmentHeaderError::Short);
        }
        self.check_segment_header(index, page.page(0))
    }

    /// The same for a page that was read already.
    pub(crate) fn check_segment_header(
        &self,
        index: u32,
        page: &[u8; PAGE],
    ) -> Result<SegmentHeader, SegmentHeaderError> {
        check_header(&self.key, page, index, self.segment_pages())
    }

    pub(super) fn open_segment(&mut self, index: u32) -> Result<Arc<SegmentFile>, DirectoryError> {
        let path = self.path.join(segment_name(index));
        let file = open_file(&path, self.mode.direct, self.segment_bytes)
            .map_err(DirectoryError::new("open", &path))?;
        let file = Arc::new(SegmentFile { index, file });
        self.segments.insert(index, Arc::clone(&file));
        Ok(file)
    }
}

impl Directory {
    pub(super) fn open_segment_to_read(&mut self, index: u32) -> Result<(), DirectoryError> {
        let path = self.path.join(segment_name(index));
        let flags = if self.mode.direct { libc::O_DIRECT } else { 0 };
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags | libc::O_NONBLOCK)
            .open(&path);
        let file = opened
            .and_then(regular)
            .map_err(DirectoryError::new("open", &path))?;
        self.segments.insert(index, Arc::new(SegmentFile { index, file }));
        Ok(())
    }
}

fn check_header(
    key: &TierKey,
    page: &[u8; PAGE],
    index: u32,
    pages: u32,
) -> Result<SegmentHeader, SegmentHeaderError> {
    let header = SegmentHeader::decode(key, page)?;
    if (header.segment.index, header.pages) != (index, pages) {
        return Err(SegmentHeaderError::Place {
            index: header.segment.index,
            pages: header.pages,
        });
    }
    Ok(header)
}

fn open_file(path: &Path, direct: bool, segment_bytes: u64) -> io::Result<File> {
    let flags = if direct { libc::O_DIRECT } else { 0 };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags | libc::O_NONBLOCK)
        .open(path)
        .and_then(regular)?;
    if file.metadata()?.len() > segment_bytes {
        // Somebody appended to it. Nothing of ours is there, and it is beyond the bound.
        file.set_len(segment_bytes)?;
    }
    Ok(file)
}

/// Refuses what is no file: a pipe, at whose other end nobody may be. `O_NONBLOCK`, with which it was opened, is taken
/// back: it stays with the file, and a ring would not wait for the device.
fn regular(file: File) -> io::Result<File> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let kept = fcntl_getfl(&file)? - OFlags::NONBLOCK;
    fcntl_setfl(&file, kept)?;
    Ok(file)
}

fn make_whole(path: &Path, segment_bytes: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    take_space(&file, segment_bytes)?;
    // Others may have taken space at the same moment, and a file of root's gets what is reserved for root.
    leaves_room(&file, 0)?;
    file.sync_all()
}

/// Gives the file all its space, unless too little would be left to others. Bytes that are there stay.
fn take_space(file: &File, segment_bytes: u64) -> io::Result<()> {
    let missing_bytes = segment_bytes.saturating_sub(file.metadata()?.blocks() * 512);
    leaves_room(file, missing_bytes)?;
    allocate(file, segment_bytes)
}

fn leaves_room(file: &File, bytes: u64) -> io::Result<()> {
    Room::around(file)?.map_or(Ok(()), |room| room.check(bytes))
}

fn allocate(file: &File, segment_bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, segment_bytes) {
        Ok(()) => Ok(()),
        // The file system has no such call. What is missing at the end is written.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeroes(file, segment_bytes),
        Err(errno) => Err(errno.into()),
    }
}

fn write_zeroes(file: &File, segment_bytes: u64) -> io::Result<()> {
    let zeroes = Pages::new(ZERO_PAGES);
    // From the last whole page on, so that direct I/O stays aligned.
    let mut at = file.metadata()?.len() / PAGE as u64 * PAGE as u64;
    while at < segment_bytes {
        let length = zeroes
            .len()
            .min(usize::try_from(segment_bytes - at).unwrap_or(usize::MAX));
        file.write_all_at(&zeroes[..length], at)?;
        at += length as u64;
    }
    Ok(())
}
