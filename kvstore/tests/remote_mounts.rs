//! A directory that hangs, fails, lies, vanishes and fills up, under a real daemon: it costs misses, it is told, and it passes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::path::Path;

use kvstore_remote::unwell::{Call, Fuse, Mounted};
use support::blocks::{CHAIN, Cache};
use support::remote::{SOON, Watched, below, mount};
use support::{Place, eventually};

/// More than the host tier holds.
const CHAINS: u32 = 24;

/// An input or output error.
const EIO: i32 = 5;
/// The quota is used up.
const EDQUOT: i32 = 122;

fn start<'p>(place: &'p Place, directory: &Path, more: &[(&str, &str)]) -> (Watched<'p>, Cache) {
    let watched = Watched::start(place, &[&mount(directory), more].concat());
    watched.is_serving();
    let mut cache = Cache::open(&watched.daemon, "");
    watched.store_durably(&mut cache, 0..CHAINS);
    (watched, cache)
}

#[test]
fn a_mount_that_hangs_costs_misses_only_and_comes_back() {
    let Some(fuse) = Fuse::mount() else { return };
    let place = Place::new();
    let (watched, mut cache) = start(&place, fuse.place.path(), &SOON);
    fuse.hang(true);
    watched.goes_out_of_service(&mut cache, ["stalled", "stalled"]);
    let waited = cache.waited;
    assert_eq!(cache.load_all(1000..1100), 0);
    assert_eq!(
        cache.waited, waited,
        "nobody waits for a tier that is out of service"
    );
    fuse.hang(false);
    watched.comes_back();
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN);
    assert_eq!(watched.daemon.log().matches("in service again").count(), 2);
}

#[test]
fn a_mount_that_fails_costs_misses_only_and_comes_back() {
    let Some(fuse) = Fuse::mount() else { return };
    let place = Place::new();
    let (watched, mut cache) = start(&place, fuse.place.path(), &[]);
    for call in [Call::Look, Call::Read, Call::Write] {
        fuse.fail(call, EIO);
    }
    watched.goes_out_of_service(&mut cache, ["server", "server"]);
    fuse.calm();
    watched.comes_back();
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN);
}

#[test]
fn a_mount_whose_quota_is_used_up_is_read_from() {
    let Some(fuse) = Fuse::mount() else { return };
    let place = Place::new();
    let (watched, mut cache) = start(&place, fuse.place.path(), &[]);
    fuse.fail(Call::Write, EDQUOT);
    assert_eq!(cache.store(100..101), CHAIN);
    watched.state_says("writes stopped for");
    watched.is_counted(
        "kvtier_remote_outage",
        &[("direction", "write"), ("cause", "no-space")],
        1,
    );
    assert!(
        watched.metric(
            "kvtier_remote_refused_store_blocks_total",
            &[("cause", "no-space")]
        ) >= 1
    );
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN, "what is there is read");
    watched.is_counted("kvtier_remote_in_service", &[("direction", "read")], 1);
    assert!(watched.daemon.log().contains("the remote store has no room"));
    let stored = watched.daemon.counter("remote_stored");
    fuse.calm();
    watched.comes_back();
    assert_eq!(cache.store(200..201), CHAIN);
    eventually("it is stored", || {
        (watched.daemon.counter("remote_stored") >= stored + u64::from(CHAIN)).then_some(())
    });
}

#[test]
fn bytes_that_a_mount_turns_are_misses_and_who_computes_them_again_mends_them() {
    let Some(fuse) = Fuse::mount() else { return };
    let place = Place::new();
    let (watched, mut cache) = start(&place, fuse.place.path(), &[]);
    // Some byte of every payload. Each block that is loaded is compared by the test.
    fuse.flip(9000);
    assert!(
        cache.load_all(0..CHAINS) < CHAINS * CHAIN,
        "some were in memory, the others are misses"
    );
    assert!(watched.metric("kvtier_remote_corrupt_blocks_total", &[("kind", "payload")]) > 0);
    assert_eq!(watched.state(), "serving", "damage is no outage");
    fuse.calm();
    for chain in 0..CHAINS {
        if cache.load(chain) < CHAIN {
            cache.store(chain..chain + 1);
            watched.is_stored();
        }
    }
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN);
}

