//! Copiers: batches between device pages and slots.

use std::ffi::{CString, c_char};
use std::time::Duration;

use super::guarded::{Guarded, c_text};
use super::kvt_status;
use super::session::kvt_session;
use super::types::{kvt_backend, kvt_copy_direction, kvt_copy_result, kvt_page_run, kvt_transfer};
use super::{boundary, required, slice};
use crate::ClientError;
use crate::client::Session;
use crate::copier::{After, Copier, CopyOutcome, CopyRequest, Direction, PageRun, Transfer};

/// Knows a worker's device pages and copies batches of them. Opaque; made by `kvt_copier_open`, freed by
/// `kvt_copier_close`. Used by one thread at a time; may move between threads.
pub struct kvt_copier {
    guarded: Guarded<Copier>,
    /// What `kvt_copier_trouble` gave out last.
    trouble: CString,
}

impl kvt_copier {
    pub(super) fn boxed(copier: Copier) -> *mut Self {
        Box::into_raw(Box::new(Self {
            guarded: Guarded::new(copier),
            trouble: CString::default(),
        }))
    }

    pub(super) fn trouble(&mut self) -> *const c_char {
        let report = self.guarded.object().map(|copier| copier.report());
        self.trouble = c_text(&report.and_then(|report| report.trouble).unwrap_or_default());
        self.trouble.as_ptr()
    }
}

/// Opens a copier of the host backend: `backend` is `KVT_BACKEND_HOST`; `kvt_copier_open_with` opens others. With 0 `threads` copies run in the caller's thread, inside
/// `kvt_copy_submit`; else in that many threads of the library (at most 64), in which all signals are blocked.
///
/// `*copier` belongs to the caller, who frees it with `kvt_copier_close`. Never blocks. Any thread.
///
/// `KVT_OK`, `KVT_UNSUPPORTED` (no such backend in this build), `KVT_BAD_ARGUMENT`, `KVT_NULL_ARGUMENT`, `KVT_IO` (no
/// thread can be started), `KVT_PANIC`.
///
/// # Safety
/// `copier` points to a place for a pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_copier_open(
    backend: u32,
    threads: u32,
    copier: *mut *mut kvt_copier,
) -> kvt_status {
    boundary(|| {
        let copier = required(copier, "copier")?;
        if backend != kvt_backend::KVT_BACKEND_HOST as u32 {
            return Err(ClientError::Unsupported(
                "this copy backend (kvt_copier_open_with has more)",
            ));
        }
        let threads = usize::try_from(threads).unwrap_or(usize::MAX);
        let object = Copier::host(threads)?;
        // SAFETY: not NULL and aligned, as just checked; a place for a pointer by the caller's promise.
        unsafe { copier.write(kvt_copier::boxed(object)) };
        Ok(())
    })
}

/// Closes a copier and frees it; NULL is ignored. Blocks until its copies under way are done. Results that were not
/// polled are lost.
///
/// `KVT_OK`, `KVT_PANIC`.
///
/// # Safety
/// `copier` is NULL or came from `kvt_copier_open` and has not been closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_copier_close(copier: *mut kvt_copier) -> kvt_status {
    boundary(|| {
        if !copier.is_null() {
            // SAFETY: the caller's promise; the box was made by `kvt_copier_open`.
            let handle = unsafe { Box::from_raw(copier) };
            drop(handle.guarded.into_object());
        }
        Ok(())
    })
}

/// Says where the device pages of a group lie. A device block of the group is one page of each run, in order; this rank's
/// part of a slot is `blocks_per_chunk` device blocks one after another, so the group's `rank_bytes` must equal
/// `blocks_per_chunk` times the sum of the runs' `page_bytes`.
///
/// The runs are copied, the pages are not: they must stay valid until the group is set again or the copier is closed, and
/// the copies submitted until then are done. Pages may not lie in the shared region. Never blocks; one thread at a time.
///
/// `KVT_OK`, `KVT_BAD_ARGUMENT`, `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
///
/// # Safety
/// `copier` is an open copier; `runs` is valid for `run_count`, and the pages it names are memory of this process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_copier_group_set(
    copier: *mut kvt_copier,
    group: u32,
    blocks_per_chunk: u32,
    runs: *const kvt_page_run,
    run_count: usize,
) -> kvt_status {
    let body = |copier: &mut Copier| {
        // SAFETY: the caller's promise.
        let runs = unsafe { slice(runs, run_count, "runs") }?;
        let runs = runs.iter().map(convert_run).collect::<Result<_, _>>()?;
        // SAFETY: the caller's promise about the pages.
        unsafe { copier.set_group(group, blocks_per_chunk, runs) }
    };
    // SAFETY: the caller's promise.
    unsafe { with_copier(copier, body) }
}

