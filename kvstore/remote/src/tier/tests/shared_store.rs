//! Several nodes and what they share: who sweeps, what goes, what stays.

use std::fs::{self, File};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kvstore_types::BlockKey;
use tempfile::TempDir;

use super::rig::Rig;
use crate::backend::mount::tests::spec as mount_spec;
use crate::backend::store::tests::Server;
use crate::format::{block_name, temporary_directory, touched_directory};
use crate::testing::{key, large_key, namespace, wait_until, writer};
use crate::{
    Admin, BackendSpec, Direction, MemoryStore, Outcome, Presence, SweepLimits, SweepNow, SweepReport,
    SweepSpec,
};

const PATIENCE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

fn admin(backend: &BackendSpec, node: u8) -> Admin {
    Admin::open(backend, writer(node), PATIENCE).unwrap()
}

fn sweep(bytes_max: Option<u64>, age_max: Option<Duration>) -> SweepSpec {
    SweepSpec {
        limits: SweepLimits { bytes_max, age_max },
        ..SweepSpec::default()
    }
}

/// What a sweep on demand comes to, when nobody waits for a lease.
fn gc(admin: &Admin, sweep: &SweepSpec) -> Result<Option<SweepNow>, String> {
    admin.gc(sweep, Duration::ZERO, std::future::pending(), Arc::new(|_, _| {}))
}

/// The same where nothing is in its way.
fn swept(admin: &Admin, sweep: &SweepSpec) -> SweepReport {
    match gc(admin, sweep) {
        Ok(Some(SweepNow::Swept(report))) => report,
        other => panic!("want a sweep, got {other:?}"),
    }
}

fn present(rig: &mut Rig, keys: &[BlockKey]) -> Vec<bool> {
    let found = rig.exists(keys.to_vec(), false);
    found
        .into_iter()
        .map(|presence| presence == Presence::Present)
        .collect()
}

fn fresh(backend: &BackendSpec) -> Rig {
    Rig::new(backend.clone(), 9, |_| {})
}

#[test]
fn what_nobody_uses_goes_first_and_reading_is_using() {
    let store = Arc::new(MemoryStore::default());
    let backend = BackendSpec::Memory(store.clone());
    let mut rig = Rig::over_memory(&store, 1);
    let keys: Vec<BlockKey> = (0..10).map(key).collect();
    for key in &keys {
        assert_eq!(rig.store(*key), Outcome::Done);
        store.advance(DAY);
    }
    // The oldest two are read by another node, which tells the store when it is closed at the latest.
    let mut reader = Rig::new(backend.clone(), 2, |_| {});
    for key in &keys[..2] {
        assert_eq!(reader.fetch(*key), Outcome::Done);
    }
    reader.close();
    store.advance(DAY);
    let each = 8192 + 4096;
    // Room for six, of which a tenth has to be free: five stay.
    let (admin, spec) = (admin(&backend, 3), sweep(Some(6 * each), None));
    let now = SystemTime::UNIX_EPOCH + Duration::from_hours(438_000) + 11 * DAY;
    let before = store.names();
    let would = admin
        .gc_dry_run(namespace().0.id(), &spec, now, &|_, _| {})
        .unwrap();
    assert_eq!(
        (would.blocks, would.blocks_removed, would.bytes_removed),
        (10, 5, 5 * each)
    );
    assert_eq!(store.names(), before, "nothing was removed");
    let did = swept(&admin, &spec);
    assert_eq!((did.blocks_removed, did.unknown), (would.blocks_removed, 0));
    let (yes, no) = (true, false);
    let left = present(&mut fresh(&backend), &keys);
    assert_eq!(left, [yes, yes, no, no, no, no, no, yes, yes, yes]);
    assert_eq!(swept(&admin, &spec).blocks_removed, 0);
    // A reader of what has gone has a miss.
    assert_eq!(rig.fetch(keys[3]), Outcome::Missing);
    assert_eq!(rig.store(keys[3]), Outcome::Done);
}

