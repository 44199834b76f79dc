//! Names that stand for several namespaces: what a router takes for one block is told while any of them has it.
//!
//! A router knows a block by name, medium, group and hash. The name of a node or a pool stands for all namespaces that serve
//! the model under it, of all tenants; so does a dialled engine's for all engines of that model's name. Where two of them
//! have a block of the same hash (twins), the router counts one block, and it must be told one.
//!
//! Of a block that the walk of any of these namespaces has reached, the router knows exactly the media in which the reached ones have it.
//! So a change is told as far as it changes that union, a walk says the union of each block, and a withdrawal leaves
//! what another namespace has. The model has no counts for it: a change says what its twins were at that moment.

use std::ops::Bound;

use kvstore_types::{GroupIndex, NamespaceId};

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
        let same_name = Topic {
            tenant: twin.tenant,
            namespace: twin.namespace,
            ..topic.clone()
        };
        let (other, progress) = if self.has_one_voice {
            self.siblings(topic)
                .find(|(other, _)| (other.tenant, other.namespace) == (twin.tenant, twin.namespace))?
        } else {
            self.topics.get_key_value(&same_name)?
        };
        let is_reached = match progress {
            Progress::Told => true,
            Progress::Announcing { cursor, .. } => twin.stamp <= *cursor,
            Progress::Withdrawing { .. } => false,
        };
        is_reached.then(|| (other, twin.tiers.intersection(other.tiers)))
    }

    /// Whether the router may know blocks of other namespaces under this topic's name that it has not been told lately.
    pub(super) fn is_unsure(&self, topic: &Topic) -> bool {
        self.siblings(topic)
            .any(|(_, progress)| *progress != Progress::Told)
    }

    /// The other topics whose blocks a router takes for this one's.
    fn siblings<'a>(&'a self, topic: &'a Topic) -> impl Iterator<Item = (&'a Topic, &'a Progress)> {
        let from = if self.has_one_voice {
            Bound::Unbounded
        } else {
            Bound::Included(Topic {
                tenant: 0,
                namespace: NamespaceId([0; 16]),
                tiers: TierSet::EMPTY,
                ..topic.clone()
            })
        };
        self.topics
            .range((from, Bound::Unbounded))
            .take_while(move |(other, _)| self.has_one_voice || other.name == topic.name)
            .filter(move |(other, _)| *other != topic && is_one_voice(other, topic, self.has_one_voice))
    }
}
