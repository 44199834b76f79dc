//! Clients and daemons of different minor versions (docs/compatibility.md): today's library and today's daemon, each of which is told that the
//! other is older.

#![allow(clippy::unwrap_used, reason = "a failed test is a panic")]

mod support;

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use connector_shm::{ABI_MINOR, FrameReader, TRACE_MINOR};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use support::collector::{Collector, Mood};
use support::daemon::{HOST_BLOCKS, Place};
use support::eventually;
use support::store::{Loaded, Store};

const BLOCKS: u64 = 16;
const TRACE: &str = "000000000000000000000000a0000001";
const SPAN: &str = "00000000b0000001";
const NOBODY: &str = "0000000000000000";

/// Where a prologue has the minor version of its sender.
const MINOR: std::ops::Range<usize> = 10..12;
const PROLOGUE_BYTES: usize = 24;

/// Stands between clients and a daemon for their handshakes, and writes another minor version into both frames.
fn stand_between(place: &Place, daemon: &Path, minor: u16) -> PathBuf {
    let path = place.path(&format!("minor-{minor}.sock"));
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = daemon.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (client, daemon) = (client.unwrap(), UnixStream::connect(&daemon).unwrap());
            introduce(&client, &daemon, minor);
            hang_up_with(&client, &daemon);
            hang_up_with(&daemon, &client);
        }
    });
    path
}

fn introduce(mut client: &UnixStream, mut daemon: &UnixStream, minor: u16) {
    let mut request = vec![0; PROLOGUE_BYTES];
    client.read_exact(&mut request).unwrap();
    let body_bytes = u32::from_le_bytes(request[16..20].try_into().unwrap());
    request.resize(PROLOGUE_BYTES + body_bytes as usize, 0);
    client.read_exact(&mut request[PROLOGUE_BYTES..]).unwrap();
    request[MINOR].copy_from_slice(&minor.to_le_bytes());
    daemon.write_all(&request).unwrap();

    let mut reader = FrameReader::with_fds(3);
    let frame = eventually("the daemon's reply", || reader.advance(daemon.as_fd()).unwrap());
    // As a request of the same kind, whose body has a length of its own.
    let mut reply = request[..PROLOGUE_BYTES].to_vec();
    reply[12] = 2;
    reply[16..20].copy_from_slice(&u32::try_from(frame.body.len()).unwrap().to_le_bytes());
    reply.extend(&frame.body);
    let fds: Vec<_> = frame.fds.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let sent = sendmsg(client, &[IoSlice::new(&reply)], &mut control, SendFlags::NOSIGNAL).unwrap();
    assert_eq!(sent, reply.len());
}

/// Whoever of the two goes takes the other along.
fn hang_up_with(one: &UnixStream, other: &UnixStream) {
    let (mut one, other) = (one.try_clone().unwrap(), other.try_clone().unwrap());
    std::thread::spawn(move || {
        let said = one.read(&mut [0]);
        assert!(!matches!(said, Ok(1..)), "nothing is said after the handshake");
        // It may be gone already.
        let _ = other.shutdown(std::net::Shutdown::Both);
    });
}

#[test]
fn every_minor_version_stores_and_loads_with_every_other() {
    let collector = Collector::grpc(Mood::Takes);
    let endpoint = collector.endpoint();
    let mut place = Place::new();
    // Whatever a minor version brought is on.
    let daemon = place.start(&[
        ("KVTIER_TRACING_EXPORTER", "otlp"),
        ("KVTIER_TRACING_ENDPOINT", endpoint.as_str()),
    ]);
    let all = Loaded {
        hit: BLOCKS,
        wrong: 0,
        lost: 0,
    };
    for minor in 0..=ABI_MINOR {
        let socket = stand_between(&place, daemon.socket(), minor);
        let first = u64::from(minor) * 1_000;
        let mut engine = Store::attach_at(&socket, "m");
        let (recording, _) = engine.follow(TRACE, SPAN).unwrap();
        assert_eq!(recording, minor >= TRACE_MINOR, "minor version {minor}");
        assert_eq!(
            engine.load(first, BLOCKS).unwrap().hit,
            0,
            "minor version {minor}"
        );
        assert_eq!(engine.store(first, BLOCKS).unwrap().added, BLOCKS);
        assert_eq!(engine.load(first, BLOCKS).unwrap(), all, "minor version {minor}");
        assert_eq!(engine.over(NOBODY).unwrap(), minor >= TRACE_MINOR);
        engine.follow("00000000000000000000000000000000", NOBODY).unwrap();
        // What comes back from NVMe is waited for, whether or not that is told.
        for pushed in (100_000..100_000 + 3 * HOST_BLOCKS).step_by(64) {
            engine.store(pushed + first * 1_000, 64).unwrap();
        }
        engine.settle().unwrap();
        assert_eq!(engine.load(first, BLOCKS).unwrap(), all, "minor version {minor}");
        drop(engine);
        let mut newest = Store::attach(&daemon, "m");
        assert_eq!(
            newest.load(first, BLOCKS).unwrap(),
            all,
            "after minor version {minor}"
        );
    }
    collector.wait_for("kvtier.request", 1);
    let requests = collector.spans();
    let requests = requests.iter().filter(|span| span.name == "kvtier.request");
    assert_eq!(requests.count(), usize::from(ABI_MINOR - TRACE_MINOR + 1));
    daemon.stop();
}
