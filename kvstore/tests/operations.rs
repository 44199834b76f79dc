//! What somebody meets who runs the daemon: commands that say which socket is which, configurations that name their lines, limits
//! and directories that are noticed in time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use support::command::{json, kvtier, refused, shown, with_nvme};
use support::{Place, eventually, run};

/// A file system of its own, smaller than what is configured. Only root can mount it.
struct Disk<'a>(&'a Place);

impl<'a> Disk<'a> {
    fn mount(place: &'a Place) -> Option<Self> {
        std::fs::create_dir(place.path("disk")).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=160m", "tmpfs"])
            .arg(place.path("disk"))
            .output();
        let is_mounted = mounted.is_ok_and(|output| output.status.success());
        if !is_mounted {
            eprintln!("SKIPPED: only root can mount the file system that this test needs");
        }
        is_mounted.then_some(Self(place))
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path("disk")).output();
    }
}

/// `kvtier status` used to print 150 lines, most of them zeros; and what the file system had no room for was shown as if it were there.
#[test]
fn status_is_one_screen_and_says_what_is_wrong() {
    let place = Place::new();
    let Some(disk) = Disk::mount(&place) else {
        return;
    };
    let directory = place.path("disk/nvme").display().to_string();
    let daemon = place.start_with(&[
        ("KVTIER_NVME_DIRECTORIES", &directory),
        ("KVTIER_NVME_CAPACITY", "1GiB"),
    ]);
    // It makes segments until there is no room for another. Room is looked at less often than segments are made, so the sum of both
    // can be too much for a while: one answer is looked at.
    let device = eventually("the file system has said what it allows", || {
        let device = json(&place, &["devices"])["devices"][0].take();
        let usable = device["usable_bytes"].as_u64();
        usable.is_some_and(|usable| usable < 160 << 20).then_some(device)
    });
    let capacity = device["capacity_bytes"].as_u64().unwrap();
    assert!(capacity > 900 << 20, "{device}");
    let text = shown(&place, &["status"]);
    assert!(text.lines().count() < 24, "{text}");
    assert!(text.contains("(the file system allows "), "{text}");
    assert!(shown(&place, &["devices"]).contains("of which the file system allows "));
    let tier = &json(&place, &["tiers"])["tiers"][1];
    assert_eq!(tier["capacity_bytes"], capacity);
    assert!(tier["usable_bytes"].as_u64().unwrap() < capacity);
    // Everything is still to be had.
    let all = shown(&place, &["status", "--all"]);
    assert!(all.lines().count() > 100 && all.contains("cut_offs"), "{all}");
    drop(daemon);
    drop(disk);
}

/// It used to be called an `h2 protocol error`.
#[test]
fn the_socket_of_engines_is_told_from_that_of_administrators() {
    let place = Place::new();
    let _daemon = place.start();
    let (engines, admin) = (place.socket(), place.admin_socket());
    for words in [
        &["status"] as &[&str],
        &["tiers"],
        &["sessions"],
        &["events"],
        &["drain"],
    ] {
        let mut words = words.to_vec();
        words.extend(["--socket", engines.to_str().unwrap()]);
        let (code, error) = refused(&place, &words);
        assert_eq!(code, 1, "{error}");
        let expected = format!(
            "{}: what answers there does not speak the admin API and looks like the socket of engines (socket): the admin API is at \
             {} (admin.socket)\n",
            engines.display(),
            admin.display()
        );
        assert_eq!(error, expected, "{words:?}");
    }
}

/// One variable was a setting of the daemon and the command's at the same time.
#[test]
fn who_named_the_socket_is_told_and_the_commands_own_variable_comes_first() {
    let place = Place::new();
    let daemon = place.start_with(&[("KVTIER_CLI_SOCKET", "/nowhere")]);
    assert!(!daemon.log().contains("KVTIER_CLI_SOCKET"), "{}", daemon.log());
    let call = |variables: &[(&str, &Path)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvtier"));
        command
            .arg("tiers")
            .env_remove("KVTIER_ADMIN_SOCKET")
            .env("KVTIER_SOCKET", place.socket())
            .envs(variables.iter().copied());
        run(&mut command)
    };
    let (nowhere, admin) = (Path::new("/nowhere/a.sock"), place.admin_socket());
    assert_eq!(call(&[]).0, 0);
    assert_eq!(call(&[("KVTIER_ADMIN_SOCKET", Path::new("auto"))]).0, 0);
    assert_eq!(
        call(&[("KVTIER_ADMIN_SOCKET", nowhere), ("KVTIER_CLI_SOCKET", &admin)]).0,
        0
    );
    for name in ["KVTIER_ADMIN_SOCKET", "KVTIER_CLI_SOCKET"] {
        let (code, error) = call(&[(name, nowhere)]);
        assert_eq!(code, 1);
        assert!(
            error.starts_with(&format!("/nowhere/a.sock ({name}): no daemon at the socket")),
            "{error}"
        );
    }
}

