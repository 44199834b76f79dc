//! The house rules, as functions from text to a list of problems.
//!
//! `tests/tidy.rs` runs them over the repository. Each has unit tests with samples that break it, because a check that
//! cannot fail checks nothing.

pub mod code;
pub mod documents;
pub mod layers;
pub mod licences;
pub mod makefile;
pub mod repository;
pub mod words;

/// What is wrong, each with the place and what was expected.
pub type Problems = Vec<String>;
