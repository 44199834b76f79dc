//! libkvtier: the client library of kvtier.
//!
//! Three layers, each usable without the one above it:
//!
//! ```text
//! abi      the C functions of kvtier.h: pointers in, status codes out, no panic passes
//! client   a session with the daemon: attach, look up, reserve, seal, poll, wait, reattach
//! copier   batches of copies between device pages and slots
//! ```
//!
//! The library is a guest in the inference process: no global state, no logger of its own, and no thread unless one was
//! asked for (background reattachment, copier threads).
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test is a panic")
)]

pub mod abi;
pub mod client;
pub mod copier;
mod error;
mod guest;
pub mod hash;

#[cfg(test)]
mod test_peer;

pub use error::ClientError;
