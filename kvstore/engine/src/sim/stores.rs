//! How honest clients reserve, copy, seal and abort.

use std::collections::BTreeSet;

use kvstore_types::{
    BlockHash, BlockKey, DescriptorRun, GroupIndex, GroupLayout, NamespaceId, SessionId, SlotRef, Tier,
};

use super::client::{Progress, Task};
use super::listener::OwnedRun;
use super::model::{Part, Reservation, pages_of};
use super::world::World;
use crate::effect::{Completion, Grant};
use crate::event::{Event, Role};

impl World {
    pub(super) fn reserve(&mut self, client: usize) {
        let Some(session) = self.clients[client].scheduler() else {
            return;
        };
        let mut keys = self.some_keys(client);
        for keys in &mut keys {
            if self.random.chance(10) && !keys.is_empty() {
                let twice = keys[self.random.below(keys.len())];
                keys.push(twice);
            }
        }
        let tag = self.clients[client].tag();
        let reads = self.model.transfers.values().filter(|transfer| transfer.is_read);
        let coming = reads.map(|transfer| transfer.key);
        let there = self.model.residents.keys().chain(&self.model.stored).copied();
        let before: BTreeSet<BlockKey> = there.chain(coming).collect();
        let ready = self
            .is_ready(client)
            .then(|| self.clients[client].namespace.clone())
            .flatten();
        let told = self.describe_all(client, &keys);
        if let Some((namespace, _)) = &ready {
            self.remember_said(*namespace, &keys, &told);
        }
        let runs: Vec<DescriptorRun<'_>> = told.iter().flatten().map(OwnedRun::run).collect();
        self.with_groups(&keys, |world, groups| {
            world.step(Event::Reserve {
                session,
                tag,
                groups,
                runs: &runs,
            });
        });
        let Some(Completion::Reserve { grants }) = self.answer(session, tag) else {
            panic!("{session}: a reservation got no answer")
        };
        let grants = self.effects.grants[grants.start as usize..grants.end as usize].to_vec();
        let asked = (0_u32..)
            .zip(&keys)
            .flat_map(|(group, keys)| keys.iter().map(move |&hash| (group, hash)));
        let asked: Vec<(u32, BlockHash)> = asked.collect();
        assert_eq!(grants.len(), asked.len(), "one grant for each key");
        let refused = if self.is_draining {
            Some(Grant::Draining)
        } else {
            None
        };
        let refused = refused.or(ready.is_none().then_some(Grant::NotReady));
        for (&(group, hash), &grant) in asked.iter().zip(&grants) {
            match (&ready, refused) {
                (_, Some(expected)) => assert_eq!(grant, expected, "nothing can be reserved now"),
                (Some((namespace, layouts)), None) => {
                    let key = BlockKey {
                        namespace: *namespace,
                        group: GroupIndex(u8::try_from(group).unwrap_or(0)),
                        hash,
                    };
                    self.take_grant(client, session, key, &layouts[group as usize], grant, &before);
                }
                (None, None) => {}
            }
        }
        self.compare();
    }

    /// What an engine says of the keys that it reserves; some say nothing.
    fn describe_all(&mut self, client: usize, keys: &[Vec<BlockHash>]) -> Vec<Vec<OwnedRun>> {
        if self.random.chance(30) {
            return Vec::new();
        }
        let lengths = self.clients[client].tokens_per_block();
        let groups = keys.iter().zip(lengths);
        groups
            .map(|(hashes, length)| OwnedRun::of_group(hashes, length, &mut self.random))
            .collect()
    }

    fn remember_said(&mut self, namespace: NamespaceId, keys: &[Vec<BlockHash>], told: &[Vec<OwnedRun>]) {
        for (group, (hashes, runs)) in (0_u8..).zip(keys.iter().zip(told)) {
            let mut rest = hashes.as_slice();
            for run in runs {
                let descriptors = run.descriptors(rest);
                let (own, tail) = rest.split_at(descriptors.len());
                for (&hash, descriptor) in own.iter().zip(descriptors) {
                    let group = GroupIndex(group);
                    let key = BlockKey {
                        namespace,
                        group,
                        hash,
                    };
                    if let Some(descriptor) = descriptor {
                        self.listeners.said(key, &descriptor);
                    }
                }
                rest = tail;
            }
        }
    }

