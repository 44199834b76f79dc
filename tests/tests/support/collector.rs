//! A collector: an OTLP endpoint that keeps what it is sent, refuses it, or never answers.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tonic::transport::ServerTlsConfig;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::eventually;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mood {
    Takes = 0,
    Refuses = 1,
    Hangs = 2,
}

/// What it has.
#[derive(Debug, Default)]
struct Kept {
    spans: Mutex<Vec<Span>>,
    resource: Mutex<BTreeMap<String, String>>,
    /// Headers of the last request.
    headers: Mutex<BTreeMap<String, String>>,
    requests: AtomicUsize,
    mood: AtomicU8,
}

/// A collector that listens.
pub(crate) struct Collector {
    kept: Arc<Kept>,
    address: SocketAddr,
    scheme: &'static str,
}

/// What a collector shows, and whom it is issued by: itself.
pub(crate) struct Identity(CertifiedKey<KeyPair>);

impl Identity {
    /// A new one, good for this machine as `localhost`.
    pub(crate) fn new() -> Self {
        Self(generate_simple_self_signed(["localhost".to_owned()]).unwrap())
    }

    /// What a client that trusts it has in a file.
    pub(crate) fn pem(&self) -> String {
        self.0.cert.pem()
    }

    fn rustls(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.0.cert.der().clone()], key);
        Arc::new(config.unwrap())
    }

    fn tonic(&self) -> ServerTlsConfig {
        let key = self.0.signing_key.serialize_pem();
        ServerTlsConfig::new().identity(tonic::transport::Identity::from_pem(self.pem(), key))
    }
}

impl Collector {
    /// One that speaks gRPC.
    pub(crate) fn grpc(mood: Mood) -> Self {
        Self::grpc_as(mood, None)
    }

    /// The same, within TLS.
    pub(crate) fn grpc_tls(identity: &Identity) -> Self {
        Self::grpc_as(Mood::Takes, Some(identity.tonic()))
    }

    fn grpc_as(mood: Mood, tls: Option<ServerTlsConfig>) -> Self {
        let (kept, listener) = prepare(mood);
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let service = Service(Arc::clone(&kept));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let mut server = tonic::transport::Server::builder();
                if let Some(tls) = tls {
                    server = server.tls_config(tls).unwrap();
                }
                server
                    .add_service(TraceServiceServer::new(service))
                    .serve_with_incoming(TcpIncoming::from(listener))
                    .await
            })
        });
        Self {
            kept,
            address,
            scheme,
        }
    }

    /// One that speaks HTTP.
    pub(crate) fn http() -> Self {
        Self::http_as(None, None)
    }

    /// One that speaks HTTP and sends everybody on to another, which it names by another host.
    pub(crate) fn http_elsewhere(other: &Self) -> Self {
        let port = other.address.port();
        Self::http_as(None, Some(format!("http://localhost:{port}/v1/traces")))
    }

    /// The same, within TLS.
    pub(crate) fn http_tls(identity: &Identity) -> Self {
        Self::http_as(Some(identity.rustls()), None)
    }

    fn http_as(tls: Option<Arc<ServerConfig>>, elsewhere: Option<String>) -> Self {
        let (kept, listener) = prepare(Mood::Takes);
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(false).unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::clone(&kept);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (kept, tls, stream) = (Arc::clone(&shared), tls.clone(), stream.unwrap());
                let elsewhere = elsewhere.clone();
                std::thread::spawn(move || match tls {
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).unwrap();
                        serve_http(StreamOwned::new(connection, stream), &kept, elsewhere.as_deref());
                    }
                    None => serve_http(stream, &kept, elsewhere.as_deref()),
                });
            }
        });
        Self {
            kept,
            address,
            scheme,
        }
    }

    /// Where it listens.
    pub(crate) fn endpoint(&self) -> String {
        match self.scheme {
            // Certificates are of names.
            "https" => format!("https://localhost:{}", self.address.port()),
            scheme => format!("{scheme}://{}", self.address),
        }
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.kept.mood.store(mood as u8, Ordering::Relaxed);
    }

    /// Requests that have come.
    pub(crate) fn requests(&self) -> usize {
        self.kept.requests.load(Ordering::Relaxed)
    }

    /// All spans it has.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.kept.spans.lock().unwrap().clone()
    }

    /// Waits until it has so many spans of this name.
    pub(crate) fn wait_for(&self, name: &str, count: usize) -> Vec<Span> {
        eventually(&format!("{count} of {name}, of {:?}", self.names()), || {
            let spans = self.spans();
            let found = spans.iter().filter(|span| span.name == name).count();
            (found >= count).then_some(spans)
        })
    }

    fn names(&self) -> Vec<String> {
        self.spans().into_iter().map(|span| span.name).collect()
    }

    pub(crate) fn resource(&self) -> BTreeMap<String, String> {
        self.kept.resource.lock().unwrap().clone()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        self.kept.headers.lock().unwrap().get(name).cloned()
    }
}

fn prepare(mood: Mood) -> (Arc<Kept>, TcpListener) {
    let kept = Arc::new(Kept::default());
    kept.mood.store(mood as u8, Ordering::Relaxed);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    (kept, listener)
}

impl Kept {
    fn keep(&self, request: ExportTraceServiceRequest) {
        for of_resource in request.resource_spans {
            let attributes = of_resource.resource.unwrap_or_default().attributes;
            *self.resource.lock().unwrap() = texts(&attributes);
            for of_scope in of_resource.scope_spans {
                self.spans.lock().unwrap().extend(of_scope.spans);
            }
        }
    }
}

struct Service(Arc<Kept>);

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let kept = &self.0;
        kept.requests.fetch_add(1, Ordering::Relaxed);
        let mood = kept.mood.load(Ordering::Relaxed);
        if mood == Mood::Refuses as u8 {
            return Err(Status::permission_denied("not you"));
        }
        if mood == Mood::Hangs as u8 {
            std::future::pending::<()>().await;
        }
        let headers = request.metadata().clone().into_headers();
        *kept.headers.lock().unwrap() = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
            .collect();
        kept.keep(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// One connection: requests with a length each, answered one by one.
fn serve_http(stream: impl Read + Write, kept: &Kept, elsewhere: Option<&str>) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            if line == "\r\n" {
                break;
            }
            lines.push(line.trim_end().to_owned());
        }
        let headers: BTreeMap<String, String> = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut body = vec![0; headers["content-length"].parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        let is_ours =
            lines[0].starts_with("POST /v1/traces ") && headers["content-type"] == "application/x-protobuf";
        kept.requests.fetch_add(1, Ordering::Relaxed);
        *kept.headers.lock().unwrap() = headers;
        let status = if let Some(elsewhere) = elsewhere {
            format!("307 Temporary Redirect\r\nlocation: {elsewhere}")
        } else if is_ours {
            kept.keep(ExportTraceServiceRequest::decode(body.as_slice()).unwrap());
            "200 OK".to_owned()
        } else {
            "404 Not Found".to_owned()
        };
        write!(reader.get_mut(), "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").unwrap();
    }
}

/// Attributes as text.
pub(crate) fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .iter()
        .map(|attribute| (attribute.key.clone(), text(attribute)))
        .collect()
}
