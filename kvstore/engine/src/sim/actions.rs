//! What honest clients do, and what befalls them.

use kvstore_types::{BlockHash, EngineGroupId, ProcessId, SessionId, SlotRef, Tag};

use super::client::Progress;
use super::device::Life;
use super::model::Attached;
use super::world::World;
use crate::effect::{Completion, Effect, Refusal};
use crate::event::{Event, GroupKeys, Role, SessionEnd};

/// Prefixes there are; few, so that clients meet.
const CHAINS: usize = 3;
/// Longest prefix, in blocks.
const CHAIN_BLOCKS: usize = 10;

impl World {
    /// One thing happens.
    pub(super) fn act(&mut self) {
        let client = self.random.below(self.clients.len());
        if self.random.chance(25) {
            self.device_acts();
        }
        if self.random.chance(25) {
            self.remote_acts();
        }
        if self.random.chance(50) {
            // Workers are at it all the time.
            let busy = self.random.below(self.clients.len());
            self.tell(busy);
            self.write(busy);
            self.seal(busy);
        }
        match self.random.below(1000) {
            0..3 => self.device_mishap(),
            3 => self.restart(),
            4..10 if self.is_draining => self.restart(),
            10..16 => self.evict(),
            16..18 => self.tune_host(),
            18..24 => self.keep(),
            _ => {}
        }
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
            95..98 => (0..3).for_each(|_| self.deliver()),
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
                for process in processes {
                    self.kill(process);
                }
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
                let is_full =
                    matches!(refusal, Refusal::DescriptorsExhausted { .. }) && self.has_bound_namespaces();
                assert!(refused || is_full, "{session} was refused: {refusal}");
                let fits = is_full
                    || matches!(
                        refusal,
                        Refusal::RoleTaken(_) | Refusal::SessionsExhausted { .. } | Refusal::Draining
                    );
                assert!(fits, "{session} was refused for no reason: {refusal}");
                self.clients[client].members[at].session = None;
            }
            other => panic!("{session} attached and was told {other:?}"),
        }
    }

    /// Whether there may be namespaces that no engine uses and that cannot be dropped for another: devices tell of them,
    /// or work on their blocks.
    fn has_bound_namespaces(&self) -> bool {
        self.devices
            .iter()
            .any(|device| device.life == Life::Loading || !device.pending.is_empty())
            || self.twin.is_busy()
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

    fn tick(&mut self) {
        if self.random.chance(10) {
            self.wait();
        }
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
        self.void_waits(|key| key.0 == session);
        self.step(Event::Reset {
            session,
            tag,
            nonce: bytes,
        });
        let Some(Completion::Reset { namespace }) = self.answer(session, tag) else {
            panic!("{session}: a reset got no answer")
        };
        if namespace.is_none() && is_ready {
            assert!(
                self.has_bound_namespaces(),
                "{session}: a reset of a complete engine gave it no namespace"
            );
            self.clients[client].namespace = None;
            return;
        }
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
        // A look-up of somebody else may have waited until now.
        let is_answer = |effect: &Effect| match effect {
            Effect::Complete { session: to, .. } | Effect::CutOff { session: to, .. } => *to == session,
            _ => false,
        };
        assert!(
            !self.effects.list.iter().any(is_answer),
            "a message of an ended session has no effect"
        );
    }

    pub(super) fn some_keys(&mut self, client: usize) -> Vec<Vec<BlockHash>> {
        let (chain, blocks) = (self.random.below(CHAINS), 1 + self.random.below(CHAIN_BLOCKS));
        self.clients[client].chain(chain, blocks)
    }

    pub(super) fn with_groups(
        &mut self,
        keys: &[Vec<BlockHash>],
        act: impl FnOnce(&mut Self, &[GroupKeys<'_>]),
    ) {
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
}
