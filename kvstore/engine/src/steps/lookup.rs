//! How long a prefix is cached, and the holds on what makes the hit.

use std::time::Instant;

use kvstore_types::{BlockHash, GroupLayout, GroupSpan, SessionId, Tag};

use crate::block::{BlockIndex, Blocks, Reach, Space, Trail};
use crate::effect::{Completion, Effects, LookupOutcome, Violation};
use crate::engine::{Engine, Outcome, complete, position};
use crate::event::GroupKeys;
use crate::plan::{GroupWant, Presence, longest_hit, needed};
use crate::pool::Hold;
use crate::session::HeldLookup;
use crate::steps::nvme::{Cold, Waiting};

/// Lists of holds kept for reuse.
const SPARE_MAX: usize = 16;

impl Engine {
    pub(crate) fn on_lookup(
        &mut self,
        now: Instant,
        id: SessionId,
        tag: Tag,
        groups: &[GroupKeys<'_>],
        tokens_max: u64,
        effects: &mut Effects,
    ) -> Outcome {
        let (operations_max, held_max) = (
            self.config.operations_per_session_max,
            self.config.holds_per_session_max,
        );
        let Some(session) = self.scheduler(id, "look up")? else {
            return Ok(());
        };
        if session.has_tag(tag) {
            return Err(Violation::TagInUse(tag));
        }
        if session.operations() >= operations_max {
            return Err(Violation::TooManyOperations { max: operations_max });
        }
        let (group, held) = (session.group, session.held);
        self.counters.lookups += 1;
        let Some(namespace) = self.ready_namespace(group) else {
            self.counters.lookups_not_ready += 1;
            answer_miss(effects, id, tag, LookupOutcome::NotReady);
            return Ok(());
        };
        let keys = by_group(groups, self.pool.spaces.get(namespace).geometry.groups.len())?;
        self.counters.lookup_blocks += groups.iter().map(|group| group.hashes.len() as u64).sum::<u64>();
        if held >= held_max {
            self.counters.lookups_over_quota += 1;
            answer_miss(effects, id, tag, LookupOutcome::QuotaExceeded);
            return Ok(());
        }
        let reach = self.reach();
        let mut hit = self.find_hit(namespace, &keys, tokens_max, reach);
        let longest = if reach == Reach::Remote {
            self.longest_named(namespace, &keys, tokens_max)
        } else {
            hit
        };
        if (self.scratch.is_cold && hit > 0) || hit < longest {
            let cold = Cold {
                session: id,
                tag,
                namespace,
                keys: &keys,
                hit,
                longest,
            };
            match self.wait_for(now, &cold, effects) {
                Waiting::NotNeeded => {}
                Waiting::Begun => return Ok(()),
                Waiting::InVain => hit = self.find_hit(namespace, &keys, tokens_max, Reach::Host),
            }
        }
        self.answer_lookup(id, tag, namespace, hit, [0; 2], effects);
        Ok(())
    }

    /// Answers a look-up with a hit whose blocks are in `scratch.found`, all of them resident. So many have arrived for it from
    /// NVMe and from the remote tier; the answer may be shorter than that.
    pub(crate) fn answer_lookup(
        &mut self,
        id: SessionId,
        tag: Tag,
        namespace: u32,
        hit: u64,
        arrived: [u64; 2],
        effects: &mut Effects,
    ) {
        let held_max = self.config.holds_per_session_max;
        let held = self.sessions.get(&id).map_or(0, |session| session.held);
        let spans = self.spans_of(namespace, hit);
        let blocks: usize = spans.iter().map(|span| span.count as usize).sum();
        if held + blocks > held_max {
            self.counters.lookups_over_quota += 1;
            answer_miss(effects, id, tag, LookupOutcome::QuotaExceeded);
            return;
        }
        let traffic = &mut self.pool.spaces.get_mut(namespace).traffic;
        traffic.lookups += 1;
        traffic.hit_blocks += blocks as u64;
        let arrived = arrived.map(|arrived| arrived.min(blocks as u64));
        traffic.nvme_hit_blocks += arrived[0];
        traffic.remote_hit_blocks += arrived[1];
        self.counters.nvme_hit_blocks += arrived[0];
        self.counters.remote_hit_blocks += arrived[1];
        if hit == 0 {
            traffic.lookups_missed += 1;
            self.counters.lookups_missed += 1;
            answer_miss(effects, id, tag, LookupOutcome::Complete);
            return;
        }
        self.hold(id, tag, namespace, &spans);
        self.counters.lookups_hit += 1;
        self.counters.hit_blocks += blocks as u64;
        self.counters.hit_tokens = self.counters.hit_tokens.saturating_add(hit);
        let start = position(effects.spans.len());
        effects.spans.extend(spans);
        let spans = start..position(effects.spans.len());
        let completion = Completion::Lookup {
            hit_tokens: hit,
            spans,
            arrived,
            outcome: LookupOutcome::Complete,
        };
        complete(effects, id, tag, completion);
    }

    pub(crate) fn on_lookup_release(&mut self, id: SessionId, tag: Tag, effects: &mut Effects) {
        if self.release_wait(id, tag, effects) {
            return;
        }
        let Some(session) = self.session(id) else {
            return;
        };
        match session.lookups.remove(&tag) {
            Some(lookup) => {
                session.held -= lookup.holds.len();
                self.end_holds(lookup.holds);
            }
            None => self.counters.releases_unknown += 1,
        }
    }

    /// Gives up all look-ups of a session.
    pub(crate) fn release_lookups(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let lookups = std::mem::take(&mut session.lookups);
        session.held -= lookups.values().map(|lookup| lookup.holds.len()).sum::<usize>();
        for lookup in lookups.into_values() {
            self.end_holds(lookup.holds);
        }
    }

    /// Ends holds and keeps the list's memory.
    pub(crate) fn end_holds(&mut self, mut holds: Vec<Hold>) {
        for hold in holds.drain(..) {
            self.pool.unhold(hold);
        }
        if self.scratch.holds.len() < SPARE_MAX {
            self.scratch.holds.push(holds);
        }
    }

    /// The longest hit over the blocks within reach. What was found stays in `scratch.found`.
    pub(crate) fn find_hit(
        &mut self,
        namespace: u32,
        keys: &[Option<&[BlockHash]>],
        tokens_max: u64,
        reach: Reach,
    ) -> u64 {
        self.scratch.is_cold = false;
        let layouts = &self.pool.spaces.get(namespace).geometry.groups;
        if keys.iter().any(Option::is_none) {
            return 0;
        }
        let keys: Vec<&[BlockHash]> = keys.iter().copied().flatten().collect();
        let wants = wants_of(layouts, &keys);
        let found = &mut self.scratch.found;
        found.resize_with(found.len().max(keys.len()), Vec::new);
        for (found, keys) in found.iter_mut().zip(&keys) {
            found.clear();
            found.resize(keys.len(), BlockIndex::NONE);
        }
        let mut scan = Scan {
            blocks: &self.pool.blocks,
            namespace,
            keys: &keys,
            found,
            trail: Trail::new(reach),
        };
        let hit = longest_hit(&wants, tokens_max, &mut scan);
        self.scratch.is_cold = scan.trail.is_cold;
        hit
    }

    /// The longest hit that there could be, whatever is where.
    fn longest_named(&self, namespace: u32, keys: &[Option<&[BlockHash]>], tokens_max: u64) -> u64 {
        if keys.iter().any(Option::is_none) {
            return 0;
        }
        let keys: Vec<&[BlockHash]> = keys.iter().copied().flatten().collect();
        let layouts = &self.pool.spaces.get(namespace).geometry.groups;
        longest_hit(&wants_of(layouts, &keys), tokens_max, &mut Everything)
    }

    pub(crate) fn spans_of(&self, namespace: u32, hit: u64) -> Vec<GroupSpan> {
        let layouts = (0_u32..).zip(&self.pool.spaces.get(namespace).geometry.groups);
        let spans = layouts.map(|(group, layout)| {
            let range = needed(layout.kind, u64::from(layout.tokens_per_block), hit);
            // Blocks of a hit are keys of one message, far fewer than 2^32.
            let number = |value| u32::try_from(value).unwrap_or(u32::MAX);
            GroupSpan {
                group,
                first: number(range.start),
                count: number(range.end - range.start),
            }
        });
        spans.filter(|span| span.count > 0).collect()
    }

    fn hold(&mut self, id: SessionId, tag: Tag, namespace: u32, spans: &[GroupSpan]) {
        let mut holds = self.scratch.holds.pop().unwrap_or_default();
        for span in spans {
            let space = Space::new(namespace, u8::try_from(span.group).unwrap_or(u8::MAX));
            let found = &self.scratch.found[span.group as usize];
            let range = span.first as usize..(span.first + span.count) as usize;
            self.pool.hold(space, &found[range], &mut holds);
        }
        self.admit_hit(&holds);
        self.store_hit(&holds);
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.held += holds.len();
        session.lookups.insert(
            tag,
            HeldLookup {
                spans: spans.to_vec(),
                holds,
            },
        );
    }
}

fn wants_of(layouts: &[GroupLayout], keys: &[&[BlockHash]]) -> Vec<GroupWant> {
    let wants = layouts.iter().zip(keys).map(|(layout, keys)| GroupWant {
        kind: layout.kind,
        tokens_per_block: u64::from(layout.tokens_per_block),
        blocks: keys.len() as u64,
    });
    wants.collect()
}

/// What if all blocks were there?
struct Everything;

impl Presence for Everything {
    fn run_end(&mut self, _: usize, end: u64) -> u64 {
        end
    }

