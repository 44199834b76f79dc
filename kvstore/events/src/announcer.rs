//! The thread that keeps the model, and everything that runs on it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use kvstore_types::BootEpoch;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::book::{Book, BookLimits, Identity, TenantIndex};
use crate::counters::EventCounters;
use crate::feed::{FeedItem, FeedReceiver};
use crate::ledger::{self, Ledger, LedgerLimits};
use crate::publisher::{BindError, Bound, PublisherConfig, publish};
use crate::relay::{self, RelaySetup, RelaySource};
use crate::shared::Shared;
use crate::watch::WatchSource;
use crate::wire::Media;

/// Items that are taken into the model while it is locked.
const APPLY_SLICE: usize = 1024;
/// Of these so many are looked at before they are: what it takes fits into a core's nearest cache.
const LOOK_AHEAD: usize = 64;
/// How long withdrawing may take when the daemon ends, if nobody allows more.
const END_DEADLINE: Duration = Duration::from_secs(2);
/// How long what an earlier daemon had announced is kept for routers that dial, or longer for those that are dialled.
const INHERITANCE_KEPT: Duration = Duration::from_mins(10);
/// And how long at most: an address in the configuration may never answer.
const INHERITANCE_KEPT_MAX: Duration = Duration::from_hours(1);

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq)]
pub struct EventsConfig {
    /// What is published where.
    pub publisher: PublisherConfig,
    /// As whom.
    pub identities: Vec<Identity>,
    /// How long changes are collected before they are told.
    pub batch_delay: Duration,
    /// How much is remembered.
    pub limits: BookLimits,
    /// Where it is written down what is announced, for the daemon that comes after one that was killed; none: nowhere.
    pub ledger: Option<LedgerConfig>,
}

/// Where it is written down what is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerConfig {
    /// The file. Nobody else may use it while the announcer runs.
    pub path: PathBuf,
    /// How long after the start what an earlier daemon had announced is taken back: engines that were attached come back
    /// meanwhile, and what is still there is found.
    pub grace: Duration,
}

/// One tenant's way to the announcer, and back.
pub struct TenantFeed {
    /// What its engine thread says.
    pub feed: FeedReceiver,
    /// Asks its engine thread for a snapshot of this number. Must not wait.
    pub ask_snapshot: Box<dyn Fn(u64) + Send>,
}

impl std::fmt::Debug for TenantFeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TenantFeed")
            .field("feed", &self.feed)
            .finish_non_exhaustive()
    }
}

/// Why the announcer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address is taken, or not ours.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system refused a thread or what it needs.
    #[error("could not start the announcer's thread")]
    Thread(#[from] io::Error),
}

/// The running announcer.
#[derive(Debug)]
pub struct Announcer {
    shared: Arc<Shared>,
    /// How long withdrawing may take, once it is to stop.
    stop: watch::Sender<Option<Duration>>,
    thread: JoinHandle<()>,
    addresses: Vec<SocketAddr>,
    relays: RelaySource,
}

/// Where to read what was counted. Can be cloned and used from any thread.
#[derive(Clone, Debug)]
pub struct CounterSource {
    shared: Arc<Shared>,
}

impl CounterSource {
    /// Everything that is counted, now.
    pub fn count(&self) -> EventCounters {
        self.shared.count()
    }
}

impl Announcer {
    /// Binds what is to be bound and starts the thread. `bell` is the one that the feeds ring; tenants are numbered in
    /// the order of `feeds`.
    pub fn start(
        config: EventsConfig,
        epoch: BootEpoch,
        bell: Arc<Notify>,
        feeds: Vec<TenantFeed>,
    ) -> Result<Self, StartError> {
        let bound = Bound::new(&config.publisher)?;
        let addresses = bound.addresses();
        let publishes = config.publisher.publishes();
        let identities = if publishes { config.identities } else { Vec::new() };
        let shared = Shared::new(Book::new(config.limits, identities), epoch);
        let (stop, stopping) = watch::channel(None);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let ours = Arc::clone(&shared);
        let (relays, openings) = RelaySource::new();
        let setup = RelaySetup {
            shared: Arc::clone(&shared),
            media: Media::new(&config.publisher.media),
            announce_rate: config.publisher.announce_rate,
        };
        let thread = std::thread::Builder::new()
            .name("kvt-events".to_owned())
            .spawn(move || {
                // Whoever waits for a look-up goes first.
                if let Err(cause) = kvstore_threads::stand_back() {
                    warn!(%cause, "the announcer's thread runs as urgently as the others");
                }
                let mut ledger = config.ledger.filter(|_| publishes).map(|ledger| {
                    let media = &config.publisher.media;
                    // It may be long: nobody has to wait for the model meanwhile.
                    let left = ledger::inherited(&ledger.path, media);
                    let limits = LedgerLimits::default();
                    let opened = Ledger::open(&ledger.path, media, limits, left, &mut ours.book());
                    (opened, ledger.grace)
                });
                runtime.block_on(async {
                    let grace = ledger.as_ref().map(|(_, grace)| *grace);
                    let inheriting = inherit(&ours, grace, config.publisher.connect.len());
                    let written = ledger.as_mut().map(|(ledger, _)| ledger);
                    let taking = take_in(&ours, &bell, feeds, config.batch_delay, written);
                    let (end, ending) = watch::channel(false);
                    let publishing = publish(Arc::clone(&ours), config.publisher, bound, ending);
                    tokio::select! {
                        never = taking => match never {},
                        never = inheriting => match never {},
                        never = relay::serve(setup, openings) => match never {},
                        () = until_end(&ours, publishing, stopping, &end) => {}
                    }
                });
                if let Some((ledger, _)) = ledger {
                    ledger.finish(&mut ours.book());
                }
                // A name that is being resolved must not hold up the end.
                runtime.shutdown_background();
            })?;
        Ok(Self {
            shared,
            stop,
            thread,
            addresses,
            relays,
        })
    }