/// Says in a sentence why the last call on this copier that failed did.
///
/// The string belongs to the copier and is valid until the next call on it. Empty if nothing failed. Never blocks; one
/// thread at a time.
///
/// # Safety
/// `copier` is NULL or an open copier.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_copier_error(copier: *mut kvt_copier) -> *const c_char {
    // SAFETY: the caller's promise.
    match unsafe { copier.as_mut() } {
        Some(copier) => copier.guarded.error_text(),
        None => c"copier is NULL".as_ptr(),
    }
}

/// Copies a batch between device pages and slots: `KVT_COPY_STORE` or `KVT_COPY_LOAD`. Everything in it is checked before
/// a byte moves; if anything is wrong, nothing is copied. One `kvt_copy_result` under `tag` ends the batch.
///
/// The transfers are copied. The slots are those of `session`'s attachment; its region stays mapped until the copies are
/// done, even if the session is lost or closed meanwhile. Slots mean nothing in a region of another boot epoch: compare
/// `kvt_session_info.boot_epoch` with the one they were granted under, before this call.
///
/// Without threads it returns when the bytes have been copied; with threads it never blocks. Devices other than the CPU refuse
/// it (`KVT_BAD_ARGUMENT`): they have to be told what a copy comes after, see `kvt_copy_submit_after`. At most 1024 batches may wait
/// for `kvt_copy_poll`. Workers only. One thread at a time, for both objects.
///
/// `KVT_OK`; `KVT_RING_FULL`: 1024 results have not been polled, nothing was copied; `KVT_TOO_LARGE`: more than 1048576
/// transfers; `KVT_BAD_ARGUMENT`; `KVT_NOT_READY`; `KVT_SESSION_LOST`; `KVT_UNSUPPORTED` (role);
/// `KVT_NULL_ARGUMENT`; `KVT_PANIC`. `kvt_copier_error` says more.
///
/// # Safety
/// `copier` and `session` are open; `transfers` is valid for `transfer_count`; the slots are leased to (load) or reserved
/// for (store) this engine, and nobody else touches the device pages until the result is there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_copy_submit(
    copier: *mut kvt_copier,
    session: *mut kvt_session,
    tag: u64,
    direction: u32,
    group: u32,
    transfers: *const kvt_transfer,
    transfer_count: usize,
) -> kvt_status {
    let order = CopyOrder {
        tag,
        direction,
        group,
        after: Ok(After::Unsaid),
    };
    // SAFETY: the caller's promise.
    unsafe { submit(copier, session, order, transfers, transfer_count) }
}

/// A batch as C asks for it, less its transfers.
pub(super) struct CopyOrder {
    pub(super) tag: u64,
    pub(super) direction: u32,
    pub(super) group: u32,
    pub(super) after: Result<After, ClientError>,
}

/// # Safety
/// As `kvt_copy_submit`.
pub(super) unsafe fn submit(
    copier: *mut kvt_copier,
    session: *mut kvt_session,
    order: CopyOrder,
    transfers: *const kvt_transfer,
    transfer_count: usize,
) -> kvt_status {
    let body = |copier: &mut Copier| {
        // SAFETY: the caller's promise.
        let session = unsafe { session_of(session) }?;
        let direction = convert_direction(order.direction)?;
        // SAFETY: the caller's promise; both structs have the same layout, as is asserted below.
        let transfers = unsafe { slice(transfers.cast::<Transfer>(), transfer_count, "transfers") }?;
        let window = session.copy_window(order.group)?;
        copier.submit(
            window,
            CopyRequest {
                tag: order.tag,
                direction,
                after: order.after?,
                group: order.group,
                transfers,
            },
        )
    };
    // SAFETY: the caller's promise.
    unsafe { with_copier(copier, body) }
}

/// # Safety
/// `session` is NULL or an open session that no other thread uses for `'a`.
pub(super) unsafe fn session_of<'a>(session: *mut kvt_session) -> Result<&'a mut Session, ClientError> {
    // SAFETY: the caller's promise.
    let session = unsafe { required(session, "session")?.as_mut() };
    let session = session.ok_or(ClientError::NullArgument("session"))?;
    session.guarded.object().ok_or(ClientError::Poisoned)
}

