//! What a whole-prefix look-up costs a block, and how that grows with the number of resident blocks.
//!
//! `cargo run --release -p kvstore-engine --example lookup_scale [-- BLOCKS ...]`
//!
//! Two kinds of prefixes of 10,000 blocks, all hits: *chain*, blocks that were stored one after the other, which is
//! what a prefix usually is; *scattered*, blocks picked at random, the worst that a long life of the cache can do.
#![allow(clippy::cast_precision_loss, reason = "figures are printed with three digits")]
#![allow(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]

use std::time::Instant;

use kvstore_engine::{
    Completion, Effect, Effects, Engine, EngineConfig, Event, Grant, GroupKeys, PolicyKind, Role,
    SessionProfile,
};
use kvstore_types::{
    AttentionKind, BlockHash, EngineGroupId, Field, GroupGeometry, ProcessId, Rank, SessionId, SlotRef, Tag,
};

const PREFIX: usize = 10_000;
const ROUNDS: usize = 31;
const SCHEDULER: SessionId = SessionId(1);
const WORKER: SessionId = SessionId(2);

fn main() {
    let mut sizes: Vec<u64> = std::env::args()
        .skip(1)
        .map(|size| size.parse().unwrap())
        .collect();
    if sizes.is_empty() {
        sizes = vec![10_000, 1_000_000, 5_000_000];
    }
    println!(
        "{:>7} {:>10} {:>10} {:>14} {:>14} {:>14}",
        "policy", "resident", "bytes/blk", "chain ns/blk", "scatter ns/blk", "10k chain ms"
    );
    for policy in [PolicyKind::S3Fifo, PolicyKind::Lru] {
        for &size in &sizes {
            measure(policy, size);
        }
    }
}

fn measure(policy: PolicyKind, size: u64) {
    let before = resident_bytes();
    let mut bench = Bench::new(policy, size);
    bench.fill(size);
    let per_block = (resident_bytes().saturating_sub(before)) / size;
    let mut random = Random(size);
    let chains = (size / PREFIX as u64).max(1);
    let chain = median(|| {
        let first = random.next() % chains * PREFIX as u64;
        let keys: Vec<BlockHash> = (first..first + PREFIX as u64).map(hash).collect();
        bench.look_up(&keys)
    });
    let scattered = median(|| {
        let keys: Vec<BlockHash> = (0..PREFIX).map(|_| hash(random.next() % size)).collect();
        bench.look_up(&keys)
    });
    let per = |nanos: u64| nanos as f64 / PREFIX as f64;
    println!(
        "{:>7} {size:>10} {per_block:>10} {:>14.1} {:>14.1} {:>14.3}",
        policy.name(),
        per(chain),
        per(scattered),
        chain as f64 / 1e6
    );
}

struct Bench {
    engine: Engine,
    effects: Effects,
    now: Instant,
}

impl Bench {
    fn new(policy: PolicyKind, size: u64) -> Self {
        let arena_bytes = 64 << 20;
        let config = EngineConfig {
            region_bytes: 4096 + (size * 4096).next_multiple_of(arena_bytes),
            header_bytes: 4096,
            arena_bytes,
            policy,
            watermark_low: 0.9,
            watermark_high: 1.0,
            seed: 7,
            sessions_max: 4,
            holds_per_session_max: 1 << 20,
            operations_per_session_max: 16,
            descriptor_bytes_max: 1 << 20,
            keep_share: 0.5,
            nvme: None,
            remote: None,
        };
        let engine = Engine::new(config).unwrap();
        let mut bench = Self {
            engine,
            effects: Effects::default(),
            now: Instant::now(),
        };
        for (session, role) in [(SCHEDULER, Role::Scheduler), (WORKER, Role::Worker(Rank(0)))] {
            let profile = SessionProfile {
                engine_group: EngineGroupId([1; 16]),
                engine_name: "bench".into(),
                role,
                rank_count: 1,
                fields: vec![Field {
                    tag: "model.id".into(),
                    value: b"m".to_vec(),
                }],
                rank_fields: Vec::new(),
                groups: vec![GroupGeometry {
                    kind: AttentionKind::Full,
                    tokens_per_block: 16,
                    rank_bytes: 4096,
                }],
                pod: String::new(),
                model: String::new(),
            };
            bench.step(Event::SessionOpened {
                session,
                process: ProcessId(1),
                profile,
            });
        }
        bench
    }

    fn step(&mut self, event: Event<'_>) {
        self.effects.clear();
        self.engine.step(self.now, event, &mut self.effects);
    }

    fn fill(&mut self, size: u64) {
        for first in (0..size).step_by(1024) {
            let hashes: Vec<BlockHash> = (first..size.min(first + 1024)).map(hash).collect();
            let groups = [GroupKeys {
                group: 0,
                hashes: &hashes,
            }];
            self.step(Event::Reserve {
                session: SCHEDULER,
                tag: Tag(1),
                groups: &groups,
                runs: &[],
            });
            let slot = |grant: &Grant| {
                if let Grant::Slot(slot) = grant {
                    Some(*slot)
                } else {
                    None
                }
            };
            let slots: Vec<SlotRef> = self
                .effects
                .grants
                .iter()
                .map(|grant| slot(grant).unwrap())
                .collect();
            self.step(Event::Seal {
                session: WORKER,
                tag: Tag(1),
                slots: &slots,
            });
        }
        assert_eq!(self.engine.occupancy().slots_resident, size);
    }

    fn look_up(&mut self, keys: &[BlockHash]) -> u64 {
        let groups = [GroupKeys {
            group: 0,
            hashes: keys,
        }];
        let start = Instant::now();
        self.step(Event::Lookup {
            session: SCHEDULER,
            tag: Tag(7),
            groups: &groups,
            tokens_max: u64::MAX,
        });
        let nanos = start.elapsed().as_nanos();
        let Some(Effect::Complete {
            completion: Completion::Lookup { hit_tokens, .. },
            ..
        }) = self.effects.list.last()
        else {
            panic!("no answer")
        };
        assert_eq!(*hit_tokens, 16 * PREFIX as u64);
        self.step(Event::LookupRelease {
            session: SCHEDULER,
            tag: Tag(7),
        });
        u64::try_from(nanos).unwrap()
    }
}

fn median(mut once: impl FnMut() -> u64) -> u64 {
    let mut all: Vec<u64> = (0..ROUNDS).map(|_| once()).collect();
    all.sort_unstable();
    all[ROUNDS / 2]
}

/// A hash that looks like one: four mixed words.
fn hash(number: u64) -> BlockHash {
    let mut random = Random(number.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x5bd1_e995);
    let mut bytes = [0; 32];
    bytes
        .chunks_exact_mut(8)
        .for_each(|word| word.copy_from_slice(&random.next().to_le_bytes()));
    BlockHash(bytes)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// This process's resident memory, by the kernel's count.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}
