use super::*;

fn spec() -> TraceSpec {
    TraceSpec {
        endpoint: None,
        protocol: None,
        headers: None,
        ca: None,
        timeout: None,
        service_name: None,
        resource: Vec::new(),
        instance: "a".to_owned(),
        version: "1",
        queue_spans: 10,
    }
}

/// The variable of this name in a list such as `A=1 B=2`.
fn environment(list: &'static str) -> impl Fn(&str) -> Option<String> {
    move |name| {
        let pairs = list.split(' ').filter_map(|pair| pair.split_once('='));
        let mut found = pairs.filter(|(other, _)| *other == name);
        found.next().map(|(_, value)| value.to_owned())
    }
}

#[test]
fn where_traces_go_is_settled_as_opentelemetry_says() {
    let cases = [
        (None, None, "", Protocol::Grpc, "http://localhost:4317"),
        (
            None,
            None,
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
            Protocol::Http,
            "http://localhost:4318/v1/traces",
        ),
        (
            None,
            None,
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf OTEL_EXPORTER_OTLP_ENDPOINT=http://c:1/base/",
            Protocol::Http,
            "http://c:1/base/v1/traces",
        ),
        (
            None,
            Some(Protocol::Http),
            "OTEL_EXPORTER_OTLP_PROTOCOL=grpc OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://c:1/x",
            Protocol::Http,
            "http://c:1/x",
        ),
        (
            Some("http://mine:9"),
            Some(Protocol::Http),
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://c:1/x",
            Protocol::Http,
            "http://mine:9/v1/traces",
        ),
        (
            Some("http://mine:9/all"),
            Some(Protocol::Http),
            "",
            Protocol::Http,
            "http://mine:9/all",
        ),
        (Some("https://mine:9"), None, "", Protocol::Grpc, "https://mine:9"),
    ];
    for (endpoint, protocol, variables, expected_protocol, expected) in cases {
        let spec = TraceSpec {
            endpoint: endpoint.map(str::to_owned),
            protocol,
            ..spec()
        };
        let settled = spec.settle(&environment(variables)).unwrap();
        assert_eq!(
            (settled.protocol, settled.endpoint.as_str()),
            (expected_protocol, expected),
            "{spec:?} {variables}"
        );
    }
}

#[test]
fn the_service_is_kvtier_unless_somebody_says_otherwise() {
    let named = |name: Option<&str>, variables| {
        let spec = TraceSpec {
            service_name: name.map(str::to_owned),
            ..spec()
        };
        spec.settle(&environment(variables)).unwrap().service_name
    };
    assert_eq!(named(None, "").as_deref(), Some("kvtier"));
    assert_eq!(named(None, "OTEL_SERVICE_NAME=x"), None);
    assert_eq!(named(None, "OTEL_RESOURCE_ATTRIBUTES=service.name=x"), None);
    assert_eq!(
        named(Some("mine"), "OTEL_SERVICE_NAME=x").as_deref(),
        Some("mine")
    );
}

#[test]
fn a_variable_without_sense_is_named() {
    let cases = [
        (
            "OTEL_EXPORTER_OTLP_PROTOCOL=http/json",
            "OTEL_EXPORTER_OTLP_PROTOCOL: want \"grpc\" or \"http/protobuf\", got \"http/json\"",
        ),
        (
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT=10s",
            "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT: want milliseconds from 1 to 3600000, got \"10s\"",
        ),
    ];
    for (variables, expected) in cases {
        let error = spec().settle(&environment(variables)).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let settled = spec()
        .settle(&environment("OTEL_EXPORTER_OTLP_TIMEOUT=1500"))
        .unwrap();
    assert_eq!(settled.timeout, Duration::from_millis(1500));
}

#[test]
fn headers_come_from_a_file_and_never_into_an_error() {
    let settle = |text: &[u8]| {
        let headers = Content {
            path: "/headers".into(),
            bytes: text.to_vec(),
        };
        let spec = TraceSpec {
            headers: Some(headers),
            ..spec()
        };
        assert!(!format!("{spec:?}").contains("secret"));
        spec.settle(&environment(""))
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        settle(b"# for the collector\n\nauthorization: Bearer a:b\nx-team:kv\n")
            .unwrap()
            .headers,
        [pair("authorization", "Bearer a:b"), pair("x-team", "kv")]
    );
    let error = settle(b"x: y\nsecret\n").unwrap_err().to_string();
    assert_eq!(
        error,
        "tracing.headers-file: want \"name: value\" in line 2 of /headers"
    );
    let error = settle(b"secret: \xff").unwrap_err().to_string();
    assert_eq!(error, "tracing.headers-file: /headers is no UTF-8");
}

#[test]
fn opentelemetry_may_be_switched_off_as_a_whole() {
    assert!(TraceSpec::is_disabled(&environment("OTEL_SDK_DISABLED=TRUE")));
    assert!(!TraceSpec::is_disabled(&environment("OTEL_SDK_DISABLED=0")));
}
