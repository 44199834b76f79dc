//! Walks: everything that is there, told again or taken back, a slice at a time.

use kvstore_types::BlockKey;

use super::{Parts, Place, Progress, Speaker, WITHDRAWN_MAX, told};
use crate::book::{Book, Debt, Topic};
use crate::wire::{Medium, MediumSet};

/// One block of a slice.
struct Seen {
    key: BlockKey,
    /// Where it is.
    there: MediumSet,
    /// Where a router has been told already that it is, because another namespace under this name has it.
    elsewhere: MediumSet,
    descriptor: Option<kvstore_types::DescriptorBytes>,
}

impl Speaker {
    /// Goes on with the walks, `blocks_max` blocks at most.
    pub(super) fn walk(&mut self, book: &Book, blocks_max: usize, may_walk: bool, parts: &mut Parts) {
        let mut left = blocks_max;
        if may_walk && self.owes() {
            left = self.tell_debts(book, left, parts);
        }
        if self.owes() {
            return;
        }
        let mut done = Vec::new();
        let walks: Vec<Topic> = self
            .topics
            .iter()
            .filter(|(_, progress)| **progress != Progress::Told)
            .map(|(topic, _)| topic.clone())
            .collect();
        for topic in walks {
            if left == 0 {
                break;
            }
            let Some(progress) = self.topics.get(&topic).copied() else {
                continue;
            };
            let (Progress::Announcing { cursor, .. } | Progress::Withdrawing { cursor }) = progress else {
                continue;
            };
            let is_end = matches!(progress, Progress::Announcing { cursor, goal } if cursor >= goal);
            let is_announced = matches!(progress, Progress::Announcing { .. });
            // What is taken back waits for nobody: others may wait for it.
            let waits = topic.is_partial && self.is_announcing(&topic) || self.is_being_freed(&topic);
            if (!may_walk && !is_end) || (is_announced && waits) {
                continue;
            }
            let (seen, reached) = self.slice(book, &topic, cursor, left);
            left -= seen.len();
            parts.paced += if is_end { 0 } else { seen.len() };
            let next = if let Progress::Announcing { goal, .. } = progress {
                self.announce(book, &topic, &seen, parts);
                reached.map_or(Progress::Told, |cursor| Progress::Announcing { cursor, goal })
            } else {
                self.take_back(book, &topic, &seen, parts);
                let Some(cursor) = reached else {
                    done.push(topic);
                    continue;
                };
                Progress::Withdrawing { cursor }
            };
            self.topics.insert(topic, next);
        }
        // Last: what is there now matters more, and at the end of the daemon what it has told itself.
        if may_walk && self.owes_inheritance(book) {
            self.tell_inherited(book, left, parts);
        }
        for topic in done {
            self.topics.remove(&topic);
            self.withdrawn.push_back((topic, self.position));
            if self.withdrawn.len() > WITHDRAWN_MAX {
                self.withdrawn.pop_front();
            }
        }
    }

    /// Whether in one voice the topic's blocks are still being taken back from another name.
    pub(super) fn is_being_freed(&self, topic: &Topic) -> bool {
        self.has_one_voice
            && self.topics.iter().any(|(other, progress)| {
                let is_same = (other.tenant, other.namespace) == (topic.tenant, topic.namespace);
                is_same && other != topic && matches!(progress, Progress::Withdrawing { .. })
            })
    }

    /// Whether anything of the same blocks is still being announced under a name that stands for all of them.
    fn is_announcing(&self, topic: &Topic) -> bool {
        self.topics.iter().any(|(other, progress)| {
            !other.is_partial
                && (other.tenant, other.namespace) == (topic.tenant, topic.namespace)
                && matches!(progress, Progress::Announcing { .. })
        })
    }

    /// Tells what has gone; returns how much more may be told.
    fn tell_debts(&mut self, book: &Book, blocks_max: usize, parts: &mut Parts) -> usize {
        let (gone, next) = book.removals(self.owed_next..self.owed.end, blocks_max);
        let count = gone.len();
        parts.paced += count;
        for topic in self.topics.keys() {
            let mut place = Place::of(topic);
            for medium in self.media.set(topic.tiers).iter() {
                for debt in &gone {
                    let is_of_it = (debt.tenant, debt.key.namespace) == (topic.tenant, topic.namespace);
                    if is_of_it && self.takes_back(topic, debt, medium) {
                        parts.tell(&mut place, book, told(&debt.key, medium, None));
                    }
                }
            }
        }
        self.owed_next = next;
        self.owed_told_at = self.position;
        blocks_max - count
    }