    /// Where watches come from.
    pub fn watch_source(&self) -> WatchSource {
        WatchSource::new(Arc::clone(&self.shared))
    }

    /// Where relays are opened.
    pub fn relays(&self) -> RelaySource {
        self.relays.clone()
    }

    /// Where to read what was counted.
    pub fn counters(&self) -> CounterSource {
        CounterSource {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Where it listens, with the ports that the system chose: publishers, then the replay socket.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Withdraws what was announced, as far as routers take it within two seconds, and ends the thread.
    pub fn stop(self) {
        self.stop_within(END_DEADLINE);
    }

    /// The same within this time, or two seconds if it is less.
    pub fn stop_within(self, deadline: Duration) {
        self.stop.send_replace(Some(deadline.max(END_DEADLINE)));
        if self.thread.join().is_err() {
            warn!("the announcer's thread panicked");
        }
    }
}

/// Takes in what engine threads say, for ever.
async fn take_in(
    shared: &Shared,
    bell: &Notify,
    feeds: Vec<TenantFeed>,
    delay: Duration,
    mut ledger: Option<&mut Ledger>,
) -> std::convert::Infallible {
    let mut items: Vec<FeedItem> = Vec::new();
    let mut number = 0;
    loop {
        bell.notified().await;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        for (tenant, feed) in feeds.iter().enumerate() {
            // There are far fewer.
            let tenant = TenantIndex::try_from(tenant).unwrap_or(TenantIndex::MAX);
            if feed.feed.take(&mut items) {
                number += 1;
                warn!(
                    tenant,
                    "the engine thread said more than could be taken in; its blocks are compared with what is known"
                );
                shared.counters.feed_overflows.add(1);
                shared.counters.snapshots.add(1);
                // Before the items: an older snapshot's end among them must not count any more.
                shared.book().snapshot_wanted(tenant, number);
                (feed.ask_snapshot)(number);
            }
            for slice in items.chunks_mut(APPLY_SLICE) {
                apply(shared, tenant, slice, ledger.as_deref_mut());
                tokio::task::yield_now().await;
            }
            items.clear();
        }
        // One large burst should not keep its memory.
        items.shrink_to(APPLY_SLICE * 16);
    }
}

/// Takes a slice of items into the model.
fn apply(shared: &Shared, tenant: TenantIndex, items: &mut [FeedItem], ledger: Option<&mut Ledger>) {
    let mut book = shared.book();
    for items in items.chunks_mut(LOOK_AHEAD) {
        book.look_ahead(items);
        for item in items {
            book.take_in(tenant, item);
        }
    }
    // Before anybody can be told.
    if let Some(ledger) = ledger {
        ledger.note(&mut book);
    }
    drop(book);
    shared.tell_changed();
}

/// Has what an earlier daemon had announced taken back, when it is time, and forgets it when it has been.
async fn inherit(shared: &Shared, grace: Option<Duration>, dialled: usize) -> std::convert::Infallible {
    if let Some(grace) = grace.filter(|_| shared.book().inheritance().is_some()) {
        tokio::time::sleep(grace).await;
        shared.book().inheritance_due();
        shared.tell_changed();
        for round in 1.. {
            tokio::time::sleep(INHERITANCE_KEPT).await;
            let in_any_case = INHERITANCE_KEPT * round >= INHERITANCE_KEPT_MAX;
            if shared.book().settle_inheritance(dialled, in_any_case) {
                break;
            }
        }
    }
    std::future::pending().await
}

/// Publishes until the daemon ends, and then for as long as withdrawing takes, within a deadline.
async fn until_end(
    shared: &Shared,
    publishing: impl Future<Output = ()>,
    mut stopping: watch::Receiver<Option<Duration>>,
    end: &watch::Sender<bool>,
) {
    let ending = async {
        // An error means that whoever could say it is gone: the same.
        let deadline = stopping
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|stop| *stop);
        let deadline = deadline.unwrap_or(END_DEADLINE);
        // Only then: a connection that ended first would have taken nothing back.
        shared.book().withdraw_topics();
        end.send_replace(true);
        shared.tell_changed();
        tokio::time::sleep(deadline).await;
        deadline
    };
    tokio::pin!(publishing);
    tokio::select! {
        deadline = ending => info!(
            ?deadline,
            "not every router took what it was told at the end; its view of this node is out of date"
        ),
        () = &mut publishing => {
            // Nothing is published, or all has been withdrawn.
            let _ = stopping.wait_for(Option::is_some).await;
        }
    }
}

#[cfg(test)]
mod tests;
