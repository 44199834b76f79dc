//! File systems without a byte left, and what is to stay free while many write at a time.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::{Duration, Instant};

use super::*;
use crate::SweepLimits;
use crate::format::{LEASE_NAME, Lease, PAGE, block_name};
use crate::sweep::{SweepNow, Sweeper};
use crate::testing::{key, object};
use crate::unwell::Mounted;

const ENGINES: [MountIo; 2] = [MountIo::Threads, MountIo::Auto];

fn sweeper(store: &Arc<MountBackend>, node: u8) -> Sweeper {
    let spec = crate::SweepSpec {
        limits: SweepLimits {
            bytes_max: Some(64 << 10),
            age_max: None,
        },
        lease: Duration::from_mins(5),
        ..crate::SweepSpec::default()
    };
    Sweeper::new(store.clone(), writer(node), spec, Arc::default())
}

async fn store_blocks(store: &MountBackend, numbers: Range<u64>) {
    for number in numbers {
        let (name, block) = (block_name(&key(number)), object(key(number), 256 << 10, b""));
        let put = store.put(&name, aligned(&block), Mode::Create, hold());
        assert_eq!(put.await, Ok(Written::New));
    }
}

fn free_bytes(place: &Path) -> u64 {
    let found = rustix::fs::statvfs(place).unwrap();
    found.f_bavail * found.f_frsize
}

/// Somebody else writes until there is not a page left.
fn take_what_is_left(place: &Path) {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(place.join("foreign"))
        .unwrap();
    while file.write_all(&[1; PAGE]).is_ok() {}
    assert_eq!(free_bytes(place), 0);
}

async fn lease_of(store: &MountBackend) -> Option<Lease> {
    let found = store.get_small(LEASE_NAME, 4096).await.unwrap().unwrap();
    Lease::decode(&found.bytes)
}

#[tokio::test]
async fn a_file_system_without_a_byte_left_is_swept() {
    for io in ENGINES {
        let place = tempfile::tempdir().unwrap();
        let Some(_mount) = Mounted::tmpfs(place.path(), 24 << 20) else {
            return;
        };
        let spec = MountSpec {
            io,
            ..spec(place.path())
        };
        let store = Arc::new(start(&spec));
        assert_eq!(store.probe(Direction::Write).await, Ok(()));
        store_blocks(&store, 0..20).await;
        take_what_is_left(place.path());
        // Nobody ever swept here, so there is no lease yet.
        let before = std::time::SystemTime::now() - Duration::from_secs(5);
        assert!(store.now().await.unwrap() >= before);
        let mut one = sweeper(&store, 1);
        let report = one.turn(Instant::now()).await.unwrap().unwrap();
        assert_eq!((report.blocks, report.blocks_removed), (20, 20), "{io:?}");
        assert!(free_bytes(place.path()) > 4 << 20);
        // There is room to say whose lease it is.
        assert_eq!(lease_of(&store).await.unwrap().holder, writer(1));
        assert!(sweeper(&store, 2).turn(Instant::now()).await.unwrap().is_none());
        // The same with a lease that is renewed, and by command.
        store_blocks(&store, 20..30).await;
        take_what_is_left(place.path());
        let report = one.turn(Instant::now()).await.unwrap().unwrap();
        assert_eq!(report.blocks_removed, 10);
        one.give_back().await;
        store_blocks(&store, 30..36).await;
        take_what_is_left(place.path());
        let swept = sweeper(&store, 2).sweep_now(Instant::now()).await.unwrap();
        assert!(matches!(swept, SweepNow::Swept(report) if report.blocks_removed == 6));
        let lease = lease_of(&store).await.unwrap();
        assert_eq!((lease.holder, lease.duration_ms), (writer(2), 0), "given back");
    }
}

