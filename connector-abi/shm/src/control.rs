//! A session's control memory: a header, two rings and their flags, with a doorbell on each side.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use kvstore_types::{BootEpoch, SessionId};
use memmap2::{Advice, MmapOptions};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    Completion, Consumer, Doorbell, DoorbellError, LAYOUT_VERSION, MessageBuffer, MessageError,
    PeerCursorError, Producer, RING_BYTES_MAX, RING_BYTES_MIN, Request, SendError, Sleep,
    layout::{CONTROL_HEADER_BYTES, CONTROL_MAGIC, ControlHeader, RINGS_OFFSET, line},
    memory::{Mapping, RingLines, RingMemory},
    seal::{seal_size, sealed_size},
};

/// What the daemon decides about a session's control memory.
#[derive(Clone, Copy, Debug)]
pub struct ControlSpec {
    /// The daemon's boot.
    pub boot_epoch: BootEpoch,
    /// The session.
    pub session: SessionId,
    /// Capacity of the request ring: a power of two from [`RING_BYTES_MIN`] to [`RING_BYTES_MAX`].
    pub request_ring_bytes: u64,
    /// Capacity of the completion ring, likewise.
    pub completion_ring_bytes: u64,
}

/// Why control memory cannot be made or attached to.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A ring cannot have this capacity.
    #[error(
        "the {ring} ring has {actual} bytes: want a power of two from {RING_BYTES_MIN} to {RING_BYTES_MAX}"
    )]
    RingBytes {
        /// "request" or "completion".
        ring: &'static str,
        /// The capacity.
        actual: u64,
    },
    /// The memory that came over the socket can still shrink.
    #[error("the control memory is not sealed against shrinking")]
    NotSealed,
    /// A number in the header is not what it must be.
    #[error("the control memory has {what} {actual:#x}, want {expected:#x}")]
    Header {
        /// Which.
        what: &'static str,
        /// What it is.
        actual: u64,
        /// What it must be.
        expected: u64,
    },
    /// The kernel refused.
    #[error("could not {what} the control memory")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What goes to the client in the handshake.
#[derive(Debug)]
pub struct ClientFds {
    /// The control memory.
    pub control: OwnedFd,
    /// The client's end of the doorbell.
    pub doorbell: OwnedFd,
}

/// Why nothing could be received. The session is over.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The peer's cursor or a length is not sound.
    #[error(transparent)]
    Cursor(#[from] PeerCursorError),
    /// The message makes no sense.
    #[error(transparent)]
    Message(#[from] MessageError),
}

/// The daemon's end of a session.
#[derive(Debug)]
pub struct DaemonEnd {
    requests: Consumer,
    completions: Producer,
    doorbell: Doorbell,
}

/// The client's end of a session.
#[derive(Debug)]
pub struct ClientEnd {
    requests: Producer,
    completions: Consumer,
    doorbell: Doorbell,
    boot_epoch: BootEpoch,
    session: SessionId,
}

impl DaemonEnd {
    /// Makes a session's control memory, sealed, and what the client needs to attach to it.
    pub fn create(spec: &ControlSpec) -> Result<(Self, ClientFds), ControlError> {
        let header = header(spec)?;
        let bytes = header.completion_ring_offset + header.completion_ring_bytes;
        let io = |what| move |source: io::Error| ControlError::Io { what, source };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let control = memfd_create("kvtier-control", flags)
            .map_err(io::Error::from)
            .map_err(io("create"))?;
        ftruncate(&control, bytes)
            .map_err(io::Error::from)
            .map_err(io("size"))?;
        seal_size(control.as_fd()).map_err(io("seal"))?;
        let mapping = map(&control, bytes)?;
        mapping.write(0, header.as_bytes());
        let (ours, theirs) = Doorbell::pair().map_err(io("make a doorbell for"))?;
        let end = Self {
            requests: Consumer::new(RingMemory::new(Arc::clone(&mapping), request_lines(&header))),
            completions: Producer::new(RingMemory::new(mapping, completion_lines(&header))),
            doorbell: ours,
        };
        Ok((
            end,
            ClientFds {
                control,
                doorbell: theirs.into(),
            },
        ))
    }

    /// Takes the next request, if one is there. After an error the session is over.
    pub fn receive<'b>(
        &mut self,
        buffer: &'b mut MessageBuffer,
    ) -> Result<Option<Request<'b>>, ReceiveError> {
        let message = self.requests.pop_into(buffer)?;
        Ok(message.map(Request::decode).transpose()?)
    }

    /// Writes a completion into the ring. The client does not hear of it before [`notify`](Self::notify).
    pub fn send(&mut self, completion: &Completion<'_>) -> Result<(), SendError> {
        completion.encode(&mut self.completions)
    }

    /// Wakes the client if it sleeps on what was sent or on the room that was made. Call once after a batch of
    /// `receive` and `send`.
    pub fn notify(&mut self) -> Result<(), DoorbellError> {
        let (sleeping, waiting) = (
            self.completions.take_consumer_sleeping(),
            self.requests.take_producer_waiting(),
        );
        if sleeping || waiting {
            self.doorbell.ring()
        } else {
            Ok(())
        }
    }

    /// Says that the daemon is about to sleep on the doorbell. `completion_bytes`: it also waits for room for a
    /// completion of that size; 0: it does not.
    pub fn begin_sleep(&mut self, completion_bytes: usize) -> Result<Sleep, PeerCursorError> {
        begin_sleep(&mut self.requests, &mut self.completions, completion_bytes)
    }

    /// Says that the daemon is awake.
    pub fn end_sleep(&mut self) {
        self.requests.end_sleep();
        self.completions.end_wait();
    }

    /// What wakes the daemon: wait until it can be read, [`drain`](Doorbell::drain) it, then look for messages.
    pub fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    /// The request ring alone.
    pub fn requests(&mut self) -> &mut Consumer {
        &mut self.requests
    }

    /// The completion ring alone.
    pub fn completions(&mut self) -> &mut Producer {
        &mut self.completions
    }
}

