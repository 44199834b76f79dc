//! What is decided, without clock and I/O: the time is passed in.

mod breaker;
mod budget;
mod existence;
mod notice;
mod retry;

pub use breaker::BreakerPolicy;
pub(crate) use breaker::{Breaker, Change};
pub use budget::LaneLimits;
pub(crate) use budget::{Lane, Waiting};
pub use existence::ExistencePolicy;
pub(crate) use existence::{Existence, Known};
pub(crate) use notice::Notices;
pub(crate) use retry::Retry;
pub use retry::RetryPolicy;
