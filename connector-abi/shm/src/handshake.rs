//! What a client says when it attaches, and what the daemon answers.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use kvstore_types::{
    AttentionKind, BootEpoch, EngineGroupId, Field, GroupGeometry, NamespaceGeometry, Rank, SessionId,
};
use prost::Message;

use crate::{
    ABI_MAJOR, ABI_MINOR, ClientFds, Frame, FrameError, FrameKind, frame::encode_frame, socket::send_with_fds,
};

/// Descriptors that come with a positive reply, in this order: control memory, region, doorbell.
pub const ATTACH_FDS: usize = 3;
/// Most descriptor fields of one session.
const FIELDS_MAX: usize = 4096;
/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// Why a handshake message cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The frame is not sound.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The other side speaks another major version.
    #[error("the peer speaks version {actual} of the attachment, this side {expected}")]
    Version {
        /// Its major version.
        actual: u16,
        /// Ours.
        expected: u16,
    },
    /// Another kind of frame was expected.
    #[error("a frame of kind {actual} came, want {expected:?}")]
    Kind {
        /// Its number.
        actual: u16,
        /// What was expected.
        expected: FrameKind,
    },
    /// The body is not the protobuf message it should be.
    #[error("the body does not parse: {0}")]
    Body(#[from] prost::DecodeError),
    /// A field is out of its range.
    #[error("{field} is {actual}, want {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// What it is.
        actual: u64,
        /// What it may be.
        expected: &'static str,
    },
    /// The kernel refused.
    #[error("could not send the reply")]
    Io(#[source] io::Error),
}

/// What a session does in its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Looks up, holds leases, reserves, resets.
    Scheduler,
    /// Copies and seals its rank's part.
    Worker(Rank),
    /// Reads counters and nothing else.
    Observer,
}

/// A client asks to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    /// Minor version of the client, which says what it understands beside what every client does. A client of this
    /// library: [`ABI_MINOR`].
    pub abi_minor: u16,
    /// The tenant; empty: the one the daemon's allow-list gives this user.
    pub tenant: String,
    /// The engine's name, for people.
    pub engine_name: String,
    /// What the session does.
    pub role: Role,
    /// Workers of this engine on this node.
    pub rank_count: u16,
    /// Equal in all sessions of one start of an engine.
    pub engine_group: EngineGroupId,
    /// Descriptor fields of the whole engine.
    pub fields: Vec<Field>,
    /// Descriptor fields of this worker alone.
    pub rank_fields: Vec<Field>,
    /// The engine's KV cache groups as this session knows them.
    pub groups: Vec<GroupGeometry>,
    /// Wanted capacity of the request ring; 0: the daemon's default.
    pub request_ring_bytes: u64,
    /// Wanted capacity of the completion ring; 0: the daemon's default.
    pub completion_ring_bytes: u64,
    /// Version of the client's library, for people.
    pub client_version: String,
    /// The client's pid as it sees itself, for people.
    pub pid: u32,
    /// Where a router finds the engine, `address:port`, as it stands in its events. Empty: no router knows it.
    pub pod: String,
    /// The name that the engine serves its model under.
    pub model: String,
}

/// How the daemon answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachStatus {
    /// The session exists.
    Ok,
    /// The daemon speaks another major version.
    VersionMismatch,
    /// The tenant does not exist, or this user may not attach to it.
    TenantRefused,
    /// The request makes no sense.
    BadRequest,
    /// The engine refused the session: see the text.
    SessionRefused,
    /// The daemon is shutting down.
    Draining,
    /// The daemon could not do it: memory or descriptors are exhausted.
    Internal,
    /// A code this library does not know. A refusal.
    Unknown(i32),
}

/// The daemon's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachReply {
    /// Whether the session exists.
    pub status: AttachStatus,
    /// Why not, and what to do.
    pub text: String,
    /// The session.
    pub session: SessionId,
    /// The daemon's boot.
    pub boot_epoch: BootEpoch,
    /// Bytes of the region.
    pub region_bytes: u64,
    /// Version of the daemon, for people.
    pub daemon_version: String,
    /// None: the daemon records no traces. Else a request that nobody else follows is followed if the last eight bytes of its
    /// trace id, big-endian and shifted right by one, are below this: 2^63 is all of them, 0 none.
    pub traces_below: Option<u64>,
}