#[test]
fn nothing_is_written_below_a_mount_that_vanishes_and_it_comes_back_by_itself() {
    let place = Place::new();
    let (export, root) = (place.path("export"), place.path("mount"));
    for directory in [&export, &root] {
        std::fs::create_dir(directory).unwrap();
    }
    let Some(_export) = Mounted::tmpfs(&export, 256 << 20) else {
        return;
    };
    let shown = Mounted::bind(&export, &root).unwrap();
    let (watched, mut cache) = start(&place, &root, &[]);
    shown.detach();
    let mut chain = 1000;
    eventually("it is noticed", || {
        chain += 1;
        cache.store(chain..chain + 1);
        cache.load(chain + 1000);
        (below(&root).is_empty() && watched.state().contains("writes out of service")).then_some(())
    });
    watched.is_counted(
        "kvtier_remote_outage",
        &[("direction", "write"), ("cause", "not-there")],
        1,
    );
    cache.store(2000..2010);
    assert_eq!(below(&root), Vec::<String>::new(), "nothing was written below it");
    let _shown = Mounted::bind(&export, &root).unwrap();
    watched.comes_back();
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN);
}

#[test]
fn a_reserve_stays_free_and_a_sweep_makes_room() {
    let place = Place::new();
    let root = place.path("mount");
    std::fs::create_dir(&root).unwrap();
    let Some(_mount) = Mounted::tmpfs(&root, 32 << 20) else {
        return;
    };
    let watched = Watched::start(
        &place,
        &[&mount(&root)[..], &[("KVTIER_REMOTE_RESERVE", "50%")]].concat(),
    );
    watched.is_serving();
    let mut cache = Cache::open(&watched.daemon, "");
    let mut chain = 0;
    eventually("it is full", || {
        chain += 1;
        assert_eq!(cache.store(chain..chain + 1), CHAIN, "memory goes on");
        watched.state().contains("writes stopped").then_some(())
    });
    let free = watched.metric("kvtier_remote_file_system_free_bytes", &[]);
    let reserve = watched.metric("kvtier_remote_file_system_reserve_bytes", &[]);
    assert!(free >= reserve && reserve > 15 << 20, "{free} {reserve}");
    assert_eq!(
        watched.daemon.status()["remote"]["file_system"]["reserve_bytes"],
        reserve
    );
    assert_eq!(cache.load(1), CHAIN, "what is there is read");
    let mut gc = place.kvtier(&["remote", "gc"]);
    gc.env("KVTIER_REMOTE_KIND", "mount")
        .env("KVTIER_REMOTE_DIRECTORY", &root)
        .env("KVTIER_REMOTE_CAPACITY", "1MiB");
    let (code, said) = support::run(&mut gc);
    assert_eq!(code, 0, "{said}");
    watched.comes_back();
    // Another way to have room.
    eventually("it is full again", || {
        chain += 1;
        assert_eq!(cache.store(chain..chain + 1), CHAIN, "memory goes on");
        watched.state().contains("writes stopped").then_some(())
    });
    let said = support::command::shown(&place, &["set", "remote.reserve=1MiB"]);
    assert!(said.contains("remote.reserve"), "{said}");
    watched.comes_back();
    watched.is_counted("kvtier_remote_file_system_reserve_bytes", &[], 1 << 20);
}

/// Something that is no file under a block's name used to be told like an error of the mount, and five of them took it out of service.
#[test]
fn what_is_in_the_way_of_some_blocks_is_told_once_and_the_tier_stays_in_service() {
    let place = Place::new();
    let root = place.path("mount");
    std::fs::create_dir(&root).unwrap();
    let (watched, mut cache) = start(&place, &root, &[]);
    let part = root.join("kvtier/default/v1");
    let namespace = part.join(below(&part).into_iter().find(|name| name.len() == 32).unwrap());
    // A file where directories of blocks should be, for all that are not there yet.
    for first in 0..=255 {
        let directory = namespace.join(format!("{first:02x}"));
        if !directory.exists() {
            std::fs::write(directory, "odd").unwrap();
        }
    }
    let labels = [("kind", "name-taken")];
    let mut chain = 1000;
    eventually("many names are taken", || {
        chain += 1;
        assert_eq!(cache.store(chain..chain + 1), CHAIN, "memory takes it");
        watched.is_stored();
        (watched.metric("kvtier_remote_faults_total", &labels) >= 10).then_some(())
    });
    assert_eq!(watched.state(), "serving");
    let told = watched.daemon.log().matches("kind=\"name-taken\"").count();
    assert_eq!(told, 1, "one line says so");
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN, "all else is read");
}
