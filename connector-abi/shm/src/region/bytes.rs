//! Copies into and out of a region, for those who move blocks through memory of their own.

use memmap2::MmapRaw;

use super::{Region, RegionError, address, map_region};

/// A mapping of a region of its own, which stays for as long as anybody copies: it promises nothing about the daemon's.
/// Clients read and write the same bytes at any time, so nobody gets a reference to them.
#[derive(Debug)]
pub struct RegionBytes {
    map: MmapRaw,
}

impl Region {
    /// Maps the region a second time.
    pub fn map_bytes(&self) -> Result<RegionBytes, RegionError> {
        map_region(&self.file, self.bytes()).map(|map| RegionBytes { map })
    }
}

impl RegionBytes {
    /// Copies the bytes from `offset` on into `bytes`, whatever a client makes of them meanwhile. False, and nothing is
    /// copied, if they do not all lie in the region.
    #[must_use]
    pub fn copy_out(&self, offset: u64, bytes: &mut [u8]) -> bool {
        let Some(from) = address(&self.map, offset, bytes.len() as u64) else {
            return false;
        };
        // SAFETY: `address` checked that the range lies in the mapping, which lives as long as `self` and whose file is sealed
        // against shrinking; private memory cannot overlap it. Any bytes a client writes meanwhile are valid `u8`s.
        unsafe {
            bytes.as_mut_ptr().copy_from_nonoverlapping(from, bytes.len());
        }
        true
    }

    /// Copies `bytes` to `offset`. False, and nothing is changed, if they do not all lie in the region.
    #[must_use]
    pub fn copy_in(&self, offset: u64, bytes: &[u8]) -> bool {
        let Some(to) = address(&self.map, offset, bytes.len() as u64) else {
            return false;
        };
        // SAFETY: as in `copy_out`. That nobody else uses the slot now is the engine's promise; a client that breaks it gets
        // garbage of its own tenant's.
        unsafe {
            bytes.as_ptr().copy_to_nonoverlapping(to, bytes.len());
        }
        true
    }
}