impl AttachRequest {
    /// The request as a whole frame.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        encode_frame(
            FrameKind::AttachRequest,
            self.abi_minor,
            &wire::AttachRequest::from(self).encode_to_vec(),
        )
    }

    /// Reads a request and checks every field of it.
    pub fn decode(frame: &Frame) -> Result<Self, HandshakeError> {
        check_frame(frame, FrameKind::AttachRequest)?;
        let wire = wire::AttachRequest::decode(frame.body.as_slice())?;
        let most = |field, actual: usize, max: usize, expected| {
            if actual > max {
                Err(out_of_range(field, actual as u64, expected))
            } else {
                Ok(())
            }
        };
        most(
            "the tenant's length",
            wire.tenant.len(),
            NAME_BYTES_MAX,
            "at most 256",
        )?;
        most(
            "the engine name's length",
            wire.engine_name.len(),
            NAME_BYTES_MAX,
            "at most 256",
        )?;
        most(
            "the client version's length",
            wire.client_version.len(),
            NAME_BYTES_MAX,
            "at most 256",
        )?;
        most("the pod's length", wire.pod.len(), NAME_BYTES_MAX, "at most 256")?;
        most(
            "the model name's length",
            wire.model.len(),
            NAME_BYTES_MAX,
            "at most 256",
        )?;
        most(
            "the number of fields",
            wire.fields.len() + wire.rank_fields.len(),
            FIELDS_MAX,
            "at most 4096",
        )?;
        most(
            "the number of groups",
            wire.groups.len(),
            NamespaceGeometry::GROUPS_MAX,
            "at most 64",
        )?;
        let engine_group = <[u8; 16]>::try_from(wire.engine_group.as_slice())
            .map_err(|_| out_of_range("the engine group's length", wire.engine_group.len() as u64, "16"))?;
        Ok(Self {
            abi_minor: frame.abi_minor,
            role: decode_role(wire.role, wire.rank)?,
            rank_count: u16::try_from(wire.rank_count)
                .map_err(|_| out_of_range("the rank count", wire.rank_count.into(), "at most 65535"))?,
            engine_group: EngineGroupId(engine_group),
            fields: wire.fields.into_iter().map(Field::from).collect(),
            rank_fields: wire.rank_fields.into_iter().map(Field::from).collect(),
            groups: wire.groups.iter().map(decode_group).collect::<Result<_, _>>()?,
            tenant: wire.tenant,
            engine_name: wire.engine_name,
            request_ring_bytes: wire.request_ring_bytes,
            completion_ring_bytes: wire.completion_ring_bytes,
            client_version: wire.client_version,
            pid: wire.pid,
            pod: wire.pod,
            model: wire.model,
        })
    }
}

impl AttachReply {
    /// A reply that lets nobody in.
    pub fn refusal(status: AttachStatus, text: impl Into<String>, daemon_version: &str) -> Self {
        Self {
            status,
            text: text.into(),
            session: SessionId(0),
            boot_epoch: BootEpoch([0; 16]),
            region_bytes: 0,
            daemon_version: daemon_version.to_owned(),
            traces_below: None,
        }
    }

    /// The reply as a whole frame.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        encode_frame(
            FrameKind::AttachReply,
            ABI_MINOR,
            &wire::AttachReply::from(self).encode_to_vec(),
        )
    }

    /// Reads a reply. Its status and text can be read whatever the daemon's version is.
    pub fn decode(frame: &Frame) -> Result<Self, HandshakeError> {
        check_kind(frame, FrameKind::AttachReply)?;
        let wire = wire::AttachReply::decode(frame.body.as_slice())?;
        let status = AttachStatus::from_code(wire.status);
        if status == AttachStatus::Ok {
            check_version(frame)?;
        }
        let boot_epoch = <[u8; 16]>::try_from(wire.boot_epoch.as_slice());
        let boot_epoch = match boot_epoch {
            Err(_) if status == AttachStatus::Ok => {
                return Err(out_of_range(
                    "the boot epoch's length",
                    wire.boot_epoch.len() as u64,
                    "16",
                ));
            }
            other => other.unwrap_or_default(),
        };
        Ok(Self {
            status,
            text: wire.text,
            session: SessionId(wire.session_id),
            boot_epoch: BootEpoch(boot_epoch),
            region_bytes: wire.region_bytes,
            daemon_version: wire.daemon_version,
            traces_below: wire.traces_below,
        })
    }
}

