//! `/metrics`, `/healthz`, `/readyz` and a page for people over plain HTTP.
//!
//! Anybody who can reach the port may ask, so nothing is changed here, and who asks slowly, or nothing, or reads no answer,
//! keeps nobody else from being answered.

use std::convert::Infallible;
use std::fmt::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tonic::Status;
use tracing::{debug, error, info};

use super::Shared;
use super::exposition::Format;
use super::families;
use super::page;
use super::places::{Place, Places, Watched};
use super::scrape::{self, Known};
use crate::engine_thread::inquiry::Inquiry;

/// Connections at one time; for one more the one that has been idle for longest is closed.
const CONNECTIONS: usize = 32;
/// How long a request's head may take, and the next one of a connection.
const HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// How long an answer may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// How long an answer may be on its way while nothing of it is taken.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// How long to let things be when the system has no descriptors or memory for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the answers need.
#[derive(Debug)]
struct Pages {
    shared: Arc<Shared>,
    known: std::sync::Mutex<Known>,
}

/// Serves until the runtime ends.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(cause) => return error!(%cause, "metrics cannot be served"),
    };
    if let Ok(address) = listener.local_addr() {
        info!(%address, "metrics and probes are served");
    }
    let pages = Arc::new(Pages {
        shared,
        known: std::sync::Mutex::default(),
    });
    let places = Places::new(CONNECTIONS);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let place = Arc::new(places.take().await);
                tokio::spawn(answer_all(stream, place, Arc::clone(&pages)));
            }
            Err(cause) => {
                error!(%cause, "could not accept a connection for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer_all(stream: TcpStream, place: Arc<Place>, pages: Arc<Pages>) {
    let service = service_fn(|request| {
        let (pages, place) = (Arc::clone(&pages), Arc::clone(&place));
        async move {
            let _answering = place.answering();
            Ok::<_, Infallible>(pages.answer(&request).await)
        }
    });
    let stream = Watched::new(stream, Arc::clone(&place), WRITE_PATIENCE);
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    tokio::select! {
        served = server.serve_connection(TokioIo::new(stream), service) => if let Err(cause) = served {
            debug!(%cause, "a connection for metrics ended badly");
        },
        () = place.left() => debug!("an idle connection for metrics was closed for a new one"),
    }
}

impl Pages {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "want GET\n".to_owned());
        }
        let accept = request.headers().get(ACCEPT);
        let accept = accept.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let answer = async {
            match request.uri().path() {
                "/" => page::page(),
                "/api/status" => self.status().await,
                "/metrics" => self.metrics(Format::accepted(accept)).await,
                "/healthz" => self.health().await,
                "/readyz" => self.readiness(),
                other => {
                    let known = "/, /api/status, /metrics, /healthz and /readyz";
                    let other: String = other.chars().take(100).collect();
                    text(
                        StatusCode::NOT_FOUND,
                        format!("there is no {other}; want {known}\n"),
                    )
                }
            }
        };
        let late = || {
            text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("an engine thread did not answer within {ANSWER_DEADLINE:?}\n"),
            )
        };
        tokio::time::timeout(ANSWER_DEADLINE, answer)
            .await
            .unwrap_or_else(|_| late())
    }

    async fn metrics(&self, format: Format) -> Response<Full<Bytes>> {
        let scrape = match scrape::gather(&self.shared, &self.known).await {
            Ok(scrape) => scrape,
            Err(status) => return failed(&status),
        };
        let body = families::write(&scrape, format);
        let mut response = Response::new(Full::new(Bytes::from(body)));
        let content_type = hyper::header::HeaderValue::from_static(format.content_type());
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }

    /// What the page shows.
    async fn status(&self) -> Response<Full<Bytes>> {
        let scrape = match scrape::gather(&self.shared, &self.known).await {
            Ok(scrape) => scrape,
            Err(status) => return failed(&status),
        };
        page::status(&self.shared, &scrape)
            .unwrap_or_else(|error| failed(&Status::internal(error.to_string())))
    }

    /// Alive means that every engine thread answers.
    async fn health(&self) -> Response<Full<Bytes>> {
        for tenant in self.shared.tenants() {
            let question = |reply| Inquiry::Residency {
                keys: Vec::new(),
                reply,
            };
            if let Err(status) = self.shared.ask(tenant, question).await {
                return failed(&status);
            }
        }
        text(StatusCode::OK, "ok\n".to_owned())
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        match self.shared.readiness.waiting_for() {
            None => text(StatusCode::OK, "ready\n".to_owned()),
            Some(what) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {what}\n")),
        }
    }
}

fn failed(status: &Status) -> Response<Full<Bytes>> {
    let mut body = String::new();
    let _ = writeln!(body, "{}", status.message());
    text(StatusCode::SERVICE_UNAVAILABLE, body)
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let content_type = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
