//! What is too old or too much is removed, by one node for all.

mod lease;
mod namespace;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use kvstore_types::NamespaceId;
use tokio::sync::oneshot;

pub(crate) use self::lease::Held;
use self::lease::{Other, Taken, Watch, take, take_over};
pub(crate) use self::namespace::Sweep;
pub use self::namespace::SweepReport;
pub(crate) use self::namespace::is_of_one_object;
use crate::backend::{Backend, Fault};
use crate::chance::draw;
use crate::format::{LEASE_NAME, ROOT, decode_namespace, namespace_name, parse_namespace_directory};
use crate::listing::{EAGER, GENTLE};
use crate::stats::Counters;
use crate::{FaultKind, Progress, SweepLimits, SweepSpec, WriterId};

/// Most bytes of a namespace's object that are read.
const NAMESPACE_BYTES_MAX: u64 = 1 << 20;

/// How long one turn may take before it is given up, in turns, and at least: a mount that hangs must not end sweeping for
/// good, and a slow store must not keep it from ever getting done.
const TURN_MAX: u32 = 6;
const TURN_MIN: Duration = Duration::from_mins(5);

/// How often somebody who waits for the lease looks at it.
const POLL_MIN: Duration = Duration::from_millis(200);
const POLL_MAX: Duration = Duration::from_secs(10);

/// The sweeper of one node.
pub(crate) struct Sweeper {
    backend: Arc<dyn Backend>,
    writer: WriterId,
    spec: SweepSpec,
    counters: Arc<Counters>,
    watch: Watch,
    held: Option<Held>,
    /// Bounds that change while it runs.
    limits: Option<Limits>,
    /// Directories that are listed at a time.
    lists_at_once: usize,
    /// Hears how far a sweep is.
    progress: Arc<Progress>,
}

/// Where bounds that change are read.
type Limits = tokio::sync::watch::Receiver<SweepLimits>;

