//! The admin API and the probes: gRPC over a unix socket of its own and, with TLS, over a port; and `/metrics`, `/healthz`, `/readyz` and a page
//! for people over HTTP if a port is configured.
//!
//! ```text
//!   kvtier ─▶ unix socket, TLS ─▶ access ─▶ service ─┬─▶ questions, one command each ─▶ engine threads
//!   Prometheus, kubelet ─▶ TCP ─▶ http ─────────┘      settings ─▶ main thread ─▶ reload
//! ```
//!
//! What always holds
//! - All of it runs on one thread, `kvt-admin`, which neither clients nor engines wait for; if it ends, they go on.
//! - Each question to an engine thread is a bounded piece of work and takes one of [`PLACES`] places until it is answered.
//! - Connections are bounded, and one that is over gives back everything.
//! - Nothing is changed for anybody but root, the daemon's own user and the certificates that are named, and each change is a line in the log.

mod access;
mod certificates;
mod change;
mod event_families;
mod exposition;
mod families;
mod http;
mod listener;
mod names;
mod nvme_families;
mod owner_families;
mod page;
mod peer;
mod pins;
mod places;
mod remote_families;
mod removal;
mod scrape;
mod service;
mod show;
mod show_remote;
mod tls_families;
mod trace_families;
mod watching;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvstore_events::WatchSource;
use kvstore_trace::Recorder;
use kvstore_types::BootEpoch;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tonic::Status;
use tracing::{error, info};

pub(crate) use self::certificates::Certificates;
use self::listener::TlsPort;
use crate::config::Config;
use crate::engine_thread::command::{Command, CommandSender};
use crate::engine_thread::inquiry::{Ask, Inquiry, Summary};
use crate::instance::{Instance, InstanceError, PATIENCE};
use crate::notices::Notices;
use crate::readiness::Readiness;
use crate::reload::{Set, SetError};
use crate::tenant::error_chain;

/// Questions to engine threads that are under way.
const PLACES: usize = 64;
/// How long the end of the daemon waits for calls under way.
const END_DEADLINE: Duration = Duration::from_secs(1);

/// What the main thread does for the admin API.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Values are to be set.
    Set {
        /// Keys as in the configuration file.
        settings: std::collections::BTreeMap<String, String>,
        /// Only to be explained.
        is_dry_run: bool,
        /// Who asks.
        reply: oneshot::Sender<Result<Vec<Set>, SetError>>,
    },
}

/// What the thread needs from its beginning.
#[derive(Debug)]
pub(crate) struct Start {
    /// Names this life of the daemon.
    pub(crate) boot_epoch: BootEpoch,
    /// What holds.
    pub(crate) config: watch::Receiver<Arc<Config>>,
    /// Whether everything is up.
    pub(crate) readiness: Readiness,
    /// The way to the main thread.
    pub(crate) wishes: mpsc::Sender<Wish>,
    /// What happened last.
    pub(crate) notices: Notices,
    /// Where spans are recorded, if they are.
    pub(crate) traces: Option<Recorder>,
}

/// The places that are served: the admin socket's, which is bound later, and ports.
#[derive(Debug)]
pub(crate) struct AdminPlace {
    instance: Instance,
    tls: Option<TlsPort>,
    http: Option<TcpListener>,
}

/// Why a place cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminPlaceError {
    /// The admin socket's.
    #[error("admin.socket")]
    Socket(#[from] InstanceError),
    /// A port's.
    #[error("{key}: could not listen on {address}")]
    Port {
        /// Which key names it.
        key: &'static str,
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

impl AdminPlace {
    /// Takes them, before anything costs anything. `tls` is how TLS is spoken, if it is.
    pub(crate) fn take(config: &Config, tls: Option<Arc<Certificates>>) -> Result<Self, AdminPlaceError> {
        let instance = Instance::acquire(&config.admin_socket(), config.socket_group, PATIENCE)?;
        instance.inspect()?;
        let http = config
            .metrics
            .listen
            .map(|address| bind("metrics.listen", address));
        let tls = config.admin.listen.zip(tls).map(|(address, certificates)| {
            bind("admin.listen", address).map(|listener| TlsPort {
                listener,
                certificates,
            })
        });
        Ok(Self {
            instance,
            tls: tls.transpose()?,
            http: http.transpose()?,
        })
    }
}

fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, AdminPlaceError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| AdminPlaceError::Port { key, address, source })
}