impl ClientEnd {
    /// Attaches to the control memory the daemon passed on.
    pub fn attach(control: &OwnedFd, doorbell: OwnedFd) -> Result<Self, ControlError> {
        let io = |source| ControlError::Io {
            what: "look at",
            source,
        };
        let bytes = sealed_size(control.as_fd())
            .map_err(io)?
            .ok_or(ControlError::NotSealed)?;
        if bytes < RINGS_OFFSET {
            return Err(ControlError::Header {
                what: "size",
                actual: bytes,
                expected: RINGS_OFFSET,
            });
        }
        let mapping = map(control, bytes)?;
        let mut copy = [0; size_of::<ControlHeader>()];
        mapping.read(0, &mut copy);
        let header = ControlHeader::read_from_bytes(&copy).map_err(|_| ControlError::Header {
            what: "header size",
            actual: 0,
            expected: copy.len() as u64,
        })?;
        check_header(&header, bytes)?;
        Ok(Self {
            requests: Producer::new(RingMemory::new(Arc::clone(&mapping), request_lines(&header))),
            completions: Consumer::new(RingMemory::new(mapping, completion_lines(&header))),
            doorbell: Doorbell::from(doorbell),
            boot_epoch: BootEpoch(header.boot_epoch),
            session: SessionId(header.session_id),
        })
    }

    /// Takes the next completion, if one is there. After an error the session is over.
    pub fn receive<'b>(
        &mut self,
        buffer: &'b mut MessageBuffer,
    ) -> Result<Option<Completion<'b>>, ReceiveError> {
        let message = self.completions.pop_into(buffer)?;
        Ok(message.map(Completion::decode).transpose()?)
    }

    /// Writes a request into the ring. The daemon does not hear of it before [`notify`](Self::notify).
    pub fn send(&mut self, request: &Request<'_>) -> Result<(), SendError> {
        request.encode(&mut self.requests)
    }

    /// Wakes the daemon if it sleeps on what was sent or on the room that was made. Call once after a batch of
    /// `receive` and `send`.
    pub fn notify(&mut self) -> Result<(), DoorbellError> {
        let (sleeping, waiting) = (
            self.requests.take_consumer_sleeping(),
            self.completions.take_producer_waiting(),
        );
        if sleeping || waiting {
            self.doorbell.ring()
        } else {
            Ok(())
        }
    }

    /// Says that the client is about to sleep on the doorbell. `request_bytes`: it also waits for room for a
    /// request of that size; 0: it does not.
    pub fn begin_sleep(&mut self, request_bytes: usize) -> Result<Sleep, PeerCursorError> {
        begin_sleep(&mut self.completions, &mut self.requests, request_bytes)
    }

    /// Says that the client is awake.
    pub fn end_sleep(&mut self) {
        self.completions.end_sleep();
        self.requests.end_wait();
    }

    /// What wakes the client.
    pub fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    /// The request ring alone.
    pub fn requests(&mut self) -> &mut Producer {
        &mut self.requests
    }

    /// The completion ring alone.
    pub fn completions(&mut self) -> &mut Consumer {
        &mut self.completions
    }

    /// The daemon's boot, as the control memory has it.
    pub fn boot_epoch(&self) -> BootEpoch {
        self.boot_epoch
    }

    /// The session, as the control memory has it.
    pub fn session(&self) -> SessionId {
        self.session
    }
}

