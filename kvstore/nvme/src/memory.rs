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

    /// Where it begins.
    pub(crate) fn base(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// How long it is, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.map.len()
    }
}
