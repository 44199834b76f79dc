//! The host region: one memfd for each tenant, mapped by the daemon and by the tenant's clients.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use kvstore_types::{BootEpoch, PAGE_BYTES, SlotRef};
use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    LAYOUT_VERSION,
    layout::{REGION_MAGIC, RegionHeader, TENANT_BYTES_MAX},
    seal::{seal_size, sealed_size},
};

mod bytes;
mod prefault;

pub use bytes::RegionBytes;
pub use prefault::{Prefault, PrefaultError};

/// Bytes of a huge page.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Whether a region asks for pages of 2 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Pages of 4 KiB (the kernel may still merge them where shared memory is set to `advise`).
    Off,
    /// Pages of 2 MiB from the node's reserve, or of 4 KiB if there are not enough.
    Try,
}

/// What a region shall be.
#[derive(Clone, Copy, Debug)]
pub struct RegionSpec<'a> {
    /// All its bytes, the header's page included: a multiple of the page size.
    pub bytes: u64,
    /// Which pages.
    pub huge_pages: HugePages,
    /// The daemon's boot.
    pub boot_epoch: BootEpoch,
    /// The tenant: 1 to 256 bytes.
    pub tenant: &'a str,
}

/// Why there is no region.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// The size is no region's.
    #[error(
        "the region has {actual} bytes: want a multiple of {page_bytes}, at least two pages, below 16 TiB"
    )]
    Size {
        /// The size.
        actual: u64,
        /// Bytes of a page.
        page_bytes: u64,
    },
    /// The tenant's name does not fit.
    #[error("the tenant's name has {actual} bytes, want 1 to {TENANT_BYTES_MAX}")]
    Tenant {
        /// Its length.
        actual: usize,
    },
    /// What came over the socket can still shrink.
    #[error("the region is not sealed against shrinking")]
    NotSealed,
    /// A number in the header is not what it must be.
    #[error("the region has {what} {actual:#x}, want {expected:#x}")]
    Header {
        /// Which.
        what: &'static str,
        /// What it is.
        actual: u64,
        /// What it must be.
        expected: u64,
    },
    /// The region belongs to another boot of the daemon.
    #[error("the region was made by boot {actual}, want {expected}")]
    BootEpoch {
        /// Whose it is.
        actual: BootEpoch,
        /// Whose it should be.
        expected: BootEpoch,
    },
    /// The kernel refused.
    #[error("could not {what} the region of {bytes} bytes")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Bytes of the region.
        bytes: u64,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A region, and why it has small pages although huge ones were asked for.
#[derive(Debug)]
pub struct CreatedRegion {
    /// The region.
    pub region: Region,
    /// Why there are no huge pages; `None`: nobody asked, or there are.
    pub huge_pages_missing: Option<RegionError>,
}

/// The daemon's mapping of a tenant's region.
#[derive(Debug)]
pub struct Region {
    file: OwnedFd,
    map: MmapRaw,
    page_bytes: u64,
}

/// A client's mapping of its tenant's region. It stays usable after the daemon is gone.
#[derive(Debug)]
pub struct ClientRegion {
    map: MmapRaw,
}

impl Region {
    /// Makes a region: sealed, mapped and with its header, but with no other page touched.
    pub fn create(spec: &RegionSpec<'_>) -> Result<CreatedRegion, RegionError> {
        let huge_pages_missing = match spec.huge_pages {
            HugePages::Off => None,
            HugePages::Try => match Self::create_with(spec, HUGE_PAGE_BYTES) {
                Ok(region) => {
                    return Ok(CreatedRegion {
                        region,
                        huge_pages_missing: None,
                    });
                }
                Err(error) => Some(error),
            },
        };
        let region = Self::create_with(spec, PAGE_BYTES)?;
        Ok(CreatedRegion {
            region,
            huge_pages_missing,
        })
    }

    fn create_with(spec: &RegionSpec<'_>, page_bytes: u64) -> Result<Self, RegionError> {
        let header = header(spec, page_bytes)?;
        let io = |what| {
            move |source: io::Error| RegionError::Io {
                what,
                bytes: spec.bytes,
                source,
            }
        };
        let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        if page_bytes == HUGE_PAGE_BYTES {
            flags |= MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        }
        let file = memfd_create("kvtier-region", flags)
            .map_err(io::Error::from)
            .map_err(io("create"))?;
        ftruncate(&file, spec.bytes)
            .map_err(io::Error::from)
            .map_err(io("size"))?;
        seal_size(file.as_fd()).map_err(io("seal"))?;
        // Mapping huge pages reserves them: if there are too few, it fails here and not at the first touch.
        let map = map_region(&file, spec.bytes)?;
        if page_bytes == PAGE_BYTES {
            // Only advice: kernels without transparent huge pages for shared memory refuse it.
            let _ = map.advise(Advice::HugePage);
        }
        // The first touch may still find the cgroup exhausted; a failed populate says so, a failed store kills.
        match map.advise_range(Advice::PopulateWrite, 0, header_length(page_bytes)) {
            // Kernels before 5.14 do not know the advice.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            result => result.map_err(io("write the header of"))?,
        }
        let bytes = header.as_bytes();
        // SAFETY: the header fits into the first page, which is mapped, and nobody else knows of this memory yet.
        unsafe {
            bytes
                .as_ptr()
                .copy_to_nonoverlapping(map.as_mut_ptr(), bytes.len());
        };
        Ok(Self {
            file,
            map,
            page_bytes,
        })
    }

