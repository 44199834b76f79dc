//! Runs of the simulation: a fixed set, fresh ones, and a canary that must be caught.
//!
//! `KVTIER_SIM_SEED=N` runs one seed; `KVTIER_SIM_COUNT=N` runs that many fresh ones.

use std::panic::catch_unwind;
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Canary, Plan, Summary, run};

const STEPS: u64 = 3000;

fn run_seed(seed: u64) -> Summary {
    println!("replay with: cargo sim -- --seed {seed} --steps {STEPS}");
    run(Plan {
        seed,
        steps: STEPS,
        canary: Canary::None,
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().unwrap())
}

#[test]
fn fixed_seeds_keep_the_promises_and_meet_every_situation() {
    let mut all = Summary::default();
    for seed in 1..=24 {
        let one = run_seed(seed);
        all.blocks_compared += one.blocks_compared;
        all.hits += one.hits;
        all.removed += one.removed;
        all.holds_lost += one.holds_lost;
        all.no_space += one.no_space;
        all.cut_offs += one.cut_offs;
        all.quarantined += one.quarantined;
        all.arenas_moved += one.arenas_moved;
    }
    let met = [
        all.blocks_compared,
        all.hits,
        all.removed,
        all.holds_lost,
        all.no_space,
        all.cut_offs,
        all.quarantined,
        all.arenas_moved,
    ];
    assert!(
        met.iter().all(|&count| count > 0),
        "the runs did not meet everything: {all:?}"
    );
}

#[test]
fn fresh_seeds_keep_the_promises() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let first =
        number("KVTIER_SIM_SEED").unwrap_or_else(|| u64::try_from(now.as_nanos() % 1_000_000_007).unwrap());
    let default = if number("KVTIER_SIM_SEED").is_some() { 1 } else { 8 };
    for seed in first..first + number("KVTIER_SIM_COUNT").unwrap_or(default) {
        run_seed(seed);
    }
}

#[test]
fn a_run_replays_exactly() {
    assert_eq!(run_seed(7), run_seed(7));
}

#[test]
fn an_engine_that_recycles_without_proof_of_death_is_caught() {
    let caught = (0..20).find_map(|seed| {
        let plan = Plan {
            seed,
            steps: STEPS,
            canary: Canary::RecycleOnHangUp,
        };
        catch_unwind(|| run(plan)).err()
    });
    let caught = caught.expect("the canary should be noticed");
    let message = caught.downcast_ref::<String>().expect("a panic with a message");
    assert!(message.contains("promise 5"), "{message}");
}
