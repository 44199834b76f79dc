//! What the model believes of random stores, removals and snapshots.

use std::collections::BTreeMap;

use kvstore_types::{
    BlockDescriptor, BlockHash, BlockKey, DescriptorBytes, GroupIndex, NamespaceId, SessionId, Tier,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Book, BookLimits, Identity};
use crate::feed::FeedItem;
use crate::tiers::{TIERS, TierSet};

const BLOCKS: u8 = 30;

fn key(number: u8) -> BlockKey {
    BlockKey {
        namespace: NamespaceId([9; 16]),
        group: GroupIndex(0),
        hash: BlockHash([number; 32]),
    }
}

fn described(parent: Option<u8>) -> DescriptorBytes {
    BlockDescriptor {
        parent: parent.map(|number| BlockHash([number; 32])),
        tokens: vec![1].into(),
        lora_name: None,
        extra_keys: &[],
    }
    .encode()
    .unwrap()
}

fn store(book: &mut Book, number: u8, tier: Tier, parent: Option<u8>) {
    let item = FeedItem::Stored {
        key: key(number),
        tier,
        descriptor: Some(described(parent)),
    };
    book.apply(0, item);
}

fn remove(book: &mut Book, number: u8, tier: Tier) {
    book.apply(
        0,
        FeedItem::Removed {
            key: key(number),
            tier,
        },
    );
}

/// A model that somebody listens to who has heard nothing yet.
fn book() -> Book {
    let mut book = Book::new(BookLimits::default(), Vec::new());
    let reader = book.reader_came();
    book.reader_at(reader, 0, 0..0, true);
    book
}

fn is_announced(book: &Book, number: u8) -> bool {
    !book.announced(0, &key(number)).is_empty()
}

#[test]
fn blocks_that_no_engine_stands_for_are_not_counted_as_announced() {
    let mut book = Book::new(BookLimits::default(), vec![Identity::Pods]);
    let numbers = |book: &Book| {
        let summary = book.summary();
        (summary.blocks, summary.blocks_announced, summary.blocks_unnamed)
    };
    store(&mut book, 1, Tier::Host, None);
    store(&mut book, 2, Tier::Host, Some(1));
    store(&mut book, 9, Tier::Host, Some(8));
    assert_eq!(numbers(&book), (3, 0, 2));
    let session = SessionId(1);
    let attached = |pod: &str| FeedItem::PodAttached {
        session,
        namespace: key(0).namespace,
        pod: pod.into(),
        model: "served".into(),
    };
    // It does not say where requests reach it.
    book.apply(0, attached(""));
    assert_eq!(numbers(&book), (3, 0, 2));
    book.apply(0, attached("10.0.0.1:80"));
    assert_eq!(numbers(&book), (3, 2, 0));
    book.apply(0, FeedItem::PodDetached { session });
    assert_eq!(numbers(&book), (3, 0, 2));
    // Where nothing is published, watchers are told of all of them.
    let mut watched = Book::new(BookLimits::default(), Vec::new());
    store(&mut watched, 1, Tier::Host, None);
    assert_eq!(numbers(&watched), (1, 1, 0));
}

#[test]
fn a_block_is_announced_when_all_before_it_are_there() {
    let mut book = book();
    store(&mut book, 3, Tier::Host, Some(2));
    store(&mut book, 2, Tier::Nvme, Some(1));
    assert_eq!((book.blocks(), book.blocks_announced()), (2, 0));
    store(&mut book, 1, Tier::Host, None);
    assert_eq!(book.blocks_announced(), 3);
    let order: Vec<_> = book
        .announcements()
        .since(0)
        .map(|(_, change)| change.key)
        .collect();
    assert_eq!(order, [key(1), key(2), key(3)]);
}

#[test]
fn what_follows_a_block_that_is_gone_is_withdrawn_and_comes_back_with_it() {
    let mut book = book();
    for number in 1..=3 {
        store(&mut book, number, Tier::Host, (number > 1).then(|| number - 1));
    }
    remove(&mut book, 1, Tier::Host);
    assert_eq!((book.blocks(), book.blocks_announced()), (2, 0));
    store(&mut book, 1, Tier::Nvme, None);
    assert_eq!(book.blocks_announced(), 3);
}

#[test]
fn blocks_that_follow_each_other_in_a_circle_are_never_announced() {
    let mut book = book();
    store(&mut book, 1, Tier::Host, Some(3));
    store(&mut book, 2, Tier::Host, Some(1));
    store(&mut book, 3, Tier::Host, Some(2));
    store(&mut book, 4, Tier::Host, Some(4));
    assert_eq!((book.blocks(), book.blocks_announced()), (4, 0));
    assert_eq!(book.counters().descriptors_malformed, 1, "its own parent");
    for number in 1..=4 {
        remove(&mut book, number, Tier::Host);
    }
    assert_eq!(book.blocks(), 0);
}

#[test]
fn a_description_that_comes_later_makes_a_block_known() {
    let mut book = book();
    let silent = FeedItem::Stored {
        key: key(1),
        tier: Tier::Nvme,
        descriptor: None,
    };
    book.apply(0, silent);
    assert!(!is_announced(&book, 1));
    assert_eq!(book.counters().blocks_without_descriptor, 1);
    store(&mut book, 1, Tier::Host, None);
    let both = [Tier::Host, Tier::Nvme].into_iter().collect();
    assert_eq!(book.announced(0, &key(1)), both);
}

