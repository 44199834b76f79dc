//! The namespaces the engine knows, interned so that a block names its own in three bytes.
//!
//! A namespace stays while an engine group is attached to it or a block of it has a record, so there are never more
//! than sessions and blocks.

use kvstore_types::{GroupIndex, NamespaceDescriptor, NamespaceGeometry, NamespaceId};

/// The field that only says how the engine's block hashes began.
pub(crate) const HASH_PROBE_TAG: &str = "hash.probe";

/// One namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// Its name.
    pub(crate) id: NamespaceId,
    /// All that it stands for.
    pub(crate) descriptor: NamespaceDescriptor,
    /// What its blocks look like.
    pub(crate) geometry: NamespaceGeometry,
    /// The size class of each group's slots.
    pub(crate) classes: Vec<usize>,
    /// Engine groups attached to it.
    pub(crate) users: u32,
    /// Blocks with a record.
    pub(crate) blocks: u64,
    without_probe: NamespaceId,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    entries: Vec<Option<Namespace>>,
}

impl Namespaces {
    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.iter().count()
    }

    /// All of them, with the number each is interned under.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Namespace)> {
        (0_u32..)
            .zip(&self.entries)
            .filter_map(|(index, entry)| entry.as_ref().map(|entry| (index, entry)))
    }

    /// The namespace named `id`.
    pub(crate) fn find(&self, id: NamespaceId) -> Option<u32> {
        self.iter()
            .find(|(_, namespace)| namespace.id == id)
            .map(|(index, _)| index)
    }

    /// A namespace that differs from `descriptor` in the beginning of its hashes and in nothing else.
    pub(crate) fn find_other_seed(&self, descriptor: &NamespaceDescriptor) -> Option<NamespaceId> {
        descriptor.get(HASH_PROBE_TAG)?;
        let (id, without_probe) = (descriptor.id(), descriptor.without(HASH_PROBE_TAG).id());
        let mut others = self.iter().filter(|(_, namespace)| namespace.id != id);
        others
            .find(|(_, namespace)| namespace.without_probe == without_probe)
            .map(|(_, namespace)| namespace.id)
    }

    /// Adds a namespace that is not there yet.
    pub(crate) fn add(
        &mut self,
        descriptor: NamespaceDescriptor,
        geometry: NamespaceGeometry,
        classes: Vec<usize>,
    ) -> u32 {
        let (id, without_probe) = (descriptor.id(), descriptor.without(HASH_PROBE_TAG).id());
        let namespace = Namespace {
            id,
            descriptor,
            geometry,
            classes,
            users: 0,
            blocks: 0,
            without_probe,
        };
        let index = self.entries.iter().position(Option::is_none).unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        self.entries[index] = Some(namespace);
        u32::try_from(index).unwrap_or(u32::MAX)
    }

    /// A namespace, which the caller knows to be there because a block or a group of it is.
    #[expect(
        clippy::expect_used,
        reason = "users and blocks are counted, so a named namespace exists"
    )]
    pub(crate) fn get(&self, index: u32) -> &Namespace {
        self.entries[index as usize]
            .as_ref()
            .expect("a namespace in use is known")
    }

    /// The same, to be changed.
    #[expect(
        clippy::expect_used,
        reason = "users and blocks are counted, so a named namespace exists"
    )]
    pub(crate) fn get_mut(&mut self, index: u32) -> &mut Namespace {
        self.entries[index as usize]
            .as_mut()
            .expect("a namespace in use is known")
    }

    /// Forgets a namespace if nobody uses it, and says which size classes it used.
    pub(crate) fn drop_unused(&mut self, index: u32) -> Option<Vec<usize>> {
        let entry = &mut self.entries[index as usize];
        let unused = entry
            .as_ref()
            .is_some_and(|namespace| namespace.users == 0 && namespace.blocks == 0);
        if !unused {
            return None;
        }
        entry.take().map(|namespace| namespace.classes)
    }
}

/// A group's place in a name.
pub(crate) fn group_index(group: u8) -> GroupIndex {
    GroupIndex(group)
}
