//! A disk is filled by nobody's surprise: segments leave a part of it to others.
//!
//! A capacity larger than the disk used to take every block of it, and with a daemon of root's those too that the file
//! system keeps for root.

use std::path::PathBuf;
use std::process::Command;

use kvstore_types::IoOutcome;
use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::*;

const LARGE: u64 = 4 << 20;

/// An ext4 file system of 64 MiB of its own, a twentieth of it for root; none where that cannot be had.
struct Disk {
    place: TempDir,
}

impl Disk {
    fn new() -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let image = place.path().join("image");
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let disk = Self { place };
        fs::create_dir(disk.path()).unwrap();
        let ran = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let made = ran(Command::new("mkfs.ext4").arg("-q").arg(&image))
            && ran(Command::new("mount")
                .args(["-o", "loop"])
                .arg(&image)
                .arg(disk.path()));
        if !made {
            eprintln!("SKIPPED: only root can mount the file system that this test needs");
        }
        made.then_some(disk)
    }

    fn path(&self) -> PathBuf {
        self.place.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

#[test]
fn segments_leave_a_hundredth_of_the_disk_and_what_is_for_root() {
    let Some(disk) = Disk::new() else { return };
    let path = disk.path().join("default");
    let (mut directory, _) = Directory::open_at(DirectorySpec {
        segment_bytes: LARGE,
        segments_max: 100,
        ..spec(&path)
    })
    .unwrap();
    let mut made = 0;
    let error = loop {
        match directory.create_segment(made) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 100, "the disk never had too little room");
    };
    assert_eq!(error.outcome(), IoOutcome::NoSpace);
    assert!(error.to_string().contains("left alone"), "{error}");
    let reserve_is_left = || {
        let system = statvfs(&path).unwrap();
        let (available, all) = (system.f_bavail, system.f_blocks);
        assert!(available >= all / 100, "{available} of {all} blocks are left");
        system.f_bavail * system.f_frsize
    };
    let left = reserve_is_left();
    assert!(made > 8, "{made}");
    let files = list(&path).unwrap().len();
    assert_eq!(files, made as usize + 2, "nothing half-made is left");

    // A segment that lost its space does not get it back where others have taken it.
    let first = File::options()
        .write(true)
        .open(path.join("segment-00000000.kvt"));
    first.unwrap().set_len(4096).unwrap();
    let others = File::create(disk.path().join("others")).unwrap();
    fallocate(&others, FallocateFlags::empty(), 0, left).unwrap();
    let error = directory.write_segment_header(used(0, 1)).unwrap_err();
    assert_eq!(error.outcome(), IoOutcome::NoSpace);
    drop(others);
    fs::remove_file(disk.path().join("others")).unwrap();
    directory.write_segment_header(used(0, 1)).unwrap();
    reserve_is_left();
}
