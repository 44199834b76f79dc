//! Two processes, one session: what the unit tests prove for one address space holds across two.
//!
//! The other process is this test binary again, told by the environment what to do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step is a failed test"
)]

use std::{
    env,
    num::NonZeroUsize,
    ops::ControlFlow,
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use connector_shm::{
    AttachReply, AttachRequest, AttachStatus, Attachment, Completion, ControlSpec, DaemonEnd, DoorbellError,
    FrameReader, GroupKeys, HugePages, Keys, LookupOutcome, MessageBuffer, PeerError, PeerProcess, Prefault,
    Region, RegionSpec, Request, Role, SendError, Sleep, Wake,
};
use kvstore_types::{
    AttentionKind, BlockHash, BootEpoch, EngineGroupId, GroupGeometry, GroupSpan, SessionId, SlotRef, Tag,
};
use memmap2::MmapOptions;

/// How long anything may take before a test gives up.
const WATCHDOG: Duration = Duration::from_mins(2);
/// Requests of the exchange; each is answered, so twice as many messages pass.
const REQUESTS: u64 = 50_000;
const RING_BYTES: u64 = 64 << 10;
const REGION_BYTES: u64 = 4 << 20;
const EPOCH: BootEpoch = BootEpoch([3; 16]);

/// A small generator of numbers that are alike in both processes.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

struct OtherProcess(Child);

impl OtherProcess {
    fn start(role: &str, socket: &Path) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "the_other_process", "--nocapture"]);
        Self(
            command
                .env("KVTIER_TEST_ROLE", role)
                .env("KVTIER_TEST_SOCKET", socket)
                .spawn()
                .unwrap(),
        )
    }

    fn succeed(mut self) {
        let end = Instant::now() + WATCHDOG;
        while Instant::now() < end {
            if let Some(status) = self.0.try_wait().unwrap() {
                return assert!(status.success(), "the other process failed: {status}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("the other process does not end");
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test by itself: what the second process runs. Does nothing in the first one.
#[test]
fn the_other_process() {
    let Ok(role) = env::var("KVTIER_TEST_ROLE") else {
        return;
    };
    let socket = env::var_os("KVTIER_TEST_SOCKET").unwrap();
    match role.as_str() {
        "exchange" => client_exchange(Path::new(&socket)),
        "scribble" => client_scribble(Path::new(&socket)),
        "linger" => client_linger(Path::new(&socket)),
        "knock" => drop(UnixStream::connect(socket).unwrap()),
        other => panic!("unknown role {other}"),
    }
}

// ---- the daemon's side ----

struct Session {
    end: DaemonEnd,
    socket: UnixStream,
    process: PeerProcess,
}

fn region() -> Region {
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

fn accept(listener: &UnixListener, region: &Region, session: u64) -> Session {
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
    };
    connector_shm::send_reply(socket.as_fd(), &reply, Some((&fds, region.file()))).unwrap();
    Session { end, socket, process }
}

/// Answers each look-up with the sum of its hashes and as many spans as its tokens say, until the client closes.
fn answer_until_closed(session: &mut Session) {
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

fn send_completion(session: &mut Session, completion: &Completion<'_>) {
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

fn sum(keys: Keys<'_>) -> u64 {
    let probe = |hash: &BlockHash| hash.probe();
    keys.groups()
        .flat_map(|group| group.hashes.iter().map(probe))
        .fold(0, u64::wrapping_add)
}

fn listen(directory: &tempfile::TempDir) -> UnixListener {
    UnixListener::bind(directory.path().join("socket")).unwrap()
}

#[test]
fn a_hundred_thousand_messages_pass_between_two_processes_that_sleep_now_and_then() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, region) = (listen(&directory), region());
    let other = OtherProcess::start("exchange", &directory.path().join("socket"));
    let mut session = accept(&listener, &region, 1);
    answer_until_closed(&mut session);
    let place = region
        .slot_address(
            SlotRef {
                page: 5,
                generation: 1,
            },
            4096,
        )
        .unwrap();
    // SAFETY: in the region, as `slot_address` checked; the client wrote it before it said good-bye.
    assert_eq!(unsafe { place.read() }, 0xa5);
    // The client waits for this before it ends, so that its good-bye is read.
    drop((session.end, session.socket));
    other.succeed();
    assert!(session.process.wait_dead(WATCHDOG).unwrap());
}

#[test]
fn a_client_that_scribbles_over_its_control_memory_is_found_out_and_harms_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, region) = (listen(&directory), region());
    let other = OtherProcess::start("scribble", &directory.path().join("socket"));
    let mut found_out = 0;
    for number in 0..SCRIBBLES {
        let mut session = accept(&listener, &region, number);
        let mut buffer = MessageBuffer::new();
        let end = Instant::now() + WATCHDOG;
        let error = loop {
            assert!(Instant::now() < end, "the client's scribbling goes unnoticed");
            if let Some(error) = serve_once(&mut session.end, &mut buffer) {
                break error;
            }
        };
        found_out += u64::from(error != "the peer has closed its doorbell");
        // Closing the socket ends the client's round.
    }
    assert!(
        found_out > SCRIBBLES / 2,
        "only {found_out} of {SCRIBBLES} were found out"
    );
    other.succeed();
}

/// One turn of a daemon that answers whatever comes; the error that ends the session, as text.
fn serve_once(end: &mut DaemonEnd, buffer: &mut MessageBuffer) -> Option<String> {
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

#[test]
fn a_killed_client_is_seen_by_its_doorbell_its_socket_and_its_process_handle() {
    let directory = tempfile::tempdir().unwrap();
    let (listener, region) = (listen(&directory), region());
    let mut other = OtherProcess::start("linger", &directory.path().join("socket"));
    let session = accept(&listener, &region, 1);
    assert!(!session.process.is_dead().unwrap());
    assert!(!connector_shm::hung_up(session.socket.as_fd()).unwrap());
    // The client rings when it has attached, so it is not killed in the middle of that.
    assert_eq!(session.end.doorbell().wait(Some(WATCHDOG)).unwrap(), Wake::Rung);
    other.0.kill().unwrap();
    let wake = session.end.doorbell().wait(Some(WATCHDOG));
    assert!(matches!(wake, Err(DoorbellError::PeerGone)), "{wake:?}");
    assert!(session.process.wait_dead(WATCHDOG).unwrap());
    assert!(connector_shm::hung_up(session.socket.as_fd()).unwrap());
}

#[test]
fn a_client_that_was_dead_before_it_was_let_in_is_seen_to_be_dead() {
    let directory = tempfile::tempdir().unwrap();
    let listener = listen(&directory);
    OtherProcess::start("knock", &directory.path().join("socket")).succeed();
    let (socket, _) = listener.accept().unwrap();
    match PeerProcess::of_socket(socket.as_fd()) {
        Ok(process) => assert!(process.is_dead().unwrap()),
        Err(error) => assert!(matches!(error, PeerError::Gone), "{error}"),
    }
}

// ---- the client's side ----

fn attach_request() -> AttachRequest {
    AttachRequest {
        tenant: "test".into(),
        engine_name: "test".into(),
        role: Role::Scheduler,
        rank_count: 1,
        engine_group: EngineGroupId([1; 16]),
        fields: Vec::new(),
        rank_fields: Vec::new(),
        groups: vec![GroupGeometry {
            kind: AttentionKind::Full,
            tokens_per_block: 16,
            rank_bytes: 4096,
        }],
        request_ring_bytes: 0,
        completion_ring_bytes: 0,
        client_version: "test".into(),
        pid: 0,
    }
}

fn attach(socket: &Path) -> Attachment {
    Attachment::open(socket, &attach_request(), Instant::now() + WATCHDOG).unwrap()
}

/// The hashes and tokens of the request `number`: most requests are small, some nearly fill the ring.
fn lookup(number: u64, hashes: &mut Vec<BlockHash>) -> u64 {
    let mut random = Random(number + 1);
    random.next();
    let bound = if random.below(50) == 0 { 1500 } else { 20 };
    hashes.clear();
    for _ in 0..random.below(bound) {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&random.next().to_le_bytes());
        hashes.push(BlockHash(hash));
    }
    if random.below(50) == 0 {
        random.below(600)
    } else {
        random.below(5)
    }
}

/// Sends whenever there is room, reads whenever there is something, and sleeps when there is neither.
fn client_exchange(socket: &Path) {
    let mut attachment = attach(socket);
    let end = &mut attachment.end;
    let (mut buffer, mut hashes, mut random) = (MessageBuffer::new(), Vec::new(), Random(5));
    let (mut sent, mut received) = (0, 0);
    while received < REQUESTS {
        let mut wanted = 0;
        while sent < REQUESTS {
            let tokens_max = lookup(sent, &mut hashes);
            let groups = [GroupKeys {
                group: 0,
                hashes: &hashes,
            }];
            match end.send(&Request::Lookup {
                tag: Tag(sent),
                tokens_max,
                keys: Keys::new(&groups),
            }) {
                Ok(()) => sent += 1,
                Err(SendError::Full { needed, .. }) => {
                    wanted = needed;
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        let before = received;
        while let Some(completion) = end.receive(&mut buffer).unwrap() {
            check_answer(&completion, received, &mut hashes);
            received += 1;
        }
        end.notify().unwrap();
        if random.below(500) == 0 {
            thread::sleep(Duration::from_micros(300));
        }
        if received == before && end.begin_sleep(wanted).unwrap() == Sleep::Go {
            assert_eq!(end.doorbell().wait(Some(WATCHDOG)).unwrap(), Wake::Rung);
            end.end_sleep();
        }
    }
    say_good_bye(attachment);
}

fn check_answer(completion: &Completion<'_>, number: u64, hashes: &mut Vec<BlockHash>) {
    let Completion::Lookup {
        tag,
        hit_tokens,
        spans,
        ..
    } = *completion
    else {
        panic!("unexpected {completion:?}")
    };
    let tokens_max = lookup(number, hashes);
    assert_eq!(tag, Tag(number));
    assert_eq!(hit_tokens, sum(Keys::new(&[GroupKeys { group: 0, hashes }])));
    assert_eq!(spans.len() as u64, tokens_max);
}

fn say_good_bye(mut attachment: Attachment) {
    let place = attachment
        .region
        .slot_address(
            SlotRef {
                page: 5,
                generation: 1,
            },
            0,
            4096,
        )
        .unwrap();
    // SAFETY: in the region, as `slot_address` checked; the daemon does not touch it before the good-bye.
    unsafe { place.write(0xa5) };
    attachment.end.send(&Request::Close).unwrap();
    attachment.end.notify().unwrap();
    // Stay until the daemon has read it: its end of the doorbell goes when it is done.
    while attachment
        .end
        .doorbell()
        .wait(Some(WATCHDOG))
        .is_ok_and(|wake| wake == Wake::Rung)
    {}
}

/// Sessions whose memory the client scribbles over.
const SCRIBBLES: u64 = 40;

#[expect(
    clippy::cast_possible_truncation,
    reason = "random numbers, bounded where it matters"
)]
fn client_scribble(socket: &Path) {
    for number in 0..SCRIBBLES {
        let stream = UnixStream::connect(socket).unwrap();
        let frame = attach_request().encode().unwrap();
        std::io::Write::write_all(&mut &stream, &frame).unwrap();
        let mut reader = FrameReader::with_fds(connector_shm::ATTACH_FDS);
        let frame = loop {
            match reader.advance(stream.as_fd()).unwrap() {
                Some(frame) => break frame,
                None => thread::yield_now(),
            }
        };
        let map = MmapOptions::new().map_raw(&frame.fds[0]).unwrap();
        let mut random = Random(number * 0x1234_5678_9abc + 99);
        // The header's page and the beginnings of both rings, in words that are now plausible, now wild.
        let places = [0, 4096, 4096 + RING_BYTES];
        while !connector_shm::hung_up(stream.as_fd()).unwrap() {
            let at = places[random.below(3) as usize] + random.below(4096 / 4) * 4;
            let word = if random.below(2) == 0 {
                random.next() as u32
            } else {
                random.below(64) as u32 * 8
            };
            // SAFETY: below the end of the second ring. The daemon is this test's subject: it must not
            // mind what is written, nor when.
            unsafe {
                map.as_mut_ptr()
                    .wrapping_add(at as usize)
                    .cast::<[u8; 4]>()
                    .write_volatile(word.to_le_bytes());
            }
            let _ = connector_shm::Doorbell::from(frame.fds[2].try_clone().unwrap()).ring();
        }
    }
}

fn client_linger(socket: &Path) {
    let attachment = attach(socket);
    attachment.end.doorbell().ring().unwrap();
    loop {
        thread::sleep(WATCHDOG);
    }
}