    fn run_start(&mut self, _: usize, start: u64, _: u64) -> u64 {
        start
    }
}

/// The keys of each group of the namespace; a group may be named once.
pub(crate) fn by_group<'a>(
    groups: &[GroupKeys<'a>],
    count: usize,
) -> Result<Vec<Option<&'a [BlockHash]>>, Violation> {
    let mut keys = vec![None; count];
    for group in groups {
        match keys.get_mut(group.group as usize) {
            Some(place @ None) => *place = Some(group.hashes),
            Some(Some(_)) | None => return Err(Violation::BadGroup(group.group)),
        }
    }
    Ok(keys)
}

/// Tells a client that nothing was found.
pub(crate) fn answer_miss(effects: &mut Effects, session: SessionId, tag: Tag, outcome: LookupOutcome) {
    let end = position(effects.spans.len());
    complete(
        effects,
        session,
        tag,
        Completion::Lookup {
            hit_tokens: 0,
            spans: end..end,
            arrived: [0; 2],
            outcome,
        },
    );
}

/// Asks the table, a batch at a time, and remembers what it found.
struct Scan<'a> {
    blocks: &'a Blocks,
    namespace: u32,
    keys: &'a [&'a [BlockHash]],
    found: &'a mut [Vec<BlockIndex>],
    trail: Trail,
}

