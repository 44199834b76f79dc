//! Traces go to a collector within TLS, and only to one that the configured CA vouches for.

#![allow(clippy::unwrap_used, reason = "a failed test is a panic")]

mod support;

use support::collector::{Collector, Identity, Mood};
use support::daemon::{Daemon, Place};
use support::eventually;
use support::store::Store;

const TRACE: &str = "000000000000000000000000a0000001";
const SPAN: &str = "00000000b0000001";
const NOBODY: &str = "0000000000000000";

/// Both ways in which spans travel, each to a collector of this identity.
fn collectors(identity: &Identity) -> [(&'static str, Collector); 2] {
    [
        ("grpc", Collector::grpc_tls(identity)),
        ("http/protobuf", Collector::http_tls(identity)),
    ]
}

/// A daemon that sends there and trusts whom `ca` names; without it, whom the system trusts.
fn start(place: &mut Place, protocol: &str, endpoint: &str, ca: Option<&Identity>) -> Daemon {
    let file = place.path("ca.pem");
    let mut settings = vec![
        ("KVTIER_TRACING_EXPORTER", "otlp"),
        ("KVTIER_TRACING_PROTOCOL", protocol),
        ("KVTIER_TRACING_ENDPOINT", endpoint),
        ("KVTIER_METRICS_LISTEN", "127.0.0.1:0"),
    ];
    if let Some(ca) = ca {
        std::fs::write(&file, ca.pem()).unwrap();
        settings.push(("KVTIER_TRACING_CA_FILE", file.to_str().unwrap()));
    }
    place.start(&settings)
}

/// One request that is followed.
fn ask(daemon: &Daemon) {
    let mut engine = Store::attach(daemon, "m");
    engine.follow(TRACE, SPAN).unwrap();
    assert_eq!(engine.store(0, 4).unwrap().added, 4);
    assert!(engine.over(NOBODY).unwrap());
}

#[test]
fn a_collector_with_a_certificate_of_the_ca_is_told() {
    let identity = Identity::new();
    for (protocol, collector) in collectors(&identity) {
        let mut place = Place::new();
        let daemon = start(&mut place, protocol, &collector.endpoint(), Some(&identity));
        ask(&daemon);
        collector.wait_for("kvtier.request", 1);
        assert!(!daemon.log().contains("cannot be sent"), "{}", daemon.log());
        daemon.stop();
    }
}

#[test]
fn a_collector_that_the_ca_does_not_know_is_told_nothing_and_the_log_says_why() {
    let (identity, stranger) = (Identity::new(), Identity::new());
    for (protocol, collector) in collectors(&identity) {
        for ca in [Some(&stranger), None] {
            let mut place = Place::new();
            let daemon = start(&mut place, protocol, &collector.endpoint(), ca);
            ask(&daemon);
            eventually("the export has failed", || {
                (daemon.metric("kvtier_trace_failed_exports_total") > 0).then_some(())
            });
            let log = daemon.log();
            let line = log.lines().find(|line| line.contains("traces cannot be sent"));
            let line = line.unwrap_or_else(|| panic!("{protocol}: {log}"));
            assert!(line.contains("invalid peer certificate"), "{protocol}: {line}");
            assert_eq!(collector.requests(), 0, "{protocol}");
            daemon.stop();
        }
    }
}

#[test]
fn a_collector_that_does_not_speak_tls_is_told_nothing() {
    let identity = Identity::new();
    for (protocol, collector) in [
        ("grpc", Collector::grpc(Mood::Takes)),
        ("http/protobuf", Collector::http()),
    ] {
        let mut place = Place::new();
        let endpoint = collector.endpoint().replace("http://", "https://");
        let daemon = start(&mut place, protocol, &endpoint, Some(&identity));
        ask(&daemon);
        eventually("the export has failed", || {
            (daemon.metric("kvtier_trace_failed_exports_total") > 0).then_some(())
        });
        assert!(collector.spans().is_empty(), "{protocol}");
    }
}
