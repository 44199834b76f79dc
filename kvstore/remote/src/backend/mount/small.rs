//! Small files, and those of them that are replaced only if nobody else did.
//!
//! A file system has no conditional write, but `link` fails if the name is taken, on every node and on NFS too. So each
//! content of a replaced file is a file of its own, `<name>.<16 hex digits>`, and the highest number is what counts. The next
//! one is linked from a temporary file, whole; whoever comes second fails. Numbers that are not needed any more are removed,
//! so a slow node may still link an old one: it sees the higher ones then, and has lost.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;

use super::files::{Files, open_to_read};
use super::root::At;
use super::{fault, is_absent, object_fault};
use crate::FaultKind;
use crate::backend::{Fault, Replaced, Version, Versioned, Written};
use crate::format::{LEASE_NAME, temporary_name};

/// Contents before the last one that are kept, for nodes that are reading them.
const KEPT: u64 = 4;

/// From here on no number is ours: one is used each time a lease is renewed. A file that has such a name is ignored, or
/// there would be no next one.
const NUMBER_END: u64 = 1 << 63;

/// Writes a file, unless there is one.
pub(super) fn put(files: &Files, name: &str, unique: &str, bytes: &[u8]) -> Result<Written, Fault> {
    let at = files.root.at(bytes.len() as u64)?;
    if Files::is_there(&at, name)? {
        return Ok(Written::AlreadyPresent);
    }
    link_new(files, &at, name, unique, bytes)
}

/// Reads a file whole.
pub(super) fn get(files: &Files, name: &str, bytes_max: u64) -> Result<Option<Versioned>, Fault> {
    // A lease has no file of just its name here.
    if name != LEASE_NAME
        && let Some((bytes, modified)) = read(files, name, bytes_max)?
    {
        return Ok(Some(Versioned {
            bytes,
            version: Version(String::new()),
            modified,
        }));
    }
    // What is the last one now may have been replaced and removed when it is opened.
    for _ in 0..3 {
        let Some(&number) = numbers(files, name)?.last() else {
            return Ok(None);
        };
        if let Some((bytes, modified)) = read_content(files, &numbered(name, number), bytes_max)? {
            return Ok(Some(Versioned {
                bytes,
                version: Version(number.to_string()),
                modified,
            }));
        }
    }
    Err(Fault::new(
        FaultKind::Server,
        format!("{name} is replaced faster than it is read"),
    ))
}

/// Replaces a file that is still what it was.
pub(super) fn replace(
    files: &Files,
    name: &str,
    unique: &str,
    bytes: &[u8],
    expected: Option<Version>,
) -> Result<Replaced, Fault> {
    let last = match expected {
        Some(Version(number)) => number
            .parse()
            .map_err(|_| Fault::new(FaultKind::Protocol, format!("{name} is not replaced")))?,
        None => 0,
    };
    let Some(next) = u64::checked_add(last, 1) else {
        return Err(Fault::new(
            FaultKind::Protocol,
            format!("no number is left for {name}"),
        ));
    };
    // No reserve is kept from the lease: who frees bytes has to write it.
    let at = files.root.at(0)?;
    let before = numbers(files, name)?;
    if before.last().copied().unwrap_or(0) != last {
        return Ok(Replaced::Lost);
    }
    if link_new(files, &at, &numbered(name, next), unique, bytes)? == Written::AlreadyPresent {
        return Ok(Replaced::Lost);
    }
    let after = numbers(files, name)?;
    if after.last().is_some_and(|&number| number > next) {
        let _ = fs::remove_file(at.path(numbered(name, next)));
        return Ok(Replaced::Lost);
    }
    for number in after.into_iter().filter(|number| number + KEPT < next) {
        let _ = fs::remove_file(at.path(numbered(name, number)));
    }
    Ok(Replaced::Done(Version(next.to_string())))
}

fn numbered(name: &str, number: u64) -> String {
    format!("{name}.{number:016x}")
}

/// The contents there are, in order.
fn numbers(files: &Files, name: &str) -> Result<Vec<u64>, Fault> {
    let (directory, file) = name.rsplit_once('/').unwrap_or(("", name));
    let entries = files.entries(directory)?;
    let numbers = entries.into_iter().filter_map(|(entry, _)| {
        let digits = entry.strip_prefix(file)?.strip_prefix('.')?;
        (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
    });
    Ok(numbers.filter(|&number| number < NUMBER_END).collect())
}

/// One of the contents of a file that is replaced. What cannot be one, or may not be read, has its number all the same and counts as
/// empty: whoever gives it meaning finds none, and the next number comes after it.
fn read_content(files: &Files, name: &str, bytes_max: u64) -> Result<Option<(Bytes, SystemTime)>, Fault> {
    match read(files, name, bytes_max) {
        Err(fault) if matches!(fault.kind, FaultKind::NameTaken | FaultKind::Denied) => {
            match fs::symlink_metadata(files.root.at(0)?.path(name)) {
                Ok(meta) => Ok(Some((
                    Bytes::new(),
                    meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                ))),
                Err(error) if is_absent(&error) => Ok(None),
                Err(_) => Err(fault),
            }
        }
        other => other,
    }
}

fn read(files: &Files, name: &str, bytes_max: u64) -> Result<Option<(Bytes, SystemTime)>, Fault> {
    let at = files.root.at(0)?;
    let taken = || Fault::new(FaultKind::NameTaken, format!("read {name}: not a regular file"));
    let file = match open_to_read(&at.path(name), 0) {
        Ok(file) => file,
        // Also a link that leads nowhere: it has the name.
        Err(_) if Files::is_no_file(&at, name) => return Err(taken()),
        Err(error) if is_absent(&error) => return files.check_root().map(|()| None),
        Err(error) => return Err(object_fault(&format!("open {name}"), &error)),
    };
    let failed = |error: &io::Error| object_fault(&format!("read {name}"), error);
    let meta = file.metadata().map_err(|error| failed(&error))?;
    if !meta.is_file() {
        // A pipe would let its reader wait.
        return Err(taken());
    }
    let mut bytes = Vec::new();
    let mut some = file.take(bytes_max + 1);
    some.read_to_end(&mut bytes).map_err(|error| failed(&error))?;
    if bytes.len() as u64 > bytes_max {
        let text = format!("{name} has more than {bytes_max} bytes");
        return Err(Fault::new(FaultKind::NameTaken, text));
    }
    let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(Some((bytes.into(), modified)))
}

/// Makes a file that is whole from the start, unless its name is taken.
pub(super) fn link_new(
    files: &Files,
    at: &At,
    name: &str,
    unique: &str,
    bytes: &[u8],
) -> Result<Written, Fault> {
    let temporary = PathBuf::from(temporary_name(name, unique));
    let linked = write(files, at, &temporary, bytes).and_then(|()| {
        let (from, to) = (at.path(&temporary), at.path(name));
        let linked = match fs::hard_link(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                files.make_parent(at, Path::new(name))?;
                fs::hard_link(&from, &to)
            }
            other => other,
        };
        match linked {
            Ok(()) => Ok(Written::New),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Written::AlreadyPresent),
            Err(error) => Err(object_fault(&format!("link {name}"), &error)),
        }
    });
    let _ = fs::remove_file(at.path(&temporary));
    linked
}

fn write(files: &Files, at: &At, name: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let file = files.create(at, name, 0)?;
    file.write_all_at(bytes, 0)
        .and_then(|()| file.sync_data())
        .map_err(|error| fault(&format!("write {}", name.display()), &error))
}
