//! Spans in the words of OpenTelemetry, and the way to a collector.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{SpanContext, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, StringValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter as _, SpanLinks};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use crate::client::{Client, Trouble};
use crate::spec::Settled;
use crate::{Kind, Protocol, Span, StartError, TraceSpec, Value};

/// The way to a collector.
#[derive(Debug)]
pub(crate) struct Collector {
    exporter: SpanExporter,
    scope: InstrumentationScope,
    timeout: Duration,
    /// What went wrong over HTTP.
    trouble: Trouble,
}

impl Collector {
    /// Prepares the way; nobody is connected to yet. Within a runtime.
    pub(crate) fn new(spec: &TraceSpec, settled: Settled) -> Result<Self, StartError> {
        let timeout = settled.timeout;
        let resource = resource(spec, settled.service_name.as_deref());
        let trouble = Trouble::default();
        let mut exporter = match settled.protocol {
            Protocol::Grpc => grpc(spec, &settled)?,
            Protocol::Http => http(spec, settled, trouble.clone())?,
        };
        exporter.set_resource(&resource);
        let scope = InstrumentationScope::builder("kvtier")
            .with_version(spec.version)
            .build();
        Ok(Self {
            exporter,
            scope,
            timeout,
            trouble,
        })
    }

    /// Sends a batch, or says why not, in the time that is allowed.
    pub(crate) async fn send(&self, spans: Vec<Span>) -> Result<(), String> {
        let batch = spans.into_iter().map(|span| self.convert(span)).collect();
        // An attempt may have failed before one that came through.
        drop(self.trouble.take());
        match tokio::time::timeout(self.timeout, self.exporter.export(batch)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(match self.trouble.take() {
                Some(trouble) => format!("{error}: {trouble}"),
                None => error.to_string(),
            }),
            Err(_) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }

    fn convert(&self, span: Span) -> SpanData {
        let mut attributes: Vec<KeyValue> = span
            .attributes
            .into_iter()
            .map(|(name, value)| KeyValue::new(name, converted(value)))
            .collect();
        let status = match span.error {
            Some(error) => {
                attributes.push(KeyValue::new("error.type", error));
                Status::error(error)
            }
            None => Status::Unset,
        };
        SpanData {
            span_context: SpanContext::new(
                opentelemetry::TraceId::from_bytes(span.trace.0),
                opentelemetry::SpanId::from_bytes(span.id.0),
                TraceFlags::SAMPLED,
                false,
                TraceState::default(),
            ),
            parent_span_id: opentelemetry::SpanId::from_bytes(span.parent.map_or([0; 8], |parent| parent.0)),
            parent_span_is_remote: span.is_parent_remote,
            span_kind: match span.kind {
                Kind::Internal => SpanKind::Internal,
                Kind::Server => SpanKind::Server,
            },
            name: span.name.into(),
            start_time: moment(span.start_ns),
            end_time: moment(span.end_ns),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

fn converted(value: Value) -> opentelemetry::Value {
    match value {
        // Counts never come near 2^63.
        Value::Number(number) => opentelemetry::Value::I64(i64::try_from(number).unwrap_or(i64::MAX)),
        Value::Name(name) => name.into(),
        Value::Text(text) => StringValue::from(text).into(),
    }
}

fn moment(unix_ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(unix_ns)
}

/// Who is telling. What the environment says of the resource is in it.
fn resource(spec: &TraceSpec, service_name: Option<&str>) -> Resource {
    let mut builder = Resource::builder();
    if let Ok(host) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        builder = builder.with_attribute(KeyValue::new("host.name", host.trim().to_owned()));
    }
    builder = builder
        .with_attribute(KeyValue::new("service.version", spec.version))
        .with_attribute(KeyValue::new("service.instance.id", spec.instance.clone()));
    let said = spec.resource.iter();
    builder = builder.with_attributes(said.map(|(name, value)| KeyValue::new(name.clone(), value.clone())));
    match service_name {
        Some(name) => builder.with_service_name(name.to_owned()).build(),
        None => builder.build(),
    }
}

fn grpc(spec: &TraceSpec, settled: &Settled) -> Result<SpanExporter, StartError> {
    let wrong = |error: tonic::transport::Error| StartError::Exporter(chain(&error));
    let mut endpoint = Endpoint::from_shared(settled.endpoint.clone())
        .map_err(wrong)?
        .connect_timeout(settled.timeout)
        .timeout(settled.timeout);
    if settled.endpoint.starts_with("https://") {
        let tls = ClientTlsConfig::new();
        let tls = match &spec.ca {
            Some(ca) => tls.ca_certificate(Certificate::from_pem(&ca.bytes)),
            None => tls.with_native_roots(),
        };
        endpoint = endpoint.tls_config(tls).map_err(wrong)?;
    }
    let mut metadata = MetadataMap::new();
    for (name, value) in &settled.headers {
        let key = MetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes());
        match (key, MetadataValue::try_from(value)) {
            (Ok(key), Ok(value)) => metadata.insert(key, value),
            _ => return Err(bad_header(name)),
        };
    }
    SpanExporter::builder()
        .with_tonic()
        .with_channel(endpoint.connect_lazy())
        .with_metadata(metadata)
        .with_timeout(settled.timeout)
        .build()
        .map_err(|error| StartError::Exporter(chain(&error)))
}

fn http(spec: &TraceSpec, settled: Settled, trouble: Trouble) -> Result<SpanExporter, StartError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError::Exporter(error.to_string()))?
        .with_root_certificates(roots(spec, settled.endpoint.starts_with("https://"))?)
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        // The headers are this collector's, and may be secrets.
        .redirect(reqwest::redirect::Policy::none())
        .timeout(settled.timeout)
        .build()
        .map_err(|error| StartError::Exporter(chain(&error)))?;
    if let Some((name, _)) = settled.headers.iter().find(|(name, value)| {
        reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err()
            || reqwest::header::HeaderValue::from_str(value).is_err()
    }) {
        return Err(bad_header(name));
    }
    SpanExporter::builder()
        .with_http()
        .with_http_client(Client::new(client, trouble))
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        .with_endpoint(settled.endpoint)
        .with_headers(settled.headers.into_iter().collect())
        .with_timeout(settled.timeout)
        .build()
        .map_err(|error| StartError::Exporter(chain(&error)))
}

/// Whom a collector's certificate is checked against.
fn roots(spec: &TraceSpec, is_needed: bool) -> Result<rustls::RootCertStore, StartError> {
    let mut roots = rustls::RootCertStore::empty();
    match &spec.ca {
        _ if !is_needed => {}
        Some(ca) => {
            let wrong = |text: String| bad_ca(&ca.path, &text);
            for certificate in CertificateDer::pem_slice_iter(&ca.bytes) {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(wrong("it has no certificate".to_owned()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

fn bad_ca(path: &Path, text: &str) -> StartError {
    StartError::Value {
        name: "tracing.ca-file",
        text: format!("{}: {text}", path.display()),
    }
}

/// The value is not told: it may be a secret.
fn bad_header(name: &str) -> StartError {
    StartError::Value {
        name: "tracing.headers-file",
        text: format!("header {name:?} is none, or its value cannot be sent"),
    }
}

/// An error with what caused it.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
