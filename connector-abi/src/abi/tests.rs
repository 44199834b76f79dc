//! The C functions as a careless C program would call them.

#![allow(
    clippy::multiple_unsafe_ops_per_block,
    reason = "each block is what one C program does"
)]

use std::ffi::{CStr, CString};
use std::ptr::{null, null_mut};

use kvstore_types::Tag;

use super::kvt_status::{
    KVT_BAD_ARGUMENT, KVT_NULL_ARGUMENT, KVT_OK, KVT_RING_FULL, KVT_SESSION_LOST, KVT_TIMEOUT, KVT_TOO_LARGE,
    KVT_UNAVAILABLE, KVT_UNSUPPORTED,
};
use super::*;
use crate::client::{Completion, LookupOutcome};
use crate::test_peer::TestSocket;

fn options() -> kvt_session_options {
    // SAFETY: a C program zeroes the struct first; all its fields are integers and pointers.
    let mut options: kvt_session_options = unsafe { std::mem::zeroed() };
    options.struct_bytes = size_of::<kvt_session_options>();
    options.rank_count = 1;
    options
}

/// Opens with these options; status and text.
fn open(options: &kvt_session_options, text_bytes: usize) -> (kvt_status, String) {
    let mut session = null_mut();
    let mut text = vec![0x7f; text_bytes.max(1)];
    // SAFETY: all pointers are valid.
    let status = unsafe { kvt_session_open(options, &raw mut session, text.as_mut_ptr(), text_bytes) };
    if status == KVT_OK {
        // SAFETY: it was just opened.
        assert_eq!(unsafe { kvt_session_close(session) }, KVT_OK);
        return (status, String::new());
    }
    assert!(session.is_null(), "outputs are written only on success");
    if text_bytes == 0 {
        return (status, String::new());
    }
    // SAFETY: a failure leaves a NUL-terminated text.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) };
    (status, text.to_str().unwrap().to_owned())
}

#[test]
fn null_is_refused_everywhere_and_never_followed() {
    let (session, copier) = (null_mut::<kvt_session>(), null_mut::<kvt_copier>());
    let slot = kvt_slot {
        page: 1,
        generation: 1,
    };
    // SAFETY: NULL is what each of these functions promises to refuse.
    let statuses = unsafe {
        [
            kvt_session_open(null(), null_mut(), null_mut(), 0),
            kvt_session_info_get(session, null_mut()),
            kvt_session_group_layout(session, 0, null_mut()),
            kvt_session_poll(session, null_mut(), null_mut()),
            kvt_session_wait(session, 0),
            kvt_lookup_submit(session, 1, null(), 0, 0),
            kvt_lookup_release(session, 1),
            kvt_load_commit(session, 1, 2, null(), 0),
            kvt_lease_release(session, 1),
            kvt_blocks_reserve(session, 1, null(), 0),
            kvt_blocks_reserve_described(session, 1, null(), 0, null(), 0),
            kvt_blocks_seal(session, 1, null(), 0),
            kvt_blocks_abort(session, 1, null(), 0),
            kvt_namespace_reset(session, 1),
            kvt_counters_request(session, 1),
            kvt_slot_address(session, slot, 0, null_mut(), null_mut()),
            kvt_copier_open(0, 0, null_mut()),
            kvt_copier_group_set(copier, 0, 1, null(), 0),
            kvt_copy_submit(copier, session, 1, 0, 0, null(), 0),
            kvt_copy_poll(copier, null_mut(), 0, null_mut()),
            kvt_copy_wait(copier, 0),
            kvt_copier_open_with(null(), null_mut(), null_mut(), 0),
            kvt_copier_prepare(copier, session),
            kvt_copy_submit_after(copier, session, 1, 0, 0, null(), 0, 0, 0),
            kvt_copier_info_get(copier, null_mut()),
            kvt_hash_tokens(null(), null(), null(), 0, 1, null(), 0, null_mut(), 0, null_mut()),
        ]
    };
    assert_eq!(statuses, [KVT_NULL_ARGUMENT; 26]);
    // SAFETY: as above; closing NULL does nothing.
    let statuses = unsafe { [kvt_session_close(session), kvt_copier_close(copier)] };
    assert_eq!(statuses, [KVT_OK; 2]);
    // SAFETY: as above; the texts are static.
    let texts = unsafe {
        [
            CStr::from_ptr(kvt_session_error(session)),
            CStr::from_ptr(kvt_copier_error(copier)),
        ]
    };
    assert_eq!(texts, [c"session is NULL", c"copier is NULL"]);
}

