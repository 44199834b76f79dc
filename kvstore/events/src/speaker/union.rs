//! Names that stand for several namespaces: what a router takes for one block is told while any of them has it.
//!
//! A router knows a block by name, medium, group and hash. The name of a node or a pool stands for all namespaces that serve
//! the model under it, of all tenants; so does a dialled engine's for all engines of that model's name. Where two of them
//! have a block of the same hash (twins), the router counts one block, and it must be told one.
//!
//! Of a block that the walk of any of these namespaces has reached, the router knows exactly the media in which the reached ones have it.
//! So a change is told as far as it changes that union, a walk says the union of each block, and a withdrawal leaves
//! what another namespace has. The model has no counts for it: a change says what its twins were at that moment.

use hashbrown::HashMap;
use kvstore_types::GroupIndex;

use super::parts::shape;
use super::{Progress, Speaker};
use crate::book::{Book, Topic, Twin};
use crate::tiers::TierSet;
use crate::wire::is_one_group;

/// Whether a router takes blocks of the same hash under both topics for the same block.
pub(super) fn is_one_voice(one: &Topic, other: &Topic, has_one_voice: bool) -> bool {
    if has_one_voice {
        one.model() == other.model()
    } else {
        one.name == other.name
    }
}

impl Speaker {
    /// Where this block of a topic is according to what was told of its twins.
    pub(super) fn elsewhere(&self, book: &Book, topic: &Topic, group: GroupIndex, twins: &[Twin]) -> TierSet {
        if twins.is_empty() {
            return TierSet::EMPTY;
        }
        let ours = shape(book, topic);
        twins.iter().fold(TierSet::EMPTY, |tiers, twin| {
            let Some((other, told)) = self.told_of(topic, twin) else {
                return tiers;
            };
            if is_one_group(ours.as_deref(), shape(book, other).as_deref(), group) {
                tiers.union(told)
            } else {
                tiers
            }
        })
    }

    /// The topic under which a router hears of the twin what it takes for this topic's block, and where it has been told
    /// that it is; none if it has not been told.
    fn told_of<'a>(&'a self, topic: &'a Topic, twin: &Twin) -> Option<(&'a Topic, TierSet)> {
        let (other, progress) = if self.has_one_voice {
            let others = self.spaces.get(&(twin.tenant, twin.namespace))?.iter();
            others
                .filter(|other| *other != topic && is_one_voice(other, topic, true))
                .find_map(|other| self.topics.get_key_value(other))?
        } else {
            let same_name = Topic {
                tenant: twin.tenant,
                namespace: twin.namespace,
                ..topic.clone()
            };
            self.topics.get_key_value(&same_name)?
        };
        let is_reached = match progress {
            Progress::Told => true,
            Progress::Announcing { cursor, .. } => twin.stamp <= *cursor,
            Progress::Withdrawing { .. } => false,
        };
        is_reached.then(|| (other, twin.tiers.intersection(other.tiers)))
    }

    /// How many topics the router has not been told all of, for each name that it hears.
    pub(super) fn unsettled(&self) -> HashMap<&str, usize> {
        let mut counts = HashMap::new();
        let unsettled = self
            .topics
            .iter()
            .filter(|(_, progress)| **progress != Progress::Told);
        for (topic, _) in unsettled {
            *counts.entry(self.heard_as(topic)).or_default() += 1;
        }
        counts
    }

    /// What the router takes the topic's blocks for: one with those of all topics of which this is the same.
    pub(super) fn heard_as<'a>(&self, topic: &'a Topic) -> &'a str {
        if self.has_one_voice {
            topic.model()
        } else {
            &topic.name
        }
    }

    /// Has topics found by their namespaces. Those that go meanwhile are not found among the topics any more.
    pub(super) fn index_spaces(&mut self) {
        self.spaces.clear();
        for topic in self.topics.keys().filter(|_| self.has_one_voice) {
            let space = (topic.tenant, topic.namespace);
            self.spaces.entry(space).or_default().push(topic.clone());
        }
    }
}
