//! The contract, event by event, against one small engine.

mod abort;
mod attach;
mod end;
mod garbage;
mod load;
mod names;
mod nvme;
mod remote;
mod reset;
mod store;

use std::time::Instant;

use kvstore_types::{
    AttentionKind, BlockHash, EngineGroupId, Field, GroupGeometry, GroupSpan, NamespaceId, ProcessId, Rank,
    SessionId, SlotRef, Tag,
};

use crate::config::{EngineConfig, PolicyKind};
use crate::effect::{
    Completion, Effect, Effects, Grant, LookupOutcome, Note, NvmeOrder, Refusal, RemoteOrder, RemovalCause,
    Violation,
};
use crate::engine::Engine;
use crate::event::{Event, GroupKeys, Role, SessionEnd, SessionProfile};

const SCHEDULER: SessionId = SessionId(10);
const WORKER: SessionId = SessionId(11);

fn config() -> EngineConfig {
    EngineConfig {
        region_bytes: 4096 * 17,
        header_bytes: 4096,
        arena_bytes: 4096 * 4,
        policy: PolicyKind::Lru,
        watermark_low: 0.5,
        watermark_high: 1.0,
        seed: 7,
        sessions_max: 8,
        holds_per_session_max: 20,
        operations_per_session_max: 3,
        descriptor_bytes_max: 1 << 20,
        keep_share: 0.5,
        nvme: None,
        remote: None,
    }
}

fn profile(engine: u8, role: Role, ranks: u16) -> SessionProfile {
    SessionProfile {
        engine_group: EngineGroupId([engine; 16]),
        engine_name: "test".into(),
        role,
        rank_count: ranks,
        fields: vec![field("model.id", "m")],
        rank_fields: Vec::new(),
        groups: vec![GroupGeometry {
            kind: AttentionKind::Full,
            tokens_per_block: 16,
            rank_bytes: 4096,
        }],
        pod: String::new(),
        model: String::new(),
    }
}

fn field(tag: &str, value: &str) -> Field {
    Field {
        tag: tag.into(),
        value: value.into(),
    }
}

fn hashes(numbers: std::ops::Range<u8>) -> Vec<BlockHash> {
    numbers.map(|number| BlockHash([number; 32])).collect()
}

struct Bed {
    engine: Engine,
    effects: Effects,
    now: Instant,
    /// Orders to devices that no test has taken yet.
    orders: Vec<(u8, NvmeOrder)>,
    /// Orders to the remote tier that no test has taken yet.
    remote: Vec<RemoteOrder>,
}

impl Bed {
    fn new(config: EngineConfig) -> Self {
        Self {
            engine: Engine::new(config).unwrap(),
            effects: Effects::default(),
            now: Instant::now(),
            orders: Vec::new(),
            remote: Vec::new(),
        }
    }

    /// One engine of one rank, attached.
    fn attached() -> Self {
        let mut bed = Self::new(config());
        bed.attach(SCHEDULER, 1, profile(1, Role::Scheduler, 1));
        bed.attach(WORKER, 2, profile(1, Role::Worker(Rank(0)), 1));
        bed
    }

    fn step(&mut self, event: Event<'_>) -> &[Effect] {
        self.effects.clear();
        self.engine.step(self.now, event, &mut self.effects);
        self.engine.check_invariants();
        self.orders
            .extend(self.effects.list.iter().filter_map(|effect| match effect {
                Effect::Nvme { device, order } => Some((device.0, order.clone())),
                _ => None,
            }));
        self.remote
            .extend(self.effects.list.iter().filter_map(|effect| match effect {
                Effect::Remote(order) => Some(order.clone()),
                _ => None,
            }));
        &self.effects.list
    }

    fn attach(&mut self, session: SessionId, process: u64, profile: SessionProfile) -> Vec<Effect> {
        self.step(Event::SessionOpened {
            session,
            process: ProcessId(process),
            profile,
        })
        .to_vec()
    }

    fn refusal(&mut self, session: u64, profile: SessionProfile) -> Refusal {
        match self.attach(SessionId(session), session, profile).as_slice() {
            [Effect::SessionRefused { refusal, .. }] => refusal.clone(),
            other => panic!("{other:?} is no refusal"),
        }
    }

    fn completion(&self) -> Completion {
        let mut effects = self.effects.list.iter().rev();
        let last = effects.find_map(|effect| match effect {
            Effect::Complete { completion, .. } => Some(completion.clone()),
            _ => None,
        });
        last.expect("a completion")
    }

    fn violation(&self) -> Violation {
        let cut_off = self.effects.list.iter().find_map(|effect| match effect {
            Effect::CutOff { violation, .. } => Some(*violation),
            _ => None,
        });
        cut_off.expect("a cut-off")
    }

    fn reserve(&mut self, session: SessionId, hashes: &[BlockHash]) -> Vec<Grant> {
        self.step(Event::Reserve {
            session,
            tag: Tag(1),
            groups: &[GroupKeys { group: 0, hashes }],
            runs: &[],
        });
        self.effects.grants.clone()
    }

    fn slots(&mut self, session: SessionId, hashes: &[BlockHash]) -> Vec<SlotRef> {
        let slot = |grant| {
            if let Grant::Slot(slot) = grant {
                slot
            } else {
                panic!("{grant:?} is no slot")
            }
        };
        self.reserve(session, hashes).into_iter().map(slot).collect()
    }

    fn seal(&mut self, session: SessionId, slots: &[SlotRef]) -> Completion {
        self.step(Event::Seal {
            session,
            tag: Tag(2),
            slots,
        });
        self.completion()
    }

    fn store(&mut self, numbers: std::ops::Range<u8>) -> Vec<SlotRef> {
        let slots = self.slots(SCHEDULER, &hashes(numbers));
        self.seal(WORKER, &slots);
        slots
    }

    fn look_up(&mut self, session: SessionId, tag: u64, hashes: &[BlockHash]) -> (u64, LookupOutcome) {
        let groups = [GroupKeys { group: 0, hashes }];
        self.step(Event::Lookup {
            session,
            tag: Tag(tag),
            groups: &groups,
            tokens_max: u64::MAX,
        });
        match self.completion() {
            Completion::Lookup {
                hit_tokens, outcome, ..
            } => (hit_tokens, outcome),
            other => panic!("{other:?} is no answer to a look-up"),
        }
    }

    fn commit(&mut self, tag: u64, lease: u64, first: u32, count: u32) -> Vec<Grant> {
        let spans = [GroupSpan {
            group: 0,
            first,
            count,
        }];
        self.step(Event::LoadCommit {
            session: SCHEDULER,
            tag: Tag(tag),
            lease: Tag(lease),
            spans: &spans,
        });
        self.effects.grants.clone()
    }

    fn end(&mut self, session: SessionId, end: SessionEnd) -> Vec<Effect> {
        self.step(Event::SessionEnded { session, end }).to_vec()
    }
}

fn ready_namespace(effects: &[Effect]) -> Vec<(SessionId, NamespaceId)> {
    let ready = effects.iter().filter_map(|effect| match effect {
        Effect::NamespaceReady {
            session, namespace, ..
        } => Some((*session, *namespace)),
        _ => None,
    });
    ready.collect()
}
