//! Whether the page cache can be passed by.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use super::error::OpenError;
use super::files::partial;
use super::names::{PROBE, SUPERBLOCK};
use super::pages::Pages;
use crate::Direct;
use crate::format::PAGE;

/// How segment files are opened, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DirectMode {
    /// With O_DIRECT.
    pub(crate) direct: bool,
    /// For the log.
    pub(crate) reason: String,
}

/// Finds out. The superblock is there already.
pub(super) fn probe(directory: &Path, wanted: Direct) -> Result<DirectMode, OpenError> {
    if wanted == Direct::Never {
        return Ok(DirectMode {
            direct: false,
            reason: "nvme.direct is \"never\"".into(),
        });
    }
    let alignment = alignment(&directory.join(SUPERBLOCK));
    let reason = match (alignment, wanted) {
        // An older kernel does not know, tmpfs and btrfs do not say. Without being told so we do not believe an open
        // that succeeds: the file system may well buffer in silence.
        (None, Direct::Auto) => {
            Err("the file system does not say at which alignment (STATX_DIOALIGN)".into())
        }
        (None, _) => {
            attempt(directory).map(|()| "tried; the file system does not say at which alignment".into())
        }
        (Some(alignment), _) if !is_usable(alignment) => Err(format!(
            "the file system supports it at an alignment of {alignment} bytes"
        )),
        (Some(alignment), _) => attempt(directory).map(|()| format!("aligned to {alignment} bytes")),
    };
    match reason {
        Ok(reason) => Ok(DirectMode { direct: true, reason }),
        Err(reason) if wanted == Direct::Always => Err(OpenError::Direct {
            directory: directory.to_owned(),
            reason,
        }),
        Err(reason) => Ok(DirectMode {
            direct: false,
            reason,
        }),
    }
}

/// What STATX_DIOALIGN says, the larger of memory's and the file's alignment. None: it does not say. 0: no direct I/O.
fn alignment(path: &Path) -> Option<u32> {
    let answer = statx(CWD, path, AtFlags::empty(), StatxFlags::DIOALIGN).ok()?;
    if answer.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return None;
    }
    let (memory, offset) = (answer.stx_dio_mem_align, answer.stx_dio_offset_align);
    // Both zero: not for this file. One zero is nothing that a kernel says.
    Some(if memory == 0 || offset == 0 {
        0
    } else {
        memory.max(offset)
    })
}

/// Whether whole pages are aligned enough.
fn is_usable(alignment: u32) -> bool {
    alignment > 0 && PAGE.is_multiple_of(alignment as usize)
}

/// Opens, writes and reads one page.
fn attempt(directory: &Path) -> Result<(), String> {
    let failed = |what| move |error: io::Error| format!("{what}: {error}");
    read_superblock(&directory.join(SUPERBLOCK)).map_err(failed("could not read a page"))?;
    let path = partial(&directory.join(PROBE));
    let tried = write_and_read(&path);
    // Collected at the next start if this fails.
    let _ = fs::remove_file(&path);
    match tried {
        Ok(true) => Ok(()),
        Ok(false) => Err("a page came back changed".into()),
        // A full disk says nothing about direct I/O, and what is on it can still be read.
        Err(error) if super::outcome_of(&error) == kvstore_types::IoOutcome::NoSpace => Ok(()),
        Err(error) => Err(failed("could not write and read a page")(error)),
    }
}

fn open_direct(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.custom_flags(libc::O_DIRECT).mode(0o600).open(path)
}

fn read_superblock(path: &Path) -> io::Result<()> {
    let file = open_direct(OpenOptions::new().read(true), path)?;
    file.read_exact_at(&mut Pages::new(1), 0)
}

fn write_and_read(path: &Path) -> io::Result<bool> {
    let mut options = OpenOptions::new();
    let file = open_direct(options.read(true).write(true).create(true).truncate(true), path)?;
    let (mut written, mut read) = (Pages::new(1), Pages::new(1));
    written.fill(0xa5);
    file.write_all_at(&written, 0)?;
    file.read_exact_at(&mut read, 0)?;
    Ok(*written == *read)
}

/// How to open files in a directory that must not be written to.
pub(super) fn probe_without_writing(directory: &Path) -> DirectMode {
    let path = directory.join(SUPERBLOCK);
    let direct = alignment(&path).is_some_and(is_usable) && read_superblock(&path).is_ok();
    DirectMode {
        direct,
        reason: "as STATX_DIOALIGN says".into(),
    }
}