impl Sweeper {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        writer: WriterId,
        spec: SweepSpec,
        counters: Arc<Counters>,
    ) -> Self {
        Self {
            backend,
            writer,
            spec,
            counters,
            watch: Watch::default(),
            held: None,
            limits: None,
            lists_at_once: GENTLE,
            progress: Arc::new(|_, _| {}),
        }
    }

    /// The same for somebody who waits for it and hears how far it is.
    pub(crate) fn eager(self, progress: Arc<Progress>) -> Self {
        Self {
            lists_at_once: EAGER,
            progress,
            ..self
        }
    }

    /// The same with bounds that change while it runs.
    pub(crate) fn following(self, limits: Limits) -> Self {
        Self {
            limits: Some(limits),
            ..self
        }
    }

    /// Until it is told to stop, or the runtime ends. Then the lease is given back, also in the middle of a sweep.
    pub(crate) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        loop {
            // Nodes that were started together do not come together.
            let factor = 0.8 + 0.4 * draw();
            tokio::select! {
                () = tokio::time::sleep(self.spec.every.mul_f64(factor)) => {}
                _ = &mut stop => break,
            }
            if let Some(limits) = &self.limits {
                self.spec.limits = *limits.borrow();
            }
            let most = (self.spec.every * TURN_MAX).max(TURN_MIN);
            let turn = tokio::time::timeout(most, self.turn(Instant::now()));
            let result = tokio::select! {
                result = turn => result,
                _ = &mut stop => break,
            };
            let result = result.unwrap_or_else(|_| Err(Fault::new(FaultKind::Stalled, "no answer in time")));
            if let Err(fault) = result {
                self.held = None;
                self.counters.lock().sweep.broken += 1;
                tracing::warn!(%fault, "a sweep of the remote store was not completed; the next one begins anew");
            }
            self.counters.lock().sweep.is_holder = self.held.is_some();
        }
        match lease::give_back(&*self.backend, self.writer).await {
            Ok(true) => tracing::info!("this node gave the lease of sweeping back"),
            Ok(false) => {}
            Err(fault) => tracing::warn!(%fault, "the lease of sweeping could not be given back"),
        }
    }

    /// One turn: gets or keeps the lease and sweeps under it; `None`: another node does.
    pub(crate) async fn turn(&mut self, now: Instant) -> Result<Option<SweepReport>, Fault> {
        let Some(mut held) = self.hold(now).await? else {
            return Ok(None);
        };
        let store_now = store_time(&*self.backend).await?;
        let (mut total, mut failed) = (SweepReport::default(), None);
        let progress = self.progress.clone();
        for namespace in namespaces(&*self.backend).await? {
            let sweep = Sweep {
                backend: &self.backend,
                namespace,
                limits: self.limits_of(namespace).await?,
                temporary_age: self.spec.temporary_age,
                now: store_now,
                held: Some(held),
                lists_at_once: self.lists_at_once,
                progress: &*progress,
            };
            let (still_held, swept) = sweep.run().await;
            let another = || Fault::new(FaultKind::Denied, "another node sweeps");
            match (still_held, swept) {
                (Some(still_held), Ok(report)) => {
                    held = still_held;
                    total.add(&report);
                    self.count(&report);
                }
                // What is in the way of one namespace is not in the way of the others, unless nobody answers at all.
                (Some(still_held), Err(fault)) if !is_of_the_store(&fault) => {
                    held = still_held;
                    let text = format!("namespace {namespace} could not be swept: {}", fault.text);
                    failed.get_or_insert(Fault { text, ..fault });
                }
                (_, swept) => return Err(swept.err().unwrap_or_else(another)),
            }
        }
        // Now that there is room, others are to see whose it is.
        self.held = if held.is_empty() {
            held.renew(&*self.backend, Instant::now()).await?
        } else {
            Some(held)
        };
        if let Some(failed) = failed {
            return Err(failed);
        }
        self.counters.lock().sweep.sweeps += 1;
        Ok(Some(total))
    }

    async fn hold(&mut self, now: Instant) -> Result<Option<Held>, Fault> {
        if let Some(held) = self.held.take()
            && let Some(held) = held.renew(&*self.backend, now).await?
        {
            return Ok(Some(held));
        }
        let duration = self.lease_duration();
        let taken = take(&*self.backend, &mut self.watch, now, self.writer, duration).await?;
        Ok(match taken {
            Taken::Held(held) => Some(held),
            Taken::Other(_) => None,
        })
    }

    /// A holder that is well renews its lease once a turn: others must not lose patience before.
    fn lease_duration(&self) -> Duration {
        self.spec.lease.max(self.spec.every)
    }

    async fn limits_of(&self, namespace: NamespaceId) -> Result<SweepLimits, Fault> {
        if self.spec.exceptions.is_empty() {
            return Ok(self.spec.limits);
        }
        let name = namespace_name(namespace);
        let found = match self.backend.get_small(&name, NAMESPACE_BYTES_MAX).await {
            // It says as little as one that is damaged. What could not be read this time may say something the next.
            Err(fault) if fault.kind == FaultKind::NameTaken => None,
            found => found?,
        };
        let described = found.and_then(|found| decode_namespace(&found.bytes).ok());
        let limits = described.and_then(|(descriptor, _)| {
            let fits = |(tag, value, _): &&(String, Vec<u8>, SweepLimits)| {
                descriptor.get(tag) == Some(value.as_slice())
            };
            self.spec
                .exceptions
                .iter()
                .find(fits)
                .map(|(_, _, limits)| *limits)
        });
        Ok(limits.unwrap_or(self.spec.limits))
    }

    fn count(&self, report: &SweepReport) {
        let mut stats = self.counters.lock();
        stats.sweep.blocks_removed += report.blocks_removed;
        stats.sweep.bytes_removed += report.bytes_removed;
        stats.sweep.temporaries_removed += report.temporaries_removed;
    }

    /// Sweeps now, for somebody who asked for it. Waits for the lease until `until`, and takes one over that has stood still
    /// for as long as it may, by the store's clock. The lease is given back, whatever comes of it.
    pub(crate) async fn sweep_now(&mut self, until: Instant) -> Result<SweepNow, Fault> {
        let swept = self.sweep_until(until).await;
        if !matches!(swept, Ok(SweepNow::Held(_))) {
            self.give_back().await;
        }
        swept
    }

    /// Gives the lease back, if this node has it.
    pub(crate) async fn give_back(&mut self) {
        self.held = None;
        if let Err(fault) = lease::give_back(&*self.backend, self.writer).await {
            tracing::warn!(%fault, "the lease of sweeping could not be given back");
        }
    }

    async fn sweep_until(&mut self, until: Instant) -> Result<SweepNow, Fault> {
        loop {
            let now = Instant::now();
            let duration = self.spec.lease;
            let mut taken = take(&*self.backend, &mut self.watch, now, self.writer, duration).await?;
            let (mut stood, mut left) = (Duration::ZERO, Duration::ZERO);
            if let Taken::Other(other) = &taken {
                // What was written just now tells the time there.
                let store_now = self.backend.now().await?;
                stood = store_now.duration_since(other.renewed).unwrap_or_default();
                left = other.patience.saturating_sub(stood);
                if left.is_zero() {
                    let other = other.clone();
                    taken = take_over(&*self.backend, now, self.writer, duration, other).await?;
                }
            }
            match taken {
                Taken::Held(held) => {
                    self.held = Some(held);
                    if let Some(report) = self.turn(Instant::now()).await? {
                        return Ok(SweepNow::Swept(report));
                    }
                }
                Taken::Other(other) => {
                    let rest = until.saturating_duration_since(Instant::now());
                    if rest.is_zero() {
                        return Ok(SweepNow::Held(self.lease_held(&other, stood)));
                    }
                    tokio::time::sleep(rest.min(left).clamp(POLL_MIN, POLL_MAX)).await;
                }
            }
        }
    }

    fn lease_held(&self, other: &Other, stood: Duration) -> LeaseHeld {
        let of_this_node = |holder: WriterId| holder.node() == self.writer.node();
        LeaseHeld {
            holder: other.holder,
            is_this_node: other.holder.is_some_and(of_this_node),
            renewed_ago: stood,
            expires_in: other.patience.saturating_sub(stood),
        }
    }
}

