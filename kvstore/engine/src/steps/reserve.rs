//! Slots for new blocks.

use kvstore_types::{BlockHash, DescriptorRun, EngineGroupId, SessionId, SlotRef, Tag};

use crate::block::{BlockIndex, BlockState, Space};
use crate::effect::{Completion, Effects, Grant};
use crate::engine::{Engine, Outcome, complete, position};
use crate::event::GroupKeys;
use crate::pool::{Effort, Out};
use crate::steps::describe::Story;
use crate::steps::lookup::by_group;

impl Engine {
    pub(crate) fn on_reserve(
        &mut self,
        id: SessionId,
        tag: Tag,
        groups: &[GroupKeys<'_>],
        runs: &[DescriptorRun<'_>],
        effects: &mut Effects,
    ) -> Outcome {
        let Some(session) = self.scheduler(id, "reserve")? else {
            return Ok(());
        };
        let group = session.group;
        let keys = groups.iter().map(|group| group.hashes.len()).sum::<usize>();
        let start = position(effects.grants.len());
        let refusal = if self.is_draining {
            self.counters.reserves_draining += keys as u64;
            Some(Grant::Draining)
        } else if self.ready_namespace(group).is_none() {
            self.counters.reserves_not_ready += keys as u64;
            Some(Grant::NotReady)
        } else {
            None
        };
        match refusal {
            Some(refusal) => effects.grants.extend(std::iter::repeat_n(refusal, keys)),
            None => self.reserve_all(id, group, groups, runs, effects)?,
        }
        let grants = start..position(effects.grants.len());
        complete(effects, id, tag, Completion::Reserve { grants });
        Ok(())
    }

    fn reserve_all(
        &mut self,
        id: SessionId,
        group: EngineGroupId,
        groups: &[GroupKeys<'_>],
        runs: &[DescriptorRun<'_>],
        effects: &mut Effects,
    ) -> Outcome {
        let Some(namespace) = self.ready_namespace(group) else {
            return Ok(());
        };
        by_group(groups, self.pool.spaces.get(namespace).geometry.groups.len())?;
        self.check_runs(namespace, groups, runs)?;
        let (mut effort, mut story) = (Effort::RESERVE, Story::new(runs));
        for keys in groups {
            let space = Space::new(namespace, u8::try_from(keys.group).unwrap_or(u8::MAX));
            for &hash in keys.hashes {
                let said = story.next(hash);
                let (grant, block) = self.reserve_one(id, group, space, hash, &mut effort, effects);
                if let Some(said) = said.filter(|_| block != BlockIndex::NONE) {
                    self.describe(block, said, effects);
                }
                let counter = match grant {
                    Grant::Slot(_) => &mut self.counters.reserves_granted,
                    Grant::AlreadyPresent => &mut self.counters.reserves_present,
                    Grant::Filling => &mut self.counters.reserves_filling,
                    Grant::NoSpace | Grant::Draining | Grant::NotReady | Grant::Lost => {
                        &mut self.counters.reserves_no_space
                    }
                };
                *counter += 1;
                effects.grants.push(grant);
            }
        }
        Ok(())
    }

    /// The grant for one key, and its block if there is one.
    fn reserve_one(
        &mut self,
        id: SessionId,
        group: EngineGroupId,
        space: Space,
        hash: BlockHash,
        effort: &mut Effort,
        effects: &mut Effects,
    ) -> (Grant, BlockIndex) {
        if let Some(block) = self.pool.blocks.find(space, &hash) {
            let grant = match self.pool.blocks.get(block).state {
                BlockState::Resident | BlockState::Promoting | BlockState::Stored => Grant::AlreadyPresent,
                BlockState::Filling | BlockState::Vacant => Grant::Filling,
                // It has been computed again, so the remote tier did not bring it in time, or has lost it.
                BlockState::Remote => {
                    let out = &mut Out {
                        counters: &mut self.counters,
                        effects,
                    };
                    let Some(slot) = self.pool.reserve_remote(block, effort, out) else {
                        return (Grant::NoSpace, block);
                    };
                    return (self.fill(id, group, block, slot), block);
                }
            };
            return (grant, block);
        }
        let out = &mut Out {
            counters: &mut self.counters,
            effects,
        };
        let Some((block, slot)) = self.pool.reserve(space, hash, effort, out) else {
            return (Grant::NoSpace, BlockIndex::NONE);
        };
        (self.fill(id, group, block, slot), block)
    }

    /// Enters a reservation of a slot that has just been taken for a block.
    fn fill(&mut self, id: SessionId, group: EngineGroupId, block: BlockIndex, slot: SlotRef) -> Grant {
        let workers = self
            .groups
            .get(&group)
            .into_iter()
            .flat_map(|group| group.workers.iter().flatten().copied());
        let filling = self.fillings.add(slot, group, id, self.now, workers);
        self.fillings.set_block(filling, block);
        self.pool.set_filling(block, slot, filling);
        Grant::Slot(slot)
    }
}
