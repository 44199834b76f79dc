//! `bytes_per_block`: daemon memory beyond the region, per resident block.
//!
//! Counted is the daemon's anonymous memory (the region is shared memory and so is not in it), minus that of a daemon
//! with the same sessions and nothing in it. Tables grow in leaps, so several numbers of blocks are measured, each in
//! daemons of its own.

use std::thread;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::client::Client;
use crate::daemon::{Daemon, Shape};
use crate::install::Installation;
use crate::process;
use crate::report::{Aim, Report, Row};
use crate::scratch::Scratch;
use crate::statistics::Samples;

const BLOCK_BYTES: u64 = 4096;
const RESIDENT: [u64; 3] = [250_000, 1_000_000, 1_750_000];
/// What an empty daemon's region could hold.
const EMPTY_BLOCKS: u64 = 1_000;
const AIM_BYTES: f64 = 160.0;
/// Each round is a daemon that is filled from nothing; the figure hardly moves between them.
const ROUNDS: u32 = 5;

/// Measures the daemon's books.
pub(crate) fn run(arguments: &Arguments, installation: &Installation, report: &mut Report) {
    if arguments.socket.is_some() {
        report.skip("bytes_per_block", &json!({}), "needs a daemon of its own");
        return;
    }
    for resident in RESIDENT {
        eprintln!("footprint: {ROUNDS} daemons with {resident} blocks");
        let params = json!({"resident": resident});
        match measure(installation, resident) {
            Ok(samples) => report.add(&Row {
                name: "bytes_per_block",
                unit: "bytes",
                params,
                context: Value::Null,
                samples,
                reference: None,
                aim: Some(Aim::AtMost(AIM_BYTES)),
            }),
            Err(error) => report.skip("bytes_per_block", &params, &format!("{error:#}")),
        }
    }
}

fn measure(installation: &Installation, resident: u64) -> anyhow::Result<Samples> {
    (0..ROUNDS)
        .map(|_| {
            let empty = anonymous_bytes(installation, EMPTY_BLOCKS, 0)?;
            let full = anonymous_bytes(installation, resident, resident)?;
            Ok(full.saturating_sub(empty) as f64 / resident as f64)
        })
        .collect()
}

/// Anonymous memory of a daemon that could hold `capacity` blocks and holds `resident`.
fn anonymous_bytes(installation: &Installation, capacity: u64, resident: u64) -> anyhow::Result<u64> {
    let scratch = Scratch::make()?;
    let shape = Shape::holding("footprint", capacity * BLOCK_BYTES, false);
    let daemon = Daemon::start(installation, &scratch, &shape)?;
    let mut client = Client::attach(installation, &scratch, &daemon, "bench-footprint", BLOCK_BYTES)?;
    if resident > 0 {
        client.command(&format!("fill {resident}"))?;
    }
    // What the daemon does after work, it does at once.
    thread::sleep(Duration::from_millis(50));
    process::anonymous_bytes(daemon.pid().context("the daemon is not ours")?)
}
