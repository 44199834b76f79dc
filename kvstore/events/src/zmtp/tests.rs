//! What peers may send, and what they may not.

use super::{
    Received, Request, ZmtpError, check_greeting, frame_size, greeting, put_message, ready, request,
    socket_type,
};

fn split(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    super::split_command(bytes).unwrap()
}

#[test]
fn the_greeting_is_that_of_version_3_with_null() {
    let bytes = greeting();
    assert_eq!(bytes[..12], *b"\xff\0\0\0\0\0\0\0\0\x7f\x03\x00");
    assert_eq!(bytes[12..32], *b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    assert!(check_greeting(&bytes).is_ok());
}

#[test]
fn greetings_of_others_are_refused() {
    let with = |index: usize, byte: u8| {
        let mut bytes = greeting();
        bytes[index] = byte;
        check_greeting(&bytes)
    };
    for (index, byte) in [(0, 1), (9, 0x7e), (10, 2), (12, b'P'), (20, 1)] {
        assert!(
            matches!(with(index, byte), Err(ZmtpError::Greeting(_))),
            "{index}"
        );
    }
    assert!(with(11, 1).is_ok(), "3.1 is understood");
}

#[test]
fn a_ready_has_these_bytes_and_names_its_socket() {
    let bytes = ready("XPUB");
    assert_eq!(
        bytes,
        b"\x04\x27\x05READY\x0bSocket-Type\0\0\0\x04XPUB\x08Identity\0\0\0\0"
    );
    let (name, data) = split(&bytes[2..]);
    assert_eq!(socket_type(&name, &data).unwrap(), "XPUB");
}

#[test]
fn a_ready_that_is_cut_off_is_refused() {
    let bytes = ready("SUB");
    let (name, data) = split(&bytes[2..]);
    for end in 0..data.len() {
        let outcome = socket_type(&name, &data[..end]);
        let is_whole = outcome.as_deref().is_ok_and(|kind| kind == "SUB");
        assert!(is_whole || outcome.is_err(), "{end}");
    }
    assert!(matches!(
        socket_type(b"ERROR", b"\x03no!"),
        Err(ZmtpError::Refused(reason)) if reason == "no!"
    ));
}

#[test]
fn subscriptions_come_as_messages_and_as_commands() {
    let message = |body: &[u8]| request(Received::Message(vec![body.to_vec()])).unwrap();
    let command =
        |name: &[u8], data: &[u8]| request(Received::Command(name.to_vec(), data.to_vec())).unwrap();
    let prefix = b"kv@".to_vec();
    assert_eq!(message(b"\x01kv@"), Request::Subscribe(prefix.clone()));
    assert_eq!(message(b"\x00kv@"), Request::Cancel(prefix.clone()));
    assert_eq!(message(b""), Request::Nothing);
    assert_eq!(command(b"SUBSCRIBE", b"kv@"), Request::Subscribe(prefix.clone()));
    assert_eq!(command(b"CANCEL", b"kv@"), Request::Cancel(prefix));
    assert_eq!(command(b"PING", b"\0\x0actx"), Request::Ping(b"ctx".to_vec()));
    assert!(request(Received::Message(vec![Vec::new(), Vec::new()])).is_err());
}

#[test]
fn frames_are_bounded_before_they_are_read() {
    assert_eq!(frame_size(1, &[5]).unwrap(), 5);
    assert_eq!(frame_size(2, &4096_u64.to_be_bytes()).unwrap(), 4096);
    assert!(frame_size(2, &4097_u64.to_be_bytes()).is_err());
    assert!(frame_size(2, &u64::MAX.to_be_bytes()).is_err());
    assert!(frame_size(8, &[0]).is_err());
}

#[test]
fn a_message_is_its_frames_all_but_the_last_with_more() {
    let mut bytes = Vec::new();
    let long = [7; 300];
    put_message(&mut bytes, &[b"a", b"", &long]);
    let mut expected = b"\x01\x01a\x01\x00\x02\0\0\0\0\0\0\x01\x2c".to_vec();
    expected.extend_from_slice(&long);
    assert_eq!(bytes, expected);
}
