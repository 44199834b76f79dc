//! What one node has stored another finds in a directory that both have mounted, and nothing that befalls it hurts either.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use support::blocks::{CHAIN, Cache, loaded};
use support::command::{refused, shown};
use support::{Daemon, Place, eventually, run};

/// Four times as much as the host tier holds.
const CHAINS: u32 = 64;

fn settings(directory: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("KVTIER_HOST_CAPACITY", "8MiB".to_owned()),
        ("KVTIER_REMOTE_KIND", "mount".to_owned()),
        ("KVTIER_REMOTE_DIRECTORY", directory.display().to_string()),
        ("KVTIER_REMOTE_PROMOTION_DEADLINE", "30s".to_owned()),
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

fn shared() -> (tempfile::TempDir, PathBuf) {
    let shared = tempfile::tempdir().unwrap();
    let path = shared.path().to_owned();
    (shared, path)
}

fn end(mut daemon: Daemon, signal: Signal) {
    daemon.signal(signal);
    let status = daemon.wait();
    assert!(signal == Signal::KILL || status.code() == Some(0), "{status}");
}

fn in_service(daemon: &Daemon) {
    eventually("the remote tier is in service", || {
        (daemon.status()["remote"]["state"] == "serving").then_some(())
    });
}

/// Stores prefixes, a few at a time, each time waiting until the remote tier has them.
fn store_durably(cache: &mut Cache, daemon: &Daemon, chains: std::ops::Range<u32>) {
    for chain in chains {
        assert_eq!(cache.store(chain..chain + 1), CHAIN);
        eventually("everything is stored", || {
            let waiting = daemon.occupancy("remote_queue") + daemon.occupancy("remote_stores_in_flight");
            (waiting == 0).then_some(())
        });
    }
}

/// The files of blocks below a directory.
fn objects(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in directory.read_dir().unwrap().flatten() {
        let path = entry.path();
        // What is being written has no name yet, and gets it while it is counted.
        if path.file_name().unwrap() == "temporary" {
            continue;
        }
        if path.is_dir() {
            found.extend(objects(&path));
        } else if path.file_name().unwrap().len() >= 64 {
            found.push(path);
        }
    }
    found
}

#[test]
fn what_one_node_has_stored_another_finds() {
    let (_shared, directory) = shared();
    let (one, other) = (Place::new(), Place::new());
    let daemon = start(&one, &settings(&directory));
    in_service(&daemon);
    let mut cache = Cache::open(&daemon, "");
    store_durably(&mut cache, &daemon, 0..CHAINS);
    assert_eq!(daemon.counter("remote_stored"), u64::from(CHAINS * CHAIN));
    // It finds again itself what has left its memory.
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN);
    assert!(daemon.counter("remote_hit_blocks") > 0);
    end(daemon, Signal::KILL);
    let daemon = start(&other, &settings(&directory));
    in_service(&daemon);
    let mut cache = Cache::open(&daemon, "");
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN);
    assert_eq!(daemon.counter("remote_stored"), 0);
    // Nobody has ever stored these.
    assert_eq!(cache.load(1000), 0);
    let status = daemon.status();
    let table = kvstore::status::table(&status);
    assert!(table.contains("remote_hit_blocks"), "{table}");
    let tiers = other.kvtier(&["tiers"]).output().unwrap();
    let tiers = String::from_utf8_lossy(&tiers.stdout).into_owned();
    assert!(tiers.contains("remote") && tiers.contains("serving"), "{tiers}");
    end(daemon, Signal::TERM);
}

#[test]
fn with_nvme_between_blocks_go_down_to_both_and_come_back_from_either() {
    let (_shared, directory) = shared();
    let (one, other) = (Place::new(), Place::new());
    let with_nvme = |place: &Place| {
        let mut settings = settings(&directory);
        settings.push((
            "KVTIER_NVME_DIRECTORIES",
            place.path("nvme").display().to_string(),
        ));
        settings.push(("KVTIER_NVME_CAPACITY", "128MiB".to_owned()));
        settings.push(("KVTIER_NVME_PROMOTION_DEADLINE", "30s".to_owned()));
        settings
    };
    let daemon = start(&one, &with_nvme(&one));
    loaded(&daemon, 1);
    in_service(&daemon);
    let mut cache = Cache::open(&daemon, "");
    store_durably(&mut cache, &daemon, 0..CHAINS);
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN);
    assert!(daemon.counter("nvme_read") > 0);
    end(daemon, Signal::TERM);
    // Another node, without anything on its disk.
    let daemon = start(&other, &with_nvme(&other));
    loaded(&daemon, 1);
    in_service(&daemon);
    let mut cache = Cache::open(&daemon, "");
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN);
    assert_eq!(daemon.counter("remote_fetched"), u64::from(CHAINS * CHAIN));
    eventually("what was fetched is on NVMe", || {
        (daemon.counter("nvme_written") > 0).then_some(())
    });
    end(daemon, Signal::TERM);
}

