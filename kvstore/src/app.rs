//! Start and stop: the one file that names every room.
//!
//! Start: limits, locks, traces, probes, regions, NVMe devices, announcer, engine threads, socket, admin API; what the devices have is
//! loaded while the daemon serves. Stop, in the reverse order: socket, drain, engine threads with their devices, admin API,
//! announcer, regions, locks. Nothing is touched before the configuration and the limits are known to be sound.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvstore_events::Announcer;
use kvstore_trace::Exporter;
use kvstore_types::BootEpoch;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinSet, LocalSet};
use tracing::{error, info, warn};

use crate::admin::{self, AdminPlace, AdminPlaceError, AdminThread, Certificates, TenantDoor, Wish};
use crate::config::{Config, Loaded, NvmeLayout, Problems, Source, format_size};
use crate::engine_thread::command::Command;
use crate::engine_thread::{EngineThread, Listeners, Tiers};
use crate::events;
use crate::exit::Exit;
use crate::ingress::{Door, Ingress};
use crate::instance::{Instance, InstanceError, PATIENCE};
use crate::limits::{self, LimitError};
use crate::logs::Log;
use crate::machine::{Machine, draw_boot_epoch};
use crate::readiness::Readiness;
use crate::reload::Reloader;
use crate::remote;
use crate::signals::{Asked, Signals};
use crate::tenant::{Tenant, TenantError, error_chain};
use crate::tls::TlsError;
use crate::traces;

