//! What an administrator changes: settings, evictions, drains.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use connector_shm::Request;
use rustix::process::Signal;
use support::blocks::{CHAIN, Cache, loaded, written};
use support::client::Pair;
use support::command::{json, kvtier, refused, shown, with_nvme};
use support::{Place, eventually};

#[test]
fn settings_change_are_explained_and_leave_a_line_whatever_the_level_is() {
    let place = Place::new();
    let file = place.path("kvtierd.toml");
    let directory = place.path("nvme");
    let text =
        format!("[nvme]\ndirectories = [{directory:?}]\ncapacity = \"256MiB\"\n[log]\nlevel = \"info\"\n");
    std::fs::write(&file, text).unwrap();
    let daemon = place.start_file(&file, &[]);
    loaded(&daemon, 1);
    let value = |key: &str| {
        let status = json(&place, &["status"]);
        let settings = status["settings"].as_array().unwrap();
        let found = settings.iter().find(|setting| setting["key"] == key).unwrap();
        found["value"].as_str().unwrap().to_owned()
    };
    let dry = shown(&place, &["set", "nvme.capacity=128MiB", "--dry-run"]);
    assert!(dry.contains("nvme.capacity: \"256MiB\" -> \"128MiB\""), "{dry}");
    assert!(
        dry.contains("reclaimed at once") && dry.contains("dry run"),
        "{dry}"
    );
    assert_eq!(value("nvme.capacity"), "\"256MiB\"");
    let set = json(
        &place,
        &[
            "set",
            "nvme.capacity=128MiB",
            "log.level=error",
            "host.watermark-high=0.99",
        ],
    );
    assert_eq!(set["settings"].as_array().unwrap().len(), 3);
    assert_eq!(value("nvme.capacity"), "\"128MiB\"");
    assert_eq!(value("host.watermark-high"), "0.99");
    daemon.says("audit: a setting was changed");
    let line = daemon.log();
    let line = line
        .lines()
        .find(|line| line.contains("key=\"nvme.capacity\""))
        .unwrap();
    let pid = format!("uid={} pid=", rustix::process::geteuid().as_raw());
    assert!(
        line.contains(&pid) && line.contains("before=\"256MiB\""),
        "{line}"
    );
    assert!(shown(&place, &["status", "--settings"]).contains("nvme.admission"));
    assert!(shown(&place, &["set", "nvme.capacity=128MiB"]).contains("nothing changes"));
    let dry = shown(&place, &["set", "nvme.capacity=200GiB", "--dry-run"]);
    let room = rustix::fs::statvfs(&directory).unwrap();
    let is_short = room.f_bavail * room.f_frsize < 200 << 30;
    assert!(dry.contains("taken at once"), "{dry}");
    assert_eq!(dry.contains("the file system has room for"), is_short, "{dry}");
    // What was given comes back in a header, which holds only so much.
    let long = "9".repeat(60_000);
    for setting in [format!("nvme.capacity={long}"), format!("nvme.{long}=1")] {
        let (code, error) = refused(&place, &["set", &setting]);
        assert_eq!(code, 64, "{error}");
        assert!(error.contains('…') && error.len() < 4000, "{error}");
    }
    // The log is quiet now, but for this.
    shown(&place, &["set", "nvme.write-rate=1MiB"]);
    daemon.says("key=\"nvme.write-rate\"");
    daemon.signal(Signal::HUP);
    eventually("the file holds again", || {
        (value("nvme.capacity") == "\"256MiB\"").then_some(())
    });
    assert_eq!(value("nvme.write-rate"), "\"0\"");
}

#[test]
fn what_cannot_be_set_is_refused_with_the_reason_and_changes_nothing() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    loaded(&daemon, 1);
    let before = json(&place, &["status"])["settings"].clone();
    let cases = [
        (
            "nvme.capacity=1",
            "nvme.capacity: want a size from 64MiB to 64TiB",
        ),
        ("nvme.capactiy=1GiB", "no such key; did you mean nvme.capacity?"),
        (
            "host.capacity=1GiB",
            "host.capacity: cannot change while the daemon runs",
        ),
        ("nvme.watermark-low=0.99", "want 0 < low < high <= 1"),
        (
            "tenant.red.nvme-capacity=1GiB",
            "tenant.red.nvme-capacity: there is no tenant red, want one of default",
        ),
    ];
    for (assignment, expected) in cases {
        let (code, error) = refused(&place, &["set", "nvme.write-rate=1MiB", assignment]);
        assert_eq!(code, 64, "{assignment}");
        assert!(error.contains(expected), "{assignment}: {error}");
    }
    assert_eq!(json(&place, &["status"])["settings"], before);
}

