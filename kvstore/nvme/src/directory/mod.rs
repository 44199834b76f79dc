//! One directory's files: which there are, made whole or not at all, within the bound at every moment.
//!
//! ```text
//! lock                     held while the directory is open
//! tier.kvt                 superblock: what the directory is for ever
//! segment-00000012.kvt     preallocated; never grows
//! namespace-<32 hex>.kvt   what a namespace stands for
//! catalogue/               a hint; the catalogue's own
//! *.partial                half-made; collected at the next start
//! ```
//!
//! Nothing of a directory is deleted before its superblock has been read and is ours.

mod error;
mod files;
mod lock;
mod names;
mod namespaces;
mod pages;
mod probe;
mod room;
mod segments;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use error::OpenError;
pub(crate) use error::{DirectoryError, outcome_of};
pub use lock::await_free;
#[cfg(test)]
pub(crate) use names::segment_name;
pub(crate) use names::{FileKind, SUPERBLOCK};
pub(crate) use namespaces::Namespaces;
pub(crate) use pages::Pages;
pub(crate) use probe::DirectMode;
pub use room::Room;
pub(crate) use segments::{SegmentFile, SegmentHeaderError};

use crate::format::{PAGE, Superblock, SuperblockError, TENANT_BYTES_MAX, TierKey};
use crate::{DeviceSpec, Direct};

/// How long a lock that somebody holds is waited for: a predecessor that was killed holds it while its I/O ends.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// The same for somebody who only looks, and may have found a daemon that is alive.
const CHECK_PATIENCE: Duration = Duration::from_secs(2);

/// What a directory is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DirectorySpec<'a> {
    pub(crate) path: &'a Path,
    pub(crate) tenant: &'a str,
    pub(crate) segment_bytes: u64,
    pub(crate) segments_max: u32,
    pub(crate) direct: Direct,
}

impl<'a> From<&'a DeviceSpec> for DirectorySpec<'a> {
    fn from(spec: &'a DeviceSpec) -> Self {
        Self {
            path: &spec.directory,
            tenant: &spec.tenant,
            segment_bytes: spec.segment_bytes,
            segments_max: spec.segments_max,
            direct: spec.direct,
        }
    }
}

/// An open directory. Nobody else opens it meanwhile.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    key: TierKey,
    tenant: String,
    segment_bytes: u64,
    mode: DirectMode,
    segments: BTreeMap<u32, Arc<SegmentFile>>,
    /// Closed last: fields are dropped in order.
    lock: File,
}

/// What opening a directory found and did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Inventory {
    /// It is new.
    pub(crate) created: bool,
    /// Segments there are, in order.
    pub(crate) segments: Vec<u32>,
    /// Segments that were more than may be, and are deleted.
    pub(crate) surplus: Vec<u32>,
    /// Segments whose files cannot be opened, and why. They are left alone, and count as not there.
    pub(crate) unusable: Vec<(u32, String)>,
    /// Half-made files that were deleted.
    pub(crate) leftovers: Vec<String>,
    /// Files that are not ours and were left alone.
    pub(crate) unknown: Vec<String>,
}

impl Directory {
    /// Opens a device's directory, and makes it first if there is none.
    pub(crate) fn open(spec: &DeviceSpec) -> Result<(Self, Inventory), OpenError> {
        Self::open_at(spec.into())
    }

    /// The lock's open file once more: the directory is locked until all of them are closed.
    pub(crate) fn lock(&self) -> io::Result<OwnedFd> {
        self.lock.as_fd().try_clone_to_owned()
    }

