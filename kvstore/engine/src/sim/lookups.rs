//! How honest clients look up, and what the answer has to be.

use std::collections::BTreeMap;

use kvstore_types::{
    BlockHash, BlockKey, GroupIndex, GroupLayout, GroupSpan, NamespaceId, SessionId, SlotRef, Tag,
};

use super::client::LookUp;
use super::model::Model;
use super::transfers::Transfer;
use super::waits::Waiting;
use super::world::World;
use crate::effect::{Completion, LookupOutcome};
use crate::event::Event;
use crate::plan::needed;

impl World {
    pub(super) fn look_up(&mut self, client: usize) {
        let Some(session) = self.clients[client].scheduler() else {
            return;
        };
        let (waits, quota) = self.waits_of(Some(session));
        let alive = self.clients[client].lookups.len() + self.clients[client].leases.len() + waits;
        if alive >= self.config.operations_per_session_max {
            return;
        }
        let keys = self.some_keys(client);
        let tag = self.clients[client].tag();
        let tokens_max = self.random.below(80) as u64;
        let ready = self
            .is_ready(client)
            .then(|| self.clients[client].namespace.clone())
            .flatten();
        let may_ask = self.twin.serves_reads(self.config.remote.as_ref());
        let full = ready.as_ref().map_or(0, |(namespace, layouts)| {
            Model::longest_hit(*namespace, layouts, &keys, tokens_max, |key| {
                may_ask || self.is_anywhere(key)
            })
        });
        self.asking = Some((session, tag));
        self.with_groups(&keys, |world, groups| {
            world.step(Event::Lookup {
                session,
                tag,
                groups,
                tokens_max,
            });
        });
        self.asking = None;
        if let (Some(Completion::LookupPending { hit_tokens }), Some((namespace, layouts))) =
            (self.answer(session, tag), &ready)
        {
            let (namespace, layouts) = (*namespace, layouts.clone());
            return self.begin_wait(
                client,
                (session, tag),
                namespace,
                layouts,
                keys,
                (hit_tokens, full),
            );
        }
        self.compare();
        self.take_answer(client, (session, tag), ready, keys, tokens_max, quota);
    }

    /// The answer comes at once.
    fn take_answer(
        &mut self,
        client: usize,
        (session, tag): (SessionId, Tag),
        ready: Option<(NamespaceId, Vec<GroupLayout>)>,
        keys: Vec<Vec<BlockHash>>,
        tokens_max: u64,
        quota: usize,
    ) {
        let Some(Completion::Lookup {
            hit_tokens,
            spans,
            outcome,
            ..
        }) = self.answer(session, tag)
        else {
            panic!("{session}: a look-up got no answer")
        };
        let Some((namespace, layouts)) = ready else {
            assert_eq!(
                (outcome, hit_tokens),
                (LookupOutcome::NotReady, 0),
                "a look-up before all ranks are there"
            );
            return;
        };
        let expected = Model::longest_hit(namespace, &layouts, &keys, tokens_max, |key| {
            self.model.residents.contains_key(key)
        });
        let want = expected_spans(&layouts, expected);
        if outcome == LookupOutcome::QuotaExceeded {
            let held = self.held(client) + quota + want.iter().map(|span| span.count as usize).sum::<usize>();
            assert!(
                held >= self.config.holds_per_session_max,
                "{held} holds do not exceed the quota"
            );
            return;
        }
        assert_eq!(
            (outcome, hit_tokens),
            (LookupOutcome::Complete, expected),
            "promise 2: the longest hit"
        );
        if expected == 0 {
            return;
        }
        let spans = self.effects.spans[spans.start as usize..spans.end as usize].to_vec();
        assert_eq!(spans, want, "a hit holds what it needs");
        self.tally.hits += 1;
        let slots = self.slots_of(namespace, &want, &keys);
        self.clients[client]
            .lookups
            .insert(tag, LookUp { spans, keys, slots });
    }

    fn is_anywhere(&self, key: &BlockKey) -> bool {
        let is_coming = |transfer: &Transfer| transfer.is_read && transfer.key == *key;
        self.model.residents.contains_key(key)
            || self.model.stored.contains(key)
            || self.model.transfers.values().any(is_coming)
    }

    /// The engine says that blocks are on their way: `hit` is what it promises and the most it may.
    fn begin_wait(
        &mut self,
        client: usize,
        name: (SessionId, Tag),
        namespace: NamespaceId,
        layouts: Vec<GroupLayout>,
        keys: Vec<Vec<BlockHash>>,
        hit: (u64, u64),
    ) {
        let nvme = self.config.nvme.as_ref().map(|config| config.promotion_deadline);
        let remote = self
            .config
            .remote
            .as_ref()
            .map(|config| config.promotion_deadline);
        let deadline = nvme.max(remote).filter(|deadline| !deadline.is_zero());
        let Some(deadline) = deadline else {
            panic!("{name:?} waits and may not")
        };
        let here = Model::longest_hit(namespace, &layouts, &keys, hit.0, |key| {
            self.model.residents.contains_key(key)
        });
        assert!(
            here < hit.0 && hit.0 <= hit.1,
            "promise 2: {} tokens are promised, {here} are there and {} somewhere",
            hit.0,
            hit.1
        );
        let count = |hit| {
            expected_spans(&layouts, hit)
                .iter()
                .map(|span| span.count as usize)
                .sum()
        };
        let waiting = Waiting {
            quota: count(hit.1),
            namespace,
            layouts,
            keys,
            tokens_max: hit.0,
            deadline: self.now + deadline,
            group: self.clients[client].id,
            ranks: self.clients[client].ranks(),
            is_void: false,
        };
        self.waiting.insert(name, waiting);
        self.tally.waits += 1;
        self.compare();
    }

    fn held(&self, client: usize) -> usize {
        let client = &self.clients[client];
        let holds = client
            .lookups
            .values()
            .flat_map(|lookup| &lookup.spans)
            .map(|span| span.count as usize);
        holds.sum::<usize>() + client.leases.values().map(Vec::len).sum::<usize>()
    }

    pub(super) fn slots_of(
        &self,
        namespace: NamespaceId,
        spans: &[GroupSpan],
        keys: &[Vec<BlockHash>],
    ) -> BTreeMap<(u32, u32), SlotRef> {
        let blocks = spans
            .iter()
            .flat_map(|span| (span.first..span.first + span.count).map(|block| (span.group, block)));
        let slot = |(group, block): (u32, u32)| {
            let hash = keys[group as usize][block as usize];
            let key = BlockKey {
                namespace,
                group: GroupIndex(u8::try_from(group).unwrap_or(0)),
                hash,
            };
            self.model
                .residents
                .get(&key)
                .map(|resident| ((group, block), resident.slot))
        };
        blocks.filter_map(slot).collect()
    }
}

pub(super) fn expected_spans(layouts: &[GroupLayout], hit: u64) -> Vec<GroupSpan> {
    let number = |value| u32::try_from(value).unwrap_or(u32::MAX);
    let spans = (0_u32..).zip(layouts).map(|(group, layout)| {
        let range = needed(layout.kind, u64::from(layout.tokens_per_block), hit);
        GroupSpan {
            group,
            first: number(range.start),
            count: number(range.end - range.start),
        }
    });
    spans.filter(|span| span.count > 0).collect()
}
