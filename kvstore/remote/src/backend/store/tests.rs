//! A server that speaks S3, the proxy in front of it, and what a store may do wrong.

mod faults;
mod proxy;
mod server;
mod tls;

pub(crate) use self::proxy::{NO_BUCKET, Trouble};
pub(crate) use self::server::{SECRET, Server};
