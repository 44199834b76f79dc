//! What the rest of the daemon asks of a tenant's engine thread.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use connector_shm::{DaemonEnd, PeerCredentials};
use kvstore_engine::{NvmeTuning, Occupancy, Refusal, SessionEnd, SessionProfile};
use kvstore_nvme::DeviceEvent;
use kvstore_remote::{RemoteEvent, RemoteTuning};
use kvstore_types::{DeviceIndex, ProcessId, SessionId};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;

use super::inquiry::Ask;

/// One thing that is asked.
#[derive(Debug)]
pub(crate) enum Command {
    /// A client wants in.
    Attach(Box<Attach>),
    /// The session's socket hung up.
    HungUp(SessionId),
    /// The session's client sent bytes where none may come.
    Misbehaved(SessionId, &'static str),
    /// The process is dead.
    ProcessDied(ProcessId),
    /// Something happened at an NVMe device.
    Nvme {
        /// Which.
        device: DeviceIndex,
        /// What, in order.
        events: Vec<DeviceEvent>,
    },
    /// Something happened at the remote tier.
    Remote(Vec<RemoteEvent>),
    /// The NVMe tier's settings change.
    Tune(NvmeTuning),
    /// The remote tier's bounds change.
    TuneRemote(RemoteTuning),
    /// The host tier's watermarks change.
    TuneHost {
        /// Eviction stops here.
        watermark_low: f64,
        /// Eviction starts here.
        watermark_high: f64,
    },
    /// The admin API asks something.
    Ask(Box<Ask>),
    /// No reservations from now on. `quiet` hears when nothing is leased, being filled or
    /// still to be written any more.
    Drain {
        /// Who waits.
        quiet: oneshot::Sender<()>,
    },
    /// What is still going on?
    Busy {
        /// Who asks.
        reply: oneshot::Sender<Occupancy>,
    },
    /// The announcer has lost something: say everything again, under this number. It asks once for each time that it has
    /// lost something, and no more often than it takes in what is said.
    SayAll(u64),
    /// What has become of blocks, for a session that relays it.
    Relay {
        /// Whose.
        session: SessionId,
        /// A batch of events.
        batch: Vec<u8>,
    },
    /// End all sessions, then the thread.
    Stop,
}

/// A client that wants in.
#[derive(Debug)]
pub(crate) struct Attach {
    /// Its session.
    pub(crate) session: SessionId,
    /// Its process.
    pub(crate) process: ProcessId,
    /// Whose process that is.
    pub(crate) credentials: PeerCredentials,
    /// Minor version of its end of the attachment.
    pub(crate) abi_minor: u16,
    /// What it says of itself.
    pub(crate) profile: SessionProfile,
    /// The daemon's end of its rings.
    pub(crate) end: DaemonEnd,
    /// Hears whether it is let in.
    pub(crate) admitted: oneshot::Sender<Result<(), Refusal>>,
    /// Hears when and how the session has ended.
    pub(crate) ended: oneshot::Sender<SessionEnd>,
}

/// The way to a tenant's engine thread.
///
/// The queue has no bound of its own, because what goes in is bounded: handshakes under way are, each session and each
/// process causes one command more when it ends, a device answers what it was ordered to do and holds credits for
/// what it has found, the remote tier answers what it was ordered to do, each question of the admin API has one of so many places, and a relay has its client's credit.
#[derive(Clone, Debug)]
pub(crate) struct CommandSender {
    sender: Sender<Command>,
    bell: Arc<OwnedFd>,
}

/// The thread's end of it.
#[derive(Debug)]
pub(crate) struct CommandReceiver {
    receiver: Receiver<Command>,
    bell: Arc<OwnedFd>,
}

/// Both ends.
pub(crate) fn command_queue() -> io::Result<(CommandSender, CommandReceiver)> {
    let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let (sender, receiver) = channel();
    Ok((
        CommandSender {
            sender,
            bell: Arc::clone(&bell),
        },
        CommandReceiver { receiver, bell },
    ))
}

impl CommandSender {
    /// Hands over a command and wakes the thread. If the thread is gone the command is dropped, and so is whoever
    /// waits for its answer.
    pub(crate) fn send(&self, command: Command) {
        if self.sender.send(command).is_ok() {
            // The only way this can fail is a counter at its limit, and then the thread wakes anyway.
            let _ = rustix::io::write(&*self.bell, &1_u64.to_ne_bytes());
        }
    }
}

impl CommandReceiver {
    /// The next command, if one is there. A queue that nobody can send to any more says [`Command::Stop`].
    pub(crate) fn next(&self) -> Option<Command> {
        match self.receiver.try_recv() {
            Ok(command) => Some(command),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Command::Stop),
        }
    }

    /// What can be read when a command has come.
    pub(crate) fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// Quiets the bell. Look for commands *after* this.
    pub(crate) fn quiet_bell(&self) {
        // Nothing to read: nobody rang.
        let _ = rustix::io::read(&*self.bell, &mut [0_u8; 8]);
    }
}
