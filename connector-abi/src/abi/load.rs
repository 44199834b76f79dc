//! Loads and leases: the right to copy out of slots.

use kvstore_types::GroupSpan;

use super::session::{kvt_session, with_session};
use super::types::kvt_span;
use super::{kvt_status, slice};
use crate::client::Session;

/// Turns what the look-up `lookup_tag` holds on `spans` into the lease `lease_tag`, and gives up its other holds. The
/// answer is a `KVT_OP_LOAD` completion under `lease_tag`, with one grant for each block; blocks whose hold was taken back
/// meanwhile are `KVT_GRANT_LOST`. If all are lost there is no lease.
///
/// A lease ends by `kvt_lease_release`, or when every process that could copy is proven dead; never by a timer. The spans
/// are copied. Schedulers only. Never blocks; one thread at a time.
///
/// `KVT_OK`, `KVT_RING_FULL`, `KVT_TOO_LARGE`, `KVT_SESSION_LOST`, `KVT_UNSUPPORTED`, `KVT_BAD_ARGUMENT`,
/// `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`. Nothing was sent unless `KVT_OK`.
///
/// # Safety
/// `session` is an open session; `spans` is valid for `span_count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_load_commit(
    session: *mut kvt_session,
    lookup_tag: u64,
    lease_tag: u64,
    spans: *const kvt_span,
    span_count: usize,
) -> kvt_status {
    let body = |session: &mut Session| {
        // SAFETY: the caller's promise; both structs have the same layout, as is asserted in `session.rs`.
        let spans = unsafe { slice(spans.cast::<GroupSpan>(), span_count, "spans") }?;
        session.commit_load(lookup_tag, lease_tag, spans)
    };
    // SAFETY: the caller's promise.
    unsafe { with_session(session, body) }
}

/// Ends a lease. Its slots must not be touched by any process of this engine after this call. Not answered.
///
/// Schedulers only. Never blocks; one thread at a time.
///
/// `KVT_OK`, `KVT_RING_FULL` (the lease goes on: release it again later), `KVT_SESSION_LOST`, `KVT_UNSUPPORTED`,
/// `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`.
///
/// # Safety
/// `session` is an open session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_lease_release(session: *mut kvt_session, lease_tag: u64) -> kvt_status {
    // SAFETY: the caller's promise.
    unsafe { with_session(session, |session| session.release_lease(lease_tag)) }
}
