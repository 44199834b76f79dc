//! What a real daemon announces: stores, evictions, NVMe, engines that come and go, kills and restarts. Believed by a router
//! that follows the rules, it is what the daemon has.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::net::TcpListener;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use connector_shm::{GroupKeys, Keys, Request, Role, Runs};
use kvstore_events::testing::{Router, Subscriber};
use kvstore_types::{BlockHash, DescriptorRun, Rank, SlotRef};
use rustix::process::Signal;
use support::client::{Client, Said, hash, request};
use support::{Daemon, Place, eventually};

/// Bytes of a block, and blocks of a chain.
const BLOCK_BYTES: u64 = 64 << 10;
const CHAIN: u32 = 8;
const TOKENS: u32 = 16;
const POD: &str = "10.1.2.3:8000";
const TOPIC: &str = "kv@10.1.2.3:8000@served";

/// A router that listens, and takes every publisher that dials, one after the other.
struct Ears {
    router: Arc<Mutex<Router>>,
    address: String,
    listening: Option<JoinHandle<()>>,
}

impl Ears {
    /// `publishers`: how many will dial, each after the one before has gone.
    fn open(publishers: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp://{}", listener.local_addr().unwrap());
        let router = Arc::new(Mutex::new(Router::default()));
        let heard = Arc::clone(&router);
        let listening = std::thread::spawn(move || {
            for _ in 0..publishers {
                let mut subscriber = Subscriber::accept(&listener);
                subscriber.subscribe("kv@");
                while let Some((topic, _, payload)) = subscriber.receive() {
                    heard.lock().unwrap().hear(&topic, &payload);
                }
            }
        });
        Self {
            router,
            address,
            listening: Some(listening),
        }
    }

    fn count(&self, topic: &str, medium: &str) -> usize {
        self.router.lock().unwrap().count(topic, medium)
    }

    fn until(&self, what: &str, is_so: impl Fn(&Router) -> bool) {
        eventually(what, || is_so(&self.router.lock().unwrap()).then_some(()));
    }

    /// The last publisher is gone: what is believed now.
    fn close(mut self) -> Router {
        self.listening.take().unwrap().join().unwrap();
        self.router.lock().unwrap().clone()
    }
}

fn start(place: &Place, ears: &Ears, more: &[(&str, &str)]) -> Daemon {
    let mut variables = vec![
        ("KVTIER_HOST_CAPACITY", "8MiB"),
        ("KVTIER_EVENTS_CONNECT", ears.address.as_str()),
        ("KVTIER_EVENTS_BATCH_DELAY", "1ms"),
        ("KVTIER_SHUTDOWN_DEADLINE", "30s"),
    ];
    variables.extend_from_slice(more);
    place.start_with(&variables)
}

/// An engine that says what its blocks are about, and where routers find it.
struct Engine {
    scheduler: Client,
    worker: Client,
}

impl Engine {
    fn open(daemon: &Daemon) -> Self {
        let open = |role| {
            let mut request = request(role, 1);
            POD.clone_into(&mut request.pod);
            "served".clone_into(&mut request.model);
            if matches!(role, Role::Worker(_)) {
                request.groups[0].rank_bytes = BLOCK_BYTES;
            }
            Client::try_open(daemon.socket(), &request).unwrap()
        };
        let (mut scheduler, mut worker) = (open(Role::Scheduler), open(Role::Worker(Rank(0))));
        assert_eq!((scheduler.hear(), worker.hear()), (Said::Ready, Said::Ready));
        Self { scheduler, worker }
    }

    /// Stores whole chains, each described by one run; how many blocks were published.
    fn store(&mut self, chains: Range<u32>) -> u32 {
        chains.map(|chain| self.store_chain(chain)).sum()
    }