    /// Whether its files were removed while it was open. The lock's is the one that is never made anew.
    pub(crate) fn is_removed(&self) -> bool {
        self.lock.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    /// Bytes that segments may still take on its file system; none if that does not say.
    pub(crate) fn room_bytes(&self) -> Option<u64> {
        let room = Room::around(&self.lock).ok().flatten();
        room.map(|room| room.free_bytes())
    }

    /// The same for those who have no memory to read into.
    pub(crate) fn open_at(spec: DirectorySpec<'_>) -> Result<(Self, Inventory), OpenError> {
        check_spec(&spec)?;
        make_directory(spec.path)?;
        let lock = lock::take(spec.path, LOCK_PATIENCE)?;
        let names = list(spec.path)?;
        let (superblock, created) = match read_superblock(spec.path)? {
            Some(superblock) => (superblock, false),
            None => (new_superblock(&spec, &names)?, true),
        };
        check_superblock(&spec, &superblock)?;
        let mut inventory = Inventory {
            created,
            ..Inventory::default()
        };
        collect(&spec, &names, &mut inventory)?;
        let mode = probe::probe(spec.path, spec.direct)?;
        let mut directory = Self {
            path: spec.path.to_owned(),
            key: superblock.key,
            tenant: superblock.tenant,
            segment_bytes: superblock.segment_bytes,
            mode,
            segments: BTreeMap::new(),
            lock,
        };
        for index in std::mem::take(&mut inventory.segments) {
            match directory.open_segment(index) {
                Ok(_) => inventory.segments.push(index),
                Err(error) => inventory.unusable.push((index, error.to_string())),
            }
        }
        Ok((directory, inventory))
    }

    /// Opens a directory that is there for looking at it: waits for nobody, and deletes, makes and cuts off nothing
    /// but the pid in the lock file.
    pub(crate) fn inspect(path: &Path) -> Result<(Self, Inventory), OpenError> {
        if !path.metadata().map_err(OpenError::io("open", path))?.is_dir() {
            return Err(OpenError::io("open", path)(io::ErrorKind::NotADirectory.into()));
        }
        let superblock = path.join(names::SUPERBLOCK);
        let absent = || OpenError::io("read", &superblock)(io::ErrorKind::NotFound.into());
        // One that may not be looked at is not one that is missing.
        superblock
            .metadata()
            .map_err(OpenError::io("read", &superblock))?;
        let lock = lock::take(path, CHECK_PATIENCE)?;
        let superblock = read_superblock(path)?.ok_or_else(absent)?;
        let mut inventory = Inventory::default();
        sort(&list(path)?, &mut inventory);
        let mut directory = Self {
            path: path.to_owned(),
            key: superblock.key,
            tenant: superblock.tenant,
            segment_bytes: superblock.segment_bytes,
            mode: probe::probe_without_writing(path),
            segments: BTreeMap::new(),
            lock,
        };
        for index in std::mem::take(&mut inventory.segments) {
            match directory.open_segment_to_read(index) {
                Ok(()) => inventory.segments.push(index),
                Err(error) => inventory.unusable.push((index, error.to_string())),
            }
        }
        Ok((directory, inventory))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where its catalogue is.
    pub(crate) fn catalogue_path(&self) -> PathBuf {
        self.path.join(names::CATALOGUE)
    }

    /// What proves its headers.
    pub(crate) fn key(&self) -> &TierKey {
        &self.key
    }

    /// Whose it is.
    pub(crate) fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Pages of each segment, its header included.
    ///
    /// # Panics
    /// Never: a superblock with larger segments is refused.
    pub(crate) fn segment_pages(&self) -> u32 {
        u32::try_from(self.segment_bytes / PAGE as u64).unwrap_or(u32::MAX)
    }

    /// Whether segment files are read and written directly, and why.
    pub(crate) fn mode(&self) -> &DirectMode {
        &self.mode
    }

    /// Deletes half-made files that `inspect` found.
    pub(crate) fn delete_leftovers(&self, names: &[String]) -> Result<(), DirectoryError> {
        names
            .iter()
            .try_for_each(|name| files::remove(&self.path.join(name)))
    }
}

/// The size that a directory's segments have for ever, if it has been one before; for choosing that of new ones.
pub fn segment_bytes_of(directory: &Path) -> Option<u64> {
    // What is wrong with it, if anything, is said when it is opened.
    let superblock = read_superblock(directory).ok()??;
    Some(superblock.segment_bytes)
}

fn check_spec(spec: &DirectorySpec<'_>) -> Result<(), OpenError> {
    let problem = if let Some(problem) = segment_bytes_problem(spec.segment_bytes) {
        problem
    } else if spec.tenant.len() > TENANT_BYTES_MAX {
        format!(
            "want a tenant's name of at most {TENANT_BYTES_MAX} bytes, got {}",
            spec.tenant.len()
        )
    } else {
        return Ok(());
    };
    Err(OpenError::Spec {
        directory: spec.path.to_owned(),
        problem,
    })
}

fn segment_bytes_problem(bytes: u64) -> Option<String> {
    let page = PAGE as u64;
    let fits = bytes.is_multiple_of(page) && (2..=u64::from(u32::MAX)).contains(&(bytes / page));
    (!fits).then(|| format!("want segments of 2 pages or more, a multiple of {page} bytes, got {bytes}"))
}

fn make_directory(path: &Path) -> Result<(), OpenError> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(OpenError::io("make", path))?;
    files::sync_parent(path)?;
    Ok(())
}

/// The names in a directory, in order. One that is not UTF-8 is not ours and is shown as well as can be.
fn list(path: &Path) -> Result<Vec<String>, DirectoryError> {
    let read = || -> io::Result<Vec<String>> {
        fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    let mut names = read().map_err(DirectoryError::new("list", path))?;
    names.sort();
    Ok(names)
}

fn read_superblock(directory: &Path) -> Result<Option<Superblock>, OpenError> {
    let path = directory.join(names::SUPERBLOCK);
    let bytes = match files::read(&path, PAGE) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io("read", &path)(error)),
    };
    let superblock = Superblock::decode(&bytes).map_err(|error| OpenError::superblock(&path, &error))?;
    if segment_bytes_problem(superblock.segment_bytes).is_some() {
        let error = SuperblockError::Damaged("impossible size of segments");
        return Err(OpenError::superblock(&path, &error));
    }
    Ok(Some(superblock))
}

