//! What is done with files, by calls that may block.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use rustix::fs::FileType;

use super::root::{At, IDENTITY_NAME, Root};
use super::{fault, is_absent, object_fault, small};
use crate::backend::{Body, Fault, Meta, Mode, Written};
use crate::buffer::{Buffer, BufferPool};
use crate::format::{PAGE, ROOT, StoreId, TEMPORARY};
use crate::{Direct, FaultKind, MountSpec, SyncPolicy};

/// Nodes may run as different users of one group; the rest is for the umask to decide.
pub(super) const FILE_MODE: u32 = 0o660;
const DIRECTORY_MODE: u32 = 0o770;

/// Most bytes that a probe writes.
const PROBE_BYTES_MAX: u64 = 64 << 20;

/// The directory, and what was ordered about it.
#[derive(Debug)]
pub(crate) struct Files {
    pub(super) root: Root,
    direct: Direct,
    pub(super) sync: SyncPolicy,
    /// Bytes of the largest object that there was no room for: a probe that writes less would prove nothing.
    refused: AtomicU64,
}

/// How files are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    /// Whether the page cache is passed by.
    pub(super) direct: bool,
    /// Why, or why not.
    pub(super) reason: &'static str,
}

impl Open {
    /// Flags for `open`.
    pub(super) fn flags(self) -> i32 {
        if self.direct { libc::O_DIRECT } else { 0 }
    }
}

/// Opens a file that is there, waiting for nobody: a pipe that has its name would otherwise wait for whoever writes into it.
/// Whether it is a file is for the caller to see.
pub(super) fn open_to_read(path: &Path, flags: i32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags | libc::O_NONBLOCK);
    let file = options.open(path)?;
    let_it_wait(&file)?;
    Ok(file)
}

/// Takes `O_NONBLOCK` back from an open file: a read of a file of a network file system waits.
pub(super) fn let_it_wait(file: impl AsFd) -> io::Result<()> {
    let kept = rustix::fs::fcntl_getfl(&file)? - rustix::fs::OFlags::NONBLOCK;
    Ok(rustix::fs::fcntl_setfl(&file, kept)?)
}

impl Files {
    pub(super) fn new(spec: &MountSpec) -> Self {
        Self {
            root: Root::new(spec),
            direct: spec.direct,
            sync: spec.sync,
            refused: AtomicU64::new(0),
        }
    }

    /// Whether the root is there, and the one that it was.
    pub(super) fn check_root(&self) -> Result<(), Fault> {
        self.root.look(0).map(|_| ())
    }

    /// Keeps in mind how much there was no room for.
    pub(super) fn note_refused(&self, bytes: u64) {
        self.refused
            .fetch_max(bytes.min(PROBE_BYTES_MAX), Ordering::Relaxed);
    }

    /// Makes the directory that a file is to lie in, below the root only.
    pub(super) fn make_parent(&self, at: &At, name: &Path) -> Result<(), Fault> {
        let Some(parent) = name.parent() else {
            return Ok(());
        };
        let mut path = at.root().to_owned();
        for part in self.root.prefix().iter().chain(parent) {
            path.push(part);
            match fs::DirBuilder::new().mode(DIRECTORY_MODE).create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(fault(
                        &format!("make the directory of {}", name.display()),
                        &error,
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes a new file, and its directory if need be.
    pub(super) fn create(&self, at: &At, name: &Path, flags: i32) -> Result<File, Fault> {
        let path = at.path(name);
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .custom_flags(flags);
        match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_parent(at, name)?;
                options.open(&path)
            }
            other => other,
        }
        .map_err(|error| object_fault(&format!("create {}", name.display()), &error))
    }

    /// Gives a file its name, whatever had it.
    pub(super) fn rename(&self, at: &At, from: &Path, name: &str) -> Result<(), Fault> {
        let (from, to) = (at.path(from), at.path(name));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_parent(at, Path::new(name))?;
                fs::rename(&from, &to)
            }
            other => other,
        }
        .map_err(|error| object_fault(&format!("rename a file to {name}"), &error))?;
        if self.sync == SyncPolicy::Full
            && let Some(parent) = to.parent()
        {
            let synced = File::open(parent).and_then(|directory| directory.sync_all());
            synced.map_err(|error| fault("sync a directory", &error))?;
        }
        Ok(())
    }

