//! What dishonest clients say. Each of these must cost them their session, and nobody else anything.

use kvstore_types::{GroupSpan, SlotRef, Tag};

use super::world::World;
use crate::effect::Effect;
use crate::event::{Event, GroupKeys};

impl World {
    /// One client breaks the protocol.
    pub(super) fn lie(&mut self, client: usize) {
        let worker = self.clients[client].members[1].session;
        let Some(scheduler) = self.clients[client].scheduler() else {
            return;
        };
        let lookup = self.clients[client]
            .lookups
            .iter()
            .next()
            .map(|(&tag, lookup)| (tag, lookup.spans[0]));
        let session = match self.random.below(7) {
            0 => {
                let Some(session) = worker else { return };
                let slots = [SlotRef {
                    page: u32::MAX - 5,
                    generation: 7,
                }];
                self.step(Event::Seal {
                    session,
                    tag: Tag(0),
                    slots: &slots,
                });
                session
            }
            1 => {
                let Some(session) = worker else { return };
                let own = self.clients[client].id;
                let foreign = self
                    .model
                    .reservations
                    .iter()
                    .find(|reservation| reservation.group != own);
                let Some(slot) = foreign.map(|reservation| reservation.slot) else {
                    return;
                };
                self.step(Event::Abort {
                    session,
                    tag: Tag(0),
                    slots: &[slot],
                });
                session
            }
            2 => {
                let Some((tag, span)) = lookup else { return };
                let spans = [GroupSpan {
                    count: span.count + 1,
                    ..span
                }];
                self.step(Event::LoadCommit {
                    session: scheduler,
                    tag,
                    lease: Tag(0),
                    spans: &spans,
                });
                scheduler
            }
            3 => {
                let Some((tag, _)) = lookup else { return };
                self.step(Event::Lookup {
                    session: scheduler,
                    tag,
                    groups: &[],
                    tokens_max: 16,
                });
                scheduler
            }
            4 => {
                let Some(session) = worker else { return };
                self.step(Event::Reserve {
                    session,
                    tag: Tag(0),
                    groups: &[],
                });
                session
            }
            5 => {
                if !self.is_ready(client) || self.is_draining {
                    return;
                }
                let groups = [GroupKeys {
                    group: 99,
                    hashes: &[],
                }];
                self.step(Event::Reserve {
                    session: scheduler,
                    tag: Tag(0),
                    groups: &groups,
                });
                scheduler
            }
            _ => {
                let spans = [GroupSpan {
                    group: 0,
                    first: 0,
                    count: u32::MAX,
                }];
                self.step(Event::LoadCommit {
                    session: scheduler,
                    tag: Tag(u64::MAX),
                    lease: Tag(0),
                    spans: &spans,
                });
                scheduler
            }
        };
        let is_cut_off =
            |effect: &Effect| matches!(effect, Effect::CutOff { session: cut, .. } if *cut == session);
        assert!(
            self.effects.list.iter().any(is_cut_off),
            "{session} lied and was not cut off"
        );
    }
}
