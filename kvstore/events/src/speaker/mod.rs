//! What one router is told, and in which order: everything once, then every change, and everything again whenever it may
//! have missed something.
//!
//! ```text
//!            a topic it subscribes to appears
//!                         │
//!                         ▼        the walk has reached the end
//!   begin anew ───▶  Announcing ────────────────────────────────▶ Told
//!   (subscription,        │                                          │
//!    changes missed)      └───────────┐   the topic is gone  ┌───────┘
//!                                     ▼                      ▼
//!                                       Withdrawing ────▶ forgotten
//! ```
//!
//! Always
//! - Changes are told in their order. A walk goes on only when every change up to now has been told, so what it says is the
//!   truth at that point of the stream.
//! - While a topic is announced, `cursor` is how far the walk has come in the order of announcements. Blocks up to it
//!   have been told, so their changes are told as they come. Blocks behind it have not: that they came is left to the walk;
//!   that they went is told, because the router may know them from before.
//! - Where several namespaces are announced under one name, a router takes their blocks of one hash for the same, so
//!   it is told their union ([`union`]).
//! - A walk says of each block that it is removed, then that it is stored: whatever the router counted before, it
//!   counts one afterwards.
//!
//! No I/O, no clock.

mod changes;
mod inherited;
mod parts;
mod union;
mod walk;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;

use hashbrown::HashMap;
use kvstore_types::{BlockKey, NamespaceId};

use self::parts::Place;
pub(crate) use self::parts::{Part, Parts};
use self::union::is_one_voice;
use crate::book::{Book, ReaderId, TenantIndex, Topic};
use crate::wire::{Encoding, Media, Mix, Style, Told, cleared_batch, encode_batch};

/// How far a router has been told a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// From the start on; `goal` is what there was when it began.
    Announcing { cursor: u64, goal: u64 },
    /// Everything.
    Told,
    /// It is being taken back.
    Withdrawing { cursor: u64 },
}

/// Whether it says that all is cleared under names that are this daemon's alone. What an earlier daemon, which was
/// killed, has told under them nobody else can take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clearing {
    /// The router takes what it hears for another's: an engine's own blocks would go as well.
    Never,
    /// Before anything else is told.
    Due,
    /// At this position.
    Told(u64),
}

/// Topics that are remembered after they were withdrawn.
const WITHDRAWN_MAX: usize = 256;

/// One router.
#[derive(Debug)]
pub(crate) struct Speaker {
    media: Media,
    encoding: Encoding,
    /// Of the names that one namespace is announced under, it says one.
    has_one_voice: bool,
    reader: ReaderId,
    /// The next change it is told.
    position: u64,
    topics: BTreeMap<Topic, Progress>,
    /// In one voice, the topics of each namespace.
    spaces: HashMap<(TenantIndex, NamespaceId), Vec<Topic>>,
    topics_version: u64,
    /// Topics that were withdrawn lately, each with the position at which that was complete.
    withdrawn: VecDeque<(Topic, u64)>,
    /// Blocks that are gone and that it may know from before: the removals among these changes. Told before anything is
    /// announced, and kept until that has certainly arrived.
    owed: Range<u64>,
    /// The first of these changes that has not been told.
    owed_next: u64,
    /// The position at which all of them had been told.
    owed_told_at: u64,
    clearing: Clearing,
    /// Names under which an earlier daemon's blocks are still to be told as removed.
    inherited: VecDeque<Topic>,
    /// How many of the first of them have been.
    inherited_cursor: usize,
    /// It has been told everything at least once, or is about to be.
    has_begun: bool,
    /// Beginnings from the start.
    pub(crate) announcements: u64,
    /// Memory for what is told next.
    spare: Vec<Told>,
}

/// What there is still to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outlook {
    /// Changes, or the end of a walk: at once.
    Now,
    /// A walk: when the pace allows.
    Paced,
    /// Nothing.
    Nothing,
}

impl Speaker {
    /// One who has been told nothing yet.
    pub(crate) fn new(book: &mut Book, media: Media, encoding: Encoding) -> Self {
        Self {
            media,
            encoding,
            has_one_voice: false,
            reader: book.reader_came(),
            position: book.announcements().head(),
            topics: BTreeMap::new(),
            spaces: HashMap::new(),
            topics_version: 0,
            withdrawn: VecDeque::new(),
            owed: 0..0,
            owed_next: 0,
            owed_told_at: 0,
            clearing: Clearing::Never,
            inherited: VecDeque::new(),
            inherited_cursor: 0,
            has_begun: false,
            announcements: 0,
            spare: Vec::new(),
        }
    }

    /// Speaks for all engines in one voice: to a router that dials an engine. Whatever it hears is about the engine it has
    /// dialled, whatever the topics say, and what it hears twice does not end when it is withdrawn once.
    pub(crate) fn in_one_voice(mut self) -> Self {
        self.has_one_voice = true;
        self
    }

