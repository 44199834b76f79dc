//! Status codes: the one thing every function returns.

use std::ffi::{CStr, c_char};

use crate::ClientError;

/// How a call ended. Codes are appended, never renumbered or reused.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum kvt_status {
    /// It worked.
    KVT_OK = 0,
    /// A pointer that must not be NULL is.
    KVT_NULL_ARGUMENT = 1,
    /// An argument is out of its range, not UTF-8, misaligned, or a struct has another size. `kvt_session_error` and
    /// `kvt_copier_error` say which.
    KVT_BAD_ARGUMENT = 2,
    /// The daemon is gone. What was under way is void; look-ups are misses until the session is attached again.
    KVT_SESSION_LOST = 3,
    /// Other ranks of this engine have not attached yet.
    KVT_NOT_READY = 4,
    /// The daemon refused the handshake; the text says why.
    KVT_REFUSED = 5,
    /// There is no daemon at the socket.
    KVT_UNAVAILABLE = 6,
    /// The time that was given has passed.
    KVT_TIMEOUT = 7,
    /// A bounded queue is full. Nothing was sent; try again later, or drop the store.
    KVT_RING_FULL = 8,
    /// It would never fit. Nothing was sent or written.
    KVT_TOO_LARGE = 9,
    /// Daemon and library do not speak the same version.
    KVT_VERSION_MISMATCH = 10,
    /// The operating system refused something; the text says what.
    KVT_IO = 11,
    /// A bug in the library, caught at the boundary. The object it happened in answers this from now on; close it.
    KVT_PANIC = 12,
    /// This build, or this role, cannot do that.
    KVT_UNSUPPORTED = 13,
    /// The session holds as much as it may; nothing was looked up.
    KVT_QUOTA_EXCEEDED = 14,
    /// The daemon's side of the shared memory does not make sense. The session is lost.
    KVT_PEER_MISBEHAVED = 15,
    /// The device's driver refused something; the text says what. Nothing of it is under way.
    KVT_DEVICE_ERROR = 16,
    /// The device does no more work for this process. Whether it still touches the memory of copies that were under way
    /// cannot be known: reserved slots among it must not be aborted, and their session not be closed; the daemon takes them
    /// back when the process is dead.
    KVT_DEVICE_LOST = 17,
}

use kvt_status::{
    KVT_BAD_ARGUMENT, KVT_DEVICE_ERROR, KVT_DEVICE_LOST, KVT_IO, KVT_NOT_READY, KVT_NULL_ARGUMENT, KVT_OK,
    KVT_PANIC, KVT_PEER_MISBEHAVED, KVT_QUOTA_EXCEEDED, KVT_REFUSED, KVT_RING_FULL, KVT_SESSION_LOST,
    KVT_TIMEOUT, KVT_TOO_LARGE, KVT_UNAVAILABLE, KVT_UNSUPPORTED, KVT_VERSION_MISMATCH,
};

/// Every code with its name and a sentence for people, in the order of their numbers.
const STATUSES: [(kvt_status, &CStr, &CStr); 18] = [
    (KVT_OK, c"KVT_OK", c"it worked"),
    (
        KVT_NULL_ARGUMENT,
        c"KVT_NULL_ARGUMENT",
        c"a pointer that must not be NULL is",
    ),
    (
        KVT_BAD_ARGUMENT,
        c"KVT_BAD_ARGUMENT",
        c"an argument is out of its range",
    ),
    (
        KVT_SESSION_LOST,
        c"KVT_SESSION_LOST",
        c"the daemon is gone; look-ups are misses until it is back",
    ),
    (
        KVT_NOT_READY,
        c"KVT_NOT_READY",
        c"other ranks of this engine have not attached yet",
    ),
    (KVT_REFUSED, c"KVT_REFUSED", c"the daemon refused this client"),
    (
        KVT_UNAVAILABLE,
        c"KVT_UNAVAILABLE",
        c"there is no daemon at the socket",
    ),
    (KVT_TIMEOUT, c"KVT_TIMEOUT", c"the time that was given has passed"),
    (
        KVT_RING_FULL,
        c"KVT_RING_FULL",
        c"the queue is full; nothing was sent, try again later",
    ),
    (
        KVT_TOO_LARGE,
        c"KVT_TOO_LARGE",
        c"it is larger than what can be sent; nothing was",
    ),
    (
        KVT_VERSION_MISMATCH,
        c"KVT_VERSION_MISMATCH",
        c"the daemon and libkvtier are of different versions",
    ),
    (KVT_IO, c"KVT_IO", c"the operating system refused something"),
    (
        KVT_PANIC,
        c"KVT_PANIC",
        c"a bug in libkvtier; close the object it happened in",
    ),
    (
        KVT_UNSUPPORTED,
        c"KVT_UNSUPPORTED",
        c"this libkvtier cannot do that",
    ),
    (
        KVT_QUOTA_EXCEEDED,
        c"KVT_QUOTA_EXCEEDED",
        c"the session holds as much as it may",
    ),
    (
        KVT_PEER_MISBEHAVED,
        c"KVT_PEER_MISBEHAVED",
        c"the daemon broke the protocol; the session is lost",
    ),
    (
        KVT_DEVICE_ERROR,
        c"KVT_DEVICE_ERROR",
        c"the device refused something; nothing of it is under way",
    ),
    (
        KVT_DEVICE_LOST,
        c"KVT_DEVICE_LOST",
        c"the device is lost; slots of its copies must not be given back",
    ),
];

