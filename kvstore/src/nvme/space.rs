//! Room on the file systems of the directories.

use std::io;
use std::path::Path;

use kvstore_nvme::Room;
use tracing::warn;

use crate::config::format_size;

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

/// Warns if the file system has less room than the directory may come to use.
pub(crate) fn compare(directory: &Path, capacity_bytes: u64) {
    let Ok(Some(system)) = Room::of(directory) else {
        return;
    };
    let room = system.free_bytes().saturating_add(used_bytes(directory));
    if room < capacity_bytes {
        warn!(
            directory = %directory.display(),
            capacity = format_size(capacity_bytes),
            room = format_size(room),
            reserve = format_size(system.reserve_bytes),
            "the file system has less room than nvme.capacity: the tier will use what there is, but for a reserve of 1 % \
             of the file system"
        );
    }
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
