//! What is remembered of each block, and where it is found.

use std::hash::{BuildHasher, Hasher};

use hashbrown::DefaultHashBuilder;
use kvstore_table::Table;
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
    /// There may be others of the same group and hash in other namespaces. Once it is set it remains.
    pub(crate) has_twins: bool,
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
    table: Table,
    /// A client chooses its hashes, but does not know this, so it cannot aim them at one place of the table.
    seed: DefaultHashBuilder,
}

/// What the table knows of a block's name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digest(u32);

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
        self.table.find(digest.0, |index| {
            let record = self.get(index);
            record.hash == *hash && record.namespace == namespace && record.group == group
        })
    }

    /// Where the table begins to look for a block of this digest.
    pub(crate) fn home(&self, digest: Digest) -> u64 {
        self.table.home_entry(digest.0)
    }

    /// A block that may be the one of this digest; `home` is what [`home`](Self::home) says of it.
    pub(crate) fn candidate(&self, digest: Digest, home: u64) -> Option<&Record> {
        let candidate = self.table.candidate(digest.0, home);
        candidate.map(|index| self.get(index))
    }

    /// The blocks of the same group and hash in other namespaces.
    pub(crate) fn twins(&self, index: u32) -> impl Iterator<Item = &Record> {
        let record = self.get(index);
        let alike = if record.has_twins {
            self.alike(self.digest(record.group, &record.hash))
        } else {
            Vec::new()
        };
        let others = alike.into_iter().filter(move |twin| *twin != index);
        others
            .map(|twin| self.get(twin))
            .filter(|other| other.hash == record.hash && other.group == record.group)
    }

    /// All of this digest.
    fn alike(&self, digest: Digest) -> Vec<u32> {
        let mut found = Vec::new();
        self.table.find(digest.0, |index| {
            found.push(index);
            false
        });
        found
    }

    /// Without the namespace, so that the same block of all namespaces is found in one place.
    pub(crate) fn digest(&self, group: u8, hash: &BlockHash) -> Digest {
        let mut hasher = self.seed.build_hasher();
        hasher.write(&hash.0);
        hasher.write_u8(group);
        Digest((hasher.finish() >> 32) as u32)
    }

    /// Adds a block that is not there, of this digest.
    pub(crate) fn insert(&mut self, digest: Digest, mut record: Record) -> u32 {
        // Nearly always there are none.
        let alike = self.alike(digest);
        record.has_twins = !alike.is_empty();
        for twin in alike {
            self.places[twin as usize].has_twins = true;
        }
        let index = if let Some(index) = self.free.pop() {
            self.places[index as usize] = record;
            index
        } else {
            self.places.push(record);
            // More would not fit into memory.
            u32::try_from(self.places.len() - 1).unwrap_or(NONE)
        };
        self.table.insert(digest.0, index);
        index
    }

    /// Forgets a block that nothing refers to any more.
    pub(crate) fn remove(&mut self, index: u32) {
        let record = &mut self.places[index as usize];
        record.descriptor = None;
        record.tiers = TierSet::EMPTY;
        let (group, hash) = (record.group, record.hash);
        let digest = self.digest(group, &hash);
        self.table.remove(digest.0, index);
        self.free.push(index);
        self.shrink();
    }

    /// Gives memory back after much has gone. Places in use stay where they are.
    fn shrink(&mut self) {
        if self.table.is_empty() {
            self.places = Vec::new();
            self.free = Vec::new();
            self.table = Table::new();
        }
    }
}
