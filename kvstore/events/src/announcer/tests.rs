//! The announcer with real sockets: routers that dial and routers that listen, slow ones, new ones, replays, and the end.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use kvstore_types::{
    AttentionKind, BlockDescriptor, BlockHash, BlockKey, BootEpoch, GroupIndex, NamespaceId, SessionId, Tier,
};

use super::{Announcer, EventsConfig, TenantFeed};
use crate::book::{BookLimits, Identity};
use crate::feed::{FeedItem, FeedSender, GroupShape, NamespaceShape, feed};
use crate::publisher::PublisherConfig;
use crate::testing::{Router, Subscriber};
use crate::wire::Encoding;

mod dialled;

const TOPIC: &str = "kv@node:n@m";
const SPACE: NamespaceId = NamespaceId([5; 16]);

struct Stage {
    announcer: Announcer,
    sender: FeedSender,
    /// Numbers of snapshots that were asked for.
    asked: mpsc::Receiver<u64>,
}

fn key(number: u32) -> BlockKey {
    let mut hash = [0; 32];
    hash[28..].copy_from_slice(&number.to_be_bytes());
    hash[0] = 1;
    BlockKey {
        namespace: SPACE,
        group: GroupIndex(0),
        hash: BlockHash(hash),
    }
}

fn stored(number: u32, tier: Tier) -> FeedItem {
    // Chains of a hundred.
    let parent = (!number.is_multiple_of(100)).then(|| key(number - 1).hash);
    let descriptor = BlockDescriptor {
        parent,
        tokens: vec![number; 16].into(),
        lora_name: None,
        extra_keys: &[],
    };
    FeedItem::Stored {
        key: key(number),
        tier,
        descriptor: Some(descriptor.encode().unwrap()),
    }
}

fn removed(number: u32, tier: Tier) -> FeedItem {
    FeedItem::Removed {
        key: key(number),
        tier,
    }
}

fn publisher() -> PublisherConfig {
    PublisherConfig {
        connect: Vec::new(),
        bind: Vec::new(),
        replay: None,
        media: ["cpu".to_owned(), "storage".to_owned(), "storage".to_owned()],
        encoding: Encoding::Array,
        batch_blocks: 256,
        announce_rate: 1_000_000,
    }
}

fn bound() -> PublisherConfig {
    PublisherConfig {
        bind: vec!["tcp://127.0.0.1:0".parse().unwrap()],
        ..publisher()
    }
}

impl Stage {
    fn new(publisher: PublisherConfig, capacity: usize, limits: BookLimits) -> Self {
        let bell = Arc::default();
        let (mut sender, receiver) = feed(capacity, Arc::clone(&bell));
        let (ask, asked) = mpsc::channel();
        let config = EventsConfig {
            publisher,
            identities: vec![Identity::Node("n".to_owned()), Identity::Pods],
            batch_delay: Duration::from_millis(1),
            limits,
            ledger: None,
        };
        let tenant = TenantFeed {
            feed: receiver,
            ask_snapshot: Box::new(move |number| ask.send(number).unwrap()),
        };
        let announcer = Announcer::start(config, BootEpoch([0; 16]), bell, vec![tenant]).unwrap();
        sender.push(FeedItem::Namespace(Arc::new(NamespaceShape {
            namespace: SPACE,
            model: Some("m".into()),
            groups: vec![GroupShape {
                kind: AttentionKind::Full,
                tokens_per_block: 16,
            }],
        })));
        sender.flush();
        Self {
            announcer,
            sender,
            asked,
        }
    }

    fn say(&mut self, items: impl IntoIterator<Item = FeedItem>) {
        for item in items {
            self.sender.push(item);
        }
        self.sender.flush();
    }

    fn address(&self) -> SocketAddr {
        self.announcer.addresses()[0]
    }

    fn subscriber(&self) -> Subscriber {
        let mut subscriber = Subscriber::connect(self.address());
        subscriber.subscribe("kv@");
        subscriber
    }
}

/// Listens until the router believes in so many blocks, or the publisher is gone.
fn hear_until(subscriber: &mut Subscriber, router: &mut Router, is_enough: impl Fn(&Router) -> bool) {
    while !is_enough(router) {
        let Some((topic, _, payload)) = subscriber.receive() else {
            panic!(
                "the publisher is gone, and the router believes in {} blocks",
                router.blocks().len()
            );
        };
        router.hear(&topic, &payload);
    }
}

fn connected(listener: &TcpListener) -> PublisherConfig {
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    PublisherConfig {
        connect: vec![address.parse().unwrap()],
        ..publisher()
    }
}

fn attached(session: u64, pod: &str) -> FeedItem {
    FeedItem::PodAttached {
        session: SessionId(session),
        namespace: SPACE,
        pod: pod.into(),
        model: "served".into(),
    }
}