#[test]
fn bad_options_are_refused_with_a_text_that_names_them() {
    type Change = fn(&mut kvt_session_options);
    let cases: [(Change, kvt_status, &str); 9] = [
        (
            |o| o.struct_bytes = 8,
            KVT_BAD_ARGUMENT,
            "options.struct_bytes: want sizeof = 152, got 8",
        ),
        (|o| o.role = 3, KVT_BAD_ARGUMENT, "role: want a KVT_ROLE_*, got 3"),
        (
            |o| o.reattach = 2,
            KVT_BAD_ARGUMENT,
            "reattach: want a KVT_REATTACH_*, got 2",
        ),
        (
            |o| o.rank_count = 0,
            KVT_BAD_ARGUMENT,
            "rank_count: want 1 to 64, got 0",
        ),
        (
            |o| o.rank_count = 1 << 16,
            KVT_BAD_ARGUMENT,
            "rank_count: want at most 65535, got 65536",
        ),
        (
            |o| (o.role, o.rank) = (1, 1),
            KVT_BAD_ARGUMENT,
            "rank: want below 1, got 1",
        ),
        (|o| o.field_count = 1, KVT_NULL_ARGUMENT, "fields is NULL"),
        (
            |o| o.tenant = c"\xff".as_ptr(),
            KVT_BAD_ARGUMENT,
            "tenant: want UTF-8",
        ),
        (
            |o| o.socket_path = c"/nonexistent/kvtier.sock".as_ptr(),
            KVT_UNAVAILABLE,
            "no daemon at /nonexistent/kvtier.sock",
        ),
    ];
    for (change, expected, text) in cases {
        let mut options = options();
        change(&mut options);
        let (status, actual) = open(&options, 200);
        assert_eq!(status, expected, "{actual}");
        assert!(actual.contains(text), "{actual:?} should contain {text:?}");
    }
}

#[test]
fn a_text_is_cut_to_the_room_there_is() {
    let mut options = options();
    options.role = 3;
    assert_eq!(open(&options, 5), (KVT_BAD_ARGUMENT, "role".to_owned()));
    assert_eq!(open(&options, 1), (KVT_BAD_ARGUMENT, String::new()));
    assert_eq!(open(&options, 0), (KVT_BAD_ARGUMENT, String::new()));
}

#[test]
fn counts_without_pointers_and_bad_directions_are_refused() {
    let mut copier = null_mut();
    // SAFETY: all pointers are valid or NULL, where NULL is refused.
    unsafe {
        assert_eq!(kvt_copier_open(1, 0, &raw mut copier), KVT_UNSUPPORTED);
        assert_eq!(kvt_copier_open(0, 65, &raw mut copier), KVT_BAD_ARGUMENT);
        assert_eq!(kvt_copier_open(0, 0, &raw mut copier), KVT_OK);
        assert_eq!(kvt_copier_group_set(copier, 0, 1, null(), 1), KVT_NULL_ARGUMENT);
        assert_eq!(kvt_copier_group_set(copier, 64, 1, null(), 0), KVT_BAD_ARGUMENT);
        let text = CStr::from_ptr(kvt_copier_error(copier));
        assert_eq!(text, c"group: want below 64, got 64");
        assert_eq!(
            kvt_copy_submit(copier, null_mut(), 1, 0, 0, null(), 0),
            KVT_NULL_ARGUMENT
        );
        assert_eq!(
            kvt_copy_wait(copier, u64::MAX),
            KVT_TIMEOUT,
            "nothing is under way"
        );
        assert_eq!(kvt_copier_close(copier), KVT_OK);
    }
}

#[test]
fn a_lost_session_is_a_state_to_info_and_an_error_to_the_rest() {
    let socket = TestSocket::new();
    let path = CString::new(socket.path().to_str().unwrap()).unwrap();
    let mut options = options();
    (options.socket_path, options.reattach) = (path.as_ptr(), 1);
    let mut session = null_mut();
    // SAFETY: all pointers are valid.
    unsafe {
        assert_eq!(
            kvt_session_open(&raw const options, &raw mut session, null_mut(), 0),
            KVT_OK
        );
        let mut info: kvt_session_info = std::mem::zeroed();
        assert_eq!(kvt_session_info_get(session, &raw mut info), KVT_BAD_ARGUMENT);
        info.struct_bytes = size_of::<kvt_session_info>();
        assert_eq!(kvt_session_info_get(session, &raw mut info), KVT_OK);
        assert_eq!((info.state, info.attachment, info.region_bytes), (0, 0, 0));
        assert_eq!(kvt_counters_request(session, 1), KVT_SESSION_LOST);
        assert_eq!(kvt_session_wait(session, 1000), KVT_TIMEOUT);
        let (mut completion, mut count) = (std::mem::zeroed(), 99);
        assert_eq!(
            kvt_session_poll(session, &raw mut completion, &raw mut count),
            KVT_SESSION_LOST
        );
        assert_eq!(count, 99, "outputs are written only on success");
        let text = CStr::from_ptr(kvt_session_error(session)).to_str().unwrap();
        assert!(text.starts_with("the daemon is gone: no daemon at "), "{text}");
        assert_eq!(kvt_session_close(session), KVT_OK);
    }
}

