//! Traces: whose the next message is, for a daemon that records what becomes of requests.

use std::ffi::c_char;

use connector_shm::{TraceContext, TracedRequest};

use super::session::{kvt_session, with_session};
use super::{check_struct_bytes, kvt_status, required, slice, text};
use crate::client::Session;

/// Whether the daemon records traces.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvt_traces {
    /// `sizeof(kvt_traces)`, set by the caller.
    pub struct_bytes: usize,
    /// 1 if it does; else 0.
    pub recording: u32,
    /// 0.
    pub reserved: u32,
    /// A request that comes without a trace of its own is to be followed if the last eight bytes of its new trace id, as a
    /// big-endian number shifted right by one bit, are below this: 2^63 is every request, 0 is none.
    pub sample_below: u64,
}

/// Whose consecutive keys of the next message are.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvt_trace_context {
    /// The trace, as in W3C Trace Context. All zero: nobody follows these keys.
    pub trace_id: [u8; 16],
    /// The request's span in it, which `kvt_trace_request` tells of later.
    pub span_id: [u8; 8],
    /// How many keys. Of a look-up, which belongs to one request, it says nothing.
    pub key_count: u32,
    /// 0.
    pub reserved: u32,
}

/// A request that is over.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvt_traced_request {
    /// `sizeof(kvt_traced_request)`, set by the caller.
    pub struct_bytes: usize,
    /// Its trace.
    pub trace_id: [u8; 16],
    /// Its span.
    pub span_id: [u8; 8],
    /// The span it was asked in, of whoever sent it. All zero: it begins its trace.
    pub parent_span_id: [u8; 8],
    /// When it came, in nanoseconds since 1970.
    pub start_unix_ns: u64,
    /// When it ended, likewise.
    pub end_unix_ns: u64,
    /// Tokens of its prompt.
    pub prompt_tokens: u64,
    /// Tokens that look-ups found.
    pub hit_tokens: u64,
    /// Tokens that were loaded.
    pub loaded_tokens: u64,
    /// As its engine calls it, at most 256 bytes. NULL: empty.
    pub name: *const c_char,
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<kvt_traces>() == 24);
    assert!(size_of::<kvt_trace_context>() == 32);
    assert!(size_of::<kvt_trace_context>() == size_of::<TraceContext>());
    assert!(size_of::<kvt_traced_request>() == 88);
};

/// Says whether the daemon records traces, and of which requests. Until that is so nothing has to be done for them, and the
/// two functions below send nothing. Belongs to one attachment: look again when `kvt_session_info_get` tells of another.
/// Since minor version 4; of a daemon that is older or not there, `recording` is 0.
///
/// Reads memory only. One thread at a time.
///
/// `KVT_OK`, `KVT_BAD_ARGUMENT` (`struct_bytes`), `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
///
/// # Safety
/// `session` is an open session; `traces` points to a `kvt_traces` whose `struct_bytes` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_traces_get(session: *mut kvt_session, traces: *mut kvt_traces) -> kvt_status {
    let body = |session: &mut Session| {
        let traces = required(traces, "traces")?;
        // SAFETY: not NULL and aligned, as just checked; the size comes first in every version of the struct.
        check_struct_bytes::<kvt_traces>("traces", unsafe { (*traces).struct_bytes })?;
        let below = session.traces_below();
        let found = kvt_traces {
            struct_bytes: size_of::<kvt_traces>(),
            recording: u32::from(below.is_some()),
            reserved: 0,
            sample_below: below.unwrap_or(0),
        };
        // SAFETY: the caller passed a whole struct of our size, as it says itself.
        unsafe { traces.write(found) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_session(session, body) }
}

/// Says whose the keys of the next message are: a look-up or a reservation that will have this `tag`. Call it right before that
/// one, and only for requests that are followed. The contexts stand in the order of the keys; keys beyond them are nobody's.
/// At most 256. Not answered; what is said of no message is forgotten.
///
/// Schedulers only. Never blocks; one thread at a time. Since minor version 4.
///
/// `KVT_OK`, `KVT_UNSUPPORTED` (not a scheduler, or a daemon that records no traces), `KVT_BAD_ARGUMENT` (no context or too
/// many), `KVT_RING_FULL`, `KVT_SESSION_LOST`, `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`.
///
/// # Safety
/// `session` is an open session; `contexts` points to `context_count` of them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_trace_next(
    session: *mut kvt_session,
    tag: u64,
    contexts: *const kvt_trace_context,
    context_count: usize,
) -> kvt_status {
    let body = |session: &mut Session| {
        // SAFETY: the caller's promise.
        let contexts = unsafe { slice(contexts, context_count, "contexts") }?;
        let converted: Vec<TraceContext> = contexts.iter().map(convert_context).collect();
        session.trace_next(tag, &converted)
    };
    // SAFETY: the caller's promise.
    unsafe { with_session(session, body) }
}

/// Says that a request that was followed is over, so that its span can be recorded. Not answered.
///
/// Schedulers only. Never blocks; one thread at a time. Since minor version 4.
///
/// `KVT_OK`, `KVT_UNSUPPORTED` (not a scheduler, or a daemon that records no traces), `KVT_BAD_ARGUMENT`, `KVT_RING_FULL`,
/// `KVT_SESSION_LOST`, `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`.
///
/// # Safety
/// `session` is an open session; `request` points to a `kvt_traced_request` whose `struct_bytes` is set, and its `name` is NULL
/// or NUL-terminated.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_trace_request(
    session: *mut kvt_session,
    request: *const kvt_traced_request,
) -> kvt_status {
    let body = |session: &mut Session| {
        let request = required(request.cast_mut(), "request")?;
        // SAFETY: not NULL and aligned, as just checked; the size comes first in every version of the struct.
        check_struct_bytes::<kvt_traced_request>("request", unsafe { (*request).struct_bytes })?;
        // SAFETY: the caller passed a whole struct of our size, as it says itself.
        let request = unsafe { request.read() };
        // SAFETY: the caller's promise.
        let name = unsafe { text(request.name, "name") }?;
        session.trace_request(&TracedRequest {
            trace_id: request.trace_id,
            span_id: request.span_id,
            parent_span_id: request.parent_span_id,
            start_ns: request.start_unix_ns,
            end_ns: request.end_unix_ns,
            prompt_tokens: request.prompt_tokens,
            hit_tokens: request.hit_tokens,
            loaded_tokens: request.loaded_tokens,
            name: name.unwrap_or_default(),
        })
    };
    // SAFETY: the caller's promise.
    unsafe { with_session(session, body) }
}

fn convert_context(context: &kvt_trace_context) -> TraceContext {
    TraceContext {
        trace_id: context.trace_id,
        span_id: context.span_id,
        keys: context.key_count,
        zero: context.reserved,
    }
}
