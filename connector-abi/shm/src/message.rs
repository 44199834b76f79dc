//! Messages in the rings: a header of 32 bytes and a payload, encoded straight into the ring and decoded in place
//! from the private copy.
//!
//! ```text
//! 0        4     6       8       16      20      24      32
//! | length | op  | flags |  tag  | count | arg32 |  arg  | payload … | 0 to 7 zero bytes |
//! ```
//!
//! Decoding accepts exactly what encoding produces: fields a message does not use are zero, counts and payload agree
//! to the byte, padding is zero.

use kvstore_types::BlockHash;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{BeginError, MESSAGE_BYTES_MIN, Producer};

mod completion;
mod keys;
mod reader;
mod request;
mod runs;
mod trace;

pub use completion::{Completion, GrantReason, LookupOutcome, RankLayout};
pub use keys::{GroupHead, Keys};
pub use request::Request;
pub use runs::Runs;
pub use trace::{TRACE_CONTEXTS_MAX, TRACE_NAME_BYTES_MAX, TraceContext, TracedRequest};

/// Messages of events that can be under way to one client.
pub const EVENTS_CREDIT_MAX: u32 = 8;
/// Longest message of events, whatever the ring.
const EVENTS_BYTES_MAX: usize = 32 << 10;

/// Longest batch of events that is sent through a ring of this capacity: all that can be under way fill a quarter of it.
pub const fn events_batch_bytes_max(ring_bytes: usize) -> usize {
    let message = ring_bytes / (4 * EVENTS_CREDIT_MAX as usize);
    let message = if message < EVENTS_BYTES_MAX {
        message
    } else {
        EVENTS_BYTES_MAX
    };
    message - MESSAGE_BYTES_MIN
}

/// Why a message could not be sent; nothing of it was.
pub type SendError = BeginError;

/// Keys of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupKeys<'a> {
    /// Index of the group.
    pub group: u32,
    /// One hash for each block.
    pub hashes: &'a [BlockHash],
}

/// Why a message makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// There is no such operation.
    #[error("unknown operation {op}")]
    UnknownOp {
        /// Its number.
        op: u16,
    },
    /// The length in the header is not the message's.
    #[error("the header says {length} bytes, the message has {actual}")]
    Length {
        /// What the header says.
        length: u64,
        /// What there is.
        actual: usize,
    },
    /// Counts and payload do not agree.
    #[error("{op}: {expected} bytes of payload follow from its counts, got {actual}")]
    Payload {
        /// The operation.
        op: &'static str,
        /// Bytes that follow from the counts, padding included.
        expected: u64,
        /// Bytes there are.
        actual: usize,
    },
    /// A count is larger than it may be.
    #[error("{op}: the number of {what} is {actual}, at most {max} are allowed")]
    Count {
        /// The operation.
        op: &'static str,
        /// What is counted.
        what: &'static str,
        /// The count.
        actual: u32,
        /// The largest one.
        max: u32,
    },
    /// A field that the operation does not use is not zero.
    #[error("{op}: {field} is {actual:#x}, want 0")]
    NotZero {
        /// The operation.
        op: &'static str,
        /// The field.
        field: &'static str,
        /// What it is.
        actual: u64,
    },
    /// A number has no meaning.
    #[error("{op}: {field} is {actual}, want {expected}")]
    Field {
        /// The operation.
        op: &'static str,
        /// The field.
        field: &'static str,
        /// What it is.
        actual: u64,
        /// What it may be.
        expected: &'static str,
    },
    /// Text is not UTF-8.
    #[error("{op}: the payload is not UTF-8")]
    NotUtf8 {
        /// The operation.
        op: &'static str,
    },
}

/// The header of every message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    length: u32,
    op: u16,
    flags: u16,
    tag: u64,
    count: u32,
    arg32: u32,
    arg: u64,
}

const _: () = assert!(size_of::<Header>() == MESSAGE_BYTES_MIN);
const _: () = assert!(std::mem::offset_of!(Header, tag) == 8);
const _: () = assert!(std::mem::offset_of!(Header, count) == 16);
const _: () = assert!(std::mem::offset_of!(Header, arg) == 24);

/// A count for the header. More than `u32::MAX` of anything is larger than any ring, so the message is refused
/// as too large before the number could be read.
fn count_of<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}

/// Writes a message made of its header (whose length is filled in) and pieces of payload.
fn encode(producer: &mut Producer, header: Header, pieces: &[&[u8]]) -> Result<(), SendError> {
    let payload: usize = pieces.iter().map(|piece| piece.len()).sum();
    encode_with(producer, header, payload, |writer| {
        for piece in pieces {
            writer.write(piece);
        }
    })
}

/// Writes a message whose payload of `payload_bytes` is written by `fill`.
fn encode_with(
    producer: &mut Producer,
    header: Header,
    payload_bytes: usize,
    fill: impl FnOnce(&mut crate::Writer<'_>),
) -> Result<(), SendError> {
    let length = (MESSAGE_BYTES_MIN + payload_bytes).next_multiple_of(8);
    let mut writer = producer.begin(length)?;
    // A message that fits into a ring has a length that fits into 32 bits.
    let header = Header {
        length: u32::try_from(length).unwrap_or(u32::MAX),
        ..header
    };
    writer.write(header.as_bytes());
    fill(&mut writer);
    writer.commit();
    Ok(())
}

#[cfg(test)]
mod tests;
