//! Where the daemon's socket is if nobody says: one rule for the daemon and for its clients.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

const SYSTEM_SOCKET: &str = "/run/kvtier/kvtier.sock";

/// Where a daemon of this process's user listens: `$KVTIER_SOCKET`, else `/run/kvtier/kvtier.sock` for root, else
/// `$XDG_RUNTIME_DIR/kvtier/kvtier.sock`, else `/tmp/kvtier-<uid>/kvtier.sock`.
pub fn default_socket_path() -> PathBuf {
    let candidates = candidates(
        variable("KVTIER_SOCKET"),
        variable("XDG_RUNTIME_DIR"),
        geteuid().as_raw(),
    );
    candidates
        .into_iter()
        .next()
        .unwrap_or_else(|| PathBuf::from(SYSTEM_SOCKET))
}

/// Where a client finds the daemon: `$KVTIER_SOCKET` without looking, else the first of the daemon's places at which there is something that
/// this user or root made, else the system's place if there is anything, else the daemon's default place.
pub fn existing_socket_path() -> PathBuf {
    let explicit = variable("KVTIER_SOCKET");
    let uid = geteuid().as_raw();
    if explicit.is_none() {
        let places = candidates(None, variable("XDG_RUNTIME_DIR"), uid);
        if let Some(found) = places.into_iter().find(|path| made_by(path, uid)) {
            return found;
        }
        if is_there(Path::new(SYSTEM_SOCKET)) {
            return PathBuf::from(SYSTEM_SOCKET);
        }
    }
    default_socket_path()
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// All places, the daemon's own first.
fn candidates(explicit: Option<OsString>, runtime: Option<OsString>, uid: u32) -> Vec<PathBuf> {
    if let Some(path) = explicit {
        return vec![PathBuf::from(path)];
    }
    let mut paths = Vec::new();
    if uid == 0 {
        paths.push(PathBuf::from(SYSTEM_SOCKET));
    }
    paths.extend(runtime.map(|directory| Path::new(&directory).join("kvtier/kvtier.sock")));
    paths.push(PathBuf::from(format!("/tmp/kvtier-{uid}/kvtier.sock")));
    if uid != 0 {
        paths.push(PathBuf::from(SYSTEM_SOCKET));
    }
    paths
}

/// Anybody may make a directory in `/tmp`, so a socket counts only if it belongs to the user or to root.
fn made_by(path: &Path, uid: u32) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.uid() == uid || metadata.uid() == 0)
}

/// Only root gives places in `/run` away, so whoever has it may have it: a service's own user, say. What this user may not see is there, too:
/// then that is what has to be told.
fn is_there(path: &Path) -> bool {
    path.metadata()
        .map_or_else(|error| error.kind() != std::io::ErrorKind::NotFound, |_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_seen_is_there() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_there(&directory.path().join("s")));
        assert!(is_there(directory.path()));
        // A name that is too long is an error of another kind.
        assert!(is_there(&directory.path().join("x".repeat(300))));
    }

    #[test]
    fn the_first_place_that_applies_is_taken() {
        let cases: [(Option<&str>, Option<&str>, u32, &str); 4] = [
            (Some("/x/s"), Some("/run/user/7"), 7, "/x/s"),
            (None, Some("/run/user/7"), 7, "/run/user/7/kvtier/kvtier.sock"),
            (None, None, 7, "/tmp/kvtier-7/kvtier.sock"),
            (None, Some("/run/user/0"), 0, SYSTEM_SOCKET),
        ];
        for (explicit, runtime, uid, expected) in cases {
            let paths = candidates(explicit.map(OsString::from), runtime.map(OsString::from), uid);
            assert_eq!(paths[0], Path::new(expected));
        }
    }

    #[test]
    fn what_a_stranger_put_there_is_not_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        assert!(!made_by(&path, geteuid().as_raw()));
        std::fs::write(&path, "").unwrap();
        assert!(made_by(&path, geteuid().as_raw()));
    }
}
