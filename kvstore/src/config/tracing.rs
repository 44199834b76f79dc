//! Traces: whether and where they are sent, and their keys.

use std::path::PathBuf;
use std::time::Duration;

use kvstore_trace::Protocol;

use super::Config;
use super::events::{show_list, texts};
use super::keys::{Key, quoted};
use super::read::{self, Choice, Raw};
use super::remote_keys::{endpoint, path_or_none};
use super::units::format_duration;

/// Longest name of a service, and of an attribute's name and value together.
const TEXT_BYTES_MAX: usize = 256;

/// Whether and where traces are sent. What is none is as OpenTelemetry's variables say, or its defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct TracingConfig {
    /// Whether traces are recorded at all.
    pub exporter: TraceExporter,
    /// The collector's address.
    pub endpoint: Option<String>,
    /// How spans travel.
    pub protocol: Option<Protocol>,
    /// The part of requests that is followed, of those that nobody else follows.
    pub sample_ratio: f64,
    /// A file with headers that go with each request.
    pub headers_file: Option<PathBuf>,
    /// A file with the CA of collectors.
    pub ca_file: Option<PathBuf>,
    /// How long sending one batch may take.
    pub timeout: Option<Duration>,
    /// As whom the daemon is shown.
    pub service_name: Option<String>,
    /// What else is said of it: names and values.
    pub resource: Vec<(String, String)>,
    /// Most spans that wait.
    pub queue_spans: usize,
}

/// Whether traces are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceExporter {
    /// No.
    None,
    /// Yes, for a collector that speaks OTLP.
    Otlp,
}

impl Choice for TraceExporter {
    const NAMES: &'static [(&'static str, Self)] = &[("none", Self::None), ("otlp", Self::Otlp)];
}

impl Choice for Protocol {
    const NAMES: &'static [(&'static str, Self)] = &[("grpc", Self::Grpc), ("http/protobuf", Self::Http)];
}

impl Default for TracingConfig {
    fn default() -> Self {
        Self {
            exporter: TraceExporter::None,
            endpoint: None,
            protocol: None,
            sample_ratio: 0.01,
            headers_file: None,
            ca_file: None,
            timeout: None,
            service_name: None,
            resource: Vec::new(),
            queue_spans: 2048,
        }
    }
}

/// What only shows when several keys are seen together, each with the key to blame.
pub(super) fn check(config: &Config) -> Vec<(String, String)> {
    let ratio = config.tracing.sample_ratio;
    let mut problems = Vec::new();
    if !(0.0..=1.0).contains(&ratio) {
        problems.push((
            "tracing.sample-ratio".to_owned(),
            format!("want 0 to 1, got {ratio}"),
        ));
    }
    problems
}

fn attributes(raw: Raw<'_>) -> Result<Vec<(String, String)>, String> {
    let want = "want a list of \"name=value\", each name once";
    let mut attributes: Vec<(String, String)> = Vec::new();
    for text in texts(raw).ok_or(want)? {
        let Some((name, value)) = text.split_once('=').filter(|_| text.len() <= TEXT_BYTES_MAX) else {
            return Err(format!("{want}, got {text:?}"));
        };
        let (name, value) = (name.trim(), value.trim());
        if name.is_empty() || attributes.iter().any(|(other, _)| other == name) {
            return Err(format!("{want}, got {text:?}"));
        }
        attributes.push((name.to_owned(), value.to_owned()));
    }
    Ok(attributes)
}

fn name(raw: Raw<'_>) -> Result<String, String> {
    let text = read::text(raw).unwrap_or_default();
    let is_plain = |letter: char| letter.is_ascii_graphic() || letter == ' ';
    if (1..=TEXT_BYTES_MAX).contains(&text.len()) && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "want a name in ASCII of 1 to {TEXT_BYTES_MAX} bytes, got {text:?}"
        ))
    }
}