/// How sweeping on demand ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepNow {
    /// It was done.
    Swept(SweepReport),
    /// Another node has the lease.
    Held(LeaseHeld),
}

/// Who has the lease of sweeping, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseHeld {
    /// Who; none: what is under the lease's name is no lease.
    pub holder: Option<WriterId>,
    /// Whether a daemon of the same node has it.
    pub is_this_node: bool,
    /// When it was renewed last, by the store's clock.
    pub renewed_ago: Duration,
    /// When it may be taken over, if it is not renewed until then.
    pub expires_in: Duration,
}

impl SweepReport {
    /// Adds another namespace's figures.
    pub(crate) fn add(&mut self, other: &Self) {
        self.blocks += other.blocks;
        self.bytes += other.bytes;
        self.blocks_removed += other.blocks_removed;
        self.bytes_removed += other.bytes_removed;
        self.temporaries_removed += other.temporaries_removed;
        self.touched_removed += other.touched_removed;
        self.unknown += other.unknown;
    }
}

/// Whether a fault says that the store cannot be asked, whatever it is about: others would end as this one did.
fn is_of_the_store(fault: &Fault) -> bool {
    matches!(
        fault.kind,
        FaultKind::Stalled
            | FaultKind::Connection
            | FaultKind::Resolve
            | FaultKind::Throttled
            | FaultKind::Credentials
            | FaultKind::NotThere
    )
}

/// The store's own time: when the lease was written last, which was just now. No node's clock is compared with it.
async fn store_time(backend: &dyn Backend) -> Result<SystemTime, Fault> {
    let lease = backend.get_small(LEASE_NAME, NAMESPACE_BYTES_MAX).await?;
    let lease = lease.ok_or_else(|| Fault::new(FaultKind::Server, "the lease is there and is not"))?;
    Ok(lease.modified)
}

/// All namespaces at the store.
pub(crate) async fn namespaces(backend: &dyn Backend) -> Result<Vec<NamespaceId>, Fault> {
    let directories = backend.directories(ROOT).await?;
    let ours = directories
        .iter()
        .filter_map(|name| parse_namespace_directory(name));
    Ok(ours.collect())
}
