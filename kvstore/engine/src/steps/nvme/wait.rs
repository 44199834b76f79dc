//! Look-ups whose hit is partly on NVMe: they wait, and are answered.

use std::time::Instant;

use kvstore_types::{BlockHash, GroupSpan, SessionId, Tag};

use crate::block::{BlockIndex, BlockState, Reach};
use crate::effect::{Completion, Effects, LookupOutcome};
use crate::engine::{Engine, complete};
use crate::nvme::Wait;
use crate::pool::{Effort, Hold};
use crate::steps::lookup::answer_miss;

/// A look-up that has found blocks outside host memory.
pub(crate) struct Cold<'a> {
    pub(crate) session: SessionId,
    pub(crate) tag: Tag,
    pub(crate) namespace: u32,
    pub(crate) keys: &'a [Option<&'a [BlockHash]>],
    /// The longest hit over both tiers, whose blocks are in `scratch.found`.
    pub(crate) hit: u64,
}

/// What a look-up of [`Cold`] blocks does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Its hit is all in host memory.
    NotNeeded,
    /// It waits.
    Begun,
    /// Nothing is or will be on its way: what is in host memory is the answer.
    InVain,
}

impl Engine {
    /// Promotes what the hit needs, all of it at once, and lets the look-up wait for it.
    pub(crate) fn wait_for(&mut self, now: Instant, cold: &Cold<'_>, effects: &mut Effects) -> Waiting {
        let spans = self.spans_of(cold.namespace, cold.hit);
        let quota: usize = spans.iter().map(|span| span.count as usize).sum();
        if self
            .found_in(&spans)
            .all(|block| self.state_of(block) == BlockState::Resident)
        {
            return Waiting::NotNeeded;
        }
        let (Some(session), Some(config)) = (self.sessions.get(&cold.session), self.nvme.config.as_ref())
        else {
            return Waiting::InVain;
        };
        if session.held + quota > self.config.holds_per_session_max {
            return Waiting::InVain;
        }
        let deadline = now + config.promotion_deadline;
        let mut holds = self.scratch.holds.pop().unwrap_or_default();
        let blocks: Vec<BlockIndex> = self.found_in(&spans).collect();
        // What is there must not go for what is to come.
        self.hold_resident(&blocks, &mut holds);
        let (hit, spans) = self.promote_all(cold, &blocks, spans, effects);
        let quota = if hit < cold.hit {
            // A shorter hit needs other blocks of a sliding window.
            let blocks: Vec<BlockIndex> = self.found_in(&spans).collect();
            let longer = std::mem::take(&mut holds);
            self.hold_resident(&blocks, &mut holds);
            self.end_holds(longer);
            blocks.len()
        } else {
            quota
        };
        let under_way = self.promotions_of(&spans);
        let held = self.sessions.get(&cold.session).map_or(0, |session| session.held);
        if under_way.is_empty() || held + quota > self.config.holds_per_session_max {
            self.end_holds(holds);
            return Waiting::InVain;
        }
        let id = self.nvme.waits.next();
        for &promotion in &under_way {
            self.join_promotion(promotion, id, effects);
        }
        self.nvme.waits.add(Wait {
            session: cold.session,
            tag: cold.tag,
            namespace: self.pool.spaces.get(cold.namespace).id,
            keys: cold
                .keys
                .iter()
                .map(|keys| keys.unwrap_or_default().to_vec())
                .collect(),
            tokens_max: hit,
            quota,
            holds,
            waiting: under_way.len(),
            promotions: under_way,
            arrived: 0,
            since: now,
            deadline,
        });
        if let Some(session) = self.sessions.get_mut(&cold.session) {
            session.held += quota;
            session.waits.insert(cold.tag, id);
        }
        self.counters.lookups_pending += 1;
        complete(
            effects,
            cold.session,
            cold.tag,
            Completion::LookupPending { hit_tokens: hit },
        );
        Waiting::Begun
    }

    /// What is on its way of these blocks.
    fn promotions_of(&self, spans: &[GroupSpan]) -> Vec<u32> {
        let promoting = self
            .found_in(spans)
            .filter(|&block| self.state_of(block) == BlockState::Promoting);
        promoting.map(|block| self.pool.blocks.get(block).link).collect()
    }

    /// Promotes stored blocks in order, until one has to stay. The answer is the hit if all that is under way arrives.
    fn promote_all(
        &mut self,
        cold: &Cold<'_>,
        blocks: &[BlockIndex],
        spans: Vec<GroupSpan>,
        effects: &mut Effects,
    ) -> (u64, Vec<GroupSpan>) {
        let mut effort = Effort::PROMOTE;
        for &block in blocks {
            if self.state_of(block) == BlockState::Stored && !self.promote(block, &mut effort, effects) {
                let hit = self.find_hit(cold.namespace, cold.keys, cold.hit, Reach::Promoting);
                return (hit, self.spans_of(cold.namespace, hit));
            }
        }
        (cold.hit, spans)
    }

    fn hold_resident(&mut self, blocks: &[BlockIndex], holds: &mut Vec<Hold>) {
        for &block in blocks {
            if self.state_of(block) == BlockState::Resident {
                self.pool.hold_quietly(block, holds);
            }
        }
    }

