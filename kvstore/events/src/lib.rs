//! The room that announces blocks: a model of what is where, and those who are told of its changes.
//!
//! ```text
//!   engine threads                     kvt-events thread
//!   ┌───────────┐ feed: bounded ┌──────────────────────────────────────────┐      routers
//!   │ FeedSender├──────────────▶│ Book ─ announcements ─▶ Speaker ─ ZMTP ──┼─────▶ (one Speaker each)
//!   │           │◀──────────────│   │                                      │
//!   └───────────┘ ask snapshot  └───┼──────────────────────────────────────┘
//!                                   └─ changes ─▶ Watch ─▶ the admin API, on its own thread
//! ```
//!
//! - `feed`: from the engine threads, never waited for. What is lost is noticed, and a snapshot repairs it.
//! - `book`: the model, pure. Everything that is there, and of that what is announced.
//! - `speaker`: what one router is told in which order, pure.
//! - `wire`: bytes.
//! - `zmtp`, `publisher`: connections.
//! - `ledger`: what has been announced, in a file, for the daemon that comes after one that was killed.
//! - `relay`: listeners that are engines' own sessions.
//! - `watch`: subscribers within the daemon.
//! - `announcer`: the thread.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test is a panic")
)]

pub mod announcer;
pub mod book;
mod clock;
mod counters;
pub mod feed;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod ledger;
pub mod publisher;
mod relay;
mod shared;
mod speaker;
#[cfg(any(test, fuzzing, feature = "testing"))]
pub mod testing;
mod tiers;
pub mod watch;
pub mod wire;
mod zmtp;

pub use announcer::{Announcer, CounterSource, EventsConfig, LedgerConfig, StartError, TenantFeed};
pub use book::{BookLimits, Identity, TenantIndex};
pub use counters::EventCounters;
pub use feed::{FEED_ITEMS_MAX, FeedItem, FeedReceiver, FeedSender, GroupShape, NamespaceShape, feed};
pub use publisher::{Address, AddressError, PublisherConfig};
pub use relay::{Relay, RelayOptions, RelaySource};
pub use tiers::{TIERS, TierSet};
pub use watch::{Lagged, ResumeError, Watch, WatchEvent, WatchFilter, WatchSource};
pub use wire::Encoding;
