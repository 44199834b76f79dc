//! Checking a stopped tier, and making its catalogue right.
//!
//! What is in the segments is the truth and is never touched: a repair changes the catalogue, and deletes files that
//! were never finished.

mod report;
mod segment;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use kvstore_types::NamespaceId;

pub use report::{FsckCounts, FsckReport, PROBLEMS_MAX};

use crate::catalogue::{Catalogue, CatalogueError};
use crate::directory::{Directory, DirectoryError, Inventory, OpenError, SUPERBLOCK};
use crate::format::SegmentRecord;

/// How to check.
pub struct FsckOptions<'a> {
    /// Make the catalogue right, and delete half-made files.
    pub repair: bool,
    /// Read every payload and compare its checksum.
    pub verify_payloads: bool,
    /// Most bytes of the catalogue, if a repair has to write it.
    pub catalogue_bytes_max: u64,
    /// Hears how far it is, after every segment.
    pub progress: &'a mut dyn FnMut(FsckProgress),
}

/// How far a check is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsckProgress {
    /// Segments that have been checked.
    pub segments_done: usize,
    /// All segments.
    pub segments: usize,
    /// Bytes read.
    pub bytes_read: u64,
}

/// Why a directory could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// There is no such directory.
    #[error("there is no directory {}", .0.display())]
    Absent(PathBuf),
    /// It is none of ours, or has lost what proves that.
    #[error(
        "{} is missing: {} is either no directory of the NVMe tier, or its tier.kvt has to be restored from a copy, \
         because without it nothing there can be verified",
        .0.join(SUPERBLOCK).display(),
        .0.display()
    )]
    NoSuperblock(PathBuf),
    /// A daemon, or another check, uses it.
    #[error("{} is in use by {holder}; it is checked when that has ended", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// `process 1234`, as far as is known.
        holder: String,
    },
    /// It cannot be opened: it cannot be read, or is of another version.
    #[error(transparent)]
    Open(OpenError),
    /// Its catalogue could not be read or written, or something not deleted.
    #[error("{0}")]
    Failed(String),
}

impl From<OpenError> for FsckError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::InUse { directory, holder } => Self::InUse { directory, holder },
            other => Self::Open(other),
        }
    }
}

impl From<CatalogueError> for FsckError {
    fn from(error: CatalogueError) -> Self {
        Self::Failed(match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        })
    }
}

impl From<DirectoryError> for FsckError {
    fn from(error: DirectoryError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Checks one tenant's directory, which nobody uses meanwhile. After a repair of something that was wrong it is looked at
/// once more.
pub fn fsck(directory: &Path, mut options: FsckOptions<'_>) -> Result<FsckReport, FsckError> {
    let mut report = look(directory, &mut options)?;
    if options.repair && !report.is_clean() {
        options.repair = false;
        report.remaining = Some(match look(directory, &mut options) {
            Ok(again) => again.problems,
            Err(error) => vec![format!("a second look was not possible: {error}")],
        });
    }
    Ok(report)
}

fn look(path: &Path, options: &mut FsckOptions<'_>) -> Result<FsckReport, FsckError> {
    let denied = |path: &Path| {
        let path = path.to_owned();
        FsckError::Open(OpenError::io("look at", &path)(
            io::ErrorKind::PermissionDenied.into(),
        ))
    };
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(denied(path)),
        _ => return Err(FsckError::Absent(path.to_owned())),
    }
    // What may not be looked at is not missing.
    match path.join(SUPERBLOCK).metadata() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(denied(&path.join(SUPERBLOCK)));
        }
        Err(_) => return Err(FsckError::NoSuperblock(path.to_owned())),
    }
    let (directory, inventory) = Directory::inspect(path)?;
    let mut check = Check {
        report: FsckReport {
            directory: directory.path().to_owned(),
            tenant: directory.tenant().to_owned(),
            ..FsckReport::default()
        },
        directory,
        options: FsckOptions {
            progress: &mut *options.progress,
            ..*options
        },
        catalogue: None,
        namespaces: BTreeSet::new(),
        nameless: BTreeMap::new(),
        progress: FsckProgress {
            segments: inventory.segments.len(),
            ..FsckProgress::default()
        },
    };
    check.check_files(&inventory)?;
    check.check_namespaces()?;
    let records = check.open_catalogue(&inventory)?;
    check.check_records(&inventory, &records)?;
    for &index in &inventory.segments {
        check.check_segment(index, records.get(&index).copied())?;
        check.progress.segments_done += 1;
        (check.options.progress)(check.progress);
    }
    check.finish()
}

