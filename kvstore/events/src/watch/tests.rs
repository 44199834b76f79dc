//! A watcher that believes what it is told ends with the truth.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use kvstore_types::{BlockHash, BlockKey, BootEpoch, GroupIndex, NamespaceId, Tier};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{ResumeError, Watch, WatchEvent, WatchFilter, WatchSource};
use crate::book::{Book, BookLimits};
use crate::feed::FeedItem;
use crate::shared::Shared;
use crate::tiers::{TIERS, TierSet};

const BLOCKS: u8 = 50;

fn key(number: u8) -> BlockKey {
    BlockKey {
        namespace: NamespaceId([number % 2; 16]),
        group: GroupIndex(0),
        hash: BlockHash([number; 32]),
    }
}

fn source(changes: usize) -> (Arc<Shared>, WatchSource) {
    let limits = BookLimits { changes, debts: 10 };
    let shared = Shared::new(Book::new(limits, Vec::new()), BootEpoch([1; 16]));
    (Arc::clone(&shared), WatchSource::new(shared))
}

fn change(shared: &Shared, random: &mut SmallRng) {
    let key = key(random.random_range(0..BLOCKS));
    let tier = TIERS[random.random_range(0..3)];
    let item = if random.random_range(0..100) < 60 {
        FeedItem::Stored {
            key,
            tier,
            descriptor: None,
        }
    } else {
        FeedItem::Removed { key, tier }
    };
    shared.book().apply(0, item);
    shared.tell_changed();
}

/// What a watcher believes.
#[derive(Debug, Default)]
struct Belief {
    blocks: BTreeMap<BlockKey, TierSet>,
    sequence: u64,
    is_complete: bool,
}

impl Belief {
    fn hear(&mut self, event: &WatchEvent) {
        match *event {
            WatchEvent::Present { key, tiers, .. } => {
                self.blocks.insert(key, tiers);
            }
            WatchEvent::SnapshotComplete { sequence } => {
                assert!(!self.is_complete && sequence >= self.sequence);
                self.is_complete = true;
                self.sequence = sequence;
            }
            WatchEvent::Stored {
                sequence, key, tier, ..
            } => {
                assert!(sequence > self.sequence);
                self.sequence = sequence;
                let tiers = self.blocks.entry(key).or_default();
                *tiers = tiers.union(TierSet::of(tier));
            }
            WatchEvent::Removed {
                sequence, key, tier, ..
            } => {
                assert!(sequence > self.sequence);
                self.sequence = sequence;
                let tiers = self.blocks.entry(key).or_default();
                *tiers = tiers.without(TierSet::of(tier));
            }
        }
    }

    fn check(&self, shared: &Shared, filter: WatchFilter) {
        for number in 0..BLOCKS {
            let key = key(number);
            let hears = filter
                .namespace
                .is_none_or(|namespace| namespace == key.namespace);
            let wanted = if hears { filter.tiers } else { TierSet::EMPTY };
            let truth = shared.book().tiers(0, &key).intersection(wanted);
            assert_eq!(self.blocks.get(&key).copied().unwrap_or_default(), truth);
        }
    }
}

/// Hears everything there is now.
fn hear(watch: &mut Watch, belief: &mut Belief, count: usize) {
    let mut events = VecDeque::new();
    loop {
        let more = watch.take(count, &mut events).unwrap();
        if events.is_empty() && !more {
            return;
        }
        for event in events.drain(..) {
            belief.hear(&event);
        }
    }
}

#[test]
fn a_watcher_ends_with_the_truth_whatever_it_filters() {
    for seed in 0..20 {
        let mut random = SmallRng::seed_from_u64(seed);
        let (shared, source) = source(10_000);
        for _ in 0..200 {
            change(&shared, &mut random);
        }
        let filter = WatchFilter {
            tenant: Some(0),
            namespace: (seed % 2 == 0).then_some(NamespaceId([1; 16])),
            tiers: if seed % 3 == 0 {
                TierSet::of(Tier::Nvme)
            } else {
                TierSet::ALL
            },
        };
        let mut watch = source.subscribe(filter, None).unwrap();
        let mut belief = Belief::default();
        let mut events = VecDeque::new();
        for _ in 0..200 {
            change(&shared, &mut random);
            // A little at a time, so that the snapshot is told among changes.
            watch.take(2, &mut events).unwrap();
            for event in events.drain(..) {
                belief.hear(&event);
            }
        }
        hear(&mut watch, &mut belief, 7);
        assert!(belief.is_complete);
        belief.check(&shared, filter);
    }
}

