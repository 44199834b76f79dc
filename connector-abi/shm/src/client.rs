//! Attaching, from the client's side: blocking, with a deadline.

use std::{io, os::fd::AsFd, os::unix::net::UnixStream, path::Path, time::Instant};

use kvstore_types::{BootEpoch, SessionId};

use crate::{
    ABI_MAJOR, ATTACH_FDS, AttachReply, AttachRequest, AttachStatus, ClientEnd, ClientRegion, ControlError,
    Frame, FrameError, FrameReader, HandshakeError, RegionError,
    doorbell::poll_readable,
    socket::{connect_before, send_before},
};

/// Everything a client holds of its session. The session lives as long as `socket` is open.
#[derive(Debug)]
pub struct Attachment {
    /// Says, by hanging up, that the daemon is gone. Nothing is sent over it any more. Non-blocking.
    pub socket: UnixStream,
    /// The rings.
    pub end: ClientEnd,
    /// The tenant's region.
    pub region: ClientRegion,
    /// The session.
    pub session: SessionId,
    /// The daemon's boot.
    pub boot_epoch: BootEpoch,
    /// The daemon's minor version: what it understands beside what every daemon does.
    pub daemon_minor: u16,
    /// The daemon's version, for people.
    pub daemon_version: String,
    /// Whether the daemon records traces, and of what: [`AttachReply::traces_below`].
    pub traces_below: Option<u64>,
}

/// Why a client is not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// Nobody listens at the socket.
    #[error("no daemon at the socket")]
    Unavailable(#[source] io::Error),
    /// The deadline has passed.
    #[error("the daemon did not answer in time")]
    TimedOut,
    /// The daemon closed the connection without an answer.
    #[error("the daemon closed the connection during the handshake")]
    Closed,
    /// The daemon refused.
    #[error("the daemon refused ({status:?}): {text}")]
    Refused {
        /// Its reason as a code.
        status: AttachStatus,
        /// Its reason for people, and what to do.
        text: String,
    },
    /// The daemon speaks another major version.
    #[error("the daemon speaks version {theirs} of the attachment, this library {ABI_MAJOR}: {text}")]
    VersionMismatch {
        /// The daemon's version.
        theirs: u16,
        /// What it says about it.
        text: String,
    },
    /// The request itself cannot be sent.
    #[error("the request is too large: {0}")]
    Request(#[source] FrameError),
    /// What the daemon sent makes no sense.
    #[error("the daemon's answer makes no sense: {0}")]
    Handshake(#[from] HandshakeError),
    /// Other descriptors came than expected.
    #[error("{actual} descriptors came with the daemon's answer, want {ATTACH_FDS}")]
    Fds {
        /// How many came.
        actual: usize,
    },
    /// The control memory is not usable.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The region is not usable.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// Reply and shared memory disagree about the session.
    #[error("the daemon's answer and its control memory name different sessions")]
    Disagreement,
    /// The kernel refused.
    #[error("could not talk to the daemon")]
    Io(#[source] io::Error),
}

impl Attachment {
    /// Connects to the daemon at `path` and attaches, or says why not, by `deadline`.
    pub fn open(path: &Path, request: &AttachRequest, deadline: Instant) -> Result<Self, AttachError> {
        let bytes = request.encode().map_err(AttachError::Request)?;
        let socket = connect_before(path, deadline).map_err(connect_error)?;
        // A daemon that refuses may close before it has read everything: its answer is worth more than our EPIPE.
        let sent = send_before(socket.as_fd(), &bytes, deadline);
        let frame = match (receive_frame(&socket, deadline), sent) {
            (Ok(frame), _) => frame,
            (Err(AttachError::Closed), Err(error)) => return Err(talk_error(error)),
            (Err(error), _) => return Err(error),
        };
        Self::from_reply(socket, frame)
    }

    fn from_reply(socket: UnixStream, mut frame: Frame) -> Result<Self, AttachError> {
        let reply = AttachReply::decode(&frame)?;
        match reply.status {
            AttachStatus::Ok => {}
            AttachStatus::VersionMismatch => {
                return Err(AttachError::VersionMismatch {
                    theirs: frame.abi_major,
                    text: reply.text,
                });
            }
            status => {
                return Err(AttachError::Refused {
                    status,
                    text: reply.text,
                });
            }
        }
        let fds: [_; ATTACH_FDS] = std::mem::take(&mut frame.fds)
            .try_into()
            .map_err(|fds: Vec<_>| AttachError::Fds { actual: fds.len() })?;
        let [control, region, doorbell] = fds;
        let end = ClientEnd::attach(&control, doorbell)?;
        if (end.session(), end.boot_epoch()) != (reply.session, reply.boot_epoch) {
            return Err(AttachError::Disagreement);
        }
        let region = ClientRegion::map(&region, reply.region_bytes, reply.boot_epoch)?;
        let AttachReply {
            session,
            boot_epoch,
            daemon_version,
            traces_below,
            ..
        } = reply;
        Ok(Self {
            socket,
            end,
            region,
            session,
            boot_epoch,
            daemon_minor: frame.abi_minor,
            daemon_version,
            traces_below,
        })
    }
}

fn receive_frame(socket: &UnixStream, deadline: Instant) -> Result<Frame, AttachError> {
    let mut reader = FrameReader::with_fds(ATTACH_FDS);
    loop {
        match reader.advance(socket.as_fd()) {
            Ok(Some(frame)) => return Ok(frame),
            Ok(None) => {}
            Err(FrameError::Closed { .. }) => return Err(AttachError::Closed),
            Err(error) => return Err(HandshakeError::Frame(error).into()),
        }
        if !poll_readable(socket.as_fd(), Some(deadline)).map_err(AttachError::Io)? {
            return Err(AttachError::TimedOut);
        }
    }
}

fn connect_error(error: io::Error) -> AttachError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AttachError::Unavailable(error),
        _ => talk_error(error),
    }
}

fn talk_error(error: io::Error) -> AttachError {
    match error.kind() {
        io::ErrorKind::TimedOut => AttachError::TimedOut,
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => AttachError::Closed,
        _ => AttachError::Io(error),
    }
}

#[cfg(test)]
mod tests;
