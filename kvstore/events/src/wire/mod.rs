//! Bytes: MessagePack as vLLM's event publisher writes it, and what may be passed on of what clients said.

mod batch;
mod check;
mod msgpack;

pub use self::batch::{Encoding, Medium};
pub(crate) use self::batch::{Media, Style, Told, empty_batch, encode_batch};
pub(crate) use self::check::check;
pub use self::check::{ExtraKeysError, check_extra_keys};

#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;
