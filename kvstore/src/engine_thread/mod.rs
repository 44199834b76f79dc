//! The thread that owns one tenant's engine and its clients' rings.
//!
//! ```text
//!   NVMe, remote ◀── orders ──┐     ┌── events, as commands ◀── NVMe, remote
//!   rings ──▶ round: requests ─▶ events ─▶ engine ─▶ effects ─▶ completions ──▶ rings
//!              ▲                                                       │
//!              └──── look again for some µs ◀── nothing found ◀────────┘
//!                               │ still nothing
//!                               ▼
//!              sleep on all doorbells and the command bell, until the engine has something to do at a given time
//! ```
//!
//! What always holds
//! - A session's requests are not read while an answer waits for room in its completion ring.
//! - In one round each session gets a bounded number of requests, so none starves another.
//! - Whatever a client puts into its ring ends in an answer or in the end of its session, never in a panic.
//! - Nothing to do means no wake-ups at all.
//! - What devices have found is taken in piece by piece, with a round for the clients after each.

mod answer;
mod apply;
pub(crate) mod command;
mod core;
pub(crate) mod counters;
mod drain;
mod drops;
mod hear;
pub(crate) mod inquiry;
mod request;
mod session;
mod sleep;
mod spin;
pub(crate) mod trace;
pub(crate) mod voice;

use std::io;
use std::thread::JoinHandle;

use kvstore_engine::Engine;
use tokio::sync::oneshot;
use tracing::warn;

use self::command::{CommandReceiver, CommandSender};
use self::core::Core;
use self::trace::Tracer;
use self::voice::Voice;
use crate::nvme::Devices;
use crate::remote::RemoteTier;

/// The tiers below the region.
#[derive(Debug)]
pub(crate) struct Tiers {
    /// The NVMe devices.
    pub(crate) devices: Devices,
    /// The remote tier.
    pub(crate) remote: RemoteTier,
}

/// Who hears what becomes of blocks and requests; none: nobody does.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// Tells the announcer of blocks.
    pub(crate) voice: Option<Voice>,
    /// Follows requests.
    pub(crate) tracer: Option<Tracer>,
}

/// A running engine thread.
#[derive(Debug)]
pub(crate) struct EngineThread {
    /// The way to it.
    pub(crate) commands: CommandSender,
    /// Resolves when the thread has ended, by a command or by a bug.
    pub(crate) ended: oneshot::Receiver<()>,
    handle: JoinHandle<io::Result<()>>,
}

/// How a thread ended that should not have.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ThreadError {
    /// The system refused something while it ran.
    #[error("the engine thread could not go on")]
    Io(#[from] io::Error),
    /// It has a bug.
    #[error("the engine thread panicked")]
    Panicked,
}

impl EngineThread {
    /// Starts the thread.
    pub(crate) fn spawn(
        tenant: String,
        region_bytes: u64,
        engine: Engine,
        tiers: Tiers,
        listeners: Listeners,
        (commands, receiver): (CommandSender, CommandReceiver),
    ) -> io::Result<Self> {
        let core = Core::new(tenant, region_bytes, engine, tiers, listeners, &receiver)?;
        let (alive, ended) = oneshot::channel::<()>();
        let handle = std::thread::Builder::new()
            .name("kvt-engine".to_owned())
            .spawn(move || {
                // Dropped when the thread ends, in whatever way.
                let _alive = alive;
                // Engines wait for it.
                if let Err(cause) = kvstore_threads::answer_soon() {
                    warn!(%cause, "the engine thread waits its turn like others");
                }
                core.run(&receiver)
            })?;
        Ok(Self {
            commands,
            ended,
            handle,
        })
    }

    /// Whether the thread has ended, in whatever way.
    pub(crate) fn has_ended(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits until the thread has ended. Tell it to stop first.
    pub(crate) fn join(self) -> Result<(), ThreadError> {
        match self.handle.join() {
            Ok(result) => Ok(result?),
            Err(_) => Err(ThreadError::Panicked),
        }
    }
}
