//! Sessions: open, close, where they stand, what comes back.

use std::ffi::c_char;
use std::time::Duration;

use super::completion::to_c;
use super::guarded::{Guarded, c_text, describe};
use super::options::convert_options;
use super::types::{
    SESSION_OPTIONS_BYTES_1, kvt_completion, kvt_group_layout, kvt_session_info, kvt_session_options,
    kvt_session_state,
};
use super::{boundary, check_struct_bytes, kvt_status, required};
use crate::ClientError;
use crate::client::{Session, SessionState};

/// One client's session with the daemon. Opaque; made by `kvt_session_open`, freed by `kvt_session_close`.
///
/// A session is used by one thread at a time and may move between threads. It belongs to the process that opened it: a
/// forked child may only close it, which frees nothing of the parent's.
pub struct kvt_session {
    pub(super) guarded: Guarded<Session>,
    /// What a reset's completion points to.
    namespace_id: [u8; 16],
}

/// Opens a session: connects to the daemon, says who it is, maps the region.
///
/// Blocks until attached, refused or `options->deadline_ms` has passed. With `KVT_REATTACH_BACKGROUND` and no daemon
/// there, or one that is shutting down, it returns `KVT_OK` with a session that is lost and keeps trying.
///
/// `options` is copied. `*session` belongs to the caller, who frees it with `kvt_session_close`. `error_text` may be
/// NULL; on failure it receives a NUL-terminated sentence, cut to `error_text_bytes`. Any thread.
///
/// `KVT_OK`, `KVT_NULL_ARGUMENT`, `KVT_BAD_ARGUMENT`, `KVT_REFUSED`, `KVT_UNAVAILABLE`, `KVT_TIMEOUT`,
/// `KVT_VERSION_MISMATCH`, `KVT_IO`, `KVT_PEER_MISBEHAVED`, `KVT_PANIC`.
///
/// # Safety
/// `options` points to a `kvt_session_options` whose pointers are valid for their counts; `session` to a place for a
/// pointer; `error_text` is NULL or has room for `error_text_bytes`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_session_open(
    options: *const kvt_session_options,
    session: *mut *mut kvt_session,
    error_text: *mut c_char,
    error_text_bytes: usize,
) -> kvt_status {
    boundary(|| {
        // SAFETY: the caller's promise.
        let opened = unsafe { open(options) };
        let stored = required(session, "session").and_then(|session| {
            let handle = kvt_session {
                guarded: Guarded::new(opened?),
                namespace_id: [0; 16],
            };
            // SAFETY: not NULL and aligned, as just checked; a place for a pointer by the caller's promise.
            unsafe { session.write(Box::into_raw(Box::new(handle))) };
            Ok(())
        });
        if let Err(error) = &stored {
            // SAFETY: the caller's promise.
            unsafe { store_text(error, error_text, error_text_bytes) };
        }
        stored
    })
}

/// Closes a session: a clean good-bye, which promises that no copy of this session is under way, so that the daemon can
/// give its slots to others at once. Ends the thread that reattaches, if there is one.
///
/// Frees `session`; NULL is ignored. Wait for the copiers' results first. Never blocks on the daemon.
///
/// `KVT_OK`, `KVT_PANIC`.
///
/// # Safety
/// `session` is NULL or came from `kvt_session_open` and has not been closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_session_close(session: *mut kvt_session) -> kvt_status {
    boundary(|| {
        if !session.is_null() {
            // SAFETY: the caller's promise; the box was made by `kvt_session_open`.
            let handle = unsafe { Box::from_raw(session) };
            if let Some(session) = handle.guarded.into_object() {
                session.close();
            }
        }
        Ok(())
    })
}

