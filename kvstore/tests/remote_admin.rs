//! The remote tier as the admin API shows it and clears it: what is known there, how it is, and blocks that leave it for all nodes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::path::Path;

use kvstore_remote::unwell::{SECRET, Server, Trouble};
use serde_json::Value;
use support::blocks::{BLOCK_BYTES, CHAIN, Cache};
use support::command::{json, kvtier, shown};
use support::remote::{Watched, bucket, mount};
use support::{Place, eventually};

/// More than the host tier holds.
const CHAINS: u32 = 24;

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("want a number, got {value}"))
}

/// The block of this number, as commands name it.
fn key(place: &Place, block: u32) -> String {
    let namespaces = json(place, &["namespaces"]);
    let namespace = namespaces["namespaces"][0]["namespace"].as_str().unwrap();
    format!("{namespace}/0/{}", support::client::hash(block))
}

fn only_namespace(place: &Place) -> Value {
    json(place, &["namespaces"])["namespaces"][0].clone()
}

/// The files of blocks below a directory.
fn objects(directory: &Path) -> usize {
    let entries = directory.read_dir().unwrap().flatten().map(|entry| entry.path());
    entries
        .map(|path| {
            if path.is_dir() {
                objects(&path)
            } else {
                usize::from(path.file_name().unwrap().len() == 66)
            }
        })
        .sum()
}

/// Place, directions and operations are shown, and it is no NVMe directory.
fn is_shown_among_devices(place: &Place, root: &Path, (blocks, hits): (u64, u64)) {
    let devices = json(place, &["devices"]);
    let remote = &devices["remotes"][0];
    assert_eq!(
        devices["devices"].as_array().unwrap().len(),
        0,
        "it is no NVMe directory"
    );
    assert_eq!(
        (&remote["kind"], &remote["state"]),
        (&Value::from("mount"), &Value::from("serving"))
    );
    assert!(
        remote["place"].as_str().unwrap().contains(root.to_str().unwrap()),
        "{remote}"
    );
    assert_eq!(number(&remote["blocks"]), blocks);
    for way in ["read", "write"] {
        assert_eq!(remote[way]["in_service"], true, "{remote}");
        assert_eq!(remote[way]["outage_seconds"], Value::Null, "{remote}");
    }
    let operation = |kind: &str| {
        let all = remote["operations"].as_array().unwrap();
        all.iter()
            .find(|operation| operation["kind"] == kind)
            .unwrap()
            .clone()
    };
    let store = operation("store");
    assert_eq!(
        (number(&store["done"]), number(&store["bytes"])),
        (blocks, blocks * BLOCK_BYTES)
    );
    assert!(number(&store["latency_us_p99"]) >= number(&store["latency_us_p50"]));
    assert!(number(&operation("demand")["done"]) >= hits);
    let text = shown(place, &["devices"]);
    assert!(
        text.contains("serving") && text.contains("192 blocks known here, 12MiB"),
        "{text}"
    );
    let status = shown(place, &["status"]);
    assert!(status.contains("192 blocks known here"), "{status}");
}

