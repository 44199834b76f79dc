//! The daemon's side: the first process.

use super::*;

pub(super) struct Session {
    pub(super) end: DaemonEnd,
    pub(super) socket: UnixStream,
    pub(super) process: PeerProcess,
}

pub(super) fn region() -> Region {
    let spec = RegionSpec {
        bytes: REGION_BYTES,
        huge_pages: HugePages::Off,
        boot_epoch: EPOCH,
        tenant: "test",
    };
    let region = Region::create(&spec).unwrap().region;
    let progress = |_| ControlFlow::Continue(());
    region
        .prefault(&Prefault {
            threads: NonZeroUsize::MIN,
            progress: &progress,
        })
        .unwrap();
    region
}

pub(super) fn accept(listener: &UnixListener, region: &Region, session: u64) -> Session {
    let (socket, _) = listener.accept().unwrap();
    let process = PeerProcess::of_socket(socket.as_fd()).unwrap();
    let mut reader = FrameReader::new();
    let frame = loop {
        match reader.advance(socket.as_fd()).unwrap() {
            Some(frame) => break frame,
            None => thread::yield_now(),
        }
    };
    let request = AttachRequest::decode(&frame).unwrap();
    assert_eq!(request, attach_request());
    let spec = ControlSpec {
        boot_epoch: EPOCH,
        session: SessionId(session),
        request_ring_bytes: RING_BYTES,
        completion_ring_bytes: RING_BYTES,
    };
    let (end, fds) = DaemonEnd::create(&spec).unwrap();
    let reply = AttachReply {
        status: AttachStatus::Ok,
        text: String::new(),
        session: SessionId(session),
        boot_epoch: EPOCH,
        region_bytes: REGION_BYTES,
        daemon_version: "test".into(),
        traces_below: None,
    };
    connector_shm::send_reply(socket.as_fd(), &reply, Some((&fds, region.file()))).unwrap();
    Session { end, socket, process }
}

/// Answers each look-up with the sum of its hashes and as many spans as its tokens say, until the client closes.
pub(super) fn answer_until_closed(session: &mut Session) {
    let (mut buffer, mut random) = (MessageBuffer::new(), Random(77));
    let spans = vec![
        GroupSpan {
            group: 1,
            first: 2,
            count: 3
        };
        600
    ];
    loop {
        while let Some(request) = session.end.receive(&mut buffer).unwrap() {
            let (tag, tokens_max, keys) = match request {
                Request::Lookup {
                    tag,
                    tokens_max,
                    keys,
                } => (tag, tokens_max, keys),
                Request::Close => return,
                other => panic!("unexpected {other:?}"),
            };
            let spans = &spans[..usize::try_from(tokens_max).unwrap()];
            let outcome = LookupOutcome::Complete;
            let completion = Completion::Lookup {
                tag,
                hit_tokens: sum(keys),
                outcome,
                spans,
            };
            send_completion(session, &completion);
            if random.below(2000) == 0 {
                thread::sleep(Duration::from_micros(300));
            }
        }
        session.end.notify().unwrap();
        if session.end.begin_sleep(0).unwrap() == Sleep::Go {
            assert_eq!(session.end.doorbell().wait(Some(WATCHDOG)).unwrap(), Wake::Rung);
            session.end.end_sleep();
        }
    }
}

pub(super) fn send_completion(session: &mut Session, completion: &Completion<'_>) {
    loop {
        match session.end.send(completion) {
            Ok(()) => return,
            Err(SendError::Full { .. }) => {}
            Err(error) => panic!("{error}"),
        }
        session.end.notify().unwrap();
        // Wait for room alone: requests that come meanwhile are served afterwards.
        if session
            .end
            .completions()
            .begin_wait(completion.wire_bytes())
            .unwrap()
            == Sleep::Go
        {
            assert_eq!(session.end.doorbell().wait(Some(WATCHDOG)).unwrap(), Wake::Rung);
            session.end.completions().end_wait();
        }
    }
}

pub(super) fn listen(directory: &tempfile::TempDir) -> UnixListener {
    UnixListener::bind(directory.path().join("socket")).unwrap()
}

/// One turn of a daemon that answers whatever comes; the error that ends the session, as text.
pub(super) fn serve_once(end: &mut DaemonEnd, buffer: &mut MessageBuffer) -> Option<String> {
    match end.receive(buffer) {
        Ok(_) => {}
        Err(error) => return Some(error.to_string()),
    }
    match end.send(&Completion::Counters {
        tag: Tag(1),
        json: "{}",
    }) {
        Ok(()) | Err(SendError::Full { .. }) => {}
        Err(error) => return Some(error.to_string()),
    }
    if let Err(error) = end.notify() {
        return Some(error.to_string());
    }
    match end.begin_sleep(64) {
        Ok(Sleep::Stay) => {}
        Ok(Sleep::Go) => match end.doorbell().wait(Some(Duration::from_millis(1))) {
            Ok(_) => end.end_sleep(),
            Err(error) => return Some(error.to_string()),
        },
        Err(error) => return Some(error.to_string()),
    }
    None
}
