//! Places in the host region.

use std::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The unit of alignment of slots and of direct I/O, in bytes.
pub const PAGE_BYTES: u64 = 4096;

/// How often a slot has been reserved. Grows on each reserve, so a stale handle can be told from a live one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Generation(pub u32);

/// Names one use of one slot: where it begins in the host region, counted in pages, and the generation of that use.
///
/// Shared with clients as two little-endian `u32`, page first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SlotRef {
    /// First page of the slot: byte offset in the region divided by [`PAGE_BYTES`].
    pub page: u32,
    /// The generation this reference was made for.
    pub generation: u32,
}

impl SlotRef {
    /// Byte offset of the slot from the start of the region.
    pub const fn byte_offset(self) -> u64 {
        self.page as u64 * PAGE_BYTES
    }
}

impl fmt::Display for SlotRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "page {} generation {}", self.page, self.generation)
    }
}

impl fmt::Debug for SlotRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.page, self.generation)
    }
}

const _: () = assert!(size_of::<SlotRef>() == 8);
