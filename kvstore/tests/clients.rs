//! What clients get, and what comes back when they are gone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use connector_shm::{AttachError, AttachStatus, Request, Role};
use kvstore_types::{Rank, Tag};
use rustix::process::Signal;
use support::client::{Client, Pair, Said, request};
use support::{Daemon, Place, eventually};

#[test]
fn what_one_engine_stores_another_finds() {
    let place = Place::new();
    let daemon = place.start();
    let mut one = Pair::open(daemon.socket(), 1);
    assert_eq!(one.store(0..8), 8);
    let mut two = Pair::open(daemon.socket(), 2);
    let (tokens, lookup) = two.scheduler.lookup(10);
    assert_eq!(tokens, 8 * 16);
    let (grants, lease) = two.scheduler.commit(lookup, 8);
    assert!(grants.iter().all(|grant| grant.page != 0));
    assert_eq!(daemon.occupancy("slots_leased"), 8);
    two.scheduler.send(&Request::LeaseRelease { lease });
    eventually("the lease ends", || {
        (daemon.occupancy("slots_leased") == 0).then_some(())
    });
}

#[test]
fn what_is_there_without_a_description_gets_one() {
    let place = Place::new();
    let daemon = place.start();
    let mut pair = Pair::open(daemon.socket(), 1);
    assert_eq!(pair.store(0..4), 4);
    assert_eq!(
        (daemon.occupancy("blocks"), daemon.occupancy("blocks_described")),
        (4, 0)
    );
    let grants = pair.scheduler.reserve_described(0..4);
    assert!(grants.iter().all(|grant| grant.page == 0));
    assert_eq!(daemon.occupancy("blocks_described"), 4);
    assert_eq!(daemon.counter("descriptors_late"), 4);
    assert!(daemon.occupancy("descriptor_bytes") > 4 * 7);
}

#[test]
fn engines_that_routers_know_are_shown() {
    let place = Place::new();
    let daemon = place.start();
    assert_eq!(daemon.status()["pods"], serde_json::json!([]));
    let open = |role| {
        let mut request = request(role, 1);
        "10.0.0.1:8000".clone_into(&mut request.pod);
        "m".clone_into(&mut request.model);
        Client::try_open(daemon.socket(), &request).unwrap()
    };
    let clients = [open(Role::Scheduler), open(Role::Worker(Rank(0)))];
    let shown = serde_json::json!([{ "pod": "10.0.0.1:8000", "model": "m" }]);
    assert_eq!(daemon.status()["pods"], shown);
    clients.into_iter().for_each(Client::close);
    eventually("the engine is gone", || {
        (daemon.status()["pods"] == serde_json::json!([])).then_some(())
    });
}

#[test]
fn a_user_who_is_on_no_list_is_refused_and_told_why() {
    let place = Place::new();
    let daemon = place.start_with(&[("KVTIER_ACCESS_UIDS", "54321")]);
    let uid = rustix::process::geteuid().as_raw();
    match Client::try_open(daemon.socket(), &request(Role::Observer, 1)).err() {
        Some(AttachError::Refused {
            status: AttachStatus::TenantRefused,
            text,
        }) => {
            assert!(text.starts_with(&format!("uid {uid} gid ")), "{text}");
        }
        other => panic!("want a refusal, got {other:?}"),
    }
    daemon.says("client refused: not on any allow-list");
}

/// Only root can become somebody else.
#[test]
fn a_process_of_another_user_is_known_by_its_credentials() {
    use std::os::unix::process::CommandExt;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    let daemon = place.start();
    // The build directory may be closed to other users.
    let program = place.copy_of(&std::env::current_exe().unwrap());
    let attach = |uid| {
        let mut command = Command::new(&program);
        command
            .args(["--exact", "a_helper_tries_to_attach", "--nocapture"])
            .env("HELPER_OBSERVES", place.socket())
            .current_dir("/")
            .uid(uid)
            .gid(0);
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    };
    let said = attach(65_534);
    assert!(said.contains("uid 65534 gid 0 may not attach"), "{said}");
    assert!(attach(0).contains("helper is attached"));
    daemon.says("uid=65534");
}

/// Does nothing unless the test above runs it.
#[test]
fn a_helper_tries_to_attach() {
    let Some(socket) = std::env::var_os("HELPER_OBSERVES") else {
        return;
    };
    match Client::try_open(socket.as_ref(), &request(Role::Observer, 1)) {
        Ok(_) => println!("helper is attached"),
        Err(error) => println!("{error}"),
    }
}

#[test]
fn an_idle_daemon_with_attached_engines_does_not_wake() {
    let place = Place::new();
    let daemon = place.start();
    let mut pairs: Vec<Pair> = (1..4).map(|group| Pair::open(daemon.socket(), group)).collect();
    for pair in &mut pairs {
        pair.store(0..4);
        pair.scheduler.lookup(4);
    }
    // Until it has gone to sleep after the last request.
    eventually("the daemon sleeps", || {
        let before = daemon.wake_ups();
        std::thread::sleep(std::time::Duration::from_millis(100));
        (daemon.wake_ups() == before).then_some(())
    });
    let before = daemon.wake_ups();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(daemon.wake_ups(), before);
    // And it is still there.
    assert_eq!(pairs[0].scheduler.lookup(4).0, 64);
}

