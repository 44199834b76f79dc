//! Pins and evictions by name, at a real daemon.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use support::Place;
use support::blocks::{CHAIN, Cache, written};
use support::client::hash;
use support::command::{json, kvtier, refused, shown, with_nvme};

/// The whole name of a block.
fn key(place: &Place, number: u32) -> String {
    let namespaces = json(place, &["namespaces"]);
    let namespace = namespaces["namespaces"][0]["namespace"].as_str().unwrap();
    format!("{namespace}/0/{}", hash(number))
}

#[test]
fn a_pinned_prefix_outlives_everything_and_leaves_when_it_is_not() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..4);
    let end = key(&place, CHAIN - 1);
    let pinned = json(&place, &["pin", "--prefix", &end]);
    assert_eq!(
        (&pinned["host_blocks"], &pinned["nvme_blocks"]),
        (&CHAIN.into(), &CHAIN.into())
    );
    assert_eq!(pinned["pin"]["named_blocks"], CHAIN);
    daemon.says("audit: blocks were pinned");
    // More than both tiers hold.
    cache.store_durably(&daemon, 4..320);
    assert_eq!((cache.load(0), cache.waited), (CHAIN, 0));
    assert_eq!(cache.load(1), 0);
    assert!(daemon.counter("nvme_carried_over") >= u64::from(CHAIN));
    assert_eq!(daemon.counter("kept_copies_lost"), 0);

    let text = shown(&place, &["pins"]);
    assert!(text.contains(&hash(CHAIN - 1).to_string()), "{text}");
    let shares = &json(&place, &["pins"])["shares"];
    assert_eq!(
        (&shares[0]["blocks"], &shares[1]["blocks"]),
        (&CHAIN.into(), &CHAIN.into())
    );
    // What is pinned is in nobody's way, and nobody's to evict.
    let evicted = json(&place, &["evict", "--prefix", &end]);
    assert_eq!(
        (&evicted["host_blocks"], &evicted["pinned_blocks"]),
        (&0.into(), &CHAIN.into())
    );
    assert_eq!(shown(&place, &["unpin", "1"]).lines().count(), 1);
    assert_eq!(json(&place, &["pins"])["pins"], serde_json::json!([]));
    let evicted = json(&place, &["evict", "--prefix", &end]);
    assert_eq!(
        (&evicted["host_blocks"], &evicted["nvme_blocks"]),
        (&CHAIN.into(), &CHAIN.into())
    );
    assert_eq!(cache.load(0), 0);
}

#[test]
fn a_pinned_namespace_keeps_its_share_and_no_more() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..4);
    let namespace = key(&place, 0)[..6].to_owned();
    let pinned = json(&place, &["pin", "--namespace", &namespace]);
    assert_eq!(pinned["host_blocks"], 4 * CHAIN);
    // Pinned again it is the same pin.
    assert_eq!(json(&place, &["pin", "--namespace", &namespace])["pin"]["pin"], 1);
    cache.store_durably(&daemon, 4..200);
    let shares = &json(&place, &["pins"])["shares"];
    for share in shares.as_array().unwrap() {
        let number = |name: &str| share[name].as_u64().unwrap();
        assert!(number("bytes") <= number("bytes_max"), "{share}");
        // Another block would not have had room.
        assert!(number("bytes") + (80 << 10) > number("bytes_max"), "{share}");
    }
    // Those that came first stay, and new ones still find room.
    assert_eq!((cache.load_all(0..4), cache.load(199)), (4 * CHAIN, CHAIN));
    assert!(shown(&place, &["unpin", "--all"]).starts_with("1 pins ended"));
    assert_eq!(json(&place, &["pins"])["shares"][0]["blocks"], 0);
}

#[test]
fn blocks_leave_by_name_alone() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    let mut cache = Cache::open(&daemon, "");
    cache.store(0..2);
    written(&daemon);
    let (first, second) = (key(&place, 0), key(&place, CHAIN + 3));
    let counted = json(&place, &["evict", "--key", &first, "--key", &second, "--dry-run"]);
    assert_eq!(
        (&counted["host_blocks"], &counted["nvme_blocks"]),
        (&2.into(), &2.into())
    );
    shown(
        &place,
        &["evict", "--key", &first, "--key", &second, "--tier", "host"],
    );
    let there = |key: &str| json(&place, &["lookup", key])["blocks"][0]["tiers"].clone();
    assert_eq!(there(&first), serde_json::json!(["nvme"]));
    shown(&place, &["evict", "--key", &first, "--key", &second]);
    assert_eq!(cache.load(0), 0);
    assert_eq!(cache.load(1), 3);
    assert_eq!(kvtier(&place, &["lookup", &first]).0, 3);
}

#[test]
fn what_makes_no_sense_is_said() {
    let place = Place::new();
    let _daemon = place.start();
    let nowhere = format!("{}/0/{}", "ab".repeat(16), "cd".repeat(32));
    let cases: [(&[&str], i32, &str); 6] = [
        (&["pin"], 64, "--namespace"),
        (
            &["pin", "--namespace", "xyz"],
            64,
            "want 1 to 32 hexadecimal digits",
        ),
        (
            &["pin", "--prefix", &nowhere],
            64,
            "prefix: the block is in no tier",
        ),
        (&["pin", "--prefix", "ab/0"], 64, "want NAMESPACE/GROUP/HASH"),
        (&["unpin", "7"], 64, "there is no pin 7"),
        (
            &["evict", "--all", "--prefix", &nowhere],
            64,
            "cannot be used with",
        ),
    ];
    for (arguments, code, text) in cases {
        let (got, error) = refused(&place, arguments);
        assert!(
            got == code && error.contains(text),
            "{arguments:?}: {got} {error}"
        );
    }
}
