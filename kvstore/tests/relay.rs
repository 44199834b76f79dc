//! What becomes of blocks, told to an engine's own session: by a real daemon, to a client that is slow, or comes back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod support;

use connector_shm::{Request, Role};
use kvstore_events::testing::Router;
use kvstore_types::Rank;
use rustix::process::Signal;
use support::client::{Client, Pair, Said, request};
use support::{Daemon, Place};

const RELAY: (&str, &str) = ("KVTIER_EVENTS_RELAY", "on-request");
const BLOCK_BYTES: u64 = 64 << 10;

/// An engine that passes on what it hears.
struct Engine {
    pair: Pair,
    router: Router,
}

impl Engine {
    fn open(daemon: &Daemon) -> Self {
        Self::open_as(daemon, 1, "m")
    }

    fn open_as(daemon: &Daemon, engine_group: u8, model: &str) -> Self {
        let open = |role| {
            let mut request = request(role, engine_group);
            request.fields[0].value = model.into();
            if matches!(role, Role::Worker(_)) {
                request.groups[0].rank_bytes = BLOCK_BYTES;
            }
            Client::try_open(daemon.socket(), &request).unwrap()
        };
        let mut pair = Pair {
            scheduler: open(Role::Scheduler),
            worker: open(Role::Worker(Rank(0))),
        };
        assert_eq!(
            (pair.scheduler.hear(), pair.worker.hear()),
            (Said::Ready, Said::Ready)
        );
        Self {
            pair,
            router: Router::default(),
        }
    }

    fn credit(&mut self, credit: u32) {
        self.pair.scheduler.send(&Request::Events { credit });
    }

    /// Stores a sequence of blocks. No credit may be left, so that nothing comes between the answers.
    fn store(&mut self, numbers: std::ops::Range<u32>) {
        let count = numbers.end - numbers.start;
        let slots = self.pair.scheduler.reserve_described(numbers);
        assert_eq!(
            self.pair.worker.seal(&slots),
            Said::Sealed {
                published: count,
                sealed: count
            }
        );
    }

    /// Takes messages in, each with a credit of one, until the router believes this.
    fn until(&mut self, is_so: impl Fn(&Router) -> bool) {
        while !is_so(&self.router) {
            self.credit(1);
            match self.pair.scheduler.answer() {
                Said::Events(Some(batch)) => self.router.hear("relay", &batch),
                other => panic!("want events, got {other:?}"),
            }
        }
        assert_eq!((self.router.dropped, self.router.count_max() <= 1), (0, true));
    }

    fn count(&self, medium: &str) -> usize {
        self.router.count("relay", medium)
    }
}

fn end(mut daemon: Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn an_engine_is_told_of_stores_and_evictions_by_credit_alone() {
    let place = Place::new();
    let daemon = place.start_with(&[("KVTIER_HOST_CAPACITY", "8MiB"), RELAY]);
    let mut engine = Engine::open(&daemon);
    engine.store(0..8);
    engine.until(|router| router.count("relay", "cpu") == 8);
    // It asks for nothing while more is stored than memory holds, and loses nothing.
    for chain in 1..40 {
        engine.store(chain * 8..chain * 8 + 8);
    }
    let resident = usize::try_from(daemon.occupancy("slots_resident")).unwrap();
    assert!(resident < 320, "nothing was evicted");
    let (_, lookup) = engine.pair.scheduler.lookup(8);
    engine
        .pair
        .scheduler
        .send(&Request::LookupRelease { tag: lookup });
    let last = support::client::hash(319).0;
    engine.until(|router| {
        let key = ("relay".to_owned(), "cpu".to_owned(), last.to_vec());
        router.blocks().contains(&key) && router.count("relay", "cpu") <= resident
    });
    assert!(engine.count("cpu") > 8);
    assert_eq!(daemon.status()["events"]["relays"], 1);
    engine.pair.close();
    end(daemon);
}

#[test]
fn what_is_on_nvme_is_told_and_told_again_to_whoever_attaches_anew() {
    let place = Place::new();
    let directory = place.path("nvme").display().to_string();
    let variables = [
        ("KVTIER_HOST_CAPACITY", "8MiB"),
        ("KVTIER_NVME_DIRECTORIES", directory.as_str()),
        ("KVTIER_NVME_CAPACITY", "128MiB"),
        ("KVTIER_EVENTS_NVME_MEDIUM", "disk"),
        RELAY,
    ];
    let mut daemon = place.start_with(&variables);
    support::blocks::loaded(&daemon, 1);
    let mut engine = Engine::open(&daemon);
    engine.store(0..16);
    engine.until(|router| router.count("relay", "cpu") == 16 && router.count("relay", "disk") == 16);
    let believed = engine.router.clone();
    // The session hangs up, and the router lives on.
    drop(engine);
    let mut engine = Engine::open(&daemon);
    engine.router = believed;
    let before = engine.router.told;
    engine.until(|router| router.told >= before + 64);
    assert_eq!((engine.count("cpu"), engine.count("disk")), (16, 16));
    let believed = engine.router.clone();
    drop(engine);
    daemon.signal(Signal::KILL);
    daemon.wait();
    let daemon = place.start_with(&variables);
    support::blocks::loaded(&daemon, 1);
    let mut engine = Engine::open(&daemon);
    engine.router = believed;
    // What survived is told as removed from everywhere, and as stored.
    engine.until(|router| router.count("relay", "cpu") == 0 && router.count("relay", "disk") == 16);
    engine.pair.close();
    end(daemon);
}

#[test]
fn a_client_that_gives_credit_and_reads_nothing_costs_itself_only() {
    let place = Place::new();
    let daemon = place.start_with(&[("KVTIER_HOST_CAPACITY", "8MiB"), RELAY]);
    let mut engine = Engine::open(&daemon);
    for chain in 0..8 {
        engine.store(chain * 8..chain * 8 + 8);
    }
    let mut other = Engine::open_as(&daemon, 2, "other");
    // Far more than may be under way; requests wait in the ring while answers find no room in theirs.
    for _ in 0..500 {
        engine.credit(u32::MAX);
    }
    for round in 0..50 {
        other.store(10_000 + round..10_001 + round);
    }
    other.until(|router| router.count("relay", "cpu") > 0);
    // And it hears all of it once it reads. What was beyond is forgotten, so it gives credit anew.
    while engine.count("cpu") < 64 {
        if let Said::Events(Some(batch)) = engine.pair.scheduler.answer() {
            engine.router.hear("relay", &batch);
            engine.credit(1);
        }
    }
    assert_eq!(engine.router.dropped, 0);
    engine.pair.close();
    other.pair.close();
    end(daemon);
}

#[test]
fn a_daemon_that_relays_and_has_nothing_to_say_sleeps() {
    let place = Place::new();
    let daemon = place.start_with(&[RELAY]);
    let mut engine = Engine::open(&daemon);
    engine.store(0..8);
    engine.until(|router| router.count("relay", "cpu") == 8);
    for credit in [1, 8] {
        engine.credit(credit);
        support::eventually("the daemon falls asleep", || {
            let before = daemon.own_wake_ups();
            std::thread::sleep(std::time::Duration::from_millis(300));
            (daemon.own_wake_ups() == before).then_some(())
        });
    }
    engine.pair.close();
    end(daemon);
}

#[test]
fn a_daemon_that_relays_nothing_says_so() {
    let place = Place::new();
    let daemon = place.start();
    let mut engine = Engine::open(&daemon);
    for _ in 0..2 {
        engine.credit(1);
        assert_eq!(engine.pair.scheduler.answer(), Said::Events(None));
    }
    engine.pair.close();
    end(daemon);
}
