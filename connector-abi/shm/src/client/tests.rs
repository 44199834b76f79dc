use std::{
    io::{Read, Write},
    os::{fd::BorrowedFd, unix::net::UnixListener},
    thread,
    time::Duration,
};

use kvstore_types::EngineGroupId;

use super::*;
use crate::{
    ABI_MINOR, BODY_BYTES_MAX, ClientFds, ControlSpec, DaemonEnd, FrameKind, HugePages, Region, RegionSpec,
    Role, frame::encode_frame, send_reply, socket::send_with_fds,
};

const WATCHDOG: Duration = Duration::from_secs(20);
const EPOCH: BootEpoch = BootEpoch([7; 16]);
const REGION_BYTES: u64 = 1 << 20;

fn request() -> AttachRequest {
    AttachRequest {
        abi_minor: ABI_MINOR,
        tenant: String::new(),
        engine_name: "test".into(),
        role: Role::Observer,
        rank_count: 1,
        engine_group: EngineGroupId([1; 16]),
        fields: Vec::new(),
        rank_fields: Vec::new(),
        groups: Vec::new(),
        request_ring_bytes: 0,
        completion_ring_bytes: 0,
        client_version: "0.1.0".into(),
        pid: 1,
        pod: String::new(),
        model: String::new(),
    }
}

/// Attaches to a daemon that reads the request and then does `answer`.
fn attach(answer: impl FnOnce(&mut UnixStream) + Send + 'static) -> Result<Attachment, AttachError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut bytes = vec![0; request().encode().unwrap().len()];
        socket.read_exact(&mut bytes).unwrap();
        answer(&mut socket);
    });
    let result = Attachment::open(&path, &request(), Instant::now() + WATCHDOG);
    daemon.join().unwrap();
    result
}

fn ok_reply() -> AttachReply {
    AttachReply {
        status: AttachStatus::Ok,
        text: String::new(),
        session: SessionId(5),
        boot_epoch: EPOCH,
        region_bytes: REGION_BYTES,
        daemon_version: "0.1.0".into(),
        traces_below: None,
    }
}

fn session() -> (DaemonEnd, ClientFds, Region) {
    let (end, fds) = DaemonEnd::create(&ControlSpec {
        boot_epoch: EPOCH,
        session: SessionId(5),
        request_ring_bytes: 64 << 10,
        completion_ring_bytes: 64 << 10,
    })
    .unwrap();
    let spec = RegionSpec {
        bytes: REGION_BYTES,
        huge_pages: HugePages::Off,
        boot_epoch: EPOCH,
        tenant: "t",
    };
    (end, fds, Region::create(&spec).unwrap().region)
}

/// Attaches to a daemon that sends `reply` with good descriptors, changed by `change`.
fn attach_with(
    reply: AttachReply,
    change: impl FnOnce(Vec<BorrowedFd<'_>>) -> Vec<BorrowedFd<'_>> + Send + 'static,
) -> Result<Attachment, AttachError> {
    attach(move |socket| {
        let (_end, fds, region) = session();
        let fds = change(vec![fds.control.as_fd(), region.file(), fds.doorbell.as_fd()]);
        send_with_fds(socket.as_fd(), &reply.encode().unwrap(), &fds).unwrap();
    })
}

#[test]
fn a_client_attaches_and_holds_its_session() {
    let attachment = attach(|socket| {
        let (_end, fds, region) = session();
        send_reply(socket.as_fd(), &ok_reply(), Some((&fds, region.file()))).unwrap();
    })
    .unwrap();
    assert_eq!((attachment.session, attachment.boot_epoch), (SessionId(5), EPOCH));
    assert_eq!(attachment.region.bytes(), REGION_BYTES);
    assert!(crate::hung_up(attachment.socket.as_fd()).unwrap());
}

#[test]
fn without_a_daemon_the_client_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let deadline = Instant::now() + WATCHDOG;
    let missing = Attachment::open(&path, &request(), deadline);
    assert!(matches!(missing, Err(AttachError::Unavailable(_))));
    drop(UnixListener::bind(&path).unwrap());
    let dead = Attachment::open(&path, &request(), deadline);
    assert!(matches!(dead, Err(AttachError::Unavailable(_))));
}

