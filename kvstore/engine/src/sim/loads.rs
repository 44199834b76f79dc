//! How honest clients look up and load.

use kvstore_types::{BlockHash, BlockKey, GroupIndex, GroupLayout, SessionId, Tag};

use super::client::{Loading, LookUp, content, part_pages};
use super::model::pages_of;
use super::world::World;
use crate::effect::{Completion, Grant};
use crate::event::Event;

impl World {
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
}