/// Sends a reply in one message, without blocking. `fds`: the session's control memory and doorbell and the tenant's
/// region, for a reply that is `Ok`.
///
/// A client that has asked just once has room for the reply in its socket; one that has not is refused with
/// `WouldBlock`.
pub fn send_reply(
    socket: BorrowedFd<'_>,
    reply: &AttachReply,
    fds: Option<(&ClientFds, BorrowedFd<'_>)>,
) -> Result<(), HandshakeError> {
    let frame = reply.encode()?;
    let fds = fds.map(|(client, region)| [client.control.as_fd(), region, client.doorbell.as_fd()]);
    let fds = fds.as_ref().map_or(&[][..], |fds| &fds[..]);
    let sent = send_with_fds(socket, &frame, fds).map_err(HandshakeError::Io)?;
    if sent != frame.len() {
        return Err(HandshakeError::Io(io::ErrorKind::WriteZero.into()));
    }
    Ok(())
}

fn check_frame(frame: &Frame, expected: FrameKind) -> Result<(), HandshakeError> {
    check_version(frame)?;
    check_kind(frame, expected)
}

fn check_version(frame: &Frame) -> Result<(), HandshakeError> {
    if frame.abi_major != ABI_MAJOR {
        return Err(HandshakeError::Version {
            actual: frame.abi_major,
            expected: ABI_MAJOR,
        });
    }
    // The minors may differ: a higher one only adds what the lower one may ignore.
    Ok(())
}

fn check_kind(frame: &Frame, expected: FrameKind) -> Result<(), HandshakeError> {
    if frame.kind != expected.code() {
        return Err(HandshakeError::Kind {
            actual: frame.kind,
            expected,
        });
    }
    Ok(())
}

fn out_of_range(field: &'static str, actual: u64, expected: &'static str) -> HandshakeError {
    HandshakeError::Field {
        field,
        actual,
        expected,
    }
}

fn decode_role(role: u32, rank: u32) -> Result<Role, HandshakeError> {
    match role {
        0 => Ok(Role::Scheduler),
        1 => u16::try_from(rank)
            .map(|rank| Role::Worker(Rank(rank)))
            .map_err(|_| out_of_range("the rank", rank.into(), "at most 65535")),
        2 => Ok(Role::Observer),
        other => Err(out_of_range(
            "the role",
            other.into(),
            "0 (scheduler), 1 (worker) or 2 (observer)",
        )),
    }
}

fn decode_group(wire: &wire::Group) -> Result<GroupGeometry, HandshakeError> {
    let kind = match wire.kind {
        0 => AttentionKind::Full,
        1 => AttentionKind::SlidingWindow {
            window_tokens: wire.window_tokens,
        },
        other => {
            return Err(out_of_range(
                "a group's kind",
                other.into(),
                "0 (full) or 1 (sliding window)",
            ));
        }
    };
    Ok(GroupGeometry {
        kind,
        tokens_per_block: wire.tokens_per_block,
        rank_bytes: wire.rank_bytes,
    })
}

impl AttachStatus {
    /// The status as a number.
    pub const fn code(self) -> i32 {
        match self {
            Self::Ok => 1,
            Self::VersionMismatch => 2,
            Self::TenantRefused => 3,
            Self::BadRequest => 4,
            Self::SessionRefused => 5,
            Self::Draining => 6,
            Self::Internal => 7,
            Self::Unknown(code) => code,
        }
    }

    const fn from_code(code: i32) -> Self {
        match code {
            1 => Self::Ok,
            2 => Self::VersionMismatch,
            3 => Self::TenantRefused,
            4 => Self::BadRequest,
            5 => Self::SessionRefused,
            6 => Self::Draining,
            7 => Self::Internal,
            other => Self::Unknown(other),
        }
    }
}

mod wire;

#[cfg(test)]
mod tests;
