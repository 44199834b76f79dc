//! Mounts that are unwell.

use std::time::Duration;

use kvstore_types::{Corruption, ReadClass};

use super::rig::{Rig, log_of};
use crate::backend::mount::tests::spec as mount_spec;
use crate::testing::{key, large_key, wait_until};
use crate::unwell::{Call, Fuse, Mounted};
use crate::{
    BackendSpec, Direct, Direction, FaultKind, MountCheck, MountIo, MountSpec, Outcome, Presence, RemoteSpec,
    Reserve,
};

/// Threads, and io_uring where it is to be had.
const ENGINES: [MountIo; 2] = [MountIo::Threads, MountIo::Auto];

fn rig(fuse: &Fuse, io: MountIo, change: impl FnOnce(&mut RemoteSpec)) -> Rig {
    let backend = BackendSpec::Mount(MountSpec {
        io,
        direct: Direct::Never,
        check: MountCheck::Required,
        ..mount_spec(fuse.place.path())
    });
    Rig::new(backend, 1, |spec| {
        spec.timing.demand = Duration::from_millis(150);
        spec.timing.prefetch = Duration::from_millis(150);
        spec.timing.write = Duration::from_millis(150);
        spec.timing.lookup = Duration::from_millis(150);
        spec.timing.close = Duration::from_millis(50);
        change(spec);
    })
}

#[test]
fn a_mount_that_hangs_costs_misses_and_a_bounded_number_of_threads_and_comes_back() {
    for io in ENGINES {
        let Some(fuse) = Fuse::mount() else { return };
        let name = format!("hangs-{io:?}");
        let mut rig = rig(&fuse, io, |spec| spec.name.clone_from(&name));
        assert_eq!(rig.store(key(1)), Outcome::Done);
        assert_eq!(rig.fetch(key(1)), Outcome::Done);
        fuse.hang(true);
        // The first ones wait until their deadline, or until the breaker opens.
        let first: Vec<_> = (1..40)
            .map(|number| (rig.order_fetch(key(number), 1, ReadClass::Demand), key(number)))
            .collect();
        for (operation, key) in first {
            let outcome = rig.fetched(operation, key, 1);
            let is_miss = matches!(
                outcome,
                Outcome::TimedOut | Outcome::Unavailable(FaultKind::Stalled)
            );
            assert!(is_miss, "{outcome:?}");
        }
        rig.wait_for_service(Direction::Read, false);
        let _ = rig.store(key(2));
        // All others are answered at once; nothing more goes to the mount.
        let calls = fuse.calls();
        for number in 0..500 {
            let gone = Outcome::Unavailable(FaultKind::OutOfService);
            assert_eq!(rig.fetch(key(number)), gone);
        }
        assert_eq!(
            rig.exists(vec![key(1)], false),
            [Presence::Present],
            "this node knows"
        );
        assert_eq!(rig.exists(vec![key(7)], false), [Presence::Unknown]);
        assert_eq!(fuse.calls(), calls, "a hanging server is not called again");
        let stats = rig.stats();
        assert!(stats.under_way[0] > 0, "the kernel still has them: {stats:?}");
        // So the pool has at most as many threads in it (its own test), and they hold at most so many buffers.
        assert!(stats.under_way[0] <= 4);
        fuse.calm();
        rig.wait_for_service(Direction::Read, true);
        rig.wait_for_service(Direction::Write, true);
        wait_until("everything is given back", || rig.stats().under_way == [0, 0, 0]);
        assert_eq!(rig.fetch(key(1)), Outcome::Done);
        assert_eq!(rig.store(key(3)), Outcome::Done);
        let out_of_service = |line: &&String| line.contains("is out of service") && line.contains("read");
        let told = log_of(&name);
        assert_eq!(told.iter().filter(out_of_service).count(), 1, "{told:#?}");
        rig.close();
    }
}

#[test]
fn a_mount_that_hangs_from_the_start_holds_nobody_up() {
    for io in ENGINES {
        let Some(fuse) = Fuse::mount() else { return };
        fuse.hang(true);
        let backend = BackendSpec::Mount(MountSpec {
            io,
            ..mount_spec(fuse.place.path())
        });
        let mut rig = Rig::closed(backend, 1, |spec| spec.timing.close = Duration::from_millis(50));
        assert_eq!(rig.fetch(key(1)), Outcome::Unavailable(FaultKind::OutOfService));
        assert_eq!(rig.stats().in_service, [false, false]);
        fuse.hang(false);
        rig.wait_for_service(Direction::Write, true);
        assert_eq!(rig.store(key(1)), Outcome::Done);
        fuse.hang(true);
        // Closing does not wait for it either.
        rig.order_fetch(key(1), 1, ReadClass::Demand);
        rig.close();
    }
}

