//! One client asks to attach; it is let in or told why not.

use std::os::fd::AsFd;
use std::rc::Rc;

use connector_shm::{
    AttachReply, AttachRequest, AttachStatus, ClientFds, ControlError, ControlSpec, DaemonEnd, Frame,
    FrameError, FrameReader, HandshakeError, PeerCredentials, PeerProcess, Role, send_reply,
};
use kvstore_engine::{Refusal, SessionEnd, SessionProfile};
use kvstore_types::SessionId;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use super::places::{Peer, PlacesTaken};
use super::process::ProcessTicket;
use super::rings::RingShare;
use super::{Door, Ingress, refuse};
use crate::engine_thread::command::{Attach, Command};
use crate::tenant::error_chain;

/// The part of all handshakes that may wait for one process's words is one in so many.
const PROCESS_SHARE: usize = 8;

/// A session that was let in.
pub(super) struct Attached {
    pub(super) session: SessionId,
    pub(super) door: usize,
    pub(super) ticket: ProcessTicket,
    pub(super) ended: oneshot::Receiver<SessionEnd>,
    pub(super) share: RingShare,
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Places(#[from] PlacesTaken),
}

impl ReadError {
    fn status(&self) -> AttachStatus {
        match self {
            Self::Frame(_) => AttachStatus::BadRequest,
            Self::Places(_) => AttachStatus::SessionRefused,
        }
    }
}

/// Why a client is not let in.
struct Rejection {
    status: AttachStatus,
    text: String,
    /// `Closed`: it never had any memory of ours, so there is nothing its death would have to prove.
    end: SessionEnd,
}

impl Ingress {
    /// Reads the request, asks the tenant's engine, and answers. `None`: the client was refused or went away.
    pub(super) async fn shake_hands(
        self: &Rc<Self>,
        stream: &UnixStream,
        credentials: PeerCredentials,
    ) -> Option<Attached> {
        let PeerCredentials { pid, uid, gid } = credentials;
        let reading = self.read_request(stream, Peer::of(credentials));
        let frame = match tokio::time::timeout(self.limits.handshake_deadline, reading).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(ReadError::Frame(FrameError::Closed { received: 0, .. }))) => {
                debug!(uid, pid, "a connection was closed without a word");
                return None;
            }
            Ok(Err(cause)) => {
                warn!(uid, pid, cause = error_chain(&cause), "handshake failed");
                refuse(stream, cause.status(), error_chain(&cause));
                return None;
            }
            Err(_) => {
                warn!(uid, pid, "handshake not finished in time");
                refuse(
                    stream,
                    AttachStatus::BadRequest,
                    "the handshake was not finished in time".to_owned(),
                );
                return None;
            }
        };
        match self.attach(stream, &frame, credentials).await {
            Ok(attached) => Some(attached),
            Err(rejection) => {
                warn!(uid, gid, pid, status = ?rejection.status, reason = rejection.text, "client refused");
                refuse(stream, rejection.status, rejection.text);
                None
            }
        }
    }

    /// Reads one frame. While some of it is still to come the client takes one of its process's places, so that one
    /// slow process does not keep all others waiting; who has said all already takes none.
    async fn read_request(&self, stream: &UnixStream, peer: Peer) -> Result<Frame, ReadError> {
        let mut reader = FrameReader::new();
        if let Some(frame) = reader.advance(stream.as_fd())? {
            return Ok(frame);
        }
        let max = (self.limits.handshakes / PROCESS_SHARE).max(1);
        let _place = self.slow.take(peer, max)?;
        Ok(read_frame(stream, &mut reader).await?)
    }

    async fn attach(
        self: &Rc<Self>,
        stream: &UnixStream,
        frame: &Frame,
        credentials: PeerCredentials,
    ) -> Result<Attached, Rejection> {
        let request = AttachRequest::decode(frame).map_err(|error| undecodable(&error))?;
        let door_index = self.choose_door(&request.tenant, credentials)?;
        let door = &self.doors[door_index];
        let peer = PeerProcess::of_socket(stream.as_fd())
            .map_err(|error| Rejection::new(AttachStatus::Internal, error_chain(&error)))?;
        let ticket = self
            .processes
            .borrow_mut()
            .enter(peer, door_index, self.limits.sessions)
            .map_err(|error| Rejection::new(AttachStatus::SessionRefused, error.to_string()))?;
        let session = self.session_id();
        let result = self
            .open(stream, door, session, ticket, credentials, &request)
            .await;
        match result {
            Ok((ended, share)) => {
                tell(door, session, ticket, &request, credentials);
                Ok(Attached {
                    session,
                    door: door_index,
                    ticket,
                    ended,
                    share,
                })
            }
            Err(rejection) => {
                self.watch_process(ticket);
                self.processes.borrow_mut().leave(ticket, rejection.end);
                Err(rejection)
            }
        }
    }

    async fn open(
        &self,
        stream: &UnixStream,
        door: &Door,
        session: SessionId,
        ticket: ProcessTicket,
        credentials: PeerCredentials,
        request: &AttachRequest,
    ) -> Result<(oneshot::Receiver<SessionEnd>, RingShare), Rejection> {
        let share = RingShare::take(request, &door.rings, self.limits.ring_bytes)
            .map_err(|error| Rejection::new(AttachStatus::SessionRefused, error.to_string()))?;
        let (end, fds) = self.rings(session, &share)?;
        let (admitted, answer) = oneshot::channel();
        let (ended, end_heard) = oneshot::channel();
        let profile = profile(request);
        let process = ticket.process;
        let attach = Attach {
            session,
            process,
            credentials,
            abi_minor: request.abi_minor,
            profile,
            end,
            admitted,
            ended,
        };
        door.commands.send(Command::Attach(Box::new(attach)));
        // The engine thread answers at once; a thread that has ended drops the question.
        match answer.await {
            Ok(Ok(())) => {}
            Ok(Err(Refusal::Draining)) => {
                return Err(Rejection::new(
                    AttachStatus::Draining,
                    Refusal::Draining.to_string(),
                ));
            }
            Ok(Err(refusal)) => {
                return Err(Rejection::new(AttachStatus::SessionRefused, refusal.to_string()));
            }
            Err(_) => {
                return Err(Rejection::new(
                    AttachStatus::Draining,
                    "the daemon is ending: it lets no more clients in until it has been started again",
                ));
            }
        }
        let reply = AttachReply {
            status: AttachStatus::Ok,
            text: String::new(),
            session,
            boot_epoch: self.boot_epoch,
            region_bytes: door.region.bytes(),
            daemon_version: env!("CARGO_PKG_VERSION").to_owned(),
            traces_below: self.traces_below,
        };
        if let Err(cause) = send_reply(stream.as_fd(), &reply, Some((&fds, door.region.file()))) {
            // Part of the reply may have reached it, and the memory comes with the first byte.
            door.commands.send(Command::HungUp(session));
            let rejection = Rejection::new(AttachStatus::Internal, error_chain(&cause));
            return Err(Rejection {
                end: SessionEnd::HungUp,
                ..rejection
            });
        }
        Ok((end_heard, share))
    }

    fn rings(&self, session: SessionId, share: &RingShare) -> Result<(DaemonEnd, ClientFds), Rejection> {
        let spec = ControlSpec {
            boot_epoch: self.boot_epoch,
            session,
            request_ring_bytes: share.request_bytes,
            completion_ring_bytes: share.completion_bytes,
        };
        DaemonEnd::create(&spec).map_err(|error| {
            let status = match error {
                ControlError::RingBytes { .. } => AttachStatus::BadRequest,
                _ => AttachStatus::Internal,
            };
            Rejection::new(status, error_chain(&error))
        })
    }

    /// The tenant a client asks for, or the first that lets it in.
    fn choose_door(&self, tenant: &str, credentials: PeerCredentials) -> Result<usize, Rejection> {
        let (uid, gid) = (credentials.uid, credentials.gid);
        let found = self.doors.iter().position(|door| {
            (tenant.is_empty() || door.config.name == tenant) && door.config.access.allows(uid, gid)
        });
        found.ok_or_else(|| {
            // Whether the tenant exists is not a stranger's business.
            let text = format!(
                "there is no tenant {tenant:?} for uid {uid} gid {gid}; check the name, or have tenant.{tenant}.uids or \
                 .gids extended"
            );
            Rejection::new(AttachStatus::TenantRefused, text)
        })
    }
}

