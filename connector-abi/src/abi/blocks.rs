//! Blocks on their way into the tier: reserve, then seal or abort.

use kvstore_types::SlotRef;

use super::lookup::convert_keys;
use super::session::{kvt_session, with_session};
use super::types::{kvt_group_keys, kvt_slot};
use super::{kvt_status, slice};
use crate::client::Session;

/// Asks for slots to fill, in one message for all groups. The answer is a `KVT_OP_RESERVE` completion with one grant for
/// each key, in order: a slot, or why there is none.
///
/// The hashes are copied once, into the ring, before the call returns. Schedulers only. Never blocks; one thread at a
/// time.
///
/// `KVT_OK`, `KVT_RING_FULL`, `KVT_TOO_LARGE`, `KVT_SESSION_LOST`, `KVT_UNSUPPORTED`, `KVT_BAD_ARGUMENT`,
/// `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`. Nothing was sent unless `KVT_OK`.
///
/// # Safety
/// `session` is an open session; `groups` and the hashes it points to are valid for their counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_blocks_reserve(
    session: *mut kvt_session,
    tag: u64,
    groups: *const kvt_group_keys,
    group_count: usize,
) -> kvt_status {
    let body = |session: &mut Session| {
        // SAFETY: the caller's promise.
        let keys = unsafe { convert_keys(groups, group_count) }?;
        session.reserve(tag, &keys)
    };
    // SAFETY: the caller's promise.
    unsafe { with_session(session, body) }
}

/// Says that this worker's part of these slots is final; it must not be written any more. A block can be found once all
/// ranks have sealed it. The answer is a `KVT_OP_SEAL` completion.
///
/// The slots are copied. Workers only. Never blocks; one thread at a time.
///
/// `KVT_OK`, `KVT_RING_FULL` (try again later: until then the slots stay reserved), `KVT_TOO_LARGE` (send fewer at a
/// time), `KVT_SESSION_LOST`, `KVT_UNSUPPORTED`, `KVT_BAD_ARGUMENT`, `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`,
/// `KVT_PANIC`.
///
/// # Safety
/// `session` is an open session; `slots` is valid for `slot_count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_blocks_seal(
    session: *mut kvt_session,
    tag: u64,
    slots: *const kvt_slot,
    slot_count: usize,
) -> kvt_status {
    let body = |session: &mut Session| {
        // SAFETY: the caller's promise; both structs have the same layout, as is asserted in `session.rs`.
        session.seal(tag, unsafe {
            slice(slots.cast::<SlotRef>(), slot_count, "slots")
        }?)
    };
    // SAFETY: the caller's promise.
    unsafe { with_session(session, body) }
}

/// Gives reserved slots back. From a worker: it will not write its part any more, and the block is lost. From a
/// scheduler: no worker was ever told of these slots. The answer is a `KVT_OP_ABORT` completion.
///
/// The slots are copied. Never blocks; one thread at a time. Status codes as `kvt_blocks_seal`.
///
/// # Safety
/// `session` is an open session; `slots` is valid for `slot_count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_blocks_abort(
    session: *mut kvt_session,
    tag: u64,
    slots: *const kvt_slot,
    slot_count: usize,
) -> kvt_status {
    let body = |session: &mut Session| {
        // SAFETY: the caller's promise; both structs have the same layout, as is asserted in `session.rs`.
        session.abort(tag, unsafe {
            slice(slots.cast::<SlotRef>(), slot_count, "slots")
        }?)
    };
    // SAFETY: the caller's promise.
    unsafe { with_session(session, body) }
}
