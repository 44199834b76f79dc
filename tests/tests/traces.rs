//! What becomes of a request, as a collector hears it: from an engine that uses the C ABI, through a real daemon and its tiers.

#![allow(clippy::unwrap_used, reason = "a failed test is a panic")]

mod support;

use std::collections::BTreeMap;
use std::net::TcpListener;

use opentelemetry_proto::tonic::trace::v1::Span;
use support::collector::{Collector, Mood, texts};
use support::daemon::{HOST_BLOCKS, Place};
use support::eventually;
use support::store::Store;

const ON: (&str, &str) = ("KVTIER_TRACING_EXPORTER", "otlp");
const METRICS: (&str, &str) = ("KVTIER_METRICS_LISTEN", "127.0.0.1:0");
const NOBODY: (&str, &str) = ("00000000000000000000000000000000", "0000000000000000");
/// Blocks of a followed request.
const BLOCKS: u64 = 16;
const BLOCK_BYTES: u64 = 16_384;

fn trace_of(number: u64) -> String {
    format!("{:032x}", 0xa000_0000_u64 + number)
}

fn span_of(number: u64) -> String {
    format!("{:016x}", 0xb000_0000_u64 + number)
}

const PARENT: &str = "00000000c0000001";

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The spans of one trace.
struct Trace(Vec<Span>);

impl Trace {
    fn of(spans: &[Span], trace: &str) -> Self {
        let of_trace = spans.iter().filter(|span| hex(&span.trace_id) == trace);
        Self(of_trace.cloned().collect())
    }

    fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.iter().map(|span| span.name.as_str()).collect();
        names.sort_unstable();
        names
    }

    fn get(&self, name: &str) -> (&Span, BTreeMap<String, String>) {
        let span = self.0.iter().find(|span| span.name == name);
        let span = span.unwrap_or_else(|| panic!("no {name} among {:?}", self.names()));
        (span, texts(&span.attributes))
    }

    /// Every span but the request's lies in one of this trace, and none begins before that one or ends before it began.
    fn check_tree(&self, parents: &[(&str, &str)]) {
        for (child, parent) in parents {
            let ((child, _), (parent, _)) = (self.get(child), self.get(parent));
            assert_eq!(
                hex(&child.parent_span_id),
                hex(&parent.span_id),
                "{} in {}",
                child.name,
                parent.name
            );
            assert!(child.start_time_unix_nano >= parent.start_time_unix_nano);
        }
        for span in &self.0 {
            assert!(
                span.start_time_unix_nano <= span.end_time_unix_nano,
                "{}",
                span.name
            );
        }
        assert_eq!(self.0.len(), parents.len() + 1, "{:?}", self.names());
    }
}

fn number(attributes: &BTreeMap<String, String>, name: &str) -> u64 {
    let text = attributes.get(name);
    text.unwrap_or_else(|| panic!("no {name} in {attributes:?}"))
        .parse()
        .unwrap()
}

/// Pushes all that was stored before out of host memory.
fn push_out(engine: &mut Store) {
    for first in (10_000..10_000 + 3 * HOST_BLOCKS).step_by(64) {
        engine.store(first, 64).unwrap();
    }
    engine.settle().unwrap();
}

/// One request that finds nothing and stores its blocks.
fn miss_and_store(engine: &mut Store, number: u64) {
    engine.follow(&trace_of(number), &span_of(number)).unwrap();
    assert_eq!(engine.load(0, BLOCKS).unwrap().hit, 0);
    assert_eq!(engine.store(0, BLOCKS).unwrap().added, BLOCKS);
    assert!(engine.over(PARENT).unwrap());
    engine.follow(NOBODY.0, NOBODY.1).unwrap();
}

/// One request that finds all of them.
fn hit(engine: &mut Store, number: u64) {
    engine.follow(&trace_of(number), &span_of(number)).unwrap();
    let loaded = engine.load(0, BLOCKS).unwrap();
    assert_eq!((loaded.hit, loaded.wrong, loaded.lost), (BLOCKS, 0, 0));
    assert!(engine.over(NOBODY.1).unwrap());
    engine.follow(NOBODY.0, NOBODY.1).unwrap();
}

