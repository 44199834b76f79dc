//! Namespaces: leaving one for good.

use super::kvt_status;
use super::session::{kvt_session, with_session};

/// Moves the engine to a namespace nobody has used, because its weights or its cache have changed: from the answer on
/// nothing that was stored before is found by this engine. Other engines keep the old namespace. The answer is a
/// `KVT_OP_RESET` completion. If the daemon is lost, now or later, the session repeats the reset by itself before anything
/// else when it is attached again; after `KVT_RING_FULL` the caller repeats it.
///
/// Schedulers only. Never blocks; one thread at a time.
///
/// `KVT_OK`, `KVT_RING_FULL`, `KVT_SESSION_LOST`, `KVT_UNSUPPORTED`, `KVT_IO`, `KVT_NULL_ARGUMENT`,
/// `KVT_PEER_MISBEHAVED`, `KVT_PANIC`.
///
/// # Safety
/// `session` is an open session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_namespace_reset(session: *mut kvt_session, tag: u64) -> kvt_status {
    // SAFETY: the caller's promise.
    unsafe { with_session(session, |session| session.reset(tag)) }
}
