//! `remote_write_gbps`, `remote_read_gbps`, `remote_exists_ms` and `remote_stalled_lookup_p99_ratio`.
//!
//! The first three open a remote tier of `kvstore-remote` in this process, at a directory of the file system to measure or at
//! an S3 server that keeps its objects there. They have beside them threads that write and read files of the same size, or
//! requests that put and get objects of the same size, in turns. The last one has two daemons: one whose
//! remote tier, an S3 server, was stopped in the middle of its work, and one without a remote tier.

mod objects;
mod place;
mod raw;
mod rig;
mod server;
mod stalled;

use std::time::Duration;

use anyhow::ensure;
use kvstore_types::PAGE_BYTES;
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::install::Installation;
use crate::report::{Aim, Reference, Report, Row};
use crate::statistics::Samples;
use place::{Kind, Place};
use raw::Pass;
use rig::Rig;

/// Blocks of the prefix that is looked for.
const PREFIX_BLOCKS: u64 = 10_000;
/// The size that the aim speaks of.
const AIM_BYTES: u64 = 2 << 20;
const AIM_RATIO: f64 = 0.9;
const KINDS: [Kind; 2] = [Kind::Mount, Kind::S3];

/// Measures everything.
pub(crate) fn run(arguments: &Arguments, found: &Installation, report: &mut Report) -> anyhow::Result<()> {
    for &block_bytes in &arguments.remote_block_bytes {
        ensure!(
            block_bytes > 0 && block_bytes.is_multiple_of(PAGE_BYTES),
            "--remote-block-bytes: want a multiple of {PAGE_BYTES}, got {block_bytes}"
        );
        for kind in KINDS {
            let params = json!({"backend": kind.name(), "block_bytes": block_bytes});
            eprintln!("remote: {params}");
            if let Err(error) = transfers(arguments, report, kind, block_bytes) {
                for name in ["remote_write_gbps", "remote_read_gbps"] {
                    report.skip(name, &params, &format!("{error:#}"));
                }
            }
        }
    }
    for kind in KINDS {
        eprintln!("remote: {PREFIX_BLOCKS} blocks are looked for, {}", kind.name());
        if let Err(error) = existence(arguments, report, kind) {
            let params = json!({"backend": kind.name(), "blocks": PREFIX_BLOCKS});
            report.skip("remote_exists_ms", &params, &format!("{error:#}"));
        }
    }
    stalled::run(arguments, found, report);
    Ok(())
}

fn transfers(arguments: &Arguments, report: &mut Report, kind: Kind, block_bytes: u64) -> anyhow::Result<()> {
    let place = Place::make(arguments, kind)?;
    let blocks = (arguments.remote_mib << 20).div_ceil(block_bytes);
    let mut rig = Rig::open(place.backend(), block_bytes)?;
    // Behind the tier, which has chosen the cryptography of this process.
    let raw = place.beside(block_bytes)?;
    let gbps = |took: Duration| (blocks * block_bytes) as f64 / took.as_secs_f64() / 1e9;
    let (mut ours, mut theirs, mut huge) = (pair(), pair(), pair());
    // The first round is not counted.
    for round in 0..=u64::from(arguments.rounds) {
        let numbers: Vec<u64> = (round * blocks..(round + 1) * blocks).collect();
        for pass in [Pass::Write, Pass::Read] {
            let mut tier = || rig.transfer(&numbers, pass == Pass::Write);
            let beside = || raw.pass(pass, usize::try_from(blocks).unwrap_or(0));
            // Whoever goes first meets another disk than whoever goes second.
            let (one, other) = if round % 2 == 0 {
                let one = tier()?;
                (one, beside()?)
            } else {
                let other = beside()?;
                (tier()?, other)
            };
            let in_huge_pages = raw.huge_pass(pass, usize::try_from(blocks)?)?;
            if round > 0 {
                let at = usize::from(pass == Pass::Read);
                ours[at].push(gbps(one));
                theirs[at].push(gbps(other));
                if let Some(took) = in_huge_pages {
                    huge[at].push(gbps(took));
                }
            }
        }
        place.clear(&raw)?;
    }
    let aim = (block_bytes == AIM_BYTES).then_some(Aim::RatioAtLeast(AIM_RATIO));
    let names = ["remote_write_gbps", "remote_read_gbps"].into_iter();
    for (((name, samples), beside), huge) in names.zip(ours).zip(theirs).zip(huge) {
        let context = if huge.count() == 0 {
            Value::Null
        } else {
            let ratio = samples.ratios(&huge).median();
            json!({"raw_in_huge_pages_gbps": huge.median(), "ratio_to_it": ratio})
        };
        report.add(&Row {
            name,
            unit: "GB/s",
            params: json!({"backend": kind.name(), "block_bytes": block_bytes}),
            context,
            samples,
            reference: Some(Reference {
                name: "raw_gbps",
                variant: raw.variant(),
                samples: beside,
            }),
            aim,
        });
    }
    Ok(())
}

fn pair() -> [Samples; 2] {
    [Samples::default(), Samples::default()]
}

/// A prefix whose blocks are all there: asked for by a node that knows nothing, by one that knows, and one that is not there.
fn existence(arguments: &Arguments, report: &mut Report, kind: Kind) -> anyhow::Result<()> {
    let place = Place::make(arguments, kind)?;
    let numbers: Vec<u64> = (0..PREFIX_BLOCKS).collect();
    Rig::open(place.backend(), PAGE_BYTES)?.transfer(&numbers, true)?;
    let mut samples = [Samples::default(), Samples::default(), Samples::default()];
    for _ in 0..arguments.rounds {
        let mut rig = Rig::open(place.backend(), PAGE_BYTES)?;
        let all = usize::try_from(PREFIX_BLOCKS)?;
        for (at, range, expected) in [
            (0, 0..PREFIX_BLOCKS, all),
            (1, 0..PREFIX_BLOCKS, all),
            (2, PREFIX_BLOCKS..2 * PREFIX_BLOCKS, 0),
        ] {
            let (took, found) = rig.exists(range)?;
            ensure!(found == expected, "{found} blocks are there, want {expected}");
            samples[at].push(took.as_secs_f64() * 1e3);
        }
    }
    for (knowledge, samples) in ["cold", "warm", "missing"].into_iter().zip(samples) {
        report.add(&Row {
            name: "remote_exists_ms",
            unit: "ms",
            params: json!({"backend": kind.name(), "blocks": PREFIX_BLOCKS, "knowledge": knowledge}),
            context: Value::Null,
            samples,
            reference: None,
            aim: None,
        });
    }
    Ok(())
}