fn detached(session: u64) -> FeedItem {
    FeedItem::PodDetached {
        session: SessionId(session),
    }
}

#[test]
fn a_router_that_dials_hears_what_is_there_and_what_changes() {
    let mut stage = Stage::new(bound(), 100_000, BookLimits::default());
    stage.say((0..1000).map(|number| stored(number, Tier::Host)));
    let mut subscriber = stage.subscriber();
    let mut router = Router::default();
    hear_until(&mut subscriber, &mut router, |router| {
        router.count(TOPIC, "cpu") == 1000
    });
    stage.say((0..500).map(|number| stored(number, Tier::Nvme)));
    stage.say([removed(999, Tier::Host)]);
    hear_until(&mut subscriber, &mut router, |router| {
        router.count(TOPIC, "storage") == 500 && router.count(TOPIC, "cpu") == 999
    });
    assert_eq!((router.dropped, router.count_max()), (0, 1));
    let key = key(7).hash.0;
    assert_eq!(router.tokens(&key), Some(&[7_u64; 16][..]));
    stage.announcer.stop();
}

#[test]
fn everything_is_withdrawn_at_the_end() {
    let mut stage = Stage::new(bound(), 100_000, BookLimits::default());
    stage.say((0..5000).map(|number| stored(number, Tier::Host)));
    let mut subscriber = stage.subscriber();
    let mut router = Router::default();
    hear_until(&mut subscriber, &mut router, |router| {
        router.count(TOPIC, "cpu") == 5000
    });
    let listening = std::thread::spawn(move || {
        while let Some((topic, _, payload)) = subscriber.receive() {
            router.hear(&topic, &payload);
        }
        router
    });
    stage.announcer.stop();
    assert!(listening.join().unwrap().blocks().is_empty());
}

#[test]
fn a_router_that_listens_is_dialled_again_and_told_everything_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = PublisherConfig {
        encoding: Encoding::Map,
        ..connected(&listener)
    };
    let mut stage = Stage::new(config, 100_000, BookLimits::default());
    stage.say((0..300).map(|number| stored(number, Tier::Nvme)));
    let mut router = Router::default();
    for round in 0..3 {
        let mut subscriber = Subscriber::accept(&listener);
        subscriber.subscribe("kv@");
        // The router lives on: it may know what has gone while it was not connected.
        let expected = 300 - round;
        hear_until(&mut subscriber, &mut router, |router| {
            router.count(TOPIC, "storage") == usize::try_from(expected).unwrap()
        });
        drop(subscriber);
        stage.say([removed(299 - round, Tier::Nvme)]);
    }
    assert_eq!((router.dropped, router.count_max()), (0, 1));
    stage.announcer.stop();
}

#[test]
fn a_router_that_takes_nothing_is_told_everything_again_afterwards() {
    let limits = BookLimits {
        changes: 1000,
        debts: 1_000_000,
    };
    let mut stage = Stage::new(bound(), 100_000, limits);
    let mut subscriber = stage.subscriber();
    let (topic, number, _) = subscriber.receive().unwrap();
    assert_eq!(
        (topic.as_str(), number),
        ("kv@", 0),
        "the first message says nothing"
    );
    // Far more than the kernel takes for it.
    let rounds = 20;
    for round in 0..rounds {
        stage.say((0..5000).map(|number| stored(round * 5000 + number, Tier::Host)));
        while stage.sender.room() < 50_000 {
            std::thread::yield_now();
        }
        if round + 1 < rounds {
            stage.say((0..5000).map(|number| removed(round * 5000 + number, Tier::Host)));
        }
    }
    let mut router = Router::default();
    let last = key((rounds - 1) * 5000 + 4999).hash.0.to_vec();
    hear_until(&mut subscriber, &mut router, |router| {
        router.count(TOPIC, "cpu") == 5000
            && router
                .blocks()
                .contains(&(TOPIC.to_owned(), "cpu".to_owned(), last.clone()))
    });
    assert_eq!(router.count_max(), 1);
    let counters = stage.announcer.counters().count();
    assert!(counters.announcements > 1, "{counters:?}");
    stage.announcer.stop();
}

