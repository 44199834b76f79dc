//! What honest clients do, and what befalls them.

use std::collections::{BTreeMap, BTreeSet};

use kvstore_types::{
    BlockHash, BlockKey, EngineGroupId, GroupIndex, GroupLayout, GroupSpan, NamespaceId, ProcessId,
    SessionId, SlotRef, Tag,
};

use super::client::{Loading, LookUp, Progress, Task, content, part_pages};
use super::model::{Attached, Part, Reservation, pages_of};
use super::world::World;
use crate::effect::{Completion, Effect, Grant, LookupOutcome, Refusal};
use crate::event::{Event, GroupKeys, Role, SessionEnd};
use crate::plan::needed;

/// Prefixes there are; few, so that clients meet.
const CHAINS: usize = 3;
/// Longest prefix, in blocks.
const CHAIN_BLOCKS: usize = 10;

impl World {
    /// One thing happens.
    pub(super) fn act(&mut self) {
        let client = self.random.below(self.clients.len());
        match self.random.below(100) {
            0..10 => self.attach_all(client),
            10..24 => self.look_up(client),
            24..33 => self.commit(client),
            33..37 => self.read(client),
            37..46 => self.release(client),
            46..53 => self.reserve(client),
            53..62 => self.tell(client),
            62..75 => self.write(client),
            75..90 => self.seal(client),
            90 => self.abort(client),
            91..95 => self.tick(),
            95..98 => self.deliver(),
            98 => self.late_message(),
            _ => (0..self.mishaps).for_each(|_| {
                let client = self.random.below(self.clients.len());
                self.mishap(client);
            }),
        }
    }

    fn mishap(&mut self, client: usize) {
        match self.random.below(100) {
            0..20 => {
                let at = self.random.below(self.clients[client].members.len());
                let process = self.clients[client].members[at].process;
                self.kill(process);
            }
            20..50 => {
                // The whole engine dies, and a new one takes its place.
                let processes: Vec<_> = self.clients[client]
                    .members
                    .iter()
                    .map(|member| member.process)
                    .collect();
                processes.into_iter().for_each(|process| self.kill(process));
                self.clients[client] = self.new_client();
            }
            50..60 => self.hang_up(client),
            60..68 => self.close(client),
            68..80 => self.reset(client),
            80..99 => self.lie(client),
            _ => {
                self.is_draining = true;
                self.step(Event::Drain);
            }
        }
    }

    fn attach_all(&mut self, client: usize) {
        for at in 0..self.clients[client].members.len() {
            if self.random.chance(80) {
                self.attach(client, at);
            }
        }
    }

    fn attach(&mut self, client: usize, at: usize) {
        let member = self.clients[client].members[at];
        if member.session.is_some() {
            return;
        }
        let session = SessionId(self.id());
        let profile = self.clients[client].profile(member.role);
        let group = profile.engine_group;
        self.clients[client].members[at].session = Some(session);
        let refused = self.would_refuse(group, member.role);
        if !refused {
            self.model.attached(
                session,
                Attached {
                    process: member.process,
                    group,
                    role: member.role,
                },
            );
        }
        self.step(Event::SessionOpened {
            session,
            process: member.process,
            profile,
        });
        match self.effects.list.first() {
            Some(Effect::SessionAdmitted { .. }) => assert!(!refused, "{session} should have been refused"),
            Some(Effect::SessionRefused { refusal, .. }) => {
                assert!(refused, "{session} was refused: {refusal}");
                let fits = matches!(
                    refusal,
                    Refusal::RoleTaken(_) | Refusal::SessionsExhausted { .. } | Refusal::Draining
                );
                assert!(fits, "{session} was refused for no reason: {refusal}");
                self.clients[client].members[at].session = None;
            }
            other => panic!("{session} attached and was told {other:?}"),
        }
    }

    fn would_refuse(&self, group: EngineGroupId, role: Role) -> bool {
        let zombies: usize = self.engine.groups.values().map(|group| group.zombies.len()).sum();
        let taken = self
            .model
            .sessions
            .values()
            .any(|other| other.group == group && other.role == role);
        self.is_draining || taken || self.model.sessions.len() + zombies >= self.config.sessions_max
    }

