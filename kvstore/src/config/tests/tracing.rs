//! Traces: whether and where they go.

use kvstore_trace::Protocol;

use super::*;

#[test]
fn each_problem_of_the_tracing_table_names_its_key() {
    check_each(&[
        (
            "[tracing]\nexporter = \"jaeger\"",
            "tracing.exporter: want \"none\" or \"otlp\", got \"jaeger\"",
        ),
        (
            "[tracing]\nprotocol = \"http/json\"",
            "tracing.protocol: want \"grpc\" or \"http/protobuf\", got \"http/json\"",
        ),
        (
            "[tracing]\nsample-ratio = 1.5",
            "tracing.sample-ratio: want 0 to 1, got 1.5",
        ),
        (
            "[tracing]\nheaders-file = \"headers\"",
            "tracing.headers-file: want \"none\", or an absolute path without \"..\", got \"headers\"",
        ),
        (
            "[tracing]\nresource-attributes = [\"a=1\", \"a=2\"]",
            "tracing.resource-attributes: want a list of \"name=value\", each name once, got \"a=2\"",
        ),
        (
            "[tracing]\nservice-name = \"\"",
            "tracing.service-name: want a name in ASCII of 1 to 256 bytes, got \"\"",
        ),
        (
            "[tracing]\nqueue-spans = 1",
            "tracing.queue-spans: want a whole number from 64 to 65536, got 1",
        ),
        ("[tracing]\nheaders = [\"x: y\"]", "tracing.headers: no such key"),
    ]);
}

#[test]
fn an_address_of_a_collector_with_a_password_is_refused_and_not_shown() {
    let found = problems("[tracing]\nendpoint = \"http://me:secret@collector:4317\"", &[]);
    assert!(found[0].starts_with("tracing.endpoint: want"), "{found:?}");
    assert!(!found[0].contains("secret"), "{found:?}");
}

#[test]
fn traces_are_off_and_everything_else_is_left_to_opentelemetry() {
    let config = load("", &Environment::default()).unwrap().config;
    assert_eq!(config.tracing, TracingConfig::default());
    assert_eq!(config.tracing.exporter, TraceExporter::None);
    let text = "[tracing]\nexporter = \"otlp\"\nprotocol = \"http/protobuf\"\nresource-attributes = [\"a = b=c\"]\n\
                sample-ratio = 0\n";
    let tracing = load(text, &Environment::default()).unwrap().config.tracing;
    assert_eq!(tracing.protocol, Some(Protocol::Http));
    assert_eq!(tracing.resource, [("a".to_owned(), "b=c".to_owned())]);
    assert!(tracing.sample_ratio.abs() < f64::EPSILON);
}