    /// First byte.
    pub fn base(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// All its bytes.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// Bytes before the first arena: one page.
    pub fn header_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// Bytes of a page: 4 KiB or 2 MiB.
    pub fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// The memfd, to be passed to clients.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// First byte of a slot, if `slot_bytes` bytes from there lie behind the header and in the region.
    pub fn slot_address(&self, slot: SlotRef, slot_bytes: u64) -> Option<*mut u8> {
        (slot.byte_offset() >= self.header_bytes())
            .then(|| address(&self.map, slot.byte_offset(), slot_bytes))?
    }
}

impl ClientRegion {
    /// Maps the region the daemon passed on, which must have `region_bytes` bytes and belong to `boot_epoch`.
    pub fn map(file: &OwnedFd, region_bytes: u64, boot_epoch: BootEpoch) -> Result<Self, RegionError> {
        let io = |source| RegionError::Io {
            what: "look at",
            bytes: region_bytes,
            source,
        };
        let bytes = sealed_size(file.as_fd())
            .map_err(io)?
            .ok_or(RegionError::NotSealed)?;
        if bytes != region_bytes || bytes < 2 * PAGE_BYTES {
            return Err(RegionError::Header {
                what: "size",
                actual: bytes,
                expected: region_bytes,
            });
        }
        let map = map_region(file, bytes)?;
        let mut copy = [0_u8; size_of::<RegionHeader>()];
        // SAFETY: the header fits into the first page, which is mapped; whatever it holds is valid as bytes.
        unsafe {
            copy.as_mut_ptr()
                .copy_from_nonoverlapping(map.as_ptr(), copy.len());
        };
        check_header(&copy, bytes, boot_epoch)?;
        Ok(Self { map })
    }

    /// First byte. All of the region is mapped readable and writable.
    pub fn base(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// All its bytes.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// First byte of `bytes` bytes that begin `offset` bytes into a slot, if all of them lie in the region.
    pub fn slot_address(&self, slot: SlotRef, offset: u64, bytes: u64) -> Option<*mut u8> {
        if slot.page == 0 {
            return None;
        }
        address(&self.map, slot.byte_offset().checked_add(offset)?, bytes)
    }
}

fn address(map: &MmapRaw, offset: u64, bytes: u64) -> Option<*mut u8> {
    if offset.checked_add(bytes)? > map.len() as u64 {
        return None;
    }
    // Only computed, not touched: whoever reads or writes there answers for it.
    Some(map.as_mut_ptr().wrapping_add(usize::try_from(offset).ok()?))
}

fn map_region(file: &OwnedFd, bytes: u64) -> Result<MmapRaw, RegionError> {
    let io = |what| move |source| RegionError::Io { what, bytes, source };
    let length = usize::try_from(bytes).map_err(|_| io("map")(io::ErrorKind::OutOfMemory.into()))?;
    let map = MmapOptions::new().len(length).map_raw(file).map_err(io("map"))?;
    // A forked child must not hold the region: it would keep pages alive and could write after its parent's death
    // has been proven.
    map.advise(Advice::DontFork).map_err(io("keep from forks"))?;
    // A core dump of an engine should not contain the whole cache. Only advice.
    let _ = map.advise(Advice::DontDump);
    Ok(map)
}

#[expect(clippy::cast_possible_truncation, reason = "a page has at most 2 MiB")]
fn header_length(page_bytes: u64) -> usize {
    page_bytes as usize
}

fn header(spec: &RegionSpec<'_>, page_bytes: u64) -> Result<RegionHeader, RegionError> {
    // SlotRef counts pages in 32 bits.
    let bytes_max = u64::from(u32::MAX) * PAGE_BYTES;
    if !spec.bytes.is_multiple_of(page_bytes) || spec.bytes < 2 * page_bytes || spec.bytes > bytes_max {
        return Err(RegionError::Size {
            actual: spec.bytes,
            page_bytes,
        });
    }
    let name = spec.tenant.as_bytes();
    let tenant_error = RegionError::Tenant { actual: name.len() };
    let mut tenant = [0; TENANT_BYTES_MAX];
    match tenant.get_mut(..name.len()) {
        Some(place) if !name.is_empty() => place.copy_from_slice(name),
        _ => return Err(tenant_error),
    }
    Ok(RegionHeader {
        magic: REGION_MAGIC,
        layout_version: LAYOUT_VERSION,
        header_bytes: u32::try_from(page_bytes).unwrap_or(u32::MAX),
        boot_epoch: spec.boot_epoch.0,
        region_bytes: spec.bytes,
        page_bytes: u32::try_from(page_bytes).unwrap_or(u32::MAX),
        tenant_bytes: u16::try_from(name.len()).map_err(|_| tenant_error)?,
        tenant,
        zero: [0; 2],
    })
}

fn check_header(copy: &[u8], bytes: u64, boot_epoch: BootEpoch) -> Result<(), RegionError> {
    let short = RegionError::Header {
        what: "header size",
        actual: 0,
        expected: copy.len() as u64,
    };
    let header = RegionHeader::read_from_bytes(copy).map_err(|_| short)?;
    let wanted = [
        ("magic", header.magic, REGION_MAGIC),
        (
            "layout version",
            header.layout_version.into(),
            LAYOUT_VERSION.into(),
        ),
        ("size in its header", header.region_bytes, bytes),
    ];
    for (what, actual, expected) in wanted {
        if actual != expected {
            return Err(RegionError::Header {
                what,
                actual,
                expected,
            });
        }
    }
    if header.boot_epoch != boot_epoch.0 {
        return Err(RegionError::BootEpoch {
            actual: BootEpoch(header.boot_epoch),
            expected: boot_epoch,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