#[test]
fn a_watch_resumes_where_another_ended() {
    let mut random = SmallRng::seed_from_u64(1);
    let (shared, source) = source(10_000);
    let filter = WatchFilter::default();
    let mut belief = Belief::default();
    let mut watch = source.subscribe(filter, None).unwrap();
    hear(&mut watch, &mut belief, 10);
    for _ in 0..5 {
        for _ in 0..100 {
            change(&shared, &mut random);
        }
        drop(watch);
        watch = source.subscribe(filter, Some(belief.sequence)).unwrap();
        hear(&mut watch, &mut belief, 10);
        assert_eq!(belief.sequence, source.sequence());
        belief.check(&shared, filter);
    }
}

#[test]
fn a_watcher_that_is_too_slow_is_told_so() {
    let mut random = SmallRng::seed_from_u64(2);
    let (shared, source) = source(16);
    let mut watch = source.subscribe(WatchFilter::default(), None).unwrap();
    for _ in 0..100 {
        change(&shared, &mut random);
    }
    let lagged = watch.take(10, &mut VecDeque::new()).unwrap_err();
    assert_eq!(lagged.wanted, 1);
    assert_eq!(lagged.oldest, source.sequence() - 15);
    assert_eq!(
        source.subscribe(WatchFilter::default(), Some(0)).unwrap_err(),
        ResumeError::Lagged(lagged)
    );
    let last = source.sequence();
    assert_eq!(
        source
            .subscribe(WatchFilter::default(), Some(last + 1))
            .unwrap_err(),
        ResumeError::Unknown {
            given: last + 1,
            last
        }
    );
    assert!(source.subscribe(WatchFilter::default(), Some(last - 16)).is_ok());
    assert_eq!(shared.count().watchers_lagged, 1);
}

#[test]
fn changes_are_kept_while_somebody_watches_and_as_long_as_it_could_go_on_afterwards() {
    let mut random = SmallRng::seed_from_u64(3);
    let (shared, source) = source(16);
    let kept = || {
        let book = shared.book();
        book.changes().head() - book.changes().tail()
    };
    for _ in 0..100 {
        change(&shared, &mut random);
    }
    assert_eq!(kept(), 0, "nobody has ever watched");
    let filter = WatchFilter::default();
    let mut watch = source.subscribe(filter, None).unwrap();
    let mut belief = Belief::default();
    hear(&mut watch, &mut belief, 10);
    drop(watch);
    while source.shared.book().changes().head() < belief.sequence + 16 {
        change(&shared, &mut random);
    }
    let mut watch = source.subscribe(filter, Some(belief.sequence)).unwrap();
    hear(&mut watch, &mut belief, 10);
    belief.check(&shared, filter);
    drop(watch);
    for _ in 0..100 {
        change(&shared, &mut random);
    }
    assert_eq!(kept(), 0, "nobody could go on any more");
    assert!(matches!(
        source.subscribe(filter, Some(belief.sequence)),
        Err(ResumeError::Lagged(_))
    ));
}

#[tokio::test]
async fn a_watcher_sleeps_until_something_changes() {
    let (shared, source) = source(100);
    let mut watch = source.subscribe(WatchFilter::default(), None).unwrap();
    let mut events = VecDeque::new();
    watch.next(10, &mut events).await.unwrap();
    assert_eq!(
        events.pop_front(),
        Some(WatchEvent::SnapshotComplete { sequence: 0 })
    );
    let item = FeedItem::Stored {
        key: key(1),
        tier: Tier::Host,
        descriptor: None,
    };
    let (heard, ()) = tokio::join!(watch.next(10, &mut events), async {
        tokio::task::yield_now().await;
        shared.book().apply(0, item);
        shared.tell_changed();
    });
    heard.unwrap();
    assert!(matches!(
        events.pop_front(),
        Some(WatchEvent::Stored { sequence: 1, .. })
    ));
    assert_eq!(shared.count().watchers, 1);
    drop(watch);
    assert_eq!(shared.count().watchers, 0);
}
