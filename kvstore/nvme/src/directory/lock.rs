//! One process at a time uses a directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::LOCK_PATIENCE;
use super::error::OpenError;
use super::names::LOCK;

/// How often a lock that somebody holds is tried again.
const RETRY: Duration = Duration::from_millis(20);
/// How the lock's file is opened.
const FLAGS: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// Takes the directory's lock, which the returned file holds while it is open. A predecessor that was killed holds it
/// until its last write has ended, so what comes after never meets a late write; that is waited for up to `patience`.
pub(super) fn take(directory: &Path, patience: Duration) -> Result<File, OpenError> {
    let path = directory.join(LOCK);
    let mut file = open(&path)?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::WOULDBLOCK | Errno::INTR) if begun.elapsed() < patience => std::thread::sleep(RETRY),
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                return Err(OpenError::InUse {
                    directory: directory.to_owned(),
                    holder: holder(&mut file),
                });
            }
            Err(errno) => return Err(OpenError::io("lock", &path)(errno.into())),
        }
    }
    // For people only. Where the disk is full the lock holds all the same.
    let _ = write_holder(&mut file);
    Ok(file)
}

/// Waits for whoever has the directory to close it, and leaves everything but the pid in the lock file as it is. A directory that has never been opened is
/// nobody's.
pub fn await_free(directory: &Path) -> Result<(), OpenError> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(FLAGS)
        .open(directory.join(LOCK));
    match opened {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => {
            take(directory, LOCK_PATIENCE).map(drop)
        }
        // What else may be wrong with it is told when it is opened.
        _ => Ok(()),
    }
}

/// Opens the lock's file, which may only be a plain file: what a link leads to is not ours to write a pid into, and a
/// pipe would wait for somebody at its other end.
fn open(path: &Path) -> Result<File, OpenError> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(FLAGS)
        .open(path);
    let no_file = || OpenError::NotAFile(path.to_owned());
    match opened {
        Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_file()) => Ok(file),
        Ok(_) => Err(no_file()),
        // A link, a directory, a socket.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::ELOOP | libc::EISDIR | libc::ENXIO)
            ) =>
        {
            Err(no_file())
        }
        Err(error) => Err(OpenError::io("open", path)(error)),
    }
}

fn write_holder(file: &mut File) -> io::Result<()> {
    let text = format!("{}\n", std::process::id());
    file.set_len(0)?;
    file.write_all(text.as_bytes())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file
        .take(32)
        .read_to_string(&mut text)
        .ok()
        .and_then(|_| text.trim().parse::<u32>().ok())
    {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}