fn assert_numbers(attributes: &BTreeMap<String, String>, expected: &[(&str, u64)]) {
    for (name, value) in expected {
        assert_eq!(number(attributes, name), *value, "{name} in {attributes:?}");
    }
}

fn check_that_it_missed_and_stored(spans: &[Span]) {
    let first = Trace::of(spans, &trace_of(1));
    first.check_tree(&[
        ("kvtier.lookup", "kvtier.request"),
        ("kvtier.store", "kvtier.request"),
        ("kvtier.write_back", "kvtier.store"),
    ]);
    let (request, attributes) = first.get("kvtier.request");
    assert_eq!(
        (hex(&request.span_id), hex(&request.parent_span_id)),
        (span_of(1), PARENT.to_owned())
    );
    assert_eq!(attributes["kvtier.request.id"], "request-1");
    assert_eq!(attributes["kvtier.tenant"], "default");
    assert_eq!(attributes["kvtier.engine"], "store 1");
    assert_numbers(
        &attributes,
        &[("kvtier.prompt.tokens", 16 * BLOCKS), ("kvtier.hit.tokens", 0)],
    );
    let (_, attributes) = first.get("kvtier.lookup");
    assert_eq!(attributes["kvtier.lookup.outcome"], "miss");
    assert_numbers(
        &attributes,
        &[("kvtier.lookup.blocks", BLOCKS), ("kvtier.hit.tokens", 0)],
    );
    let (_, attributes) = first.get("kvtier.store");
    assert_numbers(
        &attributes,
        &[
            ("kvtier.blocks", BLOCKS),
            ("kvtier.blocks.granted", BLOCKS),
            ("kvtier.blocks.published", BLOCKS),
            ("kvtier.bytes", BLOCKS * BLOCK_BYTES),
        ],
    );
    let (_, attributes) = first.get("kvtier.write_back");
    assert_eq!(attributes["kvtier.tier"], "nvme");
    assert_numbers(
        &attributes,
        &[("kvtier.blocks", BLOCKS), ("kvtier.blocks.done", BLOCKS)],
    );
    // With the header page of each.
    assert_numbers(&attributes, &[("kvtier.bytes", BLOCKS * (BLOCK_BYTES + 4096))]);
}

fn check_that_it_came_from_nvme(spans: &[Span]) {
    let second = Trace::of(spans, &trace_of(2));
    second.check_tree(&[
        ("kvtier.lookup", "kvtier.request"),
        ("kvtier.promote", "kvtier.lookup"),
        ("kvtier.load", "kvtier.request"),
    ]);
    let (request, attributes) = second.get("kvtier.request");
    assert!(request.parent_span_id.is_empty(), "it begins its trace");
    assert_numbers(&attributes, &[("kvtier.load.tokens", 16 * BLOCKS)]);
    let (lookup, attributes) = second.get("kvtier.lookup");
    assert_eq!(attributes["kvtier.lookup.outcome"], "hit");
    assert_eq!(attributes["kvtier.lookup.waited"], "yes");
    assert_numbers(
        &attributes,
        &[("kvtier.hit.blocks.nvme", BLOCKS), ("kvtier.hit.blocks.host", 0)],
    );
    let (promote, attributes) = second.get("kvtier.promote");
    assert!(promote.end_time_unix_nano <= lookup.end_time_unix_nano);
    assert_numbers(
        &attributes,
        &[("kvtier.blocks", BLOCKS), ("kvtier.blocks.failed", 0)],
    );
    assert!(number(&attributes, "kvtier.device_time_max_us") > 0);
    assert!(
        number(&attributes, "kvtier.device_time_sum_us") >= number(&attributes, "kvtier.device_time_max_us")
    );
    let (_, attributes) = second.get("kvtier.load");
    assert_numbers(
        &attributes,
        &[
            ("kvtier.blocks", BLOCKS),
            ("kvtier.blocks.lost", 0),
            ("kvtier.bytes", BLOCKS * BLOCK_BYTES),
        ],
    );
}