impl Scan<'_> {
    fn find(&mut self, group: usize, start: usize, end: usize) -> &[BlockIndex] {
        let space = Space::new(self.namespace, u8::try_from(group).unwrap_or(u8::MAX));
        let found = &mut self.found[group][start..end];
        self.blocks
            .find_present(space, &self.keys[group][start..end], found, &mut self.trail);
        found
    }
}

impl Presence for Scan<'_> {
    fn run_end(&mut self, group: usize, end: u64) -> u64 {
        let end = usize::try_from(end).unwrap_or(usize::MAX);
        let mut start = 0;
        while start < end {
            let stop = end.min(start + Blocks::BATCH);
            let found = self.find(group, start, stop);
            if let Some(missing) = found.iter().position(|&block| block == BlockIndex::NONE) {
                return (start + missing) as u64;
            }
            start = stop;
        }
        end as u64
    }

    fn run_start(&mut self, group: usize, start: u64, end: u64) -> u64 {
        let bound = |value| usize::try_from(value).unwrap_or(usize::MAX);
        let (start, mut end) = (bound(start), bound(end));
        while end > start {
            let from = start.max(end.saturating_sub(Blocks::BATCH));
            let found = self.find(group, from, end);
            if let Some(missing) = found.iter().rposition(|&block| block == BlockIndex::NONE) {
                return (from + missing + 1) as u64;
            }
            end = from;
        }
        start as u64
    }
}
