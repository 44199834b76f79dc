//! Two processes, one session: what the unit tests prove for one address space holds across two.
//!
//! The other process is this test binary again, told by the environment what to do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step is a failed test"
)]

mod client;
mod daemon;

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

use daemon::{accept, answer_until_closed, listen, region, serve_once};

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
        "exchange" => client::client_exchange(Path::new(&socket)),
        "scribble" => client::client_scribble(Path::new(&socket)),
        "linger" => client::client_linger(Path::new(&socket)),
        "knock" => drop(UnixStream::connect(socket).unwrap()),
        other => panic!("unknown role {other}"),
    }
}

fn attach_request() -> AttachRequest {
    AttachRequest {
        abi_minor: connector_shm::ABI_MINOR,
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
        pod: String::new(),
        model: String::new(),
    }
}

fn sum(keys: Keys<'_>) -> u64 {
    keys.groups()
        .flat_map(|group| group.hashes)
        .flat_map(|BlockHash(bytes)| bytes)
        .fold(0, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()))
}

/// Sessions whose memory the client scribbles over.
const SCRIBBLES: u64 = 40;

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
