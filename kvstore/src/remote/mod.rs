//! Joins a tenant's engine to its remote tier.
//!
//! ```text
//!   engine ─ effects ─▶ orders, collected for a round ─▶ Remote::submit
//!      ▲                                                    │ its threads
//!      └── events ◀── Command::Remote in the queue ◀────────┘
//! ```
//!
//! Nothing is asked of a store at the start: one that hangs holds nobody up. Each tenant has a part of the store of its own,
//! named after it, so that nothing one tenant stores is ever looked for by another.

mod show;
mod spec;
mod tier;
mod words;

pub(crate) use show::RemoteView;
pub(crate) use spec::{backend, check_here, engine_config, node_name, sweep, tuning, writer};
pub(crate) use tier::{RemoteTier, RemoteTierError};
pub(crate) use words::hear;
