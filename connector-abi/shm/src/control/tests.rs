use kvstore_types::Tag;
use rustix::{fs::fcntl_add_seals, io::Errno};

use super::*;

fn spec() -> ControlSpec {
    ControlSpec {
        boot_epoch: BootEpoch([7; 16]),
        session: SessionId(42),
        request_ring_bytes: 64 << 10,
        completion_ring_bytes: 128 << 10,
    }
}

fn ends() -> (DaemonEnd, ClientEnd, OwnedFd) {
    let (daemon, fds) = DaemonEnd::create(&spec()).unwrap();
    let client = ClientEnd::attach(&fds.control, fds.doorbell).unwrap();
    (daemon, client, fds.control)
}

fn attach_copy(change: impl FnOnce(&mut Vec<u8>)) -> ControlError {
    let (_daemon, fds) = DaemonEnd::create(&spec()).unwrap();
    let mapping = map(&fds.control, RINGS_OFFSET).unwrap();
    let mut bytes = vec![0; 4096];
    mapping.read(0, &mut bytes);
    change(&mut bytes);
    mapping.write(0, &bytes);
    ClientEnd::attach(&fds.control, fds.doorbell).unwrap_err()
}

#[test]
fn the_header_is_golden_bytes() {
    let (_daemon, fds) = DaemonEnd::create(&spec()).unwrap();
    let mut bytes = [0; 1152];
    map(&fds.control, RINGS_OFFSET).unwrap().read(0, &mut bytes);
    let mut expected = b"KVTCTL\0\x01".to_vec();
    expected.extend([1, 0, 0, 0, 0x80, 4, 0, 0]);
    expected.extend([7; 16]);
    for word in [42_u64, 4096, 64 << 10, 4096 + (64 << 10), 128 << 10] {
        expected.extend(word.to_le_bytes());
    }
    expected.resize(1152, 0);
    assert_eq!(bytes[..], expected);
}

#[test]
fn cursors_and_flags_lie_where_the_layout_says() {
    let (mut daemon, mut client, control) = ends();
    let mapping = map(&control, RINGS_OFFSET).unwrap();
    let word = |offset| {
        let mut bytes = [0; 8];
        mapping.read(offset, &mut bytes);
        u64::from_le_bytes(bytes)
    };
    client.send(&Request::Counters { tag: Tag(1) }).unwrap();
    assert_eq!((word(128), word(256)), (32, 0));
    daemon.receive(&mut MessageBuffer::new()).unwrap().unwrap();
    assert_eq!((word(128), word(256)), (32, 32));
    daemon
        .send(&Completion::Counters {
            tag: Tag(1),
            json: "{}",
        })
        .unwrap();
    assert_eq!((word(384), word(512)), (40, 0));
    client.receive(&mut MessageBuffer::new()).unwrap().unwrap();
    assert_eq!((word(384), word(512)), (40, 40));
    assert_eq!((word(640), word(768), word(896), word(1024)), (0, 0, 0, 0));
    assert_eq!(daemon.begin_sleep(1 << 30), Ok(Sleep::Go));
    assert_eq!(client.begin_sleep(1 << 30), Ok(Sleep::Go));
    assert_eq!((word(640), word(768), word(896), word(1024)), (1, 1, 1, 1));
}

#[test]
fn a_side_that_sleeps_is_rung_and_one_that_does_not_is_not() {
    let (mut daemon, mut client, _control) = ends();
    client.send(&Request::Close).unwrap();
    client.notify().unwrap();
    assert!(!daemon.doorbell().drain().unwrap());
    assert_eq!(daemon.begin_sleep(0), Ok(Sleep::Stay));
    assert_eq!(
        daemon.receive(&mut MessageBuffer::new()).unwrap(),
        Some(Request::Close)
    );
    assert_eq!(daemon.begin_sleep(0), Ok(Sleep::Go));
    client.send(&Request::Close).unwrap();
    client.notify().unwrap();
    assert!(daemon.doorbell().drain().unwrap());
}

#[test]
fn the_client_cannot_resize_or_unseal_what_it_was_given() {
    let (_daemon, _client, control) = ends();
    for bytes in [0, 4096, 1 << 30] {
        assert_eq!(ftruncate(&control, bytes), Err(Errno::PERM));
    }
    let seals = rustix::fs::SealFlags::WRITE;
    assert_eq!(fcntl_add_seals(&control, seals), Err(Errno::PERM));
}

#[test]
fn a_header_that_is_not_ours_is_refused_and_named() {
    let cases: [(usize, u8, &str); 7] = [
        (0, 0, "magic"),
        (8, 2, "layout version 0x2, want 0x1"),
        (12, 0, "header size"),
        (40, 1, "request ring offset"),
        (49, 1, "the request ring has 65792 bytes"),
        (56, 1, "completion ring offset"),
        (66, 1, "size 0x31000, want 0x21000"),
    ];
    for (at, value, expected) in cases {
        let error = attach_copy(|bytes| bytes[at] = value).to_string();
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
}

#[test]
fn memory_that_can_shrink_is_refused() {
    let control = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(&control, 1 << 20).unwrap();
    let (bell, _) = Doorbell::pair().unwrap();
    assert!(matches!(
        ClientEnd::attach(&control, bell.into()),
        Err(ControlError::NotSealed)
    ));
}

#[test]
fn capacities_that_no_ring_has_are_refused() {
    for bytes in [0, 4096, 65_537, 96 << 10, 128 << 20] {
        let error = DaemonEnd::create(&ControlSpec {
            completion_ring_bytes: bytes,
            ..spec()
        })
        .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("the completion ring has {bytes} bytes"))
        );
    }
}
