//! Clients that lie, scribble and babble: each is cut off with a reason, and the others notice nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use connector_shm::{AttachReply, AttachStatus, FrameReader, Request, Role};
use kvstore_types::{DescriptorRun, Rank, SlotRef, Tag};
use support::client::{Client, Pair, Said, request};
use support::raw::{REQUEST_RING, REQUEST_TAIL, RawClient};
use support::{Daemon, Place, eventually};

/// Breaks one rule.
type Break = fn(&mut Client);

/// A daemon, and an honest engine that goes on whatever the others do.
struct Scene {
    daemon: Daemon,
    honest: Pair,
    _place: Place,
}

impl Scene {
    fn new() -> Self {
        let place = Place::new();
        let daemon = place.start();
        let mut honest = Pair::open(daemon.socket(), 1);
        assert_eq!(honest.store(0..4), 4);
        Self {
            daemon,
            honest,
            _place: place,
        }
    }

    fn check(&mut self) {
        assert_eq!(self.honest.scheduler.lookup(4).0, 64);
    }

    fn finish(mut self) {
        self.check();
        assert!(!self.daemon.log().contains("panicked"), "{}", self.daemon.log());
    }
}

fn message(length: u32, op: u16, count: u32) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..6].copy_from_slice(&op.to_le_bytes());
    bytes[16..20].copy_from_slice(&count.to_le_bytes());
    bytes
}

#[test]
fn whoever_scribbles_over_its_ring_is_cut_off() {
    let mut scene = Scene::new();
    let cases: [(&str, u64, Vec<u8>); 7] = [
        ("a cursor beyond the ring", u64::MAX - 7, Vec::new()),
        ("a cursor that is no multiple of 8", 12, Vec::new()),
        ("a length that is no multiple of 8", 64, message(33, 1, 0)),
        ("a length of nothing", 64, message(0, 1, 0)),
        ("a length beyond what is there", 64, message(128, 1, 0)),
        ("an operation that does not exist", 32, message(32, 77, 0)),
        ("a count that does not fit", 64, message(64, 6, u32::MAX)),
    ];
    for (group, (what, tail, bytes)) in (50..).zip(&cases) {
        let before = scene.daemon.log().matches("client cut off").count();
        let mut liar = RawClient::open(scene.daemon.socket(), &request(Role::Worker(Rank(0)), group));
        liar.scribble(bytes, REQUEST_RING);
        liar.scribble(&tail.to_le_bytes(), REQUEST_TAIL);
        liar.ring();
        liar.wait_hung_up();
        eventually(what, || {
            (scene.daemon.log().matches("client cut off").count() > before).then_some(())
        });
        scene.check();
    }
    scene.finish();
}

#[test]
fn random_bytes_in_a_ring_never_hurt_the_daemon() {
    let mut scene = Scene::new();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..100_u64 {
        let mut liar = RawClient::open(scene.daemon.socket(), &request(Role::Observer, 200));
        let mut bytes = Vec::new();
        for _ in 0..512 {
            bytes.extend_from_slice(&random().to_le_bytes());
        }
        // Half of the rounds begin with a header that is plausible.
        if round % 2 == 0 {
            let length = (random() % 4096) & !7;
            bytes[..4].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
            bytes[4..8].copy_from_slice(&u32::try_from(random() % 12).unwrap().to_le_bytes());
        }
        liar.scribble(&bytes, REQUEST_RING);
        liar.scribble(&4096_u64.to_le_bytes(), REQUEST_TAIL);
        liar.ring();
    }
    scene.check();
    eventually("the liars are gone", || {
        (scene.daemon.occupancy("sessions") == 3).then_some(())
    });
    scene.finish();
}

#[test]
fn descriptions_that_do_not_fit_cost_their_session_and_say_why() {
    let mut scene = Scene::new();
    let tokens = [1; 64];
    let run = |blocks: u32, tokens_per_block: u32| DescriptorRun {
        blocks,
        tokens_per_block,
        tokens: &tokens[..(blocks * tokens_per_block) as usize],
        ..DescriptorRun::undescribed(0)
    };
    let cases = [
        (
            vec![run(2, 8)],
            "a run of blocks of 8 tokens does not fit group 0, whose blocks have 16",
        ),
        (
            vec![run(3, 16)],
            "the number of blocks in runs is 3, want as many as there are keys",
        ),
        (
            vec![run(1, 16)],
            "the number of blocks in runs is 1, want as many as there are keys",
        ),
    ];
    for (group, (runs, reason)) in (60..).zip(&cases) {
        let mut pair = Pair::open(scene.daemon.socket(), group);
        pair.scheduler.send_described(0..2, runs);
        assert_eq!(pair.scheduler.answer(), Said::HungUp, "{reason}");
        scene.daemon.says(reason);
        scene.check();
    }
    // Who says nothing, and a client of before, go on.
    let mut old = request(Role::Observer, 2);
    old.abi_minor = 1;
    Client::try_open(scene.daemon.socket(), &old).unwrap();
    scene.finish();
}