    /// Whether there is such a file.
    pub(super) fn is_there(at: &At, name: &str) -> Result<bool, Fault> {
        let found = at
            .kind(name)
            .map_err(|error| object_fault(&format!("look at {name}"), &error.into()))?;
        Ok(found.is_some_and(FileType::is_file))
    }

    /// Whether something has the name that is no file: not ours, and no block.
    pub(super) fn is_no_file(at: &At, name: &str) -> bool {
        matches!(at.kind(name), Ok(Some(kind)) if !kind.is_file())
    }

    /// Finds out whether the page cache can be passed by.
    pub(super) fn probe_direct(&self, name: &str) -> Result<Open, Fault> {
        let at = self.root.at(0)?;
        let buffered = |reason| Open {
            direct: false,
            reason,
        };
        if self.direct == Direct::Never {
            return Ok(buffered("not asked for"));
        }
        let path = Path::new(TEMPORARY).join(name);
        let tried = self.try_direct(&at, &path);
        let _ = fs::remove_file(at.path(&path));
        match tried {
            Ok(true) => Ok(Open {
                direct: true,
                reason: "the mount takes it",
            }),
            Ok(false) => Ok(buffered("what was written directly is read back differently")),
            // A mount that refuses it says so with EINVAL; some do at the first transfer only.
            Err(fault) if fault.text.contains("os error 22") || fault.text.contains("os error 95") => {
                Ok(buffered("the mount refuses it"))
            }
            Err(fault) if fault.kind == FaultKind::NoSpace => {
                return Ok(Open {
                    direct: self.direct == Direct::Always,
                    reason: "it cannot be tried without room",
                });
            }
            // A mount that can only be read from: nobody knows, and nothing is lost by the page cache.
            Err(fault) if fault.kind == FaultKind::Denied => {
                Ok(buffered("it cannot be tried without writing"))
            }
            Err(fault) => Err(fault),
        }
        .and_then(|open| match self.direct {
            Direct::Always if !open.direct => Err(Fault::new(
                FaultKind::NotThere,
                format!("O_DIRECT was asked for: {}", open.reason),
            )),
            _ => Ok(open),
        })
    }

    fn try_direct(&self, at: &At, path: &Path) -> Result<bool, Fault> {
        let file = self.create(at, path, libc::O_DIRECT)?;
        let pool = BufferPool::new(0);
        let mut page = pool.take(PAGE);
        page.as_mut().fill(0xd1);
        file.write_all_at(page.as_ref(), 0)
            .map_err(|error| fault("write directly", &error))?;
        page.as_mut().fill(0);
        file.read_exact_at(page.as_mut(), 0)
            .map_err(|error| fault("read directly", &error))?;
        Ok(page.as_ref().iter().all(|&byte| byte == 0xd1))
    }

    /// Writes an object: a temporary file, its bytes, its name.
    pub(super) fn put(
        &self,
        open: Open,
        name: &str,
        temporary: &Path,
        object: &Bytes,
        mode: Mode,
    ) -> Result<Written, Fault> {
        let at = self.root.at(object.len() as u64)?;
        if mode == Mode::Create && Self::is_there(&at, name)? {
            return Ok(Written::AlreadyPresent);
        }
        let written = self.put_temporary(&at, open, temporary, object);
        let named = written.and_then(|()| self.rename(&at, temporary, name));
        if let Err(fault) = named {
            let _ = fs::remove_file(at.path(temporary));
            return Err(fault);
        }
        Ok(Written::New)
    }

    fn put_temporary(&self, at: &At, open: Open, temporary: &Path, object: &Bytes) -> Result<(), Fault> {
        let file = self.create(at, temporary, open.flags())?;
        file.write_all_at(object, 0)
            .map_err(|error| fault("write a file", &error))?;
        if self.sync != SyncPolicy::None {
            file.sync_data().map_err(|error| fault("sync a file", &error))?;
        }
        Ok(())
    }

