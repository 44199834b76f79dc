//! A relay under a real announcer: what it says, in which pieces, and what credit does.

use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use kvstore_types::{
    AttentionKind, BlockDescriptor, BlockHash, BlockKey, BootEpoch, GroupIndex, NamespaceId, SessionId, Tier,
};

use super::{Relay, RelayOptions};
use crate::announcer::{Announcer, EventsConfig, TenantFeed};
use crate::book::{BookLimits, Identity};
use crate::feed::{FeedItem, FeedSender, GroupShape, NamespaceShape, feed};
use crate::publisher::{Address, PublisherConfig};
use crate::testing::{Router, Subscriber};
use crate::wire::Encoding;

const SPACE: NamespaceId = NamespaceId([5; 16]);
const SESSION: SessionId = SessionId(7);
const BATCH_BYTES_MAX: usize = 2000;
/// Nothing here takes this long, unless it hangs.
const WATCHDOG: Duration = Duration::from_mins(1);

struct Stage {
    announcer: Announcer,
    sender: FeedSender,
}

fn hash(number: u32) -> BlockHash {
    let mut hash = [1; 32];
    hash[28..].copy_from_slice(&number.to_be_bytes());
    BlockHash(hash)
}

fn key(number: u32) -> BlockKey {
    BlockKey {
        namespace: SPACE,
        group: GroupIndex(0),
        hash: hash(number),
    }
}