#[test]
fn a_directory_that_is_not_there_costs_misses_and_comes_back_by_itself() {
    let (_shared, directory) = shared();
    let gone = directory.join("mount");
    let place = Place::new();
    let daemon = start(&place, &settings(&gone));
    let mut cache = Cache::open(&daemon, "");
    assert_eq!(cache.store(0..2), 2 * CHAIN);
    assert_eq!(cache.load_all(0..3), 2 * CHAIN);
    assert_eq!(cache.waited, 0, "nobody waits for a tier that is out of service");
    assert_eq!(daemon.counter("remote_stored"), 0);
    std::fs::create_dir(&gone).unwrap();
    in_service(&daemon);
    eventually("it catches up", || {
        (daemon.counter("remote_stored") == u64::from(2 * CHAIN)).then_some(())
    });
    assert!(daemon.log().contains("the remote store is in service"));
    end(daemon, Signal::TERM);
}

#[test]
fn tenants_do_not_find_what_others_have_stored() {
    let (_shared, directory) = shared();
    let place = Place::new();
    let file = place.path("kvtier.toml");
    std::fs::write(&file, "[tenant.blue]\n[tenant.red]\n").unwrap();
    let daemon = place.start_file(&file, &settings(&directory));
    let mut blue = Cache::open(&daemon, "blue");
    assert_eq!(blue.store(0..2), 2 * CHAIN);
    eventually("it is stored", || {
        (objects(&directory).len() == 2 * CHAIN as usize).then_some(())
    });
    assert_eq!(objects(&directory.join("kvtier/blue")).len(), 2 * CHAIN as usize);
    assert_eq!(Cache::open(&daemon, "red").load_all(0..2), 0);
    end(daemon, Signal::TERM);
}

#[test]
fn a_damaged_block_is_a_miss_and_is_replaced_by_who_computes_it_again() {
    let (_shared, directory) = shared();
    let place = Place::new();
    let daemon = start(&place, &settings(&directory));
    in_service(&daemon);
    let mut cache = Cache::open(&daemon, "");
    store_durably(&mut cache, &daemon, 0..1);
    end(daemon, Signal::KILL);
    for object in objects(&directory) {
        let mut bytes = std::fs::read(&object).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&object, bytes).unwrap();
    }
    let daemon = start(&place, &settings(&directory));
    in_service(&daemon);
    let mut cache = Cache::open(&daemon, "");
    assert_eq!(cache.load(0), 0);
    assert_eq!(daemon.counter("remote_fetch_corrupt"), u64::from(CHAIN));
    store_durably(&mut cache, &daemon, 0..1);
    end(daemon, Signal::KILL);
    let daemon = start(&place, &settings(&directory));
    in_service(&daemon);
    assert_eq!(Cache::open(&daemon, "").load(0), CHAIN);
    end(daemon, Signal::TERM);
}

#[test]
fn the_command_shows_and_clears_what_is_at_the_store() {
    let (_shared, directory) = shared();
    let place = Place::new();
    let daemon = start(&place, &settings(&directory));
    in_service(&daemon);
    let mut cache = Cache::open(&daemon, "");
    store_durably(&mut cache, &daemon, 0..2);
    end(daemon, Signal::TERM);
    let ask = |arguments: &[&str], capacity: &str| -> serde_json::Value {
        let mut command = place.kvtier(&[&["remote"], arguments, &["--json"]].concat());
        command.env("KVTIER_REMOTE_KIND", "mount");
        command.env("KVTIER_REMOTE_DIRECTORY", &directory);
        command.env("KVTIER_REMOTE_CAPACITY", capacity);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let blocks = u64::from(2 * CHAIN);
    let found = ask(&["ls"], "none");
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(
        (&found[0]["tenant"], &found[0]["model"]),
        (&"default".into(), &"m".into())
    );
    assert_eq!(ask(&["du"], "none")[0]["blocks"], blocks);
    let kept = ask(&["gc", "--dry-run"], "none");
    assert_eq!(
        (&kept[0]["blocks"], &kept[0]["removed"]),
        (&blocks.into(), &0.into())
    );
    // Sixteen blocks of 64 KiB with their headers are more than a mebibyte.
    let planned = ask(&["gc", "--dry-run"], "1MiB")[0]["removed"].as_u64().unwrap();
    // They are of one age, and what is of one age goes together.
    assert!(planned > 0 && planned <= blocks, "{planned}");
    assert_eq!(
        objects(&directory).len() as u64,
        blocks,
        "nothing has been removed"
    );
    assert_eq!(ask(&["gc"], "1MiB")[0]["removed"], planned);
    assert_eq!(objects(&directory).len() as u64, blocks - planned);
    let (code, said) = run(&mut place.kvtier(&["remote", "ls"]));
    assert_eq!(code, 64, "{said}");
    assert!(said.contains("there is no remote tier"), "{said}");
}

/// One namespace whose object is no file used to be the end of each of these commands.
#[test]
fn the_command_names_a_namespace_that_cannot_be_read_and_shows_the_others() {
    let (_shared, directory) = shared();
    let place = Place::new();
    let daemon = start(&place, &settings(&directory));
    in_service(&daemon);
    let mut cache = Cache::open(&daemon, "");
    store_durably(&mut cache, &daemon, 0..2);
    end(daemon, Signal::TERM);
    let odd = "0123456789abcdef0123456789abcdef";
    let object = directory.join(format!("kvtier/default/v1/{odd}/namespace"));
    std::fs::create_dir_all(object).unwrap();
    for (arguments, expected) in [
        (&["ls"][..], 1),
        (&["du"], 1),
        (&["gc", "--dry-run"], 0),
        (&["gc"], 0),
    ] {
        let mut command = place.kvtier(&[&["remote"], arguments, &["--json"]].concat());
        command.env("KVTIER_REMOTE_KIND", "mount");
        command.env("KVTIER_REMOTE_DIRECTORY", &directory);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(expected), "{arguments:?}: {said}");
        assert!(
            said.contains(odd) && said.contains("not a regular file"),
            "{said}"
        );
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let counted = if arguments == ["gc"] { 1 } else { 2 };
        assert_eq!(shown.as_array().unwrap().len(), counted, "{arguments:?}: {shown}");
    }
}