#[test]
fn a_request_is_followed_to_nvme_and_back() {
    let collector = Collector::grpc(Mood::Takes);
    let mut place = Place::new();
    let endpoint = collector.endpoint();
    let daemon = place.start(&[
        ON,
        ("KVTIER_TRACING_ENDPOINT", endpoint.as_str()),
        (
            "KVTIER_TRACING_RESOURCE_ATTRIBUTES",
            "deployment.environment.name=test",
        ),
    ]);
    let mut engine = Store::attach(&daemon, "m");
    assert_eq!(engine.follow(NOBODY.0, NOBODY.1).unwrap(), (true, 1 << 63));
    miss_and_store(&mut engine, 1);
    engine.settle().unwrap();
    push_out(&mut engine);
    hit(&mut engine, 2);
    collector.wait_for("kvtier.request", 2);
    let spans = collector.wait_for("kvtier.write_back", 1);

    check_that_it_missed_and_stored(&spans);
    check_that_it_came_from_nvme(&spans);
    assert_eq!(spans.len(), 8, "what nobody follows leaves no span");
    let resource = collector.resource();
    assert_eq!(resource["service.name"], "kvtier");
    assert_eq!(resource["deployment.environment.name"], "test");
    assert!(resource.contains_key("service.instance.id"), "{resource:?}");
    drop(engine);
    daemon.stop();
}

#[test]
fn a_request_is_followed_to_the_remote_tier_and_back() {
    let collector = Collector::grpc(Mood::Takes);
    let mut place = Place::new();
    let (endpoint, shared) = (collector.endpoint(), place.path("shared"));
    std::fs::create_dir(&shared).unwrap();
    let daemon = place.start(&[
        ON,
        ("KVTIER_TRACING_ENDPOINT", endpoint.as_str()),
        ("KVTIER_NVME_DIRECTORIES", ""),
        ("KVTIER_REMOTE_KIND", "mount"),
        ("KVTIER_REMOTE_DIRECTORY", shared.to_str().unwrap()),
        ("KVTIER_REMOTE_MOUNT_CHECK", "off"),
        ("KVTIER_REMOTE_PROMOTION_DEADLINE", "30s"),
    ]);
    let mut engine = Store::attach(&daemon, "m");
    eventually("the remote tier is in service", || {
        let counters = engine.counters().unwrap();
        (counters["remote"]["state"] == "serving").then_some(())
    });
    miss_and_store(&mut engine, 1);
    collector.wait_for("kvtier.remote_write", 1);
    push_out(&mut engine);
    hit(&mut engine, 2);
    let spans = collector.wait_for("kvtier.request", 2);
    let first = Trace::of(&spans, &trace_of(1));
    first.check_tree(&[
        ("kvtier.lookup", "kvtier.request"),
        ("kvtier.store", "kvtier.request"),
        ("kvtier.remote_write", "kvtier.store"),
    ]);
    let (_, attributes) = first.get("kvtier.remote_write");
    assert_eq!(attributes["kvtier.tier"], "remote");
    assert_numbers(
        &attributes,
        &[
            ("kvtier.blocks.done", BLOCKS),
            ("kvtier.bytes", BLOCKS * BLOCK_BYTES),
        ],
    );
    let second = Trace::of(&spans, &trace_of(2));
    second.check_tree(&[
        ("kvtier.lookup", "kvtier.request"),
        ("kvtier.promote", "kvtier.lookup"),
        ("kvtier.load", "kvtier.request"),
    ]);
    let (_, attributes) = second.get("kvtier.lookup");
    assert_numbers(&attributes, &[("kvtier.hit.blocks.remote", BLOCKS)]);
    let (_, attributes) = second.get("kvtier.promote");
    assert_eq!(attributes["kvtier.tier"], "remote");
    assert_numbers(&attributes, &[("kvtier.blocks.done", BLOCKS)]);
}

