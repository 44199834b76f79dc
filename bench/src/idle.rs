//! `idle_cpu_percent`: CPU of a daemon whose engines are attached and do nothing.
//!
//! The engines have stored and looked up before, so that whatever spins after work has had its reason to.

use std::thread;
use std::time::{Duration, Instant};

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
const BLOCKS: u64 = 10_000;
const AIM_PERCENT: f64 = 0.2;
/// A median needs no more rounds of ten seconds than this.
const ROUNDS: u32 = 5;

/// Measures the idle daemon.
pub(crate) fn run(
    arguments: &Arguments,
    installation: &Installation,
    report: &mut Report,
) -> anyhow::Result<()> {
    let params = json!({"engines": arguments.engines, "seconds": arguments.idle_seconds});
    if arguments.socket.is_some() {
        report.skip("idle_cpu_percent", &params, "needs a daemon of its own");
        return Ok(());
    }
    eprintln!(
        "idle: {ROUNDS} rounds of {} s with {} engines",
        arguments.idle_seconds, arguments.engines
    );
    let scratch = Scratch::make()?;
    let engines = u64::from(arguments.engines);
    let shape = Shape::holding("idle", (engines + 1) * BLOCKS * BLOCK_BYTES, false);
    let daemon = Daemon::start(installation, &scratch, &shape)?;
    let mut clients = Vec::new();
    for engine in 0..arguments.engines {
        let namespace = format!("bench-idle-{engine}");
        let mut client = Client::attach(installation, &scratch, &daemon, &namespace, BLOCK_BYTES)?;
        client.command(&format!("fill {BLOCKS}"))?;
        client.command(&format!("lookup {BLOCKS} prefix"))?;
        clients.push(client);
    }
    let pid = daemon.pid().context("the daemon is not ours")?;
    let (mut percent, mut wakeups) = (Samples::default(), Samples::default());
    for _ in 0..ROUNDS {
        let (before, start) = (process::usage(pid)?, Instant::now());
        thread::sleep(Duration::from_secs(arguments.idle_seconds));
        let (after, seconds) = (process::usage(pid)?, start.elapsed().as_secs_f64());
        percent.push(after.cpu_ns.saturating_sub(before.cpu_ns) as f64 / 1e9 / seconds * 100.0);
        wakeups.push(after.wakeups.saturating_sub(before.wakeups) as f64 / seconds);
    }
    report.add(&Row {
        name: "idle_cpu_percent",
        unit: "% of a core",
        params: params.clone(),
        context: Value::Null,
        samples: percent,
        reference: None,
        aim: Some(Aim::AtMost(AIM_PERCENT)),
    });
    report.add(&Row {
        name: "idle_wakeups_per_second",
        unit: "1/s",
        params,
        context: Value::Null,
        samples: wakeups,
        reference: None,
        aim: None,
    });
    Ok(())
}
