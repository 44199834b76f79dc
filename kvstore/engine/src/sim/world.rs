//! The engine, the model, the clients and the way between them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kvstore_types::{
    BlockKey, EngineGroupId, GroupLayout, NamespaceId, OperationId, ProcessId, Rank, SessionId, Tag, Tier,
};

use super::client::{Client, GEOMETRY_COUNT, Member, Progress};
use super::device::Device;
use super::listener::Listeners;
use super::model::Model;
use super::nvme;
use super::random::Random;
use super::remote::{self, Twin};
use super::transfers::Transfer;
use super::waits::Waiting;
use super::{Canary, Plan, Summary};
use crate::config::{EngineConfig, PolicyKind};
use crate::effect::{Completion, Effect, Effects};
use crate::engine::Engine;
use crate::event::{Event, Role, SessionEnd};

/// Pages of an arena.
const ARENA_PAGES: u64 = 16;

/// Time from one event to the next.
const STEP: Duration = Duration::from_millis(1);

/// Everything there is in one run.
pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) config: EngineConfig,
    pub(super) model: Model,
    pub(super) random: Random,
    pub(super) clients: Vec<Client>,
    pub(super) effects: Effects,
    /// Keys the model expects to be announced in this step.
    pub(super) to_be_stored: Vec<BlockKey>,
    /// Hang-ups the daemon has not heard of yet.
    pub(super) unheard_ends: Vec<SessionId>,
    /// Deaths the daemon has not heard of yet.
    pub(super) unheard_deaths: Vec<ProcessId>,
    /// Sessions that are over, for messages that come late.
    pub(super) over: Vec<SessionId>,
    pub(super) is_draining: bool,
    /// How rough this run is.
    pub(super) mishaps: usize,
    pub(super) tally: Summary,
    pub(super) devices: Vec<Device>,
    pub(super) twin: Twin,
    /// Look-ups that have no answer yet.
    pub(super) waiting: BTreeMap<(SessionId, Tag), Waiting>,
    /// The look-up that is being asked.
    pub(super) asking: Option<(SessionId, Tag)>,
    /// A block that a device brings in this step.
    pub(super) arriving: Option<Transfer>,
    /// All orders there were since the daemon started.
    pub(super) operations: BTreeSet<OperationId>,
    names: BTreeMap<NamespaceId, u64>,
    pub(super) listeners: Listeners,
    plan: Plan,
    pub(super) now: Instant,
    ids: u64,
}

impl World {
    /// An empty engine and some clients that have not attached yet.
    pub(super) fn new(plan: Plan) -> Self {
        let mut random = Random::new(plan.seed);
        let config = config(&mut random);
        let engine = engine(&config, plan);
        let now = Instant::now();
        let devices = Device::all(now, config.nvme.as_ref());
        let mishaps = random.pick(&[0, 1, 1, 3]).unwrap_or(1);
        let mut world = Self {
            mishaps,
            engine,
            model: model(&config),
            config,
            random,
            clients: Vec::new(),
            effects: Effects::default(),
            to_be_stored: Vec::new(),
            unheard_ends: Vec::new(),
            unheard_deaths: Vec::new(),
            over: Vec::new(),
            is_draining: false,
            tally: Summary::default(),
            devices,
            twin: Twin::default(),
            waiting: BTreeMap::new(),
            asking: None,
            arriving: None,
            operations: BTreeSet::new(),
            names: BTreeMap::new(),
            listeners: Listeners::default(),
            plan,
            now,
            ids: 0,
        };
        for _ in 0..2 + world.random.below(4) {
            let client = world.new_client();
            world.clients.push(client);
        }
        world
    }