#[test]
fn blocks_leave_when_they_are_told_to() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..4);
    let blocks = u64::from(4 * CHAIN);
    let namespaces = json(&place, &["namespaces"]);
    let namespace = namespaces["namespaces"][0]["namespace"]
        .as_str()
        .unwrap()
        .to_owned();
    let evict = |arguments: &[&str]| {
        let mut all = vec!["evict", "--namespace", &namespace];
        all.extend(arguments);
        let evicted = json(&place, &all);
        (
            evicted["host_blocks"].as_u64().unwrap(),
            evicted["nvme_blocks"].as_u64().unwrap(),
            evicted["busy_blocks"].as_u64().unwrap(),
        )
    };
    assert_eq!(evict(&["--dry-run"]), (blocks, blocks, 0));
    assert_eq!(evict(&["--tier", "host"]), (blocks, 0, 0));
    // They come back from NVMe.
    assert_eq!(cache.load(0), CHAIN);
    assert_eq!(evict(&["--tier", "nvme"]), (0, blocks, 0));
    assert_eq!(cache.load(0), CHAIN);
    assert_eq!(cache.load(1), 0);
    assert_eq!(evict(&[]), (u64::from(CHAIN), 0, 0));
    assert_eq!(cache.load(0), 0);
    assert_eq!(daemon.counter("removed_on_request"), blocks + u64::from(CHAIN));
    eventually("each eviction has its line", || {
        let lines = daemon
            .log()
            .matches("audit: blocks were evicted by request")
            .count();
        (lines == 3).then_some(())
    });
    // They can be stored again.
    assert_eq!(cache.store(0..1), CHAIN);
    written(&daemon);
    let all = shown(&place, &["evict", "--all"]);
    assert!(
        all.starts_with("8 blocks left host memory, 8 blocks left NVMe, 0 in use stayed"),
        "{all}"
    );
    let (code, error) = refused(&place, &["evict", "--namespace", "zz"]);
    assert_eq!(code, 64);
    assert!(
        error.starts_with("namespace: want 1 to 32 hexadecimal digits"),
        "{error}"
    );
}

#[test]
fn a_drain_waits_says_what_is_under_way_and_refuses_stores() {
    let place = Place::new();
    let mut daemon = place.start();
    let mut pair = Pair::open(daemon.socket(), 1);
    assert_eq!(pair.store(0..4), 4);
    let (_, lookup) = pair.scheduler.lookup(4);
    let (_, lease) = pair.scheduler.commit(lookup, 4);
    let (code, out, _) = kvtier(&place, &["drain", "--timeout", "300ms"]);
    assert_eq!(code, 3);
    assert!(out.contains("not quiet yet"), "{out}");
    let drained = json(&place, &["drain", "--no-wait"]);
    assert_eq!(
        (&drained["quiet"], &drained["tenants"][0]["leases"]),
        (&false.into(), &1.into())
    );
    let status = shown(&place, &["status"]);
    assert!(
        status.contains("not ready: drained by an administrator"),
        "{status}"
    );
    assert!(status.contains("takes no stores"), "{status}");
    pair.scheduler.send(&Request::LeaseRelease { lease });
    assert!(shown(&place, &["drain"]).contains("quiet: nothing is under way"));
    // Loads go on.
    assert_eq!(pair.scheduler.lookup(4).0, 64);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_daemon_that_drains_for_its_end_can_still_be_asked() {
    let place = Place::new();
    let mut daemon = place.start_with(&[("KVTIER_SHUTDOWN_DEADLINE", "1h")]);
    let mut pair = Pair::open(daemon.socket(), 1);
    pair.store(0..4);
    let (_, lookup) = pair.scheduler.lookup(4);
    let (_, lease) = pair.scheduler.commit(lookup, 4);
    daemon.signal(Signal::TERM);
    daemon.says("draining");
    let status = json(&place, &["status"]);
    assert_eq!(status["tenants"][0]["occupancy"]["leases"], 1);
    assert_eq!(status["waiting_for"], "the daemon is ending");
    let (code, error) = refused(&place, &["set", "log.level=debug"]);
    assert_eq!(code, 1);
    assert!(error.contains("the daemon is ending"), "{error}");
    pair.scheduler.send(&Request::LeaseRelease { lease });
    assert_eq!(daemon.wait().code(), Some(0));
}