#[test]
fn what_the_feed_lost_a_snapshot_repairs() {
    let mut stage = Stage::new(bound(), 1000, BookLimits::default());
    stage.say((0..100).map(|number| stored(number, Tier::Host)));
    let mut subscriber = stage.subscriber();
    let mut router = Router::default();
    hear_until(&mut subscriber, &mut router, |router| {
        router.count(TOPIC, "cpu") == 100
    });
    // Too much at once: lost, and with it that block 0 to 49 are gone and 100 to 1299 have come.
    let gone = (0..50).map(|number| removed(number, Tier::Host));
    let come = (100..1300).map(|number| stored(number, Tier::Host));
    stage.say(gone.chain(come));
    let number = stage.asked.recv_timeout(Duration::from_mins(1)).unwrap();
    stage.say([FeedItem::SnapshotBegun { number }]);
    let truth: Vec<u32> = (100..1300).collect();
    for slice in truth.chunks(300) {
        while stage.sender.room() < 400 {
            std::thread::yield_now();
        }
        stage.say(slice.iter().map(|number| stored(*number, Tier::Host)));
    }
    stage.say([FeedItem::SnapshotEnded { number }]);
    hear_until(&mut subscriber, &mut router, |router| {
        let first = (TOPIC.to_owned(), "cpu".to_owned(), key(0).hash.0.to_vec());
        router.count(TOPIC, "cpu") == 1200 && !router.blocks().contains(&first)
    });
    assert_eq!(stage.announcer.counters().count().snapshots, 1);
    stage.announcer.stop();
}

#[test]
fn a_pod_is_announced_while_it_is_attached() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stage = Stage::new(connected(&listener), 100_000, BookLimits::default());
    stage.say((0..200).map(|number| stored(number, Tier::Host)));
    let mut subscriber = Subscriber::accept(&listener);
    subscriber.subscribe("kv@");
    let mut router = Router::default();
    let pod = "kv@10.0.0.9:8000@served";
    stage.say([attached(1, "10.0.0.9:8000")]);
    hear_until(&mut subscriber, &mut router, |router| {
        router.count(pod, "cpu") == 200 && router.count("kv@node:n@served", "cpu") == 200
    });
    stage.say([removed(199, Tier::Host), detached(1)]);
    hear_until(&mut subscriber, &mut router, |router| {
        router.count(pod, "cpu") == 0 && router.count("kv@node:n@served", "cpu") == 199
    });
    // The node is known by the name that was served, and no longer by the model's own.
    assert_eq!(router.count(TOPIC, "cpu"), 0);
    stage.announcer.stop();
}

#[test]
fn only_what_is_subscribed_to_is_told() {
    let mut stage = Stage::new(bound(), 100_000, BookLimits::default());
    stage.say((0..200).map(|number| stored(number, Tier::Host)));
    let mut subscriber = Subscriber::connect(stage.address());
    subscriber.subscribe("kv@other");
    assert_eq!(subscriber.receive().unwrap().0, "kv@other");
    subscriber.subscribe("kv@node:n@");
    subscriber.cancel("kv@other");
    let mut router = Router::default();
    hear_until(&mut subscriber, &mut router, |router| {
        router.count(TOPIC, "cpu") == 200
    });
    stage.announcer.stop();
}

#[test]
fn a_peer_that_is_no_subscriber_is_refused_and_disturbs_nobody() {
    use std::io::{Read, Write};
    let mut stage = Stage::new(bound(), 100_000, BookLimits::default());
    stage.say((0..10).map(|number| stored(number, Tier::Host)));
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], &[0xff; 4096]] {
        let mut stream = std::net::TcpStream::connect(stage.address()).unwrap();
        // It may be refused while it is still talking.
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let mut subscriber = stage.subscriber();
    let mut router = Router::default();
    hear_until(&mut subscriber, &mut router, |router| {
        router.count(TOPIC, "cpu") == 10
    });
    stage.announcer.stop();
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", taken.local_addr().unwrap());
    let config = EventsConfig {
        publisher: PublisherConfig {
            bind: vec![address.parse().unwrap()],
            ..publisher()
        },
        identities: Vec::new(),
        batch_delay: Duration::ZERO,
        limits: BookLimits::default(),
        ledger: None,
    };
    let error = Announcer::start(config, BootEpoch([0; 16]), Arc::default(), Vec::new()).unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
}

/// The pace is a bound, so nobody is told faster; that it is not slower is a benchmark's business.
#[test]
fn announcing_everything_is_paced() {
    let config = PublisherConfig {
        announce_rate: 1000,
        batch_blocks: 100,
        ..bound()
    };
    let mut stage = Stage::new(config, 100_000, BookLimits::default());
    stage.say((0..500).map(|number| stored(number, Tier::Host)));
    while stage.announcer.counters().count().blocks < 500 {
        std::thread::yield_now();
    }
    let began = std::time::Instant::now();
    let mut subscriber = stage.subscriber();
    let mut router = Router::default();
    hear_until(&mut subscriber, &mut router, |router| {
        router.count(TOPIC, "cpu") == 500
    });
    // Four waits of a hundred blocks between five slices.
    assert!(began.elapsed() >= Duration::from_millis(400));
    stage.announcer.stop();
}
