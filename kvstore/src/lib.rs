//! The kvtier daemon and its admin command.
//!
//! ```text
//!   config ─▶ limits ─▶ instance ─▶ tenant: region + engine ─▶ engine_thread ◀─▶ rings
//!      ▲                                                         ▲    │ ▲
//!      └─ reload ◀─ signals ─▶ app ─▶ ingress: socket, ... ──────┘    ▼ │ commands
//!                                                                nvme: devices, remote: a mount or a bucket
//! ```
//!
//! [`app`] alone names every room. The engine decides ([`kvstore_engine`]); `connector_shm` is the memory shared with
//! clients; [`kvstore_nvme`] is the devices; this crate joins the three.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod admin;
pub mod app;
pub mod command;
pub mod config;
mod engine_thread;
mod events;
pub mod exit;
mod explain;
pub mod fsck;
mod ingress;
pub mod instance;
pub mod limits;
pub mod logs;
pub mod machine;
mod notices;
mod nvme;
mod plan;
mod readiness;
mod reload;
mod remote;
mod signals;
pub mod status;
mod tenant;
pub mod terminal;
mod text;
mod tls;
mod traces;
