//! `restart_first_hit_ms` and `restart_full_ms`: how soon what lies on NVMe can be used again.
//!
//! A directory is filled with blocks of 4 KiB and its device shut down. Then it is opened round by round: until the first
//! blocks have been told and one of them was read and verified, and until all have been told. What was told is entered
//! into a table here, in place of the daemon's. Before each round the page cache gives up the directory's files.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use kvstore_nvme::{DeviceEvent, IoEngine, Order};
use kvstore_types::{BlockKey, Extent, IoOutcome, ReadClass, SegmentRef};
use rustix::fs::{Advice, fadvise};
use serde_json::json;

use crate::arguments::{Arguments, NvmeMemory};
use crate::nvme::rig::{self, Rig, Shape, segment};
use crate::report::{Report, Row};
use crate::statistics::Samples;

/// Rounds cost much here.
const ROUNDS: u32 = 5;
const PAYLOAD_BYTES: u64 = 4096;
/// 128 MiB a segment.
const BLOCKS_PER_SEGMENT: u32 = 16_384;
const SLOTS: u32 = 512;

/// Measures all numbers of blocks.
pub(crate) fn run(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    for &blocks in &arguments.restart_blocks {
        ensure!(blocks > 0, "--restart-blocks: want at least 1, got 0");
        eprintln!("restart: {blocks} blocks");
        if let Err(error) = measure(arguments, report, blocks) {
            for name in ["restart_first_hit_ms", "restart_full_ms"] {
                report.skip(name, &json!({"blocks": blocks}), &format!("{error:#}"));
            }
        }
    }
    Ok(())
}

fn measure(arguments: &Arguments, report: &mut Report, blocks: u64) -> anyhow::Result<()> {
    let place = rig::place(arguments)?;
    let directory = place.path().join("tier");
    let shape = Shape {
        payload_bytes: PAYLOAD_BYTES,
        blocks_per_segment: BLOCKS_PER_SEGMENT,
        segments: u32::try_from(blocks.div_ceil(u64::from(BLOCKS_PER_SEGMENT)))?,
        io: IoEngine::Auto,
        depth: 32,
        slots: SLOTS,
        memory: NvmeMemory::Small,
    };
    let mut rig = Rig::make(&directory, shape)?;
    let began = Instant::now();
    fill(&mut rig, blocks)?;
    let fill_s = began.elapsed().as_secs_f64();
    let (_, shape, memory) = rig.close();
    let (mut first, mut full, mut scanned) = (Samples::default(), Samples::default(), 0);
    for _ in 0..ROUNDS {
        forget_pages(&directory)?;
        let began = Instant::now();
        let mut rig = Rig::open(&directory, shape.clone(), memory.clone())?;
        let round = load(&mut rig, began)?;
        ensure!(
            round.blocks == blocks,
            "{} blocks were told, want {blocks}",
            round.blocks
        );
        first.push(round.first_ms);
        full.push(round.full_ms);
        scanned = round.scanned;
        rig.close();
    }
    for (name, samples) in [("restart_first_hit_ms", first), ("restart_full_ms", full)] {
        report.add(&Row {
            name,
            unit: "ms",
            params: json!({"blocks": blocks}),
            context: json!({"segments": shape.segments, "scanned": scanned, "fill_s": fill_s}),
            samples,
            reference: None,
            aim: None,
        });
    }
    Ok(())
}

/// Writes all blocks, segment after segment.
fn fill(rig: &mut Rig, blocks: u64) -> anyhow::Result<()> {
    let mut left = blocks;
    for index in 0..rig.shape.segments {
        let segment = segment(index, 1);
        rig.open_segment(segment)?;
        let count = u32::try_from(left.min(u64::from(BLOCKS_PER_SEGMENT)))?;
        fill_segment(rig, segment, count)?;
        if count == BLOCKS_PER_SEGMENT {
            rig.submit(Order::SegmentFull { segment });
        }
        left -= u64::from(count);
    }
    Ok(())
}

fn fill_segment(rig: &mut Rig, segment: SegmentRef, count: u32) -> anyhow::Result<()> {
    let mut next = 0;
    while next < count {
        let end = count.min(next + SLOTS);
        let orders: Vec<_> = (next..end)
            .map(|number| rig.write(segment, number, number - next))
            .collect();
        let under_way = orders.len();
        rig.submit_all(orders);
        for _ in 0..under_way {
            let (_, outcome) = rig.next_done()?;
            ensure!(outcome == IoOutcome::Done, "a write ended with {outcome:?}");
        }
        next = end;
    }
    Ok(())
}

struct Round {
    first_ms: f64,
    full_ms: f64,
    blocks: u64,
    scanned: u32,
}

fn load(rig: &mut Rig, began: Instant) -> anyhow::Result<Round> {
    let ms = |began: Instant| began.elapsed().as_secs_f64() * 1e3;
    let mut table: HashMap<BlockKey, Extent> = HashMap::new();
    let (mut first_ms, mut loaded) = (None, None);
    loop {
        if let (Some(first_ms), Some((full_ms, scanned))) = (first_ms, loaded) {
            return Ok(Round {
                first_ms,
                full_ms,
                blocks: table.len() as u64,
                scanned,
            });
        }
        match rig.next()? {
            DeviceEvent::Blocks { blocks, credit } => {
                if let (true, Some(block)) = (table.is_empty(), blocks.first()) {
                    let operation = rig.operation();
                    rig.submit(Order::Read {
                        operation,
                        extent: block.extent,
                        offset: 0,
                        key: block.key,
                        class: ReadClass::Demand,
                    });
                }
                table.extend(blocks.into_iter().map(|block| (block.key, block.extent)));
                drop(credit);
            }
            DeviceEvent::Done { outcome, .. } => {
                ensure!(
                    outcome == IoOutcome::Done,
                    "the first read ended with {outcome:?}"
                );
                first_ms = Some(ms(began));
            }
            DeviceEvent::Loaded(report) => {
                if report.blocks == 0 {
                    bail!("no blocks were found: {report:?}");
                }
                loaded = Some((ms(began), report.segments_scanned));
            }
            _ => {}
        }
    }
}

/// Makes the page cache give up all files below a directory.
fn forget_pages(directory: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("could not list {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            forget_pages(&path)?;
            continue;
        }
        let file = File::open(&path).with_context(|| format!("could not open {}", path.display()))?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}
