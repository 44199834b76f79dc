//! The NVMe tier, with devices that do what a test says.

mod describe;
mod evict;
mod keep;
mod load;
mod promote;
mod reclaim;
mod scrub;
mod trouble;
mod write_back;

use std::time::Duration;

use kvstore_types::{
    BlockKey, DeviceIndex, Extent, GroupIndex, IoOutcome, NamespaceDescriptor, NamespaceGeometry,
    OperationId, SegmentGeneration, SegmentRef, Tier,
};

use super::*;
use crate::config::{Admission, NvmeConfig, NvmeTuning};
use crate::event::{FoundBlock, NvmeEvent};

/// Eight slots of two pages; segments of four blocks.
fn nvme_config() -> EngineConfig {
    EngineConfig {
        nvme: Some(NvmeConfig {
            device_count: 1,
            segment_bytes: 4096 * 9,
            tuning: tuning(),
            promotion_deadline: Duration::from_secs(1),
            promotion_bytes_max: 1 << 20,
            write_bytes_max: 1 << 20,
            write_queue_max: 100,
        }),
        ..config()
    }
}

fn tuning() -> NvmeTuning {
    NvmeTuning {
        segments_max: 4,
        watermark_low: 0.6,
        watermark_high: 1.0,
        admission: Admission::All,
        write_rate: None,
        scrub_rate: None,
    }
}

fn config_with(change: impl FnOnce(&mut NvmeConfig)) -> EngineConfig {
    let mut config = nvme_config();
    change(config.nvme.as_mut().unwrap());
    config
}

/// The operation of an order that will be answered.
fn operation(order: &NvmeOrder) -> Option<OperationId> {
    match order {
        NvmeOrder::CreateSegment { operation, .. }
        | NvmeOrder::DeleteSegment { operation, .. }
        | NvmeOrder::OpenSegment { operation, .. }
        | NvmeOrder::Write { operation, .. }
        | NvmeOrder::Read { operation, .. }
        | NvmeOrder::Move { operation, .. }
        | NvmeOrder::Verify { operation, .. } => Some(*operation),
        NvmeOrder::KeepNamespace { .. }
        | NvmeOrder::DropNamespace { .. }
        | NvmeOrder::SetClass { .. }
        | NvmeOrder::Forget { .. }
        | NvmeOrder::SegmentFull { .. } => None,
    }
}

fn is_read(order: &NvmeOrder) -> bool {
    matches!(order, NvmeOrder::Read { .. })
}

fn is_write(order: &NvmeOrder) -> bool {
    matches!(order, NvmeOrder::Write { .. })
}

impl Bed {
    /// An engine whose empty devices are loaded and that one client is attached to.
    fn with_nvme(config: EngineConfig) -> Self {
        let devices = config.nvme.as_ref().unwrap().device_count;
        let mut bed = Self::new(config);
        for device in 0..devices {
            bed.tell(device, NvmeEvent::Loaded);
        }
        bed.enter();
        bed.settle();
        bed
    }

    fn enter(&mut self) {
        self.attach(SCHEDULER, 1, profile(1, Role::Scheduler, 1));
        self.attach(WORKER, 2, profile(1, Role::Worker(Rank(0)), 1));
    }

    fn tell(&mut self, device: u8, event: NvmeEvent<'_>) -> Vec<Effect> {
        let device = DeviceIndex(device);
        self.step(Event::Nvme { device, event }).to_vec()
    }

    fn tick(&mut self) -> Vec<Effect> {
        self.step(Event::Tick).to_vec()
    }

    fn later(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        self.tick()
    }

    fn done(&mut self, device: u8, order: &NvmeOrder, outcome: IoOutcome) -> Vec<Effect> {
        let operation = operation(order).unwrap();
        self.tell(device, NvmeEvent::Done { operation, outcome })
    }

    /// Takes the first order that is `wanted`.
    fn order(&mut self, wanted: impl Fn(&NvmeOrder) -> bool) -> Option<(u8, NvmeOrder)> {
        let at = self.orders.iter().position(|(_, order)| wanted(order))?;
        Some(self.orders.remove(at))
    }

