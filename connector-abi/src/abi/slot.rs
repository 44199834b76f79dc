//! Slots: where they lie.

use std::ffi::c_void;

use kvstore_types::SlotRef;

use super::session::{kvt_session, with_session};
use super::types::kvt_slot;
use super::{kvt_status, required};
use crate::client::Session;

/// Says where a slot of a group lies in this process: this rank's part of it in a worker's session, the whole slot in a
/// scheduler's. The bounds are checked; whether the slot is this session's to touch is for the caller to know. A slot may
/// begin with bytes that are the daemon's own: only the ranks' parts are a client's to touch.
///
/// The address is valid until the session is closed or a call on it reports that it is lost. Reads memory only; one thread
/// at a time.
///
/// `KVT_OK`, `KVT_BAD_ARGUMENT` (no such slot or group), `KVT_NOT_READY`, `KVT_SESSION_LOST`,
/// `KVT_NULL_ARGUMENT`, `KVT_PANIC`.
///
/// # Safety
/// `session` is an open session; `address` and `bytes` point to places for their values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvt_slot_address(
    session: *mut kvt_session,
    slot: kvt_slot,
    group: u32,
    address: *mut *mut c_void,
    bytes: *mut u64,
) -> kvt_status {
    let body = |session: &mut Session| {
        let (address, bytes) = (required(address, "address")?, required(bytes, "bytes")?);
        let slot = SlotRef {
            page: slot.page,
            generation: slot.generation,
        };
        let (found_address, found_bytes) = session.slot_address(slot, group)?;
        // SAFETY: not NULL and aligned, as just checked; places for the values by the caller's promise.
        unsafe { address.write(found_address.cast()) };
        // SAFETY: as above.
        unsafe { bytes.write(found_bytes) };
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { with_session(session, body) }
}
