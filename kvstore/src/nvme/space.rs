//! Room on the file systems of the directories, and who takes it.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use kvstore_nvme::Room;
use rustix::fs::statfs;
use tracing::warn;

use crate::config::{Config, format_size};
use crate::fsck::SUPERBLOCK;

/// Makes a configured directory if it is missing and its parent is not: with more missing than that, the device is
/// probably not mounted, and blocks would fill another one.
pub(super) fn make(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if directory.metadata()?.is_dir() {
                Ok(())
            } else {
                Err(io::ErrorKind::NotADirectory.into())
            }
        }
        result => result,
    }
}

/// What a file system has for a directory that may come to use more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    /// Bytes that the directory may come to use, what it has already included.
    pub(crate) room_bytes: u64,
    /// What stays free of the file system.
    pub(crate) reserve_bytes: u64,
}

/// How much room there is if it is less than the directory may come to use.
pub(crate) fn shortage(directory: &Path, capacity_bytes: u64) -> Option<Shortage> {
    let system = Room::of(directory).ok()??;
    let room_bytes = system.free_bytes().saturating_add(used_bytes(directory));
    (room_bytes < capacity_bytes).then_some(Shortage {
        room_bytes,
        reserve_bytes: system.reserve_bytes,
    })
}

/// Warns if the file system has less room than the directory may come to use.
pub(crate) fn compare(directory: &Path, capacity_bytes: u64) {
    if let Some(shortage) = shortage(directory, capacity_bytes) {
        warn!(
            directory = %directory.display(),
            capacity = format_size(capacity_bytes),
            room = format_size(shortage.room_bytes),
            reserve = format_size(shortage.reserve_bytes),
            "the file system has less room than nvme.capacity: the tier will use what there is, but for a reserve of 1 % \
             of the file system"
        );
    }
}

/// Warns if what is in a directory is gone when the machine starts anew, and takes the memory that it is to save.
pub(super) fn tell_if_memory(directory: &Path) {
    const TMPFS_MAGIC: u32 = 0x0102_1994;
    const RAMFS_MAGIC: u32 = 0x8584_58f6;
    let Ok(system) = statfs(directory) else {
        return;
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a magic number of 32 bits"
    )]
    let kind = system.f_type as u32;
    if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&kind) {
        warn!(
            directory = %directory.display(),
            "the NVMe directory is in memory (tmpfs): its blocks take memory beside the region, and are gone when the \
             machine starts anew; is the device mounted?"
        );
    }
}

/// Warns of tenants' directories that belong to no configured tenant: their files stay and are part of no capacity.
pub(crate) fn tell_strangers(config: &Config) {
    let tenants: Vec<&str> = config.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    for directory in &config.nvme.directories {
        for stranger in strangers(directory, &tenants) {
            warn!(
                directory = %stranger.display(),
                bytes = format_size(used_bytes(&stranger)),
                "a tenant's directory that no configured tenant has: its files stay and count in no capacity; configure \
                 the tenant again, or remove the directory if its blocks are not wanted any more"
            );
        }
    }
}

/// Subdirectories that are a tenant's and of none of these.
fn strangers(directory: &Path, tenants: &[&str]) -> Vec<PathBuf> {
    let entries = directory.read_dir().into_iter().flatten().flatten();
    let is_strange = |name: &OsStr| tenants.iter().all(|tenant| OsStr::new(tenant) != name);
    let mut strangers: Vec<PathBuf> = entries
        .filter(|entry| is_strange(&entry.file_name()))
        .map(|entry| entry.path())
        .filter(|path| path.join(SUPERBLOCK).exists())
        .collect();
    strangers.sort();
    strangers
}

/// Bytes on disk of everything below a directory; what cannot be read counts as nothing.
fn used_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = directory.read_dir() else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => used_bytes(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_tenants_that_are_not_configured_are_found() {
        let top = tempfile::tempdir().unwrap();
        for name in ["ours", "gone", "also-gone", "lost+found"] {
            std::fs::create_dir(top.path().join(name)).unwrap();
        }
        assert!(strangers(top.path(), &["ours"]).is_empty());
        for name in ["ours", "gone", "also-gone"] {
            std::fs::write(top.path().join(name).join(SUPERBLOCK), [1; 4096]).unwrap();
        }
        let found = strangers(top.path(), &["ours", "other"]);
        assert_eq!(found, [top.path().join("also-gone"), top.path().join("gone")]);
        assert!(used_bytes(&found[0]) >= 4096);
        assert!(strangers(&top.path().join("nowhere"), &[]).is_empty());
    }
}
