//! What a change means under each topic.

use std::ops::Range;

use kvstore_types::{NamespaceId, Tier};

use super::{Clearing, Parts, Place, Progress, Speaker, told};
use crate::book::{Book, Change, TOPIC_PREFIX, TenantIndex, Topic};
use crate::tiers::TierSet;
use crate::wire::MediumSet;

/// A topic, and what holds for all changes that are told in one go.
struct Voice<'a> {
    place: Place<'a>,
    topic: &'a Topic,
    progress: Progress,
    /// Where its blocks can be.
    all: MediumSet,
    /// A router may know blocks that have just come.
    may_be_known: bool,
    /// A router may know blocks of other namespaces that it has not been told lately.
    is_unsure: bool,
    /// Other nodes announce theirs under the same name.
    is_shared: bool,
}

/// All topics, those of one namespace beside each other.
struct Voices<'a> {
    list: Vec<Voice<'a>>,
    /// Those of the namespace that was asked for last: changes mostly come in runs.
    last: Range<usize>,
}

impl<'a> Voices<'a> {
    /// Those that a change is told under.
    fn of(&mut self, change: &Change) -> &mut [Voice<'a>] {
        let wanted = (change.tenant, change.key.namespace);
        let is_last = self.list[self.last.clone()]
            .first()
            .is_some_and(|voice| voice.space() == wanted);
        if !is_last {
            let start = self.list.partition_point(|voice| voice.space() < wanted);
            let count = self.list[start..]
                .iter()
                .take_while(|voice| voice.space() == wanted)
                .count();
            self.last = start..start + count;
        }
        &mut self.list[self.last.clone()]
    }
}

impl Voice<'_> {
    fn space(&self) -> (TenantIndex, NamespaceId) {
        (self.topic.tenant, self.topic.namespace)
    }
}

impl Speaker {
    /// Tells the next changes, at most so many; returns how many.
    pub(super) fn tell_changes(&self, book: &Book, blocks_max: usize, parts: &mut Parts) -> u64 {
        let log = book.announcements();
        if self.position == log.head() {
            return 0;
        }
        let mut voices = self.voices(book);
        let mut count = 0;
        for (_, change) in log.since(self.position).take(blocks_max) {
            for voice in voices.of(change) {
                self.tell(voice, change, book, parts);
            }
            count += 1;
        }
        count
    }

    fn voices(&self, book: &Book) -> Voices<'_> {
        let unsettled = self.unsettled();
        let is_unsure = |topic: &Topic, progress: Progress| {
            let count = unsettled.get(self.heard_as(topic)).copied().unwrap_or(0);
            count > usize::from(progress != Progress::Told)
        };
        let topics = self.topics.iter();
        let mut list: Vec<_> = topics
            .map(|(topic, progress)| Voice {
                place: Place::of(topic),
                topic,
                progress: *progress,
                all: self.media.set(topic.tiers),
                may_be_known: self.may_be_known(book, topic),
                is_unsure: is_unsure(topic, *progress),
                is_shared: self.is_shared(topic),
            })
            .collect();
        list.sort_by_key(Voice::space);
        Voices { list, last: 0..0 }
    }

    /// Whether a router may know a block that has just come: from the daemon's predecessor, which may have been killed, also
    /// from where it no longer is. A node's name has been cleared, a pool's is not this daemon's to correct unless the block was
    /// found, and a connector has taken back itself what it had passed on.
    fn may_be_known(&self, book: &Book, topic: &Topic) -> bool {
        let is_cleared = self.clearing != Clearing::Never && book.is_own(topic);
        let is_public = topic.name.starts_with(TOPIC_PREFIX);
        is_public && !topic.is_partial && !is_cleared
    }

    fn tell(&self, voice: &mut Voice<'_>, change: &Change, book: &Book, parts: &mut Parts) {
        let topic = voice.topic;
        let elsewhere = self.elsewhere(book, topic, change.key.group, &change.twins);
        let is_reached = match voice.progress {
            Progress::Told => true,
            Progress::Announcing { cursor, .. } => change.stamp <= cursor,
            Progress::Withdrawing { .. } => false,
        };
        let there = |tiers: TierSet| self.media.set(tiers.intersection(topic.tiers).union(elsewhere));
        let (before, after) = (there(change.before), there(change.after));
        let is_new = elsewhere.is_empty() && change.before.is_empty();
        let (lost, gained) = if !is_reached {
            // What the router knows of it is from before: it may be more than there was last.
            let known = if voice.is_shared { before } else { voice.all };
            (known.without(after), MediumSet::EMPTY)
        } else if is_new && (voice.may_be_known || is_found(change)) {
            let known = if voice.is_shared { after } else { voice.all };
            for medium in known.iter() {
                parts.tell_before(&mut voice.place, book, told(&change.key, medium, None));
            }
            (MediumSet::EMPTY, after)
        } else {
            let gained = after.without(before);
            let unsure = if voice.is_unsure { gained } else { MediumSet::EMPTY };
            (before.without(after).union(unsure), gained)
        };
        for medium in lost.iter() {
            parts.tell(&mut voice.place, book, told(&change.key, medium, None));
        }
        for medium in gained.iter().filter(|_| change.descriptor.is_some()) {
            let stored = told(&change.key, medium, change.descriptor.clone());
            parts.tell(&mut voice.place, book, stored);
        }
    }
}

/// Whether the block was there before this daemon was: what is new is in memory first.
fn is_found(change: &Change) -> bool {
    !change.after.without(TierSet::of(Tier::Host)).is_empty()
}
