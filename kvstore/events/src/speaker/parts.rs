//! What is told in one go: messages to be.

use std::sync::Arc;

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
        self.part(topic, book).told.push(told);
    }

    /// Says that nothing under the topic's name is there any more.
    pub(super) fn clear(&mut self, topic: Topic) {
        self.list.push(Part {
            topic,
            shape: None,
            told: Vec::new(),
            clears: true,
        });
    }

    /// What is told last comes last: a router that hears everything as one engine's takes blocks of all names for the same.
    pub(super) fn sort(&mut self) {
        if !self.has_one_voice {
            self.list.sort_by_key(|part| part.topic.is_partial);
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