    fn take_grant(
        &mut self,
        client: usize,
        session: SessionId,
        key: BlockKey,
        layout: &GroupLayout,
        grant: Grant,
        before: &BTreeSet<BlockKey>,
    ) {
        match grant {
            Grant::Slot(slot) => self.take_slot(client, session, key, layout, slot),
            Grant::AlreadyPresent => assert!(before.contains(&key), "{key} is not present"),
            Grant::Filling => assert!(self.model.is_filling(&key), "{key} is not being filled"),
            Grant::NoSpace => self.check_no_space(&key, layout),
            Grant::Draining | Grant::NotReady | Grant::Lost => panic!("{grant:?} is no answer for {key}"),
        }
    }

    fn take_slot(
        &mut self,
        client: usize,
        session: SessionId,
        key: BlockKey,
        layout: &GroupLayout,
        slot: SlotRef,
    ) {
        assert!(
            !self.model.residents.contains_key(&key),
            "{key} is present and was granted a slot"
        );
        let owner = &self.clients[client];
        let workers = self
            .model
            .sessions
            .iter()
            .filter(|(_, other)| other.group == owner.id);
        let mut workers: Vec<_> = workers
            .filter_map(|(&id, other)| {
                if let Role::Worker(rank) = other.role {
                    Some((rank, id, other.process))
                } else {
                    None
                }
            })
            .collect();
        workers.sort_unstable();
        let parts = workers
            .iter()
            .map(|&(_, session, process)| Part::Open(session, process))
            .collect();
        let (group, pages) = (owner.id, pages_of(layout));
        self.model.granted(Reservation {
            key,
            slot,
            pages,
            group,
            reserver: session,
            parts,
            is_doomed: false,
            is_told: false,
        });
        let parts = workers.iter().map(|&(_, session, process)| {
            // A worker may be dead without the daemon knowing; it will not write.
            let is_dead = self.unheard_deaths.contains(&process);
            (
                process,
                session,
                if is_dead {
                    Progress::Finished
                } else {
                    Progress::Untold
                },
            )
        });
        let parts = parts.collect();
        let identity = owner.identity();
        let task = Task {
            slot,
            group: u32::from(key.group.0),
            hash: key.hash,
            identity,
            layout: layout.clone(),
            parts,
        };
        self.clients[client].tasks.push(task);
    }

    fn check_no_space(&self, key: &BlockKey, layout: &GroupLayout) {
        let seen = self.engine.occupancy();
        assert_eq!(
            seen.arenas_assigned, seen.arenas_total,
            "no space for {key} beside a free arena"
        );
        if seen.slots_leased > self.model.slots_leased() {
            // Some leases wait for processes that the model knows to be harmless.
            return;
        }
        let leased = |slot: SlotRef| {
            self.model
                .leases
                .iter()
                .flat_map(|lease| &lease.slots)
                .any(|&(other, _)| other == slot)
        };
        let is_busy = |slot: SlotRef| {
            let mut transfers = self.model.transfers.values();
            transfers.any(|transfer| transfer.slot == slot)
        };
        let kept = self.kept();
        let residents = self.model.residents.iter();
        let mut same_size = residents.filter(|(_, resident)| resident.pages == pages_of(layout));
        assert!(
            same_size.all(|(key, resident)| {
                leased(resident.slot) || is_busy(resident.slot) || kept.contains(&(*key, Tier::Host))
            }),
            "no space for {key} though a block could go"
        );
    }

    /// The scheduler tells its workers of new slots.
    pub(super) fn tell(&mut self, client: usize) {
        let untold = |task: &&mut Task| task.parts.iter().any(|part| part.2 == Progress::Untold);
        for task in self.clients[client].tasks.iter_mut().filter(untold) {
            if self.random.chance(70) {
                let parts = task.parts.iter_mut().filter(|part| part.2 == Progress::Untold);
                parts.for_each(|part| part.2 = Progress::Told);
            }
        }
    }

