//! A daemon that was killed: what it had in memory only stayed in a router that lived on, and nobody could take it back.

use std::collections::BTreeSet;

use kvstore_types::{SessionId, Tier};

use super::{SPACES, World, encoded, media, space};
use crate::book::{Book, BookLimits, Identity};
use crate::feed::FeedItem;
use crate::speaker::{Outlook, Speaker};
use crate::testing::{Router, decode_batch};
use crate::wire::Encoding;

const TOPIC: &str = "kv@node:n@model-0";

/// A daemon under its node's name, and a router that may have lived before it.
struct Life {
    book: Book,
    speaker: Speaker,
    told: u64,
}

impl Life {
    fn new(encoding: Encoding, blocks: std::ops::Range<u8>) -> Self {
        let mut book = Book::new(BookLimits::default(), vec![Identity::Node("n".to_owned())]);
        let ours = &SPACES[0];
        book.apply(0, ours.shape());
        let other = space(0, 7, "another-model", 1, 1);
        book.apply(0, other.shape());
        for number in blocks {
            book.apply(0, ours.stored(number, Tier::Host));
            book.apply(0, other.stored(number, Tier::Nvme));
        }
        let mut speaker = Speaker::new(&mut book, media(), encoding).clearing();
        speaker.subscribed(&mut book, |_| true);
        Self {
            book,
            speaker,
            told: 0,
        }
    }

    fn tell(&mut self, router: &mut Router) {
        while self.speaker.outlook(&self.book) != Outlook::Nothing {
            let parts = self.speaker.next(&mut self.book, |_| true, 4, true);
            for part in &parts.list {
                self.told += part.told.len() as u64;
                router.hear(&part.topic.name, &encoded(&self.speaker, part));
            }
        }
    }
}

#[test]
fn what_a_killed_daemon_had_in_memory_is_cleared_by_the_next_one() {
    for encoding in [Encoding::Array, Encoding::Map] {
        let mut router = Router::default();
        Life::new(encoding, 0..20).tell(&mut router);
        assert_eq!(router.count(TOPIC, "cpu"), 20);
        let mut next = Life::new(encoding, 0..3);
        next.tell(&mut router);
        assert_eq!((router.count(TOPIC, "cpu"), router.blocks().len()), (3, 6));
        assert_eq!((router.count_max(), router.dropped), (1, 0));
        // Once is enough, unless it may not have arrived.
        next.book.apply(0, SPACES[0].stored(5, Tier::Host));
        next.tell(&mut router);
        next.speaker.subscribed(&mut next.book, |_| true);
        let again = next.speaker.next(&mut next.book, |_| true, 100, true);
        assert!(again.list.iter().all(|part| !part.clears));
        next.speaker.disconnected(&mut next.book);
        next.speaker.subscribed(&mut next.book, |_| true);
        let again = next.speaker.next(&mut next.book, |_| true, 100, true);
        assert!(again.list.first().is_some_and(|part| part.clears));
    }
}

#[test]
fn a_name_that_is_the_daemons_own_is_taken_back_in_one_word() {
    let mut router = Router::default();
    let mut life = Life::new(Encoding::Array, 0..20);
    life.tell(&mut router);
    let told = life.told;
    life.book.withdraw_topics();
    life.tell(&mut router);
    assert!(router.blocks().is_empty());
    assert_eq!(life.told, told);
}

#[test]
fn names_that_engines_share_are_taken_back_block_by_block_and_what_is_remote_stays() {
    let mut world = World::new(0, BookLimits::default());
    for _ in 0..3 {
        world.add_peer();
    }
    for _ in 0..500 {
        world.change();
    }
    world.settle();
    world.check();
    let truth: Vec<_> = world.peers.iter().map(|peer| world.truth(peer.dials)).collect();
    world.book.withdraw_topics();
    world.settle();
    for (peer, truth) in world.peers.iter().zip(truth) {
        // Names mean nothing to a router that has dialled an engine.
        let stays = truth
            .into_iter()
            .filter(|(topic, _, _)| topic.starts_with("kv@pool:"));
        let left = peer.router.blocks().into_iter();
        let left: BTreeSet<_> = left
            .map(|(topic, medium, hash)| (topic, medium.to_lowercase(), hash))
            .collect();
        assert_eq!(left, stays.collect());
        assert_eq!(left.is_empty(), peer.dials);
    }
}

/// Under a pod's name nothing may be cleared. A block that comes again used to be counted twice, and stayed for ever.
#[test]
fn what_a_killed_daemon_had_is_counted_once_when_it_is_stored_again() {
    let attached = FeedItem::PodAttached {
        session: SessionId(1),
        namespace: SPACES[0].namespace,
        pod: "10.0.0.1:80".into(),
        model: "served".into(),
    };
    let pod = "kv@10.0.0.1:80@served";
    for dials in [false, true] {
        let mut router = Router::default();
        let mut events = 0;
        for life in 0..2 {
            let mut book = Book::new(BookLimits::default(), vec![Identity::Pods]);
            book.apply(0, SPACES[0].shape());
            book.apply(0, attached.clone());
            let mut speaker = Speaker::new(&mut book, media(), Encoding::Array);
            if dials {
                speaker = speaker.in_one_voice();
            }
            speaker.subscribed(&mut book, |_| true);
            let mut tell = |book: &mut Book, router: &mut Router| {
                while speaker.outlook(book) != Outlook::Nothing {
                    for part in &speaker.next(book, |_| true, 100, true).list {
                        let payload = encoded(&speaker, part);
                        events += decode_batch(&payload).len();
                        router.hear(&part.topic.name, &payload);
                    }
                }
            };
            tell(&mut book, &mut router);
            // One chain.
            for number in [1, 3, 7, 15, 31] {
                book.apply(0, SPACES[0].stored(number, Tier::Host));
            }
            tell(&mut book, &mut router);
            assert_eq!((router.count(pod, "cpu"), router.count_max()), (5, 1));
            if life == 1 {
                for number in [31, 15, 7, 3, 1] {
                    let key = SPACES[0].key(number);
                    let tier = Tier::Host;
                    book.apply(0, FeedItem::Removed { key, tier });
                }
                tell(&mut book, &mut router);
            }
        }
        assert!(router.blocks().is_empty());
        assert_eq!(
            events,
            3 + 3 + 1,
            "what is new remains one event, behind one removal for each medium"
        );
    }
}
