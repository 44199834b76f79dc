//! The catalogue: what lies where, in RocksDB, so that a start need not read every header.
//!
//! It is a **hint**. It is written in batches behind the data, never forced to the device, and whatever it says is proven
//! by the headers when a block is read. Missing, damaged, of another tier or of another version, it is removed and made
//! anew, and the segments are scanned.
//!
//! | column family | key | value |
//! |---|---|---|
//! | `default` | `tier` | format version and the tier's id |
//! | `segments` | segment (BE32) | generation, tail if it is full |
//! | `blocks` | segment (BE32), page (BE32) | pages, generation, key, descriptor |
//!
//! A segment's blocks lie together and in order of place, so its next use deletes them all as one range.

mod options;
mod room;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kvstore_types::{BlockKey, DescriptorBytes, Extent, SegmentRef};
use rocksdb::{DB, DBRawIterator, ErrorKind, WriteBatch, WriteOptions};

use self::options::Sizes;
use self::room::Room;
#[cfg(test)]
pub(crate) use self::room::bytes_of;
use crate::FoundBlock;
use crate::format::{BlockRecord, SegmentRecord, place_key, segment_key, split_place_key};

const BLOCKS: &str = "blocks";
const SEGMENTS: &str = "segments";
const TIER: &[u8] = b"tier";
/// Version of the keys and values above.
const VERSION: u8 = 1;

/// An open catalogue.
pub(crate) struct Catalogue {
    db: DB,
    room: Room,
}

/// In which state the catalogue was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// As it was left, or as the kernel kept it of what a killed process wrote.
    Good,
    /// It is new and empty.
    New {
        /// Why there was none to be used.
        why: String,
    },
}

/// One change. They are applied in order.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A segment's next use begins: nothing in it counts any more.
    OpenSegment(SegmentRef),
    /// Everything that will ever be in this use of the segment is in the catalogue.
    SegmentFull(SegmentRef),
    /// The segment is gone.
    SegmentDeleted(u32),
    /// A block was written.
    Block {
        /// Where.
        extent: Extent,
        /// Which.
        key: BlockKey,
        /// What it carries beside its payload.
        descriptor: Vec<u8>,
    },
    /// A block is not wanted any more.
    Forget(Extent),
}

/// What became of a batch of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// All of it is in the catalogue.
    Whole,
    /// Blocks were left out, because the catalogue has used up its room.
    WithoutBlocks,
}

