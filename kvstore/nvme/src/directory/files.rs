//! Small files that are whole or not there, also after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::DirectoryError;
use super::names::PARTIAL;

/// The name under which a file is made.
pub(super) fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PARTIAL);
    PathBuf::from(name)
}

/// Puts `bytes` in the place of whatever is at `path`, durably. After an error nothing of it is left.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), DirectoryError> {
    let partial = partial(path);
    let written = write_new(&partial, bytes).and_then(|()| fs::rename(&partial, path));
    if let Err(source) = written {
        let _ = fs::remove_file(&partial);
        return Err(DirectoryError::new("write", path)(source));
    }
    sync_parent(path)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Reads a file of at most `bytes_max` bytes; of a longer one a byte more than that.
pub(super) fn read(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Of a pipe that somebody has put here nothing is waited for.
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?
        .take(bytes_max as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Removes a file if it is there, durably.
pub(super) fn remove(path: &Path) -> Result<(), DirectoryError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(DirectoryError::new("delete", path)(source)),
    }
}

/// Makes what was created, renamed or deleted beside `path` durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), DirectoryError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(DirectoryError::new("sync", parent))
}