impl Rejection {
    fn new(status: AttachStatus, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
            end: SessionEnd::Closed,
        }
    }
}

/// Reads the rest of a frame, piece by piece as it comes.
async fn read_frame(stream: &UnixStream, reader: &mut FrameReader) -> Result<Frame, FrameError> {
    loop {
        stream.readable().await.map_err(FrameError::Io)?;
        // `try_io` clears tokio's idea of readiness when the socket has nothing more.
        let result = stream.try_io(tokio::io::Interest::READABLE, || {
            match reader.advance(stream.as_fd()) {
                Ok(Some(frame)) => Ok(Ok(frame)),
                Ok(None) => Err(std::io::ErrorKind::WouldBlock.into()),
                Err(error) => Ok(Err(error)),
            }
        });
        match result {
            Ok(frame) => return frame,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(FrameError::Io(error)),
        }
    }
}

fn undecodable(error: &HandshakeError) -> Rejection {
    let status = match error {
        HandshakeError::Version { .. } => AttachStatus::VersionMismatch,
        _ => AttachStatus::BadRequest,
    };
    Rejection::new(status, error_chain(&error))
}

fn profile(request: &AttachRequest) -> SessionProfile {
    SessionProfile {
        engine_group: request.engine_group,
        engine_name: request.engine_name.clone(),
        role: match request.role {
            Role::Scheduler => kvstore_engine::Role::Scheduler,
            Role::Worker(rank) => kvstore_engine::Role::Worker(rank),
            Role::Observer => kvstore_engine::Role::Observer,
        },
        rank_count: request.rank_count,
        fields: request.fields.clone(),
        rank_fields: request.rank_fields.clone(),
        groups: request.groups.clone(),
        pod: request.pod.clone(),
        model: request.model.clone(),
    }
}

fn tell(
    door: &Door,
    session: SessionId,
    ticket: ProcessTicket,
    request: &AttachRequest,
    credentials: PeerCredentials,
) {
    let PeerCredentials { pid, uid, .. } = credentials;
    let (tenant, session, process) = (&door.config.name, session.0, ticket.process.0);
    let (engine, client) = (&request.engine_name, &request.client_version);
    // People look at counters often; that would drown what they look for.
    if request.role == Role::Observer {
        debug!(
            tenant,
            session, process, pid, uid, engine, client, "observer attached"
        );
    } else {
        info!(
            tenant, session, process, pid, uid, engine, client, role = ?request.role,
            engine_group = %request.engine_group, "client attached"
        );
    }
}
