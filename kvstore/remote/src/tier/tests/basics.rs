//! What a tier does over every store there is.

use std::sync::Arc;
use std::time::Duration;

use kvstore_types::{Corruption, GroupIndex, ReadClass};
use tempfile::TempDir;

use super::rig::Rig;
use crate::backend::mount::tests::spec as mount_spec;
use crate::backend::store::tests::Server;
use crate::format::{block_name, namespace_name};
use crate::testing::{key, large_key, namespace, namespace_of, wait_until};
use crate::{
    BackendSpec, Direction, MemoryStore, MountIo, MountSpec, Order, Outcome, Presence, Refusal, RemoteEvent,
};

/// A store and what keeps it alive.
pub(super) struct Place {
    pub(super) backend: BackendSpec,
    server: Option<Server>,
    directory: Option<TempDir>,
    memory: Option<Arc<MemoryStore>>,
}

impl Place {
    /// One of each kind.
    pub(super) fn all() -> Vec<Self> {
        let memory = Arc::new(MemoryStore::default());
        let mut places = vec![Self {
            backend: BackendSpec::Memory(memory.clone()),
            server: None,
            directory: None,
            memory: Some(memory),
        }];
        for io in [MountIo::Threads, MountIo::Auto] {
            let directory = tempfile::tempdir().unwrap();
            places.push(Self {
                backend: BackendSpec::Mount(MountSpec {
                    io,
                    ..mount_spec(directory.path())
                }),
                server: None,
                directory: Some(directory),
                memory: None,
            });
        }
        let server = Server::start();
        places.push(Self {
            backend: BackendSpec::Store(server.spec()),
            server: Some(server),
            directory: None,
            memory: None,
        });
        places
    }

    pub(super) fn rig(&self, node: u8) -> Rig {
        Rig::new(self.backend.clone(), node, |_| {})
    }

