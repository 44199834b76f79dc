//! What a client says so that its requests can be followed: whose the next message is, and that a request is over.

use kvstore_types::Tag;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::request::Request;
use super::{Header, MessageError, SendError, count_of, encode, reader::Reader};
use crate::Producer;

/// Most contexts of one message.
pub const TRACE_CONTEXTS_MAX: usize = 256;
/// Longest name of a request, in bytes.
pub const TRACE_NAME_BYTES_MAX: usize = 256;

/// Whose consecutive keys of the next message are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TraceContext {
    /// The trace, as W3C Trace Context has it. Zeroes: nobody follows these keys.
    pub trace_id: [u8; 16],
    /// The span of the request they belong to.
    pub span_id: [u8; 8],
    /// How many keys; of a look-up, which belongs to one request, it says nothing.
    pub keys: u32,
    /// 0.
    pub zero: u32,
}

const _: () = assert!(size_of::<TraceContext>() == 32);

/// A request that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracedRequest<'a> {
    /// Its trace.
    pub trace_id: [u8; 16],
    /// Its span.
    pub span_id: [u8; 8],
    /// The span it was asked in, of whoever sent it; zeroes: it begins its trace.
    pub parent_span_id: [u8; 8],
    /// When it came, in nanoseconds since 1970.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// Tokens of its prompt.
    pub prompt_tokens: u64,
    /// Tokens that look-ups found.
    pub hit_tokens: u64,
    /// Tokens that were loaded.
    pub loaded_tokens: u64,
    /// As its engine calls it; at most [`TRACE_NAME_BYTES_MAX`].
    pub name: &'a str,
}

/// The part of [`TracedRequest`] that has a fixed size.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Body {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    parent_span_id: [u8; 8],
    start_ns: u64,
    end_ns: u64,
    prompt_tokens: u64,
    hit_tokens: u64,
    loaded_tokens: u64,
}

const BODY_BYTES: usize = size_of::<Body>();
const _: () = assert!(BODY_BYTES == 72);

pub(super) fn encode_contexts(
    producer: &mut Producer,
    header: Header,
    sent_ns: u64,
    contexts: &[TraceContext],
) -> Result<(), SendError> {
    let header = Header {
        arg: sent_ns,
        count: count_of(contexts),
        ..header
    };
    encode(producer, header, &[contexts.as_bytes()])
}

pub(super) fn encode_request(
    producer: &mut Producer,
    header: Header,
    request: &TracedRequest<'_>,
) -> Result<(), SendError> {
    let header = Header {
        count: count_of(request.name.as_bytes()),
        ..header
    };
    let body = Body {
        trace_id: request.trace_id,
        span_id: request.span_id,
        parent_span_id: request.parent_span_id,
        start_ns: request.start_ns,
        end_ns: request.end_ns,
        prompt_tokens: request.prompt_tokens,
        hit_tokens: request.hit_tokens,
        loaded_tokens: request.loaded_tokens,
    };
    encode(producer, header, &[body.as_bytes(), request.name.as_bytes()])
}

pub(super) fn contexts<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, MessageError> {
    reader.name("trace")?;
    reader.zero("arg32", reader.header.arg32)?;
    reader.at_most("contexts", u32::try_from(TRACE_CONTEXTS_MAX).unwrap_or(u32::MAX))?;
    let contexts: &[TraceContext] = reader.items()?;
    if contexts.is_empty() {
        return Err(reader.out_of_range("the number of contexts", 0, "at least 1"));
    }
    for context in contexts {
        reader.zero("the padding of a context", context.zero)?;
    }
    Ok(Request::Trace {
        tag: Tag(reader.header.tag),
        sent_ns: reader.header.arg,
        contexts,
    })
}

pub(super) fn request<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, MessageError> {
    reader.name("traced request")?;
    reader.no_arguments()?;
    reader.zero("tag", reader.header.tag)?;
    reader.at_most("bytes", u32::try_from(TRACE_NAME_BYTES_MAX).unwrap_or(u32::MAX))?;
    let (body, name) = reader.prefixed::<BODY_BYTES, u8>()?;
    let name = reader.utf8(name)?;
    let body: Body = zerocopy::transmute!(body);
    Ok(Request::TracedRequest(TracedRequest {
        trace_id: body.trace_id,
        span_id: body.span_id,
        parent_span_id: body.parent_span_id,
        start_ns: body.start_ns,
        end_ns: body.end_ns,
        prompt_tokens: body.prompt_tokens,
        hit_tokens: body.hit_tokens,
        loaded_tokens: body.loaded_tokens,
        name,
    }))
}
