//! `nvme_write_gbps`, `nvme_read_gbps`, `nvme_read_p99_us` and `nvme_cpu_s_per_gb`: a device of the NVMe tier beside fio.
//!
//! Each round writes all blocks of a segment that was written before, in order, and reads them back in any order, each
//! once, as promotions that are waited for; every read is verified. fio does the same to a file of the same size with
//! operations of the same bytes (header page and payload) and the same depth. In every second round fio goes first.

mod cpu;
mod fio;
pub(crate) mod rig;

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use kvstore_nvme::{IoEngine, Order};
use kvstore_types::{IoOutcome, PAGE_BYTES, SegmentRef};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use serde_json::{Value, json};

use crate::arguments::{Arguments, NvmeIo, NvmeMemory};
use crate::report::{Reference, Report, Row};
use crate::statistics::Samples;
use fio::{Fio, Run};
use rig::{Rig, Shape, segment};

/// One combination.
#[derive(Clone, Copy)]
struct Setting {
    payload_bytes: u64,
    depth: u32,
    io: IoEngine,
    memory: NvmeMemory,
}

/// One direction's rounds.
#[derive(Default)]
struct Direction {
    gbps: Samples,
    p99_us: Samples,
    cpu: Samples,
    cpu_all: Samples,
    checksum: Samples,
    fio_gbps: Samples,
    fio_p99_us: Samples,
    fio_cpu: Samples,
}

/// Measures all combinations.
pub(crate) fn run(arguments: &Arguments, report: &mut Report) -> anyhow::Result<()> {
    for &payload_bytes in &arguments.nvme_block_bytes {
        ensure!(
            payload_bytes > 0 && payload_bytes.is_multiple_of(PAGE_BYTES),
            "--nvme-block-bytes: want a multiple of {PAGE_BYTES}, got {payload_bytes}"
        );
        for setting in settings(arguments, payload_bytes) {
            eprintln!("nvme: {}", setting.params());
            if let Err(error) = measure(arguments, report, setting) {
                for name in ["nvme_write_gbps", "nvme_read_gbps", "nvme_cpu_s_per_gb"] {
                    report.skip(name, &setting.params(), &format!("{error:#}"));
                }
            }
        }
    }
    Ok(())
}

fn settings(arguments: &Arguments, payload_bytes: u64) -> Vec<Setting> {
    let mut settings = Vec::new();
    for &depth in &arguments.nvme_depth {
        for &io in &arguments.nvme_io {
            for &memory in &arguments.nvme_memory {
                let io = match io {
                    NvmeIo::IoUring => IoEngine::IoUring,
                    NvmeIo::Threads => IoEngine::Threads,
                };
                settings.push(Setting {
                    payload_bytes,
                    depth,
                    io,
                    memory,
                });
            }
        }
    }
    settings
}

impl Setting {
    fn params(self) -> Value {
        let engine = match self.io {
            IoEngine::Threads => "threads",
            _ => "io-uring",
        };
        let memory = match self.memory {
            NvmeMemory::Small => "small",
            NvmeMemory::Huge => "huge",
        };
        json!({"block_bytes": self.payload_bytes, "depth": self.depth, "engine": engine, "memory": memory})
    }

    /// Orders under way. A block's time with the device's thread (its checksum) is not time at the disk, so that as many
    /// again have to wait for the disk to see the depth, as a request's promotions do, which are ordered together.
    fn orders(self) -> u32 {
        self.depth * 2
    }
}