#[test]
fn errors_of_a_mount_have_their_kinds_and_pass() {
    let cases = [
        (Call::Read, libc::EIO, FaultKind::Server, Direction::Read),
        (Call::Read, libc::ESTALE, FaultKind::Connection, Direction::Read),
        (Call::Read, libc::ETIMEDOUT, FaultKind::Stalled, Direction::Read),
        (Call::Look, libc::EACCES, FaultKind::Denied, Direction::Read),
        (Call::Write, libc::ENOSPC, FaultKind::NoSpace, Direction::Write),
        (Call::Write, libc::EDQUOT, FaultKind::NoSpace, Direction::Write),
        (Call::Write, libc::EROFS, FaultKind::Denied, Direction::Write),
        (Call::Write, libc::EIO, FaultKind::Server, Direction::Write),
    ];
    for io in ENGINES {
        let Some(fuse) = Fuse::mount() else { return };
        let mut rig = rig(&fuse, io, |spec| {
            spec.timing.demand = Duration::from_secs(20);
            spec.timing.write = Duration::from_secs(20);
            // So that the fault is met each time.
            spec.breaker.failures = 1_000_000;
            spec.existence.present_for = Duration::ZERO;
        });
        assert_eq!(rig.store(key(1)), Outcome::Done);
        for (number, (call, errno, kind, direction)) in cases.into_iter().enumerate() {
            fuse.fail(call, errno);
            let before = rig.stats();
            let outcome = match direction {
                Direction::Read => rig.fetch(key(1)),
                Direction::Write => rig.store(key(100 + number as u64)),
            };
            assert_eq!(outcome, Outcome::Unavailable(kind), "{errno} {io:?}");
            let after = rig.stats();
            assert!(after.fault(kind) > before.fault(kind));
            assert_eq!(after.retries > before.retries, kind.is_retryable());
            fuse.calm();
            rig.wait_for_service(direction, true);
            assert_eq!(rig.fetch(key(1)), Outcome::Done, "after {errno}");
            assert_eq!(rig.store(key(200 + number as u64)), Outcome::Done);
        }
    }
}

#[test]
fn a_mount_that_can_only_be_read_from_is_read_from() {
    let Some(fuse) = Fuse::mount() else { return };
    let mut rig = rig(&fuse, MountIo::Threads, |spec| {
        spec.timing.write = Duration::from_secs(20);
    });
    assert_eq!(rig.store(key(1)), Outcome::Done);
    fuse.fail(Call::Write, libc::EROFS);
    assert_eq!(rig.store(key(2)), Outcome::Unavailable(FaultKind::Denied));
    rig.wait_for_service(Direction::Write, false);
    assert!(rig.service[&Direction::Read]);
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
    // A node that starts now cannot write, and reads.
    let backend = BackendSpec::Mount(mount_spec(fuse.place.path()));
    let mut fresh = Rig::closed(backend, 2, |_| {});
    fresh.wait_for_service(Direction::Read, true);
    assert_eq!(fresh.fetch(key(1)), Outcome::Done);
    assert_eq!(fresh.store(key(2)), Outcome::Unavailable(FaultKind::OutOfService));
    fuse.calm();
    rig.wait_for_service(Direction::Write, true);
    assert_eq!(rig.store(key(2)), Outcome::Done);
}

#[test]
fn bytes_that_a_mount_changes_or_cuts_off_are_never_a_hit() {
    for io in ENGINES {
        let Some(fuse) = Fuse::mount() else { return };
        let mut rig = rig(&fuse, io, |spec| spec.timing.demand = Duration::from_secs(20));
        for number in 1..4 {
            assert_eq!(rig.store(key(number)), Outcome::Done);
        }
        fuse.flip(6000);
        assert_eq!(rig.fetch(key(1)), Outcome::Corrupt(Corruption::Payload));
        fuse.calm();
        fuse.flip(60);
        assert_eq!(rig.fetch(key(2)), Outcome::Corrupt(Corruption::Header));
        fuse.calm();
        fuse.shorten(8000);
        // It says how long the file is, and gives less of it.
        assert_eq!(rig.fetch(key(3)), Outcome::Unavailable(FaultKind::Truncated));
        fuse.calm();
        assert_eq!(rig.fetch(key(3)), Outcome::Done);
        // Stored again, they are whole.
        for number in 1..3 {
            assert_eq!(rig.store(key(number)), Outcome::Done);
            assert_eq!(rig.fetch(key(number)), Outcome::Done);
        }
    }
}

