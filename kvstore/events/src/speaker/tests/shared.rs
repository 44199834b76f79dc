//! A pool's name, under which several nodes announce what is in the remote tier: what one of them does not know is not its
//! to take back. It used to tell every block as removed that it knew at all.

use kvstore_types::{SessionId, Tier};
use rand::Rng;

use super::{Outlook, SPACES, Space, World, encoded, media};
use crate::book::{Book, BookLimits, Identity};
use crate::feed::FeedItem;
use crate::speaker::Speaker;
use crate::testing::Router;
use crate::wire::Encoding;

const POOL: &str = "kv@pool:p@model-0";
const SPACE: &Space = &SPACES[0];

/// A daemon and its connection to the router.
struct Node {
    book: Book,
    speaker: Speaker,
}

impl Node {
    fn start(name: &str) -> Self {
        let identities = vec![Identity::Node(name.to_owned()), Identity::Pool("p".to_owned())];
        let limits = BookLimits {
            changes: 4,
            ..BookLimits::default()
        };
        let mut book = Book::new(limits, identities);
        book.apply(0, SPACE.shape());
        let speaker = Speaker::new(&mut book, media(), Encoding::Array).clearing();
        Self { book, speaker }
    }

    fn connected(mut self) -> Self {
        self.connect();
        self
    }

    fn connect(&mut self) {
        self.speaker.subscribed(&mut self.book, |_| true);
    }

    fn store(&mut self, tier: Tier, numbers: &[u8]) {
        for &number in numbers {
            self.book.apply(0, SPACE.stored(number, tier));
        }
    }

    fn remove(&mut self, tier: Tier, numbers: &[u8]) {
        for &number in numbers {
            let key = SPACE.key(number);
            self.book.apply(0, FeedItem::Removed { key, tier });
        }
    }

    fn tell(&mut self, router: &mut Router) {
        while self.speaker.outlook(&self.book) != Outlook::Nothing {
            for part in &self.speaker.next(&mut self.book, |_| true, 3, true).list {
                router.hear(&part.topic.name, &encoded(&self.speaker, part));
            }
        }
    }
}

/// Blocks that the router believes to be in the pool.
fn pooled(router: &Router) -> usize {
    router
        .blocks()
        .iter()
        .filter(|(topic, _, _)| topic == POOL)
        .count()
}

/// One chain, root first.
const CHAIN: [u8; 5] = [1, 3, 7, 15, 31];

fn pool_of_one(router: &mut Router) -> Node {
    let mut one = Node::start("one").connected();
    one.store(Tier::Host, &CHAIN);
    one.store(Tier::Remote, &CHAIN);
    one.tell(router);
    assert_eq!(pooled(router), 5);
    one
}

#[test]
fn a_node_that_knows_nothing_of_the_remote_tier_takes_nothing_back() {
    let mut router = Router::default();
    let _one = pool_of_one(&mut router);
    // What it has when it connects, what comes and goes while it announces, and what comes and goes afterwards.
    let mut other = Node::start("other");
    other.store(Tier::Host, &CHAIN[..3]);
    other.store(Tier::Nvme, &CHAIN[..3]);
    other.connect();
    other.remove(Tier::Host, &CHAIN[..1]);
    other.tell(&mut router);
    other.store(Tier::Nvme, &CHAIN[3..]);
    other.remove(Tier::Nvme, &CHAIN);
    other.tell(&mut router);
    assert_eq!((pooled(&router), router.count_max()), (5, 1));
    // It went while nobody was told.
    other.store(Tier::Host, &CHAIN);
    other.tell(&mut router);
    other.speaker.disconnected(&mut other.book);
    other.remove(Tier::Host, &CHAIN);
    other.connect();
    other.tell(&mut router);
    other.book.withdraw_topics();
    other.tell(&mut router);
    assert_eq!(pooled(&router), 5);
}

#[test]
fn what_a_node_knows_to_have_left_the_remote_tier_is_told_also_to_a_router_that_was_away() {
    let mut router = Router::default();
    let mut one = pool_of_one(&mut router);
    one.remove(Tier::Remote, &CHAIN[4..]);
    one.tell(&mut router);
    assert_eq!(pooled(&router), 4);
    one.speaker.disconnected(&mut one.book);
    // Of these one stays in memory, and more follows than is kept of changes.
    one.remove(Tier::Remote, &CHAIN[2..4]);
    one.remove(Tier::Host, &CHAIN[3..4]);
    one.store(Tier::Nvme, &CHAIN);
    one.connect();
    one.tell(&mut router);
    assert_eq!((pooled(&router), router.count_max()), (2, 1));
    assert_eq!(router.count("kv@node:one@model-0", "cpu"), 4);
}

#[test]
fn a_good_end_leaves_what_is_in_the_remote_tier() {
    let mut router = Router::default();
    let mut one = pool_of_one(&mut router);
    let mut other = Node::start("other").connected();
    other.store(Tier::Remote, &CHAIN[..2]);
    other.tell(&mut router);
    one.book.withdraw_topics();
    one.tell(&mut router);
    assert_eq!((pooled(&router), router.count_max()), (5, 1));
    assert_eq!(router.count("kv@node:one@model-0", "cpu"), 0);
    // The next one finds them, and counts each once.
    let mut next = Node::start("one").connected();
    next.store(Tier::Remote, &CHAIN);
    next.tell(&mut router);
    assert_eq!((pooled(&router), router.count_max()), (5, 1));
}

/// A pool stands alone where no engine is attached, and gives way when one comes: for who has dialled, the two are one.
#[test]
fn a_pool_beside_engines_that_come_and_go_never_holds_up_what_is_told() {
    for seed in 0..10 {
        let identities = vec![Identity::Pods, Identity::Pool("p".to_owned())];
        let limits = BookLimits {
            changes: 32,
            debts: 100_000,
        };
        let mut world = World::announced_as(identities, seed, limits);
        world.all_dial = true;
        world.add_peer();
        for step in 0..1000 {
            world.change();
            let may_walk = world.random.random_range(0..3) == 0;
            world.tell(0, 4, may_walk, true);
            if step % 50 == 49 {
                // It comes to an end. Of a pool alone a router knows what its parents let it know.
                world.settle();
            }
        }
        for (session, space) in (0..).zip(&SPACES) {
            let attached = FeedItem::PodAttached {
                session: SessionId(100 + session),
                namespace: space.namespace,
                pod: format!("10.0.1.{session}:80").into(),
                model: "served".into(),
            };
            world.book.apply(space.tenant, attached);
        }
        world.settle();
        let truth = world.truth(true);
        let believed = world.peers[0].router.blocks().into_iter();
        let mut believed = believed.map(|(topic, medium, hash)| (topic, medium.to_lowercase(), hash));
        assert!(
            believed.all(|block| truth.contains(&block)),
            "nothing that is gone"
        );
        world.peers[0].speaker.subscribed(&mut world.book, |_| true);
        world.settle();
        world.check();
    }
}
