//! Whatever happens, in whatever order: a router that follows the rules believes in the end exactly what is announced.

use std::collections::BTreeSet;
use std::sync::Arc;

use kvstore_types::{
    AttentionKind, BlockDescriptor, BlockHash, BlockKey, DescriptorBytes, GroupIndex, NamespaceId, SessionId,
    Tier,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Outlook, Part, Speaker};
use crate::book::{Book, BookLimits, Identity, TenantIndex, Topic};
use crate::feed::{FeedItem, GroupShape, NamespaceShape};
use crate::testing::Router;
use crate::tiers::{TIERS, TierSet};
use crate::wire::{Encoding, Media};

mod clearing;
mod killed;
mod shared;
mod union;

const TOKENS: u32 = 4;
const BLOCKS: u8 = 40;
const PODS: u64 = 3;

/// A namespace. Some have blocks of the same hashes, under one model's name.
struct Space {
    tenant: TenantIndex,
    namespace: NamespaceId,
    model: &'static str,
    /// Which blocks it has, and how they follow each other.
    tree: u8,
    groups: usize,
}

const fn space(tenant: TenantIndex, namespace: u8, model: &'static str, tree: u8, groups: usize) -> Space {
    Space {
        tenant,
        namespace: NamespaceId([namespace; 16]),
        model,
        tree,
        groups,
    }
}

const SPACES: [Space; 5] = [
    space(0, 0, "model-0", 0, 1),
    space(0, 1, "model-1", 1, 1),
    // The same blocks, as far as a router can tell: of another layout, of another tenant, and of one with more groups,
    // which a router keeps apart.
    space(0, 2, "model-0", 0, 1),
    space(1, 0, "model-0", 0, 1),
    space(1, 4, "model-0", 0, 2),
];

impl Space {
    fn key(&self, number: u8) -> BlockKey {
        BlockKey {
            namespace: self.namespace,
            group: GroupIndex(0),
            hash: hash(self.tree, number),
        }
    }

    fn stored(&self, number: u8, tier: Tier) -> FeedItem {
        FeedItem::Stored {
            key: self.key(number),
            tier,
            descriptor: Some(descriptor(self.tree, number)),
        }
    }

    fn shape(&self) -> FeedItem {
        let group = GroupShape {
            kind: AttentionKind::Full,
            tokens_per_block: TOKENS,
        };
        FeedItem::Namespace(Arc::new(NamespaceShape {
            namespace: self.namespace,
            model: Some(self.model.into()),
            groups: vec![group; self.groups],
        }))
    }
}

fn hash(tree: u8, number: u8) -> BlockHash {
    let mut hash = [number; 32];
    hash[0] = tree;
    BlockHash(hash)
}

/// Trees: a bushy one and a deep one. Blocks 0 and 1 are roots.
fn parent(tree: u8, number: u8) -> Option<u8> {
    let parent = if tree == 0 {
        number / 2
    } else {
        number.saturating_sub(1 + number % 3)
    };
    (number > 1).then_some(parent)
}