/// Says where the session stands, and adopts a finished reattachment: after it, and only then, `attachment` is greater
/// and everything of the earlier attachment (tags, leases, slots) is void.
///
/// Reads memory only (a loss that is found here unmaps the region once no copy uses it). One thread at a time.
///
/// `KVT_OK`, `KVT_NULL_ARGUMENT`, `KVT_BAD_ARGUMENT` (`struct_bytes`), `KVT_PANIC`. A lost session is a state, not an
/// error.
///
/// # Safety
/// `session` is an open session; `info` points to a `kvt_session_info` whose `struct_bytes` is set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_session_info_get(
    session: *mut kvt_session,
    info: *mut kvt_session_info,
) -> kvt_status {
    // SAFETY: the caller's promise.
    unsafe { with_session(session, |session| store_info(session, info)) }
}

/// Says in a sentence why the last call on this session that failed did.
///
/// The string belongs to the session and is valid until the next call on it. Empty if nothing failed. Never blocks; one
/// thread at a time.
///
/// # Safety
/// `session` is NULL or an open session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_session_error(session: *mut kvt_session) -> *const c_char {
    // SAFETY: the caller's promise.
    match unsafe { session.as_mut() } {
        Some(session) => session.guarded.error_text(),
        None => c"session is NULL".as_ptr(),
    }
}

/// Says where this session's rank lies in the slots of a group.
///
/// Reads memory only. One thread at a time.
///
/// `KVT_OK`, `KVT_NOT_READY` (no namespace yet), `KVT_SESSION_LOST` (never attached), `KVT_BAD_ARGUMENT`,
/// `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
///
/// # Safety
/// `session` is an open session; `layout` points to a `kvt_group_layout`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_session_group_layout(
    session: *mut kvt_session,
    group: u32,
    layout: *mut kvt_group_layout,
) -> kvt_status {
    let body = |session: &mut Session| {
        let layout = required(layout, "layout")?;
        let found = session.group_layout(group)?;
        let found = kvt_group_layout {
            slot_bytes: found.slot_bytes,
            rank_offset: found.rank_offset,
            rank_bytes: found.rank_bytes,
        };
        // SAFETY: not NULL and aligned, as just checked; a place for the layout by the caller's promise.
        unsafe { layout.write(found) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_session(session, body) }
}

/// Takes the next answer, if one has come: `*count` becomes 1 and `*completion` is written, or `*count` becomes 0.
///
/// Reads memory only, but for one look at the socket every 5 ms and a doorbell if the daemon waits for room. The
/// completion's pointers belong to the session and are valid until the next poll or close. One thread at a time.
///
/// `KVT_OK`; `KVT_SESSION_LOST` while the daemon is gone (what was under way is void); `KVT_PEER_MISBEHAVED`,
/// `KVT_NULL_ARGUMENT`, `KVT_BAD_ARGUMENT`, `KVT_PANIC`.
///
/// # Safety
/// `session` is an open session; `completion` and `count` point to places for their values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_session_poll(
    session: *mut kvt_session,
    completion: *mut kvt_completion,
    count: *mut usize,
) -> kvt_status {
    // SAFETY: the caller's promise.
    let Some(kvt_session {
        guarded,
        namespace_id,
    }) = (unsafe { session.as_mut() })
    else {
        return kvt_status::KVT_NULL_ARGUMENT;
    };
    guarded.call(|session| {
        let completion = required(completion, "completion")?;
        let count = required(count, "count")?;
        let found = session.poll()?.map(|found| to_c(found, namespace_id));
        if let Some(found) = found {
            // SAFETY: not NULL and aligned, as just checked; a place for a completion by the caller's promise.
            unsafe { completion.write(found) };
        }
        // SAFETY: as above, for a count.
        unsafe { count.write(usize::from(found.is_some())) };
        Ok(())
    })
}

