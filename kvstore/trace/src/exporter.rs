//! The thread that sends what was recorded.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::otlp::Collector;
use crate::recorder::{Recorder, Shared, add};
use crate::spec::{StartError, TraceSpec};

/// How long stopping may take: what has not been sent by then is dropped.
pub const STOP_GRACE: Duration = Duration::from_secs(3);
/// How long spans are collected before they are sent.
const COLLECT: Duration = Duration::from_secs(1);
/// Most spans sent at once.
const BATCH_SPANS: usize = 512;
/// How long nothing is sent after a failure; twice as long after each further one.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Sends spans to a collector, on a thread of its own.
#[derive(Debug)]
pub struct Exporter {
    recorder: Recorder,
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl Exporter {
    /// Starts it; nobody is connected to before there is a span. None: the environment has switched OpenTelemetry off.
    ///
    /// # Errors
    /// When a key or a variable makes no sense, or the thread cannot be started.
    pub fn start(spec: &TraceSpec) -> Result<Option<Self>, StartError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if TraceSpec::is_disabled(&variable) {
            info!("no traces: OTEL_SDK_DISABLED is set");
            return Ok(None);
        }
        let settled = spec.settle(&variable)?;
        let (endpoint, protocol) = (settled.endpoint.clone(), settled.protocol.name());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let collector = {
            let _context = runtime.enter();
            Collector::new(spec, settled)?
        };
        let shared = Arc::new(Shared::new(spec.queue_spans));
        let (stop, stopped) = watch::channel(false);
        let recorder = Recorder(Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("kvt-trace".to_owned())
            .spawn(move || {
                // Nobody waits for a trace, and look-ups want the processors.
                if let Err(cause) = kvstore_threads::stand_back() {
                    warn!(%cause, "the thread that sends traces runs as urgently as the others");
                }
                run(&runtime, &shared, &collector, &stopped);
            })?;
        info!(endpoint, protocol, "recording traces");
        Ok(Some(Self {
            recorder,
            stop,
            thread,
        }))
    }

    /// Where spans are recorded.
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Sends what is left, for [`STOP_GRACE`] at most, and ends the thread.
    pub fn stop(self) {
        // Nobody hears it if the thread has ended by a bug.
        let _ = self.stop.send(true);
        if self.thread.join().is_err() {
            error!("the thread that sends traces panicked");
        }
    }
}

fn run(runtime: &Runtime, shared: &Shared, collector: &Collector, stopped: &watch::Receiver<bool>) {
    runtime.block_on(async {
        let end = pin!(async {
            let mut stopped = stopped.clone();
            // The other end is gone only together with whoever could say it.
            let _ = stopped.wait_for(|&stop| stop).await;
            tokio::time::sleep(STOP_GRACE).await;
        });
        let mut sender = Sender {
            shared,
            collector,
            stopped: stopped.clone(),
            outage: None,
        };
        tokio::select! {
            () = sender.work() => {}
            () = end => {}
        }
    });
    let numbers = &shared.numbers;
    let left = shared.take(usize::MAX).len();
    let in_flight = usize::try_from(numbers.in_flight.swap(0, Ordering::Relaxed)).unwrap_or(0);
    add(&numbers.shutdown, left + in_flight);
    if left + in_flight > 0 {
        warn!(spans = left + in_flight, "traces were not sent before the end");
    }
}

struct Sender<'a> {
    shared: &'a Shared,
    collector: &'a Collector,
    stopped: watch::Receiver<bool>,
    outage: Option<Outage>,
}

/// Nothing can be sent.
struct Outage {
    since: Instant,
    pause: Duration,
    spans: usize,
}

impl Sender<'_> {
    /// Sends until it is told to stop and nothing is left, or the rest cannot be sent.
    async fn work(&mut self) {
        loop {
            self.wait_for_spans().await;
            self.pause(COLLECT).await;
            loop {
                let batch = self.shared.take(BATCH_SPANS);
                if batch.is_empty() {
                    break;
                }
                if let Some(pause) = self.send(batch).await {
                    if self.is_stopping() {
                        return;
                    }
                    self.pause(pause).await;
                }
            }
            if self.is_stopping() {
                return;
            }
        }
    }

    /// Sends a batch; if it cannot be sent, how long to send nothing.
    async fn send(&mut self, batch: Vec<crate::Span>) -> Option<Duration> {
        let (count, numbers) = (batch.len(), &self.shared.numbers);
        numbers.in_flight.store(count as u64, Ordering::Relaxed);
        let sent = self.collector.send(batch).await;
        numbers.in_flight.store(0, Ordering::Relaxed);
        match sent {
            Ok(()) => {
                add(&numbers.exported, count);
                if let Some(outage) = self.outage.take() {
                    let (after, spans) = (outage.since.elapsed(), outage.spans);
                    info!(?after, spans, "traces are sent again; these spans were lost");
                }
                None
            }
            Err(error) => {
                add(&numbers.export_failed, count);
                add(&numbers.exports_failed, 1);
                Some(self.failed(count, &error))
            }
        }
    }

    fn failed(&mut self, spans: usize, error: &str) -> Duration {
        if let Some(outage) = &mut self.outage {
            outage.spans += spans;
            outage.pause = (outage.pause * 2).min(PAUSE_MAX);
            return outage.pause;
        }
        warn!(
            error,
            "traces cannot be sent; this is not said again before they can"
        );
        self.outage = Some(Outage {
            since: Instant::now(),
            pause: PAUSE_FIRST,
            spans,
        });
        PAUSE_FIRST
    }

    async fn wait_for_spans(&mut self) {
        while self.shared.len() == 0 && !self.is_stopping() {
            tokio::select! {
                () = self.shared.bell.notified() => {}
                _ = self.stopped.changed() => {}
            }
        }
    }

    /// Sleeps, but not once it is time to stop.
    async fn pause(&mut self, pause: Duration) {
        if !self.is_stopping() {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = self.stopped.changed() => {}
            }
        }
    }

    fn is_stopping(&self) -> bool {
        // Whoever could say it is gone: nobody will.
        *self.stopped.borrow() || self.stopped.has_changed().is_err()
    }
}
