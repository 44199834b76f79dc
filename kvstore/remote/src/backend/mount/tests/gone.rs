//! File systems that go away and come back, and those that are full.
//!
//! A mount that went away used to be written below: the daemon filled the disk of the machine.

use super::*;
use crate::backend::Backend;
use crate::testing::WATCHDOG;
use crate::unwell::Mounted;

const ENGINES: [MountIo; 2] = [MountIo::Threads, MountIo::Auto];

/// A place for mounts, and the directory that a store is in.
struct Scene {
    place: TempDir,
    root: PathBuf,
}

impl Scene {
    fn new(below: &str) -> Self {
        let place = tempfile::tempdir().unwrap();
        for name in ["export/cache", "mount"] {
            std::fs::create_dir_all(place.path().join(name)).unwrap();
        }
        let root = place.path().join("mount").join(below);
        Self { place, root }
    }

    fn mount(&self) -> Option<Mounted> {
        Mounted::bind(
            &self.place.path().join("export"),
            &self.place.path().join("mount"),
        )
    }

    /// A file system of its own that stays, whatever is mounted where.
    fn export(&self, bytes: u64) -> Option<Mounted> {
        let export = Mounted::tmpfs(&self.place.path().join("export"), bytes)?;
        std::fs::create_dir(self.place.path().join("export/cache")).unwrap();
        Some(export)
    }

    fn store(&self, io: MountIo) -> MountBackend {
        start(&MountSpec {
            io,
            ..spec(&self.root)
        })
    }

    /// What is in the directory where a mount belongs. Only without one is that the directory below.
    fn below(&self) -> Vec<String> {
        files(&self.place.path().join("mount"))
    }
}

async fn put(store: &MountBackend, name: &str) -> Result<Written, Fault> {
    let name = format!("v1/aa/00/{name}");
    store.put(&name, aligned(&[1; 4096]), Mode::Create, hold()).await
}

async fn get(store: &MountBackend, name: &str) -> Result<Option<u64>, Fault> {
    let found = store.get(&format!("v1/aa/00/{name}"), 0..4096, hold()).await?;
    Ok(found.map(|body| body.object_bytes))
}

async fn is_gone(store: &MountBackend, why: &str) {
    for direction in Direction::ALL {
        let fault = store.probe(direction).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::NotThere);
        assert!(fault.text.contains(why), "{fault}");
    }
    assert_eq!(put(store, "gone").await.unwrap_err().kind, FaultKind::NotThere);
    assert_eq!(get(store, "one").await.unwrap_err().kind, FaultKind::NotThere);
}

#[tokio::test]
async fn nothing_is_written_below_a_mount_that_goes_away_and_it_comes_back_by_itself() {
    for io in ENGINES {
        let scene = Scene::new("");
        let Some(_export) = scene.export(32 << 20) else {
            return;
        };
        let Some(mount) = scene.mount() else { return };
        let store = scene.store(io);
        assert_eq!(store.probe(Direction::Write).await, Ok(()));
        assert_eq!(put(&store, "one").await, Ok(Written::New));
        mount.detach();
        // Nobody has looked yet: it goes to the file system that was opened.
        assert_eq!(put(&store, "two").await, Ok(Written::New));
        assert_eq!(scene.below(), Vec::<String>::new());
        is_gone(&store, "what was mounted at the root is not there any more").await;
        assert_eq!(scene.below(), Vec::<String>::new());
        let _mount = scene.mount().unwrap();
        assert_eq!(store.probe(Direction::Read).await, Ok(()));
        assert_eq!(store.probe(Direction::Write).await, Ok(()));
        assert_eq!(get(&store, "one").await, Ok(Some(4096)));
        assert_eq!(get(&store, "two").await, Ok(Some(4096)));
        assert_eq!(put(&store, "three").await, Ok(Written::New));
    }
}

