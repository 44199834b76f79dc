//! What is told in one go: messages to be.

use std::collections::HashSet;
use std::sync::Arc;

use kvstore_types::{BlockHash, GroupIndex};

use super::is_one_voice;
use crate::book::{Book, Topic};
use crate::feed::{GroupShape, NamespaceShape};
use crate::wire::Told;

/// What is told under one topic in one message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) topic: Topic,
    pub(super) shape: Option<Arc<NamespaceShape>>,
    pub(crate) told: Vec<Told>,
    /// Blocks that it tells of in `told`, while it is being made.
    known: HashSet<(GroupIndex, BlockHash)>,
    /// Removals that go before everything else, while it is being made.
    first: Vec<Told>,
    /// It says that all is cleared, and tells of no block.
    pub(super) clears: bool,
}

/// What is told in one go, in the order in which it has to arrive.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) list: Vec<Part>,
    /// Blocks that a walk has looked at and that are subject to the pace.
    pub(crate) paced: usize,
    has_one_voice: bool,
}

impl Parts {
    pub(super) fn new(has_one_voice: bool) -> Self {
        Self {
            has_one_voice,
            ..Self::default()
        }
    }

    pub(super) fn tell(&mut self, topic: &Topic, book: &Book, told: Told) {
        let part = self.part(topic, book);
        part.known.insert((told.group, told.hash));
        part.told.push(told);
    }

    /// Tells of a removal that comes at any time before what is told of the block next: before everything else, so that
    /// what is stored after it remains one event.
    pub(super) fn tell_before(&mut self, topic: &Topic, book: &Book, removed: Told) {
        let part = self.part(topic, book);
        if part.known.contains(&(removed.group, removed.hash)) {
            part.told.push(removed);
        } else {
            part.first.push(removed);
        }
    }

    /// Says that nothing under the topic's name is there any more.
    pub(super) fn clear(&mut self, topic: Topic) {
        self.list.push(Part {
            topic,
            shape: None,
            told: Vec::new(),
            known: HashSet::new(),
            first: Vec::new(),
            clears: true,
        });
    }

    /// What is told last comes last: a router that hears everything as one engine's takes blocks of all names for the same.
    pub(super) fn finish(&mut self) {
        if !self.has_one_voice {
            self.list.sort_by_key(|part| part.topic.is_partial);
        }
        for part in &mut self.list {
            part.known = HashSet::new();
            let mut first = std::mem::take(&mut part.first);
            first.sort_by_key(|removed| (removed.medium, removed.group));
            part.told.splice(0..0, first);
        }
    }

    /// Where this topic goes on. A router takes blocks of several namespaces under one name for the same, so what is said
    /// of any of them keeps its order: it is the last part under this name, or a new one.
    fn part(&mut self, topic: &Topic, book: &Book) -> &mut Part {
        let is_heard_as_one = |part: &Part| is_one_voice(&part.topic, topic, self.has_one_voice);
        let last = self.list.iter().rposition(is_heard_as_one);
        let known = last.filter(|index| self.list[*index].takes(topic, book));
        let index = known.unwrap_or_else(|| {
            self.list.push(Part {
                topic: topic.clone(),
                shape: shape(book, topic),
                told: Vec::new(),
                known: HashSet::new(),
                first: Vec::new(),
                clears: false,
            });
            self.list.len() - 1
        });
        &mut self.list[index]
    }
}

impl Part {
    /// Whether blocks of this topic, which the router takes for those of the part's, can be told in its message.
    fn takes(&self, topic: &Topic, book: &Book) -> bool {
        fn groups(shape: Option<&Arc<NamespaceShape>>) -> Option<&[GroupShape]> {
            shape.map(|shape| shape.groups.as_slice())
        }
        if self.clears {
            return false;
        }
        self.topic == *topic
            || self.topic.tiers == topic.tiers
                && groups(self.shape.as_ref()) == groups(shape(book, topic).as_ref())
    }
}

/// What a topic's blocks look like, if that is known.
pub(super) fn shape(book: &Book, topic: &Topic) -> Option<Arc<NamespaceShape>> {
    book.namespace(topic.tenant, topic.namespace)?.shape.clone()
}
