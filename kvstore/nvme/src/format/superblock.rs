//! `tier.kvt`: what a directory is for ever.
//!
//! ```text
//! 0       8         12       16        32        64              72       80       4080
//! | magic | version | zeroes | tier id | MAC key | segment bytes | tenant | tenant | checksum |
//! ```

use std::mem::offset_of;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::layout::{PAGE_CHECKSUM_AT, checksum, is_zero, read_prefix, write_prefix};
use super::{FORMAT_VERSION, PAGE, TierKey};

const MAGIC: [u8; 8] = *b"KVTTIER\0";
const FIXED_BYTES: usize = 80;

/// Longest name of a tenant that a superblock has room for, in bytes.
pub(crate) const TENANT_BYTES_MAX: usize = PAGE_CHECKSUM_AT - FIXED_BYTES;

/// What a superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    /// The directory's name and its secret.
    pub(crate) key: TierKey,
    /// The tenant it belongs to.
    pub(crate) tenant: String,
    /// Size of each of its segments.
    pub(crate) segment_bytes: u64,
}

/// Why a superblock cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SuperblockError {
    /// It does not begin as a superblock does.
    #[error("it is not a kvtier superblock")]
    Magic,
    /// Another version's. Nothing behind the version is known.
    #[error("format version {found}, want {FORMAT_VERSION}")]
    Version {
        /// The version.
        found: u32,
    },
    /// It is damaged.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Fixed {
    magic: [u8; 8],
    version: U32,
    zero: U32,
    tier: [u8; 16],
    mac_key: [u8; 32],
    segment_bytes: U64,
    tenant_bytes: U32,
    zero_tenant: U32,
}

const _: () = assert!(size_of::<Fixed>() == FIXED_BYTES);
const _: () = assert!(offset_of!(Fixed, version) == 8);
const _: () = assert!(offset_of!(Fixed, mac_key) == 32);
const _: () = assert!(offset_of!(Fixed, tenant_bytes) == 72);

impl Superblock {
    /// The file's bytes.
    ///
    /// # Panics
    /// When the tenant's name is longer than [`TENANT_BYTES_MAX`], which the caller has refused.
    pub(crate) fn encode(&self) -> [u8; PAGE] {
        let tenant = self.tenant.as_bytes();
        assert!(
            tenant.len() <= TENANT_BYTES_MAX,
            "a tenant's name fits in the superblock"
        );
        #[expect(
            clippy::cast_possible_truncation,
            reason = "at most TENANT_BYTES_MAX, see above"
        )]
        let tenant_bytes = tenant.len() as u32;
        let fixed = Fixed {
            magic: MAGIC,
            version: U32::new(FORMAT_VERSION),
            zero: U32::ZERO,
            tier: self.key.id,
            mac_key: self.key.mac,
            segment_bytes: U64::new(self.segment_bytes),
            tenant_bytes: U32::new(tenant_bytes),
            zero_tenant: U32::ZERO,
        };
        let mut page = [0; PAGE];
        write_prefix(&fixed, &mut page);
        page[FIXED_BYTES..][..tenant.len()].copy_from_slice(tenant);
        let sum = checksum(&page[..PAGE_CHECKSUM_AT]);
        page[PAGE_CHECKSUM_AT..].copy_from_slice(&sum);
        page
    }

    /// Reads a file back. The version is looked at first, so that a newer file is called newer and not damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SuperblockError> {
        let damaged = |what| Err(SuperblockError::Damaged(what));
        let (magic, rest) = bytes.split_first_chunk::<8>().ok_or(SuperblockError::Magic)?;
        if *magic != MAGIC {
            return Err(SuperblockError::Magic);
        }
        let (found, _) =
            U32::read_from_prefix(rest).map_err(|_| SuperblockError::Damaged("it is too short"))?;
        if found.get() != FORMAT_VERSION {
            return Err(SuperblockError::Version { found: found.get() });
        }
        if bytes.len() != PAGE {
            return damaged("want 4096 bytes");
        }
        let (covered, sum) = bytes.split_at(PAGE_CHECKSUM_AT);
        if checksum(covered) != sum {
            return damaged("wrong checksum");
        }
        let Some(fixed) = read_prefix::<Fixed>(covered) else {
            return damaged("it is too short");
        };
        let tenant_end = FIXED_BYTES.saturating_add(fixed.tenant_bytes.get() as usize);
        let Some(tenant) = covered.get(FIXED_BYTES..tenant_end) else {
            return damaged("the tenant's name is too long");
        };
        if !is_zero(&covered[tenant_end..]) || fixed.zero != U32::ZERO || fixed.zero_tenant != U32::ZERO {
            return damaged("padding is not zero");
        }
        let Ok(tenant) = std::str::from_utf8(tenant) else {
            return damaged("the tenant's name is not UTF-8");
        };
        Ok(Self {
            key: TierKey {
                id: fixed.tier,
                mac: fixed.mac_key,
            },
            tenant: tenant.to_owned(),
            segment_bytes: fixed.segment_bytes.get(),
        })
    }
}