fn measure(arguments: &Arguments, report: &mut Report, setting: Setting) -> anyhow::Result<()> {
    let place = rig::place(arguments)?;
    let blocks = u32::try_from((arguments.nvme_mib << 20).div_ceil(setting.payload_bytes))?;
    let shape = Shape {
        payload_bytes: setting.payload_bytes,
        blocks_per_segment: blocks,
        segments: 2,
        io: setting.io,
        depth: setting.depth,
        slots: setting.orders(),
        memory: setting.memory,
    };
    let fio = Fio::make(place.path(), &shape)?;
    let mut rig = Rig::make(&place.path().join("tier"), shape)?;
    let payload = vec![0x5A; usize::try_from(setting.payload_bytes)?];
    let buffers = vec![payload; setting.orders() as usize];
    let (mut write, mut read) = (Direction::default(), Direction::default());
    let mut uses = 0;
    // The first round writes the segment for the first time, and is not counted.
    for round in 0..=u64::from(arguments.rounds) {
        let counted = round > 0;
        if round % 2 == 1 {
            fio_round(&fio, counted, setting, blocks, [&mut write, &mut read])?;
        }
        if counted {
            // The disk of a virtual machine may read twice as fast into one piece of memory as into another, and fio
            // gets other memory in each run.
            rig = rig.renew()?;
        }
        let checksum = cpu::checksum_seconds(&buffers, blocks)?;
        let mut order: Vec<u32> = (0..blocks).collect();
        let mut pass = |rig: &mut Rig, orders, order: &[u32], what| {
            if matches!(what, What::Write) {
                uses += 1;
                rig.open_segment(segment(0, uses))?;
            }
            pass(rig, orders, segment(0, uses), order, what)
        };
        write.add(
            counted,
            setting,
            blocks,
            &pass(&mut rig, setting.orders(), &order, What::Write)?,
            checksum,
        );
        if setting.depth == 1 {
            write.add_alone(counted, &pass(&mut rig, 1, &order, What::Write)?);
        }
        order.shuffle(&mut SmallRng::seed_from_u64(round));
        read.add(
            counted,
            setting,
            blocks,
            &pass(&mut rig, setting.orders(), &order, What::Read)?,
            checksum,
        );
        if setting.depth == 1 {
            read.add_alone(counted, &pass(&mut rig, 1, &order, What::Read)?);
        }
        if round % 2 == 0 {
            fio_round(&fio, counted, setting, blocks, [&mut write, &mut read])?;
        }
    }
    let stats = rig.stats();
    let context = json!({
        "direct": stats.direct,
        "header_share": PAGE_BYTES as f64 / rig.shape.block_bytes() as f64,
        "pass_bytes": u64::from(blocks) * rig.shape.block_bytes(),
    });
    write.report(report, setting, "write", &context);
    read.report(report, setting, "read", &context);
    rig.close();
    Ok(())
}

/// What one pass took.
struct Pass {
    seconds: f64,
    p99_us: f64,
    cpu_seconds: f64,
}

/// What a pass does with each block.
#[derive(Clone, Copy)]
enum What {
    Write,
    Read,
}

