//! Relays: what becomes of one engine's blocks, told through its own session, so that the engine's publisher passes it on.
//!
//! A relay is one more listener, with a session for its connection: a [`Speaker`] decides what it is told, and the pace,
//! beginning anew and missed changes are the same. Messages go to the engine thread only while there is credit, which the
//! client gives; without it the speaker stands still, and what it misses beyond the recent changes is announced again. So
//! at most one slice of messages waits here, whatever the client does.
//!
//! The engine is not announced under its own name elsewhere meanwhile: it would be heard twice.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use kvstore_types::SessionId;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::book::{TenantIndex, relay_topic};
use crate::clock::{Pace, seconds};
use crate::shared::Shared;
use crate::speaker::{Outlook, Part, Speaker};
use crate::wire::{Encoding, Media, Told};

/// Changes and blocks of a walk that are taken at a time. Small: they wait in memory until there is credit.
const SLICE: usize = 64;

/// Where relays are opened. Can be cloned and used from any thread.
#[derive(Clone, Debug)]
pub struct RelaySource {
    // As many wait as there are sessions at most.
    openings: mpsc::UnboundedSender<Opening>,
}

/// What a relay is for.
pub struct RelayOptions {
    /// Whose session.
    pub tenant: TenantIndex,
    /// The session. It must have been said in the feed that it relays.
    pub session: SessionId,
    /// Longest batch that can be delivered.
    pub batch_bytes_max: usize,
    /// Messages that may be under way at most, whatever credit is given.
    pub credit_max: u32,
    /// Takes one batch on. Must not wait.
    pub deliver: Box<dyn Fn(Vec<u8>) + Send>,
}

impl std::fmt::Debug for RelayOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RelayOptions")
            .field("tenant", &self.tenant)
            .field("session", &self.session)
            .field("batch_bytes_max", &self.batch_bytes_max)
            .field("credit_max", &self.credit_max)
            .finish_non_exhaustive()
    }
}

/// The session's end of a relay. It ends when this is dropped.
#[derive(Debug)]
pub struct Relay {
    account: Arc<Account>,
}

#[derive(Debug)]
struct Opening {
    options: RelayOptions,
    account: Arc<Account>,
}

/// What may still be sent.
#[derive(Debug)]
struct Account {
    credit: AtomicU32,
    credit_max: u32,
    closed: AtomicBool,
    changed: Notify,
}

impl RelaySource {
    pub(crate) fn new() -> (Self, Openings) {
        let (openings, receiver) = mpsc::unbounded_channel();
        (Self { openings }, Openings(receiver))
    }

    /// Opens a relay, without credit.
    pub fn open(&self, options: RelayOptions) -> Relay {
        let account = Arc::new(Account {
            credit: AtomicU32::new(0),
            credit_max: options.credit_max,
            closed: AtomicBool::new(false),
            changed: Notify::new(),
        });
        let relay = Relay {
            account: Arc::clone(&account),
        };
        // If the announcer is gone there is nothing to relay any more.
        let _ = self.openings.send(Opening { options, account });
        relay
    }
}

impl Relay {
    /// So many messages more may be under way.
    pub fn grant(&self, messages: u32) {
        self.account.grant(messages);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.account.closed.store(true, Ordering::Release);
        self.account.changed.notify_one();
    }
}

impl Account {
    fn grant(&self, messages: u32) {
        let grown = |credit: u32| Some(credit.saturating_add(messages).min(self.credit_max));
        // The closure always says what to store.
        let _ = self
            .credit
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, grown);
        self.changed.notify_one();
    }

    /// Takes the credit for one message; `false`: there is none.
    fn spend(&self) -> bool {
        self.credit
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |credit| {
                credit.checked_sub(1)
            })
            .is_ok()
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// Relays that have been opened.
#[derive(Debug)]
pub(crate) struct Openings(mpsc::UnboundedReceiver<Opening>);