/// What the thread needs to serve gRPC.
#[derive(Debug)]
struct Opened {
    listener: UnixListener,
    tls: Option<TlsPort>,
    tenants: Vec<TenantDoor>,
    events: Option<WatchSource>,
}

/// A tenant as the admin API knows it.
#[derive(Clone, Debug)]
pub(crate) struct TenantDoor {
    /// Its name.
    pub(crate) name: String,
    /// The way to its engine thread.
    pub(crate) commands: CommandSender,
}

/// The running thread. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct AdminThread {
    open: Option<oneshot::Sender<Opened>>,
    stop: Option<oneshot::Sender<()>>,
    handle: Option<JoinHandle<()>>,
    tls: Option<TlsPort>,
    /// Dropped last: the socket goes when nobody serves it any more.
    instance: Instance,
}

impl AdminThread {
    /// Starts it. Probes are answered from now on; everything else from [`open`](Self::open) on.
    pub(crate) fn start(place: AdminPlace, start: Start) -> io::Result<Self> {
        let AdminPlace { instance, tls, http } = place;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (open, opened) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let certificates = tls.as_ref().map(|port| Arc::clone(&port.certificates));
        let handle = std::thread::Builder::new()
            .name("kvt-admin".to_owned())
            .spawn(move || {
                runtime.block_on(serve(start, http, certificates, (opened, stopped)));
                // Connections that are left have nobody to wait for.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            open: Some(open),
            stop: Some(stop),
            handle: Some(handle),
            tls,
            instance,
        })
    }

    /// Serves gRPC from now on. The tenants are in the order of the configuration; `events` is none if nobody keeps them.
    pub(crate) fn open(
        &mut self,
        tenants: Vec<TenantDoor>,
        events: Option<WatchSource>,
    ) -> Result<(), AdminPlaceError> {
        let (listener, _) = self.instance.bind()?;
        let opened = Opened {
            listener,
            tls: self.tls.take(),
            tenants,
            events,
        };
        if let Some(open) = self.open.take()
            && open.send(opened).is_err()
        {
            error!("the admin thread has ended by itself; the daemon goes on without the admin API");
        }
        Ok(())
    }
}

impl Drop for AdminThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            error!("the admin thread panicked");
        }
    }
}

/// Everything that calls share.
#[derive(Debug)]
pub(crate) struct Shared {
    boot_epoch: BootEpoch,
    since: Instant,
    config: watch::Receiver<Arc<Config>>,
    readiness: Readiness,
    wishes: mpsc::Sender<Wish>,
    notices: Notices,
    traces: Option<Recorder>,
    tenants: OnceLock<Vec<TenantDoor>>,
    places: Arc<Semaphore>,
    events: OnceLock<WatchSource>,
    watchers: Arc<Semaphore>,
    /// Of the port, if there is one.
    certificates: Option<Arc<Certificates>>,
    /// Becomes true when the daemon ends.
    ended: watch::Receiver<bool>,
}

