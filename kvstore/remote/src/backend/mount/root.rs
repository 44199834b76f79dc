//! Which directory is written to: the one that was opened, never what shows under its name when a mount is gone.
//!
//! ```text
//!            look: open the name, compare           look: another place, and it may not be
//!   (none) ─────────────────────────────▶ held ────────────────────────────────────────────▶ (none)
//!      ▲                                   │ ▲ look: the same, or another that is ours
//!      └────── nothing under the name ─────┘ └──────────────────────────────────────────
//! ```
//!
//! - The directory is held open, and every name is looked up from it. So a file system that is unmounted stays the one that
//!   is written to until a look finds out, and the directory below it is never written to.
//! - A look opens the name again and compares. It is made by a call that is due anyway, every few seconds: an idle tier looks
//!   at nothing.
//! - Another place than before has to have the store's identity (`v1/store`), which the first writer leaves there. Without it
//!   nothing is written or read: what is there is not what was there.

mod identity;

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatVfs, Statx, StatxAttributes, StatxFlags};
use rustix::io::Errno;

pub(super) use self::identity::IDENTITY_NAME;
use self::identity::read_identity;
use super::claim::{Allowed, Claims};
use super::fault;
use crate::backend::Fault;
use crate::format::StoreId;
use crate::{FaultKind, MountCheck, MountSpec, Reserve, Room};

/// How often it is looked whether the directory is still the one that was opened, and how much room there is.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The directory, and what is known of it.
#[derive(Debug)]
pub(crate) struct Root {
    path: PathBuf,
    /// Below it; may be empty.
    prefix: PathBuf,
    check: MountCheck,
    state: Mutex<State>,
    claims: Arc<Claims>,
}

#[derive(Debug)]
struct State {
    /// The directory that is held open.
    at: Option<Arc<At>>,
    /// Where it was last, whether it is held or not.
    last: Option<Place>,
    /// Which store it is.
    identity: Option<StoreId>,
    /// Whether the object that says so is gone.
    is_identity_lost: bool,
    looked: Option<Instant>,
    reserve: Reserve,
    room: Option<Room>,
    /// How much may be written before the room is looked at again.
    headroom: u64,
}

impl State {
    fn new(reserve: Reserve) -> Self {
        Self {
            at: None,
            last: None,
            identity: None,
            is_identity_lost: false,
            looked: None,
            reserve,
            room: None,
            headroom: 0,
        }
    }
}

/// A directory that is held open. Names are good for as long as this lives.
#[derive(Debug)]
pub(super) struct At {
    /// The directory itself.
    root: PathBuf,
    /// How it is called, for people: the directory itself may be known by its descriptor only.
    called: PathBuf,
    /// Below it, where the names begin.
    prefix: PathBuf,
    /// Both together.
    base: PathBuf,
    place: Place,
    descriptor: Option<OwnedFd>,
}

/// What tells one directory from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    mount: u64,
    device: (u32, u32),
    inode: u64,
    /// Whether something is mounted at the directory itself.
    is_mount: bool,
}

impl Place {
    fn is_on_the_mount_of(&self, other: &Self) -> bool {
        (self.mount, self.device) == (other.mount, other.device)
    }
}

