//! Bytes: MessagePack as vLLM's event publisher writes it, and what may be passed on of what clients said.

mod batch;
mod check;
mod media;
mod mix;
mod msgpack;

pub use self::batch::Encoding;
pub(crate) use self::batch::{Style, Told, cleared_batch, empty_batch, encode_batch, is_one_group};
pub(crate) use self::check::check;
pub use self::check::{ExtraKeysError, check_extra_keys};
pub use self::media::Medium;
pub(crate) use self::media::{Media, MediumSet};
pub(crate) use self::mix::Mix;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
