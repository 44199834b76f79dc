//! Counters: what the daemon has done for this tenant.

use super::kvt_status;
use super::session::{kvt_session, with_session};

/// Asks for the tenant's counters and occupancy. The answer is a `KVT_OP_COUNTERS` completion with JSON in UTF-8.
///
/// Any role. Never blocks; one thread at a time.
///
/// `KVT_OK`, `KVT_RING_FULL`, `KVT_SESSION_LOST`, `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`.
///
/// # Safety
/// `session` is an open session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_counters_request(session: *mut kvt_session, tag: u64) -> kvt_status {
    // SAFETY: the caller's promise.
    unsafe { with_session(session, |session| session.request_counters(tag)) }
}
