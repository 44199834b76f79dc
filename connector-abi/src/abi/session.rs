//! Sessions: open, close, where they stand, what comes back.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use connector_shm::{Completion, LookupOutcome, Role};
use kvstore_types::{AttentionKind, EngineGroupId, Field, GroupGeometry, Rank};

use super::guarded::{Guarded, c_text, describe};
use super::kvt_status::{self, KVT_NOT_READY, KVT_OK, KVT_QUOTA_EXCEEDED};
use super::types::{
    kvt_attention, kvt_completion, kvt_field, kvt_group_layout, kvt_group_spec, kvt_op, kvt_reattach,
    kvt_role, kvt_session_info, kvt_session_options, kvt_session_state,
};
use super::{boundary, check_struct_bytes, required, slice, text};
use crate::ClientError;
use crate::client::{Reattach, Session, SessionOptions, SessionState};

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
/// Reads memory only (adopting also unmaps the old region once no copy uses it). One thread at a time.
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
/// about 20 µs before it sleeps. On a session that is being reattached it sleeps until `kvt_session_info_get` can adopt
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
    let options = required(options.cast_mut(), "options")?;
    // SAFETY: the size comes first in every version of the struct, so it is there.
    check_struct_bytes::<kvt_session_options>("options", unsafe { (*options).struct_bytes })?;
    // SAFETY: the caller passes a whole struct of our size, as it says itself.
    let options = unsafe { &*options };
    // SAFETY: the caller's promise about the pointers in it.
    Session::open(unsafe { convert_options(options) }?)
}

/// # Safety
/// The pointers in `options` are valid for their counts.
unsafe fn convert_options(options: &kvt_session_options) -> Result<SessionOptions, ClientError> {
    // SAFETY: the caller's promise.
    let socket_path = unsafe { text(options.socket_path, "socket_path") }?;
    // SAFETY: as above.
    let tenant = unsafe { text(options.tenant, "tenant") }?;
    // SAFETY: as above.
    let engine_name = unsafe { text(options.engine_name, "engine_name") }?;
    // SAFETY: as above.
    let fields = unsafe { convert_fields(options.fields, options.field_count, "fields") }?;
    // SAFETY: as above.
    let rank_fields =
        unsafe { convert_fields(options.rank_fields, options.rank_field_count, "rank_fields") }?;
    // SAFETY: as above.
    let groups = unsafe { slice(options.groups, options.group_count, "groups") }?;
    let groups = groups
        .iter()
        .enumerate()
        .map(|(index, group)| convert_group(index, group));
    let deadline_ms = if options.deadline_ms == 0 {
        2000
    } else {
        options.deadline_ms
    };
    let engine_group = EngineGroupId(options.engine_group);
    let role = convert_role(options)?;
    let rank_count = narrow("rank_count", options.rank_count)?;
    Ok(SessionOptions {
        socket_path: socket_path.map(Into::into),
        tenant: tenant.unwrap_or_default().to_owned(),
        reattach: match options.reattach {
            value if value == kvt_reattach::KVT_REATTACH_NEVER as u32 => Reattach::Never,
            value if value == kvt_reattach::KVT_REATTACH_BACKGROUND as u32 => Reattach::Background,
            value => return Err(ClientError::range("reattach", "a KVT_REATTACH_*", value)),
        },
        fields,
        rank_fields,
        groups: groups.collect::<Result<_, _>>()?,
        request_ring_bytes: options.request_ring_bytes,
        completion_ring_bytes: options.completion_ring_bytes,
        deadline: Duration::from_millis(deadline_ms.into()),
        ..SessionOptions::engine(engine_name.unwrap_or_default(), role, rank_count, engine_group)
    })
}

fn convert_role(options: &kvt_session_options) -> Result<Role, ClientError> {
    match options.role {
        role if role == kvt_role::KVT_ROLE_SCHEDULER as u32 => Ok(Role::Scheduler),
        role if role == kvt_role::KVT_ROLE_WORKER as u32 => {
            Ok(Role::Worker(Rank(narrow("rank", options.rank)?)))
        }
        role if role == kvt_role::KVT_ROLE_OBSERVER as u32 => Ok(Role::Observer),
        role => Err(ClientError::range("role", "a KVT_ROLE_*", role)),
    }
}

fn convert_group(index: usize, group: &kvt_group_spec) -> Result<GroupGeometry, ClientError> {
    let kind = match group.kind {
        kind if kind == kvt_attention::KVT_ATTENTION_FULL as u32 => AttentionKind::Full,
        kind if kind == kvt_attention::KVT_ATTENTION_SLIDING_WINDOW as u32 => AttentionKind::SlidingWindow {
            window_tokens: group.window_tokens,
        },
        kind => {
            let what = format!("groups[{index}].kind");
            return Err(ClientError::range(&what, "a KVT_ATTENTION_*", kind));
        }
    };
    Ok(GroupGeometry {
        kind,
        tokens_per_block: group.tokens_per_block,
        rank_bytes: group.rank_bytes,
    })
}

