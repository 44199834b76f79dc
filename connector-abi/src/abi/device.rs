//! What copiers of devices other than the CPU need to be told, and say.

use std::ffi::{OsString, c_char};

use super::copier::{CopyOrder, kvt_copier, session_of, submit, with_copier};
use super::kvt_status;
use super::session::{kvt_session, store_text};
use super::types::{kvt_backend, kvt_transfer};
use super::{boundary, check_struct_bytes, required, text};
use crate::ClientError;
use crate::copier::{After, Copier, CudaOptions, DeviceReport, PinStage};

/// What a copy comes after.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kvt_copy_after {
    /// Nothing: the device is done with the pages already. The handle is 0.
    KVT_AFTER_NOTHING = 0,
    /// What a stream was given before the call. The handle is a `CUstream`; 0 is the default stream.
    KVT_AFTER_STREAM = 1,
    /// An event. The handle is a `CUevent`, which must stay as it is until the batch has ended.
    KVT_AFTER_EVENT = 2,
}

/// How far the region of the last batch is pinned.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kvt_pinning {
    /// It is not wanted, or there was no batch yet.
    KVT_PINNING_NONE = 0,
    /// A thread of the library is at it; copies go through a buffer meanwhile.
    KVT_PINNING_UNDER_WAY = 1,
    /// All of it is: the device reads and writes slots by itself.
    KVT_PINNING_DONE = 2,
    /// It was refused, and nothing is pinned; copies go through a buffer. `kvt_copier_trouble` says why.
    KVT_PINNING_FAILED = 3,
}

/// In `kvt_copier_options.flags`: do not pin the region.
pub const KVT_COPIER_UNPINNED: u32 = 1;

/// What `kvt_copier_open_with` needs to know. Zero it, set `struct_bytes`, fill the rest. Everything is copied.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvt_copier_options {
    /// `sizeof(kvt_copier_options)`.
    pub struct_bytes: usize,
    /// A `KVT_BACKEND_*`.
    pub backend: u32,
    /// Threads of the host backend, as in `kvt_copier_open`; 0 for others, which have their own.
    pub threads: u32,
    /// The device's number as CUDA counts in this process; -1: that of the context that is current in this thread.
    pub device: i32,
    /// `KVT_COPIER_*` flags.
    pub flags: u32,
    /// The driver library. NULL: `$KVTIER_CUDA_DRIVER`, else `libcuda.so.1`.
    pub driver_path: *const c_char,
    /// Bytes that are pinned by one call, a multiple of 4 KiB. 0: 256 MiB.
    pub pin_piece_bytes: u64,
    /// Bytes of the buffer, one for each direction, through which memory is copied that is not pinned. 0: 8 MiB.
    pub bounce_bytes: u64,
}

/// What a copier knows of its device: see `kvt_copier_info_get`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvt_copier_info {
    /// `sizeof(kvt_copier_info)`, set by the caller.
    pub struct_bytes: usize,
    /// A `KVT_PINNING_*`.
    pub pinning: u32,
    /// 1: many pieces go to the device in one call; 0: each by itself.
    pub batched: u32,
    /// 1: the device is lost, and every copy fails.
    pub lost: u32,
    /// 0.
    pub reserved: u32,
    /// Bytes of the region that are pinned.
    pub pinned_bytes: u64,
    /// How long that took, in microseconds, once it is over.
    pub pinning_us: u64,
    /// The device's name, NUL-terminated; empty for the host backend.
    pub device: [c_char; 64],
}

/// Opens a copier as `kvt_copier_open` does, with more to say. `KVT_BACKEND_CUDA` loads the CUDA driver at run time and works in
/// the device's primary context, or in the one that is current; it has three threads of its own, in which all signals are
/// blocked: one for each direction, and one that pins.
///
/// `*copier` belongs to the caller, who frees it with `kvt_copier_close`. Loading the driver and making its context, if nobody
/// has, may take a second. Any thread.
///
/// `KVT_OK`, `KVT_UNSUPPORTED` (no such backend, or no driver on this machine), `KVT_DEVICE_ERROR`, `KVT_DEVICE_LOST`,
/// `KVT_BAD_ARGUMENT`, `KVT_NULL_ARGUMENT`, `KVT_IO` (no thread can be started), `KVT_PANIC`. `error_text` may be
/// NULL; on failure it receives a NUL-terminated sentence, cut to `error_text_bytes`.
///
/// # Safety
/// `options` is valid with all it points to; `copier` points to a place for a pointer; `error_text` is NULL or has room for
/// `error_text_bytes`. A context that is not a primary one outlives the copier.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_copier_open_with(
    options: *const kvt_copier_options,
    copier: *mut *mut kvt_copier,
    error_text: *mut c_char,
    error_text_bytes: usize,
) -> kvt_status {
    boundary(|| {
        // SAFETY: the caller's promise.
        let opened = unsafe { open(options, copier) };
        if let Err(error) = &opened {
            // SAFETY: the caller's promise.
            unsafe { store_text(error, error_text, error_text_bytes) };
        }
        opened
    })
}