#[test]
fn hashes_are_written_only_if_all_fit() {
    let tokens = [1_u32, 2, 3, 4, 5];
    let mut hashes = [0_u8; 64];
    let mut count = 99_usize;
    let mut hash = |per_block, max| {
        // SAFETY: all pointers are valid for what is said of them.
        let status = unsafe {
            kvt_hash_tokens(
                [7; 16].as_ptr(),
                null(),
                tokens.as_ptr(),
                5,
                per_block,
                null(),
                0,
                hashes.as_mut_ptr(),
                max,
                &raw mut count,
            )
        };
        (status, count, hashes[0] != 0, hashes[32] != 0)
    };
    assert_eq!(hash(2, 1), (KVT_TOO_LARGE, 99, false, false));
    assert_eq!(hash(0, 2), (KVT_BAD_ARGUMENT, 99, false, false));
    assert_eq!(hash(6, 0), (KVT_OK, 0, false, false));
    assert_eq!(hash(2, 2), (KVT_OK, 2, true, true));
}

#[test]
fn a_pending_look_up_is_told_apart_from_its_answer() {
    let (tag, hit_tokens) = (Tag(9), 320);
    let mut place = [0; 16];
    let pending = completion::to_c(Completion::LookupPending { tag, hit_tokens }, &mut place);
    assert_eq!((pending.tag, pending.op, pending.value), (9, 8, 320));
    assert_eq!((pending.status, pending.span_count), (KVT_OK, 0));
    let answer = Completion::Lookup {
        tag,
        hit_tokens,
        outcome: LookupOutcome::Complete,
        spans: &[],
    };
    let answer = completion::to_c(answer, &mut place);
    assert_eq!((answer.tag, answer.op, answer.value), (9, 1, 320));
}

#[test]
fn every_error_has_a_status() {
    assert_eq!(boundary(|| Ok(())), KVT_OK);
    assert_eq!(boundary(|| panic!("a bug")), kvt_status::KVT_PANIC);
    let full = ClientError::QueueFull {
        queue: "q",
        wanted: 1,
        unit: "bytes",
    };
    assert_eq!(boundary(|| Err(full)), KVT_RING_FULL);
}

#[test]
fn a_copier_of_another_device_is_opened_with_options_or_refused_in_words() {
    // SAFETY: a C program zeroes the structs first; all their fields are integers and pointers.
    let (mut options, mut info): (kvt_copier_options, kvt_copier_info) = unsafe { std::mem::zeroed() };
    let open = |options: &kvt_copier_options| {
        let mut copier = null_mut();
        let mut text = [0; 200];
        // SAFETY: all pointers are valid.
        let status = unsafe { kvt_copier_open_with(options, &raw mut copier, text.as_mut_ptr(), text.len()) };
        // SAFETY: the text is NUL-terminated.
        let text = unsafe { CStr::from_ptr(text.as_ptr()) }
            .to_str()
            .unwrap()
            .to_owned();
        (status, text, copier)
    };
    let (status, text, _) = open(&options);
    assert_eq!(status, KVT_BAD_ARGUMENT);
    assert!(text.starts_with("options.struct_bytes"), "{text}");
    options.struct_bytes = size_of::<kvt_copier_options>();
    let cases: [(fn(&mut kvt_copier_options), _, _); 6] = [
        (|o| o.backend = 7, KVT_UNSUPPORTED, "this copy backend"),
        (|o| o.threads = 1, KVT_BAD_ARGUMENT, "threads: want 0"),
        (|o| o.flags = 6, KVT_BAD_ARGUMENT, "flags"),
        (|o| o.device = -2, KVT_BAD_ARGUMENT, "device: want a number"),
        (|o| o.pin_piece_bytes = 1, KVT_BAD_ARGUMENT, "pin_piece_bytes"),
        (
            |o| o.driver_path = c"/nowhere/libcuda.so.1".as_ptr(),
            KVT_UNSUPPORTED,
            "no CUDA driver: /nowhere/libcuda.so.1",
        ),
    ];
    for (change, expected, words) in cases {
        let mut options = options;
        options.backend = kvt_backend::KVT_BACKEND_CUDA as u32;
        change(&mut options);
        let (status, text, _) = open(&options);
        assert_eq!(status, expected, "{text}");
        assert!(text.starts_with(words), "{text:?} should start with {words:?}");
    }
    let (status, _, copier) = open(&options);
    assert_eq!(status, KVT_OK);
    // SAFETY: the copier is open; all pointers are valid.
    unsafe {
        assert_eq!(kvt_copier_info_get(copier, &raw mut info), KVT_BAD_ARGUMENT);
        info.struct_bytes = size_of::<kvt_copier_info>();
        assert_eq!(kvt_copier_info_get(copier, &raw mut info), KVT_OK);
        assert_eq!((info.pinning, info.lost, info.device[0]), (0, 0, 0));
        assert_eq!(CStr::from_ptr(kvt_copier_trouble(copier)), c"");
        assert_eq!(kvt_copier_close(copier), KVT_OK);
    }
}
