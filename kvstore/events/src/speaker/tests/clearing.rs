//! A daemon that was killed: what it had in memory only stayed in a router that lived on, and nobody could take it back.

use kvstore_types::Tier;

use super::{SPACES, World, media, space};
use crate::book::{Book, BookLimits, Identity};
use crate::speaker::{Outlook, Speaker};
use crate::testing::Router;
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
                router.hear(&part.topic.name, &self.speaker.encode(0.0, part).0);
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
fn names_that_engines_or_other_nodes_share_are_taken_back_block_by_block() {
    let mut world = World::new(0, BookLimits::default());
    for _ in 0..3 {
        world.add_peer();
    }
    for _ in 0..500 {
        world.change();
    }
    world.settle();
    world.check();
    world.book.withdraw_topics();
    world.settle();
    for peer in &world.peers {
        assert!(peer.router.blocks().is_empty(), "{:?}", peer.router.blocks());
    }
}
