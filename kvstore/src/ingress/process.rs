//! The processes behind the sessions, watched until they are dead or no longer matter.
//!
//! A process matters while it has a session, and after one of its sessions hung up without a good-bye: its death is
//! then what frees what it may still be touching. There is at most one entry for each living process.
//!
//! Each entry keeps a descriptor open, so a tenant may have only so many of them: clients that hang up and live on
//! must not exhaust the descriptors of all tenants.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use connector_shm::PeerProcess;
use kvstore_engine::SessionEnd;
use kvstore_types::ProcessId;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;
use tracing::{debug, error};

use super::Ingress;
use crate::engine_thread::command::{Command, CommandSender};

/// One session's claim on its process.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProcessTicket {
    pub(super) process: ProcessId,
    /// The tenant it attaches to.
    pub(super) door: usize,
}

/// The tenant has too many processes already.
#[derive(Debug, thiserror::Error)]
#[error(
    "the tenant has {max} processes that are attached, or hung up without a good-bye and live on; end some, or have \
     limits.sessions raised"
)]
pub(super) struct ProcessesExhausted {
    max: usize,
}

/// All processes that matter.
#[derive(Debug)]
pub(super) struct Processes {
    entries: BTreeMap<ProcessId, Entry>,
    next: u64,
    engines: Vec<CommandSender>,
}

#[derive(Debug)]
struct Entry {
    handle: Arc<PeerProcess>,
    /// What it is to each tenant, by the index of its door.
    claims: BTreeMap<usize, Claim>,
    watch: Option<AbortHandle>,
}

/// Why a process matters to one tenant.
#[derive(Debug, Default)]
struct Claim {
    sessions: usize,
    /// A session of it ended without a good-bye.
    hung_up: bool,
}

impl Processes {
    /// None yet. `engines` hear of deaths.
    pub(super) fn new(engines: Vec<CommandSender>) -> Self {
        Self {
            entries: BTreeMap::new(),
            next: 1,
            engines,
        }
    }

    /// Counts a session of this process with the tenant behind `door`, of whose processes at most `max` may matter. If
    /// it is known already, the new handle is dropped.
    pub(super) fn enter(
        &mut self,
        peer: PeerProcess,
        door: usize,
        max: usize,
    ) -> Result<ProcessTicket, ProcessesExhausted> {
        let of_door = self
            .entries
            .values()
            .filter(|entry| entry.claims.contains_key(&door));
        let is_full = of_door.count() >= max;
        // Handles of one process show one pid, and comparing pids first spares the system calls for all others.
        let known = self.entries.iter_mut().find(|(_, entry)| {
            entry.handle.pid() == peer.pid() && entry.handle.is_same(&peer).unwrap_or(false)
        });
        if let Some((process, entry)) = known {
            if is_full && !entry.claims.contains_key(&door) {
                return Err(ProcessesExhausted { max });
            }
            entry.claims.entry(door).or_default().sessions += 1;
            return Ok(ProcessTicket {
                process: *process,
                door,
            });
        }
        if is_full {
            return Err(ProcessesExhausted { max });
        }
        let process = ProcessId(self.next);
        self.next += 1;
        let claim = Claim {
            sessions: 1,
            hung_up: false,
        };
        self.entries.insert(
            process,
            Entry {
                handle: Arc::new(peer),
                claims: BTreeMap::from([(door, claim)]),
                watch: None,
            },
        );
        Ok(ProcessTicket { process, door })
    }

    /// A session of this process has ended.
    pub(super) fn leave(&mut self, ticket: ProcessTicket, end: SessionEnd) {
        let Some(entry) = self.entries.get_mut(&ticket.process) else {
            return;
        };
        if let Some(claim) = entry.claims.get_mut(&ticket.door) {
            claim.sessions = claim.sessions.saturating_sub(1);
            claim.hung_up |= end == SessionEnd::HungUp;
            if claim.sessions == 0 && !claim.hung_up {
                entry.claims.remove(&ticket.door);
            }
        }
        if entry.claims.is_empty() {
            self.forget(ticket.process);
        }
    }