    /// A number nobody else has.
    pub(super) fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// An engine that has just been started.
    pub(super) fn new_client(&mut self) -> Client {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.id().to_le_bytes());
        let ranks = 1 + self.random.below(3);
        let shared = self.random.chance(30).then(|| ProcessId(self.id()));
        let roles = std::iter::once(Role::Scheduler)
            .chain((0..ranks).map(|rank| Role::Worker(Rank(u16::try_from(rank).unwrap_or(0)))));
        let members: Vec<Role> = roles.collect();
        let members = members.into_iter().map(|role| {
            let process = shared.unwrap_or_else(|| ProcessId(self.id()));
            Member {
                role,
                process,
                session: None,
            }
        });
        let members = members.collect();
        Client {
            id: EngineGroupId(id),
            model: u8::from(self.random.chance(30)),
            geometry: self.random.below(GEOMETRY_COUNT),
            members,
            weights: 0,
            namespace: None,
            tags: 0,
            lookups: BTreeMap::new(),
            leases: BTreeMap::new(),
            tasks: Vec::new(),
        }
    }

    /// Gives the engine an event and checks what it says of blocks and sessions. Answers stay in `effects`.
    pub(super) fn step(&mut self, event: Event<'_>) {
        let is_reserve = matches!(event, Event::Reserve { .. });
        self.tally.events += 1;
        self.now += STEP;
        self.effects.clear();
        let kept = self.kept();
        self.engine.step(self.now, event, &mut self.effects);
        let effects = std::mem::take(&mut self.effects.list);
        Self::check_victims(&kept, &effects);
        for effect in &effects {
            self.listeners.hear(effect);
        }
        // Before the model hears of it: what is not announced should be noticed as that.
        if self.plan.canary == Canary::HideCorruption || self.tally.events.is_multiple_of(8) {
            self.listeners.compare(&self.engine);
        }
        self.listeners.take_slice(&self.engine, &mut self.random);
        for effect in &effects {
            self.take_note(effect);
        }
        self.effects.list = effects;
        assert!(
            self.to_be_stored.is_empty(),
            "promise 2: {:?} was sealed and not announced",
            self.to_be_stored
        );
        self.check_waits();
        if !is_reserve && self.asking.is_none() {
            // Grants are entered in the model one by one, and so are look-ups that wait; then it is compared.
            self.compare();
        }
    }

    /// Whether all ranks of an engine are attached.
    pub(super) fn is_ready(&self, client: usize) -> bool {
        let client = &self.clients[client];
        let own = self
            .model
            .sessions
            .values()
            .filter(|session| session.group == client.id);
        own.filter(|session| matches!(session.role, Role::Worker(_)))
            .count()
            == client.ranks()
    }

    /// A session is over and its client knows.
    pub(super) fn forget_session(&mut self, session: SessionId) {
        self.over.push(session);
        for client in &mut self.clients {
            let Some(at) = client
                .members
                .iter()
                .position(|member| member.session == Some(session))
            else {
                continue;
            };
            client.members[at].session = None;
            if client.members[at].role == Role::Scheduler {
                client.lookups.clear();
                client.leases.clear();
                let parts = client.tasks.iter_mut().flat_map(|task| &mut task.parts);
                parts
                    .filter(|part| part.2 == Progress::Untold)
                    .for_each(|part| part.2 = Progress::Finished);
            }
        }
    }

    /// Everyone dies and the daemon hears of it. Then nothing may be left.
    pub(super) fn quiesce(&mut self) {
        let processes: Vec<ProcessId> = self
            .clients
            .iter()
            .flat_map(|client| &client.members)
            .map(|member| member.process)
            .collect();
        for process in processes {
            self.kill(process);
        }
        while !self.unheard_ends.is_empty() || !self.unheard_deaths.is_empty() {
            self.deliver();
        }
        self.settle_devices();
        let ticks = (0..1000).take_while(|_| {
            let has_work = self.engine.has_work();
            self.step(Event::Tick);
            has_work
        });
        assert!(ticks.count() < 1000, "promise 9: the engine never comes to rest");
        let left = self.engine.occupancy();
        let claims = [
            left.slots_filling,
            left.slots_leased,
            left.slots_quarantined,
            left.holds,
        ];
        assert_eq!(
            claims, [0; 4],
            "promise 5: something is left when everyone is dead: {left:?}"
        );
        assert_eq!(
            (
                left.sessions,
                left.engine_groups,
                left.leases,
                left.leases_quarantined
            ),
            (0, 0, 0, 0),
            "promise 5: somebody is left when everyone is dead: {left:?}"
        );
        self.model.check_all_bytes();
    }

    /// The daemon is killed with everyone who was attached, and another one starts.
    pub(super) fn restart(&mut self) {
        self.tally = self.summary();
        self.tally.restarts += 1;
        self.restart_devices();
        self.twin.crash(&mut self.random);
        self.engine = engine(&self.config, self.plan);
        self.model = model(&self.config);
        self.listeners.restart();
        for at in 0..self.clients.len() {
            self.clients[at] = self.new_client();
        }
        self.unheard_ends.clear();
        self.unheard_deaths.clear();
        self.over.clear();
        self.waiting.clear();
        self.operations.clear();
        (self.arriving, self.is_draining) = (None, false);
    }

    /// Time passes until the engine wants to be woken. False if it does not.
    pub(super) fn wait(&mut self) -> bool {
        let Some(at) = self.engine.wakes_at() else {
            return false;
        };
        assert!(
            at > self.now,
            "promise 9: the engine wants to be woken in the past"
        );
        // The next step comes exactly then.
        self.now = self.now.max(at.checked_sub(STEP).unwrap_or(at));
        true
    }

    fn take_note(&mut self, effect: &Effect) {
        match effect {
            Effect::BlockStored {
                key,
                tier: Tier::Nvme,
                ..
            } => self.nvme_stored(*key),
            Effect::BlockStored {
                key,
                tier: Tier::Remote,
                ..
            } => self.remote_stored(*key),
            Effect::BlockStored { key, .. } => {
                if let Some(transfer) = self.arriving.take_if(|transfer| transfer.key == *key) {
                    return self.model.promoted(transfer);
                }
                let expected = self.to_be_stored.iter().position(|other| other == key);
                let Some(expected) = expected else {
                    panic!("promise 2: {key} was published, not all ranks sealed it")
                };
                self.to_be_stored.remove(expected);
            }
            Effect::BlockRemoved {
                key,
                tier: Tier::Nvme,
                ..
            } => {
                let was_there = self.model.stored.remove(key);
                assert!(was_there, "{key} left NVMe and was not announced there");
            }
            Effect::BlockRemoved {
                key,
                tier: Tier::Remote,
                ..
            } => {
                let was_there = self.model.remote.remove(key);
                assert!(
                    was_there,
                    "{key} left the remote tier and was not announced there"
                );
            }
            Effect::BlockRemoved { key, .. } => self.model.removed(key),
            Effect::Remote(order) => self.take_remote(order.clone()),
            Effect::Nvme { device, order } => self.take_order(*device, order.clone()),
            Effect::Complete {
                session,
                tag,
                completion: answer @ Completion::Lookup { .. },
            } => self.hear_lookup(*session, *tag, answer),
            Effect::CutOff { session, .. } => {
                self.model.ended(*session, SessionEnd::HungUp);
                self.forget_session(*session);
            }
            Effect::NamespaceReady {
                session,
                namespace,
                groups,
            } => self.hear_ready(*session, *namespace, groups),
            Effect::SessionRefused { session, .. } => self.model.ended(*session, SessionEnd::Closed),
            Effect::SessionAdmitted { .. }
            | Effect::BlockDescribed { .. }
            | Effect::Complete { .. }
            | Effect::RangeEvicted(_)
            | Effect::Kept(_)
            | Effect::Note(_) => {}
        }
    }

    fn hear_ready(&mut self, session: SessionId, namespace: NamespaceId, groups: &[GroupLayout]) {
        let is_member = |member: &Member| member.session == Some(session);
        let found = self
            .clients
            .iter_mut()
            .find(|client| client.members.iter().any(is_member));
        let Some(client) = found else {
            // A dead client whose hang-up the daemon has not heard of.
            assert!(
                self.model.sessions.contains_key(&session),
                "{session} is not attached"
            );
            return;
        };
        client.namespace = Some((namespace, groups.to_vec()));
        let identity = client.identity();
        let known = *self.names.entry(namespace).or_insert(identity);
        assert_eq!(
            known, identity,
            "promise 1: engines that differ share the namespace {namespace}"
        );
    }

    /// The engine's books against the model's, unless the engine is broken on purpose: then only promises count.
    pub(super) fn compare(&mut self) {
        if self.plan.canary != Canary::None {
            return;
        }
        self.engine.check_invariants();
        let seen = self.engine.occupancy();
        let doomed = self
            .model
            .reservations
            .iter()
            .filter(|reservation| reservation.is_doomed)
            .count() as u64;
        let filling = self.model.reservations.len() as u64 - doomed;
        assert_eq!(
            seen.slots_resident,
            self.model.residents.len() as u64,
            "promise 2: what is resident"
        );
        assert_eq!(seen.slots_filling, filling, "promise 5: what is being filled");
        assert_eq!(seen.slots_quarantined, doomed, "promise 5: what waits");
        assert!(
            seen.slots_leased >= self.model.slots_leased(),
            "promise 3: what is leased"
        );
        assert_eq!(seen.sessions, self.model.sessions.len(), "who is attached");
        self.compare_nvme(&seen);
        self.compare_remote(&seen);
        if self.tally.events.is_multiple_of(64) {
            self.model.check_all_bytes();
            self.check_copies();
            self.check_remote_copies();
        }
    }
}

