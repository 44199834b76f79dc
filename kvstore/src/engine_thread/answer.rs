//! Answers to the admin API.

use std::time::Instant;

use kvstore_engine::{Effect, Event, EvictBlocks, Evicted, Kept};
use kvstore_types::SessionId;

use super::core::{Core, Next};
use super::inquiry::{CHAIN_PAGE, Inquiry, SESSIONS_PAGE, SessionView, Summary, descriptor, namespaces};

impl Core {
    /// Answers one question. Clients have waited if it was much work.
    pub(super) fn answer(&mut self, inquiry: Inquiry, now: Instant) -> Next {
        // Whoever asked may have stopped waiting: then nobody hears the answer.
        match inquiry {
            Inquiry::Summary(reply) => {
                let _ = reply.send(Box::new(self.summary(now)));
            }
            Inquiry::Namespaces { from, reply } => {
                let _ = reply.send(namespaces(&self.engine, from));
            }
            Inquiry::Descriptor { namespace, reply } => {
                let _ = reply.send(descriptor(&self.engine, namespace));
            }
            Inquiry::Sessions { after, reply } => {
                let _ = reply.send(self.session_views(after, now));
            }
            Inquiry::Residency { keys, reply } => {
                let _ = reply.send(keys.iter().map(|key| self.engine.residency(key)).collect());
            }
            Inquiry::EvictBlocks {
                keys,
                tier,
                is_dry_run,
                reply,
            } => {
                // Nothing leaves behind the back of somebody who has stopped waiting.
                if !reply.is_closed() {
                    let ask = EvictBlocks {
                        keys: &keys,
                        tier,
                        is_dry_run,
                    };
                    self.step(Event::EvictBlocks(ask), now);
                    let _ = reply.send(self.evicted());
                }
            }
            Inquiry::Chain { end, reply } => {
                let _ = reply.send(self.engine.chain(&end, CHAIN_PAGE));
            }
            Inquiry::Keep { wish, reply } => {
                if !reply.is_closed() {
                    self.step(Event::Keep(wish.ask()), now);
                    let answer = self.effects.list.iter().find_map(|effect| match effect {
                        Effect::Kept(kept) => Some(*kept),
                        _ => None,
                    });
                    let _ = reply.send(answer.unwrap_or(Ok(Kept::default())));
                }
            }
            Inquiry::Remover(reply) => {
                let _ = reply.send(self.remote.remover());
            }
            Inquiry::Keeps(reply) => {
                let _ = reply.send(self.engine.keeps().collect());
            }
            Inquiry::Evict { range, reply } => {
                // Nobody would go on where this stops.
                if !reply.is_closed() {
                    self.step(Event::EvictRange(range), now);
                    let _ = reply.send(self.evicted());
                }
            }
        }
        Next::Round
    }

    /// A page of the sessions behind this one.
    fn session_views(&self, after: Option<SessionId>, now: Instant) -> Vec<SessionView> {
        let of_engine = self.engine.sessions_after(after).take(SESSIONS_PAGE);
        let views = of_engine.filter_map(|usage| {
            let session = self.sessions.get(&usage.session)?;
            Some(SessionView {
                usage,
                engine_name: session.engine_name.clone(),
                pod: session.pod.clone(),
                model: session.model.clone(),
                credentials: session.credentials,
                since: session.since,
                now,
            })
        });
        views.collect()
    }

    fn evicted(&self) -> Evicted {
        let answer = self.effects.list.iter().find_map(|effect| match effect {
            Effect::RangeEvicted(evicted) => Some(*evicted),
            _ => None,
        });
        answer.unwrap_or_default()
    }

    fn summary(&self, now: Instant) -> Summary {
        Summary {
            region_bytes: self.region_bytes,
            arena_bytes: self.engine.arena_bytes(),
            draining: self.draining,
            counters: *self.engine.counters(),
            occupancy: self.engine.occupancy(),
            devices: self.devices.view(&self.engine),
            remote: self.remote.view(),
            lookups: self.lookups,
            lookup_waits: *self.engine.lookup_waits(),
            loads: *self.engine.load_times(),
            stores: *self.engine.store_times(),
            now,
        }
    }
}