#[test]
fn a_slow_mount_is_slow_and_nothing_else() {
    let Some(fuse) = Fuse::mount() else { return };
    let mut rig = rig(&fuse, MountIo::Auto, |spec| {
        spec.timing.demand = Duration::from_secs(20);
        spec.timing.write = Duration::from_secs(20);
    });
    fuse.delay(Duration::from_millis(3));
    assert_eq!(rig.store(key(1)), Outcome::Done);
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
    assert_eq!(rig.stats().outages, [0, 0]);
}

#[test]
fn a_mount_that_vanishes_is_out_of_service_until_it_is_back() {
    let place = tempfile::tempdir().unwrap();
    let (export, root) = (place.path().join("export"), place.path().join("mount"));
    for directory in [&export, &root] {
        std::fs::create_dir(directory).unwrap();
    }
    let Some(_export) = Mounted::tmpfs(&export, 32 << 20) else {
        return;
    };
    let mount = Mounted::bind(&export, &root).unwrap();
    let backend = BackendSpec::Mount(mount_spec(&root));
    let mut rig = Rig::new(backend, 1, |spec| spec.name = "vanishing".into());
    assert_eq!(rig.store(key(1)), Outcome::Done);
    mount.detach();
    // Until somebody looks, the file system that was opened is still read and written.
    let mut number = 1;
    while rig.service[&Direction::Read] || rig.service[&Direction::Write] {
        number += 1;
        let outcomes = [rig.store(key(number)), rig.fetch(key(1))];
        for outcome in outcomes {
            let gone = [FaultKind::NotThere, FaultKind::OutOfService].map(Outcome::Unavailable);
            assert!(outcome == Outcome::Done || gone.contains(&outcome), "{outcome:?}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(
        std::fs::read_dir(&root).unwrap().count(),
        0,
        "nothing lies below it"
    );
    let outage = rig.stats().outage[0].clone().unwrap();
    assert_eq!(outage.cause, FaultKind::NotThere, "{outage:?}");
    let _mount = Mounted::bind(&export, &root).unwrap();
    rig.wait_for_service(Direction::Read, true);
    rig.wait_for_service(Direction::Write, true);
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
    assert_eq!(rig.store(key(1000)), Outcome::Done);
    assert_eq!(rig.stats().outage, [None, None]);
    let told = log_of("vanishing");
    let count = |what: &str| told.iter().filter(|line| line.contains(what)).count();
    assert_eq!(
        (count("is out of service"), count("in service again")),
        (2, 2),
        "{told:#?}"
    );
}

#[test]
fn a_mount_without_room_is_read_from_and_takes_writes_when_there_is_some() {
    let place = tempfile::tempdir().unwrap();
    let Some(_mount) = Mounted::tmpfs(place.path(), 16 << 20) else {
        return;
    };
    let backend = BackendSpec::Mount(MountSpec {
        reserve: Reserve::Permille(500),
        ..mount_spec(place.path())
    });
    let mut rig = Rig::new(backend, 1, |spec| spec.name = "full".into());
    let mut stored = 0;
    while rig.store(large_key(stored)) == Outcome::Done {
        stored += 1;
    }
    assert_eq!(
        stored, 7,
        "eight mebibytes, less a page for each and those that say what is there"
    );
    rig.wait_for_service(Direction::Write, false);
    for number in 0..20 {
        assert_eq!(
            rig.store(large_key(100 + number)),
            Outcome::Unavailable(FaultKind::OutOfService)
        );
        assert_eq!(rig.fetch(large_key(number % stored)), Outcome::Done);
    }
    let stats = rig.stats();
    assert_eq!((stats.in_service, stats.outages), ([true, false], [0, 1]));
    assert!(stats.fault(FaultKind::NoSpace) >= 1);
    assert_eq!(
        stats.outage[1].as_ref().map(|outage| outage.cause),
        Some(FaultKind::NoSpace)
    );
    assert_eq!(
        stats.room.map(|room| room.reserve_bytes),
        Some((16 << 20) / 1000 * 500)
    );
    for number in 0..2 {
        assert_eq!(
            rig.delete(large_key(number)),
            Outcome::Unavailable(FaultKind::OutOfService)
        );
    }
    let first = walk(place.path())
        .into_iter()
        .find(|file| file.metadata().unwrap().len() > 1 << 20);
    std::fs::remove_file(first.unwrap()).unwrap();
    rig.wait_for_service(Direction::Write, true);
    // A child that another test starts has removed files open until it runs its program.
    while rig.store(large_key(200)) != Outcome::Done {
        rig.wait_for_service(Direction::Write, true);
    }
    let told = log_of("full");
    let count = |what: &str| told.iter().filter(|line| line.contains(what)).count();
    let (begun, ended) = (count("has no room"), count("in service again"));
    assert!(begun >= 1 && begun == ended, "{told:#?}");
}

/// All files below a directory.
fn walk(place: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(place)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] })
        .collect()
}