    /// Begins with clearing the names that are this daemon's alone, and ends with it.
    pub(crate) fn clearing(mut self) -> Self {
        self.clearing = Clearing::Due;
        self
    }

    /// The router is gone for good.
    pub(crate) fn leave(&self, book: &mut Book) {
        book.reader_left(self.reader);
    }

    /// The connection has ended: what was told last may not have arrived, and the router still knows what was told before.
    pub(crate) fn disconnected(&mut self, book: &mut Book) {
        self.forget_debts(book);
        self.has_begun = false;
        self.owed_next = self.owed.start;
        // What is still among the recent changes may have been under way.
        self.position = self.position.min(book.announcements().base());
        self.register(book);
        if matches!(self.clearing, Clearing::Told(position) if position >= self.position) {
            self.clearing = Clearing::Due;
        }
        for (topic, position) in self.withdrawn.drain(..) {
            if position >= self.position {
                self.topics
                    .entry(topic)
                    .or_insert(Progress::Withdrawing { cursor: 0 });
            }
        }
        self.index_spaces();
        self.report_inheritance(book);
    }

    /// The router has subscribed to something: everything that it hears is announced from the start.
    pub(crate) fn subscribed(&mut self, book: &mut Book, hears: impl Fn(&str) -> bool) {
        self.unsubscribed(&hears);
        self.begin_anew(book);
        self.claim_inheritance(book, &hears);
        self.find_topics(book, &hears);
    }

    /// The router has cancelled a subscription.
    pub(crate) fn unsubscribed(&mut self, hears: impl Fn(&str) -> bool) {
        self.topics.retain(|topic, _| hears(&topic.name));
        if self.inherited.front().is_some_and(|topic| !hears(&topic.name)) {
            self.inherited_cursor = 0;
        }
        self.inherited.retain(|topic| hears(&topic.name));
    }

    /// What is to be told now: at most `blocks_max` changes, and when it has heard all of them, at most as many blocks of
    /// walks. `may_walk`: the pace allows it; the end of a walk, blocks that came while it was under way, needs no leave.
    pub(crate) fn next(
        &mut self,
        book: &mut Book,
        hears: impl Fn(&str) -> bool,
        blocks_max: usize,
        may_walk: bool,
    ) -> Parts {
        let mut parts = Parts::new(self.has_one_voice, std::mem::take(&mut self.spare));
        if !self.has_begun {
            return parts;
        }
        if self.position < book.announcements().base() {
            // Changes were missed; what was inherited is told on where it was.
            self.begin_anew(book);
        }
        self.forget_debts(book);
        if self.topics_version != book.topics_version() {
            self.find_topics(book, &hears);
        }
        if self.clearing == Clearing::Due || book.is_over() {
            self.clear(book, &hears, &mut parts);
        }
        self.position += self.tell_changes(book, blocks_max, &mut parts);
        self.register(book);
        if self.position == book.announcements().head() {
            self.walk(book, blocks_max, may_walk, &mut parts);
            self.report_inheritance(book);
        }
        parts.finish();
        parts
    }

    /// What there is still to tell.
    pub(crate) fn outlook(&self, book: &Book) -> Outlook {
        if !self.has_begun {
            return Outlook::Nothing;
        }
        if self.position < book.announcements().head() || self.topics_version != book.topics_version() {
            return Outlook::Now;
        }
        let walks = self
            .topics
            .iter()
            .filter(|(_, progress)| **progress != Progress::Told);
        let first = if self.owes_inheritance(book) {
            Outlook::Paced
        } else {
            Outlook::Nothing
        };
        walks.fold(first, |outlook, (topic, progress)| match progress {
            Progress::Announcing { cursor, goal }
                if cursor >= goal && !self.owes() && !topic.is_partial && !self.is_being_freed(topic) =>
            {
                Outlook::Now
            }
            _ if outlook == Outlook::Now => Outlook::Now,
            _ => Outlook::Paced,
        })
    }

    /// What was told has been sent: its memory is used again.
    pub(crate) fn reuse(&mut self, parts: Parts) {
        self.spare = parts.into_memory();
    }

    /// Appends a message of some of what a part tells, and says how many blocks it had to leave out.
    pub(crate) fn encode(&self, seconds: f64, part: &Part, told: &[Told], out: &mut Vec<u8>) -> u64 {
        if part.clears {
            cleared_batch(seconds, self.encoding, out);
            return 0;
        }
        let style = Style {
            encoding: self.encoding,
            media: &self.media,
            tiers: part.topic.tiers,
            shape: part.shape.as_deref(),
            mix: Mix::of(&part.topic.name),
        };
        encode_batch(seconds, told, style, out)
    }