    /// Reads from `start` on into the buffer, until it is full or the file ends.
    pub(super) fn get(
        &self,
        open: Open,
        name: &str,
        start: u64,
        mut buffer: Buffer,
    ) -> Result<Option<Body>, Fault> {
        let at = self.root.at(0)?;
        let file = match open_to_read(&at.path(name), open.flags() | libc::O_NOFOLLOW) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return self.check_root().map(|()| None),
            Err(_) if Self::is_no_file(&at, name) => return Ok(None),
            Err(error) => return Err(fault(&format!("open {name}"), &error)),
        };
        let found = file.metadata().map_err(|error| fault("look at a file", &error))?;
        if !found.is_file() {
            return Ok(None);
        }
        let mut done = 0;
        // Asking again behind the end of a file whose length is odd would not be aligned any more.
        while start + (done as u64) < found.len() && done < buffer.as_ref().len() {
            let rest = buffer.as_mut().get_mut(done..).unwrap_or_default();
            match file.read_at(rest, start + done as u64) {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(fault("read a file", &error)),
            }
        }
        body(buffer, start, done, found.len()).map(Some)
    }

    /// Which of these files are there.
    pub(super) fn exist(&self, names: &[String]) -> Vec<Result<bool, Fault>> {
        let at = match self.root.at(0) {
            Ok(at) => at,
            Err(fault) => return vec![Err(fault); names.len()],
        };
        let mut found: Vec<_> = names.iter().map(|name| Self::is_there(&at, name)).collect();
        let is_any_missing = found.iter().any(|answer| matches!(answer, Ok(false)));
        if is_any_missing && let Err(fault) = self.check_root() {
            for answer in &mut found {
                if matches!(answer, Ok(false)) {
                    *answer = Err(fault.clone());
                }
            }
        }
        found
    }

    /// Removes files.
    pub(super) fn delete(&self, names: &[String]) -> Result<u64, Fault> {
        let at = self.root.at(0)?;
        let mut removed = 0;
        for name in names {
            match fs::remove_file(at.path(name)) {
                Ok(()) => removed += 1,
                // What is no file is no block, and is left alone.
                Err(error) if is_absent(&error) || Self::is_no_file(&at, name) => {}
                Err(error) => return Err(fault(&format!("remove {name}"), &error)),
            }
        }
        if removed == 0 {
            self.check_root()?;
        }
        Ok(removed)
    }

    /// Names and file types in a directory; none if it is not there.
    pub(super) fn entries(&self, directory: &str) -> Result<Vec<(String, fs::FileType)>, Fault> {
        let failed = |error: &io::Error| fault(&format!("list {directory}"), error);
        let at = self.root.at(0)?;
        let entries = match fs::read_dir(at.path(directory)) {
            Ok(entries) => entries,
            Err(error) if is_absent(&error) => return self.check_root().map(|()| Vec::new()),
            Err(error) => return Err(failed(&error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| failed(&error))?;
            // It may be gone since.
            if let (Ok(kind), Ok(name)) = (entry.file_type(), entry.file_name().into_string()) {
                found.push((name, kind));
            }
        }
        found.sort_unstable_by(|one, other| one.0.cmp(&other.0));
        Ok(found)
    }

    /// Files in a directory.
    pub(super) fn list(&self, directory: &str, after: Option<&str>, most: usize) -> Result<Vec<Meta>, Fault> {
        let entries = self.entries(directory)?;
        let at = self.root.at(0)?;
        let wanted = entries
            .into_iter()
            .filter(|(name, kind)| kind.is_file() && after.is_none_or(|after| name.as_str() > after));
        let mut found = Vec::new();
        for (name, _) in wanted {
            if found.len() >= most {
                break;
            }
            match fs::symlink_metadata(at.path(directory).join(&name)) {
                Ok(meta) => found.push(Meta {
                    name,
                    bytes: meta.len(),
                    modified: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(fault("look at a file", &error)),
            }
        }
        Ok(found)
    }

    /// Directories in a directory.
    pub(super) fn directories(&self, directory: &str) -> Result<Vec<String>, Fault> {
        let entries = self.entries(directory)?;
        let directories = entries.into_iter().filter(|(_, kind)| kind.is_dir());
        Ok(directories.map(|(name, _)| name).collect())
    }

    /// Whether the mount answers.
    pub(super) fn probe_read(&self) -> Result<(), Fault> {
        let at = self.root.look(0)?;
        match fs::read_dir(at.path(ROOT)).map(|mut entries| entries.next()) {
            Ok(None | Some(Ok(_))) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) | Ok(Some(Err(error))) => Err(fault(
                &format!("list {ROOT} below {}", self.root.path().display()),
                &error,
            )),
        }
    }

    /// Whether the mount takes bytes: as many as it did not take last. The first who writes says which store it is.
    pub(super) fn probe_write(&self, name: &str, identity: StoreId) -> Result<(), Fault> {
        let refused = self.refused.load(Ordering::Relaxed).max(PAGE as u64);
        let at = self.root.look(refused)?;
        if self.root.wants_identity() {
            small::link_new(self, &at, IDENTITY_NAME, name, &identity.encode())?;
            self.root.learn_identity(&at)?;
        } else if self.root.has_lost_identity() {
            self.keep_identity(name)?;
        }
        let path = Path::new(TEMPORARY).join(name);
        let file = self.create(&at, &path, 0)?;
        let written = write_probe(&file, refused);
        let _ = fs::remove_file(at.path(&path));
        written.map_err(|error| fault("write a probe", &error))?;
        self.refused.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Writes the store's identity again, under the name that has lost it. The directory is held open and is the one that had it, so it
    /// is the same store; whoever has written another one meanwhile was first, and that one counts.
    pub(super) fn keep_identity(&self, unique: &str) -> Result<(), Fault> {
        let at = self.root.at(0)?;
        let Some(identity) = self.root.lost_identity() else {
            return Ok(());
        };
        small::link_new(self, &at, IDENTITY_NAME, unique, &identity.encode())?;
        self.root.learn_identity(&at)?;
        tracing::warn!(
            root = %self.root.path().display(),
            "{IDENTITY_NAME}, which says which store it is, was gone and has been written again"
        );
        Ok(())
    }

    /// What time it is there.
    pub(super) fn now(&self, name: &str) -> Result<SystemTime, Fault> {
        let at = self.root.at(0)?;
        let path = Path::new(TEMPORARY).join(name);
        let file = self.create(&at, &path, 0)?;
        let written = match file.write_all_at(&[0xd1; PAGE], 0) {
            // A file that has just been made tells the time as well: whoever makes room must not need any.
            Err(error) if fault("", &error).kind == FaultKind::NoSpace => Ok(()),
            other => other,
        };
        let time = written.and_then(|()| file.metadata()?.modified());
        let _ = fs::remove_file(at.path(&path));
        time.map_err(|error| fault("ask what time it is", &error))
    }
}

fn write_probe(file: &File, bytes: u64) -> io::Result<()> {
    let piece = vec![0xd1; usize::try_from(bytes.min(1 << 20)).unwrap_or(PAGE)];
    let mut done = 0;
    while done < bytes {
        let rest = usize::try_from(bytes - done).unwrap_or(usize::MAX);
        let some = piece.get(..rest).unwrap_or(&piece);
        file.write_all_at(some, done)?;
        done += some.len() as u64;
    }
    file.sync_data()
}

/// What was read of a file, from `start` on.
pub(super) fn body(mut buffer: Buffer, start: u64, done: usize, object_bytes: u64) -> Result<Body, Fault> {
    let promised = object_bytes
        .saturating_sub(start)
        .min(buffer.as_ref().len() as u64);
    if (done as u64) < promised {
        let text = format!("read a file: {done} of {promised} bytes came");
        return Err(Fault::new(FaultKind::Truncated, text));
    }
    buffer.truncate(done);
    Ok(Body {
        pieces: vec![Bytes::from_owner(buffer)],
        object_bytes,
    })
}
