//! Block events: what the daemon says of blocks, for the engine to pass on to its router.

use super::kvt_status;
use super::session::{kvt_session, with_session};

/// Asks for block events, and for `credit` messages of them more: the first call subscribes, each later one gives back
/// credit for messages that have been taken in. 8 can be under way; more is forgotten.
///
/// Each comes as a `KVT_OP_EVENTS` completion with tag 0, which no other call answers: `bytes` is one batch as vLLM's
/// publisher encodes it, `[seconds, [event, ...], nil]` in MessagePack, events as maps. First everything that is there, as
/// removed and then as stored, each block after the one before it; then every change. Where `value` is 1 the daemon is
/// configured to relay none, and there will be no others. A new attachment has to be asked anew, and begins anew. Since
/// minor version 3.
///
/// A scheduler's session. Never blocks; one thread at a time.
///
/// `KVT_OK`, `KVT_UNSUPPORTED` (not a scheduler, or a daemon that is too old), `KVT_BAD_ARGUMENT` (`credit` is 0),
/// `KVT_RING_FULL`, `KVT_SESSION_LOST`, `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`.
///
/// # Safety
/// `session` is an open session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_events_request(session: *mut kvt_session, credit: u32) -> kvt_status {
    // SAFETY: the caller's promise.
    unsafe { with_session(session, |session| session.request_events(credit)) }
}
