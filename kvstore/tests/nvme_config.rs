//! What is said of NVMe directories that cannot be used, and what can be changed while the daemon runs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::path::Path;

use rustix::process::Signal;
use support::blocks::{CHAIN, Cache, bytes_on_disk, loaded, written};
use support::{Daemon, Place, eventually, run};

fn start(place: &Place, text: &str) -> Daemon {
    let file = place.path("kvtierd.toml");
    std::fs::write(&file, text).unwrap();
    place.start_file(&file, &[("KVTIER_HOST_CAPACITY", "8MiB".to_owned())])
}

fn config(directory: &Path, more: &str) -> String {
    format!(
        "[nvme]\ndirectories = [\"{}\"]\nsegment-bytes = \"4MiB\"\n{more}\n",
        directory.display()
    )
}

fn reload(place: &Place, daemon: &Daemon, text: &str) {
    std::fs::write(place.path("kvtierd.toml"), text).unwrap();
    let reads = || daemon.log().matches("the configuration was read again").count();
    let before = reads();
    daemon.signal(Signal::HUP);
    eventually("the configuration is read again", || {
        (reads() > before).then_some(())
    });
}

#[test]
fn a_bad_nvme_configuration_names_all_problems_and_touches_nothing() {
    let place = Place::new();
    let directory = place.path("nvme");
    let (code, said) = run(place
        .command()
        .env(
            "KVTIER_NVME_DIRECTORIES",
            format!("{0},{0}/inner", directory.display()),
        )
        .env("KVTIER_NVME_CAPACITY", "64MiB")
        .env("KVTIER_NVME_SEGMENT_BYTES", "32MiB")
        .env("KVTIER_NVME_DEPTH", "5000"));
    assert_eq!(code, 64, "{said}");
    for expected in [
        "nvme.depth",
        "want no directory inside another",
        "nvme.capacity: want room for at least 4",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!directory.exists() && !place.path("run").exists());
}