fn new_superblock(spec: &DirectorySpec<'_>, names: &[String]) -> Result<Superblock, OpenError> {
    let strange = |name: &&String| !matches!(FileKind::of(name), FileKind::Lock | FileKind::Partial);
    if let Some(found) = names.iter().find(strange) {
        return Err(OpenError::NotEmpty {
            directory: spec.path.to_owned(),
            found: found.clone(),
        });
    }
    let superblock = Superblock {
        key: random_key().map_err(OpenError::io("read", Path::new(RANDOM)))?,
        tenant: spec.tenant.to_owned(),
        segment_bytes: spec.segment_bytes,
    };
    files::replace(&spec.path.join(names::SUPERBLOCK), &superblock.encode())?;
    Ok(superblock)
}

const RANDOM: &str = "/dev/urandom";

fn random_key() -> io::Result<TierKey> {
    let mut key = TierKey {
        id: [0; 16],
        mac: [0; 32],
    };
    let mut random = File::open(RANDOM)?;
    random.read_exact(&mut key.id)?;
    random.read_exact(&mut key.mac)?;
    Ok(key)
}

fn check_superblock(spec: &DirectorySpec<'_>, superblock: &Superblock) -> Result<(), OpenError> {
    let directory = || spec.path.to_owned();
    if superblock.tenant != spec.tenant {
        return Err(OpenError::Tenant {
            directory: directory(),
            found: superblock.tenant.clone(),
            expected: spec.tenant.to_owned(),
        });
    }
    if superblock.segment_bytes != spec.segment_bytes {
        return Err(OpenError::SegmentBytes {
            directory: directory(),
            found: superblock.segment_bytes,
            expected: spec.segment_bytes,
        });
    }
    Ok(())
}

/// Sorts the names into the inventory.
fn sort(names: &[String], inventory: &mut Inventory) {
    for name in names {
        match FileKind::of(name) {
            FileKind::Segment(index) => inventory.segments.push(index),
            FileKind::Partial => inventory.leftovers.push(name.clone()),
            FileKind::Unknown => inventory.unknown.push(name.clone()),
            FileKind::Superblock | FileKind::Lock | FileKind::Catalogue | FileKind::Namespace(_) => {}
        }
    }
    inventory.segments.sort_unstable();
}

/// Deletes what is half-made and what is beyond the bound, before anything is written. A directory of such a name is not ours
/// and stays.
fn collect(spec: &DirectorySpec<'_>, names: &[String], inventory: &mut Inventory) -> Result<(), OpenError> {
    sort(names, inventory);
    for name in std::mem::take(&mut inventory.leftovers) {
        let path = spec.path.join(&name);
        if path.is_dir() {
            inventory.unknown.push(name);
        } else {
            files::remove(&path)?;
            inventory.leftovers.push(name);
        }
    }
    let kept = inventory.segments.len().min(spec.segments_max as usize);
    for index in inventory.segments.split_off(kept) {
        let path = spec.path.join(names::segment_name(index));
        if path.is_dir() {
            inventory.unusable.push((index, "it is a directory".to_owned()));
        } else {
            files::remove(&path)?;
            inventory.surplus.push(index);
        }
    }
    Ok(())
}
