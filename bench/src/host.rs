//! `host_put_gbps` and `host_get_gbps` beside `copy_gbps`, the best of several plain copy loops.
//!
//! A put is reserve + copy + seal, a get is look-up + commit + copy + release, each of a batch larger than the caches.
//! The loops copy the same bytes between the same buffers and slots with the same number of processes; in every second
//! round they go first. Several clients begin at the same moment and are done when the last one is.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::client::{Client, Timing};
use crate::daemon::{Daemon, Shape};
use crate::install::Installation;
use crate::report::{Aim, Reference, Report, Row};
use crate::scratch::Scratch;
use crate::statistics::Samples;

const AIM_RATIO: f64 = 0.95;
/// The tier holds the blocks of about this many rounds. In life it is full, so a put has to evict.
const FULL_AFTER_ROUNDS: u32 = 4;
/// One block alone is timed at this size, in this many rounds.
const ALONE_BYTES: u64 = 65_536;
const ALONE_ROUNDS: u32 = 101;
/// The copy loops write in steps of this many bytes.
const BLOCK_STEP: u64 = 16_384;

/// One combination.
#[derive(Clone, Copy)]
struct Setting {
    block_bytes: u64,
    clients: u32,
    batch_bytes: u64,
}

/// The rounds of one direction.
#[derive(Default)]
struct Direction {
    ours: Samples,
    /// Share of the time spent in the copy itself.
    copy_share: Samples,
    /// Speed of the copy itself, by the slowest client.
    copy: Samples,
    loops: Vec<(String, Samples)>,
}

/// Measures all combinations.
pub(crate) fn run(
    arguments: &Arguments,
    installation: &Installation,
    report: &mut Report,
) -> anyhow::Result<()> {
    for &block_bytes in &arguments.block_bytes {
        ensure!(
            block_bytes > 0 && block_bytes % BLOCK_STEP == 0,
            "--block-bytes: want a multiple of {BLOCK_STEP}, got {block_bytes}"
        );
        for &clients in &arguments.clients {
            ensure!(clients > 0, "--clients: want at least 1, got 0");
            let batch_bytes = (arguments.batch_mib << 20).next_multiple_of(block_bytes);
            let setting = Setting {
                block_bytes,
                clients,
                batch_bytes,
            };
            eprintln!("host: {clients} client(s), blocks of {block_bytes} bytes");
            if let Err(error) = measure(arguments, installation, report, setting) {
                let params = setting.params();
                report.skip("host_put_gbps", &params, &format!("{error:#}"));
                report.skip("host_get_gbps", &params, &format!("{error:#}"));
            }
        }
    }
    eprintln!("host: one block alone");
    if let Err(error) = measure_alone(arguments, installation, report) {
        report.skip(
            "host_get_us",
            &json!({"block_bytes": ALONE_BYTES}),
            &format!("{error:#}"),
        );
    }
    Ok(())
}

/// One block put and got alone: what the conversation costs when there are few bytes to hide it.
fn measure_alone(
    arguments: &Arguments,
    installation: &Installation,
    report: &mut Report,
) -> anyhow::Result<()> {
    let scratch = Scratch::make()?;
    let setting = Setting {
        block_bytes: ALONE_BYTES,
        clients: 1,
        batch_bytes: ALONE_BYTES,
    };
    let bytes = ALONE_BYTES * u64::from(ALONE_ROUNDS + 1);
    let shape = Shape::holding("alone", bytes, true);
    let daemon = Daemon::given_or_started(arguments, installation, &scratch, &shape)?;
    let mut clients = attach(installation, &scratch, &daemon, setting)?;
    let (mut put, mut get) = (Samples::default(), Samples::default());
    let microseconds = |timing: &Timing| timing.end.saturating_sub(timing.start) as f64 / 1e3;
    for _ in 0..ALONE_ROUNDS {
        next_batch(&mut clients)?;
        for timing in Client::together(&mut clients, "put {start}")? {
            put.push(microseconds(&timing));
        }
        for timing in Client::together(&mut clients, "get {start} 1")? {
            get.push(microseconds(&timing));
        }
    }
    for (name, samples) in [("host_put_us", put), ("host_get_us", get)] {
        report.add(&Row {
            name,
            unit: "µs",
            params: setting.params(),
            context: json!({"blocks": 1}),
            samples,
            reference: None,
            aim: None,
        });
    }
    Ok(())
}

impl Setting {
    fn params(self) -> Value {
        json!({"block_bytes": self.block_bytes, "clients": self.clients})
    }

    fn gbps(self, timings: &[Timing]) -> f64 {
        let start = timings.iter().map(|timing| timing.start).min().unwrap_or(0);
        let end = timings.iter().map(|timing| timing.end).max().unwrap_or(0);
        (self.batch_bytes * u64::from(self.clients)) as f64 / end.saturating_sub(start) as f64
    }
}

