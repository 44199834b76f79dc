use std::os::unix::net::UnixStream;

use proptest::prelude::*;

use super::*;
use crate::FrameReader;

fn request() -> AttachRequest {
    AttachRequest {
        abi_minor: ABI_MINOR,
        tenant: "red".into(),
        engine_name: "vllm 0.32.0".into(),
        role: Role::Worker(Rank(1)),
        rank_count: 2,
        engine_group: EngineGroupId([9; 16]),
        fields: vec![Field {
            tag: "model.id".into(),
            value: b"m".to_vec(),
        }],
        rank_fields: vec![],
        groups: vec![
            GroupGeometry {
                kind: AttentionKind::Full,
                tokens_per_block: 16,
                rank_bytes: 4096,
            },
            GroupGeometry {
                kind: AttentionKind::SlidingWindow { window_tokens: 100 },
                tokens_per_block: 32,
                rank_bytes: 8192,
            },
        ],
        request_ring_bytes: 1 << 20,
        completion_ring_bytes: 0,
        client_version: "0.1.0".into(),
        pid: 123,
        pod: "10.0.0.1:8000".into(),
        model: "red/m".into(),
    }
}

fn frame_of(bytes: &[u8]) -> Frame {
    let (theirs, ours) = UnixStream::pair().unwrap();
    send_with_fds(theirs.as_fd(), bytes, &[]).unwrap();
    FrameReader::new().advance(ours.as_fd()).unwrap().unwrap()
}

fn frame(kind: FrameKind, body: Vec<u8>) -> Frame {
    Frame {
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        kind: kind.code(),
        body,
        fds: Vec::new(),
    }
}

#[test]
fn a_request_comes_out_as_it_went_in() {
    for role in [Role::Scheduler, Role::Worker(Rank(65535)), Role::Observer] {
        let request = AttachRequest { role, ..request() };
        assert_eq!(
            AttachRequest::decode(&frame_of(&request.encode().unwrap())).unwrap(),
            request
        );
    }
}

#[test]
fn the_daemon_is_told_the_minor_version_of_each_client() {
    for abi_minor in [0, ABI_MINOR, 7] {
        let request = AttachRequest {
            abi_minor,
            ..request()
        };
        let frame = frame_of(&request.encode().unwrap());
        assert_eq!(frame.abi_minor, abi_minor);
        assert_eq!(AttachRequest::decode(&frame).unwrap(), request);
    }
}

#[test]
fn a_reply_comes_out_as_it_went_in() {
    for code in 1..10 {
        let reply = AttachReply {
            status: AttachStatus::from_code(code),
            text: "because".into(),
            session: SessionId(3),
            boot_epoch: BootEpoch([4; 16]),
            region_bytes: 5,
            daemon_version: "0.1.0".into(),
            traces_below: (code > 4).then_some(1 << 63),
        };
        assert_eq!(
            AttachReply::decode(&frame_of(&reply.encode().unwrap())).unwrap(),
            reply
        );
        assert_eq!(reply.status.code(), code);
    }
}

#[test]
fn the_first_fields_of_a_reply_are_frozen_bytes() {
    let reply = AttachReply::refusal(AttachStatus::VersionMismatch, "no", "");
    let frame = frame_of(&reply.encode().unwrap());
    assert_eq!(frame.body[..6], [0x08, 2, 0x12, 2, b'n', b'o']);
}

#[test]
fn a_refusal_is_read_from_a_daemon_of_any_version_and_an_admission_is_not() {
    let reply = AttachReply::refusal(AttachStatus::VersionMismatch, "version 9 here", "9.0");
    let mut frame = frame_of(&reply.encode().unwrap());
    frame.abi_major = 9;
    assert_eq!(AttachReply::decode(&frame).unwrap(), reply);
    let mut frame = frame_of(
        &AttachReply {
            status: AttachStatus::Ok,
            ..reply
        }
        .encode()
        .unwrap(),
    );
    frame.abi_major = 9;
    let error = AttachReply::decode(&frame).unwrap_err();
    assert!(matches!(
        error,
        HandshakeError::Version {
            actual: 9,
            expected: 1
        }
    ));
}

#[test]
fn what_is_wrong_with_a_request_is_named() {
    let body = |change: &dyn Fn(&mut wire::AttachRequest)| {
        let mut wire = wire::AttachRequest::from(&request());
        change(&mut wire);
        let error =
            AttachRequest::decode(&frame(FrameKind::AttachRequest, wire.encode_to_vec())).unwrap_err();
        error.to_string()
    };
    let group = wire::Group {
        kind: 2,
        tokens_per_block: 1,
        window_tokens: 0,
        rank_bytes: 1,
    };
    let cases: [(String, &str); 8] = [
        (
            body(&|wire| wire.role = 3),
            "the role is 3, want 0 (scheduler), 1 (worker) or 2 (observer)",
        ),
        (body(&|wire| wire.rank = 65536), "the rank is 65536"),
        (body(&|wire| wire.rank_count = 65536), "the rank count is 65536"),
        (
            body(&|wire| wire.engine_group = vec![0; 15]),
            "the engine group's length is 15, want 16",
        ),
        (
            body(&|wire| wire.tenant = "x".repeat(257)),
            "the tenant's length is 257, want at most 256",
        ),
        (
            body(&|wire| wire.groups = vec![group.clone(); 65]),
            "the number of groups is 65, want at most 64",
        ),
        (
            body(&|wire| wire.groups = vec![group.clone()]),
            "a group's kind is 2",
        ),
        (
            body(&|wire| wire.fields = vec![wire.fields[0].clone(); 4097]),
            "the number of fields is 4097",
        ),
    ];
    for (error, expected) in cases {
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
}

#[test]
fn another_kind_or_version_of_frame_is_refused_and_named() {
    let reply = frame(FrameKind::AttachReply, vec![]);
    let error = AttachRequest::decode(&reply).unwrap_err();
    assert!(matches!(
        error,
        HandshakeError::Kind {
            actual: 2,
            expected: FrameKind::AttachRequest
        }
    ));
    let newer = Frame {
        abi_major: 2,
        ..frame(FrameKind::AttachRequest, vec![])
    };
    let error = AttachRequest::decode(&newer).unwrap_err();
    assert!(matches!(
        error,
        HandshakeError::Version {
            actual: 2,
            expected: 1
        }
    ));
}

#[test]
fn a_body_cut_at_any_byte_never_panics() {
    let whole = frame_of(&request().encode().unwrap()).body;
    for end in 0..whole.len() {
        let _ = AttachRequest::decode(&frame(FrameKind::AttachRequest, whole[..end].to_vec()));
    }
}

proptest! {
    #[test]
    fn random_bodies_never_panic(body in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = AttachRequest::decode(&frame(FrameKind::AttachRequest, body.clone()));
        let _ = AttachReply::decode(&frame(FrameKind::AttachReply, body));
    }

    #[test]
    fn a_body_with_one_byte_changed_never_panics(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut body = frame_of(&request().encode().unwrap()).body;
        let at = at.index(body.len());
        body[at] = value;
        let _ = AttachRequest::decode(&frame(FrameKind::AttachRequest, body));
    }
}