#[test]
fn whoever_sends_bytes_after_the_handshake_is_cut_off() {
    let scene = Scene::new();
    let mut liar = RawClient::open(scene.daemon.socket(), &request(Role::Observer, 2));
    liar.socket.write_all(b"hello?").unwrap();
    liar.wait_hung_up();
    scene
        .daemon
        .says("it sent bytes over its socket after the handshake");
    scene.finish();
}

#[test]
fn garbage_instead_of_a_handshake_is_answered_with_a_reason() {
    let scene = Scene::new();
    let mut stream = UnixStream::connect(scene.daemon.socket()).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let reply = reply(&stream);
    assert_eq!(reply.status, AttachStatus::BadRequest);
    assert!(reply.text.contains("not a kvtier handshake"), "{}", reply.text);
    scene.daemon.says("handshake failed");
    scene.finish();
}

#[test]
fn another_major_version_is_told_so() {
    let scene = Scene::new();
    let mut stream = UnixStream::connect(scene.daemon.socket()).unwrap();
    let mut bytes = request(Role::Observer, 2).encode().unwrap();
    bytes[8..10].copy_from_slice(&99_u16.to_le_bytes());
    stream.write_all(&bytes).unwrap();
    assert_eq!(reply(&stream).status, AttachStatus::VersionMismatch);
    scene.finish();
}

#[test]
fn a_ring_that_cannot_be_made_is_refused() {
    let scene = Scene::new();
    let mut wanted = request(Role::Observer, 2);
    wanted.request_ring_bytes = 1000;
    let refusal = Client::try_open(scene.daemon.socket(), &wanted)
        .err()
        .unwrap()
        .to_string();
    assert!(refusal.contains("the request ring has 1000 bytes"), "{refusal}");
    scene.finish();
}

#[test]
fn rings_beyond_what_a_tenant_may_have_are_refused_until_others_are_gone() {
    let place = Place::new();
    let daemon = place.start_with(&[("KVTIER_LIMITS_RING_BYTES", "1MiB")]);
    let mut wanted = request(Role::Observer, 2);
    wanted.request_ring_bytes = 512 << 10;
    let first = Client::try_open(daemon.socket(), &wanted).unwrap();
    let refusal = Client::try_open(daemon.socket(), &wanted)
        .err()
        .unwrap()
        .to_string();
    assert!(
        refusal.contains("rings of 576KiB do not fit: the tenant's sessions have 576KiB of 1MiB"),
        "{refusal}"
    );
    drop(first);
    eventually("the rings are free again", || {
        Client::try_open(daemon.socket(), &wanted).ok()
    });
}

fn reply(stream: &UnixStream) -> AttachReply {
    let mut reader = FrameReader::new();
    let frame = eventually("a reply", || reader.advance(stream.as_fd()).unwrap());
    AttachReply::decode(&frame).unwrap()
}

/// Two processes that were slow used to take all places and keep everybody out.
#[test]
fn silent_connections_do_not_keep_others_out() {
    let place = Place::new();
    let variables = [
        ("KVTIER_LIMITS_HANDSHAKES", "16"),
        ("KVTIER_LIMITS_HANDSHAKE_DEADLINE", "1min"),
    ];
    let daemon = place.start_with(&variables);
    let silent: Vec<UnixStream> = (0..40)
        .map(|_| UnixStream::connect(daemon.socket()).unwrap())
        .collect();
    // All but two are refused at once, long before the deadline.
    eventually("all but two are refused", || {
        let log = daemon.log();
        let refused = log.matches("2 handshakes of this process are not finished");
        (refused.count() == 38).then_some(())
    });
    assert_eq!(reply(&silent[39]).status, AttachStatus::SessionRefused);
    // Another process has places of its own.
    let other = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_helper_attaches", "--nocapture"])
        .env("HELPER_SOCKET", daemon.socket())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&other.stdout).contains("helper is attached"));
    drop(silent);
    eventually("the places are free again", || {
        kvstore::status::fetch(daemon.socket(), "").ok()
    });
}

/// Does nothing unless the test above runs it.
#[test]
fn a_helper_attaches() {
    if let Some(socket) = std::env::var_os("HELPER_SOCKET") {
        Client::try_open(socket.as_ref(), &request(Role::Observer, 1)).unwrap();
        println!("helper is attached");
    }
}

#[test]
fn a_handshake_that_is_not_finished_in_time_is_closed() {
    let place = Place::new();
    let daemon = place.start_with(&[("KVTIER_LIMITS_HANDSHAKE_DEADLINE", "100ms")]);
    let silent = UnixStream::connect(daemon.socket()).unwrap();
    assert_eq!(reply(&silent).status, AttachStatus::BadRequest);
    daemon.says("handshake not finished in time");
}