/// One chain.
fn stored(number: u32, tier: Tier) -> FeedItem {
    let descriptor = BlockDescriptor {
        parent: number.checked_sub(1).map(hash),
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

fn attached(pod: &str) -> FeedItem {
    FeedItem::PodAttached {
        session: SESSION,
        namespace: SPACE,
        pod: pod.into(),
        model: "m".into(),
    }
}

impl Stage {
    fn new(limits: BookLimits) -> Self {
        Self::publishing(limits, Vec::new())
    }

    /// It dials these routers.
    fn publishing(limits: BookLimits, connect: Vec<Address>) -> Self {
        let bell = Arc::default();
        let (mut sender, receiver) = feed(1 << 16, Arc::clone(&bell));
        let config = EventsConfig {
            publisher: PublisherConfig {
                connect,
                bind: Vec::new(),
                replay: None,
                media: ["cpu", "storage", "storage"].map(str::to_owned),
                encoding: Encoding::Array,
                batch_blocks: 256,
                announce_rate: 1_000_000,
            },
            identities: vec![Identity::Node("n".to_owned()), Identity::Pods],
            batch_delay: Duration::from_millis(1),
            limits,
            ledger: None,
        };
        let tenant = TenantFeed {
            feed: receiver,
            ask_snapshot: Box::new(|_| {}),
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
        Self { announcer, sender }
    }

    fn say(&mut self, items: impl IntoIterator<Item = FeedItem>) {
        for item in items {
            self.sender.push(item);
        }
        self.sender.flush();
    }

    fn open(&self) -> Ear {
        let (sender, messages) = mpsc::channel();
        let relay = self.announcer.relays().open(RelayOptions {
            tenant: 0,
            session: SESSION,
            batch_bytes_max: BATCH_BYTES_MAX,
            credit_max: 8,
            deliver: Box::new(move |batch| sender.send(batch).unwrap()),
        });
        Ear {
            relay,
            messages,
            router: Router::default(),
        }
    }
}

/// A client that takes messages in and gives their credit back.
struct Ear {
    relay: Relay,
    messages: mpsc::Receiver<Vec<u8>>,
    router: Router,
}

impl Ear {
    fn take(&mut self) {
        let batch = self.messages.recv_timeout(WATCHDOG).unwrap();
        assert!(batch.len() <= BATCH_BYTES_MAX);
        self.router.hear("relay", &batch);
    }

    fn until(&mut self, is_so: impl Fn(&Router) -> bool) {
        while !is_so(&self.router) {
            self.take();
            self.relay.grant(1);
        }
        assert_eq!((self.router.dropped, self.router.count_max() <= 1), (0, true));
    }

    fn count(&self, medium: &str) -> usize {
        self.router.count("relay", medium)
    }
}

#[test]
fn everything_that_is_there_is_told_and_then_every_change() {
    let mut stage = Stage::new(BookLimits::default());
    stage.say((0..500).map(|number| stored(number, Tier::Host)));
    stage.say([FeedItem::RelayBegan { session: SESSION }, attached("10.0.0.1:80")]);
    let mut ear = stage.open();
    ear.relay.grant(8);
    ear.until(|router| router.count("relay", "cpu") == 500);
    stage.say((0..500).map(|number| stored(number, Tier::Nvme)));
    stage.say((400..500).map(|number| FeedItem::Removed {
        key: key(number),
        tier: Tier::Host,
    }));
    ear.until(|router| router.count("relay", "storage") == 500 && router.count("relay", "cpu") == 400);
    assert_eq!(ear.router.tokens(&hash(9).0), Some(&[9_u64; 16][..]));
    stage.announcer.stop();
}

#[test]
fn no_more_is_under_way_than_there_is_credit_for_and_the_truth_catches_up() {
    // The ring of changes is far too small for what happens meanwhile.
    let limits = BookLimits {
        changes: 64,
        debts: 1 << 10,
    };
    let mut stage = Stage::new(limits);
    stage.say([FeedItem::RelayBegan { session: SESSION }, attached("10.0.0.1:80")]);
    let mut ear = stage.open();
    // More than may be under way at all.
    ear.relay.grant(5);
    ear.relay.grant(100);
    stage.say((0..1000).map(|number| stored(number, Tier::Host)));
    for _ in 0..8 {
        ear.take();
    }
    stage.say((1..1000).map(|number| FeedItem::Removed {
        key: key(number),
        tier: Tier::Host,
    }));
    stage.say([stored(1000, Tier::Nvme), stored(0, Tier::Nvme)]);
    // Without credit nothing comes; the count of blocks shows that all of it has been taken in.
    let counters = stage.announcer.counters();
    while counters.count().blocks != 2 {
        std::thread::yield_now();
    }
    assert!(
        ear.messages.try_recv().is_err(),
        "nothing is sent on credit that was never given"
    );
    ear.relay.grant(1);
    ear.until(|router| router.count("relay", "cpu") == 1 && router.count("relay", "storage") == 1);
    assert!(
        counters.count().announcements >= 2,
        "it was told everything again"
    );
    stage.announcer.stop();
}

#[test]
fn who_relays_is_announced_by_nobody_else_until_it_has_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let mut stage = Stage::publishing(BookLimits::default(), vec![address.parse().unwrap()]);
    stage.say((0..20).map(|number| stored(number, Tier::Host)));
    stage.say([FeedItem::RelayBegan { session: SESSION }, attached("10.0.0.1:80")]);
    let mut ear = stage.open();
    ear.relay.grant(8);
    ear.until(|router| router.count("relay", "cpu") == 20);
    assert_eq!(stage.announcer.counters().count().relays, 1);
    // One that wants to hear everything there is.
    let mut subscriber = Subscriber::accept(&listener);
    subscriber.subscribe("");
    let mut router = Router::default();
    let hear = |subscriber: &mut Subscriber, router: &mut Router| {
        let (topic, _, payload) = subscriber.receive().unwrap();
        assert!(topic.starts_with("kv@"), "{topic}");
        router.hear(&topic, &payload);
    };
    while router.count("kv@node:n@m", "cpu") < 20 {
        hear(&mut subscriber, &mut router);
    }
    assert_eq!(router.count("kv@10.0.0.1:80@m", "cpu"), 0);
    // Its successor does not relay.
    drop(ear);
    stage.say([
        FeedItem::PodDetached { session: SESSION },
        attached("10.0.0.1:80"),
    ]);
    while router.count("kv@10.0.0.1:80@m", "cpu") < 20 {
        hear(&mut subscriber, &mut router);
    }
    let counters = stage.announcer.counters();
    while counters.count().relays != 0 {
        std::thread::yield_now();
    }
    stage.announcer.stop();
}

#[test]
fn what_was_known_under_another_namespace_is_taken_back_first() {
    let mut stage = Stage::new(BookLimits::default());
    stage.say((0..20).map(|number| stored(number, Tier::Host)));
    stage.say([FeedItem::RelayBegan { session: SESSION }, attached("")]);
    let mut ear = stage.open();
    ear.relay.grant(8);
    ear.until(|router| router.count("relay", "cpu") == 20);
    stage.say([FeedItem::PodAttached {
        session: SESSION,
        namespace: NamespaceId([6; 16]),
        pod: "".into(),
        model: "".into(),
    }]);
    ear.until(|router| router.count("relay", "cpu") == 0);
    assert_eq!(ear.count("storage"), 0);
    stage.announcer.stop();
}
