//! The ledger's file: read whole, written anew beside its place, appended to.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

/// A file that is longer is not one of ours.
const BYTES_MAX: u64 = 256 << 20;
/// Names belong to others by then, and their routers have forgotten what they were told so long ago.
const AGE_MAX: Duration = Duration::from_hours(24);

/// Why there is nothing to read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadFailure {
    /// It is no plain file, or another user's, or one that others may write to.
    #[error("it is not a plain file that only this user may write to")]
    Foreign,
    #[error("it has {0} bytes, at most {BYTES_MAX} are ours")]
    TooLong(u64),
    /// Whoever has the names now may have the blocks.
    #[error("it was last written more than a day ago")]
    TooOld,
    #[error(transparent)]
    Io(#[from] io::Error),
}

fn flags(flags: OFlags) -> i32 {
    i32::try_from(flags.bits()).unwrap_or(0)
}

/// Everything in it; none if there is no such file. Engines may reach its directory, so links are not followed and what
/// might block is not waited for.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, ReadFailure> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags(OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY))
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let metadata = file.metadata()?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o022 == 0;
    if !metadata.is_file() || !is_ours {
        return Err(ReadFailure::Foreign);
    }
    if metadata.len() > BYTES_MAX {
        return Err(ReadFailure::TooLong(metadata.len()));
    }
    // A clock that was put back makes nothing old.
    let age = metadata.modified()?.elapsed().unwrap_or_default();
    if age > AGE_MAX {
        return Err(ReadFailure::TooOld);
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// A ledger that is being written anew. Dropped before it is finished, it leaves the old one as it was, and nothing beside it: the
/// directory may be full.
#[derive(Debug)]
pub(super) struct Draft {
    path: PathBuf,
    partial: PathBuf,
    /// None once it is in its place.
    out: Option<BufWriter<File>>,
}

impl Draft {
    pub(super) fn begin(path: &Path) -> io::Result<Self> {
        let partial = partial(path);
        // Whoever says what has failed names the ledger.
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", partial.display()));
        remove(&partial).map_err(named)?;
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(flags(OFlags::NOFOLLOW))
            .open(&partial)
            .map_err(named)?;
        Ok(Self {
            path: path.to_owned(),
            partial,
            out: Some(BufWriter::new(file)),
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), |out| out.write_all(bytes))
    }

    /// Puts it into its place; what is returned is appended to.
    pub(super) fn finish(mut self) -> io::Result<File> {
        if let Some(out) = &mut self.out {
            out.flush()?;
            std::fs::rename(&self.partial, &self.path)?;
        }
        let out = self.out.take().ok_or(io::ErrorKind::NotFound)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.out.is_some() {
            let _ = remove(&self.partial);
        }
    }
}

/// Removes a ledger, and one that was not finished.
pub(super) fn discard(path: &Path) -> io::Result<()> {
    remove(path)?;
    remove(&partial(path))
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn partial(path: &Path) -> PathBuf {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    PathBuf::from(partial)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_a_drafts_place_is_named() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("announced");
        std::fs::create_dir(partial(&path)).unwrap();
        let error = Draft::begin(&path).map(drop).unwrap_err();
        let expected = format!("{}: Is a directory", partial(&path).display());
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
}
