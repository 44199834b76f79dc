//! Names that stand for several namespaces: a removal in one of them used to hide the copy that another still had.

use kvstore_types::{SessionId, Tier};

use super::{SPACES, Space, World, space};
use crate::book::BookLimits;
use crate::feed::FeedItem;

const TOPIC: &str = "kv@node:n@model-0";
/// Two namespaces with the same blocks.
const ONE: &Space = &SPACES[0];
const OTHER: &Space = &SPACES[2];
/// The same of another tenant.
const NEIGHBOUR: &Space = &SPACES[3];

fn world() -> World {
    let mut world = World::new(0, BookLimits::default());
    world.add_peer();
    world.settle();
    world
}

fn store(world: &mut World, space: &Space, number: u8, tier: Tier) {
    world.book.apply(space.tenant, space.stored(number, tier));
}

fn remove(world: &mut World, space: &Space, number: u8, tier: Tier) {
    let key = space.key(number);
    world.book.apply(space.tenant, FeedItem::Removed { key, tier });
}

/// How many blocks the router is told of before it knows everything.
fn told(world: &mut World) -> u64 {
    let before = world.peers[0].router.told;
    world.settle();
    world.check();
    world.peers[0].router.told - before
}

#[test]
fn a_block_of_several_namespaces_is_told_when_the_first_has_it_and_when_the_last_has_lost_it() {
    let mut world = world();
    store(&mut world, ONE, 0, Tier::Host);
    assert_eq!(told(&mut world), 1);
    store(&mut world, OTHER, 0, Tier::Host);
    store(&mut world, NEIGHBOUR, 0, Tier::Host);
    remove(&mut world, ONE, 0, Tier::Host);
    remove(&mut world, OTHER, 0, Tier::Host);
    assert_eq!(told(&mut world), 0, "the neighbour has it");
    assert_eq!(world.peers[0].router.count(TOPIC, "cpu"), 1);
    remove(&mut world, NEIGHBOUR, 0, Tier::Host);
    assert_eq!(told(&mut world), 1);
    assert_eq!(world.peers[0].router.count(TOPIC, "cpu"), 0);
}

#[test]
fn tiers_of_one_medium_are_one_across_namespaces_as_well() {
    let mut world = world();
    store(&mut world, ONE, 0, Tier::Host);
    store(&mut world, ONE, 0, Tier::Nvme);
    store(&mut world, OTHER, 0, Tier::Host);
    told(&mut world);
    store(&mut world, OTHER, 0, Tier::Remote);
    remove(&mut world, ONE, 0, Tier::Nvme);
    // The pool's name stands for the remote tier alone: there it is new.
    assert_eq!(told(&mut world), 1);
    assert_eq!(world.peers[0].router.count(TOPIC, "storage"), 1);
    remove(&mut world, OTHER, 0, Tier::Remote);
    assert_eq!(told(&mut world), 2);
    assert_eq!(world.peers[0].router.count(TOPIC, "storage"), 0);
}

#[test]
fn a_namespace_that_is_no_longer_served_leaves_what_another_has() {
    let mut world = world();
    for space in [ONE, OTHER] {
        for number in 0..10 {
            store(&mut world, space, number, Tier::Host);
        }
    }
    let attach = |session, space: &Space| FeedItem::PodAttached {
        session: SessionId(session),
        namespace: space.namespace,
        pod: "10.0.0.1:80".into(),
        model: "served".into(),
    };
    let pod = "kv@10.0.0.1:80@served";
    world.book.apply(0, attach(1, ONE));
    world.book.apply(0, attach(2, OTHER));
    told(&mut world);
    assert_eq!(world.peers[0].router.count(pod, "cpu"), 10);
    // One engine behind the name moves on; the other one's blocks are the same.
    let detached = FeedItem::PodDetached {
        session: SessionId(1),
    };
    world.book.apply(0, detached);
    told(&mut world);
    assert_eq!(world.peers[0].router.count(pod, "cpu"), 10);
    // A reset: the same name for another namespace.
    remove(&mut world, ONE, 9, Tier::Host);
    world.book.apply(0, attach(2, ONE));
    told(&mut world);
    assert_eq!(world.peers[0].router.count(pod, "cpu"), 9);
}

#[test]
fn what_many_namespaces_have_is_remembered_within_a_bound() {
    let limits = BookLimits {
        changes: 100,
        debts: 1000,
    };
    let mut world = World::new(0, limits);
    world.add_peer();
    for number in 0..50 {
        let other = space(0, 10 + number, "model-0", 0, 1);
        world.book.apply(0, other.shape());
        store(&mut world, &other, 0, Tier::Host);
    }
    let twins = world
        .book
        .announcements()
        .since(0)
        .map(|(_, change)| change.twins.len());
    assert!(twins.sum::<usize>() <= limits.changes);
    world.settle();
    assert_eq!(world.peers[0].router.count(TOPIC, "cpu"), 1);
    assert_eq!(world.peers[0].router.count_max(), 1);
}
