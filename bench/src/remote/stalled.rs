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
use crate::busy::{Busy, Load, PROBE_BLOCKS, take_turns};
use crate::daemon::Shape;
use crate::install::Installation;
use crate::report::{Aim, Reference, Report, Row};
use crate::scratch::Scratch;

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
    let load = Load {
        stores_per_second: RATE,
        milliseconds: MILLISECONDS,
        rounds: arguments.rounds,
    };
    eprintln!("remote: two daemons, one with a remote tier that stalls");
    let shape = |name| Shape::holding(name, load.bytes(), false);
    let with_remote = Shape {
        remote: Some(remote),
        ..shape("stalled")
    };
    let mut daemons = [
        Busy::start(installation, &scratch, &shape("alone"))?,
        Busy::start(installation, &scratch, &with_remote)?,
    ];
    wait_for_service(&scratch.path().join("stalled.log"))?;
    server.signal(Signal::STOP)?;
    let [without, with] = take_turns(&mut daemons, load)?;
    let (without, with) = (without.p99_us, with.p99_us);
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
