//! What an earlier daemon had announced, told as removed where nobody has it now.

use std::collections::BTreeSet;

use kvstore_types::{BlockKey, GroupIndex};

use super::parts::shape;
use super::union::is_one_voice;
use super::{Clearing, Parts, Place, Progress, Speaker, told};
use crate::book::{Book, Topic};
use crate::wire::{MediumSet, is_one_group};

impl Speaker {
    /// Everything that was inherited is to be told, from the start.
    pub(super) fn claim_inheritance(&mut self, book: &Book, hears: &impl Fn(&str) -> bool) {
        self.inherited.clear();
        self.inherited_cursor = 0;
        let Some(inheritance) = book.inheritance() else {
            return;
        };
        let mut said = BTreeSet::new();
        for topic in inheritance.names().iter().filter(|topic| hears(&topic.name)) {
            let is_cleared = self.clearing != Clearing::Never && book.is_own(topic);
            // In one voice, whatever name was said first was heard as the same.
            let is_new = !self.has_one_voice || said.insert((topic.namespace, topic.model()));
            if !is_cleared && is_new {
                self.inherited.push_back(topic.clone());
            }
        }
    }

    /// Whether something inherited is to be told now.
    pub(super) fn owes_inheritance(&self, book: &Book) -> bool {
        !self.inherited.is_empty() && book.inheritance().is_some_and(crate::book::Inheritance::is_due)
    }

    /// Says so if a router that is dialled has been told all of it, or may have to be told again.
    pub(super) fn report_inheritance(&self, book: &mut Book) {
        if self.clearing != Clearing::Never && book.inheritance().is_some() {
            book.inheritance_told(self.reader, self.has_begun && self.inherited.is_empty());
        }
    }

    /// Tells some of it, name by name.
    pub(super) fn tell_inherited(&mut self, book: &Book, blocks_max: usize, parts: &mut Parts) {
        let mut left = blocks_max;
        while left > 0
            && let Some(topic) = self.inherited.front().cloned()
        {
            let space = book.inheritance().and_then(|all| all.space(topic.namespace));
            let blocks = space.map_or(&[][..], |space| &space.blocks);
            let some = blocks.get(self.inherited_cursor..).unwrap_or_default();
            let some = &some[..some.len().min(left)];
            let gone: Vec<(BlockKey, MediumSet)> = some
                .iter()
                .map(|(group, hash)| {
                    let key = BlockKey {
                        namespace: topic.namespace,
                        group: *group,
                        hash: *hash,
                    };
                    (key, self.disowned(book, &topic, &key))
                })
                .collect();
            let mut place = Place::of(&topic);
            for medium in self.media.set(topic.tiers).iter() {
                for (key, _) in gone.iter().filter(|(_, media)| media.contains(medium)) {
                    parts.tell(&mut place, book, told(key, medium, None));
                }
            }
            left -= some.len();
            parts.paced += some.len();
            self.inherited_cursor += some.len();
            if self.inherited_cursor >= blocks.len() {
                self.inherited.pop_front();
                self.inherited_cursor = 0;
            }
        }
    }

    /// From which media an inherited block is to be removed: not from those of a name that a router takes for the same and
    /// under which the block is announced. That is told, or was, as removed and then as stored.
    fn disowned(&self, book: &Book, topic: &Topic, key: &BlockKey) -> MediumSet {
        let mut media = self.media.set(topic.tiers);
        for (other, progress) in &self.topics {
            if !matches!(progress, Progress::Withdrawing { .. })
                && is_one_voice(other, topic, self.has_one_voice)
                && is_announced(book, other, topic, key)
            {
                media = media.without(self.media.set(other.tiers));
            }
        }
        media
    }
}

/// Whether the other name has a block that a router takes for this one.
fn is_announced(book: &Book, other: &Topic, topic: &Topic, key: &BlockKey) -> bool {
    let same = BlockKey {
        namespace: other.namespace,
        ..*key
    };
    !book.announced(other.tenant, &same).is_empty() && is_same_group(book, other, topic, key.group)
}

fn is_same_group(book: &Book, other: &Topic, topic: &Topic, group: GroupIndex) -> bool {
    is_one_group(
        shape(book, other).as_deref(),
        shape(book, topic).as_deref(),
        group,
    )
}
