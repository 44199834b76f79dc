//! What a remote tier that stalls costs those whose blocks are in host memory.
//!
//! Two daemons do the same: one client stores blocks at a steady rate, another looks up prefixes that are in memory. One of the
//! daemons has a remote tier, an S3 server that is stopped once it was in service: connections are taken and nothing is ever
//! answered.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::server::Server;
use crate::arguments::Arguments;
use crate::client::Client;
use crate::daemon::{Daemon, Shape};
use crate::install::Installation;
use crate::report::{Aim, Reference, Report, Row};
use crate::scratch::Scratch;
use crate::statistics::Samples;

const BLOCK_BYTES: u64 = 4096;
const PROBE_BLOCKS: u64 = 1000;
const PROBE_RESIDENT: u64 = 100_000;
/// Blocks stored, and so to be stored in the remote tier, per second.
const RATE: u64 = 10_000;
const MILLISECONDS: u64 = 2000;
const AIM_RATIO: f64 = 1.1;
const WATCHDOG: Duration = Duration::from_mins(1);

/// Measures it.
pub(super) fn run(arguments: &Arguments, installation: &Installation, report: &mut Report) {
    let params = json!({"blocks": PROBE_BLOCKS, "stores_per_second": RATE});
    if let Err(error) = measure(arguments, installation, report, &params) {
        report.skip("remote_stalled_lookup_p99_ratio", &params, &format!("{error:#}"));
    }
}

/// A daemon with somebody who stores and somebody who looks up.
struct Busy {
    storer: Client,
    prober: Client,
    _daemon: Daemon,
}

impl Busy {
    fn start(installation: &Installation, scratch: &Scratch, shape: &Shape) -> anyhow::Result<Self> {
        let daemon = Daemon::start(installation, scratch, shape)?;
        let attach = |name: &str| Client::attach(installation, scratch, &daemon, name, BLOCK_BYTES);
        let (storer, mut prober) = (attach("bench-store")?, attach("bench-probe")?);
        prober.command(&format!("fill {PROBE_RESIDENT}"))?;
        Ok(Self {
            storer,
            prober,
            _daemon: daemon,
        })
    }

    fn round(&mut self) -> anyhow::Result<f64> {
        self.storer.send(&format!("churn {RATE} {MILLISECONDS}"))?;
        let probed = self
            .prober
            .numbers(&format!("probe {PROBE_BLOCKS} {MILLISECONDS}"));
        self.storer.receive()?;
        match probed?[..] {
            [_, p99_ns, _] => Ok(p99_ns as f64 / 1e3),
            ref other => anyhow::bail!("want three numbers, got {other:?}"),
        }
    }
}

fn measure(
    arguments: &Arguments,
    installation: &Installation,
    report: &mut Report,
    params: &Value,
) -> anyhow::Result<()> {
    ensure!(arguments.socket.is_none(), "needs daemons of its own");
    let scratch = Scratch::make()?;
    let server = Server::start(arguments, scratch.path())?;
    let remote = format!(
        "[remote]\nkind = \"s3\"\nbucket = \"bucket\"\nendpoint = \"{}\"\ncredentials = \"file\"\ncredentials-file = \"{}\"\n",
        server.endpoint,
        server.credentials.display()
    );
    // Nothing is evicted.
    let stored = RATE * (MILLISECONDS / 1000 + 1) * u64::from(arguments.rounds + 1);
    let bytes = (stored + PROBE_RESIDENT) * BLOCK_BYTES;
    eprintln!("remote: two daemons, one with a remote tier that stalls");
    let mut alone = Busy::start(installation, &scratch, &Shape::holding("alone", bytes, false))?;
    let shape = Shape {
        remote: Some(remote),
        ..Shape::holding("stalled", bytes, false)
    };
    let mut stalled = Busy::start(installation, &scratch, &shape)?;
    wait_for_service(&scratch.path().join("stalled.log"))?;
    server.signal(Signal::STOP)?;
    let (mut without, mut with) = (Samples::default(), Samples::default());
    // The first round is not counted.
    for round in 0..=arguments.rounds {
        let take = |busy: &mut Busy, samples: &mut Samples| -> anyhow::Result<()> {
            let p99_us = busy.round()?;
            if round > 0 {
                samples.push(p99_us);
            }
            Ok(())
        };
        if round % 2 == 0 {
            take(&mut alone, &mut without)?;
            take(&mut stalled, &mut with)?;
        } else {
            take(&mut stalled, &mut with)?;
            take(&mut alone, &mut without)?;
        }
    }
    let ratios = with.ratios(&without);
    report.add(&Row {
        name: "remote_stalled_lookup_p99_us",
        unit: "µs",
        params: params.clone(),
        context: Value::Null,
        samples: with,
        reference: Some(Reference {
            name: "lookup_p99_us",
            variant: "no remote tier".to_owned(),
            samples: without,
        }),
        aim: None,
    });
    report.add(&Row {
        name: "remote_stalled_lookup_p99_ratio",
        unit: "×",
        params: params.clone(),
        context: Value::Null,
        samples: ratios,
        reference: None,
        aim: Some(Aim::AtMost(AIM_RATIO)),
    });
    Ok(())
}

/// Waits until the daemon's log says that both directions are in service.
fn wait_for_service(log: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        if text.matches("the remote store is in service").count() >= 2 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the S3 server is not in service");
        std::thread::sleep(Duration::from_millis(20));
    }
}
