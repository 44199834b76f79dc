//! How many bytes the catalogue has on disk, against its bound.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::options::Sizes;

/// Counts the catalogue's files now and then, and what was written since.
#[derive(Debug)]
pub(super) struct Room {
    path: PathBuf,
    /// Blocks are taken in while fewer bytes than this are in use.
    limit: u64,
    /// Bytes written before the files are counted again.
    step: u64,
    counted: u64,
    written: u64,
    /// Bytes there were after the last compaction for want of room.
    compacted: Option<u64>,
}

impl Room {
    pub(super) fn new(path: &Path, bytes_max: u64, sizes: Sizes) -> Self {
        let mut room = Self {
            path: path.to_owned(),
            limit: bytes_max.saturating_sub(sizes.reserve()),
            step: sizes.memtable / 4,
            counted: 0,
            written: 0,
            compacted: None,
        };
        room.count();
        room
    }

    /// Whether blocks may be taken in.
    pub(super) fn has_room(&mut self) -> bool {
        if self.written >= self.step || self.bytes() >= self.limit {
            self.count();
        }
        self.bytes() < self.limit
    }

    /// So many bytes were written.
    pub(super) fn took(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    /// Bytes in use.
    pub(super) fn bytes(&self) -> u64 {
        self.counted + self.written
    }

    /// Whether enough has been written since the last compaction that another may free something.
    pub(super) fn is_worth_compacting(&self) -> bool {
        self.compacted
            .is_none_or(|bytes| self.bytes() > bytes.saturating_add(self.step))
    }

    /// Everything that was deleted has been given back.
    pub(super) fn compacted(&mut self) {
        self.count();
        self.compacted = Some(self.counted);
    }

    fn count(&mut self) {
        self.counted = bytes_of(&self.path);
        self.written = 0;
    }
}

/// Bytes that the files of a directory take on disk.
pub(crate) fn bytes_of(path: &Path) -> u64 {
    let files = fs::read_dir(path).into_iter().flatten().flatten();
    // A file may be gone by now.
    files
        .filter_map(|file| file.metadata().ok())
        .map(|metadata| metadata.blocks() * 512)
        .sum()
}
