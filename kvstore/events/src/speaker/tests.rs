//! Whatever happens, in whatever order: a router that follows the rules believes in the end exactly what is announced.

use std::collections::BTreeSet;
use std::sync::Arc;

use kvstore_types::{
    AttentionKind, BlockDescriptor, BlockHash, BlockKey, DescriptorBytes, GroupIndex, NamespaceId, SessionId,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Outlook, Speaker};
use crate::book::{Book, BookLimits, Identity};
use crate::feed::{FeedItem, GroupShape, NamespaceShape};
use crate::testing::Router;
use crate::tiers::{TIERS, TierSet};
use crate::wire::{Encoding, Media};

const TOKENS: u32 = 4;
const BLOCKS: u8 = 40;
const SPACES: u8 = 2;
const PODS: u64 = 3;

fn key(space: u8, number: u8) -> BlockKey {
    BlockKey {
        namespace: NamespaceId([space; 16]),
        group: GroupIndex(0),
        hash: hash(space, number),
    }
}

fn hash(space: u8, number: u8) -> BlockHash {
    let mut hash = [number; 32];
    hash[0] = space;
    BlockHash(hash)
}

/// Trees: a bushy one and a deep one. Blocks 0 and 1 are roots.
fn parent(space: u8, number: u8) -> Option<u8> {
    let parent = if space == 0 {
        number / 2
    } else {
        number.saturating_sub(1 + number % 3)
    };
    (number > 1).then_some(parent)
}

fn descriptor(space: u8, number: u8) -> DescriptorBytes {
    BlockDescriptor {
        parent: parent(space, number).map(|parent| hash(space, parent)),
        tokens: vec![u32::from(number); TOKENS as usize].into(),
        lora_name: None,
        extra_keys: &[],
    }
    .encode()
    .unwrap()
}

fn shape(space: u8) -> FeedItem {
    FeedItem::Namespace(Arc::new(NamespaceShape {
        namespace: NamespaceId([space; 16]),
        model: Some(format!("model-{space}").into()),
        groups: vec![GroupShape {
            kind: AttentionKind::Full,
            tokens_per_block: TOKENS,
        }],
    }))
}

fn media() -> Media {
    Media::new(&["cpu".to_owned(), "storage".to_owned(), "STORAGE".to_owned()])
}

fn names(tiers: TierSet) -> BTreeSet<&'static str> {
    tiers
        .iter()
        .map(|tier| if tier == TIERS[0] { "cpu" } else { "storage" })
        .collect()
}

/// A router, its connection and what it believes.
struct Peer {
    speaker: Speaker,
    router: Router,
    connected: bool,
    slow: bool,
}

struct World {
    random: SmallRng,
    book: Book,
    peers: Vec<Peer>,
}

impl World {
    fn new(seed: u64, limits: BookLimits) -> Self {
        let identities = vec![
            Identity::Pods,
            Identity::Node("n".to_owned()),
            Identity::Pool("p".to_owned()),
        ];
        let mut book = Book::new(limits, identities);
        for space in 0..SPACES {
            book.apply(0, shape(space));
        }
        Self {
            random: SmallRng::seed_from_u64(seed),
            book,
            peers: Vec::new(),
        }
    }

    fn add_peer(&mut self) {
        let encoding = if self.peers.len().is_multiple_of(2) {
            Encoding::Array
        } else {
            Encoding::Map
        };
        let mut speaker = Speaker::new(&mut self.book, media(), encoding);
        speaker.subscribed(&mut self.book, |_| true);
        self.peers.push(Peer {
            speaker,
            router: Router::default(),
            connected: true,
            slow: false,
        });
    }

    /// Tells one router something.
    fn tell(&mut self, index: usize, blocks_max: usize, may_walk: bool, arrives: bool) {
        let peer = &mut self.peers[index];
        let parts = peer.speaker.next(&mut self.book, |_| true, blocks_max, may_walk);
        if !arrives {
            return;
        }
        for part in &parts.parts {
            let (payload, left_out) = peer.speaker.encode(0.0, part);
            assert_eq!(left_out, 0);
            peer.router.hear(&part.topic.name, &payload);
        }
    }

    fn change(&mut self) {
        let space = self.random.random_range(0..SPACES);
        let number = self.random.random_range(0..BLOCKS);
        let key = key(space, number);
        let tier = TIERS[self.random.random_range(0..3)];
        let session = SessionId(self.random.random_range(0..PODS));
        let item = match self.random.random_range(0..100) {
            0..50 => FeedItem::Stored {
                key,
                tier,
                descriptor: (self.random.random_range(0..20) > 0).then(|| descriptor(space, number)),
            },
            50..96 => FeedItem::Removed { key, tier },
            96..98 => FeedItem::PodAttached {
                session,
                namespace: key.namespace,
                pod: format!("10.0.0.{}:80", session.0).into(),
                model: "served".into(),
            },
            _ => FeedItem::PodDetached { session },
        };
        self.book.apply(0, item);
    }

    /// Something happens to a connection.
    fn disturb(&mut self, index: usize) {
        match self.random.random_range(0..4) {
            0 => self.peers[index].slow ^= true,
            1 if self.peers[index].connected => {
                // The last words are lost.
                self.tell(index, 4, true, false);
                let peer = &mut self.peers[index];
                peer.speaker.disconnected(&mut self.book);
                peer.connected = false;
            }
            2 if self.peers[index].connected => {
                self.peers[index].speaker.subscribed(&mut self.book, |_| true);
            }
            _ if !self.peers[index].connected => {
                let peer = &mut self.peers[index];
                // Some are restarted meanwhile, and know nothing.
                if self.random.random_range(0..2) == 0 {
                    peer.router = Router::default();
                }
                peer.speaker.subscribed(&mut self.book, |_| true);
                peer.connected = true;
            }
            _ => {}
        }
    }