    fn look_up(&mut self, client: usize) {
        let Some(session) = self.clients[client].scheduler() else {
            return;
        };
        let alive = self.clients[client].lookups.len() + self.clients[client].leases.len();
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
        self.with_groups(&keys, |world, groups| {
            world.step(Event::Lookup {
                session,
                tag,
                groups,
                tokens_max,
            });
        });
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
        let expected = self.model.longest_hit(namespace, &layouts, &keys, tokens_max);
        let want = expected_spans(&layouts, expected);
        if outcome == LookupOutcome::QuotaExceeded {
            let held = self.held(client) + want.iter().map(|span| span.count as usize).sum::<usize>();
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

    fn commit(&mut self, client: usize) {
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
    fn read(&mut self, client: usize) {
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

    fn release(&mut self, client: usize) {
        let Some(session) = self.clients[client].scheduler() else {
            return;
        };
        if self.random.chance(10) {
            return self.step(Event::LeaseRelease {
                session,
                lease: Tag(u64::MAX),
            });
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

    fn reserve(&mut self, client: usize) {
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
        let before: BTreeSet<BlockKey> = self.model.residents.keys().copied().collect();
        let ready = self
            .is_ready(client)
            .then(|| self.clients[client].namespace.clone())
            .flatten();
        self.with_groups(&keys, |world, groups| {
            world.step(Event::Reserve { session, tag, groups })
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
        let mut same_size = self
            .model
            .residents
            .values()
            .filter(|resident| resident.pages == pages_of(layout));
        assert!(
            same_size.all(|resident| leased(resident.slot)),
            "no space for {key} though a block could go"
        );
    }

    /// The scheduler tells its workers of new slots.
    fn tell(&mut self, client: usize) {
        let untold = |task: &&mut Task| task.parts.iter().any(|part| part.2 == Progress::Untold);
        for task in self.clients[client].tasks.iter_mut().filter(untold) {
            if self.random.chance(70) {
                let parts = task.parts.iter_mut().filter(|part| part.2 == Progress::Untold);
                parts.for_each(|part| part.2 = Progress::Told);
            }
        }
    }

    /// Copies go on, whether or not the session still exists.
    fn write(&mut self, client: usize) {
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

    fn seal(&mut self, client: usize) {
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
        self.to_be_stored = published.clone();
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

    fn abort(&mut self, client: usize) {
        let at = self.random.below(self.clients[client].members.len());
        let member = self.clients[client].members[at];
        let Some(session) = member.session else { return };
        let is_scheduler = member.role == Role::Scheduler;
        let mut slots = Vec::new();
        for task in &mut self.clients[client].tasks {
            let all_untold = task.parts.iter().all(|part| part.2 == Progress::Untold);
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
            "what was aborted"
        );
    }

    fn tick(&mut self) {
        self.step(Event::Tick);
    }

    /// The connection breaks; the process lives on.
    fn hang_up(&mut self, client: usize) {
        let at = self.random.below(self.clients[client].members.len());
        let Some(session) = self.clients[client].members[at].session else {
            return;
        };
        self.forget_session(session);
        self.end(session, SessionEnd::HungUp);
    }

    fn close(&mut self, client: usize) {
        let at = self.random.below(self.clients[client].members.len());
        let Some(session) = self.clients[client].members[at].session else {
            return;
        };
        // A client that says good-bye has stopped its copies.
        let parts = self.clients[client]
            .tasks
            .iter_mut()
            .flat_map(|task| &mut task.parts);
        parts
            .filter(|part| part.1 == session)
            .for_each(|part| part.2 = Progress::Finished);
        self.forget_session(session);
        self.end(session, SessionEnd::Closed);
    }

    fn end(&mut self, session: SessionId, end: SessionEnd) {
        self.model.ended(session, end);
        self.step(Event::SessionEnded { session, end });
    }

    /// A process dies. The daemon will hear of it, in whatever order.
    pub(super) fn kill(&mut self, process: ProcessId) {
        self.tally.kills += 1;
        let replacement = ProcessId(self.id());
        let mut lost = Vec::new();
        for client in &mut self.clients {
            let parts = client.tasks.iter_mut().flat_map(|task| &mut task.parts);
            parts
                .filter(|part| part.0 == process)
                .for_each(|part| part.2 = Progress::Finished);
            for member in client
                .members
                .iter_mut()
                .filter(|member| member.process == process)
            {
                lost.extend(member.session);
                member.process = replacement;
            }
        }
        for session in lost {
            self.forget_session(session);
            self.unheard_ends.push(session);
        }
        if !self.unheard_deaths.contains(&process) {
            self.unheard_deaths.push(process);
        }
    }

    /// The daemon hears of one hang-up or death.
    pub(super) fn deliver(&mut self) {
        let news = self.unheard_ends.len() + self.unheard_deaths.len();
        if news == 0 {
            return;
        }
        let at = self.random.below(news);
        if at < self.unheard_ends.len() {
            let session = self.unheard_ends.swap_remove(at);
            self.end(session, SessionEnd::HungUp);
        } else {
            let process = self.unheard_deaths.swap_remove(at - self.unheard_ends.len());
            self.model.died(process);
            self.step(Event::ProcessDied { process });
        }
    }

    fn reset(&mut self, client: usize) {
        let Some(session) = self.clients[client].scheduler() else {
            return;
        };
        let nonce = self.random.next();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&nonce.to_le_bytes());
        let is_ready = self.is_ready(client);
        let tag = self.clients[client].tag();
        let leases: Vec<Tag> = self.clients[client].leases.keys().copied().collect();
        for lease in leases {
            // Loads of the old weights are of no use any more.
            self.clients[client].leases.remove(&lease);
            self.model.released(session, lease);
            self.step(Event::LeaseRelease { session, lease });
        }
        let group = self.clients[client].id;
        self.clients[client].weights = nonce;
        self.clients[client].lookups.clear();
        self.model.reset(group);
        self.step(Event::Reset {
            session,
            tag,
            nonce: bytes,
        });
        let Some(Completion::Reset { namespace }) = self.answer(session, tag) else {
            panic!("{session}: a reset got no answer")
        };
        let told = self.clients[client]
            .namespace
            .as_ref()
            .map(|(namespace, _)| *namespace);
        assert_eq!(
            namespace,
            told.filter(|_| is_ready),
            "a reset answers with the namespace it announced"
        );
    }

    fn late_message(&mut self) {
        let over = self.over.clone();
        let Some(session) = self.random.pick(&over) else {
            return;
        };
        if self.model.sessions.contains_key(&session) {
            return;
        }
        let slots = [SlotRef {
            page: 1,
            generation: 1,
        }];
        self.step(Event::Seal {
            session,
            tag: Tag(1),
            slots: &slots,
        });
        assert!(
            self.effects.list.is_empty(),
            "a message of an ended session has no effect"
        );
    }

    fn some_keys(&mut self, client: usize) -> Vec<Vec<BlockHash>> {
        let (chain, blocks) = (self.random.below(CHAINS), 1 + self.random.below(CHAIN_BLOCKS));
        self.clients[client].chain(chain, blocks)
    }

    fn with_groups(&mut self, keys: &[Vec<BlockHash>], act: impl FnOnce(&mut Self, &[GroupKeys<'_>])) {
        let groups = (0_u32..)
            .zip(keys)
            .map(|(group, hashes)| GroupKeys { group, hashes });
        let groups: Vec<GroupKeys<'_>> = groups.collect();
        act(self, &groups);
    }

    /// The completion of an operation.
    pub(super) fn answer(&self, session: SessionId, tag: Tag) -> Option<Completion> {
        self.effects.list.iter().find_map(|effect| match effect {
            Effect::Complete {
                session: to,
                tag: of,
                completion,
            } if (*to, *of) == (session, tag) => Some(completion.clone()),
            _ => None,
        })
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

    fn slots_of(
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

fn expected_spans(layouts: &[GroupLayout], hit: u64) -> Vec<GroupSpan> {
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
