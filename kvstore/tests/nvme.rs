//! Blocks that leave memory are found again on NVMe: also after a kill, whatever engine reads them, and never wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::path::Path;

use rustix::process::Signal;
use support::blocks::{BLOCK_BYTES, CHAIN, Cache, bytes_on_disk, loaded, segments, written};
use support::{Daemon, Place, eventually};

/// More blocks than memory holds: 40 MiB beside 8.
const CHAINS: u32 = 80;

/// A tiny host tier over one directory.
fn settings(directory: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("KVTIER_HOST_CAPACITY", "8MiB".to_owned()),
        ("KVTIER_NVME_DIRECTORIES", directory.display().to_string()),
        ("KVTIER_NVME_CAPACITY", "128MiB".to_owned()),
        ("KVTIER_NVME_PROMOTION_DEADLINE", "30s".to_owned()),
        ("KVTIER_SHUTDOWN_DEADLINE", "30s".to_owned()),
    ]
}

fn start(place: &Place, settings: &[(&'static str, String)]) -> Daemon {
    let variables: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    place.start_with(&variables)
}

fn with(settings: &[(&'static str, String)], name: &'static str, value: &str) -> Vec<(&'static str, String)> {
    let mut settings = settings.to_vec();
    settings.push((name, value.to_owned()));
    settings
}

fn end(mut daemon: Daemon, signal: Signal) {
    daemon.signal(signal);
    let status = daemon.wait();
    assert!(signal == Signal::KILL || status.code() == Some(0), "{status}");
}

fn survives(io: &str, direct: &str) {
    let place = Place::new();
    let settings = with(&settings(&place.path("nvme")), "KVTIER_NVME_IO", io);
    let settings = with(&settings, "KVTIER_NVME_DIRECT", direct);
    let daemon = start(&place, &settings);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..CHAINS);
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN);
    // Most of it is not in memory, and whoever asks hears that it is on its way.
    assert!(daemon.counter("nvme_read") > 0 && cache.waited > CHAINS / 2);
    end(daemon, Signal::KILL);
    for signal in [Signal::TERM, Signal::KILL] {
        let daemon = start(&place, &settings);
        loaded(&daemon, 1);
        // Out of headers or out of the catalogue, every block is known with what it is about.
        let known = (daemon.occupancy("blocks"), daemon.occupancy("blocks_described"));
        assert_eq!(known, (u64::from(CHAINS * CHAIN), u64::from(CHAINS * CHAIN)));
        let mut cache = Cache::open(&daemon, "");
        assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN);
        end(daemon, signal);
    }
}

#[test]
fn blocks_survive_kills_and_restarts() {
    survives("auto", "auto");
}

#[test]
fn blocks_survive_kills_and_restarts_on_a_pool_of_threads() {
    survives("threads", "auto");
}

#[test]
fn blocks_survive_kills_and_restarts_through_the_page_cache() {
    survives("auto", "never");
}

#[test]
fn what_one_engine_has_written_the_other_reads() {
    let place = Place::new();
    let settings = settings(&place.path("nvme"));
    let daemon = start(&place, &settings);
    Cache::open(&daemon, "").store_durably(&daemon, 0..CHAINS);
    end(daemon, Signal::TERM);
    for (io, direct) in [("threads", "never"), ("auto", "auto")] {
        let settings = with(
            &with(&settings, "KVTIER_NVME_IO", io),
            "KVTIER_NVME_DIRECT",
            direct,
        );
        let daemon = start(&place, &settings);
        loaded(&daemon, 1);
        assert_eq!(Cache::open(&daemon, "").load_all(0..CHAINS), CHAINS * CHAIN);
        end(daemon, Signal::TERM);
    }
}

#[test]
fn a_drain_writes_what_waits_to_be_written() {
    let place = Place::new();
    let settings = settings(&place.path("nvme"));
    // Slow enough for the signal to come first, fast enough for the deadline.
    let slow = with(&settings, "KVTIER_NVME_WRITE_RATE", "2MiB");
    let daemon = start(&place, &slow);
    loaded(&daemon, 1);
    let mut cache = Cache::open(&daemon, "");
    cache.store(0..10);
    assert!(daemon.occupancy("nvme_queue") > 0);
    cache.close();
    end(daemon, Signal::TERM);
    let daemon = start(&place, &settings);
    loaded(&daemon, 1);
    assert_eq!(Cache::open(&daemon, "").load_all(0..10), 10 * CHAIN);
}

#[test]
fn the_status_shows_each_device() {
    let place = Place::new();
    let daemon = start(&place, &settings(&place.path("nvme")));
    loaded(&daemon, 1);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..CHAINS);
    let status = daemon.status();
    let device = &status["nvme"][0];
    assert_eq!(
        device["directory"],
        place.path("nvme/default").display().to_string()
    );
    assert_eq!(device["state"], "serving");
    let table = kvstore::status::table(&status);
    assert!(
        table.contains("nvme_written_bytes") && table.contains("nvme/default"),
        "{table}"
    );
}

