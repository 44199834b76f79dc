//! Holds become leases, and leases end.

use std::time::Instant;

use kvstore_types::{GroupSpan, SessionId, Tag};

use crate::block::BlockIndex;
use crate::effect::{Completion, Effects, Grant, Violation};
use crate::engine::{Engine, Outcome, complete, position};
use crate::session::{HeldLookup, Lease};

impl Engine {
    pub(crate) fn on_load_commit(
        &mut self,
        now: Instant,
        id: SessionId,
        tag: Tag,
        lease: Tag,
        spans: &[GroupSpan],
        effects: &mut Effects,
    ) -> Outcome {
        let held_max = self.config.holds_per_session_max;
        let Some(session) = self.scheduler(id, "commit a load")? else {
            return Ok(());
        };
        // The look-up ends here, so its own tag may be used again.
        if lease != tag && session.has_tag(lease) || session.leases.contains_key(&lease) {
            return Err(Violation::TagInUse(lease));
        }
        let lookup = session.lookups.remove(&tag);
        session.held -= lookup.as_ref().map_or(0, |lookup| lookup.holds.len());
        let start = position(effects.grants.len());
        let outcome = match lookup {
            Some(lookup) => {
                let outcome = self.lease_spans(&lookup, spans, effects);
                self.end_holds(lookup.holds);
                outcome
            }
            None => lose_spans(spans, held_max, effects).map(|()| Vec::new()),
        };
        let blocks = outcome?;
        let grants = start..position(effects.grants.len());
        let leased = position(blocks.len());
        let lost = grants.end - grants.start - leased;
        let bytes = blocks
            .iter()
            .map(|&block| self.pool.payload_bytes(self.pool.blocks.get(block).space));
        self.counters.load_bytes += bytes.sum::<u64>();
        self.counters.load_blocks += u64::from(leased);
        self.counters.load_blocks_lost += u64::from(lost);
        if let Some(session) = self.sessions.get_mut(&id).filter(|_| leased > 0) {
            session.held += blocks.len();
            session.leases.insert(lease, Lease { blocks, since: now });
            self.counters.loads += 1;
        }
        complete(effects, id, lease, Completion::Load { grants, lost });
        Ok(())
    }

    pub(crate) fn on_lease_release(&mut self, id: SessionId, lease: Tag) {
        let Some(session) = self.session(id) else {
            return;
        };
        match session.leases.remove(&lease) {
            Some(lease) => {
                session.held -= lease.blocks.len();
                let took = self.elapsed(Some(lease.since));
                self.load_times.record(took);
                self.unlease_all(lease.blocks);
            }
            None => self.counters.releases_unknown += 1,
        }
    }

    /// Leases what is still held of `spans`, with one grant for each block.
    fn lease_spans(
        &mut self,
        lookup: &HeldLookup,
        spans: &[GroupSpan],
        effects: &mut Effects,
    ) -> Result<Vec<BlockIndex>, Violation> {
        let asked = spans
            .iter()
            .fold(0_usize, |sum, span| sum.saturating_add(span.count as usize));
        for &span in spans {
            // A block named twice would be leased twice; more blocks than the hit has are a lie in any case.
            if lookup.holds_of(span).is_none() || asked > lookup.holds.len() {
                return Err(bad_span(span));
            }
        }
        let mut blocks = Vec::with_capacity(asked);
        for hold in spans.iter().filter_map(|&span| lookup.holds_of(span)).flatten() {
            let is_held = self.pool.is_held(*hold);
            if is_held {
                self.pool.lease(hold.block);
                blocks.push(hold.block);
            }
            effects.grants.push(if is_held {
                Grant::Slot(hold.slot)
            } else {
                Grant::Lost
            });
        }
        Ok(blocks)
    }
}

/// Answers for a look-up that is not alive: all is lost, as long as the claim is of a size that could have been held.
fn lose_spans(spans: &[GroupSpan], held_max: usize, effects: &mut Effects) -> Outcome {
    let mut asked = 0_usize;
    for &span in spans {
        asked = asked.saturating_add(span.count as usize);
        if asked > held_max {
            return Err(bad_span(span));
        }
    }
    effects.grants.extend(std::iter::repeat_n(Grant::Lost, asked));
    Ok(())
}

fn bad_span(span: GroupSpan) -> Violation {
    Violation::BadSpan {
        group: span.group,
        first: span.first,
        count: span.count,
    }
}
