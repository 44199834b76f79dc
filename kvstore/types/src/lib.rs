//! The nouns every room of kvtier shares.
//!
//! Nothing here does I/O, keeps a clock or owns a resource: these are names, numbers and the arithmetic that
//! belongs to them. One word, one meaning; the glossary is in `ARCHITECTURE.md`.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test is a panic")
)]

mod descriptor;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod geometry;
mod id;
mod key;
mod namespace;
mod nvme;
mod slot;
mod tier;

pub use descriptor::{
    BlockDescriptor, BlockDescriptorError, DescriptorBytes, DescriptorRun, DescriptorView, PackedTokens,
};
pub use geometry::{
    AttentionKind, GeometryError, GroupGeometry, GroupLayout, GroupSpan, NamespaceGeometry, RANK_ALIGN_BYTES,
};
pub use id::{BootEpoch, EngineGroupId, ProcessId, Rank, SessionId, Tag};
pub use key::{BlockHash, BlockKey, GroupIndex, NamespaceId};
pub use namespace::{DescriptorError, Field, NamespaceDescriptor};
pub use nvme::{
    Corruption, DeviceIndex, Extent, IoOutcome, OperationId, ReadClass, SegmentGeneration, SegmentRef,
};
pub use slot::{Generation, PAGE_BYTES, SlotRef};
pub use tier::Tier;
