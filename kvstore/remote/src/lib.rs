//! The remote tier: a shared filesystem or an object store behind every node.
//!
//! ```text
//!   orders ─▶ dispatcher ── lanes (reads, writes, look-ups), deadlines, breakers, what is known of existence
//!     │            │ one task for each order under way: copies, checksums, attempts
//!     │            ▼
//!     │        a mount (threads or io_uring) or an object store: objects as LAYOUT.md specifies them
//!   events ◀───────┘
//! ```
//!
//! It carries out orders and decides nothing about blocks: which one is written, fetched or looked for is the engine's
//! business. It owns the objects' bytes, the proof that what was read is what was written, and the rule that nothing that
//! happens to a store can hold anybody up: every order is answered by its deadline, and after that its slot is not touched.
// One module promises something to tokio-uring (`buffer::memory`).
#![deny(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test is a panic")
)]

mod admin;
mod backend;
mod buffer;
mod chance;
mod contract;
#[cfg(not(any(test, fuzzing)))]
mod format;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod format;
mod listing;
mod small_file;
mod spec;
mod state;
mod stats;
mod sweep;
#[cfg(test)]
mod testing;
mod tier;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod unwell;

pub use admin::{Admin, NamespaceFound, Progress, Usage};
pub use backend::memory::MemoryStore;
pub use backend::store::{Endpoint, Lack};
pub use contract::{
    Direction, EventSink, FaultKind, Order, Outcome, Presence, Refusal, RemoteEvent, SlotMemory, WriterId,
};
pub use small_file::read_small_file;
pub use spec::{
    BackendSpec, Credentials, Direct, Limits, MountCheck, MountIo, MountSpec, RemoteSpec, RemoteTuning,
    Reserve, SpecError, StoreKind, StoreSpec, SweepLimits, SweepSpec, SyncPolicy, Timing,
};
pub use state::{BreakerPolicy, ExistencePolicy, LaneLimits, RetryPolicy};
pub use stats::{LastFault, OperationKind, OperationStats, Outage, RemoteStats, Room, SweepStats};
pub use sweep::{LeaseHeld, SweepNow, SweepReport};
pub use tier::{Remote, Removal, Removed, Remover};

/// Longest descriptor of a block that is kept with it, in bytes: what the header page has room for.
pub const DESCRIPTOR_BYTES_MAX: usize = 3840;