/// As somebody who is neither root nor the daemon's user; only root can become that.
fn as_stranger(place: &Place, arguments: &[&str]) -> Option<(i32, String)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let program = place.copy_of(env!("CARGO_BIN_EXE_kvtier").as_ref());
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("KVTIER_ADMIN_SOCKET", place.admin_socket())
        .uid(65_534)
        .gid(65_534);
    Some(run(&mut command))
}

/// It was 1 in some commands and 77 in others, and `fsck` took what it may not see for missing.
#[test]
fn who_may_not_has_one_exit_code() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    for words in [
        &["status"] as &[&str],
        &["top", "--json"],
        &["events"],
        &["set", "log.level=info"],
    ] {
        let Some((code, error)) = as_stranger(&place, words) else {
            return;
        };
        assert_eq!(code, 77, "{words:?}: {error}");
        assert!(error.contains("this user may not connect"), "{error}");
    }
    drop(daemon);
    let directory = place.path("nvme");
    for path in [directory.clone(), directory.join("default")] {
        std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)).unwrap();
        let (code, error) = as_stranger(&place, &["fsck", path.to_str().unwrap()]).unwrap();
        assert_eq!(code, 77, "{error}");
        assert!(
            error.contains("Permission denied") || error.contains("permission denied"),
            "{error}"
        );
        assert!(!error.contains("missing"), "{error}");
    }
}

/// Problems used to be told without where they stand, and a size without quotes as a mistake in TOML only.
#[test]
fn problems_of_a_file_name_its_lines() {
    let place = Place::new();
    let file = place.path("kvtierd.toml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let (code, said) = run(Command::new(env!("CARGO_BIN_EXE_kvtier"))
            .arg("check-config")
            .arg(&file));
        assert_eq!(code, 64, "{said}");
        said.replace(&file.display().to_string(), "FILE")
    };
    let said = check("[host]\n# how much\ncapacity = 64\n\n[nvme]\ndepht = 3\n[tenant.a]\nuids = []\n");
    assert_eq!(
        said,
        "FILE:6: nvme.depht: no such key; did you mean nvme.depth?\n\
         FILE:3: host.capacity: want a size from 8MiB to 3TiB such as \"64GiB\", got 64, which has no unit\n\
         FILE:8: tenant.a.uids: want at least one uid or gid, or nobody could attach\n"
    );
    let said = check("[host]\ncapacity = 64GiB\n");
    assert_eq!(
        said,
        "FILE:2: want a value with a unit in quotes: capacity = \"64GiB\"\n"
    );
    let said = check("[host]\ncapacity \"64GiB\"\n");
    assert!(
        said.starts_with("FILE:2: ") && said.ends_with(", in: capacity \"64GiB\"\n"),
        "{said}"
    );
}

/// The library of the catalogue aborts where it is refused memory.
#[test]
fn a_limit_on_what_is_mapped_or_allocated_is_told() {
    let place = Place::new();
    let daemon = place.command();
    for (limit, name) in [("-v 600000", "RLIMIT_AS"), ("-d 60000", "RLIMIT_DATA")] {
        let mut command = Command::new("sh");
        for (name, value) in daemon.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
            .env("KVTIER_NVME_DIRECTORIES", place.path("nvme"))
            .env("KVTIER_NVME_CAPACITY", "128MiB")
            .arg("-c")
            .arg(format!("ulimit {limit}; exec \"$0\""))
            .arg(daemon.get_program());
        let (code, said) = run(&mut command);
        assert_eq!(code, 78, "{said}");
        assert!(
            said.contains(&format!("{name} allows ")) && !place.path("run").exists(),
            "{said}"
        );
    }
}