/// Sleeps until an answer can be polled, the session's state changes, or `timeout_us` has passed. Watches the ring for
/// about 60 µs before it sleeps. On a session that is being reattached it sleeps until `kvt_session_info_get` can adopt
/// the new attachment.
///
/// Blocks for at most `timeout_us`. One thread at a time.
///
/// `KVT_OK`: look again; `KVT_TIMEOUT`; `KVT_SESSION_LOST`: the daemon was found gone, or the session is lost and not
/// being reattached; `KVT_PEER_MISBEHAVED`, `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
///
/// # Safety
/// `session` is an open session.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_session_wait(session: *mut kvt_session, timeout_us: u64) -> kvt_status {
    let body = |session: &mut Session| {
        if session.wait(Duration::from_micros(timeout_us))? {
            return Ok(());
        }
        Err(ClientError::Timeout("waiting"))
    };
    // SAFETY: the caller's promise.
    unsafe { with_session(session, body) }
}

/// Runs a call on a session inside the boundary.
///
/// # Safety
/// `session` is NULL or an open session that no other thread uses meanwhile.
pub(super) unsafe fn with_session(
    session: *mut kvt_session,
    body: impl FnOnce(&mut Session) -> Result<(), ClientError>,
) -> kvt_status {
    // SAFETY: the caller's promise.
    match unsafe { session.as_mut() } {
        // The guard is the boundary: it catches panics.
        Some(session) => session.guarded.call(body),
        None => kvt_status::KVT_NULL_ARGUMENT,
    }
}

/// # Safety
/// As `kvt_session_open`.
unsafe fn open(options: *const kvt_session_options) -> Result<Session, ClientError> {
    let given = required(options.cast_mut(), "options")?;
    // SAFETY: the size comes first in every version of the struct, so it is there.
    let bytes = unsafe { (*given).struct_bytes };
    if bytes != SESSION_OPTIONS_BYTES_1 {
        check_struct_bytes::<kvt_session_options>("options", bytes)?;
    }
    // SAFETY: zeroes are a value of each of its fields, which are integers and pointers.
    let mut options: kvt_session_options = unsafe { std::mem::zeroed() };
    // SAFETY: the caller passes a struct of this size, as it says itself, and it is not larger than ours.
    unsafe {
        std::ptr::copy_nonoverlapping(given.cast::<u8>(), (&raw mut options).cast::<u8>(), bytes);
    }
    // SAFETY: the caller's promise about the pointers in it.
    Session::open(unsafe { convert_options(&options) }?)
}

fn store_info(session: &mut Session, info: *mut kvt_session_info) -> Result<(), ClientError> {
    let info = required(info, "info")?;
    // SAFETY: not NULL and aligned, as just checked; the size comes first in every version of the struct.
    check_struct_bytes::<kvt_session_info>("info", unsafe { (*info).struct_bytes })?;
    let found = session.info();
    let state = match found.state {
        SessionState::Lost => kvt_session_state::KVT_SESSION_LOST_STATE,
        SessionState::Waiting => kvt_session_state::KVT_SESSION_WAITING,
        SessionState::Ready => kvt_session_state::KVT_SESSION_READY,
        SessionState::Draining => kvt_session_state::KVT_SESSION_DRAINING,
    };
    let found = kvt_session_info {
        struct_bytes: size_of::<kvt_session_info>(),
        state: state as u32,
        group_count: u32::try_from(found.group_count).unwrap_or(u32::MAX),
        attachment: found.attachment,
        boot_epoch: found.boot_epoch.0,
        namespace_id: found.namespace.map_or([0; 16], |namespace| namespace.0),
        region_bytes: found.region_bytes,
    };
    // SAFETY: the caller passed a whole struct of our size, as it says itself.
    unsafe { info.write(found) };
    Ok(())
}

/// # Safety
/// `buffer` is NULL or has room for `bytes`.
pub(super) unsafe fn store_text(error: &ClientError, buffer: *mut c_char, bytes: usize) {
    if buffer.is_null() || bytes == 0 {
        return;
    }
    let text = c_text(&describe(error));
    let count = text.as_bytes().len().min(bytes - 1);
    // SAFETY: `count < bytes`, so text and NUL fit.
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), buffer, count) };
    // SAFETY: as above.
    unsafe { buffer.wrapping_add(count).write(0) };
}
