//! Mounts of all kinds that this machine has, and what can go wrong with them without a file system of ours.

mod full;
mod gone;
mod odd;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use tempfile::TempDir;

use super::*;
use crate::testing::{aligned, writer};
use crate::{Direct, MountCheck, MountIo, Reserve, SyncPolicy};

/// A mount with its place.
pub(crate) struct Mount {
    pub(crate) what: String,
    pub(crate) backend: Arc<MountBackend>,
    pub(crate) place: TempDir,
}

pub(crate) fn spec(root: &Path) -> MountSpec {
    MountSpec {
        root: root.to_owned(),
        prefix: String::new(),
        io: MountIo::Threads,
        direct: Direct::Auto,
        sync: SyncPolicy::None,
        threads: 4,
        check: MountCheck::Auto,
        reserve: Reserve::Bytes(0),
    }
}

pub(crate) fn start(spec: &MountSpec) -> MountBackend {
    MountBackend::start(spec, "test", writer(1), BufferPool::new(1 << 20)).unwrap()
}

/// Threads and io_uring, past the page cache and through it, on a disk and in memory.
pub(crate) fn mounts() -> Vec<Mount> {
    let mut mounts = Vec::new();
    for (parent, direct) in [
        ("/tmp", Direct::Auto),
        ("/tmp", Direct::Never),
        ("/dev/shm", Direct::Auto),
    ] {
        for (io, sync) in [
            (MountIo::Threads, SyncPolicy::None),
            (MountIo::Auto, SyncPolicy::Full),
        ] {
            let place = tempfile::tempdir_in(parent).unwrap();
            let spec = MountSpec {
                io,
                direct,
                sync,
                ..spec(place.path())
            };
            let backend = Arc::new(start(&spec));
            mounts.push(Mount {
                what: format!("{parent} {direct:?} {io:?}"),
                backend,
                place,
            });
        }
    }
    mounts
}

pub(super) fn hold() -> Hold {
    Arc::new(())
}

