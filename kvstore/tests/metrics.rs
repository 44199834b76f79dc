//! `/metrics`, `/healthz` and `/readyz` of a real daemon.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]
#![allow(clippy::float_cmp, reason = "what is counted is exact")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use connector_shm::Request;
use rustix::process::Signal;
use support::blocks::{CHAIN, Cache};
use support::client::Pair;
use support::http::get;
use support::{Daemon, Place, eventually, run};

/// A daemon that serves metrics, and where.
fn start(place: &Place, more: &[(&str, &str)]) -> (Daemon, SocketAddr) {
    let mut variables = vec![("KVTIER_METRICS_LISTEN", "127.0.0.1:0")];
    variables.extend(more);
    let daemon = place.start_with(&variables);
    let address = support::http::address(&daemon);
    (daemon, address)
}

#[test]
fn connections_that_are_left_alone_keep_nobody_out() {
    let place = Place::new();
    let (_daemon, address) = start(&place, &[]);
    let ask_all = "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n".repeat(200);
    // Nothing, half a request, one and then no more, and many whose answers nobody reads.
    for said in [
        "",
        "GET /hea",
        "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
        &ask_all,
    ] {
        let open = |_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_nonblocking(true).unwrap();
            let _ = stream.write(said.as_bytes());
            stream
        };
        let streams: Vec<_> = (0..40).map(open).collect();
        assert_eq!(get(address, "/healthz", "").0, 200);
        // Those that had to go did so for others to come, and not because their time was over.
        let is_open = |stream: &&TcpStream| {
            let peeked = stream.peek(&mut [0]);
            peeked.map_or_else(|error| error.kind() == ErrorKind::WouldBlock, |bytes| bytes > 0)
        };
        let open = streams.iter().filter(is_open).count();
        assert!(open >= 31, "{open} are open");
    }
}

/// Samples by name and labels.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

const OPEN_METRICS: &str = "accept: application/openmetrics-text; version=1.0.0\r\n";

/// What a scraper would stumble over: unknown lines, families that come twice, samples of another family, counters without
/// their suffix, text without an end.
fn check_open_metrics(text: &str) -> BTreeSet<String> {
    let mut families = BTreeSet::new();
    let mut current = (String::new(), String::new());
    assert!(text.ends_with("# EOF\n"));
    for line in text.lines().take_while(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.ends_with('.') && families.insert(name.to_owned()), "{line}");
            name.clone_into(&mut current.0);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current.0, "{line}");
            assert!(!name.ends_with("_total") && !name.ends_with("_info"), "{line}");
            kind.clone_into(&mut current.1);
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').unwrap();
            assert!(name == current.0 && name.ends_with(unit), "{line}");
        } else {
            let name = line.split(['{', ' ']).next().unwrap();
            let suffix = name
                .strip_prefix(current.0.as_str())
                .unwrap_or_else(|| panic!("{line}"));
            let expected: &[&str] = match current.1.as_str() {
                "counter" => &["_total"],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(expected.contains(&suffix), "{line}");
        }
    }
    families
}

