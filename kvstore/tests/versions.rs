//! A client of before goes on: one whose every byte stands here, as minor version 0 had them, and those between it and today's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use connector_shm::{ABI_MINOR, FrameReader};
use support::blocks::{CHAIN, Cache};
use support::{Place, eventually};

const RING_BYTES: u64 = 64 << 10;
const REQUEST_RING: u64 = 4096;
const COMPLETION_RING: u64 = REQUEST_RING + RING_BYTES;
/// Cursors in the control memory.
const REQUEST_TAIL: u64 = 128;
const COMPLETION_TAIL: u64 = 384;
const COMPLETION_HEAD: u64 = 512;

/// What a request of version 1.0 to attach begins with: magic, major, minor, kind, and as long as its body is.
const PROLOGUE: &[u8] = b"KVTIER\0\x01\x01\0\0\0\x01\0\0\0";
/// Its body: engine name, ranks, group, one field, one cache group of 16 tokens, two rings of 64 KiB, version.
const SCHEDULER: &[u8] = b"\x12\x03old\x28\x01\x32\x10gggggggggggggggg\x3a\x0d\x0a\x08model.id\x12\x01m\
    \x4a\x02\x10\x10\x50\x80\x80\x04\x58\x80\x80\x04\x62\x050.0.1";
/// The same of its worker: a role, and a part of 4,096 bytes.
const WORKER: &[u8] = b"\x12\x03old\x18\x01\x28\x01\x32\x10gggggggggggggggg\x3a\x0d\x0a\x08model.id\x12\x01m\
    \x4a\x05\x10\x10\x20\x80\x20\x50\x80\x80\x04\x58\x80\x80\x04\x62\x050.0.1";

/// A client that knows nothing of today's library.
struct Old {
    socket: UnixStream,
    control: OwnedFd,
    doorbell: UnixStream,
    request_tail: u64,
    completion_head: u64,
}

/// A message as it lies in a ring.
#[derive(Debug, PartialEq, Eq)]
struct Message {
    op: u16,
    tag: u64,
    count: u32,
    arg32: u32,
    arg: u64,
    payload: Vec<u8>,
}

