//! Joins a tenant's engine to its NVMe devices.
//!
//! ```text
//!   engine ─ effects ─▶ orders, collected for a round ─▶ Device::submit
//!      ▲                                                     │ its threads
//!      └── events ◀── Command::Nvme in the command queue ◀───┘
//! ```
//!
//! A device that cannot be used for what is in its directory is out of service and the others go on; one that cannot be
//! used as it is configured ends the start.

mod devices;
mod event;
mod order;
mod plan;
mod show;
mod space;

pub(crate) use devices::{Devices, OpenFailure, await_locks};
pub(crate) use event::{Heard, Scratch, hear};
pub(crate) use plan::{NvmePlan, PlanError};
pub(crate) use show::{DeviceView, quantile};
pub(crate) use space::{compare, shortage, tell_strangers};