#[test]
fn an_idle_daemon_with_devices_does_not_wake() {
    let place = Place::new();
    let daemon = start(&place, &settings(&place.path("nvme")));
    loaded(&daemon, 1);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..CHAINS);
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN);
    let pause = std::time::Duration::from_millis(200);
    // Until the catalogue has been written, and everything has gone to sleep.
    eventually("the daemon sleeps", || {
        let before = daemon.wake_ups();
        std::thread::sleep(pause);
        (daemon.wake_ups() == before).then_some(())
    });
    let before = daemon.own_wake_ups();
    std::thread::sleep(5 * pause);
    // Its directory may have been looked at meanwhile.
    assert!(daemon.own_wake_ups() <= before + 2);
}

/// A look-up that waits for a block on its way must not wait for ever.
#[test]
fn without_a_deadline_only_memory_is_a_hit() {
    let place = Place::new();
    let settings = with(
        &settings(&place.path("nvme")),
        "KVTIER_NVME_PROMOTION_DEADLINE",
        "0s",
    );
    let daemon = start(&place, &settings);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..CHAINS);
    let found = cache.load_all(0..CHAINS);
    assert!(found < CHAINS * CHAIN, "{found}");
    assert_eq!(cache.waited, 0);
}

#[test]
fn a_damaged_superblock_takes_the_device_out_of_service_and_nothing_is_deleted() {
    let place = Place::new();
    let settings = settings(&place.path("nvme"));
    let daemon = start(&place, &settings);
    Cache::open(&daemon, "").store_durably(&daemon, 0..4);
    end(daemon, Signal::TERM);
    let superblock = place.path("nvme/default/tier.kvt");
    let mut bytes = std::fs::read(&superblock).unwrap();
    bytes[20] ^= 0xff;
    std::fs::write(&superblock, &bytes).unwrap();
    let before = segments(&place.path("nvme/default"));
    let daemon = start(&place, &settings);
    daemon.says("restart the daemon to have it back");
    let mut cache = Cache::open(&daemon, "");
    // Memory serves as if there were no device.
    assert_eq!(cache.load_all(0..4), 0);
    assert_eq!(cache.store(0..4), 4 * CHAIN);
    assert_eq!(cache.load_all(0..4), 4 * CHAIN);
    assert_eq!(daemon.status()["nvme"][0]["state"], "lost");
    end(daemon, Signal::TERM);
    assert_eq!(segments(&place.path("nvme/default")), before);
    assert_eq!(std::fs::read(&superblock).unwrap(), bytes);
}

#[test]
fn blocks_that_a_start_cannot_use_are_warned_of() {
    let place = Place::new();
    let settings = settings(&place.path("nvme"));
    let daemon = start(&place, &settings);
    Cache::open(&daemon, "").store_durably(&daemon, 0..4);
    end(daemon, Signal::TERM);
    for entry in std::fs::read_dir(place.path("nvme/default")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("namespace-") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    let daemon = start(&place, &settings);
    loaded(&daemon, 1);
    daemon.says("are misses from now on");
    assert_eq!(Cache::open(&daemon, "").load_all(0..4), 0);
}

#[test]
fn a_directory_that_is_taken_away_takes_only_its_own_blocks() {
    let place = Place::new();
    let both = format!("{},{}", place.path("one").display(), place.path("two").display());
    let settings = with(&settings(&place.path("one")), "KVTIER_NVME_DIRECTORIES", &both);
    let daemon = start(&place, &settings);
    loaded(&daemon, 2);
    Cache::open(&daemon, "").store_durably(&daemon, 0..CHAINS);
    end(daemon, Signal::TERM);
    let one = with(
        &settings,
        "KVTIER_NVME_DIRECTORIES",
        &place.path("one").display().to_string(),
    );
    let daemon = start(&place, &one);
    loaded(&daemon, 1);
    let mut cache = Cache::open(&daemon, "");
    let blocks = daemon.occupancy("nvme_blocks");
    assert!(
        blocks > 0 && blocks < u64::from(CHAINS * CHAIN),
        "{blocks} of {}",
        CHAINS * CHAIN
    );
    // A prefix ends where the first of its blocks is missing; what is there is right.
    cache.load_all(0..CHAINS);
    end(daemon, Signal::TERM);
    let daemon = start(&place, &settings);
    loaded(&daemon, 2);
    assert_eq!(Cache::open(&daemon, "").load_all(0..CHAINS), CHAINS * CHAIN);
}

/// The bound is on the disk, and at every moment.
#[test]
fn the_directory_never_takes_more_than_its_capacity() {
    let place = Place::new();
    let settings = with(&settings(&place.path("nvme")), "KVTIER_NVME_CAPACITY", "64MiB");
    let daemon = start(&place, &settings);
    let mut cache = Cache::open(&daemon, "");
    let mut most = 0;
    // Three times the capacity.
    for chain in 0..400 {
        cache.store(chain..chain + 1);
        if chain % 4 == 3 {
            written(&daemon);
        }
        most = most.max(bytes_on_disk(&place.path("nvme")));
    }
    assert!(most <= 64 << 20, "{most} bytes");
    assert!(daemon.counter("nvme_reclaimed_segments") > 0);
    assert_eq!(cache.load(399), CHAIN);
    end(daemon, Signal::KILL);
    let daemon = start(&place, &settings);
    loaded(&daemon, 1);
    assert_eq!(Cache::open(&daemon, "").load(399), CHAIN);
    assert!(bytes_on_disk(&place.path("nvme")) <= 64 << 20);
}

/// What namespaces stand for is on disk too, in files that used to stay until the next start.
#[test]
fn engines_with_large_descriptors_that_come_and_go_keep_within_the_capacity() {
    let place = Place::new();
    let settings = with(&settings(&place.path("nvme")), "KVTIER_NVME_CAPACITY", "64MiB");
    let daemon = start(&place, &settings);
    loaded(&daemon, 1);
    let names = || {
        let files = place.path("nvme/default").read_dir().unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("namespace-")).count()
    };
    let model = |number: u32| format!("{number} {}", "x".repeat(100 << 10));
    for number in 0..100 {
        let mut cache = Cache::open_model(&daemon, &model(number));
        cache.store_durably(&daemon, 0..1);
        cache.close();
        let bytes = bytes_on_disk(&place.path("nvme"));
        assert!(bytes <= 64 << 20, "{bytes} bytes after {number} models");
    }
    // What may be kept of namespaces at this capacity is 4 MiB.
    assert!((10..=40).contains(&names()), "{}", names());
    end(daemon, Signal::KILL);
    let daemon = start(&place, &settings);
    loaded(&daemon, 1);
    assert_eq!(Cache::open_model(&daemon, &model(99)).load(0), CHAIN);
    assert_eq!(Cache::open_model(&daemon, &model(0)).load(0), 0);
}