fn engine(config: &EngineConfig, plan: Plan) -> Engine {
    let mut engine = match Engine::new(config.clone()) {
        Ok(engine) => engine,
        Err(error) => panic!("seed {}: {error}", plan.seed),
    };
    engine.canary = plan.canary;
    engine
}

fn model(config: &EngineConfig) -> Model {
    let pages = usize::try_from(config.region_bytes / 4096).unwrap_or(0);
    Model::new(pages, usize::from(config.nvme.is_some()))
}

fn config(random: &mut Random) -> EngineConfig {
    let arenas = 2 + random.pick(&[4, 8, 20]).map_or(0, |most| random.below(most)) as u64;
    let (watermark_low, watermark_high) = random
        .pick(&[(0.5, 0.7), (0.8, 1.0), (0.2, 0.95)])
        .unwrap_or((0.5, 1.0));
    EngineConfig {
        region_bytes: 4096 * (1 + ARENA_PAGES * arenas),
        header_bytes: 4096,
        arena_bytes: 4096 * ARENA_PAGES,
        policy: random
            .pick(&[PolicyKind::Lru, PolicyKind::S3Fifo])
            .unwrap_or_default(),
        watermark_low,
        watermark_high,
        seed: 7,
        sessions_max: 12 + random.below(12),
        holds_per_session_max: 10 + random.below(60),
        operations_per_session_max: 6,
        descriptor_bytes_max: random.pick(&[120 << 10, 1 << 20]).unwrap_or(1 << 20),
        keep_share: random.pick(&[0.0, 0.2, 0.5]).unwrap_or(0.5),
        nvme: random.chance(80).then(|| nvme::config(random)),
        remote: random.chance(70).then(|| remote::config(random)),
    }
}