    /// Everything from the start, and what has gone since it may have listened last.
    fn begin_anew(&mut self, book: &mut Book) {
        self.has_begun = true;
        self.announcements += 1;
        // All that are still known.
        self.position = book.announcements().head();
        self.owed = 0..self.position;
        (_, self.owed_next) = book.removals(self.owed.clone(), 0);
        self.register(book);
        let goal = book.stamp();
        for progress in self.topics.values_mut() {
            *progress = match progress {
                Progress::Withdrawing { .. } => Progress::Withdrawing { cursor: 0 },
                _ => Progress::Announcing { cursor: 0, goal },
            };
        }
    }

    /// Says that nothing is there under the names that are this daemon's alone: before anything else, and at the end instead
    /// of taking each block back.
    fn clear(&mut self, book: &Book, hears: &impl Fn(&str) -> bool, parts: &mut Parts) {
        if self.clearing == Clearing::Never {
            return;
        }
        for own in book.own_topics().into_iter().filter(|own| hears(&own.name)) {
            let count = self.topics.len();
            if book.is_over() {
                self.topics.retain(|topic, _| !topic.is_beside(&own));
            }
            if self.clearing == Clearing::Due || self.topics.len() < count {
                parts.clear(own);
            }
        }
        self.clearing = Clearing::Told(self.position);
    }

    fn owes(&self) -> bool {
        self.owed_next < self.owed.end
    }

    /// Says how far it has come, and what it still needs.
    fn register(&self, book: &mut Book) {
        book.reader_at(self.reader, self.position, self.owed.clone(), self.has_begun);
        let mut walks = self.topics.values();
        let is_withdrawing = walks.any(|progress| matches!(progress, Progress::Withdrawing { .. }));
        let base = book.announcements().base();
        // What was taken back lately may be under way still, but for the end of the daemon: nobody waits longer then.
        let has_arrived = book.is_over() || self.withdrawn.iter().all(|(_, position)| *position < base);
        if is_withdrawing || !has_arrived {
            return book.reader_withdraws(self.reader);
        }
        let version = if self.topics.is_empty() {
            u64::MAX
        } else {
            self.topics_version
        };
        book.reader_withdrew(self.reader, version);
    }

    /// Lets go of what has been told so long ago that it has arrived or the connection has ended since.
    fn forget_debts(&mut self, book: &Book) {
        if !self.owes() && self.owed_told_at < book.announcements().base() {
            self.owed = 0..0;
            self.owed_next = 0;
        }
    }

    /// Begins to announce topics that are new, and to withdraw those that are gone.
    fn find_topics(&mut self, book: &Book, hears: &impl Fn(&str) -> bool) {
        self.topics_version = book.topics_version();
        let topics = self.choose(book, hears);
        self.bequeath(&topics);
        for (topic, progress) in &mut self.topics {
            let is_withdrawn = matches!(progress, Progress::Withdrawing { .. });
            if !topics.contains(topic) && !is_withdrawn {
                *progress = Progress::Withdrawing { cursor: 0 };
            } else if topics.contains(topic) && is_withdrawn {
                *progress = Progress::Announcing {
                    cursor: 0,
                    goal: book.stamp(),
                };
            }
        }
        for topic in topics {
            self.topics.entry(topic).or_insert_with(|| Progress::Announcing {
                cursor: 0,
                goal: book.stamp(),
            });
        }
        self.index_spaces();
    }

    /// Whether other nodes announce their blocks under the same name, so that what this one does not know may be theirs.
    fn is_shared(&self, topic: &Topic) -> bool {
        topic.is_partial && !self.has_one_voice
    }

    /// The topics that the router hears, and in one voice the first of those that say the same.
    fn choose(&self, book: &Book, hears: &impl Fn(&str) -> bool) -> BTreeSet<Topic> {
        let heard = book.topics().iter().filter(|topic| hears(&topic.name));
        let mut said = BTreeSet::new();
        heard
            .filter(|topic| {
                !self.has_one_voice || said.insert((topic.tenant, topic.namespace, topic.model()))
            })
            .cloned()
            .collect()
    }

    /// In one voice, a name takes over from one that is gone what it said: nothing has to be said again.
    fn bequeath(&mut self, topics: &BTreeSet<Topic>) {
        if !self.has_one_voice {
            return;
        }
        let gone: Vec<Topic> = self
            .topics
            .keys()
            .filter(|topic| !topics.contains(topic))
            .cloned()
            .collect();
        for topic in gone {
            let says_the_same = |other: &&Topic| {
                (other.tenant, other.namespace, other.tiers, other.model())
                    == (topic.tenant, topic.namespace, topic.tiers, topic.model())
            };
            let heir = topics
                .iter()
                .filter(|heir| !self.topics.contains_key(*heir))
                .find(says_the_same);
            if let Some(heir) = heir
                && let Some(progress) = self.topics.remove(&topic)
            {
                self.topics.insert(heir.clone(), progress);
            }
        }
    }
}

fn told(key: &BlockKey, medium: u8, stored: Option<kvstore_types::DescriptorBytes>) -> Told {
    Told {
        medium,
        group: key.group,
        hash: key.hash,
        stored,
    }
}

#[cfg(test)]
mod tests;