#[test]
fn what_is_too_old_goes_and_so_do_records_that_say_nothing_any_more() {
    let store = Arc::new(MemoryStore::default());
    let backend = BackendSpec::Memory(store.clone());
    let mut rig = Rig::over_memory(&store, 1);
    assert_eq!(rig.store(key(1)), Outcome::Done);
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
    rig.close();
    store.advance(3 * DAY);
    assert_eq!(fresh(&backend).store(key(2)), Outcome::Done);
    let records = || {
        let directory = touched_directory(namespace().0.id());
        store
            .names()
            .iter()
            .filter(|name| name.starts_with(&directory))
            .count()
    };
    assert_eq!(records(), 1);
    let admin = admin(&backend, 3);
    let report = swept(&admin, &sweep(None, Some(2 * DAY)));
    assert_eq!(
        (report.blocks, report.blocks_removed, report.touched_removed),
        (2, 1, 1)
    );
    assert_eq!(present(&mut fresh(&backend), &[key(1), key(2)]), [false, true]);
    assert_eq!(records(), 0);
}

#[test]
fn limits_may_differ_by_what_a_namespace_stands_for() {
    let store = Arc::new(MemoryStore::default());
    let backend = BackendSpec::Memory(store.clone());
    assert_eq!(fresh(&backend).store(key(1)), Outcome::Done);
    store.advance(DAY);
    let nothing = SweepLimits {
        bytes_max: Some(0),
        age_max: None,
    };
    let mut spec = sweep(None, None);
    spec.exceptions = vec![("model.id".into(), b"another".to_vec(), nothing)];
    assert_eq!(swept(&admin(&backend, 3), &spec).blocks_removed, 0);
    spec.exceptions.push(("model.id".into(), b"m".to_vec(), nothing));
    assert_eq!(swept(&admin(&backend, 3), &spec).blocks_removed, 1);
}

#[test]
fn what_is_not_ours_is_counted_and_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let backend = BackendSpec::Mount(mount_spec(place.path()));
    assert_eq!(fresh(&backend).store(key(1)), Outcome::Done);
    let strange = place.path().join(block_name(&key(1))).with_file_name("readme");
    fs::write(&strange, "hello").unwrap();
    let (admin, id) = (admin(&backend, 3), namespace().0.id());
    let report = swept(&admin, &sweep(Some(0), Some(Duration::ZERO)));
    assert_eq!((report.blocks_removed, report.unknown), (1, 1));
    assert_eq!(admin.du(id, &|_, _| {}).unwrap().unknown, 1);
    assert!(strange.exists());
}

fn aged(path: &std::path::Path, by: Duration) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

#[test]
fn files_of_writers_that_died_are_collected_by_age_and_others_are_not() {
    let place = tempfile::tempdir().unwrap();
    let backend = BackendSpec::Mount(mount_spec(place.path()));
    let mut rig = Rig::new(backend.clone(), 1, |_| {});
    assert_eq!(rig.store(key(1)), Outcome::Done);
    let (admin, id) = (admin(&backend, 3), namespace().0.id());
    let directory = place.path().join(temporary_directory(id));
    let (dead, alive) = (directory.join("dead"), directory.join("alive"));
    for path in [&dead, &alive] {
        fs::write(path, "half a block").unwrap();
    }
    aged(&dead, Duration::from_hours(2));
    assert_eq!(admin.du(id, &|_, _| {}).unwrap().temporaries, 2);
    assert_eq!(swept(&admin, &sweep(None, None)).temporaries_removed, 1);
    assert!(!dead.exists() && alive.exists());
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
}

#[test]
fn a_store_tells_what_is_in_it() {
    let server = Server::start();
    let place = tempfile::tempdir().unwrap();
    for backend in [
        BackendSpec::Store(server.spec()),
        BackendSpec::Mount(mount_spec(place.path())),
        BackendSpec::Memory(Arc::default()),
    ] {
        let admin = admin(&backend, 3);
        assert_eq!(admin.ls().unwrap(), []);
        let mut rig = Rig::new(backend.clone(), 1, |_| {});
        assert_eq!(rig.store(key(1)), Outcome::Done);
        assert_eq!(rig.store(large_key(1)), Outcome::Done);
        let found = admin.ls().unwrap();
        assert_eq!(found.len(), 1, "{backend:?}");
        assert_eq!(
            (found[0].id, &found[0].described),
            (namespace().0.id(), &Ok(namespace()))
        );
        let usage = admin.du(found[0].id, &|_, _| {}).unwrap();
        let bytes = 8192 + (1 << 20) + 2 * 4096;
        assert_eq!(
            (usage.blocks, usage.bytes, usage.unknown),
            (2, bytes, 0),
            "{backend:?}"
        );
        assert!(usage.oldest.is_some() && usage.oldest <= usage.newest);
        // Another node has the lease: nobody sweeps beside it.
        let report = swept(&admin, &sweep(Some(0), None));
        assert_eq!(report.blocks_removed, 2, "{backend:?}");
        assert_eq!(
            present(&mut fresh(&backend), &[key(1), large_key(1)]),
            [false, false]
        );
    }
}