#[test]
fn metrics_show_what_happened() {
    let place = Place::new();
    let directory = place.path("nvme").display().to_string();
    let (daemon, address) = start(
        &place,
        &[
            ("KVTIER_NVME_DIRECTORIES", &directory),
            ("KVTIER_NVME_CAPACITY", "128MiB"),
            ("KVTIER_NVME_PROMOTION_DEADLINE", "30s"),
            ("KVTIER_HOST_CAPACITY", "8MiB"),
        ],
    );
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..40);
    assert_eq!(cache.load_all(0..40), 40 * CHAIN);
    assert_eq!(cache.load(99), 0);
    let (status, text) = get(address, "/metrics", OPEN_METRICS);
    assert_eq!(status, 200);
    check_open_metrics(&text);
    let values = samples(&text);
    let value = |name: &str| {
        values
            .get(name)
            .copied()
            .unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    let blocks = f64::from(40 * CHAIN);
    assert_eq!(
        value(r#"kvtier_tier_blocks{tenant="default",tier="nvme"}"#),
        blocks
    );
    assert_eq!(
        value(r#"kvtier_published_blocks_total{tenant="default"}"#),
        blocks
    );
    assert_eq!(
        value(r#"kvtier_lookups_total{tenant="default",outcome="hit"}"#),
        40.0
    );
    assert_eq!(
        value(r#"kvtier_lookups_total{tenant="default",outcome="miss"}"#),
        1.0
    );
    let hits = |tier: &str| {
        value(&format!(
            r#"kvtier_hit_blocks_total{{tenant="default",tier="{tier}"}}"#
        ))
    };
    assert!(hits("nvme") > 0.0);
    assert_eq!(hits("nvme") + hits("host"), blocks);
    let waits = value(r#"kvtier_lookup_wait_seconds_count{tenant="default"}"#);
    let direct = value(r#"kvtier_lookup_seconds_count{tenant="default"}"#);
    assert_eq!(waits + direct, 41.0);
    assert!(
        value(r#"kvtier_nvme_operation_seconds_count{tenant="default",device="0",kind="write"}"#) >= blocks
    );
    assert_eq!(
        value(r#"kvtier_nvme_device_state{tenant="default",device="0",state="serving"}"#),
        1.0
    );
    let of_namespace = |name: &str| {
        let mut found = values.iter().filter(|(series, _)| series.starts_with(name));
        *found.next().unwrap().1
    };
    assert_eq!(of_namespace("kvtier_namespace_published_blocks_total{"), blocks);
    assert!(text.contains(r#",model="m"} 1"#));
    let group = "01".repeat(16);
    let engine = format!(r#"kvtier_engine_sessions{{tenant="default",engine_group="{group}"}}"#);
    assert_eq!(value(&engine), 2.0);
    // Those who do not ask for OpenMetrics get the older format.
    let (_, text) = get(address, "/metrics", "");
    assert!(text.contains("# TYPE kvtier_published_blocks_total counter") && !text.contains("# EOF"));
}

/// Prometheus' own tool, if there is one: `KVTIER_PROMTOOL`, where scripts/chart.sh puts it, or on the path.
fn promtool() -> Option<PathBuf> {
    let named = std::env::var_os("KVTIER_PROMTOOL").map(PathBuf::from);
    let cache = std::env::var_os("KVTIER_CACHE").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/kvtier"));
    let made = cache.or(home).map(|cache| cache.join("bin/promtool"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|place| place.join("promtool"));
    let mut places = named.into_iter().chain(made).chain(on_path);
    places.find(|place| place.is_file())
}

#[test]
fn prometheus_own_tool_has_nothing_to_say() {
    let Some(promtool) = promtool() else {
        // Past what the test harness would swallow.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: metrics were not checked with promtool: there is none (scripts/chart.sh brings it)"
        );
        return;
    };
    let place = Place::new();
    let directory = place.path("nvme").display().to_string();
    let (daemon, address) = start(
        &place,
        &[
            ("KVTIER_NVME_DIRECTORIES", &directory),
            ("KVTIER_NVME_CAPACITY", "128MiB"),
            ("KVTIER_EVENTS_WATCH", "on"),
        ],
    );
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..4);
    cache.load_all(0..4);
    let text = get(address, "/metrics", "").1;
    assert!(text.contains("kvtier_event_blocks{state=\"known\"} 32"), "{text}");
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = check.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// docs/metrics.md names what there is, and nothing else.
#[test]
fn every_metric_is_documented() {
    let place = Place::new();
    let directory = place.path("nvme").display().to_string();
    let (_daemon, address) = start(
        &place,
        &[
            ("KVTIER_NVME_DIRECTORIES", &directory),
            ("KVTIER_NVME_CAPACITY", "128MiB"),
        ],
    );
    let families = check_open_metrics(&get(address, "/metrics", OPEN_METRICS).1);
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let document = std::fs::read_to_string(document).unwrap();
    let rows = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `kvtier_"));
    let documented: BTreeSet<String> = rows
        .map(|row| format!("kvtier_{}", row.split('`').next().unwrap()))
        .map(|name| {
            let name = name
                .strip_suffix("_total")
                .or(name.strip_suffix("_info"))
                .unwrap_or(&name);
            name.to_owned()
        })
        .collect();
    let missing: Vec<_> = families.difference(&documented).collect();
    let gone: Vec<_> = documented.difference(&families).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "not documented: {missing:?}; not there: {gone:?}"
    );
}

#[test]
fn probes_say_how_it_is() {
    let place = Place::new();
    let (mut daemon, address) = start(&place, &[("KVTIER_SHUTDOWN_DEADLINE", "1h")]);
    assert_eq!(get(address, "/healthz", ""), (200, "ok\n".to_owned()));
    assert_eq!(get(address, "/readyz", ""), (200, "ready\n".to_owned()));
    let (status, text) = get(address, "/nonsense", "");
    assert_eq!(
        (status, text.as_str()),
        (
            404,
            "there is no /nonsense; want /, /api/status, /metrics, /healthz and /readyz\n"
        )
    );
    let mut pair = Pair::open(daemon.socket(), 1);
    pair.store(0..4);
    let (_, lookup) = pair.scheduler.lookup(4);
    let (_, lease) = pair.scheduler.commit(lookup, 4);
    daemon.signal(Signal::TERM);
    daemon.says("draining");
    // Alive, but nobody should be sent here.
    assert_eq!(get(address, "/healthz", "").0, 200);
    assert_eq!(
        get(address, "/readyz", ""),
        (503, "not ready: the daemon is ending\n".to_owned())
    );
    pair.scheduler.send(&Request::LeaseRelease { lease });
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn nothing_is_served_unless_it_is_asked_for() {
    let place = Place::new();
    let daemon = place.start();
    assert!(!daemon.log().contains("metrics and probes"));
    let tables = format!("/proc/{}/net/tcp", daemon.pid());
    assert!(std::fs::read_to_string(tables).is_ok());
    let sockets = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let inodes: Vec<String> = sockets
        .flatten()
        .filter_map(|entry| entry.path().read_link().ok())
        .filter_map(|target| {
            Some(
                target
                    .to_string_lossy()
                    .strip_prefix("socket:[")?
                    .trim_end_matches(']')
                    .to_owned(),
            )
        })
        .collect();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{}/net/{table}", daemon.pid())).unwrap_or_default();
        let ours = text.lines().filter(|line| {
            let inode = line.split_whitespace().nth(9);
            inodes.iter().any(|ours| Some(ours.as_str()) == inode)
        });
        assert_eq!(ours.count(), 0);
    }
}

#[test]
fn a_port_that_is_taken_is_said_before_memory_is() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = run(place.command().env("KVTIER_METRICS_LISTEN", &address));
    assert_eq!(code, 73, "{said}");
    assert!(
        said.contains(&format!("metrics.listen: could not listen on {address}")),
        "{said}"
    );
    assert!(!said.contains("memory taken"));
    let (code, said) = run(place.command().env("KVTIER_METRICS_LISTEN", "9470"));
    assert_eq!(code, 64, "{said}");
    assert!(
        said.contains("metrics.listen (from KVTIER_METRICS_LISTEN): want \"none\""),
        "{said}"
    );
}

#[test]
fn clients_that_say_nothing_keep_nobody_out() {
    let place = Place::new();
    let (daemon, address) = start(&place, &[]);
    // As many as may connect and more; they give up at last.
    let silent: Vec<TcpStream> = (0..40).filter_map(|_| TcpStream::connect(address).ok()).collect();
    let mut pair = Pair::open(daemon.socket(), 1);
    assert_eq!(pair.store(0..4), 4);
    let status = place.kvtier(&["status"]).output().unwrap();
    assert!(status.status.success());
    drop(silent);
    eventually("others get through again", || {
        (get(address, "/healthz", "").0 == 200).then_some(())
    });
}