/// `kvtier remote gc` at a directory: its exit code and what it said.
fn gc(place: &Place, directory: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = place.kvtier(&[&["remote", "gc"], arguments].concat());
    command.env("KVTIER_REMOTE_KIND", "mount");
    command.env("KVTIER_REMOTE_DIRECTORY", directory);
    run(&mut command)
}

fn sweeps(daemon: &Daemon) {
    eventually("it sweeps", || {
        (daemon.status()["remote"]["sweep"]["holder"] == true).then_some(())
    });
}

/// `kvtier remote gc` used to say that somebody has the lease, each time, for ever: also when that node was dead.
#[test]
fn a_dead_nodes_lease_is_named_and_taken_over_when_it_has_expired() {
    let (_shared, directory) = shared();
    let place = Place::new();
    let mut settings = settings(&directory);
    settings.push(("KVTIER_REMOTE_SWEEP_EVERY", "10s".to_owned()));
    let daemon = start(&place, &settings);
    sweeps(&daemon);
    let node = daemon.status()["remote"]["node"].as_str().unwrap().to_owned();
    let (code, said) = gc(&place, &directory, &["--wait", "1"]);
    assert_eq!(code, 3, "{said}");
    for expected in [
        &format!("node {node}, this machine"),
        "was renewed",
        "can be taken over in",
    ] {
        assert!(said.contains(expected), "{said}");
    }
    end(daemon, Signal::KILL);
    assert_eq!(gc(&place, &directory, &[]).0, 3, "it may be alive");
    // Time passes.
    let leases = directory.join("kvtier/default/v1").read_dir().unwrap();
    let lease = leases.map(|entry| entry.unwrap().path()).filter(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("sweeper.")
    });
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_mins(5);
    let last = std::fs::File::options()
        .write(true)
        .open(lease.max().unwrap())
        .unwrap();
    last.set_modified(long_ago).unwrap();
    for _ in 0..2 {
        let (code, said) = gc(&place, &directory, &[]);
        assert_eq!(
            code, 0,
            "neither the dead node's lease nor the command's own is in the way: {said}"
        );
    }
    let daemon = start(&place, &settings);
    sweeps(&daemon);
    end(daemon, Signal::TERM);
    let (code, said) = gc(&place, &directory, &[]);
    assert_eq!(
        code, 0,
        "a daemon that ends in good order gives the lease back: {said}"
    );
}

#[test]
fn a_bound_that_is_set_while_the_daemon_runs_holds_for_its_next_sweep() {
    let (_shared, directory) = shared();
    let place = Place::new();
    let mut settings = settings(&directory);
    settings.push(("KVTIER_REMOTE_SWEEP_EVERY", "10s".to_owned()));
    let daemon = start(&place, &settings);
    in_service(&daemon);
    let mut cache = Cache::open(&daemon, "");
    // Sixteen blocks of 64 KiB with their headers are more than a mebibyte.
    store_durably(&mut cache, &daemon, 0..2);
    let blocks = 2 * CHAIN as usize;
    sweeps(&daemon);
    assert_eq!(objects(&directory).len(), blocks);
    let said = shown(&place, &["set", "remote.capacity=1MiB"]);
    assert!(said.contains("leave at most 1MiB of blocks"), "{said}");
    eventually("the next sweep removes some", || {
        (objects(&directory).len() < blocks).then_some(())
    });
    let (code, said) = refused(&place, &["set", "remote.directory=/elsewhere"]);
    assert!(
        code == 64 && said.contains("cannot change while the daemon runs"),
        "{code} {said}"
    );
    end(daemon, Signal::TERM);
}