/// The warning about RLIMIT_NOFILE at start reckons with three for each session, one of which is its process's.
#[test]
fn a_session_keeps_as_many_files_open_as_is_reckoned_with() {
    let place = Place::new();
    let daemon = place.start();
    let (files, _) = daemon.resources();
    let clients: Vec<Client> = (0..10)
        .map(|_| Client::open(daemon.socket(), Role::Observer, 2))
        .collect();
    eventually("the handshakes' own files are closed", || {
        (daemon.resources().0 <= files + clients.len() * 2 + 1).then_some(())
    });
}

/// Each process that hung up and lived on cost a descriptor for good, until no tenant could attach any more.
#[test]
fn processes_that_hang_up_and_live_on_are_bounded() {
    const CHILD: &str = "KVTIER_TEST_HANG_UP_AT";
    if let Some(socket) = std::env::var_os(CHILD) {
        let client = Client::try_open(socket.as_ref(), &request(Role::Observer, 3));
        println!(
            "{}",
            client.as_ref().err().map_or("in".to_owned(), ToString::to_string)
        );
        drop(client.map(|client| client.attachment.end));
        // Lives on until its parent lets go of it.
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    let place = Place::new();
    let daemon = place.start_with(&[("KVTIER_LIMITS_SESSIONS", "3")]);
    let (files, _) = daemon.resources();
    let mut children: Vec<std::process::Child> = (0..6)
        .map(|_| {
            std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "processes_that_hang_up_and_live_on_are_bounded",
                    "--nocapture",
                ])
                .env(CHILD, daemon.socket())
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let said: Vec<String> = children
        .iter_mut()
        .map(|child| {
            let lines = std::io::BufReader::new(child.stdout.take().unwrap());
            std::io::BufRead::lines(lines)
                .map(Result::unwrap)
                .find(|line| line.ends_with("in") || line.contains("limits.sessions"))
                .unwrap()
        })
        .collect();
    let let_in = said.iter().filter(|line| line.ends_with("in")).count();
    assert_eq!(let_in, 3, "{said:?}");
    eventually("only three cost a descriptor", || {
        (daemon.resources().0 <= files + 3).then_some(())
    });
    for child in &mut children {
        drop(child.stdin.take());
        child.wait().unwrap();
    }
    eventually("their deaths make room", || {
        (kvstore::status::fetch(daemon.socket(), "").is_ok() && daemon.resources().0 <= files + 3)
            .then_some(())
    });
}

#[test]
fn breaking_the_rules_costs_the_session_and_nobody_elses() {
    let scene = Scene::new();
    let cases: [(Role, Break, &str); 4] = [
        (
            Role::Observer,
            |client| client.lookup_submit(Tag(1), 1),
            "may not",
        ),
        (
            Role::Worker(Rank(0)),
            |client| {
                client.send(&Request::Seal {
                    tag: Tag(1),
                    slots: &[SlotRef {
                        page: 3,
                        generation: 9,
                    }],
                });
            },
            "is not this engine's to seal or abort",
        ),
        (
            Role::Scheduler,
            |client| {
                let spans = [kvstore_types::GroupSpan {
                    group: 0,
                    first: 0,
                    count: u32::MAX,
                }];
                client.send(&Request::LoadCommit {
                    tag: Tag(1),
                    lease: Tag(2),
                    spans: &spans,
                });
            },
            "the answer may have",
        ),
        (
            Role::Scheduler,
            |client| {
                let keys = [connector_shm::GroupKeys {
                    group: 0,
                    hashes: &[],
                }; 65];
                client.send(&Request::Reserve {
                    tag: Tag(1),
                    keys: connector_shm::Keys::new(&keys),
                });
            },
            "",
        ),
    ];
    for (group, (role, break_rule, reason)) in (60..).zip(cases) {
        let mut liar = Client::open(scene.daemon.socket(), role, group);
        break_rule(&mut liar);
        assert_eq!(liar.answer(), Said::HungUp);
        scene.daemon.says(reason);
    }
    scene.finish();
}

#[test]
fn a_client_that_closes_its_doorbell_is_gone() {
    let scene = Scene::new();
    let liar = RawClient::open(scene.daemon.socket(), &request(Role::Observer, 2));
    drop(liar.doorbell);
    support::eventually("the daemon hangs up", || {
        connector_shm::hung_up(liar.socket.as_fd()).unwrap().then_some(())
    });
    scene.finish();
}

#[test]
fn a_client_that_leaves_during_the_handshake_leaves_nothing() {
    let scene = Scene::new();
    let bytes = request(Role::Worker(Rank(0)), 9).encode().unwrap();
    for length in (0..bytes.len()).step_by(7).chain([bytes.len(); 20]) {
        let mut stream = UnixStream::connect(scene.daemon.socket()).unwrap();
        stream.write_all(&bytes[..length]).unwrap();
    }
    eventually("all of them are gone", || {
        (scene.daemon.occupancy("sessions") == 3).then_some(())
    });
    // The role is free again.
    drop(Client::open(scene.daemon.socket(), Role::Worker(Rank(0)), 9));
    scene.finish();
}
