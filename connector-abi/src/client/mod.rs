//! A session with the daemon: the safe client underneath the C functions.
//!
//! ```text
//!              open                 all ranks there
//!   (nothing) ─────▶ Waiting ─────────────────────▶ Ready ──▶ Draining
//!                      ▲  │ socket or doorbell hangs up, or the rings make no sense     │
//!        info() adopts │  ▼                                                             │
//!                      Lost ◀───────────────────────────────────────────────────────────┘
//! ```
//!
//! What always holds
//! - Sending never blocks, and polling reads memory only, but for one look at the socket every few milliseconds.
//! - What was under way when a session was lost is void: its tags, leases and slots belong to that attachment alone.
//!   A new attachment is adopted in [`Session::info`] and nowhere else, so it never changes behind the caller's back.
//! - A region stays mapped as long as a copy uses it. The session lets go of it when the daemon is gone, so that the
//!   daemon's successor finds its memory free; a caller that was told an address keeps it until its next look.

mod attach;
mod backoff;
mod guardian;
mod options;
mod region;
mod send;
mod session;
mod trace;
mod view;
mod wait;

#[cfg(test)]
mod tests;

pub use connector_shm::{Completion, GrantReason, GroupKeys, LookupOutcome, TraceContext, TracedRequest};
pub use options::{Reattach, Role, SessionOptions};
pub use session::{Session, SessionInfo, SessionState};
pub use view::GroupWindow;