#[test]
fn a_thousand_comings_and_goings_leave_nothing_behind() {
    let place = Place::new();
    let daemon = place.start();
    let go = |index: u32| {
        let client = Client::open(daemon.socket(), Role::Worker(Rank(0)), 1);
        // One in four leaves without a good-bye, as a client does that crashes.
        if index.is_multiple_of(4) {
            drop(client);
        } else {
            client.close();
        }
        // Its place in the engine is free only once the daemon has seen it leave.
        eventually("the session ends", || {
            (daemon.occupancy("sessions") == 1).then_some(())
        });
    };
    go(0);
    let before = settled(&daemon);
    for index in 0..1000 {
        go(index);
    }
    assert_eq!(settled(&daemon), before);
    assert_eq!(daemon.occupancy("sessions"), 1);
}

/// Open files and threads, once the last connection has been put away.
fn settled(daemon: &Daemon) -> (usize, usize) {
    eventually("the daemon's descriptors settle", || {
        let before = daemon.resources();
        std::thread::sleep(std::time::Duration::from_millis(20));
        (daemon.resources() == before).then_some(before)
    })
}

#[test]
fn what_a_killed_client_leased_and_reserved_comes_back_when_it_is_dead() {
    let place = Place::new();
    let daemon = place.start();
    let mut child = helper(&daemon);
    assert_eq!(daemon.occupancy("leases"), 1);
    assert_eq!(daemon.occupancy("slots_filling"), 4);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the resources come back", || {
        let occupancy = &daemon.status()["occupancy"];
        let sum: u64 = [
            "leases",
            "leases_quarantined",
            "slots_filling",
            "slots_quarantined",
            "slots_leased",
        ]
        .iter()
        .map(|name| occupancy[*name].as_u64().unwrap())
        .sum();
        (sum == 0).then_some(())
    });
    assert_eq!(daemon.occupancy("slots_resident"), 4);
    assert_eq!(daemon.occupancy("engine_groups"), 0);
}

#[test]
fn what_a_client_leased_is_kept_while_its_process_lives() {
    let place = Place::new();
    let daemon = place.start();
    let mut pair = Pair::open(daemon.socket(), 1);
    pair.store(0..4);
    let (_, lookup) = pair.scheduler.lookup(4);
    pair.scheduler.commit(lookup, 4);
    // The connection breaks, the process does not.
    drop(pair);
    eventually("the sessions end", || {
        (daemon.occupancy("sessions") == 1).then_some(())
    });
    assert_eq!(daemon.occupancy("leases_quarantined"), 4);
    assert_eq!(daemon.counter("quarantine_lifted"), 0);
}

/// Starts a process that stores, leases and reserves, and then waits to be killed.
fn helper(daemon: &Daemon) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_helper_waits_to_be_killed", "--nocapture"])
        .env("HELPER_SOCKET", daemon.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.unwrap().contains("helper is ready")),
        "the helper ended early"
    );
    child
}

/// Does nothing unless [`helper`] runs it.
#[test]
fn a_helper_waits_to_be_killed() {
    let Some(socket) = std::env::var_os("HELPER_SOCKET") else {
        return;
    };
    let mut pair = Pair::open(socket.as_ref(), 9);
    pair.store(0..4);
    let (_, lookup) = pair.scheduler.lookup(4);
    pair.scheduler.commit(lookup, 4);
    pair.scheduler.reserve(10..14);
    println!("helper is ready");
    // Ends by a signal, or with its parent.
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// Far more answers than the completion ring holds: the daemon must stop reading requests, and go on later.
const LATE_COUNT: u64 = 6000;

#[test]
fn a_client_that_reads_late_gets_every_answer_in_order() {
    let place = Place::new();
    let daemon = place.start();
    let mut pair = Pair::open(daemon.socket(), 1);
    pair.store(0..4);
    std::thread::scope(|scope| {
        let scheduler = &mut pair.scheduler;
        let daemon = &daemon;
        scope.spawn(move || {
            let mut sent = 0;
            let mut heard = 0;
            while heard < LATE_COUNT {
                let hashes = [support::client::hash(0)];
                let keys = [connector_shm::GroupKeys {
                    group: 0,
                    hashes: &hashes,
                }];
                while sent < LATE_COUNT {
                    let keys = connector_shm::Keys::new(&keys);
                    let lookup = Request::Lookup {
                        tag: Tag(1000 + sent),
                        tokens_max: 16,
                        keys,
                    };
                    if scheduler.attachment.end.send(&lookup).is_err() {
                        break;
                    }
                    sent += 1;
                }
                scheduler.attachment.end.notify().unwrap();
                if sent < LATE_COUNT && heard == 0 {
                    // Both rings are full now; the daemon must sleep over that and not spin.
                    eventually("the daemon sleeps", || {
                        let before = daemon.wake_ups();
                        std::thread::sleep(std::time::Duration::from_millis(30));
                        (daemon.wake_ups() == before).then_some(())
                    });
                }
                assert_eq!(scheduler.answer(), Said::Lookup(16));
                heard += 1;
            }
        });
    });
    assert_eq!(daemon.counter("lookups"), LATE_COUNT);
}

#[test]
fn a_burst_beyond_the_capacity_is_counted_and_told_by_cause() {
    let place = Place::new();
    let daemon = place.start();
    let mut pair = Pair::open(daemon.socket(), 1);
    // 16 MiB hold 4096 blocks of 4 KiB; none of these is sealed, so none can be evicted.
    let mut granted = 0;
    for batch in 0..5 {
        let grants = pair.scheduler.reserve(batch * 1000..(batch + 1) * 1000);
        granted += grants.iter().filter(|grant| grant.page != 0).count();
    }
    assert_eq!(granted, 4096);
    assert_eq!(daemon.counter("reserves_no_space"), 5000 - 4096);
    daemon.says("stores were dropped");
    daemon.signal(Signal::TERM);
}
