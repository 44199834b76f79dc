//! What it costs the engine to take in the blocks that an NVMe device has at start.
//!
//! `cargo run --release -p kvstore-engine --example nvme_load [-- BLOCKS]`
#![allow(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]

use std::time::{Duration, Instant};

use kvstore_engine::{
    Admission, Effects, Engine, EngineConfig, Event, FoundBlock, NvmeConfig, NvmeEvent, NvmeTuning,
    PolicyKind,
};
use kvstore_types::{
    AttentionKind, BlockHash, BlockKey, DeviceIndex, Field, GroupGeometry, GroupIndex, NamespaceDescriptor,
    NamespaceGeometry, SegmentGeneration, SegmentRef,
};

const PER_SEGMENT: u32 = 1024;
const BATCH: usize = 4096;

fn main() {
    let blocks: u32 = std::env::args()
        .nth(1)
        .map_or(1_000_000, |count| count.parse().unwrap());
    let segments = blocks.div_ceil(PER_SEGMENT);
    let mut engine = Engine::new(config(segments)).unwrap();
    let (mut effects, now) = (Effects::default(), Instant::now());
    let group = GroupGeometry {
        kind: AttentionKind::Full,
        tokens_per_block: 16,
        rank_bytes: 4096,
    };
    let geometry = NamespaceGeometry::compose(&[&[group]]).unwrap();
    let tag = "model.id".to_owned();
    let descriptor = NamespaceDescriptor::new([Field {
        tag,
        value: b"m".to_vec(),
    }])
    .unwrap();
    let found: Vec<FoundBlock> = (0..blocks).map(|number| found(&descriptor, number)).collect();
    let start = Instant::now();
    let mut worst = Duration::ZERO;
    let mut tell = |event: NvmeEvent<'_>| {
        let begin = Instant::now();
        effects.clear();
        let device = DeviceIndex(0);
        engine.step(now, Event::Nvme { device, event }, &mut effects);
        worst = worst.max(begin.elapsed());
    };
    for index in 0..segments {
        let (segment, tail) = (segment(index), 1 + 2 * PER_SEGMENT);
        tell(NvmeEvent::SegmentFound { segment, tail });
    }
    let (descriptor, geometry) = (&descriptor, &geometry);
    tell(NvmeEvent::Namespace { descriptor, geometry });
    for blocks in found.chunks(BATCH) {
        tell(NvmeEvent::Blocks { blocks });
    }
    tell(NvmeEvent::Loaded);
    let took = start.elapsed();
    assert_eq!(engine.occupancy().nvme_blocks, u64::from(blocks));
    println!(
        "{blocks} blocks in {segments} segments: {:.0} ms, {:.0} ns a block, longest step {:.1} ms",
        took.as_secs_f64() * 1e3,
        took.as_secs_f64() * 1e9 / f64::from(blocks),
        worst.as_secs_f64() * 1e3
    );
}

fn config(segments_max: u32) -> EngineConfig {
    EngineConfig {
        region_bytes: 4096 + (64 << 20),
        header_bytes: 4096,
        arena_bytes: 4 << 20,
        policy: PolicyKind::S3Fifo,
        watermark_low: 0.9,
        watermark_high: 1.0,
        seed: 7,
        sessions_max: 4,
        holds_per_session_max: 1 << 20,
        operations_per_session_max: 16,
        descriptor_bytes_max: 1 << 20,
        remote: None,
        keep_share: 0.5,
        nvme: Some(NvmeConfig {
            device_count: 1,
            segment_bytes: 4096 * u64::from(1 + 2 * PER_SEGMENT),
            tuning: NvmeTuning {
                segments_max: 2 * segments_max,
                watermark_low: 0.9,
                watermark_high: 1.0,
                admission: Admission::All,
                write_rate: None,
                scrub_rate: None,
            },
            promotion_deadline: Duration::from_secs(1),
            promotion_bytes_max: 32 << 20,
            write_bytes_max: 16 << 20,
            write_queue_max: 65536,
        }),
    }
}

fn segment(index: u32) -> SegmentRef {
    SegmentRef {
        index,
        generation: SegmentGeneration(u64::from(index) + 1),
    }
}

fn found(descriptor: &NamespaceDescriptor, number: u32) -> FoundBlock {
    let mut hash = [0; 32];
    for (word, bytes) in (1_u64..).zip(hash.chunks_exact_mut(8)) {
        let mixed = (u64::from(number) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ (word << 17));
        bytes.copy_from_slice(&(mixed ^ mixed >> 29).to_le_bytes());
    }
    FoundBlock {
        key: BlockKey {
            namespace: descriptor.id(),
            group: GroupIndex(0),
            hash: BlockHash(hash),
        },
        segment: segment(number / PER_SEGMENT),
        page: 1 + 2 * (number % PER_SEGMENT),
        pages: 2,
        descriptor: None,
    }
}