    /// How many matter.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn forget(&mut self, process: ProcessId) {
        if let Some(watch) = self.entries.remove(&process).and_then(|entry| entry.watch) {
            watch.abort();
        }
    }

    fn died(&mut self, process: ProcessId) {
        if self.entries.remove(&process).is_some() {
            debug!(process = process.0, "process died");
            for engine in &self.engines {
                engine.send(Command::ProcessDied(process));
            }
        }
    }
}

impl Ingress {
    /// Watches a process that was not known before.
    pub(super) fn watch_process(self: &Rc<Self>, ticket: ProcessTicket) {
        let mut processes = self.processes.borrow_mut();
        let Some(entry) = processes
            .entries
            .get_mut(&ticket.process)
            .filter(|entry| entry.watch.is_none())
        else {
            return;
        };
        let (ingress, handle, process) = (Rc::clone(self), Arc::clone(&entry.handle), ticket.process);
        let task = tokio::task::spawn_local(async move {
            match wait_dead(handle).await {
                Ok(()) => ingress.processes.borrow_mut().died(process),
                // Without the watch its slots stay in quarantine, which is safe.
                Err(cause) => error!(process = process.0, %cause, "could not watch a process"),
            }
        });
        entry.watch = Some(task.abort_handle());
    }
}

async fn wait_dead(handle: Arc<PeerProcess>) -> std::io::Result<()> {
    #[expect(
        deprecated,
        reason = "what replaces it is unsafe; a `PeerProcess` keeps its one descriptor for its whole life"
    )]
    let watched = AsyncFd::with_interest(handle, Interest::READABLE)?;
    loop {
        let mut ready = watched.readable().await?;
        if watched.get_ref().is_dead()? {
            return Ok(());
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn own_process() -> PeerProcess {
        let (one, _two) = UnixStream::pair().unwrap();
        PeerProcess::of_socket(one.as_fd()).unwrap()
    }

    fn enter(processes: &mut Processes, peer: PeerProcess, door: usize) -> Option<ProcessTicket> {
        processes.enter(peer, door, 1).ok()
    }

    #[test]
    fn two_sessions_of_one_process_share_its_name() {
        let mut processes = Processes::new(Vec::new());
        let one = enter(&mut processes, own_process(), 0).unwrap();
        let two = enter(&mut processes, own_process(), 0).unwrap();
        assert_eq!(one.process, two.process);
        processes.leave(one, SessionEnd::Closed);
        assert_eq!(processes.len(), 1);
        processes.leave(two, SessionEnd::Closed);
        assert_eq!(processes.len(), 0);
    }

    #[test]
    fn a_process_that_hung_up_matters_until_it_is_dead() {
        let mut processes = Processes::new(Vec::new());
        let ticket = enter(&mut processes, own_process(), 0).unwrap();
        processes.leave(ticket, SessionEnd::HungUp);
        assert_eq!(processes.len(), 1);
        let again = enter(&mut processes, own_process(), 0).unwrap();
        assert_eq!(again.process, ticket.process);
        processes.leave(again, SessionEnd::Closed);
        assert_eq!(processes.len(), 1);
        processes.died(ticket.process);
        assert_eq!(processes.len(), 0);
    }

    #[test]
    fn what_a_process_owes_one_tenant_is_nothing_to_the_next() {
        let mut processes = Processes::new(Vec::new());
        let one = enter(&mut processes, own_process(), 0).unwrap();
        let two = enter(&mut processes, own_process(), 1).unwrap();
        assert_eq!(one.process, two.process);
        processes.leave(one, SessionEnd::HungUp);
        processes.leave(two, SessionEnd::Closed);
        let entry = &processes.entries[&one.process];
        assert_eq!(entry.claims.keys().collect::<Vec<_>>(), [&0]);
    }
}