#[test]
fn a_command_that_waits_for_a_lease_ends_when_it_is_told_to() {
    let (_shared, directory) = shared();
    let place = Place::new();
    let mut settings = settings(&directory);
    settings.push(("KVTIER_REMOTE_SWEEP_EVERY", "10s".to_owned()));
    let daemon = start(&place, &settings);
    sweeps(&daemon);
    let mut command = place.kvtier(&["remote", "gc", "--wait", "1h"]);
    command.env("KVTIER_REMOTE_KIND", "mount");
    command.env("KVTIER_REMOTE_DIRECTORY", &directory);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    eventually("it listens for signals", || {
        let text = std::fs::read_to_string(&status).unwrap();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
        let caught = u64::from_str_radix(caught.trim(), 16).unwrap();
        (caught & (1 << 1) != 0).then_some(())
    });
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    end(daemon, Signal::TERM);
}

#[test]
fn credentials_are_looked_for_before_anything_else() {
    let place = Place::new();
    let with = |mut command: std::process::Command, source: &str| {
        command
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY")
            .env("KVTIER_REMOTE_KIND", "s3")
            .env("KVTIER_REMOTE_BUCKET", "b")
            .env("KVTIER_REMOTE_CREDENTIALS", source);
        if source == "file" {
            command.env("KVTIER_REMOTE_CREDENTIALS_FILE", place.path("nothing"));
        }
        run(&mut command)
    };
    for (source, expected) in [
        (
            "environment",
            "remote.credentials: want credentials by \"environment\": AWS_ACCESS_KEY_ID is not set",
        ),
        ("file", "remote.credentials-file: credentials file"),
    ] {
        for command in [place.kvtier(&["check-config"]), place.command()] {
            let (code, said) = with(command, source);
            assert_eq!(code, 64, "{said}");
            assert!(said.contains(expected), "{said}");
            assert!(!said.contains("memory of tenant"), "nothing was taken: {said}");
        }
        let (code, said) = with(place.kvtier(&["check-config", "--elsewhere"]), source);
        assert_eq!(code, 0, "{said}");
    }
    assert_eq!(with(place.kvtier(&["check-config"]), "identity").0, 0);
}

/// A small image has none, and no client for a bucket can be made then.
#[test]
fn a_machine_without_certificates_of_authorities_is_told_so() {
    let place = Place::new();
    let nothing = place.path("nothing.pem");
    std::fs::write(&nothing, "").unwrap();
    for endpoint in ["http://127.0.0.1:1", "https://127.0.0.1:1"] {
        let (code, said) = run(place
            .kvtier(&["check-config"])
            .env("SSL_CERT_FILE", &nothing)
            .env("SSL_CERT_DIR", place.path("no-directory"))
            .env("KVTIER_REMOTE_KIND", "s3")
            .env("KVTIER_REMOTE_BUCKET", "b")
            .env("KVTIER_REMOTE_ENDPOINT", endpoint)
            .env("KVTIER_REMOTE_CREDENTIALS", "anonymous"));
        assert_eq!(code, 64, "{said}");
        assert!(said.contains("has no certificates of authorities"), "{said}");
        assert!(said.contains("set remote.ca-file"), "{said}");
    }
}

#[test]
fn what_is_wrong_with_the_settings_is_said_all_at_once() {
    let place = Place::new();
    let (code, said) = run(place
        .command()
        .env("KVTIER_REMOTE_KIND", "mount")
        .env("KVTIER_REMOTE_BUCKET", "b")
        .env("KVTIER_REMOTE_PREFIX", "../up")
        .env("KVTIER_REMOTE_ENDPOINT", "https://user:secret@host"));
    assert_eq!(code, 64, "{said}");
    for expected in ["KVTIER_REMOTE_PREFIX", "KVTIER_REMOTE_ENDPOINT"] {
        assert!(said.contains(expected), "{said}");
    }
    assert!(!said.contains("secret"), "{said}");
    let (code, said) = run(place
        .command()
        .env("KVTIER_REMOTE_KIND", "mount")
        .env("KVTIER_REMOTE_BUCKET", "b"));
    assert_eq!(code, 64, "{said}");
    assert!(said.contains("remote.directory: want the directory"), "{said}");
    assert!(
        said.contains("remote.bucket: want remote.kind = \"s3\""),
        "{said}"
    );
}