#[test]
fn traces_go_over_http_with_the_headers_of_a_file() {
    let collector = Collector::http();
    let mut place = Place::new();
    let (endpoint, headers) = (collector.endpoint(), place.path("headers"));
    std::fs::write(&headers, "authorization: Bearer secret\n").unwrap();
    let daemon = place.start(&[
        ON,
        ("KVTIER_TRACING_PROTOCOL", "http/protobuf"),
        ("KVTIER_TRACING_HEADERS_FILE", headers.to_str().unwrap()),
        // As an operator would inject it.
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_SERVICE_NAME", "cache"),
    ]);
    let mut engine = Store::attach(&daemon, "m");
    miss_and_store(&mut engine, 1);
    collector.wait_for("kvtier.request", 1);
    assert_eq!(collector.header("authorization").unwrap(), "Bearer secret");
    assert_eq!(collector.resource()["service.name"], "cache");
    assert!(!daemon.log().contains("secret"), "{}", daemon.log());
}

/// What a file of headers says may be a secret, and is for one collector.
#[test]
fn a_collector_that_sends_on_to_another_is_not_followed() {
    let other = Collector::http();
    let collector = Collector::http_elsewhere(&other);
    let mut place = Place::new();
    let (endpoint, headers) = (collector.endpoint(), place.path("headers"));
    std::fs::write(&headers, "x-api-key: secret\n").unwrap();
    let daemon = place.start(&[
        ON,
        METRICS,
        ("KVTIER_TRACING_PROTOCOL", "http/protobuf"),
        ("KVTIER_TRACING_ENDPOINT", endpoint.as_str()),
        ("KVTIER_TRACING_HEADERS_FILE", headers.to_str().unwrap()),
    ]);
    let mut engine = Store::attach(&daemon, "m");
    miss_and_store(&mut engine, 1);
    eventually("the export has failed", || {
        (daemon.metric("kvtier_trace_failed_exports_total") >= 1).then_some(())
    });
    assert!(collector.requests() > 0);
    assert_eq!(other.requests(), 0, "the other one hears nothing");
    assert!(daemon.log().contains("traces cannot be sent"), "{}", daemon.log());
}

#[test]
fn an_engine_is_told_which_requests_to_follow() {
    let collector = Collector::grpc(Mood::Takes);
    let endpoint = collector.endpoint();
    for (ratio, below) in [("0", 0), ("0.25", 1 << 61), ("1", 1 << 63)] {
        let mut place = Place::new();
        let daemon = place.start(&[
            ON,
            ("KVTIER_TRACING_ENDPOINT", endpoint.as_str()),
            ("KVTIER_TRACING_SAMPLE_RATIO", ratio),
        ]);
        let mut engine = Store::attach(&daemon, "m");
        assert_eq!(engine.follow(NOBODY.0, NOBODY.1).unwrap(), (true, below));
    }
}

#[test]
fn without_traces_nobody_is_connected_to_and_engines_hear_of_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut place = Place::new();
    let daemon = place.start(&[
        METRICS,
        ("KVTIER_TRACING_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
    ]);
    let mut engine = Store::attach(&daemon, "m");
    assert_eq!(engine.follow(&trace_of(1), &span_of(1)).unwrap(), (false, 0));
    engine.store(0, BLOCKS).unwrap();
    engine.load(0, BLOCKS).unwrap();
    assert!(!engine.over(PARENT).unwrap());
    let text = daemon.metrics();
    assert!(
        !text.lines().any(|line| line.starts_with("kvtier_trace_")),
        "{text}"
    );
    drop(engine);
    assert!(!daemon.log().contains("recording traces"), "{}", daemon.log());
    daemon.stop();
    let nobody = listener.accept().map(|_| ()).unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_collector_that_is_away_costs_a_line_and_spans() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    let mut place = Place::new();
    let daemon = place.start(&[
        ON,
        METRICS,
        ("KVTIER_TRACING_ENDPOINT", endpoint.as_str()),
        ("KVTIER_TRACING_QUEUE_SPANS", "64"),
    ]);
    let mut engine = Store::attach(&daemon, "m");
    eventually("spans are dropped for both reasons", || {
        many_requests(&mut engine);
        let dropped =
            |cause| daemon.metric(&format!("kvtier_trace_dropped_spans_total{{cause=\"{cause}\"}}"));
        (dropped("export-failed") > 0 && dropped("queue-full") > 0).then_some(())
    });
    assert!(daemon.metric("kvtier_trace_queued_spans") <= 64);
    assert_eq!(daemon.metric("kvtier_trace_exported_spans_total"), 0);
    eventually("a second try has failed", || {
        many_requests(&mut engine);
        (daemon.metric("kvtier_trace_failed_exports_total") > 1).then_some(())
    });
    let log = daemon.log();
    assert_eq!(log.matches("traces cannot be sent").count(), 1, "{log}");
    drop(engine);
    daemon.stop();
}