/// Gives the device all orders, at most `orders_max` at a time, and waits for all answers.
fn pass(
    rig: &mut Rig,
    orders_max: u32,
    segment: SegmentRef,
    blocks: &[u32],
    what: What,
) -> anyhow::Result<Pass> {
    let mut under_way = HashMap::new();
    let mut latencies = Vec::with_capacity(blocks.len());
    let mut left = blocks.iter();
    let cpu_before = cpu::device_ns()?;
    let start = Instant::now();
    let mut free: Vec<u32> = (0..orders_max).collect();
    loop {
        let mut orders = Vec::new();
        while let Some(&slot) = free.last()
            && let Some(&block) = left.next()
        {
            free.pop();
            let order = match what {
                What::Write => rig.write(segment, block, slot),
                What::Read => rig.read(segment, block, slot),
            };
            if let Order::Write { operation, .. } | Order::Read { operation, .. } = order {
                under_way.insert(operation, (slot, Instant::now()));
            }
            orders.push(order);
        }
        if !orders.is_empty() {
            rig.submit_all(orders);
        }
        if under_way.is_empty() {
            break;
        }
        let (operation, outcome) = rig.next_done()?;
        ensure!(outcome == IoOutcome::Done, "an order ended with {outcome:?}");
        if let Some((slot, began)) = under_way.remove(&operation) {
            latencies.push(began.elapsed().as_secs_f64() * 1e6);
            free.push(slot);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    // Until its threads sleep again their time is not in the kernel's books; the catalogue follows within 50 ms.
    thread::sleep(Duration::from_millis(100));
    let cpu_seconds = cpu::device_ns()?.saturating_sub(cpu_before) as f64 / 1e9;
    Ok(Pass {
        seconds,
        p99_us: p99(&mut latencies),
        cpu_seconds,
    })
}

/// The 99th percentile.
pub(crate) fn p99(samples: &mut [f64]) -> f64 {
    samples.sort_by(f64::total_cmp);
    let place = (samples.len() * 99).div_ceil(100).saturating_sub(1);
    samples.get(place).copied().unwrap_or(f64::NAN)
}

fn fio_round(
    fio: &Fio,
    counted: bool,
    setting: Setting,
    blocks: u32,
    [write, read]: [&mut Direction; 2],
) -> anyhow::Result<()> {
    for (what, direction) in [("write", write), ("randread", read)] {
        let run = fio.run(what)?;
        if counted {
            direction.add_fio(setting, blocks, run);
        }
    }
    Ok(())
}

/// Payload in 10^9 bytes.
fn gigabytes(setting: Setting, blocks: u32) -> f64 {
    setting.payload_bytes as f64 * f64::from(blocks) / 1e9
}

impl Direction {
    fn add(&mut self, counted: bool, setting: Setting, blocks: u32, pass: &Pass, checksum: f64) {
        if !counted {
            return;
        }
        let gigabytes = gigabytes(setting, blocks);
        self.gbps.push(gigabytes / pass.seconds);
        self.cpu.push((pass.cpu_seconds - checksum) / gigabytes);
        self.cpu_all.push(pass.cpu_seconds / gigabytes);
        self.checksum.push(checksum / gigabytes);
    }

    /// Blocks that were moved one at a time.
    fn add_alone(&mut self, counted: bool, pass: &Pass) {
        if counted {
            self.p99_us.push(pass.p99_us);
        }
    }

    fn add_fio(&mut self, setting: Setting, blocks: u32, run: Run) {
        let gigabytes = gigabytes(setting, blocks);
        self.fio_gbps.push(gigabytes / run.seconds);
        self.fio_p99_us.push(run.p99_us);
        self.fio_cpu.push(run.cpu_seconds / gigabytes);
    }

    fn report(self, report: &mut Report, setting: Setting, what: &str, context: &Value) {
        let writes = what == "write";
        let fio = |name, samples| {
            Some(Reference {
                name,
                variant: "io_uring".to_owned(),
                samples,
            })
        };
        let mut params = setting.params();
        report.add(&Row {
            name: if writes {
                "nvme_write_gbps"
            } else {
                "nvme_read_gbps"
            },
            unit: "GB/s",
            params: params.clone(),
            context: context.clone(),
            samples: self.gbps,
            reference: fio("fio_gbps", self.fio_gbps),
            aim: None,
        });
        if setting.depth == 1 {
            report.add(&Row {
                name: if writes {
                    "nvme_write_p99_us"
                } else {
                    "nvme_read_p99_us"
                },
                unit: "µs",
                params: params.clone(),
                context: Value::Null,
                samples: self.p99_us,
                reference: fio("fio_p99_us", self.fio_p99_us),
                aim: None,
            });
        }
        params["direction"] = json!(what);
        report.add(&Row {
            name: "nvme_cpu_s_per_gb",
            unit: "s/GB",
            params,
            context: json!({
                "with_checksum": self.cpu_all.median(),
                "checksum": self.checksum.median(),
            }),
            samples: self.cpu,
            reference: fio("fio_cpu_s_per_gb", self.fio_cpu),
            aim: None,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_percentile_leaves_one_of_a_hundred_above_it() {
        let mut samples: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert!((p99(&mut samples) - 198.0).abs() < f64::EPSILON);
        assert!((p99(&mut [7.0]) - 7.0).abs() < f64::EPSILON);
        assert!(p99(&mut []).is_nan());
    }
}
