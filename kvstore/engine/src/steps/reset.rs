//! An engine's weights or cache changed: nothing of what it stored before may reach it again.

use kvstore_types::{EngineGroupId, SessionId, Tag};

use crate::effect::{Completion, Effect, Effects};
use crate::engine::{Engine, Outcome, complete};
use crate::steps::attach::Made;

impl Engine {
    pub(crate) fn on_reset(
        &mut self,
        id: SessionId,
        tag: Tag,
        nonce: [u8; 16],
        effects: &mut Effects,
    ) -> Outcome {
        let Some(session) = self.scheduler(id, "reset")? else {
            return Ok(());
        };
        let group = session.group;
        self.counters.resets += 1;
        self.release_lookups(id);
        self.release_waits(id, true, effects);
        // What is being stored was computed before the reset, and perhaps not with what the old name stands for.
        for filling in self
            .fillings
            .select(|filling| filling.group == group && !filling.is_doomed())
        {
            self.doom(filling);
            self.counters.reservations_lost += 1;
            self.free_if_done(filling, effects);
        }
        // The old namespace goes first: an engine that can have no new one must have none.
        self.leave_namespace(group, nonce);
        let is_complete = self
            .groups
            .get(&group)
            .is_some_and(crate::group::EngineGroup::is_complete);
        if is_complete {
            match self.compose(group, effects) {
                Ok(Made::Namespace(note)) => effects.list.extend(note.map(Effect::Note)),
                Ok(Made::Nothing) => {}
                Err(_) => self.counters.resets_without_namespace += 1,
            }
        }
        self.announce_namespace(group, effects);
        let namespace = self
            .ready_namespace(group)
            .map(|namespace| self.pool.spaces.get(namespace).id);
        complete(effects, id, tag, Completion::Reset { namespace });
        Ok(())
    }
    fn leave_namespace(&mut self, id: EngineGroupId, nonce: [u8; 16]) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.nonce = Some(nonce);
        if let Some(before) = group.namespace.take() {
            self.pool.detach(before);
        }
    }
}
