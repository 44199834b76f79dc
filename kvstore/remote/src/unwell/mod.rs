//! Mounts and stores that are unwell, for tests of this room and of the daemon: see `kvstore/remote/tests/README.md`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::missing_panics_doc,
    reason = "tools for tests: what fails ends the test, and what cannot be had is said"
)]

mod fuse;
mod mounted;
mod proxy;
mod server;

pub use self::fuse::{Call, Fuse};
pub use self::mounted::Mounted;
pub use self::proxy::{NO_BUCKET, Talk, Trouble};
pub use self::server::{BUCKET, Keys, SECRET, Server};
