//! Blocks on their way into the tier: reserve, then seal or abort.

use kvstore_types::{BlockHash, DescriptorRun, SlotRef};

use super::lookup::convert_keys;
use super::session::{kvt_session, with_session};
use super::types::{kvt_group_keys, kvt_run, kvt_slot};
use super::{kvt_status, slice, text};
use crate::ClientError;
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

/// The same, and says what the blocks are about, so that the daemon can announce them to a router. `runs` cover all keys in
/// the order of the message, and none has keys of two groups. The answer is a `KVT_OP_RESERVE` completion.
///
/// Since minor version 2. To a daemon that is older, or through a ring that has no room for the tokens, the keys go as
/// by `kvt_blocks_reserve`: descriptions are dropped before stores.
///
/// Hashes, tokens and texts are copied once, into the ring, before the call returns. Schedulers only. Never blocks; one
/// thread at a time.
///
/// Status codes as `kvt_blocks_reserve`.
///
/// # Safety
/// `session` is an open session; `groups`, `runs` and all that they point to are valid for their counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_blocks_reserve_described(
    session: *mut kvt_session,
    tag: u64,
    groups: *const kvt_group_keys,
    group_count: usize,
    runs: *const kvt_run,
    run_count: usize,
) -> kvt_status {
    let body = |session: &mut Session| {
        // SAFETY: the caller's promise.
        let keys = unsafe { convert_keys(groups, group_count) }?;
        // SAFETY: the caller's promise.
        let runs = unsafe { convert_runs(runs, run_count) }?;
        session.reserve_described(tag, &keys, &runs)
    };
    // SAFETY: the caller's promise.
    unsafe { with_session(session, body) }
}

/// # Safety
/// `runs` and all that they point to are valid for their counts, for `'a`.
unsafe fn convert_runs<'a>(
    runs: *const kvt_run,
    count: usize,
) -> Result<Vec<DescriptorRun<'a>>, ClientError> {
    // SAFETY: the caller's promise.
    let runs: &'a [kvt_run] = unsafe { slice(runs, count, "runs") }?;
    let convert = |run: &'a kvt_run| {
        let tokens = (run.blocks as usize).checked_mul(run.tokens_per_block as usize);
        let tokens = tokens.ok_or_else(|| ClientError::range("runs", "fewer tokens", run.blocks))?;
        // SAFETY: the caller's promise; any 32 bytes are a hash, at any alignment.
        let parent = unsafe { run.parent.cast::<BlockHash>().as_ref() };
        // SAFETY: as above.
        let tokens = unsafe { slice(run.tokens, tokens, "a run's tokens") }?;
        // SAFETY: as above.
        let lora_name = unsafe { text(run.lora_name, "a run's LoRA name") }?;
        // SAFETY: as above.
        let extra_keys = unsafe { slice(run.extra_keys, run.extra_bytes, "a run's extra keys") }?;
        Ok(DescriptorRun {
            blocks: run.blocks,
            tokens_per_block: run.tokens_per_block,
            parent: parent.copied(),
            tokens,
            lora_name,
            extra_keys,
        })
    };
    runs.iter().map(convert).collect()
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