    /// Changes an object's bytes behind everybody's back.
    pub(super) fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(memory) = &self.memory {
            assert!(memory.tamper(name, change));
            return;
        }
        let path = match (&self.server, &self.directory) {
            (Some(server), _) => server.file(name),
            (None, Some(directory)) => directory.path().join(name),
            (None, None) => panic!("no such place"),
        };
        let mut bytes = std::fs::read(&path).unwrap();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn a_block_that_was_stored_is_found_and_fetched_until_it_is_deleted() {
    for place in Place::all() {
        let mut rig = place.rig(1);
        assert_eq!(rig.fetch(key(1)), Outcome::Missing);
        assert_eq!(rig.exists(vec![key(1)], false), [Presence::Missing]);
        for key in [key(1), large_key(1)] {
            assert_eq!(rig.store(key), Outcome::Done);
            assert_eq!(rig.fetch(key), Outcome::Done, "{:?}", place.backend);
            assert_eq!(rig.store(key), Outcome::AlreadyPresent);
        }
        let keys = vec![key(1), key(2), large_key(1)];
        let (present, missing) = (Presence::Present, Presence::Missing);
        assert_eq!(rig.exists(keys, false), [present, missing, present]);
        assert_eq!(rig.delete(key(1)), Outcome::Done);
        assert_eq!(rig.fetch(key(1)), Outcome::Missing);
        assert_eq!(rig.exists(vec![key(1)], false), [missing]);
        assert_eq!(rig.store(key(1)), Outcome::Done);
    }
}

#[test]
fn what_one_node_stores_another_one_finds() {
    for place in Place::all() {
        let (mut one, mut two) = (place.rig(1), place.rig(2));
        assert_eq!(two.fetch(key(1)), Outcome::Missing);
        assert_eq!(one.store(key(1)), Outcome::Done);
        assert_eq!(two.exists(vec![key(1)], false), [Presence::Present]);
        assert_eq!(two.fetch(key(1)), Outcome::Done);
        assert_eq!(two.store(key(1)), Outcome::AlreadyPresent);
        // A node that is new has nothing but the store.
        one.close();
        assert_eq!(place.rig(3).fetch(key(1)), Outcome::Done);
        assert_eq!(two.delete(key(1)), Outcome::Done);
        assert_eq!(place.rig(3).fetch(key(1)), Outcome::Missing);
    }
}

#[test]
fn two_nodes_that_store_the_same_blocks_do_not_harm_each_other() {
    for place in Place::all() {
        let (mut one, mut two) = (place.rig(1), place.rig(2));
        let keys: Vec<_> = (0..8).map(large_key).collect();
        let mut orders = Vec::new();
        for (slot, key) in keys.iter().enumerate() {
            orders.push((one.order_store(*key, slot), two.order_store(*key, slot)));
        }
        for (first, second) in orders {
            for outcome in [one.done(first), two.done(second)] {
                let is_stored = matches!(outcome, Outcome::Done | Outcome::AlreadyPresent);
                assert!(is_stored, "{outcome:?} {:?}", place.backend);
            }
        }
        for key in keys {
            assert_eq!(one.fetch(key), Outcome::Done);
            assert_eq!(two.fetch(key), Outcome::Done);
        }
    }
}

#[test]
fn damaged_objects_are_misses_by_kind_and_are_replaced() {
    type Damage = (&'static str, fn(&mut Vec<u8>), Corruption);
    let damages: [Damage; 6] = [
        (
            "a bit of the payload",
            |bytes| bytes[9000] ^= 1,
            Corruption::Payload,
        ),
        (
            "the last bit",
            |bytes| *bytes.last_mut().unwrap() ^= 0x80,
            Corruption::Payload,
        ),
        ("a bit of the header", |bytes| bytes[41] ^= 1, Corruption::Header),
        ("cut off", |bytes| bytes.truncate(8192), Corruption::Truncated),
        (
            "cut off in the header",
            |bytes| bytes.truncate(100),
            Corruption::Truncated,
        ),
        ("longer", |bytes| bytes.extend([0; 4096]), Corruption::Payload),
    ];
    for place in Place::all() {
        let mut rig = place.rig(1);
        assert_eq!(rig.store(key(99)), Outcome::Done);
        for (number, (what, damage, kind)) in damages.iter().enumerate() {
            let key = key(number as u64);
            assert_eq!(rig.store(key), Outcome::Done);
            place.tamper(&block_name(&key), damage);
            let what = format!("{what} {:?}", place.backend);
            assert_eq!(rig.fetch(key), Outcome::Corrupt(*kind), "{what}");
            assert_eq!(rig.fetch(key), Outcome::Missing, "{what}");
            assert_eq!(rig.exists(vec![key], false), [Presence::Missing], "{what}");
            assert_eq!(rig.store(key), Outcome::Done, "{what}");
            assert_eq!(rig.fetch(key), Outcome::Done, "{what}");
        }
        // Another block's object, good in itself.
        let (name, other) = (block_name(&key(99)), key(5));
        let mut good = Vec::new();
        place.tamper(&block_name(&other), |bytes| good.clone_from(bytes));
        place.tamper(&name, |bytes| *bytes = good);
        assert_eq!(rig.fetch(key(99)), Outcome::Corrupt(Corruption::Key));
        let stats = rig.stats();
        assert_eq!(stats.replaced, 6);
        assert_eq!(stats.corrupt, [1, 0, 0, 1, 3, 2]);
    }
}

#[test]
fn the_rest_of_a_prefix_is_not_looked_for_if_it_is_of_no_use() {
    for place in Place::all() {
        let mut rig = place.rig(1);
        for number in 0..3 {
            assert_eq!(rig.store(key(number)), Outcome::Done);
        }
        let mut fresh = place.rig(2);
        let found = fresh.exists((0..100).map(key).collect(), true);
        assert_eq!(
            found[..4],
            [
                Presence::Present,
                Presence::Present,
                Presence::Present,
                Presence::Missing
            ]
        );
        // One batch of 16 was asked for, the rest was not.
        assert!(found[4..16].iter().all(|presence| *presence == Presence::Missing));
        assert!(found[16..].iter().all(|presence| *presence == Presence::Unknown));
        let all = fresh.exists((0..100).map(key).collect(), false);
        assert!(all[3..].iter().all(|presence| *presence == Presence::Missing));
        assert_eq!(fresh.exists(vec![], true), []);
    }
}

#[test]
fn orders_that_make_no_sense_are_refused() {
    let store = Arc::new(MemoryStore::default());
    let mut rig = Rig::over_memory(&store, 1);
    let malformed = Outcome::Refused(Refusal::Malformed);
    let mut strange = key(1);
    strange.group = GroupIndex(2);
    assert_eq!(rig.fetch_raw(strange, 0), malformed);
    assert_eq!(rig.fetch_raw(key(1), u64::MAX / 2), Outcome::Missing);
    assert_eq!(rig.store(key(1)), Outcome::Done);
    assert_eq!(rig.fetch_raw(key(1), (16 << 20) - 4096), malformed);
    assert_eq!(
        rig.store_raw(key(2), 0, vec![0; crate::DESCRIPTOR_BYTES_MAX + 1]),
        malformed
    );
    assert_eq!(rig.store_raw(key(2), (16 << 20) - 4096, vec![]), malformed);
    let longest = vec![7; crate::DESCRIPTOR_BYTES_MAX];
    assert_eq!(rig.store_raw(key(2), 0, longest), Outcome::Done);
    let mut stranger = key(1);
    stranger.namespace.0[0] ^= 1;
    let unknown = Outcome::Refused(Refusal::UnknownNamespace);
    assert_eq!(rig.fetch_raw(stranger, 0), unknown);
    assert_eq!(rig.store_raw(stranger, 0, vec![]), unknown);
    assert_eq!(rig.delete(stranger), unknown);
    let presence = rig.exists(vec![key(1), stranger], false);
    assert_eq!(presence, [Presence::Unknown, Presence::Unknown]);
    rig.submit(Order::ForgetNamespace {
        namespace: key(1).namespace,
    });
    assert_eq!(rig.fetch_raw(key(1), 0), unknown);
}

#[test]
fn a_namespace_that_differs_at_the_store_is_never_used() {
    for place in Place::all() {
        let mut rig = place.rig(1);
        assert_eq!(rig.store(key(1)), Outcome::Done);
        // Two descriptors under one id are not to be had; somebody's tampering is.
        let (descriptor, geometry) = namespace_of("another");
        let other = crate::format::encode_namespace(&descriptor, &geometry);
        place.tamper(&namespace_name(key(1).namespace), |bytes| *bytes = other);
        let mut fresh = place.rig(2);
        let refused = Outcome::Refused(Refusal::NamespaceDiffers);
        assert_eq!(fresh.fetch(key(1)), refused);
        assert_eq!(fresh.store(key(2)), refused);
        assert_eq!(fresh.exists(vec![key(1)], false), [Presence::Unknown]);
        // Who has compared before goes on: what was true stays true.
        assert_eq!(rig.fetch(key(1)), Outcome::Done);
    }
}

#[test]
fn a_slot_may_change_once_its_bytes_are_taken() {
    let server = Server::start();
    let mut rig = Rig::new(BackendSpec::Store(server.spec()), 1, |_| {});
    let late = crate::backend::store::tests::Trouble::Delay(Duration::from_millis(300));
    server.talk.trouble("PUT", "v1/", late);
    let operation = rig.order_store(key(1), 0);
    rig.hear_until("the slot is taken", |rig| rig.taken.contains(&operation));
    assert!(!rig.is_answered(operation));
    assert!(crate::SlotMemory::copy_in(&*rig.slots, 0, &[0xcc; 8192]));
    assert_eq!(rig.done(operation), Outcome::Done);
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
}

#[test]
fn more_orders_than_may_wait_are_refused_and_the_others_are_done() {
    let server = Server::start();
    let mut rig = Rig::new(BackendSpec::Store(server.spec()), 1, |spec| {
        spec.limits.orders_max = 20;
        spec.limits.reads.waiting_max = 5;
    });
    server.talk.trouble(
        "GET",
        "v1/",
        crate::backend::store::tests::Trouble::Delay(Duration::from_millis(200)),
    );
    let orders: Vec<_> = (0..40)
        .map(|number| rig.order_fetch(key(number), 1, ReadClass::Prefetch))
        .collect();
    let mut outcomes = Vec::new();
    for (operation, number) in orders.into_iter().zip(0..) {
        outcomes.push(rig.fetched(operation, key(number), 1));
    }
    let full = Outcome::Refused(Refusal::QueueFull);
    let refused = outcomes.iter().filter(|outcome| **outcome == full).count();
    let missing = outcomes
        .iter()
        .filter(|outcome| **outcome == Outcome::Missing)
        .count();
    assert!(
        refused >= 20 && missing >= 5 && refused + missing == 40,
        "{outcomes:?}"
    );
    assert_eq!(rig.fetch(key(1)), Outcome::Missing);
    assert_eq!(rig.stats().unanswered, 0);
}

#[test]
fn closing_answers_everything_and_touches_no_slot_afterwards() {
    let server = Server::start();
    let mut rig = Rig::new(BackendSpec::Store(server.spec()), 1, |_| {});
    assert_eq!(rig.store(key(1)), Outcome::Done);
    server
        .talk
        .trouble("GET", "v1/", crate::backend::store::tests::Trouble::Stall);
    let fetches: Vec<_> = (2..20)
        .map(|number| (rig.order_fetch(key(number), 1, ReadClass::Demand), key(number)))
        .collect();
    let write = rig.order_store(key(50), 0);
    rig.hear_until("the write has begun", |rig| rig.taken.contains(&write));
    rig.close();
    for (fetch, key) in fetches {
        assert_eq!(rig.fetched(fetch, key, 1), Outcome::Refused(Refusal::Closed));
    }
    assert_eq!(rig.done(write), Outcome::Done);
}

#[test]
fn nothing_is_asked_of_a_store_while_nobody_wants_anything() {
    let server = Server::start();
    let mut rig = Rig::new(BackendSpec::Store(server.spec()), 1, |_| {});
    assert_eq!(rig.store(key(1)), Outcome::Done);
    let before = server.talk.requests("").len();
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.talk.requests("").len(), before);
}

#[test]
fn what_is_known_is_not_asked_again_until_it_is_old() {
    let server = Server::start();
    let mut rig = Rig::new(BackendSpec::Store(server.spec()), 1, |spec| {
        spec.existence.missing_for = Duration::from_millis(300);
    });
    let asked = || server.talk.requests("HEAD").len();
    assert_eq!(rig.store(key(1)), Outcome::Done);
    let keys = vec![key(1), key(2)];
    let found = [Presence::Present, Presence::Missing];
    assert_eq!(rig.exists(keys.clone(), false), found);
    assert_eq!(asked(), 1, "what we wrote is there");
    assert_eq!(rig.exists(keys.clone(), false), found);
    assert_eq!(asked(), 1);
    assert_eq!(rig.fetch(key(2)), Outcome::Missing);
    assert_eq!(
        server
            .talk
            .requests("GET")
            .iter()
            .filter(|get| get.contains("/02/"))
            .count(),
        0
    );
    let mut two = Rig::new(BackendSpec::Store(server.spec()), 2, |_| {});
    assert_eq!(two.store(key(2)), Outcome::Done);
    wait_until("the other node's block is seen", || {
        rig.exists(keys.clone(), false) == [Presence::Present, Presence::Present]
    });
    let stats = rig.stats();
    assert!(stats.lookup_blocks[0] >= 2 && stats.lookup_blocks[1] >= 1 && stats.lookup_blocks[2] >= 2);
}

#[test]
fn an_event_tells_when_the_store_comes_into_service() {
    let store = Arc::new(MemoryStore::default());
    let mut rig = Rig::closed(BackendSpec::Memory(store), 1, |_| {});
    rig.wait_for_service(Direction::Read, true);
    rig.wait_for_service(Direction::Write, true);
    assert_eq!(rig.stats().in_service, [true, true]);
    let (descriptor, geometry) = namespace();
    rig.submit(Order::KeepNamespace { descriptor, geometry });
    assert_eq!(rig.store(key(1)), Outcome::Done);
}

impl Rig {
    fn fetch_raw(&mut self, key: kvstore_types::BlockKey, offset: u64) -> Outcome {
        let operation = self.next();
        self.submit(Order::Fetch {
            operation,
            key,
            offset,
            class: ReadClass::Demand,
        });
        let RemoteEvent::Fetched { outcome, .. } = self.answer(operation) else {
            panic!("not the answer to a fetch")
        };
        outcome
    }

    fn store_raw(&mut self, key: kvstore_types::BlockKey, offset: u64, descriptor: Vec<u8>) -> Outcome {
        let operation = self.next();
        self.submit(Order::Store {
            operation,
            key,
            descriptor,
            offset,
        });
        self.done(operation)
    }
}