#[test]
fn what_is_known_and_done_there_is_shown_wherever_tiers_are() {
    let place = Place::new();
    let root = place.path("shared");
    std::fs::create_dir(&root).unwrap();
    let watched = Watched::start(&place, &mount(&root));
    watched.is_serving();
    let table = shown(&place, &["namespaces"]);
    assert!(
        !table.contains("from remote"),
        "nothing was done there yet: {table}"
    );
    let mut cache = Cache::open(&watched.daemon, "");
    watched.store_durably(&mut cache, 0..CHAINS);
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN);

    let namespace = only_namespace(&place);
    let blocks = u64::from(CHAINS * CHAIN);
    assert_eq!(number(&namespace["remote_blocks"]), blocks);
    assert_eq!(number(&namespace["remote_bytes"]), blocks * BLOCK_BYTES);
    assert_eq!(number(&namespace["remote_written_bytes"]), blocks * BLOCK_BYTES);
    let hits = number(&namespace["remote_hit_blocks"]);
    assert!(hits > 0 && hits <= blocks, "{hits}");
    assert!(number(&namespace["remote_read_bytes"]) >= hits * BLOCK_BYTES);
    let table = shown(&place, &["namespaces"]);
    assert!(
        table.contains("from remote") && table.contains("12MiB"),
        "{table}"
    );

    is_shown_among_devices(&place, &root, (blocks, hits));

    // The page gets the same.
    let address = support::http::address(&watched.daemon);
    let (_, fed) = support::http::get(address, "/api/status", "");
    let fed: Value = serde_json::from_str(&fed).unwrap();
    assert_eq!(fed["tenants"][0]["remote"]["blocks"], blocks);
    assert_eq!(fed["tenants"][0]["namespaces"][0]["remote_blocks"], blocks);
}

#[test]
fn an_outage_and_the_last_error_are_shown_and_no_secret_is() {
    let (server, place) = (Server::start(), Place::new());
    let watched = Watched::start(&place, &bucket(&server));
    watched.is_serving();
    let mut cache = Cache::open(&watched.daemon, "");
    watched.store_durably(&mut cache, 0..CHAINS);
    let broken = Trouble::Answer("500 Internal Server Error", "", "");
    server.talk.trouble("", "v1/", broken);
    watched.goes_out_of_service(&mut cache, ["server", "server"]);
    // Between two probes it may be in service for a moment: not as long as each probe fails.
    let devices = json(&place, &["devices"]);
    let remote = &devices["remotes"][0];
    assert_eq!(remote["kind"], "s3");
    for way in ["read", "write"] {
        let direction = &remote[way];
        assert_eq!(direction["in_service"], false, "{remote}");
        assert_eq!(direction["outage_cause"], "server");
        assert!(direction["outage_seconds"].as_f64().unwrap() >= 0.0);
        assert!(
            direction["last_error"].as_str().unwrap().contains("status 500"),
            "{remote}"
        );
        assert_eq!(number(&direction["outages"]), 1);
    }
    let text = shown(&place, &["devices"]);
    assert!(
        text.contains("out of service") && text.contains("last error when reading"),
        "{text}"
    );
    assert!(!text.contains(SECRET) && !devices.to_string().contains(SECRET));
    server.talk.calm();
    watched.comes_back();
    let devices = json(&place, &["devices"]);
    let read = &devices["remotes"][0]["read"];
    assert_eq!(
        (&read["in_service"], &read["outage_cause"]),
        (&Value::from(true), &Value::from(""))
    );
    assert!(
        read["last_error"].as_str().unwrap().contains("status 500"),
        "it stays to be seen"
    );
}

const EVICT: [&str; 5] = ["evict", "--tier", "remote", "--timeout", "5min"];