    /// Copies go on, whether or not the session still exists.
    pub(super) fn write(&mut self, client: usize) {
        self.clients[client]
            .tasks
            .retain(|task| task.parts.iter().any(|part| part.2 != Progress::Finished));
        for task in &mut self.clients[client].tasks {
            for rank in 0..task.parts.len() {
                let progress = task.parts[rank].2;
                if matches!(progress, Progress::Told | Progress::Written) && self.random.chance(60) {
                    let (pages, bytes) = (task.pages(rank), task.content(rank));
                    let is_half = progress == Progress::Told && self.random.chance(30);
                    let may_write =
                        |other: &Reservation| other.slot == task.slot && other.parts[rank] != Part::Done;
                    let (slot, part) = (task.slot, task.parts[rank]);
                    assert!(
                        self.model.reservations.iter().any(may_write),
                        "the simulation is wrong: {part:?} writes to {slot} after its time"
                    );
                    let end = if is_half {
                        pages.start + pages.len() / 2
                    } else {
                        pages.end
                    };
                    self.model.memory[pages.start..end].fill(bytes);
                    task.parts[rank].2 = if is_half { progress } else { Progress::Written };
                }
            }
        }
    }

    pub(super) fn seal(&mut self, client: usize) {
        let workers = 1 + self.random.below(self.clients[client].ranks());
        let Some(session) = self.clients[client].members[workers].session else {
            return;
        };
        let mut slots = Vec::new();
        for task in &mut self.clients[client].tasks {
            let own = task
                .parts
                .iter_mut()
                .filter(|part| part.1 == session && part.2 == Progress::Written);
            for part in own {
                if self.random.chance(80) {
                    part.2 = Progress::Finished;
                    slots.push(task.slot);
                }
            }
        }
        if self.random.chance(5) {
            // The same once more: late, not a lie.
            slots.extend(slots.first().copied());
        }
        let tag = self.clients[client].tag();
        let (sealed, published, stale) = self.model.seal(session, &slots);
        self.to_be_stored.clone_from(&published);
        self.step(Event::Seal {
            session,
            tag,
            slots: &slots,
        });
        let published = u32::try_from(published.len()).unwrap_or(0);
        assert_eq!(
            self.answer(session, tag),
            Some(Completion::Seal {
                sealed,
                published,
                stale
            }),
            "what was sealed"
        );
    }

    pub(super) fn abort(&mut self, client: usize) {
        let at = self.random.below(self.clients[client].members.len());
        let member = self.clients[client].members[at];
        let Some(session) = member.session else { return };
        let is_scheduler = member.role == Role::Scheduler;
        let mut slots = Vec::new();
        for task in &mut self.clients[client].tasks {
            // Ranks that are over and done with were replaced or have died; no other was told.
            let all_untold = task
                .parts
                .iter()
                .all(|part| matches!(part.2, Progress::Untold | Progress::Finished));
            let own = task.parts.iter_mut().filter(|part| match part.2 {
                Progress::Untold => is_scheduler && all_untold,
                Progress::Told | Progress::Written => part.1 == session,
                Progress::Finished => false,
            });
            let mut is_named = false;
            if self.random.chance(40) {
                own.for_each(|part| (part.2, is_named) = (Progress::Finished, true));
            }
            slots.extend(is_named.then_some(task.slot));
        }
        let tag = self.clients[client].tag();
        let (aborted, stale) = if is_scheduler {
            self.model.abort_whole(session, &slots)
        } else {
            self.model.abort_parts(session, &slots)
        };
        self.step(Event::Abort {
            session,
            tag,
            slots: &slots,
        });
        assert_eq!(
            self.answer(session, tag),
            Some(Completion::Abort { aborted, stale }),
            "promise 5: what was aborted"
        );
    }
}
