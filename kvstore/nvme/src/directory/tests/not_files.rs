//! Pipes, links and the like under names of ours: nothing is waited for, and nothing outside is written.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, fcntl_getfl, mknodat};

use super::*;

fn pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[test]
fn a_lock_that_is_no_file_is_refused_and_left_as_it_is() {
    type Make = fn(&Path, &Path);
    let kinds: [Make; 4] = [
        |lock, _| pipe(lock),
        |lock, other| symlink(other, lock).unwrap(),
        |lock, _| fs::create_dir(lock).unwrap(),
        |lock, _| drop(UnixListener::bind(lock).unwrap()),
    ];
    for make in kinds {
        let place = with_segments(&[0]);
        let elsewhere = tempfile::tempdir().unwrap();
        let other = elsewhere.path().join("other");
        fs::write(&other, "somebody's").unwrap();
        let lock = place.path().join(names::LOCK);
        fs::remove_file(&lock).unwrap();
        make(&lock, &other);
        let kind = lock.symlink_metadata().unwrap().file_type();
        // Whoever waits for a predecessor does not wait for a pipe's other end.
        await_free(place.path()).unwrap();
        let expected = format!("{} is not a regular file; remove it", lock.display());
        assert_eq!(refused(spec(place.path())), expected, "{kind:?}");
        let error = Directory::inspect(place.path()).unwrap_err().to_string();
        assert_eq!(error, expected, "{kind:?}");
        assert_eq!(lock.symlink_metadata().unwrap().file_type(), kind);
        assert_eq!(fs::read_to_string(&other).unwrap(), "somebody's", "{kind:?}");
    }
}

#[test]
fn a_segment_that_is_a_pipe_is_named_and_costs_no_other() {
    let place = with_segments(&[0]);
    pipe(&place.path().join("segment-00000001.kvt"));
    let never = DirectorySpec {
        direct: Direct::Never,
        ..spec(place.path())
    };
    let looked_at = Directory::inspect(place.path()).unwrap();
    let check = |(directory, inventory): &(Directory, Inventory)| {
        assert_eq!(inventory.segments, [0]);
        let [(1, why)] = inventory.unusable.as_slice() else {
            panic!("{:?}", inventory.unusable);
        };
        assert!(why.contains("segment-00000001.kvt"), "{why}");
        // What was given to open it is not given to those who read and write it.
        let flags = fcntl_getfl(directory.segment(0).unwrap()).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK), "{flags:?}");
    };
    check(&looked_at);
    drop(looked_at);
    let opened = Directory::open_at(never).unwrap();
    check(&opened);
    let why = &opened.1.unusable[0].1;
    assert!(why.contains("it is not a regular file"), "{why}");
}
