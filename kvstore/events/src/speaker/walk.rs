//! Walks: everything that is there, told again or taken back, a slice at a time.

use std::ops::Bound;

use kvstore_types::BlockKey;

use super::{Parts, Progress, Speaker, WITHDRAWN_MAX, told};
use crate::book::{Book, Topic};
use crate::tiers::TierSet;

/// One block of a slice.
struct Seen {
    key: BlockKey,
    tiers: TierSet,
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
            if (!may_walk && !is_end) || (topic.is_partial && self.is_announcing(&topic)) {
                continue;
            }
            if matches!(progress, Progress::Announcing { .. }) && self.is_being_freed(&topic) {
                continue;
            }
            let (seen, reached) = slice(book, &topic, cursor, left);
            left -= seen.len();
            parts.paced += if is_end { 0 } else { seen.len() };
            let next = if let Progress::Announcing { goal, .. } = progress {
                self.announce(book, &topic, &seen, parts);
                reached.map_or(Progress::Told, |cursor| Progress::Announcing { cursor, goal })
            } else {
                self.withdraw(book, &topic, &seen, parts);
                let Some(cursor) = reached else {
                    done.push(topic);
                    continue;
                };
                Progress::Withdrawing { cursor }
            };
            self.topics.insert(topic, next);
        }
        for topic in done {
            self.topics.remove(&topic);
            self.withdrawn.push_back((topic, self.position));
            if self.withdrawn.len() > WITHDRAWN_MAX {
                self.withdrawn.pop_front();
            }
        }
    }

    /// Whether the topic's name is still being taken back from another namespace, or in one voice its blocks from another
    /// name.
    pub(super) fn is_being_freed(&self, topic: &Topic) -> bool {
        self.topics.iter().any(|(other, progress)| {
            let is_same = other.name == topic.name
                || self.has_one_voice && (other.tenant, other.namespace) == (topic.tenant, topic.namespace);
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
        let rest = &self.debts[self.debts_told..];
        let gone = &rest[..rest.len().min(blocks_max)];
        let count = gone.len();
        parts.paced += count;
        for topic in self.topics.keys() {
            for medium in self.media.of(topic.tiers) {
                for (tenant, key) in gone {
                    if (*tenant, key.namespace) == (topic.tenant, topic.namespace) {
                        parts.tell(topic, book, told(key, medium, None));
                    }
                }
            }
        }
        self.debts_told += count;
        self.debts_told_at = self.position;
        blocks_max - count
    }

    /// Removed and stored, whatever was known before.
    ///
    /// Blocks that are in the same media are told a medium at a time, so that a chain is one event; others end such a
    /// stretch, because a block must not be told before its parent, wherever that is.
    fn announce(&self, book: &Book, topic: &Topic, seen: &[Seen], parts: &mut Parts) {
        self.withdraw(book, topic, seen, parts);
        let there = |block: &Seen| self.media.of(block.tiers.intersection(topic.tiers));
        for stretch in seen.chunk_by(|one, other| there(one).eq(there(other))) {
            for medium in stretch.first().into_iter().flat_map(there) {
                for block in stretch.iter().filter(|block| block.descriptor.is_some()) {
                    parts.tell(topic, book, told(&block.key, medium, block.descriptor.clone()));
                }
            }
        }
    }

    /// Removed from every medium, also from those where it is not now.
    fn withdraw(&self, book: &Book, topic: &Topic, seen: &[Seen], parts: &mut Parts) {
        for medium in self.media.of(topic.tiers) {
            for block in seen {
                parts.tell(topic, book, told(&block.key, medium, None));
            }
        }
    }
}

/// Some announced blocks behind the cursor, and the new cursor; none if these were the last.
fn slice(book: &Book, topic: &Topic, cursor: u64, blocks_max: usize) -> (Vec<Seen>, Option<u64>) {
    let Some(namespace) = book.namespace(topic.tenant, topic.namespace) else {
        return (Vec::new(), None);
    };
    let mut range = namespace.order.range((Bound::Excluded(cursor), Bound::Unbounded));
    let mut seen = Vec::new();
    let mut reached = cursor;
    for (stamp, index) in range.by_ref().take(blocks_max) {
        let record = book.record(*index);
        seen.push(Seen {
            key: book.key_of(record).1,
            tiers: record.tiers,
            descriptor: record.descriptor.clone(),
        });
        reached = *stamp;
    }
    let is_last = range.next().is_none();
    (seen, (!is_last).then_some(reached))
}