impl From<&ClientError> for kvt_status {
    fn from(error: &ClientError) -> Self {
        match error {
            ClientError::NullArgument(_) => KVT_NULL_ARGUMENT,
            ClientError::BadArgument(_) => KVT_BAD_ARGUMENT,
            ClientError::Lost(_) => KVT_SESSION_LOST,
            ClientError::NotReady => KVT_NOT_READY,
            ClientError::Refused(_) => KVT_REFUSED,
            ClientError::Unavailable { .. } | ClientError::Ending { .. } => KVT_UNAVAILABLE,
            ClientError::Timeout(_) => KVT_TIMEOUT,
            ClientError::QueueFull { .. } => KVT_RING_FULL,
            ClientError::TooLarge { .. } => KVT_TOO_LARGE,
            ClientError::VersionMismatch(_) => KVT_VERSION_MISMATCH,
            ClientError::Io { .. } => KVT_IO,
            ClientError::PeerMisbehaved(_) => KVT_PEER_MISBEHAVED,
            ClientError::Unsupported(_) | ClientError::NoDriver(_) => KVT_UNSUPPORTED,
            ClientError::Device(_) => KVT_DEVICE_ERROR,
            ClientError::DeviceLost(_) => KVT_DEVICE_LOST,
            ClientError::Poisoned => KVT_PANIC,
        }
    }
}

fn entry(status: i32) -> Option<&'static (kvt_status, &'static CStr, &'static CStr)> {
    STATUSES.get(usize::try_from(status).ok()?)
}

/// The name of a status, e.g. `"KVT_RING_FULL"`; `"KVT_UNKNOWN"` for a number that is none.
///
/// The string is static: never freed, valid for ever. Any thread, never blocks.
#[unsafe(no_mangle)]
pub extern "C" fn kvt_status_name(status: i32) -> *const c_char {
    entry(status).map_or(c"KVT_UNKNOWN", |entry| entry.1).as_ptr()
}

/// A sentence for people about a status.
///
/// The string is static: never freed, valid for ever. Any thread, never blocks.
#[unsafe(no_mangle)]
pub extern "C" fn kvt_status_text(status: i32) -> *const c_char {
    let unknown = c"a status this libkvtier does not know";
    entry(status).map_or(unknown, |entry| entry.2).as_ptr()
}

/// The version of the ABI this library has, to be compared with the `KVT_ABI_VERSION` a program was compiled with.
///
/// Any thread, never blocks.
#[unsafe(no_mangle)]
pub extern "C" fn kvt_abi_version() -> u32 {
    super::types::KVT_ABI_VERSION
}

/// The version of the library, e.g. `"0.1.0"`.
///
/// The string is static: never freed, valid for ever. Any thread, never blocks.
#[unsafe(no_mangle)]
pub extern "C" fn kvt_library_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_stands_at_its_number_and_is_named_as_in_the_source() {
        for (number, (status, name, text)) in STATUSES.iter().enumerate() {
            assert_eq!(*status as i32, i32::try_from(number).unwrap());
            assert_eq!(name.to_str().unwrap(), format!("{status:?}"));
            assert!(!text.is_empty());
        }
    }

    #[test]
    fn numbers_that_are_no_status_have_a_name_too() {
        for number in [-1, 18, i32::MIN, i32::MAX] {
            // SAFETY: the function returns a static string.
            let name = unsafe { CStr::from_ptr(kvt_status_name(number)) };
            assert_eq!(name, c"KVT_UNKNOWN");
        }
    }
}
