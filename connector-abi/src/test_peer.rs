//! A daemon that does what a test tells it, built from the daemon's end of the shared memory.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use connector_shm::{
    AttachReply, AttachRequest, AttachStatus, Completion, ControlSpec, DaemonEnd, FrameReader, HugePages,
    MessageBuffer, RankLayout, Region, RegionSpec, Request, send_reply,
};
use kvstore_types::{AttentionKind, BootEpoch, EngineGroupId, GroupGeometry, NamespaceId, Rank, SessionId};

use crate::client::{Reattach, Role, Session, SessionOptions};

/// Nothing in these tests takes this long, unless it hangs.
pub(crate) const WATCHDOG: Duration = Duration::from_mins(1);

pub(crate) const REGION_BYTES: u64 = 1 << 20;

/// A rank's part of each slot in these tests.
pub(crate) const LAYOUT: RankLayout = RankLayout {
    slot_bytes: 8192,
    rank_offset: 4096,
    rank_bytes: 4096,
};

/// Where clients find the daemon.
pub(crate) struct TestSocket {
    directory: tempfile::TempDir,
}

/// A listening daemon.
pub(crate) struct TestDaemon {
    listener: UnixListener,
    boot_epoch: BootEpoch,
}

/// The daemon's side of one session.
pub(crate) struct TestPeer {
    pub(crate) request: AttachRequest,
    pub(crate) end: DaemonEnd,
    pub(crate) region: Region,
    pub(crate) socket: UnixStream,
    buffer: MessageBuffer,
}

impl TestSocket {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("kvtier.sock")
    }

    /// Starts a daemon; a boot is told from others by its number.
    pub(crate) fn listen(&self, boot: u8) -> TestDaemon {
        // A daemon takes a dead one's socket over.
        let _ = std::fs::remove_file(self.path());
        TestDaemon {
            listener: UnixListener::bind(self.path()).unwrap(),
            boot_epoch: BootEpoch([boot; 16]),
        }
    }

    pub(crate) fn options(&self, role: Role) -> SessionOptions {
        let rank_bytes = if role == Role::Scheduler {
            0
        } else {
            LAYOUT.rank_bytes
        };
        SessionOptions {
            socket_path: Some(self.path()),
            groups: vec![GroupGeometry {
                kind: AttentionKind::Full,
                tokens_per_block: 16,
                rank_bytes,
            }],
            request_ring_bytes: 64 << 10,
            completion_ring_bytes: 64 << 10,
            deadline: WATCHDOG,
            ..SessionOptions::engine("test", role, 1, EngineGroupId([9; 16]))
        }
    }

    /// An attached session and its peer, which has not said anything yet.
    pub(crate) fn attached(&self, role: Role, reattach: Reattach) -> (Session, TestPeer) {
        let daemon = self.listen(1);
        let options = SessionOptions {
            reattach,
            ..self.options(role)
        };
        let client = std::thread::spawn(move || Session::open(options).unwrap());
        let peer = daemon.accept();
        (client.join().unwrap(), peer)
    }
}

impl TestDaemon {
    fn receive(&self) -> (UnixStream, AttachRequest) {
        let (socket, _) = self.listener.accept().unwrap();
        let mut reader = FrameReader::new();
        let deadline = Instant::now() + WATCHDOG;
        loop {
            if let Some(frame) = reader.advance(socket.as_fd()).unwrap() {
                return (socket, AttachRequest::decode(&frame).unwrap());
            }
            assert!(Instant::now() < deadline, "the client sent no request");
            std::thread::yield_now();
        }
    }

    pub(crate) fn accept(&self) -> TestPeer {
        let (socket, request) = self.receive();
        let session = SessionId(5);
        let (end, fds) = DaemonEnd::create(&ControlSpec {
            boot_epoch: self.boot_epoch,
            session,
            request_ring_bytes: request.request_ring_bytes,
            completion_ring_bytes: request.completion_ring_bytes,
        })
        .unwrap();
        let created = Region::create(&RegionSpec {
            bytes: REGION_BYTES,
            huge_pages: HugePages::Off,
            boot_epoch: self.boot_epoch,
            tenant: "test",
        });
        let region = created.unwrap().region;
        let reply = AttachReply {
            status: AttachStatus::Ok,
            text: String::new(),
            session,
            boot_epoch: self.boot_epoch,
            region_bytes: REGION_BYTES,
            daemon_version: "test".to_owned(),
            traces_below: Some(1 << 62),
        };
        send_reply(socket.as_fd(), &reply, Some((&fds, region.file()))).unwrap();
        TestPeer {
            request,
            end,
            region,
            socket,
            buffer: MessageBuffer::new(),
        }
    }

    pub(crate) fn refuse(&self, status: AttachStatus, text: &str) {
        let (socket, _) = self.receive();
        let reply = AttachReply::refusal(status, text, "test");
        send_reply(socket.as_fd(), &reply, None).unwrap();
    }
}

impl TestPeer {
    pub(crate) fn say(&mut self, completion: &Completion<'_>) {
        self.end.send(completion).unwrap();
        self.end.notify().unwrap();
    }

    pub(crate) fn say_ready(&mut self) {
        let namespace = NamespaceId([3; 16]);
        self.say(&Completion::NamespaceReady {
            namespace,
            groups: &[LAYOUT],
        });
    }

    /// The next request, which must be there.
    pub(crate) fn hear(&mut self) -> Request<'_> {
        self.end.receive(&mut self.buffer).unwrap().expect("a request")
    }

    pub(crate) fn hears_nothing(&mut self) -> bool {
        self.end.receive(&mut self.buffer).unwrap().is_none()
    }
}

pub(crate) const WORKER: Role = Role::Worker(Rank(0));

/// Calls `look` until it finds something.
pub(crate) fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it never happened");
        std::thread::yield_now();
    }
}
