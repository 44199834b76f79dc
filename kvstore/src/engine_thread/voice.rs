//! Tells the announcer what becomes of blocks and who serves them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use connector_shm::{Completion, EVENTS_CREDIT_MAX, events_batch_bytes_max};
use kvstore_engine::{Effect, Effects, Engine, Role, SnapshotCursor};
use kvstore_events::{
    CounterSource, FEED_ITEMS_MAX, FeedItem, FeedSender, GroupShape, NamespaceShape, RelayOptions,
    RelaySource, TenantIndex,
};
use kvstore_types::{GroupLayout, NamespaceDescriptor, NamespaceId, SessionId, Tier};
use serde_json::Value;

use super::command::{Command, CommandSender};
use super::core::Sessions;
use super::session::{Fault, Session};

/// Records that one round looks at while everything is said again: clients wait for it.
const SLICE: u32 = 512;
/// Room that is left to what happens meanwhile.
const ROOM_MIN: usize = FEED_ITEMS_MAX / 2;
/// When to look again whether there is room.
const PATIENCE: Duration = Duration::from_millis(5);
/// The field of a namespace's descriptor that names its model.
const MODEL_TAG: &str = "model.id";

/// The engine thread's way to the announcer.
#[derive(Debug)]
pub(crate) struct Voice {
    feed: FeedSender,
    counters: CounterSource,
    saying: Option<SayingAll>,
    /// None: nothing is relayed.
    door: Option<RelayDoor>,
}

/// How a session's relay is opened.
#[derive(Debug)]
pub(crate) struct RelayDoor {
    /// Where.
    pub(crate) source: RelaySource,
    /// Whose sessions.
    pub(crate) tenant: TenantIndex,
    /// The way back to this thread.
    pub(crate) commands: CommandSender,
}

/// Everything is being said again.
#[derive(Clone, Copy, Debug)]
struct SayingAll {
    number: u64,
    cursor: SnapshotCursor,
    /// When to go on.
    at: Instant,
}

impl Voice {
    /// Speaks into this feed.
    pub(crate) fn new(feed: FeedSender, counters: CounterSource, door: Option<RelayDoor>) -> Self {
        Self {
            feed,
            counters,
            saying: None,
            door,
        }
    }

    /// What the announcer counts.
    pub(super) fn count(&self) -> Value {
        let counters = self.counters.count();
        let numbers = counters.named().into_iter();
        numbers
            .map(|(name, number)| (name.to_owned(), Value::from(number)))
            .collect()
    }

    /// Says what the effects of a step mean for others.
    pub(super) fn hear(&mut self, effects: &Effects, engine: &Engine, sessions: &Sessions) {
        for effect in &effects.list {
            match effect {
                Effect::BlockStored {
                    key,
                    tier,
                    descriptor,
                } => self.feed.push(FeedItem::Stored {
                    key: *key,
                    tier: *tier,
                    descriptor: descriptor.clone(),
                }),
                Effect::BlockDescribed { key, descriptor } => self.feed.push(FeedItem::Described {
                    key: *key,
                    descriptor: descriptor.clone(),
                }),
                Effect::BlockRemoved { key, tier, .. } => self.feed.push(FeedItem::Removed {
                    key: *key,
                    tier: *tier,
                }),
                Effect::NamespaceReady {
                    session,
                    namespace,
                    groups,
                } => {
                    self.namespace(*namespace, engine.descriptor(*namespace), groups);
                    self.session_serves(*session, *namespace, sessions);
                }
                _ => {}
            }
        }
    }

    fn session_serves(&mut self, id: SessionId, namespace: NamespaceId, sessions: &Sessions) {
        // A scheduler may relay, now or later, whatever it is called.
        let speaks = |session: &&Session| session.role == Role::Scheduler || !session.model.is_empty();
        let Some(session) = sessions.get(&id).filter(speaks) else {
            return;
        };
        self.feed.push(FeedItem::PodAttached {
            session: id,
            namespace,
            pod: session.pod.as_str().into(),
            model: session.model.as_str().into(),
        });
    }

