//! Look-ups that wait for blocks on their way from NVMe: who waits for what, and what the answer has to be.

use std::time::Instant;

use kvstore_types::{BlockHash, EngineGroupId, GroupLayout, NamespaceId, SessionId, Tag};

use super::client::LookUp;
use super::lookups::expected_spans;
use super::model::Model;
use super::world::World;
use crate::effect::{Completion, LookupOutcome};
use crate::event::{Event, Role};

/// A look-up without an answer.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) namespace: NamespaceId,
    pub(super) layouts: Vec<GroupLayout>,
    pub(super) keys: Vec<Vec<BlockHash>>,
    /// The answer may not be longer than what was promised.
    pub(super) tokens_max: u64,
    pub(super) deadline: Instant,
    pub(super) group: EngineGroupId,
    pub(super) ranks: usize,
    /// Blocks that count against the session's quota.
    pub(super) quota: usize,
    /// It was given up, or its namespace has changed: a miss is the answer.
    pub(super) is_void: bool,
}

impl World {
    /// An answer to a look-up comes. One that was asked in this step is its asker's business.
    pub(super) fn hear_lookup(&mut self, session: SessionId, tag: Tag, answer: &Completion) {
        let Completion::Lookup {
            hit_tokens,
            spans,
            outcome,
            ..
        } = answer.clone()
        else {
            return;
        };
        if self.asking == Some((session, tag)) {
            return;
        }
        let Some(waiting) = self.waiting.remove(&(session, tag)) else {
            panic!("{session}: the look-up {tag} was answered and does not wait")
        };
        let workers = self
            .model
            .sessions
            .values()
            .filter(|other| other.group == waiting.group);
        let workers = workers.filter(|other| matches!(other.role, Role::Worker(_)));
        let is_ready = workers.count() == waiting.ranks;
        let (layouts, keys) = (&waiting.layouts, &waiting.keys);
        let expected = if waiting.is_void || !is_ready {
            0
        } else {
            Model::longest_hit(waiting.namespace, layouts, keys, waiting.tokens_max, |key| {
                self.model.residents.contains_key(key)
            })
        };
        assert_eq!(
            (outcome, hit_tokens),
            (LookupOutcome::Complete, expected),
            "promise 2: the longest hit after waiting"
        );
        let spans = self.effects.spans[spans.start as usize..spans.end as usize].to_vec();
        assert_eq!(
            spans,
            expected_spans(layouts, expected),
            "a hit holds what it needs"
        );
        if expected == 0 {
            return;
        }
        self.tally.hits_after_waiting += 1;
        let slots = self.slots_of(waiting.namespace, &spans, keys);
        let mut clients = self.clients.iter_mut();
        if let Some(client) = clients.find(|client| client.scheduler() == Some(session)) {
            let keys = waiting.keys;
            client.lookups.insert(tag, LookUp { spans, keys, slots });
        }
    }

    /// Whatever was waited for: nobody waits longer than was said, and the engine knows when to wake up.
    pub(super) fn check_waits(&mut self) {
        let sessions = &self.model.sessions;
        self.waiting
            .retain(|(session, _), _| sessions.contains_key(session));
        let Some(first) = self.waiting.values().map(|waiting| waiting.deadline).min() else {
            return;
        };
        assert!(
            first > self.now,
            "promise 7: a look-up waits longer than its deadline"
        );
        let wakes_at = self.engine.wakes_at();
        assert!(
            wakes_at.is_some_and(|at| at <= first),
            "promise 7: the engine would sleep over a deadline"
        );
    }

    /// The scheduler gives up a look-up that waits.
    pub(super) fn give_up(&mut self, client: usize) {
        let Some(session) = self.clients[client].scheduler() else {
            return;
        };
        let own = self.waiting.keys().filter(|key| key.0 == session);
        let own: Vec<Tag> = own.map(|&(_, tag)| tag).collect();
        let Some(tag) = self.random.pick(&own) else { return };
        self.void_waits(|key| *key == (session, tag));
        self.step(Event::LookupRelease { session, tag });
        assert!(
            !self.waiting.contains_key(&(session, tag)),
            "{session}: the look-up {tag} was given up and got no answer"
        );
    }

    /// These look-ups have to miss.
    pub(super) fn void_waits(&mut self, is_void: impl Fn(&(SessionId, Tag)) -> bool) {
        let own = self.waiting.iter_mut().filter(|(key, _)| is_void(key));
        own.for_each(|(_, waiting)| waiting.is_void = true);
    }

    /// Look-ups of a session that wait, and their quota.
    pub(super) fn waits_of(&self, session: Option<SessionId>) -> (usize, usize) {
        let own = self.waiting.iter().filter(|(key, _)| Some(key.0) == session);
        own.fold((0, 0), |(count, quota), (_, waiting)| {
            (count + 1, quota + waiting.quota)
        })
    }
}
