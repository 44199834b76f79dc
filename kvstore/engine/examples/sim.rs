//! Replays a run of the engine's simulation: `cargo sim -- --seed N --steps M`. With `--count C` runs C seeds from N.

use std::process::ExitCode;

use kvstore_engine::sim::{Canary, Plan, run};

const USAGE: &str = "usage: cargo sim -- --seed N [--steps M] [--count C] [--canary | --canary-reads]";

fn main() -> ExitCode {
    let (mut seed, mut steps, mut count, mut canary) = (1, 3000, 1, Canary::None);
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--");
    while let Some(argument) = arguments.next() {
        let place = match argument.as_str() {
            "--seed" => &mut seed,
            "--steps" => &mut steps,
            "--count" => &mut count,
            "--canary" => {
                canary = Canary::RecycleOnHangUp;
                continue;
            }
            "--canary-reads" => {
                canary = Canary::CancelReadsAtDeadline;
                continue;
            }
            _ => {
                eprintln!("{argument}: not an argument\n{USAGE}");
                return ExitCode::from(64);
            }
        };
        let value = arguments.next();
        let Some(number) = value.as_deref().and_then(|value| value.parse::<u64>().ok()) else {
            eprintln!("{argument}: want a number, got {value:?}\n{USAGE}");
            return ExitCode::from(64);
        };
        *place = number;
    }
    for seed in seed..seed.saturating_add(count) {
        println!("seed {seed}, {steps} steps");
        let summary = run(Plan { seed, steps, canary });
        println!("{summary:#?}");
    }
    ExitCode::SUCCESS
}
