//! Parts become final or are given back; with the last one a block is published or its slot freed.

use kvstore_types::{SessionId, SlotRef, Tag, Tier};

use crate::arena::{Lookup, Owner};
use crate::block::BlockIndex;
use crate::effect::{Completion, Effect, Effects, Note, Violation};
use crate::engine::{Engine, Outcome, complete};
use crate::event::Role;
use crate::filling::Part;

impl Engine {
    pub(crate) fn on_seal(
        &mut self,
        id: SessionId,
        tag: Tag,
        slots: &[SlotRef],
        effects: &mut Effects,
    ) -> Outcome {
        let Some(session) = self.session(id) else {
            return Ok(());
        };
        if !matches!(session.role, Role::Worker(_)) {
            return Err(Violation::WrongRole {
                role: session.role_name(),
                operation: "seal",
            });
        }
        let (mut sealed, mut stale, mut published) = (0, 0, Vec::new());
        let outcome = slots.iter().try_for_each(|&slot| {
            match self.find_part(id, slot)? {
                Some((filling, part)) => {
                    let is_doomed = self.fillings.get(filling).is_doomed();
                    *if is_doomed { &mut stale } else { &mut sealed } += 1;
                    published.extend(self.finish_part(filling, part, effects));
                }
                None => stale += 1,
            }
            Ok(())
        });
        published.sort_unstable_by_key(|&(number, _)| number);
        let published: Vec<BlockIndex> = published.into_iter().map(|(_, block)| block).collect();
        self.announce_sealed(&published, effects);
        self.admit_all(&published);
        self.counters.parts_sealed += u64::from(sealed);
        self.counters.stale += u64::from(stale);
        outcome?;
        let published = crate::engine::position(published.len());
        complete(
            effects,
            id,
            tag,
            Completion::Seal {
                sealed,
                published,
                stale,
            },
        );
        Ok(())
    }

    pub(crate) fn on_abort(
        &mut self,
        id: SessionId,
        tag: Tag,
        slots: &[SlotRef],
        effects: &mut Effects,
    ) -> Outcome {
        let Some(session) = self.session(id) else {
            return Ok(());
        };
        let is_scheduler = match session.role {
            Role::Scheduler => true,
            Role::Worker(_) => false,
            Role::Observer => {
                return Err(Violation::WrongRole {
                    role: session.role_name(),
                    operation: "abort",
                });
            }
        };
        let (mut aborted, mut stale) = (0, 0);
        let outcome = slots.iter().try_for_each(|&slot| {
            let done = if is_scheduler {
                self.abort_whole(id, slot, effects)?
            } else {
                self.abort_part(id, slot, effects)?
            };
            *if done { &mut aborted } else { &mut stale } += 1;
            Ok(())
        });
        self.counters.aborted += u64::from(aborted);
        self.counters.stale += u64::from(stale);
        outcome?;
        complete(effects, id, tag, Completion::Abort { aborted, stale });
        Ok(())
    }

    fn abort_part(&mut self, id: SessionId, slot: SlotRef, effects: &mut Effects) -> Result<bool, Violation> {
        let Some((filling, part)) = self.find_part(id, slot)? else {
            return Ok(false);
        };
        self.doom(filling);
        self.finish_part(filling, part, effects);
        Ok(true)
    }

    /// The scheduler says that no worker was told of a slot, so no part of it has to be waited for but those of
    /// workers that hung up. Where a worker has shown otherwise, its word counts: the block is lost and the slot waits
    /// for the other ranks. A slot whose block is lost already (the engine was reset, a worker was replaced) is freed
    /// the same way.
    fn abort_whole(
        &mut self,
        id: SessionId,
        slot: SlotRef,
        effects: &mut Effects,
    ) -> Result<bool, Violation> {
        let Some(filling) = self.find_filling(id, slot)? else {
            return Ok(false);
        };
        let entry = self.fillings.get_mut(filling);
        if entry.reserver != id {
            return Ok(false);
        }
        let mut is_changed = !entry.is_doomed();
        let is_told = entry.is_told;
        let open = entry
            .parts
            .iter_mut()
            .filter(|part| matches!(part, Part::Open(_)));
        for part in open.filter(|_| !is_told) {
            (*part, is_changed) = (Part::Done, true);
        }
        self.doom(filling);
        self.free_if_done(filling, effects);
        Ok(is_changed)
    }