    /// Whether the block is told as removed from this medium, whatever the router has heard of it.
    fn takes_back(&self, topic: &Topic, debt: &Debt, medium: Medium) -> bool {
        if self.is_shared(topic) {
            self.media
                .set(debt.lost.intersection(topic.tiers))
                .contains(medium)
        } else {
            debt.is_gone
        }
    }

    /// Removed and stored, whatever was known before. Of what another namespace's walk has told, only where there is more.
    /// Under a name that other nodes share, only what this one has: the rest may be theirs.
    ///
    /// Blocks that are in the same media are told a medium at a time, so that a chain is one event; others end such a
    /// stretch, because a block must not be told before its parent, wherever that is.
    fn announce(&self, book: &Book, topic: &Topic, seen: &[Seen], parts: &mut Parts) {
        let all = self.media.set(topic.tiers);
        let is_news =
            |block: &&Seen| block.elsewhere.is_empty() || !block.there.without(block.elsewhere).is_empty();
        let news: Vec<&Seen> = seen.iter().filter(is_news).collect();
        let is_shared = self.is_shared(topic);
        let from = |block: &Seen| {
            if is_shared {
                block.stored_in()
            } else {
                all.union(block.elsewhere)
            }
        };
        withdraw(book, topic, &news, from, parts);
        let mut place = Place::of(topic);
        for stretch in news.chunk_by(|one, other| one.stored_in() == other.stored_in()) {
            let media = stretch
                .first()
                .map_or(MediumSet::EMPTY, |block| block.stored_in());
            for medium in media.iter() {
                for block in stretch.iter().filter(|block| block.descriptor.is_some()) {
                    parts.tell(
                        &mut place,
                        book,
                        told(&block.key, medium, block.descriptor.clone()),
                    );
                }
            }
        }
    }

    /// Removed from every medium, also from those where it is not now, but not from where another namespace has it. What is under
    /// a name that other nodes share outlives the daemon.
    fn take_back(&self, book: &Book, topic: &Topic, seen: &[Seen], parts: &mut Parts) {
        let is_shared = self.is_shared(topic);
        if is_shared && book.is_over() {
            return;
        }
        let all = self.media.set(topic.tiers);
        let seen: Vec<&Seen> = seen.iter().collect();
        let from = |block: &Seen| if is_shared { block.there } else { all };
        withdraw(
            book,
            topic,
            &seen,
            |block| from(block).without(block.elsewhere),
            parts,
        );
    }

    /// Some announced blocks behind the cursor, and the new cursor; none if these were the last.
    fn slice(&self, book: &Book, topic: &Topic, cursor: u64, blocks_max: usize) -> (Vec<Seen>, Option<u64>) {
        let Some(namespace) = book.namespace(topic.tenant, topic.namespace) else {
            return (Vec::new(), None);
        };
        let mut behind = namespace.order.behind(cursor);
        let mut seen = Vec::new();
        let mut reached = cursor;
        for (stamp, index) in behind.by_ref().take(blocks_max) {
            let record = book.record(index);
            let key = book.key_of(record).1;
            let elsewhere = self.elsewhere(book, topic, key.group, &book.twins(index));
            seen.push(Seen {
                key,
                there: self.media.set(record.tiers.intersection(topic.tiers)),
                elsewhere: self.media.set(elsewhere),
                descriptor: record.descriptor.clone(),
            });
            reached = stamp;
        }
        let is_last = behind.next().is_none();
        (seen, (!is_last).then_some(reached))
    }
}

impl Seen {
    /// Where a router takes it to be once it has been announced.
    fn stored_in(&self) -> MediumSet {
        self.there.union(self.elsewhere)
    }
}

/// Says that blocks are removed, a medium at a time; `from` says from which each is.
fn withdraw(
    book: &Book,
    topic: &Topic,
    seen: &[&Seen],
    from: impl Fn(&Seen) -> MediumSet,
    parts: &mut Parts,
) {
    let media = seen
        .iter()
        .fold(MediumSet::EMPTY, |all, block| all.union(from(block)));
    let mut place = Place::of(topic);
    for medium in media.iter() {
        for block in seen.iter().filter(|block| from(block).contains(medium)) {
            parts.tell(&mut place, book, told(&block.key, medium, None));
        }
    }
}
