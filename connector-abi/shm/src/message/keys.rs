//! The keys of a look-up or a reservation: groups, each with its hashes.

use kvstore_types::BlockHash;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::GroupKeys;
use crate::Writer;

/// How many hashes of which group follow, as it lies in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GroupHead {
    /// Index of the group.
    pub group: u32,
    /// Number of its hashes.
    pub hash_count: u32,
}

const _: () = assert!(size_of::<GroupHead>() == 8);

/// Keys of several groups: somebody's slices (to be sent) or one run of hashes (as received).
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a>(Form<'a>);

#[derive(Clone, Copy, Debug)]
enum Form<'a> {
    Parts(&'a [GroupKeys<'a>]),
    Packed {
        heads: &'a [GroupHead],
        hashes: &'a [BlockHash],
    },
}

impl<'a> Keys<'a> {
    /// Keys to be sent. They are copied once, into the ring.
    pub const fn new(parts: &'a [GroupKeys<'a>]) -> Self {
        Self(Form::Parts(parts))
    }

    /// Keys as received: the counts of `heads` add up to the number of `hashes`.
    pub(super) const fn packed(heads: &'a [GroupHead], hashes: &'a [BlockHash]) -> Self {
        Self(Form::Packed { heads, hashes })
    }

    /// Number of groups.
    pub const fn group_count(&self) -> usize {
        match self.0 {
            Form::Parts(parts) => parts.len(),
            Form::Packed { heads, .. } => heads.len(),
        }
    }

    /// Number of hashes in all groups.
    pub fn hash_count(&self) -> usize {
        match self.0 {
            Form::Parts(parts) => parts.iter().map(|part| part.hashes.len()).sum(),
            Form::Packed { hashes, .. } => hashes.len(),
        }
    }

    /// The groups in the order of the message. Which groups exist is for the receiver to check.
    pub fn groups(&self) -> impl Iterator<Item = GroupKeys<'a>> + use<'a> {
        let (parts, heads, mut rest) = match self.0 {
            Form::Parts(parts) => (parts, &[][..], &[][..]),
            Form::Packed { heads, hashes } => (&[][..], heads, hashes),
        };
        let packed = heads.iter().map(move |head| {
            let (hashes, tail) = rest.split_at(rest.len().min(head.hash_count as usize));
            rest = tail;
            GroupKeys {
                group: head.group,
                hashes,
            }
        });
        parts.iter().copied().chain(packed)
    }

    /// Bytes in a message.
    pub(super) fn wire_bytes(&self) -> usize {
        self.group_count() * size_of::<GroupHead>() + self.hash_count() * size_of::<BlockHash>()
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        for part in self.groups() {
            let head = GroupHead {
                group: part.group,
                hash_count: super::count_of(part.hashes),
            };
            writer.write(head.as_bytes());
        }
        self.groups()
            .for_each(|part| writer.write(part.hashes.as_bytes()));
    }
}

impl PartialEq for Keys<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.groups().eq(other.groups())
    }
}

impl Eq for Keys<'_> {}
