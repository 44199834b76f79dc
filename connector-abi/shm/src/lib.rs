//! The memory the daemon and its clients share: region, rings, doorbells and the handshake that passes them on.
//!
//! Every byte that two processes exchange is specified in `LAYOUT.md` beside this crate; the two change together.
//!
//! What always holds
//! - The other process may be buggy, hostile or dead at any instruction. What it wrote is copied once, then
//!   checked, then used; a lie ends in a typed error, never in a panic or in memory without a bound.
//! - There are no Rust references into shared memory, only atomics and raw pointers that are copied from and to.
//! - Shared memory cannot shrink under a mapping: memfds are sealed before they are passed on, and the receiver
//!   checks that they are.
//! - Sending and receiving need no system call unless the other side has said that it sleeps.
//! - Nothing the peer does to a descriptor it shares with us can make one of our calls block.
//!
//! Loom runs the rings and their sleeping through every interleaving:
//! `RUSTFLAGS="--cfg loom" cargo test -p connector-shm --release --lib loom`
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod buffer;
#[cfg_attr(loom, allow(dead_code, reason = "the model has a memory of its own"))]
mod layout;
mod memory;
mod primitive;
mod ring;

#[cfg(not(loom))]
mod client;
#[cfg(not(loom))]
mod control;
#[cfg(not(loom))]
mod doorbell;
#[cfg(not(loom))]
mod frame;
#[cfg(all(any(test, fuzzing), not(loom)))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(not(loom))]
mod handshake;
#[cfg(not(loom))]
mod message;
#[cfg(not(loom))]
mod peer;
#[cfg(not(loom))]
mod region;
#[cfg(not(loom))]
mod seal;
#[cfg(not(loom))]
mod socket;
#[cfg(not(loom))]
mod socket_path;

pub use buffer::MessageBuffer;
pub use layout::{LAYOUT_VERSION, MESSAGE_BYTES_MIN, RING_BYTES_MAX, RING_BYTES_MIN};
pub use ring::{BeginError, Consumer, PeerCursorError, Producer, Sleep, Writer};

#[cfg(not(loom))]
pub use client::{AttachError, Attachment};
#[cfg(not(loom))]
pub use control::{ClientEnd, ClientFds, ControlError, ControlSpec, DaemonEnd, ReceiveError};
#[cfg(not(loom))]
pub use doorbell::{Doorbell, DoorbellError, Wake};
#[cfg(not(loom))]
pub use frame::{
    ABI_MAJOR, ABI_MINOR, BODY_BYTES_MAX, DESCRIBED_MINOR, EVENTS_MINOR, Frame, FrameError, FrameKind,
    FrameReader, PROLOGUE_BYTES, TRACE_MINOR,
};
#[cfg(not(loom))]
pub use handshake::{ATTACH_FDS, AttachReply, AttachRequest, AttachStatus, HandshakeError, Role, send_reply};
#[cfg(not(loom))]
pub use message::{
    Completion, EVENTS_CREDIT_MAX, GrantReason, GroupHead, GroupKeys, Keys, LookupOutcome, MessageError,
    RankLayout, Request, Runs, SendError, TRACE_CONTEXTS_MAX, TRACE_NAME_BYTES_MAX, TraceContext,
    TracedRequest, events_batch_bytes_max,
};
#[cfg(not(loom))]
pub use peer::{PeerCredentials, PeerError, PeerProcess, PidfdSource, hung_up, peer_credentials};
#[cfg(not(loom))]
pub use region::{
    ClientRegion, CreatedRegion, HugePages, Prefault, PrefaultError, Region, RegionBytes, RegionError,
    RegionSpec,
};
#[cfg(not(loom))]
pub use socket_path::{default_socket_path, existing_socket_path};
