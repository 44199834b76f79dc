//! Reading the first page of every segment: which use it is in.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::directory::{Directory, SegmentHeaderError};
use crate::format::SegmentHeader;

/// Threads that read; a device answers a few small reads in the time of one.
const THREADS: usize = 8;

/// What each segment's first page says, in order of number.
pub(super) fn read_all(directory: &Directory) -> Vec<(u32, Result<SegmentHeader, SegmentHeaderError>)> {
    let indexes: Vec<u32> = directory.segments().map(|file| file.index).collect();
    // A thread costs as much as a few reads.
    let threads = THREADS.min(indexes.len() / 16);
    if threads < 2 {
        return indexes
            .iter()
            .map(|&index| (index, directory.read_segment_header(index)))
            .collect();
    }
    let next = AtomicUsize::new(0);
    let read = || {
        let take = || indexes.get(next.fetch_add(1, Ordering::Relaxed)).copied();
        let read = |index| (index, directory.read_segment_header(index));
        std::iter::from_fn(take).map(read).collect::<Vec<_>>()
    };
    let mut headers: Vec<_> = thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|_| scope.spawn(read)).collect();
        readers
            .into_iter()
            .filter_map(|reader| reader.join().ok())
            .flatten()
            .collect()
    });
    headers.sort_by_key(|&(index, _)| index);
    headers
}