    /// The blocks of spans, as the last search found them.
    fn found_in(&self, spans: &[GroupSpan]) -> impl Iterator<Item = BlockIndex> {
        spans.iter().flat_map(|span| {
            let found = &self.scratch.found[span.group as usize];
            found[span.first as usize..(span.first + span.count) as usize]
                .iter()
                .copied()
        })
    }

    fn state_of(&self, block: BlockIndex) -> BlockState {
        self.pool.blocks.get(block).state
    }

    /// A read that a look-up waits for has ended, and has brought its block or not.
    pub(super) fn promotion_ended(&mut self, id: u64, arrived: Option<BlockIndex>, effects: &mut Effects) {
        let Some(wait) = self.nvme.waits.get_mut(id) else {
            return;
        };
        wait.waiting -= 1;
        if let Some(block) = arrived {
            wait.arrived += 1;
            self.pool.hold_quietly(block, &mut wait.holds);
        }
        if wait.waiting == 0 {
            self.answer_wait(id, effects);
        }
    }

    /// Answers look-ups whose deadline has come.
    pub(super) fn expire_waits(&mut self, now: Instant, effects: &mut Effects) {
        while let Some((_, id)) = self.nvme.waits.first().filter(|&(deadline, _)| deadline <= now) {
            self.counters.nvme_promotions_late += 1;
            #[cfg(any(test, feature = "sim"))]
            if self.canary == crate::sim::Canary::CancelReadsAtDeadline {
                self.cancel_reads(id);
            }
            self.answer_wait(id, effects);
        }
    }

    /// Breaks promise 4, to show that it would be noticed: the slots of reads under way are free.
    #[cfg(any(test, feature = "sim"))]
    fn cancel_reads(&mut self, id: u64) {
        let reads = self.nvme.waits.get_mut(id).map(|wait| wait.promotions.clone());
        for read in reads.into_iter().flatten() {
            if let Some(over) = self.nvme.promotions.remove(read, &mut Vec::new()) {
                self.pool.end_promotion(over.block);
            }
        }
    }

    /// Answers a look-up with what is in host memory now.
    fn answer_wait(&mut self, id: u64, effects: &mut Effects) {
        let Some(wait) = self.end_wait(id, effects) else {
            return;
        };
        if let Some(now) = self.nvme.now {
            self.lookup_waits
                .record(now.saturating_duration_since(wait.since));
        }
        let group = self.sessions.get(&wait.session).map(|session| session.group);
        let namespace = group.and_then(|group| self.ready_namespace(group));
        let same = namespace.filter(|&namespace| self.pool.spaces.get(namespace).id == wait.namespace);
        let Some(namespace) = same else {
            self.counters.lookups_missed += 1;
            answer_miss(effects, wait.session, wait.tag, LookupOutcome::Complete);
            return;
        };
        let keys: Vec<Option<&[BlockHash]>> = wait.keys.iter().map(|keys| Some(keys.as_slice())).collect();
        let hit = self.find_hit(namespace, &keys, wait.tokens_max, Reach::Host);
        let before = self.counters.hit_blocks;
        self.answer_lookup(wait.session, wait.tag, namespace, hit, effects);
        // The answer may be shorter than what has arrived for it.
        let arrived = wait.arrived.min(self.counters.hit_blocks - before);
        self.counters.nvme_hit_blocks += arrived;
        self.pool.spaces.get_mut(namespace).traffic.nvme_hit_blocks += arrived;
    }

    /// A look-up does not wait any more; its holds, its quota and its tag are free.
    fn end_wait(&mut self, id: u64, effects: &mut Effects) -> Option<Wait> {
        let mut wait = self.nvme.waits.remove(id)?;
        if let Some(session) = self.sessions.get_mut(&wait.session) {
            session.held -= wait.quota;
            session.waits.remove(&wait.tag);
        }
        self.end_holds(std::mem::take(&mut wait.holds));
        for &promotion in &wait.promotions {
            self.leave_promotion(promotion, id, effects);
        }
        Some(wait)
    }

    /// A look-up that waits is given up: it is answered as a miss. False if there is none of this tag.
    pub(crate) fn release_wait(&mut self, session: SessionId, tag: Tag, effects: &mut Effects) -> bool {
        let waits = self.sessions.get(&session).map(|session| &session.waits);
        let Some(&id) = waits.and_then(|waits| waits.get(&tag)) else {
            return false;
        };
        self.end_wait(id, effects);
        self.counters.lookups_missed += 1;
        answer_miss(effects, session, tag, LookupOutcome::Complete);
        true
    }

    /// Gives up all look-ups of a session that wait, and answers them as misses if anybody is there to hear.
    pub(crate) fn release_waits(&mut self, session: SessionId, is_answered: bool, effects: &mut Effects) {
        let Some(waits) = self.sessions.get(&session).map(|session| session.waits.clone()) else {
            return;
        };
        for (tag, id) in waits {
            self.end_wait(id, effects);
            if is_answered {
                self.counters.lookups_missed += 1;
                answer_miss(effects, session, tag, LookupOutcome::Complete);
            }
        }
    }
}
