//! What is remembered of each block, and where it is found.

use std::hash::{BuildHasher, Hasher};

use hashbrown::{DefaultHashBuilder, HashTable};
use kvstore_types::{BlockHash, DescriptorBytes};

use crate::tiers::TierSet;

/// No record.
pub(crate) const NONE: u32 = u32::MAX;

/// One block. Blocks with the same parent are a list; so are those that wait for the same absent parent.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) hash: BlockHash,
    pub(crate) descriptor: Option<DescriptorBytes>,
    /// Place in the order of announcements; 0: not announced.
    pub(crate) stamp: u64,
    pub(crate) namespace: u32,
    pub(crate) parent: u32,
    pub(crate) first_child: u32,
    pub(crate) next: u32,
    pub(crate) prev: u32,
    pub(crate) group: u8,
    /// Where copies are; empty: this place is free.
    pub(crate) tiers: TierSet,
    /// Where the snapshot of number `round` has seen copies.
    pub(crate) confirmed: TierSet,
    pub(crate) round: u8,
    pub(crate) ties: Ties,
}

/// How a block stands to its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ties {
    /// It cannot be announced: nobody said what it is about, or what was said makes no sense.
    Mute,
    /// It begins a sequence.
    Root,
    /// It is among its parent's children.
    Child,
    /// Its parent is not there: it is in the list of those that wait for it.
    Waiting,
}

const _: () = assert!(size_of::<Record>() <= 88);

/// All records.
#[derive(Debug, Default)]
pub(crate) struct Records {
    places: Vec<Record>,
    free: Vec<u32>,
    /// Each with its digest, so that neither growing nor most of what differs has to look at records.
    table: HashTable<(u32, u32)>,
    /// A client chooses its hashes, but does not know this, so it cannot aim them at one place of the table.
    seed: DefaultHashBuilder,
}

/// What the table knows of a block's name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digest(u32);

impl Digest {
    /// Where in the table: of the upper bits it keeps seven beside the entry.
    fn spread(self) -> u64 {
        u64::from(self.0) << 32 | u64::from(self.0)
    }
}

impl Records {
    pub(crate) fn get(&self, index: u32) -> &Record {
        &self.places[index as usize]
    }

    pub(crate) fn get_mut(&mut self, index: u32) -> &mut Record {
        &mut self.places[index as usize]
    }

    /// Blocks.
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Places, free ones included.
    pub(crate) fn places(&self) -> &[Record] {
        &self.places
    }

    pub(crate) fn find(&self, namespace: u32, group: u8, hash: &BlockHash) -> Option<u32> {
        self.find_at(self.digest(group, hash), namespace, group, hash)
    }

    /// The same of a block whose digest is known.
    pub(crate) fn find_at(&self, digest: Digest, namespace: u32, group: u8, hash: &BlockHash) -> Option<u32> {
        let is_it = |&(other, index): &(u32, u32)| {
            let record = self.get(index);
            other == digest.0
                && record.hash == *hash
                && record.namespace == namespace
                && record.group == group
        };
        self.table.find(digest.spread(), is_it).map(|(_, index)| *index)
    }

    /// The blocks of the same group and hash in other namespaces.
    pub(crate) fn twins(&self, index: u32) -> impl Iterator<Item = &Record> {
        let record = self.get(index);
        let digest = self.digest(record.group, &record.hash);
        self.table
            .iter_hash(digest.spread())
            .filter(move |(other, twin)| *other == digest.0 && *twin != index)
            .map(|(_, twin)| self.get(*twin))
            .filter(|other| other.hash == record.hash && other.group == record.group)
    }

    /// Without the namespace, so that the same block of all namespaces is found in one place.
    pub(crate) fn digest(&self, group: u8, hash: &BlockHash) -> Digest {
        let mut hasher = self.seed.build_hasher();
        hasher.write(&hash.0);
        hasher.write_u8(group);
        Digest((hasher.finish() >> 32) as u32)
    }

    /// Adds a block that is not there, of this digest.
    pub(crate) fn insert(&mut self, digest: Digest, record: Record) -> u32 {
        let index = if let Some(index) = self.free.pop() {
            self.places[index as usize] = record;
            index
        } else {
            self.places.push(record);
            // More would not fit into memory.
            u32::try_from(self.places.len() - 1).unwrap_or(NONE)
        };
        let entry = (digest.0, index);
        self.table
            .insert_unique(digest.spread(), entry, |other| Digest(other.0).spread());
        index
    }

    /// Forgets a block that nothing refers to any more.
    pub(crate) fn remove(&mut self, index: u32) {
        let record = &mut self.places[index as usize];
        record.descriptor = None;
        record.tiers = TierSet::EMPTY;
        let (group, hash) = (record.group, record.hash);
        let digest = self.digest(group, &hash);
        if let Ok(entry) = self
            .table
            .find_entry(digest.spread(), |&(_, other)| other == index)
        {
            entry.remove();
        }
        self.free.push(index);
        self.shrink();
    }

    /// Gives memory back after much has gone. Places in use stay where they are.
    fn shrink(&mut self) {
        if self.table.is_empty() {
            self.places = Vec::new();
            self.free = Vec::new();
            self.table = HashTable::new();
        }
    }
}
