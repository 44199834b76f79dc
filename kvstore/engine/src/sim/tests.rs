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
    let mut met: Vec<(&str, u64)> = Vec::new();
    for seed in 1..=16 {
        let one = run_seed(seed);
        let counts = [
            ("blocks compared", one.blocks_compared),
            ("hits", one.hits),
            ("removed", one.removed),
            ("holds lost", one.holds_lost),
            ("no space", one.no_space),
            ("cut-offs", one.cut_offs),
            ("quarantined", one.quarantined),
            ("arenas moved", one.arenas_moved),
            ("restarts", one.restarts),
            ("hits after waiting", one.hits_after_waiting),
            ("look-ups answered at their deadline", one.late),
            ("written", one.written),
            ("promoted", one.promoted),
            ("carried over", one.carried_over),
            ("reclaimed", one.reclaimed),
            ("scrubbed", one.scrubbed),
            ("found damaged", one.corrupt),
            ("told at a start", one.blocks_told),
            ("removed on request", one.requested),
            ("kept", one.kept),
            ("devices lost", one.devices_lost),
            ("described late", one.described_late),
            ("snapshots", one.snapshots),
            ("stored in the remote tier", one.remote_stored),
            ("found in the remote tier", one.remote_found),
            ("fetched from the remote tier", one.remote_fetched),
            ("gone from the remote tier", one.remote_gone),
            ("hit from the remote tier", one.remote_hit_blocks),
            ("answered before the remote tier had", one.remote_late),
            ("forgotten of the remote tier", one.remote_forgotten),
            ("namespaces dropped", one.namespaces_dropped),
        ];
        met.resize(counts.len(), ("", 0));
        for (sum, (name, count)) in met.iter_mut().zip(counts) {
            *sum = (name, sum.1 + count);
        }
    }
    assert!(
        met.iter().all(|&(_, count)| count > 0),
        "the runs did not meet everything: {met:?}"
    );
}

#[test]
fn fresh_seeds_keep_the_promises() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let first =
        number("KVTIER_SIM_SEED").unwrap_or_else(|| u64::try_from(now.as_nanos() % 1_000_000_007).unwrap());
    let default = if number("KVTIER_SIM_SEED").is_some() { 1 } else { 4 };
    for seed in first..first + number("KVTIER_SIM_COUNT").unwrap_or(default) {
        run_seed(seed);
    }
}

#[test]
fn a_run_replays_exactly() {
    assert_eq!(run_seed(7), run_seed(7));
}

/// The message of the first run of a broken engine that is noticed.
fn caught(canary: Canary, seeds: u64) -> String {
    let caught = (1..=seeds).find_map(|seed| {
        let steps = STEPS;
        let plan = Plan { seed, steps, canary };
        catch_unwind(|| run(plan)).err()
    });
    let caught = caught.expect("the canary should be noticed");
    let message = caught.downcast_ref::<String>().expect("a panic with a message");
    message.clone()
}

#[test]
fn an_engine_that_recycles_without_proof_of_death_is_caught() {
    let message = caught(Canary::RecycleOnHangUp, 20);
    assert!(message.contains("promise 5"), "{message}");
}

#[test]
fn an_engine_that_hides_that_a_copy_is_gone_is_caught() {
    let message = caught(Canary::HideCorruption, 50);
    assert!(message.contains("announcements"), "{message}");
}

#[test]
fn an_engine_that_recycles_the_slots_of_late_reads_is_caught() {
    let message = caught(Canary::CancelReadsAtDeadline, 1000);
    assert!(message.contains("promise 4"), "{message}");
}