async fn serve(
    start: Start,
    http: Option<TcpListener>,
    certificates: Option<Arc<Certificates>>,
    (opened, stopped): (oneshot::Receiver<Opened>, oneshot::Receiver<()>),
) {
    let (end, ended) = watch::channel(false);
    let shared = Arc::new(Shared {
        boot_epoch: start.boot_epoch,
        since: Instant::now(),
        config: start.config,
        readiness: start.readiness,
        wishes: start.wishes,
        notices: start.notices,
        traces: start.traces,
        tenants: OnceLock::new(),
        places: Arc::new(Semaphore::new(PLACES)),
        events: OnceLock::new(),
        watchers: Arc::new(Semaphore::new(watching::WATCHERS)),
        certificates,
        ended,
    });
    if let Some(certificates) = &shared.certificates {
        tokio::spawn(Arc::clone(certificates).watch());
    }
    if let Some(listener) = http {
        tokio::spawn(http::serve(listener, Arc::clone(&shared)));
    }
    let serving = async {
        if let Ok(opened) = opened.await
            && let Err(failure) = serve_grpc(opened, &shared).await
        {
            error!(
                cause = error_chain(&*failure),
                "the admin API cannot be served; the daemon goes on without it"
            );
        }
    };
    tokio::pin!(serving);
    tokio::select! {
        // Whichever way the sender went, it is the end.
        _ = stopped => {}
        () = &mut serving => std::future::pending().await,
    }
    end.send_replace(true);
    // Calls that are under way get a moment; whatever they wait for has been told to end.
    let _ = tokio::time::timeout(END_DEADLINE, serving).await;
}

async fn serve_grpc(opened: Opened, shared: &Arc<Shared>) -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::UnixListener::from_std(opened.listener)?;
    // Opened once.
    let _ = shared.tenants.set(opened.tenants);
    if let Some(events) = opened.events {
        let _ = shared.events.set(events);
    }
    let mut ended = shared.ended.clone();
    let router = service::router(shared).await?;
    let end = async move {
        // A sender that is gone means the same.
        let _ = ended.wait_for(|end| *end).await;
    };
    let address = opened
        .tls
        .as_ref()
        .map(|port| port.listener.local_addr())
        .transpose()?;
    let incoming = listener::incoming(listener, opened.tls)?;
    info!("the admin API is served");
    if let Some(address) = address {
        info!(%address, "the admin API is served with TLS at a port as well");
    }
    router.serve_with_incoming_shutdown(incoming, end).await?;
    Ok(())
}

impl Shared {
    fn tenants(&self) -> &[TenantDoor] {
        self.tenants.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// The tenants of this name; all of them if it is empty.
    fn named(&self, name: &str) -> Result<Vec<&TenantDoor>, Status> {
        if name.is_empty() {
            return Ok(self.tenants().iter().collect());
        }
        Ok(vec![self.one(name)?])
    }

    /// The tenant of this name, or the only one there is.
    fn one(&self, name: &str) -> Result<&TenantDoor, Status> {
        let tenants = self.tenants();
        match tenants {
            [only] if name.is_empty() => return Ok(only),
            _ => {}
        }
        if let Some(found) = tenants.iter().find(|tenant| tenant.name == name) {
            return Ok(found);
        }
        let known: Vec<&str> = tenants.iter().map(|tenant| tenant.name.as_str()).collect();
        let known = known.join(", ");
        Err(if name.is_empty() {
            Status::invalid_argument(format!("tenant: want one of {known}"))
        } else {
            Status::not_found(format!("tenant: want one of {known}, got {name:?}"))
        })
    }

    /// Asks a tenant's engine thread.
    async fn ask<T>(
        &self,
        tenant: &TenantDoor,
        inquiry: impl FnOnce(oneshot::Sender<T>) -> Inquiry,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| ending())?;
        tenant.commands.send(Command::Ask(Box::new(Ask {
            inquiry: inquiry(reply),
            _place: place,
        })));
        // A thread that has ended drops the question.
        answer.await.map_err(|_| ending())
    }

    /// What all these tenants hold and count.
    async fn summaries(&self, name: &str) -> Result<Vec<(&TenantDoor, Box<Summary>)>, Status> {
        let mut summaries = Vec::new();
        for tenant in self.named(name)? {
            summaries.push((tenant, self.ask(tenant, Inquiry::Summary).await?));
        }
        Ok(summaries)
    }
}

fn ending() -> Status {
    Status::unavailable("the daemon is ending: it has been told to, and takes no more orders")
}