/// All files below a directory.
pub(super) fn files(place: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![place.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(place).unwrap();
                found.push(name.display().to_string());
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn nothing_is_left_beside_what_was_written() {
    for mount in mounts() {
        let store = &mount.backend;
        for _ in 0..2 {
            let put = store.put("v1/aa/00/x", aligned(&[1; 4096]), Mode::Create, hold());
            put.await.unwrap();
            store.put_small("v1/aa/namespace", "n".into()).await.unwrap();
        }
        store.probe(Direction::Write).await.unwrap();
        let found = files(mount.place.path());
        assert_eq!(
            found,
            ["v1/aa/00/x", "v1/aa/namespace", "v1/store"],
            "{}",
            mount.what
        );
    }
}

#[tokio::test]
async fn io_uring_is_used_where_it_can_be_had() {
    let mut is_used = false;
    for mount in mounts() {
        let description = mount.backend.describe();
        is_used |= description.ends_with("by io_uring");
        assert!(description.contains("threads") || description.contains("io_uring"));
    }
    if !is_used {
        println!("SKIPPED: this machine has no io_uring");
    }
}

#[tokio::test]
async fn a_root_that_is_not_there_is_a_fault_in_every_call_and_nothing_is_made() {
    let place = tempfile::tempdir().unwrap();
    for io in [MountIo::Threads, MountIo::Auto] {
        let root = place.path().join("gone");
        let store = start(&MountSpec { io, ..spec(&root) });
        let is_not_there = |fault: Fault| assert_eq!(fault.kind, FaultKind::NotThere, "{fault}");
        is_not_there(store.probe(Direction::Read).await.unwrap_err());
        is_not_there(store.probe(Direction::Write).await.unwrap_err());
        let put = store.put("v1/aa/00/x", aligned(&[1; 4096]), Mode::Create, hold());
        is_not_there(put.await.unwrap_err());
        is_not_there(store.get("v1/aa/00/x", 0..4096, hold()).await.unwrap_err());
        let names = ["v1/aa/00/x".to_owned()];
        is_not_there(store.exist(&names, hold()).await[0].clone().unwrap_err());
        is_not_there(store.put_small("v1/x", "x".into()).await.unwrap_err());
        is_not_there(store.list("v1", None, 1).await.unwrap_err());
        assert!(!root.exists());
        // It comes by itself when it is there.
        std::fs::create_dir(&root).unwrap();
        let put = store.put("v1/aa/00/x", aligned(&[1; 4096]), Mode::Create, hold());
        assert_eq!(put.await, Ok(Written::New));
        std::fs::remove_dir_all(&root).unwrap();
        is_not_there(store.get("v1/aa/00/x", 0..4096, hold()).await.unwrap_err());
        is_not_there(store.exist(&names, hold()).await[0].clone().unwrap_err());
    }
}

#[tokio::test]
async fn nothing_is_written_below_a_mount_that_is_gone() {
    let place = tempfile::tempdir().unwrap();
    let store = start(&MountSpec {
        check: MountCheck::Required,
        ..spec(place.path())
    });
    let fault = store.put_small("v1/x", "x".into()).await.unwrap_err();
    let text = format!("nothing is mounted at the root {}", place.path().display());
    assert_eq!((fault.kind, fault.text), (FaultKind::NotThere, text));
    assert_eq!(files(place.path()), Vec::<String>::new());
    let mounted = start(&MountSpec {
        check: MountCheck::Required,
        ..spec(Path::new("/dev/shm"))
    });
    assert_eq!(mounted.probe(Direction::Read).await, Ok(()));
}

#[tokio::test]
async fn a_prefix_keeps_to_its_directory_and_cannot_lead_out_of_it() {
    let place = tempfile::tempdir().unwrap();
    let below = |prefix: &str| MountSpec {
        prefix: prefix.to_owned(),
        ..spec(place.path())
    };
    let (blue, red) = (start(&below("blue/deep")), start(&below("red")));
    assert_eq!(blue.probe(Direction::Write).await, Ok(()));
    blue.put_small("v1/x", "blue".into()).await.unwrap();
    assert!(place.path().join("blue/deep/v1/x").exists());
    assert_eq!(red.get_small("v1/x", 100).await.unwrap(), None);
    for bad in ["../red", "/red", "blue/.."] {
        let refused = MountBackend::start(&below(bad), "test", writer(1), BufferPool::new(1 << 20));
        assert!(matches!(refused, Err(SpecError::Mount(_))), "{bad}");
    }
}

#[tokio::test]
async fn direct_transfers_are_refused_where_they_cannot_be_had() {
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let store = start(&MountSpec {
        direct: Direct::Always,
        ..spec(place.path())
    });
    // Newer kernels let tmpfs take the flag.
    match store.open().await {
        Ok(open) => assert!(open.direct),
        Err(fault) => assert_eq!(fault.kind, FaultKind::NotThere, "{fault}"),
    }
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let never = start(&MountSpec {
        direct: Direct::Never,
        ..spec(place.path())
    });
    assert!(!never.open().await.unwrap().direct);
}

#[tokio::test]
async fn a_version_that_a_slow_node_brings_back_does_not_count() {
    let place = tempfile::tempdir().unwrap();
    let store = start(&spec(place.path()));
    let replace = |text: &'static str, expected| store.replace_small("v1/lease", text.into(), expected);
    let mut version = None;
    let mut versions = Vec::new();
    for _ in 0..10 {
        let Replaced::Done(next) = replace("x", version).await.unwrap() else {
            panic!("nobody else is there")
        };
        versions.push(next.clone());
        version = Some(next);
    }
    let kept = files(place.path());
    assert!(kept.len() <= 5, "old ones are removed: {kept:?}");
    // The second version is long gone, so its successor's name is free again.
    assert_eq!(
        replace("late", Some(versions[1].clone())).await,
        Ok(Replaced::Lost)
    );
    let found = store.get_small("v1/lease", 10).await.unwrap().unwrap();
    assert_eq!((&found.bytes[..], Some(found.version)), (&b"x"[..], version));
    assert_eq!(files(place.path()), kept);
}

#[tokio::test]
async fn files_are_for_the_group_and_not_for_everybody() {
    let place = tempfile::tempdir().unwrap();
    let store = start(&spec(place.path()));
    let put = store.put("v1/aa/00/x", aligned(&[1; 4096]), Mode::Create, hold());
    put.await.unwrap();
    for name in ["v1", "v1/aa", "v1/aa/00", "v1/aa/00/x"] {
        let mode = std::fs::metadata(place.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o007, 0, "{name}: {mode:o}");
    }
}

/// A file where a directory of blocks should be used to look like a mount that is gone, and took the tier out of service.
#[tokio::test]
async fn a_file_in_the_place_of_a_directory_is_in_the_way_of_its_own_blocks_only() {
    for mount in mounts() {
        let (store, what) = (&mount.backend, &mount.what);
        std::fs::create_dir_all(mount.place.path().join("v1/bb")).unwrap();
        std::fs::write(mount.place.path().join("v1/bb/07"), "odd").unwrap();
        let name = "v1/bb/07/block".to_owned();
        let found = store.get(&name, 0..4096, hold()).await;
        assert!(matches!(found, Ok(None)), "{what}: {found:?}");
        let there = store.exist(std::slice::from_ref(&name), hold()).await;
        assert_eq!(there, [Ok(false)], "{what}");
        let put = store.put(&name, aligned(&[1; 4096]), Mode::Create, hold()).await;
        assert_eq!(put.unwrap_err().kind, FaultKind::NameTaken, "{what}");
        assert_eq!(store.delete(vec![name], hold()).await, Ok(0), "{what}");
        assert_eq!(store.list("v1/bb/07", None, 10).await, Ok(vec![]), "{what}");
        let other = "v1/bb/08/block";
        let put = store.put(other, aligned(&[1; 4096]), Mode::Create, hold()).await;
        assert_eq!(put, Ok(Written::New), "{what}");
        assert_eq!(files(mount.place.path()), ["v1/bb/07", other], "{what}");
    }
}

/// An identity that somebody deleted was never written again, so a store that was mounted again was taken for another one.
#[tokio::test]
async fn an_identity_that_is_lost_is_written_again_by_who_knows_it() {
    for mount in mounts() {
        let (store, what) = (&mount.backend, &mount.what);
        let identity = mount.place.path().join("v1/store");
        assert_eq!(store.probe(Direction::Write).await, Ok(()));
        let first = std::fs::read(&identity).unwrap();
        std::fs::remove_file(&identity).unwrap();
        assert_eq!(store.probe(Direction::Write).await, Ok(()));
        assert_eq!(std::fs::read(&identity).unwrap(), first, "{what}");
        // Somebody who does not know it was faster: that one counts.
        let other = crate::format::StoreId([7; 16]).encode();
        std::fs::write(&identity, &other).unwrap();
        assert_eq!(store.probe(Direction::Write).await, Ok(()));
        std::fs::remove_file(&identity).unwrap();
        assert_eq!(store.probe(Direction::Write).await, Ok(()));
        assert_eq!(std::fs::read(&identity).unwrap(), other, "{what}");
        // One that is damaged is for people to see.
        std::fs::write(&identity, "damaged").unwrap();
        assert_eq!(store.probe(Direction::Write).await, Ok(()));
        assert_eq!(std::fs::read(&identity).unwrap(), b"damaged", "{what}");
    }
}

#[tokio::test]
async fn a_tier_that_only_writes_blocks_writes_a_lost_identity_again() {
    let mount = &mounts()[0];
    let identity = mount.place.path().join("v1/store");
    assert_eq!(mount.backend.probe(Direction::Write).await, Ok(()));
    std::fs::remove_file(&identity).unwrap();
    let mut number = 0;
    let writing = async {
        while !identity.exists() {
            number += 1;
            let name = format!("v1/aa/00/{number}");
            let put = mount
                .backend
                .put(&name, aligned(&[1; 4096]), Mode::Create, hold());
            assert_eq!(put.await, Ok(Written::New));
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    assert!(
        tokio::time::timeout(crate::testing::WATCHDOG, writing)
            .await
            .is_ok()
    );
}

/// What a call answers, if it does at all.
async fn within<T>(call: impl Future<Output = T>) -> T {
    let answered = tokio::time::timeout(crate::testing::WATCHDOG, call).await;
    answered.expect("an answer")
}

#[tokio::test]
async fn what_is_no_file_is_a_miss_and_is_replaced_where_a_rename_can() {
    for mount in mounts() {
        let (store, what) = (&mount.backend, &mount.what);
        let place = mount.place.path().join("v1/aa/00");
        std::fs::create_dir_all(place.join("directory")).unwrap();
        std::os::unix::fs::symlink("loop", place.join("loop")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", place.join("other")).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(place.join("fifo"))
            .status();
        assert!(made.unwrap().success());
        for name in ["loop", "other", "fifo", "directory"] {
            let name = format!("v1/aa/00/{name}");
            assert_eq!(
                store.exist(std::slice::from_ref(&name), hold()).await,
                [Ok(false)],
                "{what}"
            );
            // Opening a pipe used to wait for somebody who writes into it.
            let found = within(store.get(&name, 0..4096, hold())).await;
            assert!(matches!(found, Ok(None)), "{what} {name}: {found:?}");
            if ["directory", "fifo"].iter().any(|kind| name.ends_with(kind)) {
                let found = within(store.get_small(&name, 4096)).await;
                assert_eq!(found.unwrap_err().kind, FaultKind::NameTaken, "{what} {name}");
            }
            let put = store.put(&name, aligned(&[1; 4096]), Mode::Create, hold()).await;
            if name.ends_with("directory") {
                assert_eq!(put.unwrap_err().kind, FaultKind::NameTaken, "{what}");
                let removed = store.delete(vec![name.clone()], hold()).await;
                assert_eq!(removed, Ok(0), "{what}: what is no block is left alone");
            } else {
                assert_eq!(put, Ok(Written::New), "{what} {name}");
                assert!(store.get(&name, 0..4096, hold()).await.unwrap().is_some());
            }
        }
        let left = files(mount.place.path());
        assert_eq!(
            left,
            ["v1/aa/00/fifo", "v1/aa/00/loop", "v1/aa/00/other"],
            "{what}"
        );
    }
}
