//! No stores any more: who is told, and when all is quiet.

use std::time::Instant;

use connector_shm::Completion;
use kvstore_engine::Event;
use tokio::sync::oneshot;

use super::core::Core;

impl Core {
    pub(super) fn drain(&mut self, quiet: oneshot::Sender<()>, now: Instant) {
        self.quiet.retain(|waiting| !waiting.is_closed());
        self.quiet.push(quiet);
        let was_draining = std::mem::replace(&mut self.draining, true);
        self.step(Event::Drain, now);
        for session in self.sessions.values_mut().filter(|_| !was_draining) {
            if let Err(fault) = session.send(&Completion::Draining) {
                self.faults.push((session.id, fault));
            }
        }
        self.settle(now);
        self.notify_all();
        self.tell_quiet();
    }

    /// Tells whoever drains the daemon that nothing is under way any more.
    pub(super) fn tell_quiet(&mut self) {
        if !self.quiet.is_empty() {
            let occupancy = self.engine.occupancy();
            if occupancy.leases == 0
                && occupancy.slots_filling == 0
                && occupancy.nvme_writes_in_flight == 0
                && (occupancy.nvme_queue == 0 || !self.can_write())
                && (occupancy.remote_queue + occupancy.remote_stores_in_flight == 0
                    || !self.remote.takes_writes())
            {
                for quiet in self.quiet.drain(..) {
                    // Whoever drains may have stopped waiting.
                    let _ = quiet.send(());
                }
            }
        }
    }

    /// Whether any device takes writes; while none does, waiting for them would be in vain.
    fn can_write(&self) -> bool {
        self.engine
            .nvme_devices()
            .any(|device| device.state != "lost" && !device.writes_suspended)
    }
}
