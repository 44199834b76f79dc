//! One daemon per socket: a lock beside it decides, so a dead daemon's socket can be told from a living one's.
//!
//! ```text
//! kvtier.sock.lock   flock held for the daemon's life; never removed, so that two starters lock the same file
//! kvtier.sock.announced   only touched by who has the lock (`events.rs`)
//! kvtier.sock        removed by an orderly end, taken over after any other
//! ```

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use tracing::{info, warn};

/// How long a daemon that has the lock is given to end.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How often the lock is tried meanwhile.
const RETRY: Duration = Duration::from_millis(20);

const DIRECTORY_MODE: u32 = 0o750;
const SOCKET_MODE: u32 = 0o660;

/// Why this daemon cannot serve the socket.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    /// Another one does.
    #[error("another kvtierd{holder} serves {}; stop it, or set socket to another path", socket.display())]
    Taken {
        /// The socket.
        socket: PathBuf,
        /// " (pid N)" if it is known.
        holder: String,
    },
    /// Something that is no socket lies there, and it is not ours to remove.
    #[error("{} exists and is not a socket; remove it, or set socket to another path", .0.display())]
    NotASocket(PathBuf),
    /// A socket lies there of which nobody can say that it is dead.
    #[error("{} may be alive: connecting to it failed otherwise than by a refusal; remove it, or set socket to another \
             path", path.display())]
    Unclear {
        /// The socket.
        path: PathBuf,
        /// What connecting to it brought.
        source: io::Error,
    },
    /// The directory is in other hands.
    #[error(
        "directory {} belongs to uid {actual}, want uid {expected} or root; set socket to another path",
        directory.display()
    )]
    ForeignDirectory {
        /// The directory.
        directory: PathBuf,
        /// Its owner.
        actual: u32,
        /// The daemon's user.
        expected: u32,
    },
    /// The system refused.
    #[error("could not {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// The right to serve one socket, for as long as it lives.
#[derive(Debug)]
pub struct Instance {
    socket: PathBuf,
    group: Option<u32>,
    /// Device and inode of the socket that was bound.
    bound: Option<(u64, u64)>,
    _lock: File,
}