#[test]
fn a_directory_that_cannot_be_used_ends_the_start() {
    let place = Place::new();
    let file = place.path("file");
    std::fs::write(&file, "precious").unwrap();
    for directory in [&file, &place.path("missing/nvme")] {
        let (code, said) = run(place
            .command()
            .env("KVTIER_HOST_CAPACITY", "8MiB")
            .env("KVTIER_NVME_DIRECTORIES", directory));
        assert_eq!(code, 73, "{said}");
        assert!(
            said.contains("nvme.directories") && !said.contains("serving"),
            "{said}"
        );
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

/// It used to take the device out of service, and the daemon served without it.
#[test]
fn another_size_of_segments_than_a_directory_has_ends_the_start() {
    let place = Place::new();
    let directory = place.path("nvme");
    let mut daemon = start(&place, &config(&directory, ""));
    daemon.signal(Signal::TERM);
    daemon.wait();
    let (code, said) = run(place
        .command()
        .env("KVTIER_HOST_CAPACITY", "8MiB")
        .env("KVTIER_NVME_SEGMENT_BYTES", "8MiB")
        .env("KVTIER_NVME_DIRECTORIES", &directory));
    assert_eq!(code, 78, "{said}");
    let expected = "nvme/default has segments of 4194304B, got 8388608B";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_directory_of_a_tenant_that_is_not_configured_any_more_is_named() {
    let place = Place::new();
    let directory = place.path("nvme");
    let both = config(&directory, "capacity = \"160MiB\"\n[tenant.a]\n[tenant.b]");
    let mut daemon = start(&place, &both);
    assert!(
        !daemon.log().contains("no configured tenant has"),
        "{}",
        daemon.log()
    );
    daemon.signal(Signal::TERM);
    daemon.wait();
    let daemon = start(&place, &config(&directory, "[tenant.a]"));
    daemon.says("no configured tenant has");
    daemon.says(&directory.join("b").display().to_string());
}

#[test]
fn a_directory_that_another_daemon_uses_ends_the_start() {
    let place = Place::new();
    let mut first = start(&place, &config(&place.path("nvme"), ""));
    let (code, said) = run(place
        .command()
        .env("KVTIER_SOCKET", place.path("run/other.sock"))
        .env("KVTIER_HOST_CAPACITY", "8MiB")
        .env("KVTIER_NVME_SEGMENT_BYTES", "4MiB")
        .env("KVTIER_NVME_DIRECTORIES", place.path("nvme")));
    assert_eq!(code, 73, "{said}");
    assert!(said.contains(&first.pid().to_string()), "{said}");
    assert!(first.is_running());
}

#[test]
fn a_reload_shrinks_the_tier_and_grows_it_again() {
    let place = Place::new();
    let directory = place.path("nvme");
    let daemon = start(&place, &config(&directory, "capacity = \"128MiB\""));
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..160);
    assert!(bytes_on_disk(&directory) > 80 << 20);
    reload(
        &place,
        &daemon,
        &config(&directory, "capacity = \"64MiB\"\ndepth = 8"),
    );
    daemon.says("nvme.capacity: 128MiB -> 64MiB");
    daemon.says("nvme.depth: 32 -> 8");
    eventually("the directory shrinks", || {
        (bytes_on_disk(&directory) <= 64 << 20).then_some(())
    });
    // Whatever is left is right, and the latest is left.
    cache.load_all(0..160);
    assert_eq!(cache.load(159), CHAIN);
    assert_eq!(cache.store(200..201), CHAIN);
    written(&daemon);
    reload(&place, &daemon, &config(&directory, "capacity = \"128MiB\""));
    eventually("the directory grows", || {
        (bytes_on_disk(&directory) > 80 << 20).then_some(())
    });
    assert!(bytes_on_disk(&directory) <= 128 << 20);
}

#[test]
fn a_reload_of_a_bad_file_changes_nothing_and_says_why() {
    let place = Place::new();
    let directory = place.path("nvme");
    let mut daemon = start(&place, &config(&directory, "capacity = \"64MiB\""));
    for (text, expected) in [
        (
            config(&directory, "capacity = \"1GiB\"\nwatermark-low = 2\ndepht = 3"),
            "nvme.depht: no such key",
        ),
        (
            config(&directory, "capacity = \"1GiB\"\nwatermark-low = 2"),
            "nvme.watermark-low: want",
        ),
        ("[nvme".to_owned(), "kvtierd.toml:1: "),
    ] {
        reload(&place, &daemon, &text);
        daemon.says(expected);
    }
    assert_eq!(daemon.log().matches("cannot be used: nothing changes").count(), 3);
    assert!(daemon.is_running());
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..150);
    assert!(bytes_on_disk(&directory) <= 64 << 20);
}

#[test]
fn the_level_of_the_log_and_the_admission_change_at_run_time() {
    let place = Place::new();
    let directory = place.path("nvme");
    let daemon = start(&place, &config(&directory, "admission = \"second-touch\""));
    let mut cache = Cache::open(&daemon, "");
    cache.store(0..4);
    assert_eq!(daemon.counter("nvme_written"), 0);
    reload(
        &place,
        &daemon,
        &format!("{}[log]\nlevel = \"debug\"", config(&directory, "")),
    );
    cache.store_durably(&daemon, 10..12);
    assert_eq!(daemon.counter("nvme_written"), u64::from(2 * CHAIN));
    // Only observers are told of at this level.
    daemon.says("observer attached");
}

/// A file system of 40 MiB under a tier that wants 64: the tier takes what there is, but for the reserve, and goes on.
#[test]
fn a_full_file_system_is_absorbed() {
    let place = Place::new();
    let directory = place.path("small");
    std::fs::create_dir(&directory).unwrap();
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=40m", "tmpfs"])
        .arg(&directory)
        .output();
    if !mount.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: only root can mount the file system that this test needs");
        return;
    }
    let _mounted = Mounted(directory.clone());
    let daemon = start(&place, &config(&directory.join("nvme"), "capacity = \"64MiB\""));
    let said = || {
        daemon
            .log()
            .matches("but for a reserve of 1 % of the file system")
            .count()
    };
    assert_eq!(said(), 1, "{}", daemon.log());
    daemon.says("the NVMe directory is in memory (tmpfs)");
    let mut cache = Cache::open(&daemon, "");
    for chain in 0..120 {
        assert_eq!(cache.store(chain..chain + 1), CHAIN);
        // Whatever was written, what is found is right.
        cache.load(chain / 2);
    }
    assert!(daemon.counter("nvme_written") > 0);
    assert_eq!(daemon.status()["nvme"][0]["state"], "serving");
    reload(
        &place,
        &daemon,
        &config(&directory.join("nvme"), "capacity = \"80MiB\""),
    );
    eventually("a capacity that grows is compared as well", || {
        (said() == 2).then_some(())
    });
    let mut daemon = daemon;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a daemon that is being killed may still have files open there.
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .output();
    }
}