#[tokio::test]
async fn a_lease_that_there_is_no_room_for_is_respected_all_the_same() {
    let place = tempfile::tempdir().unwrap();
    let Some(_mount) = Mounted::tmpfs(place.path(), 1 << 20) else {
        return;
    };
    let store = Arc::new(start(&spec(place.path())));
    assert_eq!(store.probe(Direction::Write).await, Ok(()));
    take_what_is_left(place.path());
    let (mut one, mut two) = (sweeper(&store, 1), sweeper(&store, 2));
    let start = Instant::now();
    assert!(one.turn(start).await.unwrap().is_some());
    assert_eq!(lease_of(&store).await, None, "there is nothing that could go");
    let SweepNow::Held(held) = two.sweep_now(start).await.unwrap() else {
        panic!("it is another's")
    };
    assert_eq!(held.holder, None);
    assert!(held.expires_in <= Duration::from_mins(2) && held.expires_in > Duration::from_mins(1));
    // Its holder goes on, and is the only one; and who is dead is followed by another.
    assert!(one.turn(start + Duration::from_mins(1)).await.unwrap().is_some());
    assert!(two.turn(start + Duration::from_mins(2)).await.unwrap().is_none());
    assert!(two.turn(start + Duration::from_mins(4)).await.unwrap().is_some());
    assert!(one.turn(start + Duration::from_mins(5)).await.unwrap().is_none());
}

#[tokio::test]
async fn what_is_under_way_counts_against_the_reserve() {
    let place = tempfile::tempdir().unwrap();
    let Some(_mount) = Mounted::tmpfs(place.path(), 16 << 20) else {
        return;
    };
    let store = start(&MountSpec {
        reserve: Reserve::Bytes(6 << 20),
        ..spec(place.path())
    });
    let root = &store.files.root;
    // Nothing is written yet by any of them, so the file system says 16 MiB each time.
    let mut under_way: Vec<_> = (0..10).map(|_| root.at(1 << 20).unwrap()).collect();
    assert_eq!(root.at(1 << 20).unwrap_err().kind, FaultKind::NoSpace);
    under_way.pop();
    under_way.push(root.at(1 << 20).unwrap());
    assert_eq!(root.at(1 << 20).unwrap_err().kind, FaultKind::NoSpace);
    drop(under_way);
    assert!(root.at(1 << 20).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reserve_stays_free_whatever_is_written_at_a_time() {
    for io in ENGINES {
        let place = tempfile::tempdir().unwrap();
        let Some(_mount) = Mounted::tmpfs(place.path(), 24 << 20) else {
            return;
        };
        let store = Arc::new(start(&MountSpec {
            io,
            threads: 16,
            reserve: Reserve::Bytes(12 << 20),
            ..spec(place.path())
        }));
        let block = aligned(&vec![1; 512 << 10]);
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..64 {
            let (store, block) = (store.clone(), block.clone());
            calls.spawn(async move {
                let name = format!("v1/aa/00/{number:02}");
                store.put(&name, block, Mode::Create, hold()).await
            });
        }
        let mut written = 0;
        while let Some(put) = calls.join_next().await {
            match put.unwrap() {
                Ok(_) => written += 1,
                Err(fault) => assert_eq!(fault.kind, FaultKind::NoSpace, "{fault}"),
            }
        }
        let free = free_bytes(place.path());
        assert!(
            free >= 12 << 20,
            "{io:?}: {written} written, {free} bytes are free"
        );
        // Who is refused takes nothing from the others. What has landed and not ended counts twice, so half is sure.
        assert!(written >= 12, "{io:?}: {written}");
    }
}

#[tokio::test]
async fn a_number_that_no_lease_can_have_is_ignored() {
    let place = tempfile::tempdir().unwrap();
    let store = Arc::new(start(&spec(place.path())));
    assert_eq!(store.probe(Direction::Write).await, Ok(()));
    std::fs::write(place.path().join(format!("{LEASE_NAME}.ffffffffffffffff")), "x").unwrap();
    let swept = sweeper(&store, 1).sweep_now(Instant::now()).await.unwrap();
    assert!(matches!(swept, SweepNow::Swept(_)));
    let swept = sweeper(&store, 2).sweep_now(Instant::now()).await.unwrap();
    assert!(matches!(swept, SweepNow::Swept(_)), "it was given back");
}