    /// Says what a namespace's blocks look like.
    pub(super) fn namespace(
        &mut self,
        namespace: NamespaceId,
        descriptor: Option<&NamespaceDescriptor>,
        groups: &[GroupLayout],
    ) {
        let model = descriptor.and_then(|descriptor| descriptor.get(MODEL_TAG));
        let model = model.and_then(|model| std::str::from_utf8(model).ok());
        let shape = |group: &GroupLayout| GroupShape {
            kind: group.kind,
            tokens_per_block: group.tokens_per_block,
        };
        self.feed.push(FeedItem::Namespace(Arc::new(NamespaceShape {
            namespace,
            model: model.map(Arc::from),
            groups: groups.iter().map(shape).collect(),
        })));
    }

    /// Opens a session's relay if that is allowed, and says so.
    fn open_relay(&mut self, session: &mut Session) {
        let Some(door) = &self.door else {
            return;
        };
        self.feed.push(FeedItem::RelayBegan { session: session.id });
        let (id, commands) = (session.id, door.commands.clone());
        session.relay = Some(door.source.open(RelayOptions {
            tenant: door.tenant,
            session: id,
            batch_bytes_max: events_batch_bytes_max(session.end.completions().capacity()),
            credit_max: EVENTS_CREDIT_MAX,
            deliver: Box::new(move |batch| commands.send(Command::Relay { session: id, batch })),
        }));
    }

    /// Says that a session is over.
    pub(super) fn session_ended(&mut self, session: SessionId) {
        self.feed.push(FeedItem::PodDetached { session });
    }

    /// Begins to say everything again.
    pub(super) fn say_all(&mut self, number: u64, now: Instant) {
        self.feed.push(FeedItem::SnapshotBegun { number });
        self.saying = Some(SayingAll {
            number,
            cursor: SnapshotCursor::default(),
            at: now,
        });
    }

    /// Says the next piece of everything, if it is time and there is room. `true`: it did.
    pub(super) fn go_on(&mut self, engine: &Engine, now: Instant) -> bool {
        let Some(saying) = self.saying.as_mut().filter(|saying| saying.at <= now) else {
            return false;
        };
        if self.feed.room() < ROOM_MIN {
            saying.at = now + PATIENCE;
            return false;
        }
        let feed = &mut self.feed;
        let next = engine.snapshot(saying.cursor, SLICE, &mut |key, residency, descriptor| {
            for (is_there, tier) in [
                (residency.host, Tier::Host),
                (residency.nvme, Tier::Nvme),
                (residency.remote, Tier::Remote),
            ] {
                if is_there {
                    feed.push(FeedItem::Stored {
                        key,
                        tier,
                        descriptor: descriptor.cloned(),
                    });
                }
            }
        });
        if let Some(cursor) = next {
            saying.cursor = cursor;
        } else {
            let number = saying.number;
            self.feed.push(FeedItem::SnapshotEnded { number });
            self.saying = None;
        }
        true
    }

    /// When it wants to go on; none: it has nothing to say by itself.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.saying.as_ref().map(|saying| saying.at)
    }

    /// Hands over what has been said.
    pub(super) fn flush(&mut self) {
        self.feed.flush();
    }
}

/// Gives a session's relay credit, and opens it at the first. Where nothing is relayed the client hears that.
pub(super) fn credit_relay(
    voice: Option<&mut Voice>,
    session: Option<&mut Session>,
    credit: u32,
) -> Result<(), Fault> {
    let Some(session) = session else {
        return Ok(());
    };
    if session.relay.is_none()
        && let Some(voice) = voice
    {
        voice.open_relay(session);
    }
    match &session.relay {
        Some(relay) => relay.grant(credit),
        None => session.send(&Completion::Events { batch: None })?,
    }
    Ok(())
}

#[cfg(test)]
mod tests;