pub(super) const EXPORTER: Key = Key {
    name: "tracing.exporter",
    default: "none",
    bounds: "\"none\" or \"otlp\"",
    doc: "Whether what becomes of requests is recorded as traces and sent to an OpenTelemetry collector: docs/traces.md. With \
          \"none\" nobody is connected to, and engines do nothing for it.",
    set: |config, raw| read::choice(raw).map(|exporter| config.tracing.exporter = exporter),
    show: |config| Some(quoted(config.tracing.exporter.name())),
};
pub(super) const ENDPOINT: Key = Key {
    name: "tracing.endpoint",
    default: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT, else http://localhost:4317, with \
              http/protobuf http://localhost:4318",
    bounds: "http:// or https:// and a host, without user, password or query",
    doc: "The collector. With http/protobuf an address without a path gets /v1/traces.",
    set: |config, raw| endpoint(raw).map(|endpoint| config.tracing.endpoint = endpoint),
    show: |config| config.tracing.endpoint.as_ref().map(quoted),
};
pub(super) const PROTOCOL: Key = Key {
    name: "tracing.protocol",
    default: "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL or OTEL_EXPORTER_OTLP_PROTOCOL, else grpc",
    bounds: "\"grpc\" or \"http/protobuf\"",
    doc: "How spans travel to it.",
    set: |config, raw| read::choice(raw).map(|protocol| config.tracing.protocol = Some(protocol)),
    show: |config| config.tracing.protocol.map(|protocol| quoted(protocol.name())),
};
pub(super) const SAMPLE_RATIO: Key = Key {
    name: "tracing.sample-ratio",
    default: "0.01",
    bounds: "0 to 1",
    doc: "The part of requests that is followed, chosen by trace id, of those that come without a trace. A request that comes \
          with one (the traceparent header at vLLM) is followed if its sender records it, and only then.",
    set: |config, raw| read::fraction(raw).map(|ratio| config.tracing.sample_ratio = ratio),
    show: |config| Some(format!("{:?}", config.tracing.sample_ratio)),
};
pub(super) const HEADERS_FILE: Key = Key {
    name: "tracing.headers-file",
    default: "none; OTEL_EXPORTER_OTLP_HEADERS holds in any case",
    bounds: "\"none\", or an absolute path",
    doc: "A file with headers for the collector, \"name: value\" in each line, such as an authorization. Read when the daemon \
          starts.",
    set: |config, raw| path_or_none(raw).map(|path| config.tracing.headers_file = path),
    show: |config| {
        let path = config.tracing.headers_file.as_ref();
        path.map(|path| quoted(path.display()))
    },
};
pub(super) const CA_FILE: Key = Key {
    name: "tracing.ca-file",
    default: "none: the system's",
    bounds: "\"none\", or an absolute path",
    doc: "A PEM file with the CA of an https collector.",
    set: |config, raw| path_or_none(raw).map(|path| config.tracing.ca_file = path),
    show: |config| {
        let path = config.tracing.ca_file.as_ref();
        path.map(|path| quoted(path.display()))
    },
};
pub(super) const TIMEOUT: Key = Key {
    name: "tracing.timeout",
    default: "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT or OTEL_EXPORTER_OTLP_TIMEOUT (milliseconds), else 10s",
    bounds: "10ms to 1min",
    doc: "How long sending one batch of spans may take.",
    set: |config, raw| {
        read::duration(raw, Duration::from_millis(10), Duration::from_mins(1))
            .map(|timeout| config.tracing.timeout = Some(timeout))
    },
    show: |config| {
        config
            .tracing
            .timeout
            .map(|timeout| quoted(format_duration(timeout)))
    },
};
pub(super) const SERVICE_NAME: Key = Key {
    name: "tracing.service-name",
    default: "OTEL_SERVICE_NAME, else kvtier",
    bounds: "a name in ASCII of at most 256 bytes",
    doc: "As whom the daemon is shown.",
    set: |config, raw| name(raw).map(|name| config.tracing.service_name = Some(name)),
    show: |config| config.tracing.service_name.as_ref().map(quoted),
};
pub(super) const RESOURCE_ATTRIBUTES: Key = Key {
    name: "tracing.resource-attributes",
    default: "[]",
    bounds: "a list of \"name=value\" (comma-separated in the environment)",
    doc: "What else is said of the daemon, such as \"deployment.environment.name=production\". OTEL_RESOURCE_ATTRIBUTES holds \
          as well; what stands here goes before it.",
    set: |config, raw| attributes(raw).map(|list| config.tracing.resource = list),
    show: |config| {
        let pairs = config.tracing.resource.iter();
        Some(show_list(pairs.map(|(name, value)| format!("{name}={value}"))))
    },
};
pub(super) const QUEUE_SPANS: Key = Key {
    name: "tracing.queue-spans",
    default: "2048",
    bounds: "64 to 65536",
    doc: "Most spans that wait to be sent, about 1 KiB each. What finds no room is dropped and counted.",
    set: |config, raw| read::count(raw, 64, 1 << 16).map(|count| config.tracing.queue_spans = count),
    show: |config| Some(config.tracing.queue_spans.to_string()),
};