/// Takes up to `results_max` results; `*count` says how many were written, 0 if none is ready. A device is asked whether it is
/// done.
///
/// Never blocks; one thread at a time.
///
/// `KVT_OK`, `KVT_NULL_ARGUMENT`, `KVT_BAD_ARGUMENT`, `KVT_PANIC`.
///
/// # Safety
/// `copier` is open; `results` has room for `results_max`; `count` is a place for a count.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_copy_poll(
    copier: *mut kvt_copier,
    results: *mut kvt_copy_result,
    results_max: usize,
    count: *mut usize,
) -> kvt_status {
    let body = |copier: &mut Copier| {
        let (results, count) = (required(results, "results")?, required(count, "count")?);
        let mut written = 0;
        while written < results_max {
            let Some(result) = copier.poll() else { break };
            let result = kvt_copy_result {
                tag: result.tag,
                status: match result.outcome {
                    CopyOutcome::Done => kvt_status::KVT_OK,
                    CopyOutcome::Panicked => kvt_status::KVT_PANIC,
                    CopyOutcome::Failed => kvt_status::KVT_DEVICE_ERROR,
                    CopyOutcome::Lost => kvt_status::KVT_DEVICE_LOST,
                },
                reserved: 0,
                bytes: result.bytes,
            };
            // SAFETY: `written < results_max`, for which the caller promises room.
            unsafe { results.wrapping_add(written).write(result) };
            written += 1;
        }
        // SAFETY: not NULL and aligned, as just checked; a place for a count by the caller's promise.
        unsafe { count.write(written) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_copier(copier, body) }
}

/// Sleeps until at least one result can be polled or `timeout_us` has passed.
///
/// Blocks for at most `timeout_us`; not at all if nothing is under way. One thread at a time.
///
/// `KVT_OK`: there is a result; `KVT_TIMEOUT`: there is none; `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
///
/// # Safety
/// `copier` is open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_copy_wait(copier: *mut kvt_copier, timeout_us: u64) -> kvt_status {
    let body = |copier: &mut Copier| {
        if copier.wait(Duration::from_micros(timeout_us)) {
            return Ok(());
        }
        Err(ClientError::Timeout("waiting for a copy"))
    };
    // SAFETY: the caller's promise.
    unsafe { with_copier(copier, body) }
}

/// # Safety
/// `copier` is NULL or an open copier that no other thread uses meanwhile.
pub(super) unsafe fn with_copier(
    copier: *mut kvt_copier,
    body: impl FnOnce(&mut Copier) -> Result<(), ClientError>,
) -> kvt_status {
    // SAFETY: the caller's promise.
    match unsafe { copier.as_mut() } {
        // The guard is the boundary: it catches panics.
        Some(copier) => copier.guarded.call(body),
        None => kvt_status::KVT_NULL_ARGUMENT,
    }
}

fn convert_run(run: &kvt_page_run) -> Result<PageRun, ClientError> {
    let narrow = |what, value: u64| {
        usize::try_from(value).map_err(|_| ClientError::range(what, "a size of this machine", value))
    };
    Ok(PageRun {
        base: run.base.expose_provenance(),
        stride_bytes: narrow("stride_bytes", run.stride_bytes)?,
        page_bytes: narrow("page_bytes", run.page_bytes)?,
        page_count: narrow("page_count", run.page_count)?,
    })
}

fn convert_direction(direction: u32) -> Result<Direction, ClientError> {
    match direction {
        value if value == kvt_copy_direction::KVT_COPY_STORE as u32 => Ok(Direction::Store),
        value if value == kvt_copy_direction::KVT_COPY_LOAD as u32 => Ok(Direction::Load),
        value => Err(ClientError::range("direction", "a KVT_COPY_*", value)),
    }
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<kvt_transfer>() == size_of::<Transfer>());
    assert!(align_of::<kvt_transfer>() == align_of::<Transfer>());
    assert!(offset_of!(kvt_transfer, slot) == offset_of!(Transfer, slot));
    assert!(offset_of!(kvt_transfer, device_block) == offset_of!(Transfer, device_block));
    assert!(offset_of!(kvt_transfer, block_in_chunk) == offset_of!(Transfer, block_in_chunk));
};