#[test]
fn what_a_snapshot_does_not_confirm_is_gone() {
    let mut book = book();
    store(&mut book, 1, Tier::Host, None);
    store(&mut book, 1, Tier::Nvme, None);
    store(&mut book, 2, Tier::Host, None);
    book.snapshot_wanted(0, 7);
    book.apply(0, FeedItem::SnapshotBegun { number: 7 });
    store(&mut book, 1, Tier::Nvme, None);
    store(&mut book, 3, Tier::Host, None);
    // Another tenant's snapshot, and one that was given up, end meanwhile.
    book.apply(1, FeedItem::SnapshotEnded { number: 7 });
    book.apply(0, FeedItem::SnapshotEnded { number: 6 });
    assert_eq!(book.blocks(), 3);
    assert!(book.is_incomplete(0));
    book.apply(0, FeedItem::SnapshotEnded { number: 7 });
    assert!(!book.is_incomplete(0));
    assert_eq!(book.tiers(0, &key(1)), TierSet::of(Tier::Nvme));
    assert!(book.tiers(0, &key(2)).is_empty());
    assert_eq!(book.tiers(0, &key(3)), TierSet::of(Tier::Host));
}

#[test]
fn a_second_loss_during_a_snapshot_asks_for_another() {
    let mut book = book();
    store(&mut book, 1, Tier::Host, None);
    book.snapshot_wanted(0, 1);
    book.apply(0, FeedItem::SnapshotBegun { number: 1 });
    book.snapshot_wanted(0, 2);
    book.apply(0, FeedItem::SnapshotEnded { number: 1 });
    assert_eq!(book.blocks(), 1, "the first one proves nothing any more");
    book.apply(0, FeedItem::SnapshotBegun { number: 2 });
    book.apply(0, FeedItem::SnapshotEnded { number: 2 });
    assert_eq!(book.blocks(), 0);
}

#[test]
fn of_what_everybody_has_heard_only_removals_are_kept_and_only_while_they_are_recent() {
    let limits = BookLimits {
        changes: 10,
        debts: 100,
    };
    let mut book = Book::new(limits, Vec::new());
    let gone = |number| super::debts::Debt {
        tenant: 0,
        key: key(number),
        lost: TierSet::of(Tier::Host),
        is_gone: true,
    };
    let readers = [book.reader_came(), book.reader_came()];
    let heard = |book: &mut Book, reader: usize, position: u64| {
        book.reader_at(readers[reader], position, 0..0, true);
    };
    heard(&mut book, 0, 0);
    heard(&mut book, 1, 0);
    for number in 0..4 {
        store(&mut book, number, Tier::Host, None);
    }
    remove(&mut book, 0, Tier::Host);
    heard(&mut book, 0, 5);
    assert_eq!(
        book.announcements().since(0).count(),
        5,
        "the other has not heard them"
    );
    heard(&mut book, 1, 5);
    assert_eq!(book.announcements().since(0).count(), 0);
    assert_eq!(book.announcements().base(), 0, "nobody has missed anything");
    assert_eq!(book.removals(0..5, 10).0, [gone(0)]);
    // Nobody listens, and it happens all the same.
    book.reader_left(readers[0]);
    book.reader_at(readers[1], 5, 0..0, false);
    remove(&mut book, 1, Tier::Host);
    assert_eq!(book.removals(0..6, 10).0, [gone(0), gone(1)]);
    for number in 10..20 {
        store(&mut book, number, Tier::Host, None);
    }
    // The first one has been heard; the second may still have to be told to who was away.
    assert_eq!(book.removals(0..16, 10).0, [gone(1)]);
    assert_eq!(book.debts_kept(), 1);
}

/// Any forest: block n follows a lower or a higher one, so that most come before their parents.
fn parent_of(seed: u64, number: u8) -> Option<u8> {
    let mut random = SmallRng::seed_from_u64(seed << 8 | u64::from(number));
    let parent = random.random_range(0..BLOCKS);
    (number > 3 && parent != number).then_some(parent)
}

/// Whether a chain of blocks that are there leads to a root.
fn is_rooted(seed: u64, truth: &BTreeMap<u8, TierSet>, number: u8) -> bool {
    let mut place = Some(number);
    for _ in 0..=BLOCKS {
        match place {
            None => return true,
            Some(number) if truth.contains_key(&number) => place = parent_of(seed, number),
            Some(_) => return false,
        }
    }
    false
}

#[test]
fn the_model_is_what_was_said_and_announced_is_what_is_rooted() {
    for seed in 0..50 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut book = book();
        let mut truth: BTreeMap<u8, TierSet> = BTreeMap::new();
        for _ in 0..600 {
            let number = random.random_range(0..BLOCKS);
            let tier = TIERS[random.random_range(0..3)];
            let known = truth.get(&number).copied().unwrap_or_default();
            if random.random_range(0..100) < 55 {
                store(&mut book, number, tier, parent_of(seed, number));
                truth.insert(number, known.union(TierSet::of(tier)));
            } else {
                remove(&mut book, number, tier);
                truth.insert(number, known.without(TierSet::of(tier)));
            }
            truth.retain(|_, tiers| !tiers.is_empty());
            for number in 0..BLOCKS {
                let tiers = truth.get(&number).copied().unwrap_or_default();
                assert_eq!(book.tiers(0, &key(number)), tiers);
                let is_there = !tiers.is_empty() && is_rooted(seed, &truth, number);
                assert_eq!(
                    is_announced(&book, number),
                    is_there,
                    "seed {seed} block {number}"
                );
            }
            assert_eq!(book.blocks(), truth.len());
        }
        // A log that is replayed says the same.
        let mut replayed: BTreeMap<BlockKey, TierSet> = BTreeMap::new();
        for (_, change) in book.announcements().since(0) {
            assert_eq!(
                replayed.get(&change.key).copied().unwrap_or_default(),
                change.before
            );
            replayed.insert(change.key, change.after);
        }
        for number in 0..BLOCKS {
            let told = replayed.get(&key(number)).copied().unwrap_or_default();
            assert_eq!(told, book.announced(0, &key(number)));
        }
    }
}
