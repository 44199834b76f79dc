//! `mixed_read_p99_ratio`: single promotions of 2 MiB while blocks are written back all the time, beside the same alone.
//!
//! Rounds with and without writes alternate within one device. The writer always has more orders waiting than the device
//! may have under way.

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use kvstore_nvme::IoEngine;
use kvstore_types::{IoOutcome, OperationId, SegmentRef};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::arguments::{Arguments, NvmeMemory};
use crate::nvme::p99;
use crate::nvme::rig::{self, Rig, Shape, segment};
use crate::report::{Reference, Report, Row};
use crate::statistics::Samples;

const PAYLOAD_BYTES: u64 = 2 << 20;
const BLOCKS: u32 = 128;
const READS: u32 = 200;
const DEPTH: u32 = 32;
const AFTER_STORM: Duration = Duration::from_secs(3);
/// The last slot is for reads.
const WRITES: u32 = 2 * DEPTH;

/// The stream of writes: fills a segment, and again.
struct Storm {
    segment: SegmentRef,
    next: u32,
    /// Slots that are not being written.
    free: Vec<u32>,
    under_way: HashMap<OperationId, u32>,
    /// The order that begins the segment's next use.
    opening: Option<OperationId>,
    written: u64,
}

/// One round of reads.
struct Round {
    p99_us: f64,
    write_gbps: f64,
}

/// Measures, for both ways of reading.
pub(crate) fn run(arguments: &Arguments, report: &mut Report) {
    for (io, engine) in [(IoEngine::IoUring, "io-uring"), (IoEngine::Threads, "threads")] {
        let params = json!({"block_bytes": PAYLOAD_BYTES, "engine": engine});
        eprintln!("mixed: {engine}");
        if let Err(error) = measure(arguments, report, io, &params) {
            report.skip("mixed_read_p99_ratio", &params, &format!("{error:#}"));
        }
    }
}

fn measure(
    arguments: &Arguments,
    report: &mut Report,
    io: IoEngine,
    params: &serde_json::Value,
) -> anyhow::Result<()> {
    let place = rig::place(arguments)?;
    let shape = Shape {
        payload_bytes: PAYLOAD_BYTES,
        blocks_per_segment: BLOCKS,
        segments: 2,
        io,
        depth: DEPTH,
        slots: WRITES + 1,
        memory: NvmeMemory::Small,
    };
    let mut rig = Rig::make(&place.path().join("tier"), shape)?;
    rig.open_segment(segment(0, 1))?;
    for number in 0..BLOCKS {
        let order = rig.write(segment(0, 1), number, WRITES);
        rig.submit(order);
        ensure!(
            rig.next_done()?.1 == IoOutcome::Done,
            "block {number} was not written"
        );
    }
    rig.open_segment(segment(1, 1))?;
    let mut storm = Storm::new(segment(1, 1));
    let (mut alone, mut mixed, mut write) = (Samples::default(), Samples::default(), Samples::default());
    // The first pair writes the storm's segment for the first time, and is not counted.
    for round in 0..=arguments.rounds {
        // What the storm has left in the disk's own cache is not to be in the quiet round.
        thread::sleep(AFTER_STORM);
        let quiet = reads(&mut rig, None, round)?;
        let stormy = reads(&mut rig, Some(&mut storm), round)?;
        if round > 0 {
            alone.push(quiet.p99_us);
            mixed.push(stormy.p99_us);
            write.push(stormy.write_gbps);
        }
    }
    report.add(&Row {
        name: "mixed_read_p99_us",
        unit: "µs",
        params: params.clone(),
        context: json!({"write_gbps": write.median(), "reads": READS}),
        samples: mixed.clone(),
        reference: Some(Reference {
            name: "read_p99_us",
            variant: "no writes".to_owned(),
            samples: alone.clone(),
        }),
        aim: None,
    });
    report.add(&Row {
        name: "mixed_read_p99_ratio",
        unit: "×",
        params: params.clone(),
        context: serde_json::Value::Null,
        samples: mixed.ratios(&alone),
        reference: None,
        aim: None,
    });
    rig.close();
    Ok(())
}

/// Reads one block after the other, any of them, and times each.
fn reads(rig: &mut Rig, mut storm: Option<&mut Storm>, round: u32) -> anyhow::Result<Round> {
    let mut random = SmallRng::seed_from_u64(u64::from(round));
    let mut latencies = Vec::new();
    let start = Instant::now();
    for _ in 0..READS {
        if let Some(storm) = storm.as_deref_mut() {
            storm.go_on(rig);
        }
        let order = rig.read(segment(0, 1), random.random_range(0..BLOCKS), WRITES);
        let kvstore_nvme::Order::Read {
            operation: wanted, ..
        } = order
        else {
            continue;
        };
        let began = Instant::now();
        rig.submit(order);
        loop {
            let (operation, outcome) = rig.next_done()?;
            ensure!(outcome == IoOutcome::Done, "an order ended with {outcome:?}");
            if operation == wanted {
                break;
            }
            if let Some(storm) = storm.as_deref_mut() {
                storm.ended(operation);
                storm.go_on(rig);
            }
        }
        latencies.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut write_gbps = 0.0;
    if let Some(storm) = storm {
        write_gbps = storm.written as f64 / 1e9 / seconds;
        storm.calm_down(rig)?;
    }
    Ok(Round {
        p99_us: p99(&mut latencies),
        write_gbps,
    })
}

impl Storm {
    fn new(segment: SegmentRef) -> Self {
        Self {
            segment,
            next: 0,
            free: (0..WRITES).collect(),
            under_way: HashMap::new(),
            opening: None,
            written: 0,
        }
    }

    /// Orders as many writes as there is room for.
    fn go_on(&mut self, rig: &mut Rig) {
        while self.opening.is_none()
            && self.next < BLOCKS
            && let Some(slot) = self.free.pop()
        {
            let order = rig.write(self.segment, self.next, slot);
            if let kvstore_nvme::Order::Write { operation, .. } = order {
                self.under_way.insert(operation, slot);
            }
            rig.submit(order);
            self.next += 1;
        }
        if self.opening.is_none() && self.next == BLOCKS && self.under_way.is_empty() {
            self.segment.generation.0 += 1;
            let operation = rig.operation();
            self.opening = Some(operation);
            let segment = self.segment;
            rig.submit(kvstore_nvme::Order::OpenSegment { operation, segment });
        }
    }

    fn ended(&mut self, operation: OperationId) {
        if self.opening == Some(operation) {
            self.opening = None;
            self.next = 0;
        } else if let Some(slot) = self.under_way.remove(&operation) {
            self.free.push(slot);
            self.written += PAYLOAD_BYTES;
        }
    }

    /// Waits until nothing is under way.
    fn calm_down(&mut self, rig: &mut Rig) -> anyhow::Result<()> {
        while self.opening.is_some() || !self.under_way.is_empty() {
            let (operation, _) = rig.next_done()?;
            self.ended(operation);
        }
        self.written = 0;
        Ok(())
    }
}
