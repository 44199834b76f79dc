//! The two commands as a person types them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::process::{Command, Output};

use support::Place;
use support::command::{json, refused, shown};

fn kvtier(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvtier"));
    command
        .args(arguments)
        .env_remove("KVTIER_SOCKET")
        .env_remove("KVTIER_ADMIN_SOCKET")
        .output()
        .unwrap()
}

fn said(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn check_config_answers_by_its_exit_code_and_names_all_problems() {
    let place = Place::new();
    let file = place.path("kvtierd.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "[host]\ncapacity = \"2GiB\"").unwrap();
    let good = kvtier(&["check-config", path]);
    assert_eq!(
        (good.status.code(), said(&good.stdout).as_str()),
        (Some(0), "ok\n")
    );
    std::fs::write(&file, "[host]\ncapacity = 5\npolicy = \"random\"").unwrap();
    let bad = kvtier(&["check-config", path]);
    assert_eq!(bad.status.code(), Some(64));
    let lines = said(&bad.stderr);
    assert!(
        lines.contains("host.capacity: want") && lines.contains("host.policy: want"),
        "{lines}"
    );
    let missing = kvtier(&["check-config", "/nowhere/kvtierd.toml"]);
    assert_eq!(missing.status.code(), Some(64));
    assert!(said(&missing.stderr).starts_with("/nowhere/kvtierd.toml: could not be read"));
}

#[test]
fn the_printed_defaults_are_a_sound_file() {
    let place = Place::new();
    let printed = kvtier(&["check-config", "--print-default"]);
    assert!(printed.status.success());
    let file = place.path("kvtierd.toml");
    std::fs::write(&file, &printed.stdout).unwrap();
    let checked = kvtier(&["check-config", file.to_str().unwrap()]);
    assert!(checked.status.success(), "{}", said(&checked.stderr));
}

#[test]
fn help_lists_every_key_and_exit_code() {
    let output = Command::new(env!("CARGO_BIN_EXE_kvtierd"))
        .arg("--help")
        .output()
        .unwrap();
    assert!(output.status.success());
    let help = said(&output.stdout);
    for key in kvstore::config::KEYS {
        assert!(
            help.contains(key.name) && help.contains(&key.variable()),
            "{}",
            key.name
        );
    }
    assert!(help.contains("73  "), "{help}");
}

#[test]
fn a_bad_command_line_exits_as_a_bad_configuration_does() {
    let output = Command::new(env!("CARGO_BIN_EXE_kvtierd"))
        .arg("--nonsense")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(kvtier(&["nonsense"]).status.code(), Some(64));
}

/// A pipe that was closed, or a disk that was full, ended the command with a panic.
#[test]
fn what_cannot_be_written_is_no_panic() {
    let place = Place::new();
    let _daemon = place.start();
    let socket = place.admin_socket();
    let socket = socket.to_str().unwrap();
    let cases: [&[&str]; 7] = [
        &["status", "--socket", socket],
        &["status", "--json", "--socket", socket],
        &["sessions", "--json", "--socket", socket],
        &["completions", "bash"],
        &["check-config", "--print-default"],
        &["check-config"],
        &["--help"],
    ];
    for arguments in cases {
        let with = |stdout: std::process::Stdio| {
            Command::new(env!("CARGO_BIN_EXE_kvtier"))
                .args(arguments)
                .stdout(stdout)
                .stderr(std::process::Stdio::piped())
                .output()
                .unwrap()
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let gone = with(writer.into());
        assert_eq!(
            gone.status.code(),
            Some(0),
            "{arguments:?}: {}",
            said(&gone.stderr)
        );
        assert_eq!(said(&gone.stderr), "");
        let full = with(std::fs::File::create("/dev/full").unwrap().into());
        assert_eq!(full.status.code(), Some(71), "{arguments:?}");
        assert!(said(&full.stderr).starts_with("could not write to standard output"));
    }
}

#[test]
fn status_is_a_table_for_people_and_json_for_machines() {
    let place = Place::new();
    let daemon = place.start();
    let socket = place.admin_socket();
    let socket = socket.to_str().unwrap();
    let table = said(&kvtier(&["status", "--socket", socket]).stdout);
    // One screen, and no zeros on it.
    assert!(
        table.lines().count() < 24 && !table.contains("slots_resident"),
        "{table}"
    );
    assert!(
        table.contains("default  host ") && table.contains("0 sessions of 0 engines"),
        "{table}"
    );
    let all = said(&kvtier(&["status", "--all", "--socket", socket]).stdout);
    assert!(
        all.contains("slots_resident") && all.contains("lookups") && all.contains("nvme_written "),
        "{all}"
    );
    assert!(table.starts_with(&format!(
        "kvtierd {}  pid {}  up ",
        env!("CARGO_PKG_VERSION"),
        daemon.pid()
    )));
    let json = kvtier(&["status", "--json", "--socket", socket]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    // Whoever asks over the admin socket takes no session.
    assert_eq!(value["tenants"][0]["occupancy"]["sessions"], 0);
    assert_eq!(value["ready"], true);
}

#[test]
fn the_daemons_socket_tells_where_its_admin_socket_is() {
    let place = Place::new();
    let _daemon = place.start();
    let found = Command::new(env!("CARGO_BIN_EXE_kvtier"))
        .arg("status")
        .env("KVTIER_SOCKET", place.socket())
        .env_remove("KVTIER_ADMIN_SOCKET")
        .output()
        .unwrap();
    assert_eq!(found.status.code(), Some(0), "{}", said(&found.stderr));
}

#[test]
fn status_without_a_daemon_says_where_it_looked() {
    let output = kvtier(&["status", "--socket", "/nowhere/kvtier-admin.sock"]);
    assert_eq!(output.status.code(), Some(1));
    let text = said(&output.stderr);
    assert!(
        text.starts_with("/nowhere/kvtier-admin.sock: no daemon at the socket; start kvtierd"),
        "{text}"
    );
}

#[test]
fn a_command_that_makes_no_sense_is_refused_before_anybody_is_asked() {
    let cases: [(&[&str], &str); 6] = [
        (&["set", "nvme.capacity"], "want KEY=VALUE"),
        (&["set"], "required"),
        (&["evict"], "required"),
        (&["evict", "--all", "--namespace", "ab"], "cannot be used with"),
        (
            &["evict", "--all", "--tier", "gpu"],
            "possible values: host, nvme",
        ),
        (&["status", "--timeout", "5"], "want a duration"),
    ];
    for (arguments, expected) in cases {
        let output = kvtier(arguments);
        let text = said(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {text}");
        assert!(text.contains(expected), "{arguments:?}: {text}");
    }
}

#[test]
fn completions_and_manual_pages_name_every_subcommand() {
    let place = Place::new();
    let names = [
        "status",
        "tiers",
        "devices",
        "namespaces",
        "sessions",
        "lookup",
        "set",
        "evict",
        "drain",
        "fsck",
    ];
    for shell in ["bash", "zsh", "fish"] {
        let script = said(&kvtier(&["completions", shell]).stdout);
        assert!(names.iter().all(|name| script.contains(name)), "{shell}");
    }
    let directory = place.path("man");
    let output = kvtier(&["man", directory.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output.stderr));
    for name in names {
        let page = std::fs::read_to_string(directory.join(format!("kvtier-{name}.1"))).unwrap();
        assert!(page.contains(".TH"), "{name}");
    }
    let page = std::fs::read_to_string(directory.join("kvtierd.1")).unwrap();
    assert!(page.contains("host.capacity"));
}

#[test]
fn a_plan_needs_no_daemon_and_tells_sizes() {
    let place = Place::new();
    let trace = place.path("trace.jsonl");
    // Two prompts of three blocks by turns: six blocks hold both.
    let line = |turn: u32| {
        let first = turn % 2 * 10;
        format!("{{\"hash_ids\": [{first}, {}, {}]}}\n", first + 1, first + 2)
    };
    let lines: Vec<String> = (0..10).map(line).collect();
    std::fs::write(&trace, lines.concat()).unwrap();
    let picture = place.path("plan.svg");
    let (trace, picture) = (trace.to_str().unwrap(), picture.to_str().unwrap());
    let shape = ["--bytes-per-token", "1024", "--tokens-per-block", "1024"];
    let mut arguments = vec!["plan", "--trace", trace, "--svg", picture, "--gpu-memory", "3MiB"];
    arguments.extend(shape);
    let plan = json(&place, &arguments);
    assert_eq!(
        (&plan["block_bytes"], &plan["distinct_blocks"]),
        (&(1 << 20).into(), &6.into())
    );
    assert_eq!(plan["hit_ratio_most"], 0.8);
    let point = |bytes: u64| {
        let points = plan["points"].as_array().unwrap();
        points.iter().find(|point| point["bytes"] == bytes).unwrap()["hit_ratio"].clone()
    };
    assert_eq!((point(2 << 20), point(8 << 20)), (0.0.into(), 0.8.into()));
    assert_eq!(plan["goals"][3]["bytes"], 6 << 20);
    assert!(std::fs::read_to_string(picture).unwrap().contains("<polyline"));
    let text = shown(&place, &arguments);
    assert!(
        text.contains("100.0% of what can be hit needs 6MiB and hits 80.0%"),
        "{text}"
    );
    let (code, error) = refused(&place, &["plan", "--trace", "/nowhere"]);
    assert!(code == 64 && error.contains("/nowhere: "), "{error}");
    let (code, error) = refused(&place, &["plan", "--trace", trace, "--turns", "3"]);
    assert!(code == 64 && error.contains("cannot be used with"), "{error}");
}