fn descriptor(tree: u8, number: u8) -> DescriptorBytes {
    BlockDescriptor {
        parent: parent(tree, number).map(|parent| hash(tree, parent)),
        tokens: vec![u32::from(number); TOKENS as usize].into(),
        lora_name: None,
        extra_keys: &[],
    }
    .encode()
    .unwrap()
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

/// A part's message, which leaves nothing out.
fn encoded(speaker: &Speaker, part: &Part) -> Vec<u8> {
    let mut payload = Vec::new();
    assert_eq!(speaker.encode(0.0, part, &part.told, &mut payload), 0);
    payload
}

/// A router, its connection and what it believes.
struct Peer {
    speaker: Speaker,
    router: Router,
    /// It has dialled an engine, and takes everything it hears for that one's.
    dials: bool,
    connected: bool,
    slow: bool,
}

struct World {
    random: SmallRng,
    book: Book,
    peers: Vec<Peer>,
    /// No router listens, and none knows names.
    all_dial: bool,
}

impl World {
    fn new(seed: u64, limits: BookLimits) -> Self {
        let identities = vec![
            Identity::Pods,
            Identity::Node("n".to_owned()),
            Identity::Pool("p".to_owned()),
        ];
        Self::announced_as(identities, seed, limits)
    }

    fn announced_as(identities: Vec<Identity>, seed: u64, limits: BookLimits) -> Self {
        let mut book = Book::new(limits, identities);
        for space in &SPACES {
            book.apply(space.tenant, space.shape());
        }
        Self {
            random: SmallRng::seed_from_u64(seed),
            book,
            peers: Vec::new(),
            all_dial: false,
        }
    }

    /// One for the peer of this number: each kind, in each form.
    fn speaker(&mut self, index: usize) -> Speaker {
        let encoding = if index.is_multiple_of(2) {
            Encoding::Array
        } else {
            Encoding::Map
        };
        let speaker = Speaker::new(&mut self.book, media(), encoding);
        match index % 3 {
            0 => speaker.clearing(),
            1 => speaker.in_one_voice(),
            _ => speaker,
        }
    }

    fn add_peer(&mut self) {
        let kind = if self.all_dial { 1 } else { self.peers.len() };
        let dials = kind % 3 == 1;
        let mut speaker = self.speaker(kind);
        speaker.subscribed(&mut self.book, |_| true);
        self.peers.push(Peer {
            speaker,
            router: Router::default(),
            dials,
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
        for part in &parts.list {
            let payload = encoded(&peer.speaker, part);
            peer.router.hear(&heard_as(&part.topic, peer.dials), &payload);
        }
    }

    fn change(&mut self) {
        let space = &SPACES[self.random.random_range(0..SPACES.len())];
        let number = self.random.random_range(0..BLOCKS);
        let key = space.key(number);
        let tier = TIERS[self.random.random_range(0..3)];
        let session = SessionId(self.random.random_range(0..PODS));
        let item = match self.random.random_range(0..1000) {
            0..25 => FeedItem::Stored {
                key,
                tier,
                descriptor: None,
            },
            25..500 => space.stored(number, tier),
            500..959 => FeedItem::Removed { key, tier },
            // Everything of a namespace goes: an engine was reset, or the namespace dropped.
            959..960 => {
                for (number, tier) in (0..BLOCKS).flat_map(|number| TIERS.map(|tier| (number, tier))) {
                    let key = space.key(number);
                    self.book.apply(space.tenant, FeedItem::Removed { key, tier });
                }
                return;
            }
            960..980 => FeedItem::PodAttached {
                session,
                namespace: space.namespace,
                pod: format!("10.0.0.{}:80", session.0).into(),
                model: "served".into(),
            },
            _ => FeedItem::PodDetached { session },
        };
        self.book.apply(space.tenant, item);
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

    /// What is to be believed: under each name, the union of all that it stands for.
    fn truth(&self, dials: bool) -> BTreeSet<(String, String, Vec<u8>)> {
        let mut truth = BTreeSet::new();
        for topic in self.book.topics() {
            let is_its = |space: &&Space| (space.tenant, space.namespace) == (topic.tenant, topic.namespace);
            let name = heard_as(topic, dials);
            for space in SPACES.iter().filter(is_its) {
                for key in (0..BLOCKS).map(|number| space.key(number)) {
                    let tiers = self.book.announced(space.tenant, &key).intersection(topic.tiers);
                    for medium in names(tiers) {
                        truth.insert((name.clone(), medium.to_owned(), key.hash.0.to_vec()));
                    }
                }
            }
        }
        truth
    }

    fn check(&self) {
        for peer in &self.peers {
            let truth = self.truth(peer.dials);
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
                "dials: {}, too many {extra:?}, too few {missing:?}",
                peer.dials
            );
            assert!(peer.router.count_max() <= 1, "each block is counted once");
        }
    }
}

/// Under what name a router hears a topic.
fn heard_as(topic: &Topic, dials: bool) -> String {
    if dials {
        format!("kv@dialled@{}", topic.model())
    } else {
        topic.name.to_string()
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
    let space = &SPACES[0];
    for number in 0..BLOCKS {
        world.book.apply(space.tenant, space.stored(number, TIERS[0]));
    }
    world.add_peer();
    world.tell(0, 5, true, true);
    let item = FeedItem::Removed {
        key: space.key(BLOCKS - 1),
        tier: TIERS[0],
    };
    world.book.apply(space.tenant, item);
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
    for _ in 0..1500 {
        world.change();
    }
    assert!(
        world.book.debts_kept() > 0,
        "a router that takes nothing is behind"
    );
    assert!(world.book.debts_kept() <= 20);
    assert!(world.book.counters().removals_forgotten > 0);
    // It has been told, and once more than is remembered has been told after it, it has certainly arrived.
    for _ in 0..50 {
        world.settle();
        world.change();
    }
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
    assert!(parts.list.is_empty());
    assert_eq!(silent.outlook(&world.book), Outlook::Nothing);
}