fn fsck(arguments: &[&str], directory: &Path) -> (i32, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_kvtier"))
        .arg("fsck")
        .args(arguments)
        .arg(directory)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn a_stopped_tier_is_checked_and_repaired() {
    let place = Place::new();
    let directory = place.path("nvme");
    let text = config(&directory, "capacity = \"64MiB\"");
    let mut daemon = start(&place, &text);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..20);
    // A directory in use is left alone.
    let (code, _, said) = fsck(&[], &directory);
    assert!(code == 2 && said.contains("in use by"), "{code} {said}");
    assert!(!said.contains("give this daemon"), "{said}");
    daemon.signal(Signal::TERM);
    daemon.wait();
    let (code, said, _) = fsck(&[], &directory);
    assert!(code == 0 && said.contains("clean"), "{code} {said}");
    assert!(said.contains(&format!("{}", 20 * CHAIN)), "{said}");
    // A bit of a block, and the whole catalogue.
    flip_a_payload_bit(&directory.join("default"));
    std::fs::remove_dir_all(directory.join("default/catalogue")).unwrap();
    let (code, said, _) = fsck(&["--json"], &directory);
    let reports: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (code, &reports[0]["clean"]),
        (1, &serde_json::Value::Bool(false)),
        "{said}"
    );
    assert_eq!(reports[0]["counts"]["payloads_damaged"], 1, "{said}");
    let (code, said, _) = fsck(&["--repair"], &directory);
    assert!(code == 0 && said.contains("mended"), "{code} {said}");
    let (code, said, _) = fsck(&[], &directory);
    assert!(code == 0 && said.contains("  clean"), "{code} {said}");
    let daemon = start(&place, &text);
    let mut cache = Cache::open(&daemon, "");
    loaded(&daemon, 1);
    // The damaged block ends one prefix; whatever is loaded is compared.
    let found = cache.load_all(0..20);
    assert!((19 * CHAIN..20 * CHAIN).contains(&found), "{found}");
}

/// Somewhere in the second block of the first segment that has blocks.
fn flip_a_payload_bit(directory: &Path) {
    use std::os::unix::fs::FileExt;
    let header = |file: &std::fs::File| {
        let mut magic = [0; 8];
        file.read_exact_at(&mut magic, 4096).unwrap();
        magic == *b"KVTBLOCK"
    };
    let found = support::blocks::segments(directory).into_iter().find_map(|path| {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(path)
            .unwrap();
        header(&file).then_some(file)
    });
    let (file, mut byte) = (found.unwrap(), [0]);
    let offset = 4096 * 3 + support::blocks::BLOCK_BYTES + 500;
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 4], offset).unwrap();
}

#[test]
fn what_is_no_tier_cannot_be_checked() {
    let place = Place::new();
    for name in ["missing", "empty"] {
        if name == "empty" {
            std::fs::create_dir(place.path(name)).unwrap();
        }
        let (code, _, said) = fsck(&[], &place.path(name));
        assert!(code == 2 && said.contains(name), "{code} {said}");
        let why = if name == "empty" {
            "is missing"
        } else {
            "there is no directory"
        };
        assert!(said.contains(why), "{said}");
        assert!(!place.path(name).join("lock").exists());
    }
}
