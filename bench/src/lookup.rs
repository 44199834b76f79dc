//! `lookup_hit_ms`: a look-up of a whole prefix, all hits, from submit to the return of release.
//!
//! One daemon and one client stand for each number of resident blocks, all at once, and the rounds go from one to the
//! next, so that a disturbance meets them alike. Each case looks up twice in a row and the second is counted: what a
//! case's own look-ups keep warm is warm, whatever the other cases did to the caches. No prefix comes again before all
//! others have, so among many residents the daemon's books are as cold as in life.

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
/// Hashes of this many look-ups go through the request ring before anything counts: 20 MB through 8 MiB.
const WARM_UP_LOOKUPS: u32 = 64;
const WARM_UP_BLOCKS: u64 = 10_000;
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

/// Which blocks make up a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// A sequence that was stored in runs, as engines store.
    Prefix,
    /// Any blocks, drawn one by one: the worst case.
    Scattered,
}

/// One combination and its rounds so far.
struct Case {
    population: usize,
    blocks: u64,
    order: Order,
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
    // The first round warms what a running engine would have warm, and is not counted.
    for round in 0..=arguments.rounds {
        for case in &mut cases {
            case.look_up(&mut populations[case.population].client, round > 0)?;
        }
    }
    for case in &cases {
        case.add_to(report, populations[case.population].resident);
    }
    add_growth(report, &cases, &populations);
    Ok(())
}

impl Case {
    fn look_up(&mut self, client: &mut Client, counted: bool) -> anyhow::Result<()> {
        let line = format!("lookup {} {}", self.blocks, self.order.word());
        client.numbers(&line)?;
        thread::sleep(PAUSE);
        let answer = client.numbers(&line)?;
        if let (true, [hit, release]) = (counted, &answer[..]) {
            self.milliseconds.push(*hit as f64 / 1e6);
            self.release_milliseconds.push(*release as f64 / 1e6);
        }
        Ok(())
    }

    fn add_to(&self, report: &mut Report, resident: u64) {
        let params = json!({"blocks": self.blocks, "resident": resident});
        let is_prefix = self.order == Order::Prefix;
        let add = |report: &mut Report, name, samples: &Samples, aim| {
            let (params, samples) = (params.clone(), samples.clone());
            report.add(&Row {
                name,
                unit: "ms",
                params,
                context: Value::Null,
                samples,
                reference: None,
                aim,
            });
        };
        if !is_prefix {
            add(report, "lookup_scattered_ms", &self.milliseconds, None);
            return;
        }
        let aim = (self.blocks == AIM_BLOCKS).then_some(Aim::AtMost(AIM_MS));
        add(report, "lookup_hit_ms", &self.milliseconds, aim);
        add(
            report,
            "lookup_after_release_ms",
            &self.release_milliseconds,
            None,
        );
    }
}

impl Order {
    fn word(self) -> &'static str {
        match self {
            Self::Prefix => "prefix",
            Self::Scattered => "scattered",
        }
    }
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
    // The rings' pages are first touched while messages go through them; a running engine has done that long ago.
    for _ in 0..WARM_UP_LOOKUPS {
        client.command(&format!("lookup {} prefix", resident.min(WARM_UP_BLOCKS)))?;
    }
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
            if blocks != holder.resident && (!asked || blocks > holder.resident) {
                continue;
            }
            for order in [Order::Prefix, Order::Scattered] {
                let (milliseconds, release_milliseconds) = Default::default();
                cases.push(Case {
                    population,
                    blocks,
                    order,
                    milliseconds,
                    release_milliseconds,
                });
            }
        }
    }
    cases
}

/// How much dearer a block is among the most residents than among the fewest.
fn add_growth(report: &mut Report, cases: &[Case], populations: &[Population]) {
    for (order, name, aim) in [
        (Order::Prefix, "lookup_growth", Some(Aim::AtMost(AIM_GROWTH))),
        (Order::Scattered, "lookup_scattered_growth", None),
    ] {
        let of_aim = |case: &&Case| case.blocks == AIM_BLOCKS && case.order == order;
        let (Some(few), Some(many)) = (cases.iter().find(of_aim), cases.iter().rfind(of_aim)) else {
            return;
        };
        if few.population == many.population {
            return;
        }
        let (from, to) = (
            populations[few.population].resident,
            populations[many.population].resident,
        );
        report.add(&Row {
            name,
            unit: "×",
            params: json!({"blocks": AIM_BLOCKS, "from": from, "to": to}),
            context: Value::Null,
            samples: many.milliseconds.ratios(&few.milliseconds),
            reference: None,
            aim,
        });
    }
}