/// Why the daemon could not start or go on.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Limits(#[from] LimitError),
    #[error(transparent)]
    Instance(#[from] InstanceError),
    #[error(transparent)]
    Tenant(#[from] TenantError),
    #[error(transparent)]
    AdminPlace(#[from] AdminPlaceError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Config(#[from] Problems),
    #[error("traces cannot be sent")]
    Traces(#[from] kvstore_trace::StartError),
    #[error("events cannot be published")]
    Events(#[from] kvstore_events::StartError),
    #[error("could not {what}")]
    System { what: &'static str, source: io::Error },
    #[error("a thread of the daemon ended by itself")]
    Engine,
}

impl Failure {
    fn exit(&self) -> Exit {
        match self {
            Self::Limits(_) => Exit::DoesNotFit,
            Self::Traces(kvstore_trace::StartError::System(_)) | Self::System { .. } => Exit::System,
            Self::Tls(_) | Self::Config(_) | Self::Traces(_) => Exit::BadConfig,
            Self::Instance(_) | Self::AdminPlace(_) | Self::Events(_) => Exit::CannotServe,
            Self::Tenant(failure) => failure.exit(),
            Self::Engine => Exit::Internal,
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |source| Failure::System { what, source }
}

/// Changes of settings that wait for the main thread; more wait with their callers.
const WISHES_MAX: usize = 16;

/// How long threads that have been told to end may take, beside the deadline for clients: a device may have to finish
/// what is under way.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// Runs the daemon until a signal ends it. The log is running already; the configuration is read again from `source`
/// when a signal asks for it.
pub fn run(loaded: &Loaded, source: &Source, log: &Log) -> Exit {
    for warning in &loaded.warnings {
        warn!(key = warning.key, "{}", warning.text);
    }
    match serve(&loaded.config, source, log) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            error!("{}", error_chain(&failure));
            failure.exit()
        }
    }
}

fn serve(config: &Config, source: &Source, log: &Log) -> Result<(), Failure> {
    let certificates = Certificates::read(config)?;
    remote::check_here(config)?;
    let fit = limits::check(config, &Machine::of_process())?;
    log_start(config, &fit);
    limits::check_descriptors(config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the runtime"))?;
    let signals = runtime.block_on(async { Signals::new() });
    let mut signals = signals.map_err(system("listen for signals"))?;
    let mut instance = Instance::acquire(&config.socket, config.socket_group, PATIENCE)?;
    // All memory would be taken in vain if the socket could not be bound afterwards.
    instance.inspect()?;
    let admin_place = AdminPlace::take(config, certificates.clone())?;
    let boot_epoch = draw_boot_epoch().map_err(system("draw random bytes"))?;
    let exporter = traces::start(config, boot_epoch)?;
    let readiness = Readiness::new();
    let (shown, config_shown) = watch::channel(Arc::new(config.clone()));
    let (wishes, mut wished) = mpsc::channel(WISHES_MAX);
    let start = admin::Start {
        boot_epoch,
        config: config_shown,
        readiness: readiness.clone(),
        wishes,
        notices: log.notices().clone(),
        traces: exporter.as_ref().map(Exporter::recorder),
    };
    let mut admin = AdminThread::start(admin_place, start).map_err(system("start the admin thread"))?;
    let preparing = prepare(config, boot_epoch, &readiness, &mut signals);
    let Some(tenants) = runtime.block_on(preparing)? else {
        return Ok(());
    };
    let queues: Vec<_> = tenants.iter().map(|tenant| tenant.queue.0.clone()).collect();
    let (announcer, voices) = events::start(config, boot_epoch, &queues)?;
    drop(queues);
    let Spawned {
        mut threads,
        doors,
        layouts,
    } = spawn(tenants, traces::listeners(config, voices, exporter.as_ref()))?;
    let below = traces::below(config, exporter.as_ref());
    let ingress = Ingress::new(doors, boot_epoch, below, &config.limits);
    let mut reloader = Reloader::new(source, log, config, layouts, shown);
    let result = LocalSet::new().block_on(&runtime, async {
        let admin_doors = doors_of(config, &threads);
        let mut life = Life {
            config,
            instance: &mut instance,
            readiness: &readiness,
            threads: &mut threads,
            reloader: &mut reloader,
            certificates: certificates.as_deref(),
            wished: &mut wished,
            signals: &mut signals,
            ends_by: None,
        };
        let events = announcer.as_ref().map(Announcer::watch_source);
        let result = match admin.open(admin_doors, events) {
            Ok(()) => life.live(&ingress).await,
            Err(failure) => Err(failure.into()),
        };
        let ends_by = life.ends_by;
        let in_time = end(&mut threads, &mut signals).await;
        result.map(|()| (in_time, ends_by))
    });
    drop(admin);
    stop_announcing(announcer, result.as_ref().ok().and_then(|(_, ends_by)| *ends_by));
    close(threads, exporter, result.map(|(in_time, _)| in_time))
}

/// Hears how the engine threads have ended, if they have, and lets the last spans go.
fn close(
    threads: Vec<EngineThread>,
    exporter: Option<Exporter>,
    result: Result<bool, Failure>,
) -> Result<(), Failure> {
    let result = match result {
        // They wait for a device; the end of the process is the only end there will be.
        Ok(false) => Ok(()),
        other => join(threads, other.map(|_| ())),
    };
    traces::stop(exporter);
    result
}

/// What draining has left of its deadline is for telling routers.
fn stop_announcing(announcer: Option<Announcer>, ends_by: Option<Instant>) {
    let left = ends_by.map(|by| by.saturating_duration_since(Instant::now()));
    if let Some(announcer) = announcer {
        announcer.stop_within(left.unwrap_or_default());
    }
}

/// What the engine threads were made into.
struct Spawned {
    threads: Vec<EngineThread>,
    doors: Vec<Door>,
    layouts: Vec<Option<NvmeLayout>>,
}

/// Starts an engine thread for each tenant.
fn spawn(tenants: Vec<Tenant>, listeners: Vec<Listeners>) -> Result<Spawned, Failure> {
    let mut spawned = Spawned {
        threads: Vec::new(),
        doors: Vec::new(),
        layouts: Vec::new(),
    };
    for (tenant, listeners) in tenants.into_iter().zip(listeners) {
        let Tenant {
            config: tenant,
            region,
            engine,
            layout,
            devices,
            remote,
            queue,
        } = tenant;
        let tiers = Tiers { devices, remote };
        let thread = EngineThread::spawn(
            tenant.name.clone(),
            region.bytes(),
            engine,
            tiers,
            listeners,
            queue,
        )
        .map_err(system("start an engine thread"))?;
        spawned.layouts.push(layout);
        spawned.doors.push(Door {
            config: tenant,
            commands: thread.commands.clone(),
            region: Arc::new(region),
            rings: Rc::default(),
        });
        spawned.threads.push(thread);
    }
    Ok(spawned)
}

/// Makes all tenants, which takes as long as their memory takes, on a thread of its own: a process that is the first
/// of its container does not hear signals it does not listen for. `None`: one came.
async fn prepare(
    config: &Config,
    boot_epoch: BootEpoch,
    readiness: &Readiness,
    signals: &mut Signals,
) -> Result<Option<Vec<Tenant>>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let (done, mut made) = oneshot::channel();
    let (config, stop_heard, readiness) = (config.clone(), Arc::clone(&stop), readiness.clone());
    let thread = std::thread::Builder::new()
        .name("kvt-prepare".to_owned())
        .spawn(move || {
            let create = |tenant| Tenant::create(&config, tenant, boot_epoch, &stop_heard, &readiness);
            // All memory would be taken in vain if a directory turned out to be another's.
            let tenants: Result<Vec<Tenant>, TenantError> =
                crate::nvme::await_locks(&config).and_then(|()| config.tenants.iter().map(create).collect());
            if tenants.is_ok() {
                crate::nvme::tell_strangers(&config);
            }
            // Nobody waits for them any more if a signal came.
            let _ = done.send(tenants);
        })
        .map_err(system("start a thread"))?;
    tokio::select! {
        tenants = &mut made => match tenants {
            Ok(tenants) => Ok(Some(tenants?)),
            Err(_) => Err(Failure::Engine),
        },
        name = signals.end() => {
            info!(signal = name, "ending before the start was complete");
            stop.store(true, Ordering::Relaxed);
            // Its panic would have nothing to say any more.
            let _ = thread.join();
            Ok(None)
        }
    }
}

/// What the main thread looks after while clients are let in.
struct Life<'a, 'b> {
    config: &'a Config,
    instance: &'a mut Instance,
    readiness: &'a Readiness,
    threads: &'a mut [EngineThread],
    reloader: &'a mut Reloader<'b>,
    certificates: Option<&'a Certificates>,
    wished: &'a mut mpsc::Receiver<Wish>,
    signals: &'a mut Signals,
    /// Until when ending may take its time; none before it is to end, and when it is to end at once.
    ends_by: Option<Instant>,
}

impl Life<'_, '_> {
    /// From the moment the socket is bound to the moment nobody waits for anything any more.
    async fn live(&mut self, ingress: &Rc<Ingress>) -> Result<(), Failure> {
        let (listener, taken_over) = self.instance.bind()?;
        let listener = UnixListener::from_std(listener).map_err(system("listen on the socket"))?;
        info!(
            socket = %self.config.socket.display(),
            admin_socket = %self.config.admin_socket().display(),
            taken_over,
            pid = std::process::id(),
            "serving"
        );
        let accepting = tokio::task::spawn_local(Rc::clone(ingress).serve(listener));
        self.readiness.ready();
        let name = loop {
            tokio::select! {
                asked = self.signals.next() => match asked {
                    Asked::End(name) => break name,
                    Asked::Reload => self.read_again(),
                },
                Some(wish) = self.wished.recv() => self.grant(wish),
                () = any_ended(self.threads) => return Err(Failure::Engine),
            }
        };
        let deadline = self.config.shutdown_deadline;
        self.ends_by = Some(Instant::now() + deadline);
        info!(signal = name, ?deadline, "draining; a second signal ends at once");
        self.readiness.wait_for("the daemon is ending");
        // Settings are not changed any more, and who asks for it hears that.
        self.wished.close();
        while let Ok(wish) = self.wished.try_recv() {
            drop(wish);
        }
        accepting.abort();
        self.instance.unbind();
        tokio::select! {
            name = self.signals.end() => {
                warn!(signal = name, "ending at once");
                self.ends_by = None;
                Ok(())
            }
            quiet = drain(self.config, self.threads) => {
                if quiet {
                    info!("drained");
                }
                Ok(())
            }
        }
    }

    fn read_again(&mut self) {
        if let Some(certificates) = self.certificates {
            certificates.look();
        }
        self.reloader.reload(self.threads);
    }

    fn grant(&mut self, wish: Wish) {
        match wish {
            Wish::Set {
                settings,
                is_dry_run,
                reply,
            } => {
                // Whoever asked may have stopped waiting: then nothing is changed behind their back.
                if !reply.is_closed() {
                    let _ = reply.send(self.reloader.set(&settings, is_dry_run, self.threads));
                }
            }
        }
    }
}

/// The tenants as the admin API knows them.
fn doors_of(config: &Config, threads: &[EngineThread]) -> Vec<TenantDoor> {
    let tenants = config.tenants.iter().zip(threads);
    let doors = tenants.map(|(tenant, thread)| TenantDoor {
        name: tenant.name.clone(),
        commands: thread.commands.clone(),
    });
    doors.collect()
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
            let (nvme_queue, nvme_writes_in_flight) = (occupancy.nvme_queue, occupancy.nvme_writes_in_flight);
            warn!(
                tenant,
                leases,
                slots_filling,
                sessions,
                nvme_queue,
                nvme_writes_in_flight,
                "the deadline has passed and clients or devices are still busy"
            );
        }
    }
    false
}

/// Tells the engine threads to end, with their devices, and waits for that; not for ever, and not if another signal
/// comes. Whether all have ended.
async fn end(threads: &mut [EngineThread], signals: &mut Signals) -> bool {
    for thread in &*threads {
        thread.commands.send(Command::Stop);
    }
    let ended = async {
        for thread in threads {
            // It may have been heard before.
            if !thread.has_ended() {
                let _ = (&mut thread.ended).await;
            }
        }
    };
    tokio::select! {
        () = ended => true,
        () = tokio::time::sleep(END_DEADLINE) => {
            warn!(deadline = ?END_DEADLINE, "a device does not finish what is under way; ending without it");
            false
        }
        name = signals.end() => {
            warn!(signal = name, "ending without waiting for devices");
            false
        }
    }
}

/// Hears how the threads have ended.
fn join(threads: Vec<EngineThread>, result: Result<(), Failure>) -> Result<(), Failure> {
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
