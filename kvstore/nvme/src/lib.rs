//! The NVMe tier: one [`Device`] for each directory of each tenant.
//!
//! ```text
//!   orders ─▶ I/O thread ── queues by class ─▶ io_uring, or a pread/pwrite pool ─▶ segment files
//!     │          │  fills headers, verifies payloads, moves blocks
//!     │          └─ what was written ─▶ maintenance thread ─▶ RocksDB catalogue, in batches
//!     └─ segments, namespaces ─────────▶    │  makes, opens and deletes segment files; loads, rebuilds
//!   events ◀────────────────────────────────┘
//! ```
//!
//! It carries out orders and decides nothing: which block lies where, what is written and what is given up is the
//! engine's business. It owns the files (`FORMAT.md` specifies every byte), the queues to the device, and the proof that
//! what was read is what was written.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod catalogue;
mod contract;
mod device;
mod directory;
#[cfg(not(any(test, fuzzing)))]
mod format;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod format;
mod fsck;
mod gate;
mod io;
mod maintenance;
mod memory;
mod stats;

pub use contract::{
    Credit, DeviceEvent, DeviceSpec, Direct, EventSink, FoundBlock, IoEngine, LoadReport, Order, OrderTimes,
    names_bytes_of,
};
pub use device::Device;
pub use directory::{OpenError, Room, await_free, segment_bytes_of};
pub use fsck::{FsckCounts, FsckError, FsckOptions, FsckProgress, FsckReport, PROBLEMS_MAX, fsck};
pub use maintenance::MaintenanceStats;
pub use memory::Memory;
pub use stats::{DeviceStats, LATENCY_BOUNDS_US, OperationKind, OperationStats};

/// Longest descriptor of a block that is kept with it, in bytes: what the header page has room for.
pub const DESCRIPTOR_BYTES_MAX: usize = kvstore_types::DescriptorBytes::BYTES_MAX;