#[test]
fn a_capacity_that_shrank_while_the_daemon_was_away_holds_when_it_comes_back() {
    let place = Place::new();
    let settings = with(
        &settings(&place.path("nvme")),
        "KVTIER_NVME_SEGMENT_BYTES",
        "4MiB",
    );
    let daemon = start(&place, &settings);
    Cache::open(&daemon, "").store_durably(&daemon, 0..CHAINS);
    end(daemon, Signal::TERM);
    assert!(bytes_on_disk(&place.path("nvme")) > 64 << 20);
    let settings = with(&settings, "KVTIER_NVME_CAPACITY", "64MiB");
    let daemon = start(&place, &settings);
    assert!(bytes_on_disk(&place.path("nvme")) <= 64 << 20);
    loaded(&daemon, 1);
    Cache::open(&daemon, "").load_all(0..CHAINS);
}

#[test]
fn tenants_have_directories_and_blocks_of_their_own() {
    let place = Place::new();
    let file = place.path("kvtierd.toml");
    std::fs::write(&file, "[tenant.blue]\n[tenant.red]\nnvme-capacity = \"64MiB\"").unwrap();
    let settings = with(&settings(&place.path("nvme")), "KVTIER_NVME_CAPACITY", "192MiB");
    let daemon = place.start_file(&file, &settings);
    loaded(&daemon, 2);
    let mut blue = Cache::open(&daemon, "blue");
    for chain in 0..40 {
        assert_eq!(blue.store(chain..chain + 1), CHAIN);
        if chain % 4 == 3 {
            written(&daemon);
        }
    }
    assert_eq!(Cache::open(&daemon, "red").load_all(0..40), 0);
    end(daemon, Signal::KILL);
    assert!(place.path("nvme/blue/tier.kvt").exists() && place.path("nvme/red/tier.kvt").exists());
    let daemon = place.start_file(&file, &settings);
    loaded(&daemon, 2);
    assert_eq!(Cache::open(&daemon, "blue").load_all(0..40), 40 * CHAIN);
    assert_eq!(Cache::open(&daemon, "red").load_all(0..40), 0);
    assert!(bytes_on_disk(&place.path("nvme/red")) <= 64 << 20);
    end(daemon, Signal::TERM);
    // A directory that came to belong to another tenant is not read.
    std::fs::rename(place.path("nvme/red"), place.path("nvme/old")).unwrap();
    std::fs::rename(place.path("nvme/blue"), place.path("nvme/red")).unwrap();
    let daemon = place.start_file(&file, &settings);
    daemon.says("NVMe device out of service");
    assert_eq!(Cache::open(&daemon, "red").load_all(0..40), 0);
}

#[test]
fn a_block_larger_than_a_segment_of_the_directory_stays_in_memory() {
    let place = Place::new();
    let settings = settings(&place.path("nvme"));
    end(start(&place, &settings), Signal::TERM);
    // Larger arenas would choose larger segments; the directory keeps those it was made with.
    let settings = with(&settings, "KVTIER_HOST_CAPACITY", "64MiB");
    let settings = with(&settings, "KVTIER_HOST_ARENA_BYTES", "8MiB");
    let daemon = start(&place, &settings);
    daemon.says("smaller than the largest blocks");
    loaded(&daemon, 1);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..4);
    assert_eq!(cache.load_all(0..4), 4 * CHAIN);
    assert!(daemon.counter("nvme_written_bytes") >= u64::from(4 * CHAIN) * BLOCK_BYTES);
}