    /// Takes all orders that are `wanted`.
    fn take_orders(&mut self, wanted: impl Fn(&NvmeOrder) -> bool) -> Vec<(u8, NvmeOrder)> {
        std::iter::from_fn(|| self.order(&wanted)).collect()
    }

    /// Carries out everything but what is `kept`, and ticks while there is work.
    fn settle_but(&mut self, kept: impl Fn(&NvmeOrder) -> bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        loop {
            let order = self.order(|order| operation(order).is_some() && !kept(order));
            if let Some((device, order)) = order {
                effects.extend(self.done(device, &order, IoOutcome::Done));
            } else if self.engine.has_work() {
                effects.extend(self.tick());
            } else {
                return effects;
            }
        }
    }

    fn settle(&mut self) -> Vec<Effect> {
        self.settle_but(|_| false)
    }

    /// Answers the first order that is `wanted`.
    fn answer(&mut self, wanted: impl Fn(&NvmeOrder) -> bool, outcome: IoOutcome) -> Vec<Effect> {
        let (device, order) = self.order(wanted).expect("such an order");
        self.done(device, &order, outcome)
    }

    /// Stores blocks, writes them, and lets others push them out of host memory.
    fn store_cold(&mut self, numbers: std::ops::Range<u8>) {
        self.store(numbers);
        self.settle();
        self.flush_host();
    }

    /// Fills host memory with blocks that nobody asks for.
    fn flush_host(&mut self) {
        let slots = self.slots(SCHEDULER, &hashes(200..208));
        self.step(Event::Abort {
            session: WORKER,
            tag: Tag(9),
            slots: &slots,
        });
    }

    fn ask(&mut self, tag: u64, hashes: &[BlockHash]) -> Completion {
        self.step(Event::Lookup {
            session: SCHEDULER,
            tag: Tag(tag),
            groups: &[GroupKeys { group: 0, hashes }],
            tokens_max: u64::MAX,
        });
        let answer = self.effects.list.iter().rev().find_map(|effect| match effect {
            Effect::Complete { completion, .. } => Some(completion.clone()),
            _ => None,
        });
        answer.expect("an answer")
    }

    fn release(&mut self, tag: u64) -> Vec<Effect> {
        self.step(Event::LookupRelease {
            session: SCHEDULER,
            tag: Tag(tag),
        })
        .to_vec()
    }

    fn residency(&self, number: u8) -> (bool, bool) {
        let namespace = self.engine.namespaces().next().unwrap().namespace;
        let found = self.engine.residency(&key(namespace, number));
        (found.host, found.nvme)
    }
}

fn key(namespace: NamespaceId, number: u8) -> BlockKey {
    BlockKey {
        namespace,
        group: GroupIndex(0),
        hash: BlockHash([number; 32]),
    }
}

/// The hits that look-ups were answered with, by tag.
fn answers(effects: &[Effect]) -> Vec<(u64, u64)> {
    let answers = effects.iter().filter_map(|effect| match effect {
        Effect::Complete {
            tag,
            completion: Completion::Lookup { hit_tokens, .. },
            ..
        } => Some((tag.0, *hit_tokens)),
        _ => None,
    });
    answers.collect()
}

fn removals(effects: &[Effect]) -> Vec<(u8, Tier, RemovalCause)> {
    let removals = effects.iter().filter_map(|effect| match effect {
        Effect::BlockRemoved { key, tier, cause } => Some((key.hash.0[0], *tier, *cause)),
        _ => None,
    });
    removals.collect()
}

fn notes(effects: &[Effect]) -> Vec<Note> {
    let notes = effects.iter().filter_map(|effect| match effect {
        Effect::Note(note) => Some(note.clone()),
        _ => None,
    });
    notes.collect()
}

fn segment(index: u32, generation: u64) -> SegmentRef {
    SegmentRef {
        index,
        generation: SegmentGeneration(generation),
    }
}
