//! Look-ups whose hit is partly in lower tiers, or may be: they wait, and are answered.

use std::time::{Duration, Instant};

use kvstore_types::{BlockHash, GroupSpan, NamespaceId, SessionId, Tag, Tier};

use crate::block::{BlockIndex, BlockState, Reach};
use crate::effect::{Completion, Effects, LookupOutcome};
use crate::engine::{Engine, complete};
use crate::nvme::Wait;
use crate::pool::{Effort, Hold};
use crate::steps::lookup::answer_miss;

/// A look-up that has found blocks outside host memory, or might.
pub(crate) struct Cold<'a> {
    pub(crate) session: SessionId,
    pub(crate) tag: Tag,
    pub(crate) namespace: u32,
    pub(crate) keys: &'a [Option<&'a [BlockHash]>],
    /// The longest hit over all that is known of all tiers, whose blocks are in `scratch.found`.
    pub(crate) hit: u64,
    /// How long it might become if the remote tier is asked; not longer than `hit`: it is not to be asked.
    pub(crate) longest: u64,
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
    /// Which tiers a look-up may find blocks in.
    pub(crate) fn reach(&self) -> Reach {
        if self.remote.serves_reads() {
            Reach::Remote
        } else if self.nvme.is_promoting() {
            Reach::Nvme
        } else {
            Reach::Host
        }
    }

    /// Promotes what the hit needs, all of it at once, asks the remote tier for what is behind it, and lets the look-up
    /// wait for both.
    pub(crate) fn wait_for(&mut self, now: Instant, cold: &Cold<'_>, effects: &mut Effects) -> Waiting {
        let spans = self.spans_of(cold.namespace, cold.hit);
        let mut quota = count_of(&spans);
        let is_warm = self
            .found_in(&spans)
            .all(|block| self.state_of(block) == BlockState::Resident);
        let Some(held) = self.sessions.get(&cold.session).map(|session| session.held) else {
            return Waiting::InVain;
        };
        let held_max = self.config.holds_per_session_max;
        let mut is_asking = cold.hit < cold.longest;
        if is_asking {
            let most = count_of(&self.spans_of(cold.namespace, cold.longest));
            is_asking = held + most <= held_max;
            quota = if is_asking { most } else { quota };
        }
        if !is_asking && is_warm {
            return Waiting::NotNeeded;
        }
        if held + quota > held_max {
            return Waiting::InVain;
        }
        let mut holds = self.scratch.holds.pop().unwrap_or_default();
        let (hit, spans) = self.bring(cold, spans, &mut holds, effects);
        let under_way = self.promotions_of(&spans);
        if !is_asking && hit < cold.hit {
            // A shorter hit needs other blocks of a sliding window.
            quota = count_of(&spans);
        }
        // What has been pushed out for it may have been this session's.
        let held = self.sessions.get(&cold.session).map_or(0, |session| session.held);
        let id = self.nvme.waits.next();
        let has_room = held + quota <= held_max;
        // A question belongs to a look-up that waits, so it is asked last.
        let asking = if is_asking && has_room {
            self.ask_remote(cold, id, effects)
        } else {
            0
        };
        if !has_room || (under_way.is_empty() && asking == 0) {
            self.end_holds(holds);
            return Waiting::InVain;
        }
        for &promotion in &under_way {
            self.join_promotion(promotion, id, effects);
        }
        let tokens_max = if is_asking { cold.longest } else { hit };
        self.begin_wait(
            cold,
            Wait {
                session: cold.session,
                tag: cold.tag,
                namespace: self.pool.spaces.get(cold.namespace).id,
                keys: cold
                    .keys
                    .iter()
                    .map(|keys| keys.unwrap_or_default().to_vec())
                    .collect(),
                tokens_max,
                quota,
                holds,
                waiting: under_way.len(),
                promotions: under_way,
                arrived: [0; 2],
                asking,
                since: now,
                deadline: now + self.promotion_deadline(),
            },
            effects,
        );
        Waiting::Begun
    }

    fn begin_wait(&mut self, cold: &Cold<'_>, wait: Wait, effects: &mut Effects) {
        let (quota, hit_tokens) = (wait.quota, wait.tokens_max);
        let id = self.nvme.waits.add(wait);
        if let Some(session) = self.sessions.get_mut(&cold.session) {
            session.held += quota;
            session.waits.insert(cold.tag, id);
        }
        self.counters.lookups_pending += 1;
        let completion = Completion::LookupPending { hit_tokens };
        complete(effects, cold.session, cold.tag, completion);
    }

    /// How long a look-up waits that begins now.
    fn promotion_deadline(&self) -> Duration {
        let nvme = self
            .nvme
            .config
            .as_ref()
            .map_or(Duration::ZERO, |config| config.promotion_deadline);
        let remote = self.remote.config.as_ref().filter(|_| self.remote.serves_reads());
        remote.map_or(nvme, |config| config.promotion_deadline.max(nvme))
    }

    /// Holds what is in host memory of a hit and promotes the rest. The answer is the hit if all that is under way arrives.
    fn bring(
        &mut self,
        cold: &Cold<'_>,
        spans: Vec<GroupSpan>,
        holds: &mut Vec<Hold>,
        effects: &mut Effects,
    ) -> (u64, Vec<GroupSpan>) {
        let blocks: Vec<BlockIndex> = self.found_in(&spans).collect();
        // What is there must not go for what is to come.
        self.hold_resident(&blocks, holds);
        let (hit, spans) = self.promote_all(cold, &blocks, spans, effects);
        if hit < cold.hit {
            let blocks: Vec<BlockIndex> = self.found_in(&spans).collect();
            let longer = std::mem::take(holds);
            self.hold_resident(&blocks, holds);
            self.end_holds(longer);
        }
        (hit, spans)
    }

    /// The remote tier has said all that a look-up asked: what is there is promoted, and waited for too.
    pub(crate) fn extend_wait(&mut self, id: u64, effects: &mut Effects) {
        let Some(wait) = self.nvme.waits.get_mut(id) else {
            return;
        };
        let (session, tag, tokens_max, id_of) = (wait.session, wait.tag, wait.tokens_max, wait.namespace);
        let (keys, is_idle) = (std::mem::take(&mut wait.keys), wait.waiting == 0);
        if let Some(namespace) = self.namespace_of_wait(session, id_of) {
            let slices: Vec<Option<&[BlockHash]>> = keys.iter().map(|keys| Some(keys.as_slice())).collect();
            let hit = self.find_hit(namespace, &slices, tokens_max, self.reach());
            let spans = self.spans_of(namespace, hit);
            let cold = Cold {
                session,
                tag,
                namespace,
                keys: &slices,
                hit,
                longest: hit,
            };
            let mut holds = self.scratch.holds.pop().unwrap_or_default();
            let (_, spans) = self.bring(&cold, spans, &mut holds, effects);
            self.wait_for_more(id, &spans, holds, effects);
        } else if is_idle {
            return self.answer_wait(id, effects);
        }
        let Some(wait) = self.nvme.waits.get_mut(id) else {
            return;
        };
        wait.keys = keys;
        if wait.waiting == 0 {
            self.answer_wait(id, effects);
        }
    }

    /// A look-up waits for what is under way of these blocks, and for nothing else.
    fn wait_for_more(&mut self, id: u64, spans: &[GroupSpan], holds: Vec<Hold>, effects: &mut Effects) {
        let under_way = self.promotions_of(spans);
        let Some(wait) = self.nvme.waits.get_mut(id) else {
            return self.end_holds(holds);
        };
        let before = std::mem::replace(&mut wait.promotions, under_way.clone());
        wait.waiting = under_way.len();
        let holds = std::mem::replace(&mut wait.holds, holds);
        self.end_holds(holds);
        for &promotion in &under_way {
            self.join_promotion(promotion, id, effects);
        }
        for promotion in before.into_iter().filter(|before| !under_way.contains(before)) {
            self.leave_promotion(promotion, id, effects);
        }
    }

    /// What is on its way of these blocks.
    fn promotions_of(&self, spans: &[GroupSpan]) -> Vec<u32> {
        let promoting = self
            .found_in(spans)
            .filter(|&block| self.state_of(block) == BlockState::Promoting);
        promoting.map(|block| self.pool.blocks.get(block).link).collect()
    }

    /// Promotes blocks of lower tiers in order, until one has to stay. The answer is the hit if all that is under way arrives.
    fn promote_all(
        &mut self,
        cold: &Cold<'_>,
        blocks: &[BlockIndex],
        spans: Vec<GroupSpan>,
        effects: &mut Effects,
    ) -> (u64, Vec<GroupSpan>) {
        let mut effort = Effort::PROMOTE;
        for &block in blocks {
            let is_below = matches!(self.state_of(block), BlockState::Stored | BlockState::Remote);
            if is_below && !self.promote(block, &mut effort, effects) {
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
    pub(crate) fn promotion_ended(
        &mut self,
        id: u64,
        arrived: Option<BlockIndex>,
        from: Tier,
        effects: &mut Effects,
    ) {
        let Some(wait) = self.nvme.waits.get_mut(id) else {
            return;
        };
        wait.waiting -= 1;
        if let Some(block) = arrived {
            wait.arrived[usize::from(from == Tier::Remote)] += 1;
            self.pool.hold_quietly(block, &mut wait.holds);
        }
        if wait.waiting == 0 && wait.asking == 0 {
            self.answer_wait(id, effects);
        }
    }

    /// Answers look-ups whose deadline has come.
    pub(crate) fn expire_waits(&mut self, now: Instant, effects: &mut Effects) {
        while let Some((_, id)) = self.nvme.waits.first().filter(|&(deadline, _)| deadline <= now) {
            let is_asking = self.nvme.waits.get_mut(id).is_some_and(|wait| wait.asking > 0);
            self.counters.remote_lookups_late += u64::from(is_asking);
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
        let Some(namespace) = self.namespace_of_wait(wait.session, wait.namespace) else {
            self.counters.lookups_missed += 1;
            answer_miss(effects, wait.session, wait.tag, LookupOutcome::Complete);
            return;
        };
        let keys: Vec<Option<&[BlockHash]>> = wait.keys.iter().map(|keys| Some(keys.as_slice())).collect();
        let hit = self.find_hit(namespace, &keys, wait.tokens_max, Reach::Host);
        self.answer_lookup(wait.session, wait.tag, namespace, hit, wait.arrived, effects);
    }

    /// The number of the namespace that a look-up was asked in, if its engine is still in it.
    fn namespace_of_wait(&self, session: SessionId, asked_in: NamespaceId) -> Option<u32> {
        let group = self.sessions.get(&session)?.group;
        let namespace = self.ready_namespace(group)?;
        (self.pool.spaces.get(namespace).id == asked_in).then_some(namespace)
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

fn count_of(spans: &[GroupSpan]) -> usize {
    spans.iter().map(|span| span.count as usize).sum()
}
