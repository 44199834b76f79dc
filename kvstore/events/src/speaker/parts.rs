//! What is told in one go: messages to be.

use std::sync::Arc;

use hashbrown::HashSet;
use kvstore_types::{BlockHash, GroupIndex};

use super::is_one_voice;
use crate::book::{Book, INHERITED, Topic};
use crate::feed::{GroupShape, NamespaceShape};
use crate::wire::Told;

/// Blocks that memory is kept for from one message to the next.
const SPARE_MAX: usize = 1024;

/// What is told under one topic in one message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) topic: Topic,
    pub(super) shape: Option<Arc<NamespaceShape>>,
    pub(crate) told: Vec<Told>,
    /// Blocks that it tells of in `told`, while it is being made and as soon as somebody asks.
    known: Option<HashSet<(GroupIndex, BlockHash)>>,
    /// Removals that go before everything else, while it is being made.
    first: Vec<Told>,
    /// It says that all is cleared, and tells of no block.
    pub(super) clears: bool,
}

/// A topic under which several things are told, and the part that this was last done in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    topic: &'a Topic,
    /// How many parts there were then, and which it was.
    found: Option<(usize, usize)>,
}

impl<'a> Place<'a> {
    pub(super) fn of(topic: &'a Topic) -> Self {
        Self { topic, found: None }
    }
}

/// What is told in one go, in the order in which it has to arrive.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) list: Vec<Part>,
    /// Blocks that a walk has looked at and that are subject to the pace.
    pub(crate) paced: usize,
    has_one_voice: bool,
    /// Memory for the next part.
    spare: Vec<Told>,
}

impl Parts {
    pub(super) fn new(has_one_voice: bool, spare: Vec<Told>) -> Self {
        Self {
            has_one_voice,
            spare,
            ..Self::default()
        }
    }

    /// Memory that is used again: that of the largest part.
    pub(super) fn into_memory(self) -> Vec<Told> {
        let memory = self.list.into_iter().map(|part| part.told);
        let mut memory = memory
            .chain([self.spare])
            .max_by_key(Vec::capacity)
            .unwrap_or_default();
        memory.clear();
        // One large batch should not keep its memory.
        memory.shrink_to(SPARE_MAX);
        memory
    }

    pub(super) fn tell(&mut self, place: &mut Place<'_>, book: &Book, told: Told) {
        let part = self.part(place, book);
        if let Some(known) = &mut part.known {
            known.insert((told.group, told.hash));
        }
        part.told.push(told);
    }

    /// Tells of a removal that comes at any time before what is told of the block next: before everything else, so that
    /// what is stored after it remains one event.
    pub(super) fn tell_before(&mut self, place: &mut Place<'_>, book: &Book, removed: Told) {
        let Part {
            known, told, first, ..
        } = self.part(place, book);
        let known = known.get_or_insert_with(|| told.iter().map(|told| (told.group, told.hash)).collect());
        if known.contains(&(removed.group, removed.hash)) {
            told.push(removed);
        } else {
            first.push(removed);
        }
    }

    /// Says that nothing under the topic's name is there any more.
    pub(super) fn clear(&mut self, topic: Topic) {
        self.list.push(Part {
            topic,
            shape: None,
            told: Vec::new(),
            known: None,
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
            part.known = None;
            let mut first = std::mem::take(&mut part.first);
            if !first.is_empty() {
                first.sort_by_key(|removed| (removed.medium, removed.group));
                part.told.splice(0..0, first);
            }
        }
    }

    /// Where this topic goes on. A router takes blocks of several namespaces under one name for the same, so what is said
    /// of any of them keeps its order: it is the last part under this name, or a new one.
    fn part(&mut self, place: &mut Place<'_>, book: &Book) -> &mut Part {
        let index = match place.found {
            // Without new parts it is still the same one.
            Some((count, index)) if count == self.list.len() => index,
            _ => self.find_part(place.topic, book),
        };
        place.found = Some((self.list.len(), index));
        &mut self.list[index]
    }

    fn find_part(&mut self, topic: &Topic, book: &Book) -> usize {
        let is_heard_as_one = |part: &Part| is_one_voice(&part.topic, topic, self.has_one_voice);
        let last = self.list.iter().rposition(is_heard_as_one);
        let known = last.filter(|index| self.list[*index].takes(topic, book));
        known.unwrap_or_else(|| {
            self.list.push(Part {
                topic: topic.clone(),
                shape: shape(book, topic),
                told: std::mem::take(&mut self.spare),
                known: None,
                first: Vec::new(),
                clears: false,
            });
            self.list.len() - 1
        })
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
    if topic.tenant == INHERITED {
        return book.inheritance()?.space(topic.namespace)?.shape.clone();
    }
    book.namespace(topic.tenant, topic.namespace)?.shape.clone()
}
