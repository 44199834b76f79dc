//! Where everything lies in shared memory, and the checks that keep this file and `LAYOUT.md` equal.

use std::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the control and region layouts. Another number means: do not attach.
pub const LAYOUT_VERSION: u32 = 1;
/// Smallest capacity of a ring.
pub const RING_BYTES_MIN: u64 = 64 << 10;
/// Largest capacity of a ring.
pub const RING_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a message's header, and so of the smallest message.
pub const MESSAGE_BYTES_MIN: usize = 32;

/// First eight bytes of a control memfd.
pub(crate) const CONTROL_MAGIC: u64 = u64::from_le_bytes(*b"KVTCTL\0\x01");
/// First eight bytes of a region memfd.
pub(crate) const REGION_MAGIC: u64 = u64::from_le_bytes(*b"KVTREG\0\x01");
/// Where the first ring begins: the control header fills one page.
pub(crate) const RINGS_OFFSET: u64 = 4096;
/// Longest tenant name a region header holds.
pub(crate) const TENANT_BYTES_MAX: usize = 256;

/// The part of a control memfd that the daemon writes once. The daemon never reads it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ControlHeader {
    pub(crate) magic: u64,
    pub(crate) layout_version: u32,
    pub(crate) header_bytes: u32,
    pub(crate) boot_epoch: [u8; 16],
    pub(crate) session_id: u64,
    pub(crate) request_ring_offset: u64,
    pub(crate) request_ring_bytes: u64,
    pub(crate) completion_ring_offset: u64,
    pub(crate) completion_ring_bytes: u64,
}

/// Bytes of the control header, its cursors and flags included.
pub(crate) const CONTROL_HEADER_BYTES: u32 = 1152;

/// Where each cursor and flag lies in the control memfd: each on its own 128 bytes, so that the two sides never
/// fight over a cache line (or over the neighbour that the prefetcher brings along).
pub(crate) mod line {
    pub(crate) const REQUEST_TAIL: usize = 128;
    pub(crate) const REQUEST_HEAD: usize = 256;
    pub(crate) const COMPLETION_TAIL: usize = 384;
    pub(crate) const COMPLETION_HEAD: usize = 512;
    pub(crate) const DAEMON_SLEEPING: usize = 640;
    pub(crate) const CLIENT_SLEEPING: usize = 768;
    pub(crate) const CLIENT_WANTS_SPACE: usize = 896;
    pub(crate) const DAEMON_WANTS_SPACE: usize = 1024;
}

/// The first bytes of a region memfd. Written once by the daemon, which never trusts it.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RegionHeader {
    pub(crate) magic: u64,
    pub(crate) layout_version: u32,
    pub(crate) header_bytes: u32,
    pub(crate) boot_epoch: [u8; 16],
    pub(crate) region_bytes: u64,
    pub(crate) page_bytes: u32,
    pub(crate) tenant_bytes: u16,
    pub(crate) tenant: [u8; TENANT_BYTES_MAX],
    pub(crate) zero: [u8; 2],
}

const _: () = assert!(
    cfg!(target_endian = "little"),
    "the shared layouts are little-endian"
);
const _: () = assert!(size_of::<ControlHeader>() == 72);
const _: () = assert!(offset_of!(ControlHeader, layout_version) == 8);
const _: () = assert!(offset_of!(ControlHeader, header_bytes) == 12);
const _: () = assert!(offset_of!(ControlHeader, boot_epoch) == 16);
const _: () = assert!(offset_of!(ControlHeader, session_id) == 32);
const _: () = assert!(offset_of!(ControlHeader, request_ring_offset) == 40);
const _: () = assert!(offset_of!(ControlHeader, request_ring_bytes) == 48);
const _: () = assert!(offset_of!(ControlHeader, completion_ring_offset) == 56);
const _: () = assert!(offset_of!(ControlHeader, completion_ring_bytes) == 64);
const _: () = assert!(line::DAEMON_WANTS_SPACE + 128 == CONTROL_HEADER_BYTES as usize);
const _: () = assert!(CONTROL_HEADER_BYTES as u64 <= RINGS_OFFSET);
const _: () = assert!(size_of::<RegionHeader>() == 304);
const _: () = assert!(offset_of!(RegionHeader, boot_epoch) == 16);
const _: () = assert!(offset_of!(RegionHeader, region_bytes) == 32);
const _: () = assert!(offset_of!(RegionHeader, page_bytes) == 40);
const _: () = assert!(offset_of!(RegionHeader, tenant_bytes) == 44);
const _: () = assert!(offset_of!(RegionHeader, tenant) == 46);