/// Files that were removed could be read and written as long as they were open, so that everything seemed well until the next start.
#[test]
fn a_directory_that_is_removed_under_the_daemon_goes_out_of_service() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    eventually("the device serves", || {
        (json(&place, &["devices"])["devices"][0]["state"] == "serving").then_some(())
    });
    // A segment may be made at the same moment.
    eventually("the directory is gone", || {
        std::fs::remove_dir_all(place.path("nvme")).ok()
    });
    daemon.says("its files were removed while the daemon ran");
    let device = &json(&place, &["devices"])["devices"][0];
    assert_eq!(
        (&device["state"], &device["usable_bytes"]),
        (&"lost".into(), &0.into())
    );
    assert!(shown(&place, &["status"]).contains("lost: its files were removed"));
    assert_eq!(json(&place, &["tiers"])["tiers"][0]["state"], "serving");
    eventually("its space is free", || {
        let (files, blocks) = removed_segments(daemon.pid());
        (files > 0 && blocks == 0).then_some(())
    });
}

/// Segments without a name that a process has open, and the blocks of the disk that all of them take.
fn removed_segments(pid: u32) -> (usize, u64) {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let removed = open.filter(|entry| {
        let file = std::fs::read_link(entry.path()).unwrap_or_default();
        let file = file.to_string_lossy();
        file.contains("/segment-") && file.ends_with(" (deleted)")
    });
    let blocks = removed.map(|entry| std::fs::metadata(entry.path()).map_or(0, |found| found.blocks()));
    blocks.fold((0, 0), |(files, all), blocks| (files + 1, all + blocks))
}

/// All memory used to be taken before it turned out that the directory was another daemon's.
#[test]
fn a_directory_of_another_daemon_ends_the_start_before_memory_is_taken() {
    let place = Place::new();
    let other = Place::new();
    let _daemon = with_nvme(&place);
    let mut command = other.command();
    command
        .env("KVTIER_NVME_DIRECTORIES", place.path("nvme"))
        .env("KVTIER_NVME_CAPACITY", "128MiB");
    let (code, said) = run(&mut command);
    assert_eq!(code, 73, "{said}");
    assert!(
        said.contains("is in use by process") && !said.contains("memory taken"),
        "{said}"
    );
}

/// Right after a kill the socket's lock is still held for as long as the region takes to be freed.
#[test]
fn a_daemon_is_started_again_right_after_a_kill() {
    let place = Place::new();
    for _ in 0..3 {
        let daemon = with_nvme(&place);
        daemon.signal(Signal::KILL);
        // Not waited for: that is what a supervisor in another container does not do either.
        std::mem::forget(daemon);
    }
    drop(place.start());
}

/// The unit runs as a user of its own, whose daemon used to listen in its private `/tmp`.
#[test]
fn a_service_listens_in_the_directory_that_it_was_given() {
    let place = Place::new();
    let mut command = place.command();
    command
        .env_remove("KVTIER_SOCKET")
        .env("RUNTIME_DIRECTORY", place.path("run"))
        .stderr(std::process::Stdio::null());
    let mut child = command.spawn().unwrap();
    eventually("it serves", || {
        kvtier(&place, &["status"]).1.contains("  ready").then_some(())
    });
    assert!(place.socket().exists());
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_configuration_that_did_not_change_says_so() {
    let place = Place::new();
    let daemon = place.start();
    daemon.signal(Signal::HUP);
    daemon.says("the configuration was read again: nothing changed");
    shown(&place, &["set", "nvme.admission=second-touch"]);
    daemon.signal(Signal::HUP);
    daemon.says("changed=\"nvme.admission: second-touch -> all\"");
    let log = daemon.log();
    let audit = log
        .lines()
        .find(|line| line.contains("audit: a setting"))
        .unwrap();
    assert!(
        audit.contains("before=\"all\" after=\"second-touch\"") && !audit.contains('\\'),
        "{audit}"
    );
}

/// "No daemon … shutting down" was told of one that is there and takes no stores.
#[test]
fn who_comes_while_the_daemon_drains_hears_that() {
    let place = Place::new();
    let daemon = place.start();
    let (code, _, error) = kvtier(&place, &["drain"]);
    assert_eq!(code, 0, "{error}");
    let error = kvstore::status::fetch(daemon.socket(), "")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("the daemon is draining: it lets no more clients in"),
        "{error}"
    );
    assert!(shown(&place, &["status"]).contains("takes no stores until it is started again"));
}