/// What all relays have in common.
#[derive(Debug)]
pub(crate) struct RelaySetup {
    pub(crate) shared: Arc<Shared>,
    pub(crate) media: Media,
    pub(crate) announce_rate: u32,
}

/// Serves all relays, for ever.
pub(crate) async fn serve(setup: RelaySetup, mut openings: Openings) -> Infallible {
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            Some(opening) = openings.0.recv() => { relays.spawn(Talk::new(&setup, opening).run()); }
            Some(_) = relays.join_next() => {}
            else => return std::future::pending().await,
        }
    }
}

/// The announcer's end of a relay.
struct Talk {
    shared: Arc<Shared>,
    speaker: Speaker,
    topic: String,
    pace: Pace,
    options: RelayOptions,
    account: Arc<Account>,
    /// One slice of messages that wait for credit.
    waiting: VecDeque<Vec<u8>>,
    /// Announcements from the start that have been counted.
    announced: u64,
}

impl Talk {
    fn new(setup: &RelaySetup, Opening { options, account }: Opening) -> Self {
        let shared = Arc::clone(&setup.shared);
        let topic = relay_topic(options.tenant, options.session);
        let mut book = shared.book();
        let mut speaker = Speaker::new(&mut book, setup.media.clone(), Encoding::Map);
        speaker.subscribed(&mut book, |name| *name == *topic);
        drop(book);
        shared.counters.relays.add(1);
        Self {
            shared,
            speaker,
            topic,
            pace: Pace::new(setup.announce_rate),
            options,
            account,
            waiting: VecDeque::new(),
            announced: 0,
        }
    }

    async fn run(mut self) {
        let mut changed = self.shared.hear_changes();
        while !self.account.is_closed() {
            changed.mark_unchanged();
            while !self.waiting.is_empty() && self.account.spend() {
                self.waiting
                    .pop_front()
                    .into_iter()
                    .for_each(&self.options.deliver);
            }
            if !self.waiting.is_empty() {
                self.account.changed.notified().await;
                continue;
            }
            let outlook = self.tell();
            if outlook == Outlook::Now || !self.waiting.is_empty() {
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                () = self.account.changed.notified() => {}
                _ = changed.changed() => {}
                () = self.pace.wait(), if outlook == Outlook::Paced => {}
            }
        }
        self.speaker.leave(&mut self.shared.book());
        self.shared.counters.relays.subtract(1);
    }

    /// Makes messages of what there is to tell now.
    fn tell(&mut self) -> Outlook {
        let (parts, outlook) = {
            let mut book = self.shared.book();
            let topic = self.topic.as_str();
            let parts = self
                .speaker
                .next(&mut book, |name| name == topic, SLICE, self.pace.allows());
            (parts, self.speaker.outlook(&book))
        };
        self.pace.walked(parts.paced);
        let counters = &self.shared.counters;
        counters
            .announcements
            .add(self.speaker.announcements - self.announced);
        self.announced = self.speaker.announcements;
        for part in &parts.list {
            self.shared.counters.told(&part.told);
            self.pack(part, &part.told);
        }
        self.speaker.reuse(parts);
        outlook
    }

    /// Makes as few messages as fit of this, in order.
    fn pack(&mut self, part: &Part, told: &[Told]) {
        let mut batch = Vec::new();
        let left_out = self.speaker.encode(seconds(), part, told, &mut batch);
        if batch.len() > self.options.batch_bytes_max && told.len() > 1 {
            let (first, second) = told.split_at(told.len() / 2);
            self.pack(part, first);
            self.pack(part, second);
            return;
        }
        let counters = &self.shared.counters;
        if batch.len() > self.options.batch_bytes_max {
            counters.blocks_left_out.add(told.len() as u64);
            return;
        }
        counters.blocks_left_out.add(left_out);
        if left_out < told.len() as u64 {
            counters.messages.add(1);
            counters.bytes.add(batch.len() as u64);
            self.waiting.push_back(batch);
        }
    }
}

#[cfg(test)]
mod tests;
