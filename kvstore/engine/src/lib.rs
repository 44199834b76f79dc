//! The engine: decides what the daemon does with the KV cache of one tenant.
//!
//! [`Engine::step`] takes one [`Event`] and appends [`Effects`]. It does no I/O, keeps no clock, starts no thread and
//! draws nothing at random, so any run can be replayed from its events (`cargo sim -- --seed N`). The daemon owns the
//! sockets, the rings and the memory; the engine owns every decision about them.
//!
//! ```text
//!   attach ─▶ groups + namespaces        (group, space)     who is there, and what makes bytes interchangeable
//!   lookup ─▶ plan ─▶ table ─▶ holds     (plan, block)      how long is the hit
//!   commit ─▶ leases                     (session)          what no one may take away
//!   reserve ─▶ pool: arenas, policy      (pool, arena)      where new blocks go, and who leaves
//!   seal / abort ─▶ fillings             (filling)          when all ranks are done
//!   end, death ─▶ wards, orphans         (group, filling)   what may still be touched by a dying process
//!   publish ─▶ write back; look-up ─▶ promotion; reclaim    (nvme, steps/nvme)   what is on NVMe, and when it moves
//!   publish ─▶ store; look-up ─▶ question ─▶ promotion      (remote, steps/remote)   the same for the remote tier
//! ```
//!
//! The life of a slot:
//!
//! ```text
//!          reserve            sealed by all ranks           commit
//!   Free ──────────▶ Filling ────────────────────▶ Resident ◀──────▶ Leased
//!    ▲                  │ abort, reset,               │      last lease ends
//!    │                  ▼ a session ended             │
//!    ├──────────── Quarantined                        │
//!    │    every rank is done, closed or proven dead   │
//!    └──────────────── evict, arena moved ────────────┘
//! ```
//!
//! Every path is bounded: by the keys of one message, by the limits of [`EngineConfig`], or by the number of slots
//! (when a session ends). Nothing is recycled by a timer.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod arena;
mod audit;
mod block;
mod config;
mod counters;
mod effect;
mod engine;
mod event;
mod filling;
mod group;
mod hash;
mod histogram;
mod nvme;
mod plan;
mod policy;
mod pool;
mod remote;
mod session;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod snapshot;
mod space;
mod steps;

pub use config::{
    Admission, ConfigError, EngineConfig, NvmeConfig, NvmeTuning, PolicyKind, RemoteAdmission, RemoteConfig,
};
pub use counters::{Counters, NamespaceUsage, NvmeUsage, Occupancy, Residency, SessionUsage, Traffic};
pub use effect::{
    Completion, Effect, Effects, Grant, LookupOutcome, NamespaceFault, Note, NvmeOrder, Refusal, RemoteOrder,
    RemovalCause, Violation,
};
pub use engine::Engine;
pub use event::{
    Event, EvictBlocks, EvictRange, FoundBlock, GroupKeys, KeepAsk, NvmeEvent, RemoteDirection, RemoteEvent,
    RemoteOutcome, Role, SessionEnd, SessionProfile,
};
pub use histogram::{HISTOGRAM_BOUNDS_NS, Histogram};
pub use snapshot::SnapshotCursor;
pub use steps::{Chain, Evicted, KeepRefusal, KeepView, Kept};
