//! Where clients come in: the socket, the handshake, and the watch over sockets and processes.
//!
//! Runs on the main thread's runtime, which sleeps when nobody comes or goes: everything after the handshake passes
//! through rings that this room never sees.

mod handshake;
mod places;
mod process;
mod rings;
mod session;

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use connector_shm::{AttachReply, AttachStatus, Region, peer_credentials, send_reply};
use kvstore_types::{BootEpoch, SessionId};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tracing::{debug, error, warn};

use self::places::Places;
use self::process::Processes;
use crate::config::{LimitsConfig, TenantConfig};
use crate::engine_thread::command::CommandSender;

/// How long to let things be when the system has no descriptors or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A tenant as the socket's side knows it.
#[derive(Debug)]
pub(crate) struct Door {
    /// Its name and who may attach.
    pub(crate) config: TenantConfig,
    /// The way to its engine thread.
    pub(crate) commands: CommandSender,
    /// Its memory.
    pub(crate) region: Arc<Region>,
    /// Bytes of its sessions' rings.
    pub(crate) rings: Rc<Cell<u64>>,
}

/// Everything the socket's side knows.
#[derive(Debug)]
pub(crate) struct Ingress {
    doors: Vec<Door>,
    boot_epoch: BootEpoch,
    /// Which requests clients are to follow; none: no traces are recorded.
    traces_below: Option<u64>,
    limits: LimitsConfig,
    handshakes: Arc<Semaphore>,
    /// Handshakes that wait for their client, by process.
    slow: Places,
    processes: RefCell<Processes>,
    session_next: Cell<u64>,
}

impl Ingress {
    /// Opens the doors; nobody is let in before [`serve`](Self::serve).
    pub(crate) fn new(
        doors: Vec<Door>,
        boot_epoch: BootEpoch,
        traces_below: Option<u64>,
        limits: &LimitsConfig,
    ) -> Rc<Self> {
        let commands = doors.iter().map(|door| door.commands.clone()).collect();
        Rc::new(Self {
            doors,
            boot_epoch,
            traces_below,
            limits: limits.clone(),
            handshakes: Arc::new(Semaphore::new(limits.handshakes)),
            slow: Places::default(),
            processes: RefCell::new(Processes::new(commands)),
            session_next: Cell::new(1),
        })
    }

    /// Lets clients in until it is dropped.
    pub(crate) async fn serve(self: Rc<Self>, listener: UnixListener) {
        loop {
            // With all places taken, the socket's own queue is where clients wait.
            let Ok(permit) = Arc::clone(&self.handshakes).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let ingress = Rc::clone(&self);
                    tokio::task::spawn_local(async move { ingress.greet(stream, permit).await });
                }
                Err(cause) if is_transient(&cause) => debug!(%cause, "a connection went away"),
                Err(cause) => {
                    error!(%cause, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Turns strangers away, shakes hands with the others and watches over their session.
    async fn greet(self: Rc<Self>, stream: UnixStream, permit: tokio::sync::OwnedSemaphorePermit) {
        let credentials = match peer_credentials(stream.as_fd()) {
            Ok(credentials) => credentials,
            Err(cause) => return warn!(%cause, "could not tell who connects"),
        };
        let (uid, gid) = (credentials.uid, credentials.gid);
        if !self.doors.iter().any(|door| door.config.access.allows(uid, gid)) {
            let text = format!(
                "uid {uid} gid {gid} may not attach; the daemon's administrator can add it to access.uids, access.gids \
                 or a tenant's own lists"
            );
            warn!(
                uid,
                gid,
                pid = credentials.pid,
                "client refused: not on any allow-list"
            );
            return refuse(&stream, AttachStatus::TenantRefused, text);
        }
        if let Some(session) = self.shake_hands(&stream, credentials).await {
            drop(permit);
            self.watch(stream, session).await;
        }
    }

    fn session_id(&self) -> SessionId {
        let id = self.session_next.get();
        self.session_next.set(id + 1);
        SessionId(id)
    }
}

/// Tells a client why it may not attach. One that does not listen learns nothing, and that is its own affair.
fn refuse(stream: &UnixStream, status: AttachStatus, text: String) {
    let reply = AttachReply::refusal(status, text, env!("CARGO_PKG_VERSION"));
    if let Err(cause) = send_reply(stream.as_fd(), &reply, None) {
        debug!(%cause, "could not tell a client why it is refused");
    }
}

fn is_transient(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::ConnectionAborted
            | std::io::ErrorKind::ConnectionReset
            | std::io::ErrorKind::Interrupted
    )
}
