//! What dishonest clients say. Each of these must cost them their session, and nobody else anything.

use kvstore_types::{BlockHash, DescriptorRun, GroupSpan, SessionId, SlotRef, Tag};

use super::world::World;
use crate::effect::Effect;
use crate::event::{Event, GroupKeys};

impl World {
    /// One client breaks the protocol, if it is in a position to.
    pub(super) fn lie(&mut self, client: usize) {
        let (scheduler, worker) = (
            self.clients[client].scheduler(),
            self.clients[client].members[1].session,
        );
        let liar = match self.random.below(8) {
            0 => worker.map(|session| self.seal_beyond_the_region(session)),
            1 => worker.and_then(|session| self.abort_foreign_slot(client, session)),
            2 => scheduler.and_then(|session| self.commit_more_than_the_hit(client, session)),
            3 => scheduler.and_then(|session| self.use_tag_twice(client, session)),
            4 => worker.map(|session| self.reserve_as_worker(session)),
            5 => scheduler.and_then(|session| self.name_unknown_group(client, session)),
            6 => scheduler.and_then(|session| self.describe_too_long_blocks(client, session)),
            _ => scheduler.map(|session| self.commit_without_end(session)),
        };
        let Some(liar) = liar else { return };
        let is_cut_off =
            |effect: &Effect| matches!(effect, Effect::CutOff { session, .. } if *session == liar);
        assert!(
            self.effects.list.iter().any(is_cut_off),
            "{liar} lied and was not cut off"
        );
    }

    fn seal_beyond_the_region(&mut self, session: SessionId) -> SessionId {
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

    fn abort_foreign_slot(&mut self, client: usize, session: SessionId) -> Option<SessionId> {
        let own = self.clients[client].id;
        let foreign = self
            .model
            .reservations
            .iter()
            .find(|reservation| reservation.group != own);
        let slots = [foreign?.slot];
        self.step(Event::Abort {
            session,
            tag: Tag(0),
            slots: &slots,
        });
        Some(session)
    }

    fn commit_more_than_the_hit(&mut self, client: usize, session: SessionId) -> Option<SessionId> {
        let (&tag, lookup) = self.clients[client].lookups.iter().next()?;
        let span = lookup.spans[0];
        let spans = [GroupSpan {
            count: span.count + 1,
            ..span
        }];
        self.step(Event::LoadCommit {
            session,
            tag,
            lease: Tag(0),
            spans: &spans,
        });
        Some(session)
    }

    fn use_tag_twice(&mut self, client: usize, session: SessionId) -> Option<SessionId> {
        let own = self.waiting.keys().find(|key| key.0 == session).map(|key| key.1);
        let tag = own.or(self.clients[client].lookups.keys().next().copied())?;
        self.step(Event::Lookup {
            session,
            tag,
            groups: &[],
            tokens_max: 16,
        });
        Some(session)
    }

    fn reserve_as_worker(&mut self, session: SessionId) -> SessionId {
        self.step(Event::Reserve {
            session,
            tag: Tag(0),
            groups: &[],
            runs: &[],
        });
        session
    }

    fn name_unknown_group(&mut self, client: usize, session: SessionId) -> Option<SessionId> {
        if !self.is_ready(client) || self.is_draining {
            return None;
        }
        let groups = [GroupKeys {
            group: 99,
            hashes: &[],
        }];
        self.step(Event::Reserve {
            session,
            tag: Tag(0),
            groups: &groups,
            runs: &[],
        });
        Some(session)
    }

    fn describe_too_long_blocks(&mut self, client: usize, session: SessionId) -> Option<SessionId> {
        if !self.is_ready(client) || self.is_draining {
            return None;
        }
        let hashes = [BlockHash([3; 32])];
        let groups = [GroupKeys {
            group: 0,
            hashes: &hashes,
        }];
        let runs = [DescriptorRun {
            blocks: 1,
            tokens_per_block: 5,
            tokens: &[1, 2, 3, 4, 5],
            ..DescriptorRun::undescribed(1)
        }];
        self.step(Event::Reserve {
            session,
            tag: Tag(0),
            groups: &groups,
            runs: &runs,
        });
        Some(session)
    }

    fn commit_without_end(&mut self, session: SessionId) -> SessionId {
        let spans = [GroupSpan {
            group: 0,
            first: 0,
            count: u32::MAX,
        }];
        self.step(Event::LoadCommit {
            session,
            tag: Tag(u64::MAX),
            lease: Tag(0),
            spans: &spans,
        });
        session
    }
}