fn measure(
    arguments: &Arguments,
    installation: &Installation,
    report: &mut Report,
    setting: Setting,
) -> anyhow::Result<()> {
    let scratch = Scratch::make()?;
    // Arenas are not whole multiples of the largest blocks: some room more.
    let bytes = setting.batch_bytes * u64::from(setting.clients) * u64::from(FULL_AFTER_ROUNDS);
    let shape = Shape::holding("host", bytes + bytes / 8, true);
    let daemon = Daemon::given_or_started(arguments, installation, &scratch, &shape)?;
    let mut clients = attach(installation, &scratch, &daemon, setting)?;
    let (mut put, mut get) = (Direction::default(), Direction::default());
    // The first rounds fill the tier and compare every byte that came back, and are not counted.
    for round in 0..FULL_AFTER_ROUNDS + 2 + arguments.host_rounds {
        let counted = round >= FULL_AFTER_ROUNDS + 2;
        next_batch(&mut clients)?;
        if round % 2 == 0 {
            loops(
                &mut clients,
                setting,
                counted,
                [("put", &mut put), ("get", &mut get)],
            )?;
        }
        let timings = Client::together(&mut clients, "put {start}")?;
        put.add(setting, counted, &timings);
        let check = u8::from(!counted);
        let timings = Client::together(&mut clients, &format!("get {{start}} {check}"))?;
        get.add(setting, counted, &timings);
        if round % 2 == 1 {
            loops(
                &mut clients,
                setting,
                counted,
                [("put", &mut put), ("get", &mut get)],
            )?;
        }
    }
    put.report(report, "host_put_gbps", setting);
    get.report(report, "host_get_gbps", setting);
    Ok(())
}

fn attach(
    installation: &Installation,
    scratch: &Scratch,
    daemon: &Daemon,
    setting: Setting,
) -> anyhow::Result<Vec<Client>> {
    let namespace = format!("bench-host-{}-{}", setting.block_bytes, std::process::id());
    let count = setting.batch_bytes / setting.block_bytes;
    (0..u64::from(setting.clients))
        .map(|index| {
            let mut client = Client::attach(installation, scratch, daemon, &namespace, setting.block_bytes)?;
            // Each client names its own blocks.
            let first = (index + 1) << 40;
            client.command(&format!("host_begin {} {count} {first}", setting.block_bytes))?;
            Ok(client)
        })
        .collect()
}

fn next_batch(clients: &mut [Client]) -> anyhow::Result<()> {
    for client in clients {
        client.command("host_next")?;
    }
    Ok(())
}

/// Runs every plain loop in both directions, on slots that are reserved for it.
fn loops(
    clients: &mut [Client],
    setting: Setting,
    counted: bool,
    directions: [(&str, &mut Direction); 2],
) -> anyhow::Result<()> {
    let mut names = Vec::new();
    for client in clients.iter_mut() {
        names = client.command("reference_begin")?;
    }
    for (direction, samples) in directions {
        for name in &names {
            let line = format!("reference {name} {direction} {{start}}");
            let timings = Client::together(clients, &line)?;
            if counted {
                samples.add_loop(name, setting.gbps(&timings));
            }
        }
    }
    for client in clients {
        client.command("reference_end")?;
    }
    Ok(())
}

impl Direction {
    fn add(&mut self, setting: Setting, counted: bool, timings: &[Timing]) {
        if !counted {
            return;
        }
        self.ours.push(setting.gbps(timings));
        let copy: u64 = timings.iter().map(|timing| timing.copy).sum();
        let rest: u64 = timings.iter().map(|timing| timing.before + timing.after).sum();
        self.copy_share.push(copy as f64 / (copy + rest) as f64);
        let slowest = timings.iter().map(|timing| timing.copy).max().unwrap_or(0);
        self.copy
            .push((setting.batch_bytes * u64::from(setting.clients)) as f64 / slowest as f64);
    }

    fn add_loop(&mut self, name: &str, gbps: f64) {
        match self.loops.iter_mut().find(|(known, _)| known == name) {
            Some((_, samples)) => samples.push(gbps),
            None => self
                .loops
                .push((name.to_owned(), std::iter::once(gbps).collect())),
        }
    }

    /// The loop with the best median: one and the same in all rounds, so that luck is not added up.
    fn best_loop(&self) -> anyhow::Result<Reference> {
        let best = self
            .loops
            .iter()
            .max_by(|(_, a), (_, b)| a.median().total_cmp(&b.median()));
        let (variant, samples) = best.context("no copy loop was measured")?;
        Ok(Reference {
            name: "copy_gbps",
            variant: variant.clone(),
            samples: samples.clone(),
        })
    }

    fn report(&self, report: &mut Report, name: &'static str, setting: Setting) {
        let thousandths = |value: f64| (value * 1000.0).round() / 1000.0;
        let reference = self.best_loop().ok();
        let copy_ratio = reference
            .as_ref()
            .map(|best| thousandths(self.copy.ratios(&best.samples).median()));
        report.add(&Row {
            name,
            unit: "GB/s",
            params: setting.params(),
            context: json!({
                "batch_mib": setting.batch_bytes >> 20,
                "copy_ratio": copy_ratio,
                "copy_share": thousandths(self.copy_share.median()),
            }),
            samples: self.ours.clone(),
            reference,
            aim: Some(Aim::RatioAtLeast(AIM_RATIO)),
        });
    }
}
