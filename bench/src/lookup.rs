//! `lookup_hit_ms`: a look-up of a whole prefix, all hits, from submit to the return of release.
//!
//! One daemon and one client stand for each number of resident blocks, all at once, and the rounds go from one to the
//! next, so that a disturbance meets them alike. The blocks of a prefix are drawn from all resident ones; none comes
//! again until every other has, so among many residents the daemon's records are as cold as in life.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::client::Client;
use crate::daemon::{Daemon, Shape};
use crate::install::Installation;
use crate::report::{Aim, Report, Row};
use crate::scratch::Scratch;
use crate::statistics::Samples;

/// Smallest slots there are: their bytes are never written, so even millions cost no memory.
const BLOCK_BYTES: u64 = 4096;
/// Between look-ups a scheduler does other things; meanwhile the daemon falls asleep.
const PAUSE: Duration = Duration::from_millis(2);
/// The figure that the aim speaks of.
const AIM_BLOCKS: u64 = 10_000;
const AIM_MS: f64 = 2.0;
const AIM_GROWTH: f64 = 1.5;

/// A daemon filled with `resident` blocks.
struct Population {
    resident: u64,
    client: Client,
    _daemon: Daemon,
}

/// One combination and its rounds so far.
struct Case {
    population: usize,
    blocks: u64,
    milliseconds: Samples,
    release_milliseconds: Samples,
}

/// Measures all combinations.
pub(crate) fn run(
    arguments: &Arguments,
    installation: &Installation,
    report: &mut Report,
) -> anyhow::Result<()> {
    let scratch = Scratch::make()?;
    let mut populations = Vec::new();
    for resident in residents(arguments) {
        match populate(arguments, installation, &scratch, resident) {
            Ok(population) => populations.push(population),
            Err(error) => {
                for blocks in arguments.blocks.iter().filter(|&&blocks| blocks <= resident) {
                    let params = json!({"blocks": blocks, "resident": resident});
                    report.skip("lookup_hit_ms", &params, &format!("{error:#}"));
                }
            }
        }
    }
    let mut cases = cases(arguments, &populations);
    // The first round of each case warms what a running engine would have warm, and is not counted.
    for round in 0..=arguments.rounds {
        for case in &mut cases {
            thread::sleep(PAUSE);
            let answer = populations[case.population]
                .client
                .numbers(&format!("lookup {}", case.blocks))?;
            if let (true, [hit, release]) = (round > 0, &answer[..]) {
                case.milliseconds.push(*hit as f64 / 1e6);
                case.release_milliseconds.push(*release as f64 / 1e6);
            }
        }
    }
    for case in &cases {
        add(report, case, populations[case.population].resident);
    }
    add_growth(report, &cases, &populations);
    Ok(())
}

/// The numbers asked for, and for prefixes longer than the smallest of them a number that can hold such a prefix.
fn residents(arguments: &Arguments) -> Vec<u64> {
    let mut residents = arguments.resident.clone();
    let smallest = residents.iter().copied().min().unwrap_or(0);
    residents.extend(
        arguments
            .blocks
            .iter()
            .copied()
            .filter(|&blocks| blocks > smallest)
            .max(),
    );
    residents.sort_unstable();
    residents.dedup();
    residents
}

fn populate(
    arguments: &Arguments,
    installation: &Installation,
    scratch: &Scratch,
    resident: u64,
) -> anyhow::Result<Population> {
    eprintln!("lookup: making {resident} blocks resident");
    let shape = Shape::holding(&format!("resident-{resident}"), resident * BLOCK_BYTES, false);
    let daemon = Daemon::given_or_started(arguments, installation, scratch, &shape)?;
    let namespace = format!("bench-lookup-{resident}-{}", std::process::id());
    let mut client = Client::attach(installation, scratch, &daemon, &namespace, BLOCK_BYTES)?;
    client.command(&format!("fill {resident}"))?;
    Ok(Population {
        resident,
        client,
        _daemon: daemon,
    })
}

/// Each number of residents meets each prefix that it can hold; the one that was added for the longest prefix meets
/// only that.
fn cases(arguments: &Arguments, populations: &[Population]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (population, holder) in populations.iter().enumerate() {
        let asked = arguments.resident.contains(&holder.resident);
        for &blocks in &arguments.blocks {
            if blocks == holder.resident || (asked && blocks < holder.resident) {
                cases.push(Case {
                    population,
                    blocks,
                    milliseconds: Samples::default(),
                    release_milliseconds: Samples::default(),
                });
            }
        }
    }
    cases
}

fn add(report: &mut Report, case: &Case, resident: u64) {
    let params = json!({"blocks": case.blocks, "resident": resident});
    report.add(&Row {
        name: "lookup_hit_ms",
        unit: "ms",
        params: params.clone(),
        context: Value::Null,
        samples: case.milliseconds.clone(),
        reference: None,
        aim: (case.blocks == AIM_BLOCKS).then_some(Aim::AtMost(AIM_MS)),
    });
    report.add(&Row {
        name: "lookup_after_release_ms",
        unit: "ms",
        params,
        context: Value::Null,
        samples: case.release_milliseconds.clone(),
        reference: None,
        aim: None,
    });
}

/// How much dearer a block is among the most residents than among the fewest.
fn add_growth(report: &mut Report, cases: &[Case], populations: &[Population]) {
    let of_aim = |case: &&Case| case.blocks == AIM_BLOCKS;
    let (Some(few), Some(many)) = (cases.iter().find(of_aim), cases.iter().rfind(of_aim)) else {
        return;
    };
    if few.population == many.population {
        return;
    }
    report.add(&Row {
        name: "lookup_growth",
        unit: "×",
        params: json!({
            "blocks": AIM_BLOCKS,
            "from": populations[few.population].resident,
            "to": populations[many.population].resident,
        }),
        context: Value::Null,
        samples: many.milliseconds.ratios(&few.milliseconds),
        reference: None,
        aim: Some(Aim::AtMost(AIM_GROWTH)),
    });
}
