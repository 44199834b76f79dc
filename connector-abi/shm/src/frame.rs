//! Frames of the socket handshake: a frozen prologue of 24 bytes and a body.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, recv},
};

use crate::socket::{MAX_FDS, receive_with_fds};

/// Clients and daemons whose majors differ cannot talk.
pub const ABI_MAJOR: u16 = 1;
/// Grows with additions that the other side may ignore: 1 added [`Completion::LookupPending`](crate::Completion), 2 what
/// blocks and engines are about, 3 events of blocks, 4 traces.
pub const ABI_MINOR: u16 = 4;
/// The first minor version whose daemons understand [`Request::ReserveDescribed`](crate::Request::ReserveDescribed).
pub const DESCRIBED_MINOR: u16 = 2;
/// The first minor version whose daemons understand [`Request::Events`](crate::Request::Events).
pub const EVENTS_MINOR: u16 = 3;
/// The first minor version whose daemons understand [`Request::Trace`](crate::Request::Trace) and
/// [`Request::TracedRequest`](crate::Request::TracedRequest), and say whether they record traces.
pub const TRACE_MINOR: u16 = 4;
/// Bytes of the prologue, for ever.
pub const PROLOGUE_BYTES: usize = 24;
/// Largest body: several times the largest namespace descriptor, so that one that is too large is refused by name.
pub const BODY_BYTES_MAX: u32 = (1 << 20) + (64 << 10);

/// First eight bytes of every frame.
const MAGIC: [u8; 8] = *b"KVTIER\0\x01";
/// A body is received in pieces of this size, so that memory is only spent on bytes that have come.
const PIECE_BYTES: usize = 64 << 10;

/// What a frame's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A client asks to attach.
    AttachRequest,
    /// The daemon answers.
    AttachReply,
}

/// A whole frame.
#[derive(Debug)]
pub struct Frame {
    /// Major version of whoever sent it. Compare it before reading the body.
    pub abi_major: u16,
    /// Minor version of whoever sent it.
    pub abi_minor: u16,
    /// What the body is, as a number.
    pub kind: u16,
    /// The body: one protobuf message.
    pub body: Vec<u8>,
    /// Descriptors that came with it.
    pub fds: Vec<OwnedFd>,
}

/// Why there is no frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not a frame's.
    #[error("not a kvtier handshake: the frame begins with {actual:02x?}, want {MAGIC:02x?}")]
    Magic {
        /// The bytes.
        actual: [u8; 8],
    },
    /// Reserved bytes are not zero.
    #[error("the frame's reserved fields are {actual:#x}, want 0")]
    Reserved {
        /// What they are, together.
        actual: u64,
    },
    /// The body is larger than any may be.
    #[error("the frame's body has {actual} bytes, at most {BODY_BYTES_MAX} are allowed")]
    TooLarge {
        /// Bytes of the body.
        actual: u32,
    },
    /// The peer closed the connection in the middle (or before the beginning) of the frame.
    #[error("the peer closed the connection after {received} of the frame's bytes, want {expected}")]
    Closed {
        /// Bytes that came.
        received: usize,
        /// Bytes the frame has, as far as known.
        expected: usize,
    },
    /// Descriptors came that nobody asked for, or more than expected.
    #[error("more descriptors came with the frame than the {max} expected")]
    TooManyFds {
        /// How many were expected.
        max: usize,
    },
    /// The kernel refused.
    #[error("could not read the frame")]
    Io(#[source] io::Error),
}

impl FrameKind {
    /// The kind as a number.
    pub const fn code(self) -> u16 {
        match self {
            Self::AttachRequest => 1,
            Self::AttachReply => 2,
        }
    }
}

/// A whole frame as bytes, of our major version.
pub(crate) fn encode_frame(kind: FrameKind, abi_minor: u16, body: &[u8]) -> Result<Vec<u8>, FrameError> {
    let body_bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
    if body_bytes > BODY_BYTES_MAX {
        return Err(FrameError::TooLarge { actual: body_bytes });
    }
    let mut frame = Vec::with_capacity(PROLOGUE_BYTES + body.len());
    frame.extend_from_slice(&MAGIC);
    frame.extend_from_slice(&ABI_MAJOR.to_le_bytes());
    frame.extend_from_slice(&abi_minor.to_le_bytes());
    frame.extend_from_slice(&kind.code().to_le_bytes());
    frame.extend_from_slice(&0_u16.to_le_bytes());
    frame.extend_from_slice(&body_bytes.to_le_bytes());
    frame.extend_from_slice(&0_u32.to_le_bytes());
    frame.extend_from_slice(body);
    Ok(frame)
}

