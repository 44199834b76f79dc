//! What segments leave on the file system for everybody else.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{StatVfs, fstatvfs, statvfs};

/// The reserve is this part of the file system.
const RESERVE_PART: u64 = 100;

/// Room on a file system, as users see it who are not root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that nobody uses; what is reserved for root is not among them.
    pub available_bytes: u64,
    /// Bytes of them that segments leave alone: 1 % of the file system.
    pub reserve_bytes: u64,
}

impl Room {
    /// Where `path` is. None: the file system does not say how large it is.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        Ok(Self::new(&statvfs(path)?))
    }

    /// Where an open file is.
    pub(super) fn around(file: impl AsFd) -> io::Result<Option<Self>> {
        Ok(Self::new(&fstatvfs(file)?))
    }

    fn new(system: &StatVfs) -> Option<Self> {
        let bytes = |blocks: u64| blocks.saturating_mul(system.f_frsize);
        (system.f_blocks > 0).then(|| Self {
            available_bytes: bytes(system.f_bavail),
            reserve_bytes: bytes(system.f_blocks) / RESERVE_PART,
        })
    }

    /// Bytes that segments may take.
    pub const fn free_bytes(&self) -> u64 {
        self.available_bytes.saturating_sub(self.reserve_bytes)
    }

    /// Whether so many bytes more may be taken; the error is one of no space.
    pub(super) fn check(&self, bytes: u64) -> io::Result<()> {
        if self.available_bytes >= self.reserve_bytes.saturating_add(bytes) {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::StorageFull,
            format!(
                "the file system has {} bytes for it beside the {} (1 %) that are left alone, want {bytes}",
                self.free_bytes(),
                self.reserve_bytes
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(blocks: u64, available: u64) -> Option<Room> {
        let mut system = statvfs("/").unwrap();
        (system.f_frsize, system.f_blocks) = (4096, blocks);
        // Root's blocks are free, and not available.
        (system.f_bfree, system.f_bavail) = (available + blocks / 20, available);
        Room::new(&system)
    }

    #[test]
    fn a_hundredth_of_the_file_system_is_left() {
        let room = room(1000, 30).unwrap();
        assert_eq!(room.reserve_bytes, 10 * 4096);
        assert_eq!(room.free_bytes(), 20 * 4096);
        room.check(20 * 4096).unwrap();
        let error = room.check(20 * 4096 + 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn in_the_reserve_nothing_more_is_taken() {
        let room = room(1000, 9).unwrap();
        assert_eq!(room.free_bytes(), 0);
        room.check(1).unwrap_err();
        room.check(u64::MAX).unwrap_err();
    }

    #[test]
    fn a_file_system_that_says_nothing_is_believed_to_have_room() {
        assert_eq!(room(0, 0), None);
    }
}