    /// The unfinished reservation a slot reference names, if it is still current and the session's engine's.
    fn find_filling(&self, id: SessionId, slot: SlotRef) -> Result<Option<u32>, Violation> {
        let filling = match self.pool.arenas().look_up(slot) {
            Lookup::Current(Owner::Filling(filling)) => filling,
            Lookup::Current(Owner::Block(_) | Owner::Promotion(_) | Owner::Free(_)) | Lookup::Stale => {
                return Ok(None);
            }
            Lookup::Foreign => return Err(Violation::ForeignSlot(slot)),
        };
        let group = self.sessions.get(&id).map(|session| session.group);
        if group != Some(self.fillings.get(filling).group) {
            return Err(Violation::ForeignSlot(slot));
        }
        Ok(Some(filling))
    }

    /// The session's own open part of the reservation a slot reference names.
    fn find_part(&self, id: SessionId, slot: SlotRef) -> Result<Option<(u32, usize)>, Violation> {
        let Some(filling) = self.find_filling(id, slot)? else {
            return Ok(None);
        };
        let parts = &self.fillings.get(filling).parts;
        Ok(parts
            .iter()
            .position(|&part| part == Part::Open(id))
            .map(|part| (filling, part)))
    }

    /// Nobody will write to a part any more. The answer is the block, if that published it, with the number of its
    /// reservation.
    fn finish_part(&mut self, filling: u32, part: usize, effects: &mut Effects) -> Option<(u64, BlockIndex)> {
        let entry = self.fillings.get_mut(filling);
        entry.parts[part] = Part::Done;
        entry.is_told = true;
        if entry.is_doomed() {
            self.free_if_done(filling, effects);
            return None;
        }
        if !entry.is_done() {
            return None;
        }
        let (number, block, since) = (entry.number, entry.block, entry.since);
        self.fillings.remove(filling);
        self.pool.publish(block);
        let space = self.pool.blocks.get(block).space;
        self.counters.published += 1;
        self.counters.published_bytes += self.pool.payload_bytes(space);
        let took = self.elapsed(since);
        self.store_times.record(took);
        self.pool.spaces.get_mut(space.namespace()).traffic.published += 1;
        Some((number, block))
    }

    fn announce_sealed(&self, published: &[BlockIndex], effects: &mut Effects) {
        let announced = published.iter().map(|&block| Effect::BlockStored {
            key: self.pool.key(self.pool.blocks.get(block)),
            tier: Tier::Host,
            descriptor: self.pool.blocks.descriptor(block),
        });
        effects.list.extend(announced);
    }

    /// Enters the blocks of one message in their policies, and in the queue of blocks to be written: the last one first, because the start of a prefix should
    /// outlive the rest.
    fn admit_all(&mut self, published: &[BlockIndex]) {
        published.iter().rev().for_each(|&block| self.pool.admit(block));
        for &block in published {
            self.admit_sealed(block);
            self.store_sealed(block);
        }
    }

    /// A reservation will not be published. Its key is free for another one.
    pub(crate) fn doom(&mut self, filling: u32) {
        let block = self.fillings.take_block(filling);
        if block != BlockIndex::NONE {
            self.pool.forget_filling(block);
        }
    }

    /// Frees the slot of a doomed reservation that nobody may write to any more.
    pub(crate) fn free_if_done(&mut self, filling: u32, effects: &mut Effects) -> bool {
        let entry = self.fillings.get(filling);
        if !entry.is_doomed() || !entry.is_done() {
            return false;
        }
        let (slot, was_quarantined) = (entry.slot, entry.quarantined);
        self.fillings.remove(filling);
        self.pool.free_filling(slot);
        if was_quarantined {
            self.lift_quarantine(1, effects);
        }
        true
    }

    /// Slots came back from quarantine. Several in one step make one note.
    pub(crate) fn lift_quarantine(&mut self, count: u32, effects: &mut Effects) {
        if count == 0 {
            return;
        }
        self.counters.quarantine_lifted += u64::from(count);
        match effects.list.last_mut() {
            Some(Effect::Note(Note::QuarantineLifted { slots })) => *slots += count,
            _ => effects
                .list
                .push(Effect::Note(Note::QuarantineLifted { slots: count })),
        }
    }
}