    /// Tells everybody everything there is to tell.
    fn settle(&mut self) {
        for index in 0..self.peers.len() {
            if !self.peers[index].connected {
                self.peers[index].speaker.subscribed(&mut self.book, |_| true);
                self.peers[index].connected = true;
            }
            for round in 0.. {
                assert!(
                    round < 10_000,
                    "a walk that does not end: {:?}",
                    self.peers[index].speaker
                );
                self.tell(index, 16, true, true);
                if self.peers[index].speaker.outlook(&self.book) == Outlook::Nothing {
                    break;
                }
            }
        }
    }

    /// What is to be believed.
    fn truth(&self) -> BTreeSet<(String, String, Vec<u8>)> {
        let mut truth = BTreeSet::new();
        for topic in self.book.topics() {
            for space in 0..SPACES {
                for number in 0..BLOCKS {
                    let key = key(space, number);
                    if key.namespace != topic.namespace {
                        continue;
                    }
                    let tiers = self.book.announced(0, &key).intersection(topic.tiers);
                    for medium in names(tiers) {
                        truth.insert((topic.name.to_string(), medium.to_owned(), key.hash.0.to_vec()));
                    }
                }
            }
        }
        truth
    }

    fn check(&self) {
        let truth = self.truth();
        for peer in &self.peers {
            let lower: BTreeSet<_> = peer
                .router
                .blocks()
                .into_iter()
                .map(|(topic, medium, hash)| (topic, medium.to_lowercase(), hash))
                .collect();
            let extra: Vec<_> = lower.difference(&truth).collect();
            let missing: Vec<_> = truth.difference(&lower).collect();
            assert!(
                extra.is_empty() && missing.is_empty(),
                "too many {extra:?}, too few {missing:?}"
            );
            assert!(peer.router.count_max() <= 1, "each block is counted once");
        }
    }
}

fn run(seed: u64, limits: BookLimits, steps: usize) {
    let mut world = World::new(seed, limits);
    world.add_peer();
    for step in 0..steps {
        world.change();
        for index in 0..world.peers.len() {
            let may_walk = world.random.random_range(0..3) == 0;
            let blocks_max = world.random.random_range(1..6);
            if !world.peers[index].slow && world.peers[index].connected {
                world.tell(index, blocks_max, may_walk, true);
            }
            if world.random.random_range(0..40) == 0 {
                world.disturb(index);
            }
        }
        if step % 200 == 50 && world.peers.len() < 4 {
            world.add_peer();
        }
        if step % 250 == 249 {
            world.settle();
            world.check();
        }
    }
    world.settle();
    world.check();
}

#[test]
fn routers_believe_what_is_announced_whatever_happens_to_them() {
    for seed in 0..30 {
        let limits = BookLimits {
            changes: 32,
            debts: 100_000,
        };
        run(seed, limits, 1500);
    }
}

#[test]
fn a_router_that_never_lost_its_connection_hears_nothing_out_of_order() {
    for seed in 0..20 {
        let mut world = World::new(seed, BookLimits::default());
        for _ in 0..300 {
            world.change();
        }
        world.add_peer();
        for _ in 0..1000 {
            world.change();
            let blocks_max = world.random.random_range(1..4);
            let may_walk = world.random.random_range(0..4) == 0;
            world.tell(0, blocks_max, may_walk, true);
        }
        world.settle();
        world.check();
        assert_eq!(world.peers[0].router.dropped, 0, "parents come first");
    }
}

#[test]
fn what_is_removed_while_everything_is_announced_is_not_announced_after_it() {
    let mut world = World::new(0, BookLimits::default());
    for number in 0..BLOCKS {
        let item = FeedItem::Stored {
            key: key(0, number),
            tier: TIERS[0],
            descriptor: Some(descriptor(0, number)),
        };
        world.book.apply(0, item);
    }
    world.add_peer();
    world.tell(0, 5, true, true);
    let item = FeedItem::Removed {
        key: key(0, BLOCKS - 1),
        tier: TIERS[0],
    };
    world.book.apply(0, item);
    world.settle();
    world.check();
    let router = &world.peers[0].router;
    assert_eq!(router.count("kv@node:n@model-0", "cpu"), usize::from(BLOCKS) - 1);
}

#[test]
fn removals_are_kept_only_while_somebody_is_behind() {
    let limits = BookLimits {
        changes: 8,
        debts: 20,
    };
    let mut world = World::new(3, limits);
    world.add_peer();
    world.settle();
    for _ in 0..400 {
        world.change();
    }
    assert!(
        world.book.debts_kept() > 0,
        "a router that takes nothing is behind"
    );
    assert!(world.book.debts_kept() <= 20);
    assert!(world.book.counters().removals_forgotten > 0);
    world.settle();
    assert_eq!(world.book.debts_kept(), 0);
}

#[test]
fn nothing_is_told_without_a_subscription() {
    let mut world = World::new(1, BookLimits::default());
    world.add_peer();
    let mut silent = Speaker::new(&mut world.book, media(), Encoding::Array);
    for _ in 0..100 {
        world.change();
    }
    let parts = silent.next(&mut world.book, |_| false, 100, true);
    assert!(parts.parts.is_empty());
    assert_eq!(silent.outlook(&world.book), Outlook::Nothing);
}