#[tokio::test]
async fn a_directory_on_a_mount_is_not_taken_for_one_that_somebody_made_below_it() {
    for io in ENGINES {
        let scene = Scene::new("cache");
        let Some(_export) = scene.export(32 << 20) else {
            return;
        };
        let Some(mount) = scene.mount() else { return };
        let store = scene.store(io);
        assert_eq!(store.probe(Direction::Write).await, Ok(()));
        assert_eq!(put(&store, "one").await, Ok(Written::New));
        mount.detach();
        is_gone(&store, "look at the root").await;
        std::fs::create_dir(&scene.root).unwrap();
        is_gone(&store, "is not this store").await;
        assert_eq!(scene.below(), Vec::<String>::new());
        let _mount = scene.mount().unwrap();
        assert_eq!(store.probe(Direction::Write).await, Ok(()));
        assert_eq!(get(&store, "one").await, Ok(Some(4096)));
    }
}

#[tokio::test]
async fn another_store_that_is_mounted_in_its_place_is_not_used() {
    let scene = Scene::new("");
    let Some(_export) = scene.export(32 << 20) else {
        return;
    };
    let Some(mount) = scene.mount() else { return };
    let store = scene.store(MountIo::Threads);
    assert_eq!(store.probe(Direction::Write).await, Ok(()));
    mount.detach();
    let other = Mounted::tmpfs(&scene.root, 32 << 20).unwrap();
    is_gone(&store, "start the daemon again").await;
    assert_eq!(scene.below(), Vec::<String>::new());
    // A daemon that starts now takes it for what it is.
    let next = scene.store(MountIo::Threads);
    assert_eq!(next.probe(Direction::Write).await, Ok(()));
    other.detach();
    let _mount = scene.mount().unwrap();
    assert_eq!(store.probe(Direction::Write).await, Ok(()));
}

#[tokio::test]
async fn what_is_mounted_after_the_start_is_used() {
    let scene = Scene::new("");
    let store = scene.store(MountIo::Threads);
    assert_eq!(store.probe(Direction::Write).await, Ok(()));
    assert_eq!(put(&store, "early").await, Ok(Written::New));
    let Some(_export) = scene.export(32 << 20) else {
        return;
    };
    let _mount = scene.mount().unwrap();
    assert_eq!(store.probe(Direction::Write).await, Ok(()));
    assert_eq!(put(&store, "one").await, Ok(Written::New));
    assert_eq!(get(&store, "early").await, Ok(None));
}

#[tokio::test]
async fn a_plain_directory_that_is_made_anew_is_used() {
    let scene = Scene::new("cache");
    std::fs::create_dir(&scene.root).unwrap();
    let store = scene.store(MountIo::Threads);
    assert_eq!(store.probe(Direction::Write).await, Ok(()));
    std::fs::remove_dir_all(&scene.root).unwrap();
    is_gone(&store, "look at the root").await;
    std::fs::create_dir(&scene.root).unwrap();
    assert_eq!(store.probe(Direction::Write).await, Ok(()));
    assert_eq!(put(&store, "one").await, Ok(Written::New));
}

#[tokio::test]
async fn a_mount_of_the_same_file_system_is_a_mount() {
    let scene = Scene::new("");
    let required = || {
        start(&MountSpec {
            check: MountCheck::Required,
            ..spec(&scene.root)
        })
    };
    let fault = required().probe(Direction::Write).await.unwrap_err();
    let text = format!("nothing is mounted at the root {}", scene.root.display());
    assert_eq!(fault.text, text);
    let Some(_mount) = scene.mount() else { return };
    assert_eq!(required().probe(Direction::Write).await, Ok(()));
}

async fn put_large(store: &MountBackend, name: &str) -> Result<Written, Fault> {
    let object = aligned(&vec![7; 1 << 20]);
    let name = format!("v1/aa/01/{name}");
    store.put(&name, object, Mode::Create, hold()).await
}