/// Two nodes at one store; blocks are removed by one of them, and both go on without an outage.
fn leaves_for_all_nodes(settings: &[(&str, &str)], count: impl Fn() -> usize) {
    let (here, there) = (Place::new(), Place::new());
    let one = Watched::start(&here, settings);
    one.is_serving();
    let mut cache = Cache::open(&one.daemon, "");
    one.store_durably(&mut cache, 0..CHAINS);
    let all = (CHAINS * CHAIN) as usize;
    assert_eq!(count(), all);
    let other = Watched::start(&there, settings);
    other.is_serving();
    let mut foreign = Cache::open(&other.daemon, "");
    assert_eq!(foreign.load_all(0..CHAINS), CHAINS * CHAIN);

    // A prefix, named by its end; first only counted.
    let end = key(&here, 2 * CHAIN - 1);
    let evict = [&EVICT[..], &["--prefix", end.as_str()]].concat();
    let would = json(&here, &[&evict[..], &["--dry-run"]].concat());
    assert_eq!(number(&would["remote_blocks"]), u64::from(CHAIN), "{would}");
    assert_eq!(count(), all, "what is only counted stays");
    let gone = json(&here, &evict);
    assert_eq!(number(&gone["remote_blocks"]), u64::from(CHAIN), "{gone}");
    assert!(
        number(&gone["remote_bytes"]) > u64::from(CHAIN) * BLOCK_BYTES,
        "{gone}"
    );
    assert_eq!(number(&gone["host_blocks"]) + number(&gone["nvme_blocks"]), 0);
    assert_eq!(count(), all - CHAIN as usize);
    // It may be in memory still, and nowhere else.
    let (_, tiers, _) = kvtier(&here, &["lookup", end.as_str(), "--json"]);
    assert!(
        tiers.contains("blocks") && !tiers.to_lowercase().contains("remote"),
        "{tiers}"
    );

    // All of the namespace, from a node that knows only some of it.
    let namespace = only_namespace(&there)["namespace"].as_str().unwrap().to_owned();
    let said = shown(&there, &[&EVICT[..], &["--namespace", &namespace[..8]]].concat());
    assert!(
        said.contains("184 blocks") && said.contains("for all nodes"),
        "{said}"
    );
    assert!(said.contains("belongs to all nodes"), "{said}");
    assert_eq!(count(), 0);
    let audit = other.daemon.log();
    let audit = audit
        .lines()
        .find(|line| line.contains("audit: blocks were evicted"))
        .unwrap();
    assert!(
        audit.contains("tier=\"remote\"") && audit.contains("remote_blocks=184"),
        "{audit}"
    );
    assert_eq!(number(&only_namespace(&there)["remote_blocks"]), 0);

    // Nobody is out of service for it; what is not in memory misses, and is stored again by who computes it.
    assert!(foreign.load_all(0..CHAINS) < CHAINS * CHAIN);
    assert!(cache.load_all(0..CHAINS) < CHAINS * CHAIN);
    for watched in [&one, &other] {
        assert_eq!(watched.state(), "serving");
    }
    let missed: Vec<u32> = (0..CHAINS).filter(|&chain| foreign.load(chain) < CHAIN).collect();
    foreign.store(missed[0]..missed[0] + 1);
    other.is_stored();
    eventually("what was computed again is stored again", || {
        (count() >= CHAIN as usize).then_some(())
    });
}

#[test]
fn what_is_evicted_from_a_mount_is_gone_for_all_nodes() {
    let shared = tempfile::tempdir().unwrap();
    leaves_for_all_nodes(&mount(shared.path()), || objects(shared.path()));
}

#[test]
fn what_is_evicted_from_a_bucket_is_gone_for_all_nodes() {
    let server = Server::start();
    leaves_for_all_nodes(&bucket(&server), || objects(&server.bucket()));
}

#[test]
fn without_a_remote_tier_there_is_nothing_to_evict_from_and_a_store_that_fails_is_told() {
    let place = Place::new();
    let _daemon = place.start();
    let evict = ["evict", "--tier", "remote", "--timeout", "5min", "--all"];
    let (code, _, said) = kvtier(&place, &evict);
    assert!(
        code == 64 && said.contains("there is no remote tier here"),
        "{code} {said}"
    );

    let (server, place) = (Server::start(), Place::new());
    let watched = Watched::start(&place, &bucket(&server));
    watched.is_serving();
    server
        .talk
        .trouble("", "", Trouble::Answer("403 Forbidden", "", ""));
    let (code, _, said) = kvtier(&place, &evict);
    assert!(code == 1 && said.contains("denied"), "{code} {said}");
    let nowhere = [
        "evict",
        "--tier",
        "remote",
        "--timeout",
        "5min",
        "--namespace",
        "abcdef",
    ];
    server.talk.calm();
    let (code, _, said) = kvtier(&place, &nowhere);
    assert!(
        code == 64 && said.contains("here or at the store"),
        "{code} {said}"
    );
}
