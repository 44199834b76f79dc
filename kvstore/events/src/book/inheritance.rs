//! What an earlier daemon, which was killed, had announced: routers may believe in it, and nobody else can take it back.
//!
//! It is told as removed under the names of then, where it is not announced under them now: what is announced is corrected by
//! being announced. Which engines are attached does not matter, so those that never come back are covered as well. Kept until
//! every router that is dialled has been told, and for a time for those that dial; not for ever, because names become others'.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kvstore_types::{BlockHash, GroupIndex, NamespaceId};

use super::namespace::TenantIndex;
use super::topics::{TOPIC_PREFIX, Topic, is_name};
use super::{Book, ReaderId};
use crate::feed::NamespaceShape;

/// The tenant of names that are inherited: whose they were is not asked.
pub(crate) const INHERITED: TenantIndex = TenantIndex::MAX;

/// Most blocks that are kept.
const BLOCKS_MAX: usize = 1 << 20;
/// Most names: as many as are kept after they are gone, and those of a node's engines.
const NAMES_MAX: usize = 2048;

/// Blocks of one namespace that somebody may believe in.
#[derive(Clone, Debug, Default)]
pub(crate) struct InheritedSpace {
    /// What they look like, if anybody had said.
    pub(crate) shape: Option<Arc<NamespaceShape>>,
    pub(crate) blocks: Vec<(GroupIndex, BlockHash)>,
}

/// Everything that was announced.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inheritance {
    names: BTreeSet<Topic>,
    spaces: HashMap<NamespaceId, InheritedSpace>,
    /// Blocks and names beyond the bounds.
    pub(crate) forgotten: u64,
    /// It is time to tell it.
    is_due: bool,
    /// Dialled routers that have been told everything.
    told: BTreeSet<ReaderId>,
}

impl Inheritance {
    /// Of names and the blocks of their namespaces, each once.
    pub(crate) fn new(mut names: BTreeSet<Topic>, mut spaces: HashMap<NamespaceId, InheritedSpace>) -> Self {
        let mut forgotten = 0;
        while names.len() > NAMES_MAX {
            names.pop_last();
            forgotten += 1;
        }
        let mut left = BLOCKS_MAX;
        for space in spaces.values_mut() {
            space.blocks.sort_unstable();
            space.blocks.dedup();
            forgotten += space.blocks.len().saturating_sub(left) as u64;
            space.blocks.truncate(left);
            space.blocks.shrink_to_fit();
            left -= space.blocks.len();
        }
        spaces.retain(|_, space| !space.blocks.is_empty());
        names.retain(|topic| spaces.contains_key(&topic.namespace));
        Self {
            names,
            spaces,
            forgotten,
            ..Self::default()
        }
    }

    /// The names.
    pub(crate) fn names(&self) -> &BTreeSet<Topic> {
        &self.names
    }

    pub(crate) fn spaces(&self) -> impl Iterator<Item = (NamespaceId, &InheritedSpace)> {
        self.spaces.iter().map(|(id, space)| (*id, space))
    }

    pub(crate) fn space(&self, id: NamespaceId) -> Option<&InheritedSpace> {
        self.spaces.get(&id)
    }

    pub(crate) fn blocks(&self) -> usize {
        self.spaces.values().map(|space| space.blocks.len()).sum()
    }

    pub(crate) fn is_due(&self) -> bool {
        self.is_due
    }
}

/// Whether a topic is one that routers hear.
pub(crate) fn is_topic(text: &str) -> bool {
    let parts = text
        .strip_prefix(TOPIC_PREFIX)
        .and_then(|parts| parts.split_once('@'));
    parts.is_some_and(|(name, model)| is_name(name) && is_name(model))
}

impl Book {
    /// Takes over what an earlier daemon had announced.
    pub(crate) fn inherit(&mut self, inheritance: Inheritance) {
        self.debts.forgotten += inheritance.forgotten;
        self.inheritance = (inheritance.blocks() > 0).then_some(inheritance);
    }

    /// What an earlier daemon had announced and somebody may believe in.
    pub(crate) fn inheritance(&self) -> Option<&Inheritance> {
        self.inheritance.as_ref()
    }

    /// From now on it is told: engines that were attached had time to come back.
    pub(crate) fn inheritance_due(&mut self) {
        if let Some(inheritance) = &mut self.inheritance {
            inheritance.is_due = true;
        }
    }

    /// A router that is dialled has been told all of it, or it may not have arrived.
    pub(crate) fn inheritance_told(&mut self, reader: ReaderId, is_told: bool) {
        if let Some(inheritance) = &mut self.inheritance {
            if is_told && inheritance.is_due {
                inheritance.told.insert(reader);
            } else {
                inheritance.told.remove(&reader);
            }
        }
    }

    /// Forgets it if as many routers as are dialled have been told, or in any case; whether nothing is left to be told.
    pub(crate) fn settle_inheritance(&mut self, dialled: usize, in_any_case: bool) -> bool {
        self.inheritance
            .take_if(|it| it.is_due && (in_any_case || it.told.len() >= dialled));
        self.inheritance.is_none()
    }
}
