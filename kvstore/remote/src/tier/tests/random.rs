//! Random orders at a store that lies. Whatever it does: each order has one answer, no slot ever has other bytes than its
//! block's, nothing is held for ever, and when it tells the truth again everything works.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvstore_types::{BlockKey, OperationId, ReadClass};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::rig::Rig;
use crate::backend::Backend;
use crate::backend::lying::{Faults, Lying};
use crate::backend::store::Surroundings;
use crate::testing::{key, wait_until};
use crate::{BackendSpec, Direction, MemoryStore, Order, Outcome, Presence};

const KEYS: u64 = 12;

/// An order that was not heard of yet, and its slot.
#[derive(Clone, Copy)]
enum Open {
    Fetch(OperationId, BlockKey, usize),
    Store(OperationId, usize),
    Other(OperationId),
}

impl Open {
    fn slot(&self) -> Option<usize> {
        match self {
            Self::Fetch(_, _, slot) | Self::Store(_, slot) => Some(*slot),
            Self::Other(_) => None,
        }
    }
}

fn faults(rng: &mut SmallRng) -> Faults {
    let mut some = |most: f64| {
        if rng.random_bool(0.5) {
            rng.random_range(0.0..most)
        } else {
            0.0
        }
    };
    Faults {
        error: some(0.2),
        stall: some(0.05),
        late: some(0.5),
        bit_flip: some(0.3),
        short: some(0.3),
        misdirected: some(0.3),
        lost: some(0.2),
        torn: some(0.3),
    }
}

fn order(rig: &mut Rig, rng: &mut SmallRng, open: &mut Vec<Open>) {
    let block = key(rng.random_range(0..KEYS));
    let taken: Vec<usize> = open.iter().filter_map(Open::slot).collect();
    let slot = (0..16).find(|slot| !taken.contains(slot)).unwrap();
    let class = if rng.random() {
        ReadClass::Demand
    } else {
        ReadClass::Prefetch
    };
    match rng.random_range(0..10) {
        0..4 => open.push(Open::Fetch(rig.order_fetch(block, slot, class), block, slot)),
        4..7 => open.push(Open::Store(rig.order_store(block, slot), slot)),
        7 => {
            let operation = rig.next();
            rig.submit(Order::Delete {
                operation,
                key: block,
            });
            open.push(Open::Other(operation));
        }
        8 => {
            let operation = rig.next();
            rig.submit(Order::Exists {
                operation,
                keys: (0..KEYS).map(key).collect(),
                until_missing: rng.random(),
            });
            open.push(Open::Other(operation));
        }
        _ => {
            if let Some(Open::Fetch(operation, ..)) = open.first() {
                rig.submit(Order::SetClass {
                    operation: *operation,
                    class,
                });
            }
        }
    }
}

fn hear(rig: &mut Rig, open: Open) {
    match open {
        // The rig compares the bytes.
        Open::Fetch(operation, key, slot) => drop(rig.fetched(operation, key, slot)),
        Open::Store(operation, _) | Open::Other(operation) => drop(rig.answer(operation)),
    }
}

fn run(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let faults = faults(&mut rng);
    println!("seed {seed}: {faults:?}");
    let store = Arc::new(MemoryStore::default());
    let liar = Mutex::new(None);
    let between = |inner: Arc<dyn Backend>| -> Arc<dyn Backend> {
        let lying = Lying::new(inner, seed, faults);
        *liar.lock().unwrap() = Some(lying.clone());
        lying
    };
    let surroundings = Surroundings {
        between: Some(&between),
        ..Surroundings::real()
    };
    let change = |spec: &mut crate::RemoteSpec| {
        spec.timing.demand = Duration::from_millis(30);
        spec.timing.prefetch = Duration::from_millis(60);
        spec.timing.write = Duration::from_millis(60);
        spec.timing.lookup = Duration::from_millis(30);
        spec.timing.hedge_after = seed.is_multiple_of(2).then_some(Duration::from_millis(10));
        spec.limits.range_bytes = seed.is_multiple_of(3).then_some(4096);
        spec.existence.present_for = Duration::from_millis(20);
        spec.breaker.failures = 5;
        spec.breaker.open_min = Duration::from_millis(5);
        spec.breaker.open_max = Duration::from_millis(20);
    };
    let mut rig = Rig::closed_in(BackendSpec::Memory(store), 1, change, &surroundings);
    let liar = liar.lock().unwrap().clone().unwrap();
    let mut open = Vec::new();
    for _ in 0..400 {
        if open.len() < 12 && rng.random_bool(0.7) {
            order(&mut rig, &mut rng, &mut open);
        } else if !open.is_empty() {
            let one = open.swap_remove(rng.random_range(0..open.len()));
            hear(&mut rig, one);
        }
    }
    for one in open {
        hear(&mut rig, one);
    }
    liar.repent();
    for direction in Direction::ALL {
        rig.wait_for_service(direction, true);
    }
    wait_until("everything is given back", || rig.stats().under_way == [0, 0, 0]);
    for key in (0..KEYS).map(key) {
        make_good(&mut rig, key);
    }
    assert_eq!(rig.stats().unanswered, 0);
    rig.close();
}

/// Whatever is at the store by now, a block can be stored and fetched again.
fn make_good(rig: &mut Rig, key: BlockKey) {
    wait_until("the block is good again", || {
        let _ = rig.store(key);
        let fetched = rig.fetch(key);
        let is_miss = matches!(
            fetched,
            Outcome::Done
                | Outcome::Missing
                | Outcome::Corrupt(_)
                | Outcome::TimedOut
                | Outcome::Unavailable(_)
        );
        assert!(is_miss, "{fetched:?}");
        fetched == Outcome::Done
    });
    wait_until("it is found", || {
        rig.exists(vec![key], false) == [Presence::Present]
    });
}

#[test]
fn a_store_that_lies_costs_misses_and_nothing_else() {
    for seed in 0..12 {
        run(seed);
    }
}