/// # Safety
/// As `kvt_copier_open_with`.
unsafe fn open(options: *const kvt_copier_options, copier: *mut *mut kvt_copier) -> Result<(), ClientError> {
    let options = required(options.cast_mut(), "options")?;
    let copier = required(copier, "copier")?;
    // SAFETY: not NULL and aligned, as just checked; the caller promises that its first field can be read.
    let struct_bytes = unsafe { options.cast::<usize>().read() };
    check_struct_bytes::<kvt_copier_options>("options", struct_bytes)?;
    // SAFETY: the size is that of the struct.
    let options = unsafe { options.read() };
    let object = if options.backend == kvt_backend::KVT_BACKEND_CUDA as u32 {
        // SAFETY: the caller's promise about the path.
        Copier::cuda(&unsafe { cuda_options(&options) }?)?
    } else if options.backend == kvt_backend::KVT_BACKEND_HOST as u32 {
        Copier::host(usize::try_from(options.threads).unwrap_or(usize::MAX))?
    } else {
        return Err(ClientError::Unsupported("this copy backend"));
    };
    // SAFETY: not NULL and aligned, as just checked; a place for a pointer by the caller's promise.
    unsafe { copier.write(kvt_copier::boxed(object)) };
    Ok(())
}

/// # Safety
/// `options.driver_path` is NULL or a NUL-terminated string.
unsafe fn cuda_options(options: &kvt_copier_options) -> Result<CudaOptions, ClientError> {
    let defaults = CudaOptions::default();
    if options.threads != 0 {
        return Err(ClientError::range(
            "threads",
            "0 for this backend",
            options.threads,
        ));
    }
    if options.flags & !KVT_COPIER_UNPINNED != 0 {
        return Err(ClientError::range("flags", "KVT_COPIER_*", options.flags));
    }
    let device = match options.device {
        -1 => None,
        device => {
            Some(u32::try_from(device).map_err(|_| ClientError::range("device", "a number, or -1", device))?)
        }
    };
    let or_default = |what, value: u64, default| match usize::try_from(value) {
        Ok(0) => Ok(default),
        Ok(value) => Ok(value),
        Err(_) => Err(ClientError::range(what, "a size of this machine", value)),
    };
    // SAFETY: the caller's promise.
    let path = unsafe { text(options.driver_path, "driver_path") }?;
    let path = path.map(OsString::from);
    Ok(CudaOptions {
        driver: path.or_else(|| std::env::var_os("KVTIER_CUDA_DRIVER").filter(|path| !path.is_empty())),
        device,
        pin: options.flags & KVT_COPIER_UNPINNED == 0,
        pin_piece_bytes: or_default(
            "pin_piece_bytes",
            options.pin_piece_bytes,
            defaults.pin_piece_bytes,
        )?,
        bounce_bytes: or_default("bounce_bytes", options.bounce_bytes, defaults.bounce_bytes)?,
    })
}

/// Makes ready for copies of `session`'s slots: has its region pinned in the background, if the device wants that. The first
/// copy does so too, but then goes through a buffer. To be called again when the session has attached again.
///
/// Never blocks. Workers only. One thread at a time, for both objects.
///
/// `KVT_OK`, `KVT_NOT_READY`, `KVT_SESSION_LOST`, `KVT_UNSUPPORTED` (role), `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
///
/// # Safety
/// `copier` and `session` are open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_copier_prepare(
    copier: *mut kvt_copier,
    session: *mut kvt_session,
) -> kvt_status {
    let body = |copier: &mut Copier| {
        // SAFETY: the caller's promise.
        let session = unsafe { session_of(session) }?;
        copier.prepare(&session.copy_window(0)?.memory);
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_copier(copier, body) }
}