    fn store_chain(&mut self, chain: u32) -> u32 {
        let numbers = chain * CHAIN..(chain + 1) * CHAIN;
        let hashes: Vec<BlockHash> = numbers.clone().map(hash).collect();
        let tokens: Vec<u32> = numbers.flat_map(|number| vec![number; TOKENS as usize]).collect();
        let run = DescriptorRun {
            blocks: CHAIN,
            tokens_per_block: TOKENS,
            parent: None,
            tokens: &tokens,
            lora_name: None,
            extra_keys: &[],
        };
        let tag = self.scheduler.tag();
        let keys = [GroupKeys {
            group: 0,
            hashes: &hashes,
        }];
        self.scheduler.send(&Request::ReserveDescribed {
            tag,
            keys: Keys::new(&keys),
            runs: Runs::new(&[run]),
        });
        let slots = match self.scheduler.answer() {
            Said::Grants(slots) => slots,
            other => panic!("want grants, got {other:?}"),
        };
        let slots: Vec<SlotRef> = slots.into_iter().filter(|slot| slot.page != 0).collect();
        match self.worker.seal(&slots) {
            Said::Sealed { published, .. } => published,
            other => panic!("want a seal's answer, got {other:?}"),
        }
    }

    fn close(self) {
        self.scheduler.close();
        self.worker.close();
    }
}

fn end(mut daemon: Daemon, signal: Signal) {
    daemon.signal(signal);
    let status = daemon.wait();
    assert!(signal == Signal::KILL || status.code() == Some(0), "{status}");
}

/// Blocks in memory and on NVMe, as the daemon counts them.
fn truth(daemon: &Daemon) -> (usize, usize) {
    let of = |name| usize::try_from(daemon.occupancy(name)).unwrap();
    (of("slots_resident"), of("nvme_blocks"))
}

fn settled(daemon: &Daemon, ears: &Ears) {
    eventually("what is announced is what there is", || {
        let believed = (ears.count(TOPIC, "cpu"), ears.count(TOPIC, "storage"));
        (believed == truth(daemon)).then_some(())
    });
    let router = ears.router.lock().unwrap();
    assert_eq!((router.dropped, router.count_max() <= 1), (0, true));
}

#[test]
fn stores_and_evictions_are_announced() {
    let place = Place::new();
    let ears = Ears::open(1);
    let daemon = start(&place, &ears, &[]);
    let mut engine = Engine::open(&daemon);
    assert_eq!(engine.store(0..4), 4 * CHAIN);
    settled(&daemon, &ears);
    assert_eq!(ears.count(TOPIC, "cpu"), 32);
    let tokens = vec![9_u64; TOKENS as usize];
    let key = hash(9).0;
    assert_eq!(ears.router.lock().unwrap().tokens(&key), Some(tokens.as_slice()));
    // More than memory holds.
    engine.store(4..40);
    assert!(daemon.counter("evicted_for_space") + daemon.counter("evicted_for_watermark") > 0);
    // A chain whose first block is gone is not announced, so this is a bound.
    ears.until("the last chain is there", |router| {
        let key = (
            TOPIC.to_owned(),
            "cpu".to_owned(),
            hash(40 * CHAIN - 1).0.to_vec(),
        );
        router.blocks().contains(&key)
    });
    eventually("evictions are announced", || {
        (ears.count(TOPIC, "cpu") <= truth(&daemon).0).then_some(())
    });
    assert!(daemon.status()["events"]["messages"].as_u64().unwrap() > 1);
    engine.close();
    ears.until("nobody serves the blocks any more", |router| {
        router.count(TOPIC, "cpu") == 0
    });
    end(daemon, Signal::TERM);
    assert!(ears.close().blocks().is_empty());
}

#[test]
fn what_is_on_nvme_is_announced_also_after_a_kill() {
    let place = Place::new();
    let ears = Ears::open(3);
    let directory = place.path("nvme");
    let directory = directory.display().to_string();
    let nvme = [
        ("KVTIER_NVME_DIRECTORIES", directory.as_str()),
        ("KVTIER_NVME_CAPACITY", "128MiB"),
    ];
    let daemon = start(&place, &ears, &nvme);
    support::blocks::loaded(&daemon, 1);
    let mut engine = Engine::open(&daemon);
    for chain in 0..40 {
        engine.store(chain..chain + 1);
        support::blocks::written(&daemon);
    }
    assert_eq!(truth(&daemon).1, 40 * CHAIN as usize);
    settled(&daemon, &ears);
    end(daemon, Signal::KILL);
    // The router lives on, and believes what it was told until it is told better.
    for signal in [Signal::TERM, Signal::KILL] {
        let daemon = start(&place, &ears, &nvme);
        support::blocks::loaded(&daemon, 1);
        let engine = Engine::open(&daemon);
        ears.until("everything on NVMe is announced", |router| {
            router.count(TOPIC, "storage") == 40 * CHAIN as usize && router.count(TOPIC, "cpu") == 0
        });
        settled(&daemon, &ears);
        if signal == Signal::TERM {
            engine.close();
        }
        end(daemon, signal);
    }
    let router = ears.close();
    assert_eq!(
        router.count(TOPIC, "storage"),
        40 * CHAIN as usize,
        "nobody could say it was gone"
    );
}

