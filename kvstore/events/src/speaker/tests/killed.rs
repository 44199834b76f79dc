//! Daemons that are killed: whatever was announced, told and lost, after the next one has told what there is to tell every
//! router that lived on believes exactly what is announced, under every kind of name. But a pool's:
//! what was announced under it outlives the daemon in the store.

use std::path::Path;

use super::*;
use crate::ledger::{Ledger, LedgerLimits, inherited};

const LIMITS: BookLimits = BookLimits {
    changes: 32,
    debts: 100_000,
};

fn names_of_media() -> [String; 3] {
    ["cpu".to_owned(), "storage".to_owned(), "STORAGE".to_owned()]
}

fn ledger(path: &Path, book: &mut Book) -> Ledger {
    let limits = LedgerLimits {
        blocks: 100_000,
        history: 300,
    };
    let left = inherited(path, &names_of_media());
    Ledger::open(path, &names_of_media(), limits, left, book)
}

fn world(seed: u64) -> World {
    let identities = vec![Identity::Pods, Identity::Node("n".to_owned())];
    World::announced_as(identities, seed, LIMITS)
}

impl World {
    /// The daemon is killed and started again: what is on NVMe is found, as far as it can be read. Routers live on, or not.
    fn kill(&mut self, path: &Path) -> Ledger {
        let next = world(self.random.random());
        let old = std::mem::replace(&mut self.book, next.book);
        let ledger = ledger(path, &mut self.book);
        for space in &SPACES {
            for number in 0..BLOCKS {
                let is_on_nvme = old.tiers(space.tenant, &space.key(number)).contains(Tier::Nvme);
                if is_on_nvme && self.random.random_range(0..10) > 0 {
                    self.book.apply(space.tenant, space.stored(number, Tier::Nvme));
                }
            }
        }
        for index in 0..self.peers.len() {
            let mut speaker = self.speaker(index);
            let peer = &mut self.peers[index];
            peer.connected = self.random.random_range(0..3) > 0;
            if self.random.random_range(0..6) == 0 {
                peer.router = Router::default();
            }
            if peer.connected {
                speaker.subscribed(&mut self.book, |_| true);
            } else {
                // Nobody knows yet that it is there.
                speaker.leave(&mut self.book);
            }
            peer.speaker = speaker;
        }
        ledger
    }

    fn dialled(&self) -> usize {
        (0..self.peers.len()).step_by(3).count()
    }
}

/// So many times the daemon is killed, and is left in peace for so long that everybody hears everything now and then.
fn run(seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ledger");
    let mut world = world(seed);
    let mut ledger = ledger(&path, &mut world.book);
    for _ in 0..4 {
        world.add_peer();
    }
    for step in 0..2000 {
        world.change();
        // Before anybody is told.
        ledger.note(&mut world.book);
        for index in 0..world.peers.len() {
            let may_walk = world.random.random_range(0..3) == 0;
            let blocks_max = world.random.random_range(1..20);
            if !world.peers[index].slow && world.peers[index].connected {
                world.tell(index, blocks_max, may_walk, true);
            }
            if world.random.random_range(0..60) == 0 {
                world.disturb(index);
            }
        }
        match world.random.random_range(0..400) {
            0 => ledger = world.kill(&path),
            1..4 => world.book.inheritance_due(),
            4..6 => {
                world.book.inheritance_due();
                world.settle();
                world.check();
                if step % 2 == 0 {
                    let dialled = world.dialled();
                    assert!(
                        world.book.settle_inheritance(dialled, false),
                        "all have been told"
                    );
                }
            }
            _ => {}
        }
    }
    ledger.note(&mut world.book);
    drop(ledger);
    let _last = world.kill(&path);
    world.book.inheritance_due();
    world.settle();
    world.check();
}

#[test]
fn routers_believe_what_is_announced_whatever_was_announced_before_the_kill() {
    // Of the others, those that once found something.
    for seed in (0..12).chain([110, 175, 200, 259]) {
        run(seed);
    }
}