fn begin_sleep(
    incoming: &mut Consumer,
    outgoing: &mut Producer,
    room: usize,
) -> Result<Sleep, PeerCursorError> {
    if incoming.begin_sleep()? == Sleep::Stay {
        return Ok(Sleep::Stay);
    }
    if room > 0 && outgoing.begin_wait(room)? == Sleep::Stay {
        incoming.end_sleep();
        return Ok(Sleep::Stay);
    }
    Ok(Sleep::Go)
}

fn header(spec: &ControlSpec) -> Result<ControlHeader, ControlError> {
    check_ring_bytes("request", spec.request_ring_bytes)?;
    check_ring_bytes("completion", spec.completion_ring_bytes)?;
    Ok(ControlHeader {
        magic: CONTROL_MAGIC,
        layout_version: LAYOUT_VERSION,
        header_bytes: CONTROL_HEADER_BYTES,
        boot_epoch: spec.boot_epoch.0,
        session_id: spec.session.0,
        request_ring_offset: RINGS_OFFSET,
        request_ring_bytes: spec.request_ring_bytes,
        completion_ring_offset: RINGS_OFFSET + spec.request_ring_bytes,
        completion_ring_bytes: spec.completion_ring_bytes,
    })
}

fn check_ring_bytes(ring: &'static str, actual: u64) -> Result<(), ControlError> {
    if !actual.is_power_of_two() || !(RING_BYTES_MIN..=RING_BYTES_MAX).contains(&actual) {
        return Err(ControlError::RingBytes { ring, actual });
    }
    Ok(())
}

fn check_header(header: &ControlHeader, bytes: u64) -> Result<(), ControlError> {
    check_ring_bytes("request", header.request_ring_bytes)?;
    check_ring_bytes("completion", header.completion_ring_bytes)?;
    let completion_ring_offset = RINGS_OFFSET + header.request_ring_bytes;
    let wanted = [
        ("magic", header.magic, CONTROL_MAGIC),
        (
            "layout version",
            header.layout_version.into(),
            LAYOUT_VERSION.into(),
        ),
        (
            "header size",
            header.header_bytes.into(),
            CONTROL_HEADER_BYTES.into(),
        ),
        ("request ring offset", header.request_ring_offset, RINGS_OFFSET),
        (
            "completion ring offset",
            header.completion_ring_offset,
            completion_ring_offset,
        ),
        (
            "size",
            bytes,
            completion_ring_offset + header.completion_ring_bytes,
        ),
    ];
    for (what, actual, expected) in wanted {
        if actual != expected {
            return Err(ControlError::Header {
                what,
                actual,
                expected,
            });
        }
    }
    Ok(())
}

fn map(control: &OwnedFd, bytes: u64) -> Result<Arc<Mapping>, ControlError> {
    let io = |source| ControlError::Io { what: "map", source };
    let length = usize::try_from(bytes).map_err(|_| io(io::ErrorKind::OutOfMemory.into()))?;
    let map = MmapOptions::new().len(length).map_raw(control).map_err(io)?;
    // A forked child must not speak for its parent, nor keep the daemon's counterpart in use.
    map.advise(Advice::DontFork).map_err(io)?;
    // All pages are there before the first message: no message pays for a fault, and a cgroup without memory is an
    // error now and not a signal later.
    match map.advise(Advice::PopulateWrite) {
        // Kernels before 5.14 do not know the advice.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
        result => result.map_err(io)?,
    }
    Ok(Arc::new(Mapping::new(map)))
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rings are at most RING_BYTES_MAX, which a usize holds"
)]
fn request_lines(header: &ControlHeader) -> RingLines {
    RingLines {
        tail: line::REQUEST_TAIL,
        head: line::REQUEST_HEAD,
        consumer_sleeping: line::DAEMON_SLEEPING,
        producer_waiting: line::CLIENT_WANTS_SPACE,
        bytes: header.request_ring_offset as usize,
        capacity: header.request_ring_bytes as usize,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rings are at most RING_BYTES_MAX, which a usize holds"
)]
fn completion_lines(header: &ControlHeader) -> RingLines {
    RingLines {
        tail: line::COMPLETION_TAIL,
        head: line::COMPLETION_HEAD,
        consumer_sleeping: line::CLIENT_SLEEPING,
        producer_waiting: line::DAEMON_WANTS_SPACE,
        bytes: header.completion_ring_offset as usize,
        capacity: header.completion_ring_bytes as usize,
    }
}

#[cfg(test)]
mod tests;