/// What was in memory only stayed in a router that lived on, until it forgot it by itself.
#[test]
fn what_was_in_memory_only_is_cleared_under_a_nodes_name_after_a_kill() {
    let place = Place::new();
    let ears = Ears::open(2);
    let node = [("KVTIER_EVENTS_IDENTITIES", "node:alpha")];
    let topic = "kv@node:alpha@served";
    let daemon = start(&place, &ears, &node);
    Engine::open(&daemon).store(0..2);
    ears.until("both chains are there", |router| router.count(topic, "cpu") == 16);
    end(daemon, Signal::KILL);
    let daemon = start(&place, &ears, &node);
    ears.until("nothing is there", |router| router.blocks().is_empty());
    let mut engine = Engine::open(&daemon);
    engine.store(1..4);
    ears.until("all chains are there", |router| router.count(topic, "cpu") == 24);
    engine.close();
    end(daemon, Signal::TERM);
    assert!(ears.close().blocks().is_empty());
}

/// Where the daemon of a place keeps what it has announced.
fn ledger(place: &Place) -> PathBuf {
    let mut path = place.socket().into_os_string();
    path.push(".announced");
    path.into()
}

/// Under a pod's name nothing may be cleared, and the next daemon used not to know what it had to take back.
#[test]
fn what_was_in_memory_only_is_taken_back_under_a_pods_name_after_a_kill() {
    let place = Place::new();
    let ears = Ears::open(4);
    let daemon = start(&place, &ears, &[]);
    let mut engine = Engine::open(&daemon);
    engine.store(0..3);
    ears.until("all chains are there", |router| router.count(TOPIC, "cpu") == 24);
    end(daemon, Signal::KILL);
    // Killed again, most likely before it was time to tell anybody what was gone.
    let daemon = start(&place, &ears, &[]);
    let mut engine_again = Engine::open(&daemon);
    engine_again.store(3..4);
    let one_more = (TOPIC.to_owned(), "cpu".to_owned(), hash(3 * CHAIN).0.to_vec());
    ears.until("one more is there", |router| router.blocks().contains(&one_more));
    end(daemon, Signal::KILL);
    drop((engine, engine_again));
    // The engine comes back and stores some of it again.
    let daemon = start(&place, &ears, &[]);
    let mut engine = Engine::open(&daemon);
    engine.store(2..3);
    engine.store(9..10);
    ears.until("only what was stored again is there", |router| {
        router.count(TOPIC, "cpu") == 16
    });
    settled(&daemon, &ears);
    end(daemon, Signal::KILL);
    drop(engine);
    // It does not come back.
    let daemon = start(&place, &ears, &[]);
    ears.until("nothing is there", |router| router.blocks().is_empty());
    let mut engine = Engine::open(&daemon);
    engine.store(0..1);
    ears.until("one chain is there", |router| router.count(TOPIC, "cpu") == 8);
    engine.close();
    ears.until("it has been taken back", |router| router.blocks().is_empty());
    end(daemon, Signal::TERM);
    assert!(ears.close().blocks().is_empty());
}

