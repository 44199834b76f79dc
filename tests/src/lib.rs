//! What the tests that span crates and processes share.
#![forbid(unsafe_code)]

pub mod drive;
pub mod tidy;