impl Message {
    fn new(op: u16, tag: u64, count: u32, arg: u64, payload: &[u8]) -> Self {
        Self {
            op,
            tag,
            count,
            arg32: 0,
            arg,
            payload: payload.to_vec(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(32 + self.payload.len().next_multiple_of(8)).unwrap();
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(self.op.to_le_bytes());
        bytes.extend([0; 2]);
        bytes.extend(self.tag.to_le_bytes());
        bytes.extend(self.count.to_le_bytes());
        bytes.extend(self.arg32.to_le_bytes());
        bytes.extend(self.arg.to_le_bytes());
        bytes.extend(&self.payload);
        bytes.resize(length as usize, 0);
        bytes
    }
}

impl Old {
    fn attach(socket: &Path, body: &[u8]) -> Self {
        let mut socket = UnixStream::connect(socket).unwrap();
        let mut frame = PROLOGUE.to_vec();
        frame.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
        frame.extend([0; 4]);
        frame.extend(body);
        socket.write_all(&frame).unwrap();
        let mut reader = FrameReader::with_fds(3);
        let frame = eventually("the daemon's reply", || reader.advance(socket.as_fd()).unwrap());
        assert_eq!((frame.abi_major, frame.abi_minor, frame.kind), (1, ABI_MINOR, 2));
        assert_eq!(frame.body[..2], [8, 1], "its status says that all is well");
        let mut fds = frame.fds.into_iter();
        let (control, _region, doorbell) = (fds.next().unwrap(), fds.next().unwrap(), fds.next().unwrap());
        let mut header = [0; 128];
        rustix::io::pread(&control, &mut header, 0).unwrap();
        assert_eq!(header[..16], *b"KVTCTL\0\x01\x01\0\0\0\x80\x04\0\0");
        Self {
            socket,
            control,
            doorbell: doorbell.into(),
            request_tail: 0,
            completion_head: 0,
        }
    }

    fn write(&self, bytes: &[u8], offset: u64) {
        assert_eq!(
            rustix::io::pwrite(&self.control, bytes, offset).unwrap(),
            bytes.len()
        );
    }

    fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut bytes = [0; N];
        assert_eq!(rustix::io::pread(&self.control, &mut bytes, offset).unwrap(), N);
        bytes
    }

    /// Nothing here is long enough to go round the end of a ring.
    fn send(&mut self, message: &Message) {
        let bytes = message.bytes();
        self.write(&bytes, REQUEST_RING + self.request_tail);
        self.request_tail += bytes.len() as u64;
        assert!(self.request_tail < RING_BYTES);
        self.write(&self.request_tail.to_le_bytes(), REQUEST_TAIL);
        self.doorbell.write_all(&[1]).unwrap();
    }

    fn hear(&mut self) -> Message {
        eventually("the daemon says something", || {
            let tail = u64::from_le_bytes(self.read(COMPLETION_TAIL));
            (tail != self.completion_head).then_some(())
        });
        let at = COMPLETION_RING + self.completion_head;
        let head: [u8; 32] = self.read(at);
        let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        let length = u32_at(0);
        let mut payload = vec![0; length as usize - 32];
        assert_eq!(
            rustix::io::pread(&self.control, &mut payload, at + 32).unwrap(),
            payload.len()
        );
        self.completion_head += u64::from(length);
        assert!(self.completion_head < RING_BYTES);
        self.write(&self.completion_head.to_le_bytes(), COMPLETION_HEAD);
        assert_eq!(head[6..8], [0; 2], "flags");
        Message {
            op: u16::from_le_bytes([head[4], head[5]]),
            tag: u64_at(8),
            count: u32_at(16),
            arg32: u32_at(20),
            arg: u64_at(24),
            payload,
        }
    }

    fn wait_hung_up(&self) {
        eventually("the daemon hangs up", || {
            connector_shm::hung_up(self.socket.as_fd()).unwrap().then_some(())
        });
    }
}

/// Two keys of group 0.
fn keys() -> Vec<u8> {
    let mut keys = [0_u32.to_le_bytes(), 2_u32.to_le_bytes()].concat();
    keys.extend([[0x11; 32], [0x22; 32]].concat());
    keys
}

/// From here on these bytes are what the first release's clients send and expect, so they are not to be changed.
#[test]
fn a_client_of_version_1_0_stores_looks_up_and_loads() {
    let place = Place::new();
    // Whatever is new is on: none of it is for this client.
    let daemon = place.start_with(&[
        ("KVTIER_TRACING_EXPORTER", "otlp"),
        ("KVTIER_TRACING_ENDPOINT", "http://127.0.0.1:1"),
    ]);
    let mut scheduler = Old::attach(daemon.socket(), SCHEDULER);
    let mut worker = Old::attach(daemon.socket(), WORKER);
    for client in [&mut scheduler, &mut worker] {
        let ready = client.hear();
        assert_eq!((ready.op, ready.tag, ready.count, ready.arg), (32, 0, 1, 0));
        assert_eq!(ready.payload.len(), 16 + 24);
    }

    scheduler.send(&Message::new(5, 101, 1, 0, &keys()));
    let reserved = scheduler.hear();
    let slots = reserved.payload.clone();
    assert_eq!(reserved, Message::new(5, 101, 2, 0, &slots));
    assert!(slots[..4] != [0; 4] && slots[8..12] != [0; 4], "two slots");
    worker.send(&Message::new(6, 102, 2, 0, &slots));
    let both = 2 | 2 << 32;
    assert_eq!(worker.hear(), Message::new(6, 102, 0, both, &[]));

    scheduler.send(&Message::new(1, 103, 1, 1000, &keys()));
    let span = [0, 0, 2].map(u32::to_le_bytes).concat();
    let padded = [&span[..], &[0; 4]].concat();
    assert_eq!(scheduler.hear(), Message::new(1, 103, 1, 32, &padded));
    scheduler.send(&Message::new(3, 103, 1, 104, &span));
    assert_eq!(scheduler.hear(), Message::new(3, 104, 2, 0, &slots));
    assert_eq!(daemon.occupancy("slots_leased"), 2);
    scheduler.send(&Message::new(4, 104, 0, 0, &[]));
    eventually("the lease ends", || {
        (daemon.occupancy("slots_leased") == 0).then_some(())
    });

    scheduler.send(&Message::new(10, 0, 0, 0, &[]));
    worker.send(&Message::new(10, 0, 0, 0, &[]));
    scheduler.wait_hung_up();
    worker.wait_hung_up();
    assert_eq!(daemon.occupancy("blocks"), 2, "what it stored stays");
}

/// A look-up that waits for NVMe is told so since minor version 1; who is older would not know what is said.
#[test]
fn only_who_knows_of_it_hears_that_a_look_up_waits() {
    const CHAINS: u32 = 40;
    let place = Place::new();
    let nvme = place.path("nvme").display().to_string();
    let daemon = place.start_with(&[
        ("KVTIER_HOST_CAPACITY", "8MiB"),
        ("KVTIER_NVME_DIRECTORIES", &nvme),
        ("KVTIER_NVME_CAPACITY", "128MiB"),
        ("KVTIER_NVME_PROMOTION_DEADLINE", "30s"),
    ]);
    let mut newest = Cache::open(&daemon, "");
    newest.store_durably(&daemon, 0..CHAINS);
    for minor in 0..=ABI_MINOR {
        let mut cache = Cache::open_as(&daemon, minor);
        assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN, "minor version {minor}");
        assert_eq!(cache.waited > 0, minor >= 1, "minor version {minor}");
        cache.close();
    }
}