/// A router that dials hears the same, each time it dials.
#[test]
fn what_was_in_memory_only_is_taken_back_from_a_router_that_dials_after_a_kill() {
    let place = Place::new();
    let address = {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let endpoint = format!("tcp://{address}");
    let bound = [
        ("KVTIER_EVENTS_BIND", endpoint.as_str()),
        ("KVTIER_EVENTS_BATCH_DELAY", "1ms"),
    ];
    let mut router = Router::default();
    let mut hear_until = |what: &str, is_so: &dyn Fn(&Router) -> bool| {
        let mut subscriber = Subscriber::connect(address);
        subscriber.subscribe("kv@");
        while !is_so(&router) {
            let (topic, _, payload) = subscriber.receive().expect(what);
            let model = topic.rsplit('@').next().unwrap();
            router.hear(&format!("kv@dialled@{model}"), &payload);
        }
        assert!(router.count_max() <= 1);
    };
    let topic = "kv@dialled@served";
    let daemon = place.start_with(&bound);
    let mut killed = Engine::open(&daemon);
    killed.store(0..2);
    hear_until("both chains", &|router| router.count(topic, "cpu") == 16);
    end(daemon, Signal::KILL);
    drop(killed);
    let daemon = place.start_with(&bound);
    let mut engine = Engine::open(&daemon);
    engine.store(5..6);
    let new = (topic.to_owned(), "cpu".to_owned(), hash(5 * CHAIN).0.to_vec());
    hear_until("only what is there", &|router| {
        router.count(topic, "cpu") == 8 && router.blocks().contains(&new)
    });
    engine.close();
    end(daemon, Signal::TERM);
}

#[test]
fn a_ledger_that_is_none_is_warned_of_and_replaced_and_a_good_end_leaves_none() {
    let place = Place::new();
    let ears = Ears::open(2);
    let daemon = start(&place, &ears, &[]);
    eventually("the router is connected", || {
        daemon.log().contains("publishing to a router").then_some(())
    });
    end(daemon, Signal::TERM);
    assert!(!ledger(&place).exists());
    std::fs::write(ledger(&place), "precious").unwrap();
    let daemon = start(&place, &ears, &[]);
    eventually("it is warned of", || {
        let log = daemon.log();
        log.contains("what an earlier daemon had announced cannot be read")
            .then_some(())
    });
    let mut engine = Engine::open(&daemon);
    engine.store(0..2);
    settled(&daemon, &ears);
    assert!(ledger(&place).metadata().unwrap().len() > 16 * 38);
    engine.close();
    end(daemon, Signal::TERM);
    assert!(ears.close().blocks().is_empty());
    assert!(!ledger(&place).exists());
}

#[test]
fn a_node_is_announced_by_its_own_name_without_any_engine() {
    let place = Place::new();
    let ears = Ears::open(1);
    let more = [
        ("KVTIER_EVENTS_IDENTITIES", "node:alpha"),
        ("KVTIER_EVENTS_ENCODING", "map"),
        ("KVTIER_EVENTS_HOST_MEDIUM", "dram"),
    ];
    let daemon = start(&place, &ears, &more);
    let mut engine = Engine::open(&daemon);
    engine.store(0..2);
    ears.until("both chains are there", |router| {
        router.count("kv@node:alpha@served", "dram") == 16
    });
    engine.close();
    end(daemon, Signal::TERM);
    assert!(ears.close().blocks().is_empty(), "withdrawn only at the end");
}

#[test]
fn an_address_that_is_taken_ends_the_start_with_its_name() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", taken.local_addr().unwrap());
    let (code, log) = support::run(place.command().env("KVTIER_EVENTS_BIND", &address));
    assert_eq!(code, i32::from(kvstore::exit::Exit::CannotServe.code()));
    assert!(log.contains(&format!("could not listen on {address}")), "{log}");
}

#[test]
fn a_daemon_that_publishes_and_has_nothing_to_say_sleeps() {
    let place = Place::new();
    let ears = Ears::open(1);
    let daemon = start(&place, &ears, &[]);
    let mut engine = Engine::open(&daemon);
    engine.store(0..2);
    settled(&daemon, &ears);
    let wakes = eventually("the daemon falls asleep", || {
        let before = daemon.own_wake_ups();
        std::thread::sleep(std::time::Duration::from_millis(300));
        (daemon.own_wake_ups() == before).then_some(before)
    });
    assert!(wakes > 0);
    engine.close();
    end(daemon, Signal::TERM);
    ears.close();
}