/// Why the catalogue cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogueError {
    /// The files of an unusable catalogue are in the way.
    #[error("could not remove the unusable catalogue {path}")]
    Remove {
        /// Where.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// It could not be opened, for a reason that a new one would share.
    #[error("could not open the catalogue {path}")]
    Open {
        /// Where.
        path: PathBuf,
        /// What RocksDB said.
        source: rocksdb::Error,
    },
    /// It could not be read.
    #[error("could not read the catalogue")]
    Read(#[source] rocksdb::Error),
    /// It could not be written.
    #[error("could not write the catalogue")]
    Write(#[source] rocksdb::Error),
    /// A record does not decode.
    #[error("a record of the catalogue does not decode: {0}")]
    Record(String),
}

impl Catalogue {
    /// Opens the catalogue of a tier, or makes one. It never has more than `bytes_max` bytes on disk.
    pub(crate) fn open(
        path: &Path,
        tier: [u8; 16],
        bytes_max: u64,
    ) -> Result<(Self, Condition), CatalogueError> {
        let why = match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => "there was none".to_owned(),
            Ok(metadata) if !metadata.is_dir() => "there was a file in its place".to_owned(),
            _ => match Self::open_existing(path, tier, bytes_max) {
                Ok(catalogue) => return Ok((catalogue, Condition::Good)),
                Err(Unusable::Keep(source)) => {
                    return Err(CatalogueError::Open {
                        path: path.into(),
                        source,
                    });
                }
                Err(Unusable::Replace(why)) => why,
            },
        };
        let catalogue = Self::create(path, tier, bytes_max)?;
        Ok((catalogue, Condition::New { why }))
    }

    /// Opens a catalogue for reading, and changes nothing. None: there is none. The error: why it cannot be used.
    pub(crate) fn inspect(path: &Path, tier: [u8; 16]) -> Result<Option<Self>, String> {
        if fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        let sizes = Sizes::of(0);
        let options = options::database(sizes);
        let db = DB::open_cf_for_read_only(&options, path, ["default", SEGMENTS, BLOCKS], false)
            .map_err(|error| error.to_string())?;
        match db.get(TIER) {
            Ok(Some(stored)) if stored == identity(tier) => Ok(Some(Self {
                db,
                room: Room::new(path, 0, sizes),
            })),
            Ok(_) => Err("it belongs to another tier or format version".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Removes what is there and makes an empty catalogue.
    pub(crate) fn create(path: &Path, tier: [u8; 16], bytes_max: u64) -> Result<Self, CatalogueError> {
        remove(path).map_err(|source| CatalogueError::Remove {
            path: path.into(),
            source,
        })?;
        let open = |source| CatalogueError::Open {
            path: path.into(),
            source,
        };
        let catalogue = Self::open_database(path, bytes_max).map_err(open)?;
        catalogue.db.put(TIER, identity(tier)).map_err(open)?;
        Ok(catalogue)
    }

    fn open_existing(path: &Path, tier: [u8; 16], bytes_max: u64) -> Result<Self, Unusable> {
        // Without this RocksDB would make an empty database among the remains of a damaged one and call it good.
        if !path.join("CURRENT").exists() {
            return Err(Unusable::Replace("its file CURRENT is missing".into()));
        }
        let catalogue = Self::open_database(path, bytes_max).map_err(Unusable::judge)?;
        let stored = catalogue.db.get(TIER).map_err(Unusable::judge)?;
        match stored {
            Some(stored) if stored == identity(tier) => Ok(catalogue),
            Some(stored) if stored.first() != Some(&VERSION) => Err(Unusable::Replace(format!(
                "want format version {VERSION}, got {:?}",
                stored.first()
            ))),
            Some(_) => Err(Unusable::Replace("it belongs to another tier".into())),
            None => Err(Unusable::Replace(
                "it does not say which tier it belongs to".into(),
            )),
        }
    }

    fn open_database(path: &Path, bytes_max: u64) -> Result<Self, rocksdb::Error> {
        let sizes = Sizes::of(bytes_max);
        let options = options::database(sizes);
        let families = [
            ("default", options::family(sizes)),
            (SEGMENTS, options::family(sizes)),
            (BLOCKS, options::family(sizes)),
        ];
        let db = DB::open_cf_with_opts(&options, path, families)?;
        Ok(Self {
            db,
            room: Room::new(path, bytes_max, sizes),
        })
    }

    /// Applies changes, all or none, so that a killed process cannot take them back.
    pub(crate) fn write(&mut self, changes: &[Change]) -> Result<Applied, CatalogueError> {
        let has_room = self.room.has_room();
        let mut applied = Applied::Whole;
        let mut batch = WriteBatch::default();
        for change in changes {
            if matches!(change, Change::Block { .. }) && !has_room {
                applied = Applied::WithoutBlocks;
                continue;
            }
            self.add(&mut batch, change)?;
        }
        self.room.took(batch.size_in_bytes());
        // No sync: the page cache outlives the process, and after a power cut the catalogue may be behind.
        let options = WriteOptions::default();
        self.db
            .write_opt(batch, &options)
            .map_err(CatalogueError::Write)?;
        if !has_room {
            self.make_room();
        }
        Ok(applied)
    }

    fn add(&self, batch: &mut WriteBatch, change: &Change) -> Result<(), CatalogueError> {
        let (blocks, segments) = (self.family(BLOCKS)?, self.family(SEGMENTS)?);
        let record = |segment: SegmentRef, full_tail| {
            SegmentRecord {
                generation: segment.generation,
                full_tail,
            }
            .encode()
        };
        match change {
            Change::OpenSegment(segment) => {
                let (from, to) = range(segment.index);
                batch.delete_range_cf(blocks, &from[..], &to[..]);
                batch.put_cf(segments, segment_key(segment.index), record(*segment, None));
            }
            Change::SegmentFull(segment) => {
                let tail = self.tail(*segment)?;
                batch.put_cf(segments, segment_key(segment.index), record(*segment, Some(tail)));
            }
            Change::SegmentDeleted(index) => {
                let (from, to) = range(*index);
                batch.delete_range_cf(blocks, &from[..], &to[..]);
                batch.delete_cf(segments, segment_key(*index));
            }
            Change::Block {
                extent,
                key,
                descriptor,
            } => {
                let record = BlockRecord {
                    key: *key,
                    pages: extent.pages,
                    generation: extent.segment.generation,
                    descriptor,
                };
                batch.put_cf(
                    blocks,
                    place_key(extent.segment.index, extent.page),
                    record.encode(),
                );
            }
            Change::Forget(extent) => batch.delete_cf(blocks, place_key(extent.segment.index, extent.page)),
        }
        Ok(())
    }

    /// The end of the last block of a segment that is in the catalogue already.
    fn tail(&self, segment: SegmentRef) -> Result<u32, CatalogueError> {
        let mut cursor = self.db.raw_iterator_cf_opt(self.family(BLOCKS)?, options::scan());
        cursor.seek_for_prev(place_key(segment.index, u32::MAX));
        let last = cursor.item().and_then(|(key, value)| {
            let (index, page) = split_place_key(key)?;
            let pages = BlockRecord::decode(value).ok()?.pages;
            (index == segment.index).then(|| page.saturating_add(pages))
        });
        cursor.status().map_err(CatalogueError::Read)?;
        Ok(last.unwrap_or(1))
    }

    /// Every segment that is known, by number.
    pub(crate) fn segments(&self) -> Result<Vec<(u32, SegmentRecord)>, CatalogueError> {
        let mut cursor = self
            .db
            .raw_iterator_cf_opt(self.family(SEGMENTS)?, options::scan());
        let mut list = Vec::new();
        cursor.seek_to_first();
        while let Some((key, value)) = cursor.item() {
            let index = key.try_into().map(u32::from_be_bytes);
            let index = index.map_err(|_| CatalogueError::Record("a segment's key".into()))?;
            list.push((index, decode(SegmentRecord::decode(value))?));
            cursor.next();
        }
        cursor.status().map_err(CatalogueError::Read)?;
        Ok(list)
    }

    /// A way to read blocks. It shows what was there when it was made.
    pub(crate) fn blocks(&self) -> Result<Blocks<'_>, CatalogueError> {
        Ok(Blocks {
            cursor: self.db.raw_iterator_cf_opt(self.family(BLOCKS)?, options::scan()),
        })
    }

    /// Bytes on disk, as they were last counted.
    pub(crate) fn bytes(&self) -> u64 {
        self.room.bytes()
    }

    /// Writes what RocksDB has in memory into its files, so that the next start has nothing to replay.
    pub(crate) fn flush(&self) -> Result<(), CatalogueError> {
        for name in [SEGMENTS, BLOCKS] {
            self.db
                .flush_cf(self.family(name)?)
                .map_err(CatalogueError::Write)?;
        }
        Ok(())
    }

    /// Compacts the range of blocks that were deleted, which gives their bytes back.
    fn make_room(&mut self) {
        if self.room.is_worth_compacting()
            && let Ok(blocks) = self.family(BLOCKS)
        {
            self.db.compact_range_cf(blocks, None::<&[u8]>, None::<&[u8]>);
            self.room.compacted();
        }
    }

    fn family(&self, name: &'static str) -> Result<&rocksdb::ColumnFamily, CatalogueError> {
        self.db
            .cf_handle(name)
            .ok_or_else(|| CatalogueError::Record(format!("no column family {name:?}")))
    }
}

/// Reads blocks.
pub(crate) struct Blocks<'a> {
    cursor: DBRawIterator<'a>,
}

impl Blocks<'_> {
    /// The blocks of one use of a segment, in order of place. What an earlier use left behind is passed over.
    pub(crate) fn of(
        &mut self,
        segment: SegmentRef,
    ) -> impl Iterator<Item = Result<FoundBlock, CatalogueError>> {
        self.cursor.seek(place_key(segment.index, 0));
        std::iter::from_fn(move || self.next(segment))
    }

    fn next(&mut self, segment: SegmentRef) -> Option<Result<FoundBlock, CatalogueError>> {
        loop {
            let Some((key, value)) = self.cursor.item() else {
                return self
                    .cursor
                    .status()
                    .err()
                    .map(|error| Err(CatalogueError::Read(error)));
            };
            let Some((index, page)) = split_place_key(key) else {
                return Some(Err(CatalogueError::Record("a block's key".into())));
            };
            if index != segment.index {
                return None;
            }
            let found = decode(BlockRecord::decode(value)).map(|record| {
                let extent = Extent {
                    segment,
                    page,
                    pages: record.pages,
                };
                (record.generation == segment.generation).then(|| FoundBlock {
                    key: record.key,
                    extent,
                    descriptor: DescriptorBytes::kept(record.descriptor),
                })
            });
            self.cursor.next();
            if let Some(found) = found.transpose() {
                return Some(found);
            }
        }
    }
}

impl Change {
    /// The segment of which something is missing if this change is lost.
    pub(crate) fn adds_to(&self) -> Option<u32> {
        match self {
            Self::OpenSegment(segment) | Self::SegmentFull(segment) => Some(segment.index),
            Self::Block { extent, .. } => Some(extent.segment.index),
            Self::SegmentDeleted(_) | Self::Forget(_) => None,
        }
    }
}

/// What to do about a catalogue that does not open.
enum Unusable {
    /// Nothing: a new one would fail in the same way.
    Keep(rocksdb::Error),
    /// Make a new one.
    Replace(String),
}

impl Unusable {
    fn judge(error: rocksdb::Error) -> Self {
        let text = error.to_string();
        let is_of_the_system = [
            "No space",
            "Too many open",
            "Permission denied",
            "Read-only",
            "lock",
        ]
        .iter()
        .any(|&hint| text.contains(hint));
        if error.kind() == ErrorKind::IOError && is_of_the_system {
            Self::Keep(error)
        } else {
            Self::Replace(text)
        }
    }
}

fn identity(tier: [u8; 16]) -> [u8; 17] {
    let mut bytes = [VERSION; 17];
    bytes[1..].copy_from_slice(&tier);
    bytes
}

fn range(index: u32) -> ([u8; 8], Vec<u8>) {
    // Behind the last page of a segment comes the first of the next one; behind the last segment, a longer key.
    let to = index
        .checked_add(1)
        .map_or(vec![0xff; 9], |next| place_key(next, 0).to_vec());
    (place_key(index, 0), to)
}

fn decode<T, E: ToString>(result: Result<T, E>) -> Result<T, CatalogueError> {
    result.map_err(|error| CatalogueError::Record(error.to_string()))
}

fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    result.or_else(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            Ok(())
        } else {
            Err(error)
        }
    })
}

#[cfg(test)]
mod tests;
