//! The C functions of `kvtier.h`, one file for each noun.
//!
//! What always holds
//! - No panic passes: every body runs inside [`boundary`], and an object a panic went through is closed for business.
//! - Outputs are written only on success.
//! - Pointers are checked for NULL and alignment, counts against their arrays' sizes; the rest of the caller's promise
//!   stands in each function's documentation.
#![allow(
    non_camel_case_types,
    clippy::upper_case_acronyms,
    reason = "the names are those of the C header"
)]

mod blocks;
mod completion;
mod copier;
mod counters;
mod device;
mod events;
mod guarded;
mod hash;
mod load;
mod lookup;
mod namespace;
mod options;
mod session;
mod slot;
mod status;
mod trace;
mod types;

#[cfg(test)]
mod tests;

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use blocks::{kvt_blocks_abort, kvt_blocks_reserve, kvt_blocks_reserve_described, kvt_blocks_seal};
pub use copier::{
    kvt_copier, kvt_copier_close, kvt_copier_error, kvt_copier_group_set, kvt_copier_open, kvt_copy_poll,
    kvt_copy_submit, kvt_copy_wait,
};
pub use counters::kvt_counters_request;
pub use device::{
    KVT_COPIER_UNPINNED, kvt_copier_info, kvt_copier_info_get, kvt_copier_open_with, kvt_copier_options,
    kvt_copier_prepare, kvt_copier_trouble, kvt_copy_after, kvt_copy_submit_after, kvt_pinning,
};
pub use events::kvt_events_request;
pub use hash::kvt_hash_tokens;
pub use load::{kvt_lease_release, kvt_load_commit};
pub use lookup::{kvt_lookup_release, kvt_lookup_submit};
pub use namespace::kvt_namespace_reset;
pub use session::{
    kvt_session, kvt_session_close, kvt_session_error, kvt_session_group_layout, kvt_session_info_get,
    kvt_session_open, kvt_session_poll, kvt_session_wait,
};
pub use slot::kvt_slot_address;
pub use status::{kvt_abi_version, kvt_library_version, kvt_status, kvt_status_name, kvt_status_text};
pub use trace::{
    kvt_trace_context, kvt_trace_next, kvt_trace_request, kvt_traced_request, kvt_traces, kvt_traces_get,
};
pub use types::*;

use crate::ClientError;

/// Runs the body of a C function: an error becomes its status, a panic `KVT_PANIC`.
fn boundary(body: impl FnOnce() -> Result<(), ClientError>) -> kvt_status {
    // What a panic leaves behind is not looked at again: objects are guarded one by one, see `Guarded`.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => kvt_status::KVT_OK,
        Ok(Err(error)) => kvt_status::from(&error),
        Err(_) => kvt_status::KVT_PANIC,
    }
}

/// The pointer itself, if something can be read or written there.
fn required<T>(pointer: *mut T, what: &'static str) -> Result<*mut T, ClientError> {
    if pointer.is_null() {
        return Err(ClientError::NullArgument(what));
    }
    if !pointer.is_aligned() {
        return Err(ClientError::range(
            what,
            format_args!("alignment to {}", align_of::<T>()),
            pointer.addr(),
        ));
    }
    Ok(pointer)
}

/// An array that C passed as pointer and count. NULL is allowed if the count is 0.
///
/// # Safety
/// `pointer` is NULL, misaligned, or points to `count` values that nobody writes for `'a`.
unsafe fn slice<'a, T>(pointer: *const T, count: usize, what: &'static str) -> Result<&'a [T], ClientError> {
    if count == 0 {
        return Ok(&[]);
    }
    let pointer = required(pointer.cast_mut(), what)?;
    if count > isize::MAX.cast_unsigned() / size_of::<T>().max(1) {
        return Err(ClientError::range(what, "a count that fits into memory", count));
    }
    // SAFETY: not NULL, aligned, and the size was checked; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// A string that C passed; `None` for NULL.
///
/// # Safety
/// `pointer` is NULL or points to a NUL-terminated string that nobody writes for `'a`.
unsafe fn text<'a>(pointer: *const c_char, what: &'static str) -> Result<Option<&'a str>, ClientError> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(pointer) };
    let text = text
        .to_str()
        .map_err(|_| ClientError::BadArgument(format!("{what}: want UTF-8")))?;
    Ok(Some(text))
}

/// Refuses a struct of another size than this library was built with. The size is read before anything else.
fn check_struct_bytes<T>(what: &str, actual: usize) -> Result<(), ClientError> {
    if actual != size_of::<T>() {
        return Err(ClientError::range(
            &format!("{what}.struct_bytes"),
            format_args!("sizeof = {}", size_of::<T>()),
            actual,
        ));
    }
    Ok(())
}
