//! The namespaces the engine knows, interned so that a block names its own in three bytes.
//!
//! A namespace stays while an engine group is attached to it, a block of it has a record in any tier, or an NVMe device
//! is still telling what it has. The memory of all of them
//! is bounded: where a new one would take too much, the blocks of those that no engine group is attached to leave.

use kvstore_types::{GroupIndex, NamespaceDescriptor, NamespaceGeometry, NamespaceId};

use crate::counters::Traffic;

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
    /// Those that are resident.
    pub(crate) resident: u64,
    /// Copies on NVMe.
    pub(crate) stored: u64,
    /// Blocks that are known to be in the remote tier.
    pub(crate) remote: u64,
    /// Bytes of their slots.
    pub(crate) remote_bytes: u64,
    /// What its engines did, as long as it has been known.
    pub(crate) traffic: Traffic,
    /// NVMe devices that have told of it and are not done with telling of its blocks.
    pub(crate) tellers: u32,
    /// NVMe devices that know what it stands for, one bit each.
    pub(crate) kept: u64,
    /// Whether the remote tier knows what it stands for.
    pub(crate) is_kept_remote: bool,
    /// Grows with the time at which the last engine group was detached.
    unused_since: u64,
    /// Memory it takes.
    bytes: usize,
    without_probe: NamespaceId,
}

/// About what an entry takes beyond its fields and groups.
const NAMESPACE_BYTES: usize = 512;
/// What a namespace is counted in: on NVMe it is a file, and a file takes whole pages.
const PAGE: usize = 4096;
/// About what a field takes beyond its tag and its value: two headers, two allocations, its place in a tree.
const FIELD_BYTES: usize = 96;
/// About what a group's layout takes beyond its ranks.
const LAYOUT_BYTES: usize = 96;

/// Memory that descriptor fields take, about.
pub(crate) fn fields_bytes<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])>) -> usize {
    fields
        .map(|(tag, value)| FIELD_BYTES + tag.len() + value.len())
        .sum()
}

/// Memory that a namespace takes, about, and not less than its file on NVMe does: what bounds one bounds the other.
pub(crate) fn namespace_bytes(descriptor: &NamespaceDescriptor, geometry: &NamespaceGeometry) -> usize {
    let layouts = geometry.groups.iter();
    let layouts = layouts.map(|group| LAYOUT_BYTES + 2 * size_of_val(group.rank_bytes.as_slice()));
    let bytes = NAMESPACE_BYTES + fields_bytes(descriptor.fields()) + layouts.sum::<usize>();
    bytes.next_multiple_of(PAGE)
}

impl Namespace {
    /// Memory it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    entries: Vec<Option<Namespace>>,
    bytes: usize,
    /// Counts detachments.
    clock: u64,
    /// Those that are gone and that the remote tier still knows.
    forgotten: Vec<NamespaceId>,
    /// Those that are gone, and the devices that still know what they stand for, one bit each.
    dropped: Vec<(NamespaceId, u64)>,
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

    /// Memory they take, about.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The same, of those that an engine group is attached to.
    pub(crate) fn bytes_used(&self) -> usize {
        let used = self.iter().filter(|(_, namespace)| namespace.users > 0);
        used.map(|(_, namespace)| namespace.bytes).sum()
    }

    /// Those that no engine group is attached to, the one left longest ago first.
    pub(crate) fn unused(&self) -> Vec<(u32, &Namespace)> {
        let mut unused: Vec<_> = self
            .iter()
            .filter(|(_, namespace)| namespace.users == 0)
            .collect();
        unused.sort_unstable_by_key(|(_, namespace)| namespace.unused_since);
        unused
    }

    /// An engine group goes.
    pub(crate) fn detach(&mut self, index: u32) {
        self.clock += 1;
        let clock = self.clock;
        let namespace = self.get_mut(index);
        namespace.users -= 1;
        namespace.unused_since = clock;
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
        let bytes = namespace_bytes(&descriptor, &geometry);
        self.bytes += bytes;
        let namespace = Namespace {
            bytes,
            unused_since: 0,
            id,
            descriptor,
            geometry,
            classes,
            users: 0,
            blocks: 0,
            resident: 0,
            stored: 0,
            remote: 0,
            remote_bytes: 0,
            is_kept_remote: false,
            traffic: Traffic::default(),
            tellers: 0,
            kept: 0,
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
            .is_some_and(|namespace| namespace.users == 0 && namespace.blocks == 0 && namespace.tellers == 0);
        if !unused {
            return None;
        }
        entry.take().map(|namespace| {
            self.bytes -= namespace.bytes;
            if namespace.is_kept_remote {
                self.forgotten.push(namespace.id);
            }
            if namespace.kept != 0 {
                self.dropped.push((namespace.id, namespace.kept));
            }
            namespace.classes
        })
    }

    /// Those that have gone since this was asked last and that the remote tier still knows.
    pub(crate) fn take_forgotten(&mut self) -> Vec<NamespaceId> {
        std::mem::take(&mut self.forgotten)
    }

    /// Takes a namespace that is gone, with the devices that know it and need not: those that have been told of it again
    /// meanwhile are left out.
    pub(crate) fn take_dropped(&mut self) -> Option<(NamespaceId, u64)> {
        let (id, kept) = self.dropped.pop()?;
        let again = self.find(id).map_or(0, |index| self.get(index).kept);
        Some((id, kept & !again))
    }
}

/// A group's place in a name.
pub(crate) fn group_index(group: u8) -> GroupIndex {
    GroupIndex(group)
}