/// The same when there is room in a moment: a child that another test starts has all files open until it runs its program,
/// also those that were removed.
async fn put_in_time(store: &MountBackend, name: &str) -> Result<Written, Fault> {
    let start = std::time::Instant::now();
    loop {
        match put_large(store, name).await {
            Err(fault) if fault.kind == FaultKind::NoSpace && start.elapsed() < WATCHDOG => {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            other => return other,
        }
    }
}

async fn probe_in_time(store: &MountBackend) -> Result<(), Fault> {
    let start = std::time::Instant::now();
    loop {
        match store.probe(Direction::Write).await {
            Err(fault) if fault.kind == FaultKind::NoSpace && start.elapsed() < WATCHDOG => {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            other => return other,
        }
    }
}

/// Writes objects of a mebibyte until there is no room: how many there was room for.
async fn fill(store: &MountBackend) -> usize {
    for number in 0..64 {
        match put_large(store, &format!("{number:02}")).await {
            Ok(_) => {}
            Err(fault) => {
                assert_eq!(fault.kind, FaultKind::NoSpace, "{fault}");
                return number;
            }
        }
    }
    panic!("it is never full")
}

#[tokio::test]
async fn a_reserve_stays_free_and_what_is_there_is_read() {
    for io in ENGINES {
        let scene = Scene::new("");
        let Some(_mount) = Mounted::tmpfs(&scene.root, 16 << 20) else {
            return;
        };
        let store = start(&MountSpec {
            io,
            reserve: Reserve::Bytes(6 << 20),
            ..spec(&scene.root)
        });
        assert_eq!(store.probe(Direction::Write).await, Ok(()));
        assert_eq!(put(&store, "one").await, Ok(Written::New));
        let count = fill(&store).await;
        assert_eq!(count, 9, "{io:?}");
        let room = store.room().unwrap();
        assert_eq!((room.bytes, room.reserve_bytes), (16 << 20, 6 << 20));
        let fault = store.probe(Direction::Write).await.unwrap_err();
        let told = "no-space: 6 MiB are free, and 6 MiB are to stay free";
        assert_eq!(fault.to_string(), told);
        assert_eq!(store.probe(Direction::Read).await, Ok(()));
        assert_eq!(get(&store, "one").await, Ok(Some(4096)));
        // The lease is written all the same: who holds it makes room.
        let lease = store.replace_small("v1/sweeper", "lease".into(), None).await;
        assert!(matches!(lease, Ok(Replaced::Done(_))));
        store.now().await.unwrap();
        let names = vec!["v1/aa/01/00".to_owned()];
        assert_eq!(store.delete(names, hold()).await, Ok(1));
        assert_eq!(probe_in_time(&store).await, Ok(()));
        assert_eq!(put_in_time(&store, "again").await, Ok(Written::New));
        let more = put_large(&store, "more").await;
        assert_eq!(more.unwrap_err().kind, FaultKind::NoSpace);
    }
}

#[tokio::test]
async fn a_full_file_system_takes_writes_again_when_there_is_room_for_what_it_refused() {
    for io in ENGINES {
        let scene = Scene::new("");
        let Some(_mount) = Mounted::tmpfs(&scene.root, 8 << 20) else {
            return;
        };
        let store = scene.store(io);
        assert_eq!(store.probe(Direction::Write).await, Ok(()));
        assert_eq!(put(&store, "one").await, Ok(Written::New));
        let count = fill(&store).await;
        assert!((5..8).contains(&count), "{count}");
        // There is room for a page, and that says nothing.
        let fault = store.probe(Direction::Write).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::NoSpace, "{fault}");
        assert_eq!(get(&store, "one").await, Ok(Some(4096)));
        let names = vec!["v1/aa/01/00".to_owned()];
        assert_eq!(store.delete(names, hold()).await, Ok(1));
        assert_eq!(probe_in_time(&store).await, Ok(()));
    }
}

#[tokio::test]
async fn a_full_file_system_can_be_read_from_by_who_starts_now() {
    let scene = Scene::new("");
    let Some(_mount) = Mounted::tmpfs(&scene.root, 8 << 20) else {
        return;
    };
    let before = scene.store(MountIo::Threads);
    assert_eq!(put(&before, "one").await, Ok(Written::New));
    std::fs::write(scene.root.join("foreign"), vec![1; 8 << 20]).unwrap_err();
    for io in ENGINES {
        let store = scene.store(io);
        assert_eq!(store.probe(Direction::Read).await, Ok(()));
        assert_eq!(get(&store, "one").await, Ok(Some(4096)));
        let fault = store.probe(Direction::Write).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::NoSpace, "{fault}");
    }
}
