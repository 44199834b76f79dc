//! Start and stop: the one file that names every room.
//!
//! Start: limits, lock, regions, engine threads, socket. Stop, in the reverse order: socket, drain, engine threads,
//! regions, lock. Nothing is touched before the configuration and the limits are known to be sound.

use std::fs::File;
use std::io::{self, Read};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kvstore_types::BootEpoch;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{JoinSet, LocalSet};
use tracing::{error, info, warn};

use crate::config::{Config, Loaded, format_size};
use crate::engine_thread::EngineThread;
use crate::engine_thread::command::Command;
use crate::exit::Exit;
use crate::ingress::{Door, Ingress};
use crate::instance::{Instance, InstanceError};
use crate::limits::{self, LimitError};
use crate::machine::Machine;
use crate::tenant::{Tenant, TenantError, error_chain};

/// Why the daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Limits(#[from] LimitError),
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error(transparent)]
    Tenant(#[from] TenantError),
    #[error("could not {what}")]
    System { what: &'static str, source: io::Error },
    #[error("a thread of the daemon ended by itself")]
    Engine,
}

impl Failure {
    fn exit(&self) -> Exit {
        match self {
            Self::Limits(_) => Exit::DoesNotFit,
            Self::Instance(_) => Exit::CannotServe,
            Self::Tenant(_) | Self::System { .. } => Exit::System,
            Self::Engine => Exit::Internal,
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |source| Failure::System { what, source }
}

/// Runs the daemon until a signal ends it. The log is running already.
pub fn run(loaded: &Loaded) -> Exit {
    for warning in &loaded.warnings {
        warn!(key = warning.key, "{}", warning.text);
    }
    match serve(&loaded.config) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            error!("{}", error_chain(&failure));
            failure.exit()
        }
    }
}

fn serve(config: &Config) -> Result<(), Failure> {
    let fit = limits::check(config, &Machine::of_process())?;
    log_start(config, &fit);
    check_descriptors(config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the runtime"))?;
    let mut signals = {
        let _context = runtime.enter();
        Signals::new().map_err(system("listen for signals"))?
    };
    let mut instance = Instance::acquire(&config.socket, config.socket_group)?;
    // All memory would be taken in vain if the socket could not be bound afterwards.
    instance.inspect()?;
    let boot_epoch = draw_boot_epoch().map_err(system("draw random bytes"))?;
    let Some(tenants) = runtime.block_on(prepare(config, boot_epoch, &mut signals))? else {
        return Ok(());
    };
    let mut threads = Vec::new();
    let mut doors = Vec::new();
    for Tenant {
        config: tenant,
        region,
        engine,
    } in tenants
    {
        let thread = EngineThread::spawn(tenant.name.clone(), region.bytes(), engine)
            .map_err(system("start an engine thread"))?;
        doors.push(Door {
            config: tenant,
            commands: thread.commands.clone(),
            region: Arc::new(region),
            rings: Rc::default(),
        });
        threads.push(thread);
    }
    let ingress = Ingress::new(doors, boot_epoch, &config.limits);
    let living = live(config, &mut instance, &ingress, &mut threads, &mut signals);
    let result = LocalSet::new().block_on(&runtime, living);
    stop(threads, result)
}

/// Makes all tenants, which takes as long as their memory takes, on a thread of its own: a process that is the first
/// of its container does not hear signals it does not listen for. `None`: one came.
async fn prepare(
    config: &Config,
    boot_epoch: BootEpoch,
    signals: &mut Signals,
) -> Result<Option<Vec<Tenant>>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let (done, mut made) = oneshot::channel();
    let (config, stop_heard) = (config.clone(), Arc::clone(&stop));
    let thread = std::thread::Builder::new()
        .name("kvt-prepare".to_owned())
        .spawn(move || {
            let create = |tenant| Tenant::create(&config, tenant, boot_epoch, &stop_heard);
            let tenants: Result<Vec<Tenant>, TenantError> = config.tenants.iter().map(create).collect();
            // Nobody waits for them any more if a signal came.
            let _ = done.send(tenants);
        })
        .map_err(system("start a thread"))?;
    tokio::select! {
        tenants = &mut made => match tenants {
            Ok(tenants) => Ok(Some(tenants?)),
            Err(_) => Err(Failure::Engine),
        },
        name = signals.next() => {
            info!(signal = name, "ending before the start was complete");
            stop.store(true, Ordering::Relaxed);
            // Its panic would have nothing to say any more.
            let _ = thread.join();
            Ok(None)
        }
    }
}

/// From the moment the socket is bound to the moment nobody waits for anything any more.
async fn live(
    config: &Config,
    instance: &mut Instance,
    ingress: &Rc<Ingress>,
    threads: &mut [EngineThread],
    signals: &mut Signals,
) -> Result<(), Failure> {
    let (listener, taken_over) = instance.bind()?;
    let listener = UnixListener::from_std(listener).map_err(system("listen on the socket"))?;
    info!(socket = %config.socket.display(), taken_over, pid = std::process::id(), "serving");
    let accepting = tokio::task::spawn_local(Rc::clone(ingress).serve(listener));
    let name = tokio::select! {
        name = signals.next() => name,
        () = any_ended(threads) => return Err(Failure::Engine),
    };
    info!(signal = name, deadline = ?config.shutdown_deadline, "draining; a second signal ends at once");
    accepting.abort();
    instance.unbind();
    tokio::select! {
        name = signals.next() => {
            warn!(signal = name, "ending at once");
            Ok(())
        }
        quiet = drain(config, threads) => {
            if quiet {
                info!("drained");
            }
            Ok(())
        }
    }
}

/// Asks all engines to drain and waits until all are quiet or the deadline has passed.
async fn drain(config: &Config, threads: &[EngineThread]) -> bool {
    let mut waiting = JoinSet::new();
    for thread in threads {
        let (quiet, heard) = oneshot::channel();
        thread.commands.send(Command::Drain { quiet });
        waiting.spawn(heard);
    }
    let all = async { while waiting.join_next().await.is_some() {} };
    if tokio::time::timeout(config.shutdown_deadline, all).await.is_ok() {
        return true;
    }
    for (thread, tenant) in threads.iter().zip(&config.tenants) {
        let (reply, answer) = oneshot::channel();
        thread.commands.send(Command::Busy { reply });
        if let Ok(occupancy) = answer.await {
            let (leases, slots_filling) = (occupancy.leases, occupancy.slots_filling);
            let (tenant, sessions) = (&tenant.name, occupancy.sessions);
            warn!(
                tenant,
                leases, slots_filling, sessions, "the deadline has passed and clients are still busy"
            );
        }
    }
    false
}

/// Ends the engine threads and waits for them.
fn stop(threads: Vec<EngineThread>, result: Result<(), Failure>) -> Result<(), Failure> {
    for thread in &threads {
        thread.commands.send(Command::Stop);
    }
    let mut result = result;
    for thread in threads {
        if let Err(cause) = thread.join() {
            error!(cause = error_chain(&cause), "an engine thread ended badly");
            result = Err(Failure::Engine);
        }
    }
    if result.is_ok() {
        info!("ended");
    }
    result
}

/// Resolves when any engine thread has ended, which none does before it is told to.
async fn any_ended(threads: &mut [EngineThread]) {
    std::future::poll_fn(|context| {
        let ended = threads
            .iter_mut()
            .any(|thread| std::pin::Pin::new(&mut thread.ended).poll(context).is_ready());
        if ended {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

use std::future::Future as _;

/// The signals that end the daemon, and one that must not.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// A terminal or a supervisor that went away is no reason to end without a drain.
    hang_up: Signal,
    /// Never asked; being listened for is what keeps it from killing the daemon. The write that went beyond
    /// RLIMIT_FSIZE then fails with an error that can be told.
    _file_too_large: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let file_too_large = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            _file_too_large: signal(file_too_large)?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}

fn log_start(config: &Config, fit: &limits::Fit) {
    let shown: Vec<String> = crate::config::effective(config)
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %shown.join(" "),
        "starting"
    );
    let available = fit.available_bytes.map(format_size);
    info!(
        regions = format_size(fit.regions_bytes),
        rings = format_size(fit.rings_bytes),
        available,
        "memory checked"
    );
    for warning in &fit.warnings {
        warn!("{warning}");
    }
    for remark in &fit.remarks {
        info!("{remark}");
    }
}

/// The usual soft limit is low for historical reasons only: it is raised to the hard one, and that is compared with
/// what all clients together may take.
fn check_descriptors(config: &Config) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(cause) = setrlimit(Resource::Nofile, limit) {
            warn!(%cause, "could not raise the limit on open files");
        }
    }
    if let Some(warning) = limits::descriptor_warning(config, getrlimit(Resource::Nofile).current) {
        warn!("{warning}");
    }
}

fn draw_boot_epoch() -> io::Result<BootEpoch> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(BootEpoch(bytes))
}
