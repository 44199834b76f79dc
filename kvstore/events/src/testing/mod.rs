//! The other end of the wire, for tests and benchmarks: a decoder, a router that follows the rules, a subscriber.
#![allow(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_errors_doc,
    reason = "what is wrong in a test is a panic"
)]

mod decode;
mod router;
mod subscriber;

pub use self::decode::{Event, Value, decode_batch, decode_value};
pub use self::router::Router;
pub use self::subscriber::{Replayer, Subscriber};