#[test]
fn a_daemon_that_does_not_answer_costs_no_more_than_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    let soon = || Instant::now() + Duration::from_millis(30);
    assert!(matches!(
        Attachment::open(&path, &request(), soon()),
        Err(AttachError::TimedOut)
    ));
    // Nor does one whose backlog is full.
    let mut waiting = Vec::new();
    while let Ok(socket) = connect_before(&path, soon()) {
        waiting.push(socket);
    }
    assert!(matches!(
        Attachment::open(&path, &request(), soon()),
        Err(AttachError::TimedOut)
    ));
}

#[test]
fn a_daemon_that_hangs_up_is_told_from_one_that_is_not_there() {
    assert!(matches!(attach(|_| ()), Err(AttachError::Closed)));
    let half = attach(|socket| socket.write_all(&ok_reply().encode().unwrap()[..30]).unwrap());
    assert!(matches!(half, Err(AttachError::Closed)));
}

#[test]
fn a_refusal_comes_with_its_reason() {
    let refused = attach(|socket| {
        let reply = AttachReply::refusal(AttachStatus::TenantRefused, "no such tenant", "0.1.0");
        send_reply(socket.as_fd(), &reply, None).unwrap();
    });
    let Err(AttachError::Refused { status, text }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(
        (status, text.as_str()),
        (AttachStatus::TenantRefused, "no such tenant")
    );
}

#[test]
fn a_daemon_of_another_version_is_named() {
    let other = attach(|socket| {
        let mut frame = AttachReply::refusal(AttachStatus::VersionMismatch, "I speak 9", "9")
            .encode()
            .unwrap();
        frame[8] = 9;
        socket.write_all(&frame).unwrap();
    });
    assert!(
        matches!(other, Err(AttachError::VersionMismatch { theirs: 9, .. })),
        "{other:?}"
    );
}

#[test]
fn an_answer_that_makes_no_sense_is_refused() {
    let garbage = attach(|socket| socket.write_all(&[0x55; 64]).unwrap());
    assert!(matches!(garbage, Err(AttachError::Handshake(_))), "{garbage:?}");
    let other_kind = attach(|socket| {
        socket
            .write_all(&encode_frame(FrameKind::AttachRequest, ABI_MINOR, b"").unwrap())
            .unwrap();
    });
    assert!(
        matches!(other_kind, Err(AttachError::Handshake(_))),
        "{other_kind:?}"
    );
    let huge = attach(|socket| {
        let mut frame = encode_frame(FrameKind::AttachReply, ABI_MINOR, b"").unwrap();
        frame[16..20].copy_from_slice(&(BODY_BYTES_MAX + 1).to_le_bytes());
        socket.write_all(&frame).unwrap();
    });
    assert!(matches!(huge, Err(AttachError::Handshake(_))), "{huge:?}");
}

#[test]
fn missing_swapped_and_surplus_descriptors_are_refused() {
    let missing = attach_with(ok_reply(), |fds| fds[..2].to_vec());
    assert!(
        matches!(missing, Err(AttachError::Fds { actual: 2 })),
        "{missing:?}"
    );
    let swapped = attach_with(ok_reply(), |fds| vec![fds[1], fds[0], fds[2]]);
    assert!(matches!(swapped, Err(AttachError::Control(_))), "{swapped:?}");
    let sockets = attach_with(ok_reply(), |fds| vec![fds[2], fds[2], fds[2]]);
    assert!(
        matches!(sockets, Err(AttachError::Control(ControlError::NotSealed))),
        "{sockets:?}"
    );
    let surplus = attach_with(ok_reply(), |fds| vec![fds[0], fds[1], fds[2], fds[2]]);
    assert!(matches!(surplus, Err(AttachError::Handshake(_))), "{surplus:?}");
}

#[test]
fn a_reply_that_disagrees_with_the_memory_is_refused() {
    let session = attach_with(
        AttachReply {
            session: SessionId(6),
            ..ok_reply()
        },
        |fds| fds,
    );
    assert!(matches!(session, Err(AttachError::Disagreement)), "{session:?}");
    let epoch = attach_with(
        AttachReply {
            boot_epoch: BootEpoch([8; 16]),
            ..ok_reply()
        },
        |fds| fds,
    );
    assert!(matches!(epoch, Err(AttachError::Disagreement)), "{epoch:?}");
    let bytes = attach_with(
        AttachReply {
            region_bytes: REGION_BYTES * 2,
            ..ok_reply()
        },
        |fds| fds,
    );
    assert!(matches!(bytes, Err(AttachError::Region(_))), "{bytes:?}");
}