impl Instance {
    /// Takes the lock beside the socket. Touches the socket itself only in [`bind`](Self::bind). Who has the lock is given `patience` to
    /// end: a predecessor that was killed holds it until its memory has been taken apart.
    pub fn acquire(socket: &Path, group: Option<u32>, patience: Duration) -> Result<Self, InstanceError> {
        if let Some(directory) = socket.parent() {
            make_directory(directory, group)?;
        }
        let path = lock_path(socket);
        let io = |what| io_error(what, &path);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0))
            .open(&path)
            .map_err(io("open"))?;
        wait_for_lock(socket, &mut lock, patience)?;
        // The pid is for people who read the message above; nothing is decided by it.
        lock.set_len(0).map_err(io("write"))?;
        lock.rewind().map_err(io("write"))?;
        writeln!(lock, "{}", std::process::id()).map_err(io("write"))?;
        Ok(Self {
            socket: socket.to_owned(),
            group,
            bound: None,
            _lock: lock,
        })
    }

    /// Whether the socket's path can be bound, without touching what is there. Says whether a dead daemon's socket is
    /// there: the lock is ours, so one that nobody listens on belonged to a dead one.
    pub fn inspect(&self) -> Result<bool, InstanceError> {
        let socket = &self.socket;
        let io = |what| io_error(what, socket);
        match socket.symlink_metadata() {
            Ok(metadata) if metadata.file_type().is_socket() => {}
            Ok(_) => return Err(InstanceError::NotASocket(socket.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(io("look at")(error)),
        }
        // The lock says that nobody listens; but somebody may have removed the lock's file under a daemon, and the
        // socket may be somebody else's.
        match is_listening(socket) {
            Ok(false) => Ok(true),
            Ok(true) => Err(InstanceError::Taken {
                socket: socket.clone(),
                holder: String::new(),
            }),
            Err(source) => Err(InstanceError::Unclear {
                path: socket.clone(),
                source,
            }),
        }
    }

    /// Binds the socket in the place of a dead daemon's. Says whether there was one.
    pub fn bind(&mut self) -> Result<(UnixListener, bool), InstanceError> {
        let stale = self.inspect()?;
        let socket = self.socket.clone();
        let io = |what| io_error(what, &socket);
        if stale {
            std::fs::remove_file(&socket).map_err(io("remove the dead socket"))?;
        }
        let listener = UnixListener::bind(&socket).map_err(io("bind"))?;
        self.bound = Some(identity(&socket).map_err(io("look at"))?);
        std::fs::set_permissions(&socket, Permissions::from_mode(SOCKET_MODE))
            .map_err(io("set the mode of"))?;
        if let Some(gid) = self.group {
            std::os::unix::fs::chown(&socket, None, Some(gid)).map_err(io("set the group of"))?;
        }
        listener.set_nonblocking(true).map_err(io("listen on"))?;
        Ok((listener, stale))
    }

    /// Removes the socket, so that clients see at once that nobody is there. One that another daemon has bound since
    /// is left to it.
    pub fn unbind(&mut self) {
        let bound = self.bound.take();
        if bound.is_some() && identity(&self.socket).ok() == bound {
            // If somebody else removed it there is nothing left to do.
            let _ = std::fs::remove_file(&self.socket);
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.unbind();
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstanceError + use<> {
    let path = path.to_owned();
    move |source| InstanceError::Io { what, path, source }
}

/// Who has the lock beside a socket: a daemon that serves it, will, or has. None: nobody, or it may not be looked at.
pub(crate) fn holder_beside(socket: &Path) -> Option<String> {
    let mut lock = OpenOptions::new()
        .read(true)
        .custom_flags(i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0))
        .open(lock_path(socket))
        .ok()?;
    // Shared, and given back at once: a daemon that starts at this moment tries again.
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => Some(holder(&mut lock)),
        _ => None,
    }
}

/// What tells a file from another of the same name.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = path.symlink_metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

fn lock_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    PathBuf::from(path)
}

/// Makes the socket's directory if it is missing. One that is there is left as it is, but must not be a stranger's.
fn make_directory(directory: &Path, group: Option<u32>) -> Result<(), InstanceError> {
    let io = |what| io_error(what, directory);
    match directory.metadata() {
        Ok(metadata) => {
            let expected = rustix::process::geteuid().as_raw();
            let actual = metadata.uid();
            if actual != expected && actual != 0 {
                let directory = directory.to_owned();
                return Err(InstanceError::ForeignDirectory {
                    directory,
                    actual,
                    expected,
                });
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(DIRECTORY_MODE)
                .create(directory)
                .map_err(io("make the directory"))?;
            // The process's umask may have taken bits away that the group needs.
            std::fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))
                .map_err(io("set the mode of"))?;
            match group {
                Some(gid) => {
                    std::os::unix::fs::chown(directory, None, Some(gid)).map_err(io("set the group of"))
                }
                None => Ok(()),
            }
        }
        Err(error) => Err(io("look at")(error)),
    }
}

/// Whether a socket has a listener. Never blocks.
fn is_listening(socket: &Path) -> io::Result<bool> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match connect(&probe, &SocketAddrUnix::new(socket)?) {
        // A full queue is a listener's, too.
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        // Any other answer may come from something that lives, such as a datagram socket.
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Locks, or says who has it after `patience`.
fn wait_for_lock(socket: &Path, lock: &mut File, patience: Duration) -> Result<(), InstanceError> {
    let begun = Instant::now();
    let mut is_told = false;
    loop {
        match flock(&*lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if is_told => {
                info!(waited = ?begun.elapsed(), "the other kvtierd has ended");
                return Ok(());
            }
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK | Errno::INTR) if begun.elapsed() < patience => {
                if !is_told {
                    is_told = true;
                    warn!(
                        socket = %socket.display(), ?patience,
                        "another kvtierd{} has the socket: waiting for it to end, in case it was killed", holder(lock)
                    );
                }
                std::thread::sleep(RETRY);
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                return Err(InstanceError::Taken {
                    socket: socket.to_owned(),
                    holder: holder(lock),
                });
            }
            Err(error) => return Err(io_error("lock", &lock_path(socket))(error.into())),
        }
    }
}

fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    // Without the pid the message is still right.
    let _ = lock
        .rewind()
        .and_then(|()| lock.take(32).read_to_string(&mut text));
    match text.trim().parse::<u32>() {
        Ok(pid) => format!(" (pid {pid})"),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("made/kvtier.sock");
        (directory, socket)
    }

    #[test]
    fn the_directory_and_the_socket_are_closed_to_strangers() {
        let (_directory, path) = socket();
        let mut instance = Instance::acquire(&path, None, Duration::ZERO).unwrap();
        let (_listener, stale) = instance.bind().unwrap();
        assert!(!stale);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o750, 0o660));
        drop(instance);
        assert!(!path.exists());
    }

    #[test]
    fn a_second_instance_is_refused_and_told_by_whom() {
        let (_directory, path) = socket();
        let first = Instance::acquire(&path, None, Duration::ZERO).unwrap();
        let error = Instance::acquire(&path, None, Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("another kvtierd (pid {}) serves", std::process::id())),
            "{error}"
        );
        drop(first);
        assert!(Instance::acquire(&path, None, Duration::ZERO).is_ok());
    }

    /// A restart right after a kill used to fail with 73, because the dying process still had the lock.
    #[test]
    fn who_is_about_to_end_is_waited_for() {
        let (_directory, path) = socket();
        let first = Instance::acquire(&path, None, Duration::ZERO).unwrap();
        let waiting = {
            let path = path.clone();
            std::thread::spawn(move || Instance::acquire(&path, None, Duration::from_mins(1)).map(drop))
        };
        std::thread::sleep(Duration::from_millis(50));
        drop(first);
        waiting.join().unwrap().unwrap();
    }

    #[test]
    fn a_dead_daemons_socket_is_taken_over() {
        let (_directory, path) = socket();
        let mut instance = Instance::acquire(&path, None, Duration::ZERO).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        assert!(instance.bind().unwrap().1);
    }

    #[test]
    fn a_living_daemons_socket_is_left_alone_even_without_its_lock() {
        let (_directory, path) = socket();
        let mut first = Instance::acquire(&path, None, Duration::ZERO).unwrap();
        let _listener = first.bind().unwrap();
        std::fs::remove_file(lock_path(&path)).unwrap();
        let mut second = Instance::acquire(&path, None, Duration::ZERO).unwrap();
        assert!(matches!(second.bind(), Err(InstanceError::Taken { .. })));
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let (_directory, path) = socket();
        let mut instance = Instance::acquire(&path, None, Duration::ZERO).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(instance.bind(), Err(InstanceError::NotASocket(_))));
        drop(instance);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    /// Only a refused connection proves a socket dead: a datagram socket was once removed under its owner.
    #[test]
    fn a_living_socket_of_another_kind_is_left_alone() {
        let (_directory, path) = socket();
        let mut instance = Instance::acquire(&path, None, Duration::ZERO).unwrap();
        let other = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let before = identity(&path).unwrap();
        assert!(matches!(instance.inspect(), Err(InstanceError::Unclear { .. })));
        assert!(matches!(instance.bind(), Err(InstanceError::Unclear { .. })));
        drop(instance);
        assert_eq!(identity(&path).unwrap(), before);
        // Once its owner is gone nobody misses it.
        drop(other);
        assert!(
            Instance::acquire(&path, None, Duration::ZERO)
                .and_then(|next| next.inspect())
                .unwrap()
        );
    }

    #[test]
    fn what_cannot_be_bound_is_known_before_it_is_tried() {
        let (_directory, path) = socket();
        let instance = Instance::acquire(&path, None, Duration::ZERO).unwrap();
        assert!(!instance.inspect().unwrap());
        std::os::unix::fs::symlink("/nowhere", &path).unwrap();
        assert!(matches!(instance.inspect(), Err(InstanceError::NotASocket(_))));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(instance.inspect(), Err(InstanceError::NotASocket(_))));
        std::fs::remove_dir(&path).unwrap();
        let _living = UnixListener::bind(&path).unwrap();
        assert!(matches!(instance.inspect(), Err(InstanceError::Taken { .. })));
    }

    /// The socket used to be removed by its name, whoever had bound it since.
    #[test]
    fn a_successors_socket_is_left_to_it() {
        let (_directory, path) = socket();
        let mut first = Instance::acquire(&path, None, Duration::ZERO).unwrap();
        let _first_listener = first.bind().unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second_listener = UnixListener::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }
}