/// Copies a batch as `kvt_copy_submit` does, after what `after` (a `KVT_AFTER_*`) and `handle` name. The point in a stream is
/// noted during the call, whatever the stream is given later; a stream that records a graph is refused.
///
/// A store reads the pages, and a load overwrites them, when that point was reached; what the engine does with the pages later
/// has to wait for the result. Never blocks (`KVT_BACKEND_HOST` without threads copies inside, and takes `KVT_AFTER_NOTHING`
/// only). One thread at a time, for both objects.
///
/// As `kvt_copy_submit`, and `KVT_DEVICE_ERROR`, `KVT_DEVICE_LOST`: nothing was copied. A copy that fails later says so in its
/// result: after `KVT_DEVICE_ERROR` nothing of it is under way; after `KVT_DEVICE_LOST` a store's slots must not be aborted,
/// nor the session closed.
///
/// # Safety
/// As `kvt_copy_submit`; the handle is one of the device's context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_copy_submit_after(
    copier: *mut kvt_copier,
    session: *mut kvt_session,
    tag: u64,
    direction: u32,
    group: u32,
    transfers: *const kvt_transfer,
    transfer_count: usize,
    after: u32,
    handle: usize,
) -> kvt_status {
    let after = match after {
        value if value == kvt_copy_after::KVT_AFTER_NOTHING as u32 => Ok(After::Nothing),
        value if value == kvt_copy_after::KVT_AFTER_STREAM as u32 => Ok(After::Stream(handle)),
        value if value == kvt_copy_after::KVT_AFTER_EVENT as u32 => Ok(After::Event(handle)),
        value => Err(ClientError::range("after", "a KVT_AFTER_*", value)),
    };
    let order = CopyOrder {
        tag,
        direction,
        group,
        after,
    };
    // SAFETY: the caller's promise.
    unsafe { submit(copier, session, order, transfers, transfer_count) }
}

/// Writes what is known of the device into `*info`, whose `struct_bytes` the caller has set.
///
/// Never blocks; one thread at a time.
///
/// `KVT_OK`, `KVT_BAD_ARGUMENT`, `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
///
/// # Safety
/// `copier` is open; `info` points to a `kvt_copier_info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_copier_info_get(
    copier: *mut kvt_copier,
    info: *mut kvt_copier_info,
) -> kvt_status {
    let body = |copier: &mut Copier| {
        let info = required(info, "info")?;
        // SAFETY: not NULL and aligned, as just checked; the caller promises that its first field can be read.
        let struct_bytes = unsafe { info.cast::<usize>().read() };
        check_struct_bytes::<kvt_copier_info>("info", struct_bytes)?;
        // SAFETY: the size is that of the struct.
        unsafe { info.write(describe(&copier.report())) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_copier(copier, body) }
}

/// Says in a sentence what the device or its driver refused last: a copy, or to pin the region. It may have been long ago.
///
/// The string belongs to the copier and is valid until the next call on it. Empty if nothing was refused. Never blocks; one
/// thread at a time.
///
/// # Safety
/// `copier` is NULL or an open copier.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_copier_trouble(copier: *mut kvt_copier) -> *const c_char {
    // SAFETY: the caller's promise.
    match unsafe { copier.as_mut() } {
        Some(copier) => copier.trouble(),
        None => c"copier is NULL".as_ptr(),
    }
}

fn describe(report: &DeviceReport) -> kvt_copier_info {
    let mut device = [0; 64];
    let name = report
        .device
        .bytes()
        .filter(|byte| byte.is_ascii_graphic() || *byte == b' ');
    for (place, byte) in device.iter_mut().take(63).zip(name) {
        *place = c_char::from_ne_bytes([byte]);
    }
    let pinning = match report.pinning {
        PinStage::None => kvt_pinning::KVT_PINNING_NONE,
        PinStage::UnderWay => kvt_pinning::KVT_PINNING_UNDER_WAY,
        PinStage::Pinned => kvt_pinning::KVT_PINNING_DONE,
        PinStage::Failed => kvt_pinning::KVT_PINNING_FAILED,
    };
    kvt_copier_info {
        struct_bytes: size_of::<kvt_copier_info>(),
        pinning: pinning as u32,
        batched: u32::from(report.batched),
        lost: u32::from(report.lost),
        reserved: 0,
        pinned_bytes: report.pinned_bytes,
        pinning_us: u64::try_from(report.pinning_took.as_micros()).unwrap_or(u64::MAX),
        device,
    }
}

/// The sizes that programs were compiled with.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<kvt_copier_options>() == 48);
    assert!(size_of::<kvt_copier_info>() == 104);
};
