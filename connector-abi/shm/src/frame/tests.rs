use std::{io::Write, os::fd::AsFd, os::unix::net::UnixStream};

use super::*;
use crate::socket::send_with_fds;

fn frame(body: &[u8]) -> Vec<u8> {
    encode_frame(FrameKind::AttachRequest, ABI_MINOR, body).unwrap()
}

/// What a reader makes of these bytes and of the hang-up behind them.
fn read(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    let mut reader = FrameReader::new();
    // In pieces that fit into any socket's buffer.
    for piece in bytes.chunks(32 << 10) {
        theirs.write_all(piece).unwrap();
        if let Some(frame) = reader.advance(ours.as_fd())? {
            return Ok(Some(frame));
        }
    }
    drop(theirs);
    reader.advance(ours.as_fd())
}

#[test]
fn a_frame_is_golden_bytes() {
    let expected = b"KVTIER\0\x01\x01\0\x04\0\x01\0\0\0\x03\0\0\0\0\0\0\0abc";
    assert_eq!(frame(b"abc"), expected);
}

#[test]
fn a_frame_comes_out_as_it_went_in_and_nothing_behind_it_is_read() {
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    theirs
        .write_all(&[&frame(b"one")[..], &frame(b"")[..]].concat())
        .unwrap();
    for body in [&b"one"[..], b""] {
        let frame = FrameReader::new().advance(ours.as_fd()).unwrap().unwrap();
        assert_eq!(
            (frame.abi_major, frame.abi_minor, frame.kind),
            (ABI_MAJOR, ABI_MINOR, 1)
        );
        assert_eq!(frame.body, body);
    }
    assert!(FrameReader::new().advance(ours.as_fd()).unwrap().is_none());
}

#[test]
fn a_frame_that_comes_byte_by_byte_is_read() {
    let (mut theirs, ours) = UnixStream::pair().unwrap();
    let mut reader = FrameReader::new();
    let bytes = frame(b"slowly");
    let (last, others) = bytes.split_last().unwrap();
    for byte in others {
        theirs.write_all(&[*byte]).unwrap();
        assert!(reader.advance(ours.as_fd()).unwrap().is_none());
    }
    theirs.write_all(&[*last]).unwrap();
    assert_eq!(reader.advance(ours.as_fd()).unwrap().unwrap().body, b"slowly");
}

#[test]
fn the_largest_body_is_read_and_a_larger_one_is_neither_sent_nor_read() {
    let body = vec![5; BODY_BYTES_MAX as usize];
    assert_eq!(read(&frame(&body)).unwrap().unwrap().body, body);
    let too_large = encode_frame(
        FrameKind::AttachRequest,
        ABI_MINOR,
        &vec![5; BODY_BYTES_MAX as usize + 1],
    );
    assert!(matches!(too_large, Err(FrameError::TooLarge { .. })));
    let mut bytes = frame(b"");
    bytes[16..20].copy_from_slice(&(BODY_BYTES_MAX + 1).to_le_bytes());
    assert!(matches!(read(&bytes), Err(FrameError::TooLarge { actual }) if actual == BODY_BYTES_MAX + 1));
}

#[test]
fn a_frame_cut_at_any_byte_is_refused_and_says_how_much_came() {
    let bytes = frame(b"some body");
    for end in 0..bytes.len() {
        let error = read(&bytes[..end]).unwrap_err();
        let expected = if end < PROLOGUE_BYTES {
            PROLOGUE_BYTES
        } else {
            bytes.len()
        };
        let named =
            matches!(error, FrameError::Closed { received, expected: e } if (received, e) == (end, expected));
        assert!(named, "{end}: {error}");
    }
}

#[test]
fn a_wrong_byte_anywhere_in_the_prologue_never_panics_and_most_are_named() {
    for at in 0..PROLOGUE_BYTES {
        for value in [0x5a, 0x80, 0xff] {
            let mut bytes = frame(b"body");
            bytes[at] = value;
            let result = read(&bytes);
            match at {
                0..8 => assert!(matches!(result, Err(FrameError::Magic { .. })), "{at}"),
                // Version and kind are for the caller to judge, who can then answer in kind.
                8..14 => assert!(result.unwrap().is_some(), "{at}"),
                14 | 15 | 20..24 => assert!(matches!(result, Err(FrameError::Reserved { .. })), "{at}"),
                _ => assert!(
                    matches!(
                        result,
                        Err(FrameError::TooLarge { .. } | FrameError::Closed { .. })
                    ),
                    "{at}"
                ),
            }
        }
    }
}

#[test]
fn descriptors_that_nobody_asked_for_are_not_taken() {
    let (theirs, ours) = UnixStream::pair().unwrap();
    let fds = [theirs.as_fd(), theirs.as_fd()];
    send_with_fds(theirs.as_fd(), &frame(b"x"), &fds).unwrap();
    assert!(
        FrameReader::new()
            .advance(ours.as_fd())
            .unwrap()
            .unwrap()
            .fds
            .is_empty()
    );
    send_with_fds(theirs.as_fd(), &frame(b"x"), &fds).unwrap();
    assert_eq!(
        FrameReader::with_fds(2)
            .advance(ours.as_fd())
            .unwrap()
            .unwrap()
            .fds
            .len(),
        2
    );
    send_with_fds(theirs.as_fd(), &frame(b"x"), &fds).unwrap();
    let error = FrameReader::with_fds(1).advance(ours.as_fd()).unwrap_err();
    assert!(matches!(error, FrameError::TooManyFds { max: 1 }));
}