/// A check under way.
struct Check<'a> {
    report: FsckReport,
    directory: Directory,
    options: FsckOptions<'a>,
    catalogue: Option<Catalogue>,
    namespaces: BTreeSet<NamespaceId>,
    /// Good blocks of each namespace that is not known.
    nameless: BTreeMap<NamespaceId, u64>,
    progress: FsckProgress,
}

impl Check<'_> {
    fn check_files(&mut self, inventory: &Inventory) -> Result<(), FsckError> {
        let counts = &mut self.report.counts;
        counts.segments = (inventory.segments.len() + inventory.unusable.len()) as u64;
        counts.segments_damaged = inventory.unusable.len() as u64;
        counts.leftovers = inventory.leftovers.len() as u64;
        counts.files_unknown = inventory.unknown.len() as u64;
        for (index, why) in &inventory.unusable {
            self.report.problem(format!("segment {index}: {why}"));
        }
        for name in &inventory.leftovers {
            self.report
                .notes
                .push(format!("{name} was never finished; the next start deletes it"));
        }
        for name in &inventory.unknown {
            self.report
                .notes
                .push(format!("{name} is not a file of kvtier and is left alone"));
        }
        if self.options.repair && !inventory.leftovers.is_empty() {
            self.directory.delete_leftovers(&inventory.leftovers)?;
            let text = format!("{} half-made files are deleted", inventory.leftovers.len());
            self.report.repairs.push(text);
        }
        Ok(())
    }

    fn check_namespaces(&mut self) -> Result<(), FsckError> {
        let namespaces = self.directory.namespaces()?;
        self.report.counts.namespaces = namespaces.good.len() as u64;
        self.report.counts.namespaces_damaged = namespaces.damaged.len() as u64;
        self.namespaces = namespaces
            .good
            .iter()
            .map(|(descriptor, _)| descriptor.id())
            .collect();
        for (name, why) in namespaces.damaged {
            self.report
                .problem(format!("{name}: {why}; its blocks are dropped at the next start"));
        }
        Ok(())
    }

    /// Opens the catalogue, for reading only if nothing is to be repaired, and gives what it knows of segments.
    fn open_catalogue(&mut self, inventory: &Inventory) -> Result<BTreeMap<u32, SegmentRecord>, FsckError> {
        let (path, tier) = (self.directory.catalogue_path(), self.directory.key().id);
        let usable = match Catalogue::inspect(&path, tier) {
            Ok(Some(catalogue)) => catalogue
                .segments()
                .map(|records| (catalogue, records))
                .map_err(|error| error.to_string()),
            Ok(None) => Err("there is none".to_owned()),
            Err(why) => Err(why),
        };
        match usable {
            Ok((catalogue, records)) => {
                self.catalogue = Some(catalogue);
                if self.options.repair {
                    // One at a time has the database open.
                    self.catalogue = None;
                    self.catalogue = Some(Catalogue::open(&path, tier, self.options.catalogue_bytes_max)?.0);
                }
                Ok(records.into_iter().collect())
            }
            Err(why) => {
                if !inventory.segments.is_empty() {
                    self.report.problem(format!(
                        "the catalogue cannot be used: {why}; the next start makes it anew"
                    ));
                }
                if self.options.repair {
                    self.catalogue = Some(Catalogue::create(&path, tier, self.options.catalogue_bytes_max)?);
                    self.report.repairs.push("the catalogue is made anew".into());
                }
                Ok(BTreeMap::new())
            }
        }
    }

    /// What the catalogue says of segments that are not there is ignored at a start; a repair deletes it.
    fn check_records(
        &mut self,
        inventory: &Inventory,
        records: &BTreeMap<u32, SegmentRecord>,
    ) -> Result<(), FsckError> {
        let absent = |index: &&u32| !inventory.segments.contains(index);
        for &index in records.keys().filter(absent) {
            self.report.notes.push(format!(
                "segment {index}: the catalogue knows it, there is no such file"
            ));
            if self.options.repair
                && let Some(catalogue) = &mut self.catalogue
            {
                catalogue.write(&[crate::catalogue::Change::SegmentDeleted(index)])?;
                self.report
                    .repairs
                    .push(format!("segment {index}: the catalogue has forgotten it"));
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<FsckReport, FsckError> {
        for (namespace, blocks) in std::mem::take(&mut self.nameless) {
            self.report.problem(format!(
                "namespace {namespace} is not known; its {blocks} blocks are dropped at the next start"
            ));
        }
        if self.options.repair
            && let Some(catalogue) = &self.catalogue
        {
            catalogue.flush()?;
        }
        Ok(self.report)
    }
}
