//! The memory that slots lie in, as this room maps it.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};

/// A second mapping of a tenant's host region, so that this room needs no promise about the daemon's own. Clients read and
/// write the same bytes at any time, so nobody makes references to them.
#[derive(Debug)]
pub struct Memory {
    map: MmapRaw,
}

impl Memory {
    /// Maps `bytes` bytes of a memfd.
    pub fn map(fd: BorrowedFd<'_>, bytes: u64) -> io::Result<Arc<Self>> {
        let bytes = usize::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        let map = MmapOptions::new().len(bytes).map_raw(&fd)?;
        Ok(Arc::new(Self { map }))
    }

    /// Writes bytes at an offset, as a client would; false if they do not all lie in it.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        let Some(to) = self.at(offset, bytes.len() as u64) else {
            return false;
        };
        // SAFETY: `at` found all of it in the mapping. Nobody makes references to it, so there is none to `bytes` in it.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        true
    }

    /// Where it begins.
    pub(crate) fn base(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// How long it is, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.map.len()
    }

    /// The address of `bytes` bytes at `offset`, if they all lie in it.
    pub(crate) fn at(&self, offset: u64, bytes: u64) -> Option<*mut u8> {
        let end = offset.checked_add(bytes)?;
        if end > self.bytes() as u64 {
            return None;
        }
        Some(self.base().wrapping_add(usize::try_from(offset).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn only_places_within_the_memory_have_an_address() {
        let fd = memfd_create("memory", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, 16384).unwrap();
        let memory = Memory::map(fd.as_fd(), 16384).unwrap();
        assert_eq!(memory.at(0, 16384), Some(memory.base()));
        assert_eq!(memory.at(8192, 8192), Some(memory.base().wrapping_add(8192)));
        assert_eq!(memory.at(8192, 8193), None);
        assert_eq!(memory.at(u64::MAX, 2), None);
        assert!(memory.write(16380, &[1, 2, 3, 4]) && !memory.write(16381, &[1, 2, 3, 4]));
        let mut bytes = [0; 4];
        rustix::io::pread(&fd, &mut bytes, 16380).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4]);
    }
}
