//! Sessions end and processes die. What a process may still touch waits until it provably cannot.

use kvstore_types::{EngineGroupId, ProcessId, SessionId};

use crate::block::BlockIndex;
use crate::effect::{Effect, Effects, Note};
use crate::engine::{Engine, position};
use crate::event::{Role, SessionEnd};
use crate::filling::{Filling, Part};
use crate::group::{Waiter, Ward, take_duplicates};
use crate::session::Session;

impl Engine {
    pub(crate) fn on_session_ended(&mut self, id: SessionId, end: SessionEnd, effects: &mut Effects) {
        if self.session(id).is_none() {
            return;
        }
        self.release_lookups(id);
        self.release_waits(id, false, effects);
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        match end {
            SessionEnd::Closed => self.counters.sessions_closed += 1,
            SessionEnd::HungUp => self.counters.sessions_hung_up += 1,
        }
        if session.role == Role::Observer {
            return;
        }
        if end == SessionEnd::HungUp && !self.is_canary() {
            self.add_zombie(session.group, session.process);
        }
        let group = session.group;
        let mut waiting = self.end_parts(id, &session, end, effects);
        self.end_waits(id, &session, end, effects);
        if session.role == Role::Scheduler {
            waiting += self.end_reservations(id, effects);
            waiting += self.end_leases(session);
        }
        if waiting > 0 {
            self.counters.quarantined += u64::from(waiting);
            effects.list.push(Effect::Note(Note::Quarantined {
                slots: waiting,
                session: id,
            }));
        }
        self.leave(id, group);
    }

    pub(crate) fn on_process_died(&mut self, process: ProcessId, effects: &mut Effects) {
        // The proof may overtake the hang-up.
        let own = self
            .sessions
            .iter()
            .filter(|(_, session)| session.process == process);
        for id in own.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.on_session_ended(id, SessionEnd::HungUp, effects);
        }
        self.finish_parts(Part::Orphan(process), Part::Done, effects);
        for id in self.groups.keys().copied().collect::<Vec<_>>() {
            let Some(group) = self.groups.get_mut(&id) else {
                continue;
            };
            group.zombies.retain(|&zombie| zombie != process);
            let freed = group.resolve(Waiter::Process(process), None);
            self.end_wards(freed, effects);
            self.drop_group_if_over(id);
        }
    }

    /// Whether the engine is broken on purpose, for the simulation.
    #[cfg(any(test, feature = "sim"))]
    fn is_canary(&self) -> bool {
        self.canary == crate::sim::Canary::RecycleOnHangUp
    }

    #[cfg(not(any(test, feature = "sim")))]
    #[expect(clippy::unused_self, reason = "its twin reads the engine")]
    fn is_canary(&self) -> bool {
        false
    }

    fn add_zombie(&mut self, group: EngineGroupId, process: ProcessId) {
        if let Some(group) = self.groups.get_mut(&group)
            && !group.zombies.contains(&process)
        {
            group.zombies.push(process);
        }
    }

    /// The parts a worker left open: the blocks are lost, and the slots wait unless it closed cleanly. The answer is
    /// the number of slots that wait.
    fn end_parts(&mut self, id: SessionId, session: &Session, end: SessionEnd, effects: &mut Effects) -> u32 {
        let left = match end {
            SessionEnd::HungUp if !self.is_canary() => Part::Orphan(session.process),
            SessionEnd::HungUp | SessionEnd::Closed => Part::Done,
        };
        let is_own = |filling: &Filling| filling.parts.contains(&Part::Open(id));
        let own = self.fillings.select(is_own);
        let lost = self.quarantine(&own);
        self.finish_parts(Part::Open(id), left, effects);
        lost - position(
            own.iter()
                .filter(|&&filling| !self.fillings.is_live(filling))
                .count(),
        )
        .min(lost)
    }

    /// A scheduler that ends takes its unfinished reservations with it; their slots wait for each rank.
    fn end_reservations(&mut self, id: SessionId, effects: &mut Effects) -> u32 {
        let own = self.fillings.select(|filling| filling.reserver == id);
        let lost = self.quarantine(&own);
        if self.is_canary() {
            for &filling in &own {
                self.fillings.get_mut(filling).parts.fill(Part::Done);
                self.free_if_done(filling, effects);
            }
        }
        lost
    }

    /// Dooms reservations because a session ended. The answer is how many were not under quarantine already.
    fn quarantine(&mut self, fillings: &[u32]) -> u32 {
        let mut count = 0;
        for &filling in fillings {
            self.counters.reservations_lost += u64::from(!self.fillings.get(filling).is_doomed());
            self.doom(filling);
            count += u32::from(!std::mem::replace(
                &mut self.fillings.get_mut(filling).quarantined,
                true,
            ));
        }
        count
    }

    /// All parts that are `was` become `now`, and doomed slots that are done with it are freed.
    fn finish_parts(&mut self, was: Part, now: Part, effects: &mut Effects) {
        for filling in self.fillings.select(|filling| filling.parts.contains(&was)) {
            let parts = &mut self.fillings.get_mut(filling).parts;
            parts
                .iter_mut()
                .filter(|part| **part == was)
                .for_each(|part| *part = now);
            self.free_if_done(filling, effects);
        }
    }

    /// Wards need not wait for a worker that closed cleanly, and must wait for the death of one that hung up.
    fn end_waits(&mut self, id: SessionId, session: &Session, end: SessionEnd, effects: &mut Effects) {
        let now = match end {
            SessionEnd::Closed => None,
            SessionEnd::HungUp => Some(Waiter::Process(session.process)),
        };
        if let Some(group) = self.groups.get_mut(&session.group) {
            let freed = group.resolve(Waiter::Session(id), now);
            self.end_wards(freed, effects);
        }
    }

    /// Leases outlive their session while another process of the engine may still be copying. The answer is the
    /// number of blocks that wait.
    fn end_leases(&mut self, session: Session) -> u32 {
        let since = session.leases.values().map(|lease| lease.since).min();
        let mut blocks: Vec<BlockIndex> = session
            .leases
            .into_values()
            .flat_map(|lease| lease.blocks)
            .collect();
        blocks.sort_unstable();
        self.unlease_all(take_duplicates(&mut blocks));
        let is_canary = self.is_canary();
        let Some(group) = self.groups.get_mut(&session.group) else {
            return 0;
        };
        let mut waits = if blocks.is_empty() || is_canary {
            Vec::new()
        } else {
            group.readers()
        };
        waits.sort_unstable();
        let Some(since) = since.filter(|_| !waits.is_empty()) else {
            self.unlease_all(blocks);
            return 0;
        };
        let count = position(blocks.len());
        let twice = group.add_ward(Ward { waits, blocks, since });
        self.counters.quarantine_lifted += twice.len() as u64;
        self.unlease_all(twice);
        count
    }

    /// Ends one lease on each block.
    pub(crate) fn unlease_all(&mut self, blocks: Vec<BlockIndex>) {
        for block in blocks {
            self.pool.unlease(block);
        }
    }

    fn end_wards(&mut self, blocks: Vec<BlockIndex>, effects: &mut Effects) {
        let count = position(blocks.len());
        self.unlease_all(blocks);
        self.lift_quarantine(count, effects);
    }
}
