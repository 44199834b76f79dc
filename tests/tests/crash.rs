//! The daemon is killed at random moments under load. What was acknowledged on NVMe is there afterwards, and every byte that
//! is read is the byte that was stored.
//!
//! `KVTIER_CRASH_CYCLES` asks for more cycles, `KVTIER_CRASH_SEED` for the same choices again (not for the same timing).

#![allow(clippy::unwrap_used, reason = "a failed test is a panic")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::process::Command;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use support::daemon::{Daemon, Place};
use support::store::{Gone, Loaded, Store, Stored};

/// Blocks stored and looked up together.
const BATCH: u64 = 8;
/// Batches of one model: with the header pages 30 MiB, more than host memory has room for and so few that nothing has to be
/// reclaimed.
const BATCHES: u64 = 192;

fn number_from(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

fn fresh_seed() -> u64 {
    RandomState::new().hash_one(0)
}

/// Options that may differ from start to start over one directory.
fn any_options(random: &mut SmallRng) -> [(&'static str, &'static str); 3] {
    [
        (
            "KVTIER_NVME_IO",
            if random.random_bool(0.3) {
                "threads"
            } else {
                "auto"
            },
        ),
        (
            "KVTIER_NVME_DIRECT",
            if random.random_bool(0.3) { "never" } else { "auto" },
        ),
        (
            "KVTIER_NVME_DEPTH",
            if random.random_bool(0.3) { "2" } else { "32" },
        ),
    ]
}

/// One life of a tier: its directory, and what has been acknowledged.
struct Life {
    place: Place,
    model: String,
    acknowledged: BTreeSet<u64>,
}

impl Life {
    fn new(number: u64) -> Self {
        Self {
            place: Place::new(),
            model: format!("model {number}"),
            acknowledged: BTreeSet::new(),
        }
    }

    /// Start, compare, store, kill.
    fn cycle(&mut self, random: &mut SmallRng, compare_all: bool) {
        let daemon = self.place.start(&any_options(random));
        let mut store = Store::attach(&daemon, &self.model);
        store.settle().unwrap();
        for &batch in &self.acknowledged {
            if compare_all || random.random_bool(0.1) {
                expect_all(&mut store, batch);
            }
        }
        let mut stored = BTreeSet::new();
        for _ in 0..random.random_range(0..6) {
            let batch = random.random_range(0..BATCHES);
            let Stored { dropped, .. } = store.store(batch * BATCH, BATCH).unwrap();
            assert_eq!(dropped, 0, "there is room for everything");
            stored.insert(batch);
        }
        let counters = store.settle().unwrap();
        assert_eq!(
            counters["counters"]["nvme_reclaimed_blocks"], 0,
            "nothing had to leave"
        );
        self.acknowledged.extend(stored);
        work_until_killed(daemon, store, random);
    }
}

/// Keeps the daemon busy and kills it.
fn work_until_killed(daemon: Daemon, mut store: Store, random: &mut SmallRng) {
    let wait = Duration::from_micros(random.random_range(0..40_000));
    let killer = std::thread::spawn(move || {
        std::thread::sleep(wait);
        daemon.kill();
    });
    while let Ok(loaded) = any_work(&mut store, random) {
        if let Some(loaded) = loaded {
            assert_eq!(loaded.wrong, 0, "bytes differ before the kill");
        }
    }
    killer.join().unwrap();
}

/// Something to do: stores and loads of any batch. The answer is what a load found.
fn any_work(store: &mut Store, random: &mut SmallRng) -> Result<Option<Loaded>, Gone> {
    let first = random.random_range(0..BATCHES) * BATCH;
    if random.random_bool(0.6) {
        store.store(first, BATCH).map(|_| None)
    } else {
        store.load(first, BATCH).map(Some)
    }
}

/// All blocks of a batch are there, and right.
fn expect_all(store: &mut Store, batch: u64) {
    let loaded = store.load(batch * BATCH, BATCH).unwrap();
    let expected = Loaded {
        hit: BATCH,
        wrong: 0,
        lost: 0,
    };
    if loaded != expected {
        let missing = |&block: &u64| store.load(block, 1).unwrap().hit == 0;
        let missing: Vec<u64> = (batch * BATCH..(batch + 1) * BATCH).filter(missing).collect();
        let counters = store.counters().unwrap();
        panic!(
            "batch {batch} was acknowledged, found {loaded:?}; blocks {missing:?} are missing; counters: {counters}"
        );
    }
}

/// `kvtier fsck` finds nothing to complain about.
fn expect_clean(place: &Place) {
    let mut fsck = Command::new(support::built().join("kvtier"));
    fsck.arg("fsck").arg(place.nvme());
    let output = fsck.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn what_was_acknowledged_survives_every_kill() {
    let cycles = number_from("KVTIER_CRASH_CYCLES", 200);
    let seed = number_from("KVTIER_CRASH_SEED", fresh_seed());
    println!("KVTIER_CRASH_SEED={seed} KVTIER_CRASH_CYCLES={cycles}");
    let mut random = SmallRng::seed_from_u64(seed);
    // A new directory now and then, because a full one has nothing left to write.
    for (number, begin) in (0..cycles).step_by(25).enumerate() {
        let mut life = Life::new(number as u64);
        for cycle in begin..cycles.min(begin + 25) {
            life.cycle(&mut random, cycle % 12 == 11);
        }
        let daemon = life.place.start(&[]);
        let mut store = Store::attach(&daemon, &life.model);
        store.settle().unwrap();
        life.acknowledged
            .iter()
            .for_each(|&batch| expect_all(&mut store, batch));
        drop(store);
        daemon.stop();
        expect_clean(&life.place);
    }
}

#[test]
fn kills_under_reclaim_never_yield_a_wrong_byte_nor_more_bytes_than_allowed() {
    let seed = number_from("KVTIER_CRASH_SEED", fresh_seed());
    let cycles = number_from("KVTIER_CRASH_CYCLES", 200) / 10;
    println!("KVTIER_CRASH_SEED={seed} KVTIER_CRASH_CYCLES={}", cycles * 10);
    let mut random = SmallRng::seed_from_u64(seed);
    let mut place = Place::new();
    let mut hit = 0;
    for cycle in 0..cycles {
        // 48 MiB on disk for 90 MiB of blocks.
        let mut options = any_options(&mut random).to_vec();
        options.extend([("KVTIER_NVME_CAPACITY", "64MiB")]);
        let daemon = place.start(&options);
        let mut store = Store::attach(&daemon, "reclaim");
        for _ in 0..random.random_range(20..80) {
            let first = random.random_range(0..3 * BATCHES) * BATCH;
            if random.random_bool(0.7) {
                store.store(first, BATCH).unwrap();
            } else {
                let loaded = store.load(first, BATCH).unwrap();
                assert_eq!(loaded.wrong, 0, "cycle {cycle}: bytes differ");
                hit += loaded.hit;
            }
            let used = bytes_on_disk(&place);
            assert!(
                used <= 64 << 20,
                "cycle {cycle}: {used} bytes on disk, want 64 MiB at most"
            );
        }
        daemon.kill();
    }
    assert!(hit > 0, "some of it was found");
    expect_clean(&place);
}

/// Bytes that a directory takes of its file system.
fn bytes_on_disk(place: &Place) -> u64 {
    fn walk(path: &std::path::Path) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let Ok(entries) = fs::read_dir(path) else { return 0 };
        entries
            .filter_map(Result::ok)
            .map(|entry| match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => walk(&entry.path()),
                Ok(metadata) => metadata.blocks() * 512,
                // Deleted while we looked.
                Err(_) => 0,
            })
            .sum()
    }
    walk(&place.nvme())
}
