//! How honest clients look up and load.

use std::collections::BTreeMap;

use kvstore_types::{
    BlockHash, BlockKey, GroupIndex, GroupLayout, GroupSpan, NamespaceId, SessionId, SlotRef, Tag,
};

use super::client::{Loading, LookUp, content, part_pages};
use super::model::{Model, Transfer, pages_of};
use super::waits::Waiting;
use super::world::World;
use crate::effect::{Completion, Grant, LookupOutcome};
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
        let full = ready.as_ref().map_or(0, |(namespace, layouts)| {
            Model::longest_hit(*namespace, layouts, &keys, tokens_max, |key| {
                self.is_anywhere(key)
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
        let Some(Completion::Lookup {
            hit_tokens,
            spans,
            outcome,
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
        let deadline = self.config.nvme.as_ref().map(|config| config.promotion_deadline);
        let deadline = deadline.filter(|deadline| !deadline.is_zero());
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

    pub(super) fn commit(&mut self, client: usize) {
        let Some(session) = self.clients[client].scheduler() else {
            return;
        };
        let tags: Vec<Tag> = self.clients[client].lookups.keys().copied().collect();
        let Some(tag) = self.random.pick(&tags) else {
            return;
        };
        let Some(lookup) = self.clients[client].lookups.remove(&tag) else {
            return;
        };
        let mut spans = lookup.spans.clone();
        if self.random.chance(30) {
            spans.retain(|_| self.random.chance(70));
            for span in &mut spans {
                let skip = u32::try_from(self.random.below(span.count as usize)).unwrap_or(0);
                (span.first, span.count) = (span.first + skip, span.count - skip);
            }
        }
        let lease = if self.random.chance(20) {
            tag
        } else {
            self.clients[client].tag()
        };
        self.step(Event::LoadCommit {
            session,
            tag,
            lease,
            spans: &spans,
        });
        let Some(Completion::Load { grants, lost }) = self.answer(session, lease) else {
            panic!("{session}: a commit got no answer")
        };
        let grants = self.effects.grants[grants.start as usize..grants.end as usize].to_vec();
        let blocks = spans
            .iter()
            .flat_map(|span| (span.first..span.first + span.count).map(|block| (span.group, block)));
        let blocks: Vec<(u32, u32)> = blocks.collect();
        assert_eq!(grants.len(), blocks.len(), "one grant for each block");
        let count_lost = grants.iter().filter(|grant| **grant == Grant::Lost).count();
        assert_eq!(count_lost, lost as usize, "lost blocks are counted");
        let mut loading = Vec::new();
        for (&(group, block), grant) in blocks.iter().zip(&grants) {
            let hash = lookup.keys[group as usize][block as usize];
            match *grant {
                Grant::Slot(slot) => loading.push(Loading { slot, group, hash }),
                Grant::Lost => self.check_lost(client, &lookup, group, block, hash),
                _ => panic!("{session}: {grant:?} is no answer to a commit"),
            }
        }
        self.begin_load(client, session, lease, loading);
    }

    fn begin_load(&mut self, client: usize, session: SessionId, lease: Tag, loading: Vec<Loading>) {
        if loading.is_empty() {
            return;
        }
        let Some((_, layouts)) = self.clients[client].namespace.clone() else {
            return;
        };
        let slots = loading
            .iter()
            .map(|load| (load.slot, pages_of(&layouts[load.group as usize])))
            .collect();
        let group = self.clients[client].id;
        self.model.leased(session, lease, group, slots);
        self.check_content(client, &loading, &layouts);
        self.clients[client].leases.insert(lease, loading);
    }

    fn check_lost(&self, client: usize, lookup: &LookUp, group: u32, block: u32, hash: BlockHash) {
        let Some((namespace, _)) = &self.clients[client].namespace else {
            return;
        };
        let group_index = GroupIndex(u8::try_from(group).unwrap_or(0));
        let key = BlockKey {
            namespace: *namespace,
            group: group_index,
            hash,
        };
        let now = self.model.residents.get(&key).map(|resident| resident.slot);
        let held = lookup.slots.get(&(group, block)).copied();
        assert_ne!(now, held, "{key} was lost though it never left");
    }

    /// A worker reads what is leased.
    pub(super) fn read(&mut self, client: usize) {
        let tags: Vec<Tag> = self.clients[client].leases.keys().copied().collect();
        let Some(tag) = self.random.pick(&tags) else {
            return;
        };
        let loading = self.clients[client].leases[&tag].clone();
        if let Some((_, layouts)) = self.clients[client].namespace.clone() {
            self.check_content(client, &loading, &layouts);
        }
    }

    fn check_content(&mut self, client: usize, loading: &[Loading], layouts: &[GroupLayout]) {
        let identity = self.clients[client].identity();
        for load in loading {
            let layout = &layouts[load.group as usize];
            for rank in 0..self.clients[client].ranks() {
                let expected = content(identity, load.group, &load.hash, rank);
                let pages = &self.model.memory[part_pages(layout, load.slot, rank)];
                assert!(
                    pages.iter().all(|&page| page == expected),
                    "promise 1: {} holds other bytes than were sealed for {:?}",
                    load.slot,
                    load.hash
                );
            }
            self.tally.blocks_compared += 1;
        }
    }

    pub(super) fn release(&mut self, client: usize) {
        let Some(session) = self.clients[client].scheduler() else {
            return;
        };
        if self.random.chance(10) {
            return self.step(Event::LeaseRelease {
                session,
                lease: Tag(u64::MAX),
            });
        }
        if self.random.chance(10) {
            return self.give_up(client);
        }
        if self.random.chance(40) {
            let tags: Vec<Tag> = self.clients[client].lookups.keys().copied().collect();
            let Some(tag) = self.random.pick(&tags) else {
                return;
            };
            self.clients[client].lookups.remove(&tag);
            return self.step(Event::LookupRelease { session, tag });
        }
        self.read(client);
        let tags: Vec<Tag> = self.clients[client].leases.keys().copied().collect();
        let Some(lease) = self.random.pick(&tags) else {
            return;
        };
        self.clients[client].leases.remove(&lease);
        self.model.released(session, lease);
        self.step(Event::LeaseRelease { session, lease });
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