#[derive(Clone, Copy, Debug)]
struct Prologue {
    abi_major: u16,
    abi_minor: u16,
    kind: u16,
    body_bytes: u32,
}

impl Prologue {
    fn decode(bytes: &[u8; PROLOGUE_BYTES]) -> Result<Self, FrameError> {
        let [magic @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *bytes;
        if magic != MAGIC {
            return Err(FrameError::Magic { actual: magic });
        }
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let reserved = u64::from(u16_at(14)) << 32 | u64::from(u32_at(20));
        if reserved != 0 {
            return Err(FrameError::Reserved { actual: reserved });
        }
        let body_bytes = u32_at(16);
        if body_bytes > BODY_BYTES_MAX {
            return Err(FrameError::TooLarge { actual: body_bytes });
        }
        Ok(Self {
            abi_major: u16_at(8),
            abi_minor: u16_at(10),
            kind: u16_at(12),
            body_bytes,
        })
    }
}

/// Reads one frame, bit by bit, from a socket that may have none of it yet; never reads beyond the frame.
#[derive(Debug)]
pub struct FrameReader {
    fds_max: usize,
    prologue: [u8; PROLOGUE_BYTES],
    prologue_received: usize,
    decoded: Option<Prologue>,
    body: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl FrameReader {
    /// A reader that takes no descriptors: the kernel closes those that come all the same.
    pub fn new() -> Self {
        Self::with_fds(0)
    }

    /// A reader that takes up to `fds_max` descriptors (at most 4).
    pub fn with_fds(fds_max: usize) -> Self {
        Self {
            fds_max: fds_max.min(MAX_FDS),
            prologue: [0; PROLOGUE_BYTES],
            prologue_received: 0,
            decoded: None,
            body: Vec::new(),
            fds: Vec::new(),
        }
    }

    /// Reads what is there, without blocking. `None`: wait until the socket can be read, and come again. After a
    /// frame or an error the reader is used up.
    pub fn advance(&mut self, socket: BorrowedFd<'_>) -> Result<Option<Frame>, FrameError> {
        let mut piece = Vec::new();
        loop {
            let wanted = self.wanted();
            if wanted == 0 {
                return Ok(self.take_frame());
            }
            piece.resize(wanted.min(PIECE_BYTES), 0);
            match self.receive(socket, &mut piece) {
                Ok(0) => return Err(self.closed()),
                Ok(count) => self.accept(&piece[..count])?,
                Err(FrameError::Io(error)) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(None),
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::ConnectionReset => return Err(self.closed()),
                    _ => return Err(FrameError::Io(error)),
                },
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&mut self, socket: BorrowedFd<'_>, piece: &mut [u8]) -> Result<usize, FrameError> {
        if self.fds_max == 0 {
            // Without room for ancillary data the kernel closes the descriptors that come.
            let received = recv(socket, piece, RecvFlags::DONTWAIT);
            return received
                .map(|(_, count)| count)
                .map_err(|error: Errno| FrameError::Io(error.into()));
        }
        let (count, complete) = receive_with_fds(socket, piece, &mut self.fds).map_err(FrameError::Io)?;
        if !complete || self.fds.len() > self.fds_max {
            return Err(FrameError::TooManyFds { max: self.fds_max });
        }
        Ok(count)
    }

    fn wanted(&self) -> usize {
        match self.decoded {
            None => PROLOGUE_BYTES - self.prologue_received,
            Some(prologue) => prologue.body_bytes as usize - self.body.len(),
        }
    }

    fn accept(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        if self.decoded.is_some() {
            self.body.extend_from_slice(bytes);
            return Ok(());
        }
        self.prologue[self.prologue_received..][..bytes.len()].copy_from_slice(bytes);
        self.prologue_received += bytes.len();
        if self.prologue_received == PROLOGUE_BYTES {
            self.decoded = Some(Prologue::decode(&self.prologue)?);
        }
        Ok(())
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let Prologue {
            abi_major,
            abi_minor,
            kind,
            ..
        } = self.decoded?;
        let (body, fds) = (std::mem::take(&mut self.body), std::mem::take(&mut self.fds));
        Some(Frame {
            abi_major,
            abi_minor,
            kind,
            body,
            fds,
        })
    }

    fn closed(&self) -> FrameError {
        let body = self.decoded.map_or(0, |prologue| prologue.body_bytes as usize);
        FrameError::Closed {
            received: self.prologue_received + self.body.len(),
            expected: PROLOGUE_BYTES + body,
        }
    }
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