#[test]
fn a_collector_that_does_not_answer_holds_nobody_up() {
    let collector = Collector::grpc(Mood::Hangs);
    let endpoint = collector.endpoint();
    let mut place = Place::new();
    let daemon = place.start(&[
        ON,
        METRICS,
        ("KVTIER_TRACING_ENDPOINT", endpoint.as_str()),
        ("KVTIER_TRACING_QUEUE_SPANS", "64"),
        ("KVTIER_TRACING_TIMEOUT", "1min"),
    ]);
    let mut engine = Store::attach(&daemon, "m");
    eventually("the queue is full while a request hangs", || {
        many_requests(&mut engine);
        let is_full = daemon.metric("kvtier_trace_dropped_spans_total{cause=\"queue-full\"}") > 0;
        (is_full && collector.requests() > 0).then_some(())
    });
    assert!(daemon.metric("kvtier_trace_queued_spans") <= 64);
    drop(engine);
    // The minute is not waited for: the watchdog of a stop is shorter than that of the test.
    daemon.stop();
}

#[test]
fn what_is_refused_is_sent_again_no_more_and_the_next_is_taken() {
    let collector = Collector::grpc(Mood::Refuses);
    let endpoint = collector.endpoint();
    let mut place = Place::new();
    let daemon = place.start(&[ON, METRICS, ("KVTIER_TRACING_ENDPOINT", endpoint.as_str())]);
    let mut engine = Store::attach(&daemon, "m");
    miss_and_store(&mut engine, 1);
    eventually("a batch is refused", || {
        (daemon.metric("kvtier_trace_failed_exports_total") == 1).then_some(())
    });
    collector.set_mood(Mood::Takes);
    hit(&mut engine, 2);
    let spans = collector.wait_for("kvtier.request", 1);
    assert!(
        Trace::of(&spans, &trace_of(1))
            .0
            .iter()
            .all(|span| span.name == "kvtier.write_back")
    );
    eventually("the end of it is told", || {
        daemon.log().contains("traces are sent again").then_some(())
    });
}

#[test]
fn the_end_of_the_daemon_is_not_the_end_of_its_spans() {
    let collector = Collector::grpc(Mood::Takes);
    let endpoint = collector.endpoint();
    let mut place = Place::new();
    let daemon = place.start(&[ON, ("KVTIER_TRACING_ENDPOINT", endpoint.as_str())]);
    let mut engine = Store::attach(&daemon, "m");
    miss_and_store(&mut engine, 1);
    drop(engine);
    daemon.stop();
    let spans = collector.spans();
    let names = Trace::of(&spans, &trace_of(1));
    for name in [
        "kvtier.lookup",
        "kvtier.request",
        "kvtier.store",
        "kvtier.write_back",
    ] {
        assert!(names.names().contains(&name), "{:?}", names.names());
    }
}

/// A few hundred spans.
fn many_requests(engine: &mut Store) {
    for number in 0..100 {
        engine.follow(&trace_of(number), &span_of(number)).unwrap();
        engine.load(500_000, 1).unwrap();
        engine.over(NOBODY.1).unwrap();
    }
}
