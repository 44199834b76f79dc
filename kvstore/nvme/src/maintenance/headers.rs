//! The header pages of all segments, read side by side: at one after the other 4,000 segments would take a quarter of a
//! second.

use kvstore_types::SegmentGeneration;

use crate::directory::{Directory, SegmentHeaderError};
use crate::format::HeaderError;

/// Segments that one thread reads, at least.
const SEGMENTS_PER_THREAD: usize = 32;
/// Most threads.
const THREADS_MAX: usize = 8;

/// What a segment's own header says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// This use.
    Known(SegmentGeneration),
    /// It was never used.
    Never,
    /// It does not say; why.
    Damaged(String),
}

/// The present use of each segment, in order of number.
pub(super) fn read_all(directory: &Directory) -> Vec<(u32, Use)> {
    let indexes: Vec<u32> = directory.segments().map(|file| file.index).collect();
    let threads = (indexes.len() / SEGMENTS_PER_THREAD).clamp(1, THREADS_MAX);
    let share = indexes.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let read = |&index: &u32| (index, read_one(directory, index));
        let readers: Vec<_> = indexes
            .chunks(share)
            .map(|share| scope.spawn(move || share.iter().map(read).collect::<Vec<_>>()))
            .collect();
        let read = readers
            .into_iter()
            .map(|reader| reader.join().unwrap_or_default());
        read.flatten().collect()
    })
}

fn read_one(directory: &Directory, index: u32) -> Use {
    match directory.read_segment_header(index) {
        Ok(header) => Use::Known(header.segment.generation),
        // A new file is full of zeroes.
        Err(SegmentHeaderError::Header(HeaderError::Magic)) if is_new(directory, index) => Use::Never,
        Err(error) => Use::Damaged(error.to_string()),
    }
}

fn is_new(directory: &Directory, index: u32) -> bool {
    let mut page = crate::directory::Pages::new(1);
    let read = directory
        .segment(index)
        .and_then(|file| file.read_at(&mut page, 0).ok());
    read.is_some() && page.iter().all(|&byte| byte == 0)
}