impl At {
    /// Where a name leads.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.base.join(name)
    }

    /// What kind of file has a name, if there is one. Looked up from the descriptor itself: thousands of names may be asked for
    /// at a time, and the way through `/proc` would make each half as long again.
    pub(super) fn kind(&self, name: &str) -> Result<Option<FileType>, Errno> {
        let found = match &self.descriptor {
            Some(descriptor) => {
                let name = self.prefix.join(name);
                rustix::fs::statat(descriptor, name, AtFlags::SYMLINK_NOFOLLOW)
            }
            None => rustix::fs::lstat(self.path(name)),
        };
        match found {
            Ok(found) => Ok(Some(FileType::from_raw_mode(found.st_mode))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where the names begin, as people know it.
    fn place_name(&self) -> String {
        self.called.join(&self.prefix).display().to_string()
    }

    /// The directory that is held.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }
}

impl Root {
    pub(super) fn new(spec: &MountSpec) -> Self {
        Self {
            path: spec.root.clone(),
            prefix: PathBuf::from(&spec.prefix),
            check: spec.check,
            state: Mutex::new(State::new(spec.reserve)),
            claims: Arc::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// From now on so much stays free.
    pub(super) fn set_reserve(&self, reserve: Reserve) {
        let mut state = self.lock();
        state.reserve = reserve;
        // The next who writes looks.
        state.headroom = 0;
    }

    pub(super) fn room(&self) -> Option<Room> {
        self.lock().room
    }

    /// The directory for a call that writes so many bytes, or none; `None`: [`look`](Self::look) first, which may block.
    pub(super) fn held(&self, bytes: u64) -> Option<Allowed> {
        let mut state = self.lock();
        let is_due = state.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
        if is_due || state.headroom < bytes {
            // One call looks. Others go on meanwhile: with the directory that is held nothing can go wrong.
            state.looked = Some(Instant::now());
            return None;
        }
        let at = state.at.clone()?;
        state.headroom -= bytes;
        Some(Allowed::new(at, &self.claims, bytes))
    }

    /// The same by a call that may block.
    pub(super) fn at(&self, bytes: u64) -> Result<Allowed, Fault> {
        match self.held(bytes) {
            Some(at) => Ok(at),
            None => self.look(bytes),
        }
    }

    /// Looks whether the directory is the one that was opened, and for writers whether there is room for so many bytes. What
    /// comes back is to be used, and what was held before is not any more.
    pub(super) fn look(&self, bytes: u64) -> Result<Allowed, Fault> {
        let at = self.look_at_place().inspect_err(|fault| {
            if fault.kind == FaultKind::NotThere {
                self.lock().at = None;
            }
        })?;
        self.lock().looked = Some(Instant::now());
        if bytes > 0 {
            self.look_at_identity(&at);
            return self.look_at_room(at, bytes);
        }
        Ok(Allowed::new(at, &self.claims, 0))
    }

    fn look_at_place(&self) -> Result<Arc<At>, Fault> {
        let found = self.open()?;
        let (held, last, identity) = {
            let state = self.lock();
            (state.at.clone(), state.last, state.identity)
        };
        if let Some(held) = held.filter(|held| held.place == found.place) {
            return Ok(held);
        }
        let identity = if self.check == MountCheck::Off {
            None
        } else {
            self.judge(&found, last, identity)?
        };
        let at = Arc::new(found);
        let mut state = self.lock();
        state.at = Some(at.clone());
        state.last = Some(at.place);
        state.identity = identity;
        state.is_identity_lost = false;
        Ok(at)
    }

    /// Opens whatever is under the name now.
    fn open(&self) -> Result<At, Fault> {
        let what = format!("look at the root {}", self.path.display());
        let failed = |error: Errno| fault(&what, &error.into());
        // The dot has a file system mounted that is mounted when it is used.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(self.path.join("."), flags, Mode::empty()).map_err(failed)?;
        let place = place_of(&descriptor).map_err(failed)?;
        if self.check == MountCheck::Off {
            return Ok(At {
                root: self.path.clone(),
                called: self.path.clone(),
                prefix: self.prefix.clone(),
                base: self.path.join(&self.prefix),
                place,
                descriptor: None,
            });
        }
        let mut root = PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
        if fs::metadata(&root).is_err() {
            // Without /proc nothing but its name leads to it, and a look that is made now and then is all there is.
            root.clone_from(&self.path);
        }
        Ok(At {
            called: self.path.clone(),
            prefix: self.prefix.clone(),
            base: root.join(&self.prefix),
            root,
            place,
            descriptor: Some(descriptor),
        })
    }

    /// Whether a place that was not held is to be used, and which store it is.
    fn judge(
        &self,
        found: &At,
        last: Option<Place>,
        identity: Option<StoreId>,
    ) -> Result<Option<StoreId>, Fault> {
        let root = self.path.display();
        let refused = |text: String| Err(Fault::new(FaultKind::NotThere, text));
        if self.check == MountCheck::Required && !found.place.is_mount {
            return refused(format!("nothing is mounted at the root {root}"));
        }
        let there = read_identity(found)?;
        let Some(last) = last else {
            if let Some(text) = self.missing_mount(&found.place) {
                return Err(Fault::new(FaultKind::NotThere, text));
            }
            return Ok(there);
        };
        if last.is_mount && !found.place.is_mount {
            return refused(format!(
                "what was mounted at the root is not there any more: {root}"
            ));
        }
        // What is mounted over a plain directory is what was meant all along; and a directory that was made anew where the old
        // one was is no directory below a mount.
        let is_mounted_late = found.place.is_mount && !last.is_mount;
        if is_mounted_late || found.place.is_on_the_mount_of(&last) || identity.is_none() {
            return Ok(there);
        }
        if there == identity {
            return Ok(there);
        }
        refused(format!(
            "another file system than before is at the root {root} and is not this store; if it is to be used, start the daemon again"
        ))
    }

    /// Why this can only be the directory below a mount, as far as this machine's table of file systems tells.
    fn missing_mount(&self, place: &Place) -> Option<String> {
        let mounted = mount_point_of(place.mount)?;
        tracing::info!(
            root = %self.path.display(),
            mount = %mounted.display(),
            is_mount = place.is_mount,
            "the file system of the remote tier"
        );
        let table = fs::read_to_string("/etc/fstab").unwrap_or_default();
        let missing = missing_in(&table, &self.path, &mounted)?;
        Some(format!(
            "/etc/fstab has a file system for {}, which is not mounted",
            missing.display()
        ))
    }

    fn look_at_room(&self, at: Arc<At>, bytes: u64) -> Result<Allowed, Fault> {
        // The file system knows what ended before it was asked. All else it may not have seen yet.
        let ended = self.claims.ended();
        let found = match &at.descriptor {
            Some(descriptor) => rustix::fs::fstatvfs(descriptor),
            None => rustix::fs::statvfs(at.root()),
        };
        let found = found.map_err(|error| {
            fault(
                &format!("look at the room of {}", self.path.display()),
                &error.into(),
            )
        })?;
        let mut state = self.lock();
        let room = room_of(&found, state.reserve);
        state.room = room;
        let Some(room) = room else {
            // It tells of no room at all, as some file systems in user space do.
            state.headroom = u64::MAX;
            return Ok(Allowed::new(at, &self.claims, bytes));
        };
        let kept = room.reserve_bytes.saturating_add(self.claims.under_way(ended));
        let left = room.free_bytes.saturating_sub(kept);
        if let Some(headroom) = left.checked_sub(bytes) {
            // Under the lock: who looks at the same time counts it.
            state.headroom = headroom;
            return Ok(Allowed::new(at, &self.claims, bytes));
        }
        state.headroom = left;
        let (free, reserve) = (room.free_bytes >> 20, room.reserve_bytes >> 20);
        let text = format!("{free} MiB are free, and {reserve} MiB are to stay free");
        Err(Fault::new(FaultKind::NoSpace, text))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is whole before the lock is given up.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place_of(descriptor: &OwnedFd) -> Result<Place, Errno> {
    let wanted = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID;
    let found: Statx = rustix::fs::statx(descriptor, c"", AtFlags::EMPTY_PATH, wanted)?;
    let is_mount = if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
    } else {
        // Kernels before 5.8: a mount of the same file system cannot be told.
        let parent = rustix::fs::statx(descriptor, c"..", AtFlags::empty(), wanted)?;
        (parent.stx_dev_major, parent.stx_dev_minor) != (found.stx_dev_major, found.stx_dev_minor)
    };
    Ok(Place {
        mount: found.stx_mnt_id,
        device: (found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        is_mount,
    })
}

fn room_of(found: &StatVfs, reserve: Reserve) -> Option<Room> {
    let bytes = found.f_blocks.saturating_mul(found.f_frsize);
    (bytes > 0).then(|| Room {
        bytes,
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        reserve_bytes: reserve.bytes_of(bytes),
    })
}

/// Where the mount of this number is mounted.
fn mount_point_of(mount: u64) -> Option<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    table.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let is_it = fields.next()?.parse() == Ok(mount);
        is_it.then(|| fields.nth(3).map(unescaped))?
    })
}

/// What the table mounts at a directory or above it and that is not there, if the directory lies on what is mounted at `mounted`.
fn missing_in(table: &str, directory: &Path, mounted: &Path) -> Option<PathBuf> {
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        let source = fields.next()?;
        let point = fields.next().map(unescaped)?;
        let is_around = point.is_absolute() && point != Path::new("/") && directory.starts_with(&point);
        (!source.starts_with('#') && is_around && !mounted.starts_with(&point)).then_some(point)
    })
}

/// Spaces and the like are written as `\040` in tables of file systems.
fn unescaped(field: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let digits = (first == b'\\')
            .then(|| after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok()))
            .flatten();
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_file_systems_tells_what_should_be_mounted() {
        let table = "# a remark /mnt/a\nserver:/export /mnt/a nfs4 noauto 0 0\nUUID=1 / ext4 defaults 0 1\n\
                     none swap swap sw 0 0\ntmpfs /with\\040space tmpfs defaults 0 0\n";
        let missing =
            |directory: &str, mounted: &str| missing_in(table, Path::new(directory), Path::new(mounted));
        assert_eq!(missing("/mnt/a", "/"), Some("/mnt/a".into()));
        assert_eq!(missing("/mnt/a/deep", "/mnt"), Some("/mnt/a".into()));
        assert_eq!(missing("/mnt/a/deep", "/mnt/a"), None);
        assert_eq!(missing("/mnt/ab", "/"), None);
        assert_eq!(missing("/with space/x", "/"), Some("/with space".into()));
        assert_eq!(missing("/anywhere", "/"), None);
    }

    #[test]
    fn a_reserve_is_bytes_or_a_part_of_all() {
        assert_eq!(Reserve::Bytes(7).bytes_of(100), 7);
        assert_eq!(Reserve::Permille(15).bytes_of(1 << 40), ((1 << 40) / 1000) * 15);
    }
}