/// # Safety
/// `fields` is valid for `count`, and so are the pointers in it.
unsafe fn convert_fields(
    fields: *const kvt_field,
    count: usize,
    what: &'static str,
) -> Result<Vec<Field>, ClientError> {
    // SAFETY: the caller's promise.
    let fields = unsafe { slice(fields, count, what) }?;
    let convert = |field: &kvt_field| {
        // SAFETY: the caller's promise about the pointers in the array.
        let tag = unsafe { text(field.tag, "a field's tag") }?;
        // SAFETY: as above.
        let value = unsafe { slice(field.value, field.value_bytes, "a field's value") }?;
        Ok(Field {
            tag: tag.ok_or(ClientError::NullArgument("a field's tag"))?.to_owned(),
            value: value.to_vec(),
        })
    };
    fields.iter().map(convert).collect()
}

fn narrow(what: &str, value: u32) -> Result<u16, ClientError> {
    u16::try_from(value).map_err(|_| ClientError::range(what, format_args!("at most {}", u16::MAX), value))
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
        region_base: found.region_base.cast::<c_void>(),
    };
    // SAFETY: the caller passed a whole struct of our size, as it says itself.
    unsafe { info.write(found) };
    Ok(())
}

/// A completion's pointers point into the session's buffer, and a reset's to `namespace_id`.
fn to_c(completion: Completion<'_>, namespace_id: &mut [u8; 16]) -> kvt_completion {
    let mut out = kvt_completion {
        tag: 0,
        op: 0,
        status: KVT_OK,
        value: 0,
        value2: 0,
        value3: 0,
        spans: std::ptr::null(),
        span_count: 0,
        slots: std::ptr::null(),
        slot_count: 0,
        bytes: std::ptr::null(),
        byte_count: 0,
    };
    let (tag, op) = match completion {
        Completion::Lookup {
            tag,
            hit_tokens,
            outcome,
            spans,
        } => {
            out.status = match outcome {
                LookupOutcome::Complete => KVT_OK,
                LookupOutcome::NotReady => KVT_NOT_READY,
                LookupOutcome::QuotaExceeded => KVT_QUOTA_EXCEEDED,
            };
            out.value = hit_tokens;
            (out.spans, out.span_count) = (spans.as_ptr().cast(), spans.len());
            (tag, kvt_op::KVT_OP_LOOKUP)
        }
        Completion::Load { lease, lost, grants } => {
            out.value = lost.into();
            (out.slots, out.slot_count) = (grants.as_ptr().cast(), grants.len());
            (lease, kvt_op::KVT_OP_LOAD)
        }
        Completion::Reserve { tag, grants } => {
            (out.slots, out.slot_count) = (grants.as_ptr().cast(), grants.len());
            (tag, kvt_op::KVT_OP_RESERVE)
        }
        Completion::Seal {
            tag,
            published,
            sealed,
            stale,
        } => {
            (out.value, out.value2, out.value3) = (published.into(), sealed.into(), stale.into());
            (tag, kvt_op::KVT_OP_SEAL)
        }
        Completion::Abort { tag, aborted, stale } => {
            (out.value, out.value3) = (aborted.into(), stale.into());
            (tag, kvt_op::KVT_OP_ABORT)
        }
        Completion::Reset { tag, namespace } => {
            out.value = namespace.is_some().into();
            if let Some(namespace) = namespace {
                *namespace_id = namespace.0;
                (out.bytes, out.byte_count) = (namespace_id.as_ptr(), namespace_id.len());
            }
            (tag, kvt_op::KVT_OP_RESET)
        }
        Completion::Counters { tag, json } => {
            (out.bytes, out.byte_count) = (json.as_ptr(), json.len());
            (tag, kvt_op::KVT_OP_COUNTERS)
        }
        Completion::NamespaceReady { .. } | Completion::Draining => {
            unreachable!("the session keeps these to itself")
        }
    };
    (out.tag, out.op) = (tag.0, op as u32);
    out
}

/// # Safety
/// `buffer` is NULL or has room for `bytes`.
unsafe fn store_text(error: &ClientError, buffer: *mut c_char, bytes: usize) {
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

/// The C structs of these arrays are the ones that lie in a message.
const _: () = {
    use super::types::{kvt_slot, kvt_span};
    use kvstore_types::{GroupSpan, SlotRef};
    use std::mem::offset_of;
    assert!(size_of::<kvt_span>() == size_of::<GroupSpan>());
    assert!(offset_of!(kvt_span, first) == offset_of!(GroupSpan, first));
    assert!(offset_of!(kvt_span, count) == offset_of!(GroupSpan, count));
    assert!(align_of::<kvt_span>() == align_of::<GroupSpan>());
    assert!(size_of::<kvt_slot>() == size_of::<SlotRef>());
    assert!(offset_of!(kvt_slot, generation) == offset_of!(SlotRef, generation));
    assert!(align_of::<kvt_slot>() == align_of::<SlotRef>());
};