#[test]
fn one_node_of_several_sweeps_and_when_it_dies_another_one_does() {
    let place = tempfile::tempdir().unwrap();
    let backend = BackendSpec::Mount(mount_spec(place.path()));
    let node = |number: u8, place: &TempDir| {
        Rig::new(BackendSpec::Mount(mount_spec(place.path())), number, |spec| {
            spec.sweep = Some(SweepSpec {
                every: Duration::from_millis(30),
                lease: Duration::from_secs(2),
                ..sweep(Some(0), None)
            });
        })
    };
    let mut nodes = vec![node(1, &place), node(2, &place)];
    let is_holder = |rig: &Rig| rig.stats().sweep.is_holder;
    wait_until("one holds the lease", || nodes.iter().any(is_holder));
    assert_eq!(nodes.iter().filter(|rig| is_holder(rig)).count(), 1);
    let Ok(Some(SweepNow::Held(held))) = gc(&admin(&backend, 3), &sweep(Some(0), None)) else {
        panic!("another node has the lease")
    };
    let holder = nodes
        .iter()
        .zip([writer(1), writer(2)])
        .find(|(rig, _)| is_holder(rig));
    assert_eq!(held.holder, holder.map(|(_, writer)| writer));
    assert!(!held.is_this_node);
    assert_eq!(nodes[0].store(key(1)), Outcome::Done);
    let removed = |rig: &Rig| rig.stats().sweep.blocks_removed;
    wait_until("the block has gone", || {
        nodes.iter().map(removed).sum::<u64>() >= 1
    });
    let holder = nodes.iter().position(is_holder).unwrap();
    let mut dead = nodes.remove(holder);
    dead.close();
    wait_until("the other one has taken over", || is_holder(&nodes[0]));
    assert_eq!(nodes[0].store(key(2)), Outcome::Done);
    wait_until("it sweeps", || removed(&nodes[0]) >= 1);
    // A file system that could not be asked is no reason to stop.
    nodes[0].wait_for_service(Direction::Write, true);
}

#[test]
fn many_nodes_that_store_read_and_sweep_at_once_only_ever_miss() {
    let server = Server::start();
    let backend = BackendSpec::Store(server.spec());
    let workers: Vec<_> = (1..4)
        .map(|node: u8| {
            let backend = backend.clone();
            std::thread::spawn(move || {
                let mut rig = Rig::new(backend, node, |spec| {
                    spec.sweep = Some(SweepSpec {
                        every: Duration::from_millis(40),
                        lease: Duration::from_millis(100),
                        ..sweep(Some(100_000), None)
                    });
                });
                for round in 0..40_u64 {
                    let number = (round * 7 + u64::from(node)) % 12;
                    let stored = rig.store(key(number));
                    let is_stored = matches!(stored, Outcome::Done | Outcome::AlreadyPresent);
                    assert!(is_stored, "{stored:?}");
                    let fetched = rig.fetch(key((number + 5) % 12));
                    // Its bytes are compared by the rig.
                    assert!(matches!(fetched, Outcome::Done | Outcome::Missing), "{fetched:?}");
                }
                rig.stats().operations[0].done
            })
        })
        .collect();
    let hits: u64 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
    assert!(hits > 0);
}

#[tokio::test]
async fn probes_of_nodes_are_small_and_few() {
    let server = Server::start();
    let store = server.backend(&server.spec());
    for _ in 0..5 {
        for direction in Direction::ALL {
            store.probe(direction).await.unwrap();
        }
    }
    let found = store.list("v1", None, 10).await.unwrap();
    assert_eq!((found.len(), found[0].bytes), (1, 0));
}
