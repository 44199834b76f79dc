//! Look-ups: how long a prefix is cached.

use connector_shm::GroupKeys;
use kvstore_types::BlockHash;

use super::session::{kvt_session, with_session};
use super::types::kvt_group_keys;
use super::{kvt_status, slice};
use crate::ClientError;
use crate::client::Session;

/// Asks how long a prefix is cached, in one message for all groups. The answer is a `KVT_OP_LOOKUP` completion; the
/// blocks that make the hit are held under `tag` until it is committed, released, or the session is lost. A group that is
/// not named has no blocks. The hit is at most `tokens_max` tokens.
///
/// Blocks in host memory are answered at once. If blocks have to come from a slower tier, a `KVT_OP_LOOKUP_PENDING`
/// completion with the same tag says so first: whoever gives up on answers that are late should wait longer then, or
/// release the look-up.
///
/// `tag` is the caller's choice, unique among the session's live operations, look-ups and leases. The hashes are copied
/// once, into the ring, before the call returns. Schedulers only. Never blocks; one thread at a time.
///
/// `KVT_OK`, `KVT_RING_FULL`, `KVT_TOO_LARGE`, `KVT_SESSION_LOST`, `KVT_UNSUPPORTED` (role), `KVT_BAD_ARGUMENT`,
/// `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`. Nothing was sent unless `KVT_OK`.
///
/// # Safety
/// `session` is an open session; `groups` and the hashes it points to are valid for their counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_lookup_submit(
    session: *mut kvt_session,
    tag: u64,
    groups: *const kvt_group_keys,
    group_count: usize,
    tokens_max: u64,
) -> kvt_status {
    let body = |session: &mut Session| {
        // SAFETY: the caller's promise.
        let keys = unsafe { convert_keys(groups, group_count) }?;
        session.lookup(tag, &keys, tokens_max)
    };
    // SAFETY: the caller's promise.
    unsafe { with_session(session, body) }
}

/// Gives up what the look-up `tag` holds. Not answered. Needless after a miss or a `kvt_load_commit`. A look-up may be
/// released before its answer: then no answer comes, unless it was under way already.
///
/// Schedulers only. Never blocks; one thread at a time.
///
/// `KVT_OK`, `KVT_RING_FULL`, `KVT_SESSION_LOST`, `KVT_UNSUPPORTED`, `KVT_NULL_ARGUMENT`, `KVT_PEER_MISBEHAVED`,
/// `KVT_PANIC`.
///
/// # Safety
/// `session` is an open session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_lookup_release(session: *mut kvt_session, tag: u64) -> kvt_status {
    // SAFETY: the caller's promise.
    unsafe { with_session(session, |session| session.release_lookup(tag)) }
}

/// # Safety
/// `groups` and the hashes it points to are valid for their counts, for `'a`.
pub(super) unsafe fn convert_keys<'a>(
    groups: *const kvt_group_keys,
    count: usize,
) -> Result<Vec<GroupKeys<'a>>, ClientError> {
    // SAFETY: the caller's promise.
    let groups: &'a [kvt_group_keys] = unsafe { slice(groups, count, "groups") }?;
    let convert = |keys: &'a kvt_group_keys| {
        // SAFETY: the caller's promise; any 32 bytes are a hash, at any alignment.
        let hashes = unsafe { slice(keys.hashes.cast::<BlockHash>(), keys.hash_count, "hashes") }?;
        Ok(GroupKeys {
            group: keys.group,
            hashes,
        })
    };
    groups.iter().map(convert).collect()
}
