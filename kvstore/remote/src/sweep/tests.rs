//! Turns of the sweeper, with the store's clock and ours apart from each other.

use super::*;
use crate::MemoryStore;
use crate::format::{Touched, TouchedBlock, block_name, touched_name};
use crate::testing::{aligned, key, namespace, object, writer};

fn sweeper(store: &Arc<MemoryStore>, node: u8, limits: SweepLimits) -> Sweeper {
    let spec = SweepSpec {
        limits,
        every: Duration::from_mins(10),
        lease: Duration::from_mins(1),
        ..SweepSpec::default()
    };
    Sweeper::new(store.clone(), writer(node), spec, Arc::default())
}

async fn put(store: &MemoryStore, number: u64) {
    let object = aligned(&object(key(number), 8192, b""));
    let hold: crate::backend::Hold = Arc::new(());
    let mode = crate::backend::Mode::Create;
    store
        .put(&block_name(&key(number)), object, mode, hold)
        .await
        .unwrap();
}

async fn touch(store: &MemoryStore, number: u64, block: u64) {
    let record = Touched {
        namespace: namespace().0.id(),
        blocks: vec![TouchedBlock::from(&key(block))],
    };
    let name = touched_name(record.namespace, &writer(7), number);
    store.put_small(&name, record.encode().into()).await.unwrap();
}

const NOTHING: SweepLimits = SweepLimits {
    bytes_max: Some(0),
    age_max: None,
};

fn aged(days: u64) -> SweepLimits {
    SweepLimits {
        bytes_max: None,
        age_max: Some(Duration::from_hours(24 * days)),
    }
}

#[tokio::test]
async fn the_holder_goes_on_and_others_wait_by_their_own_clocks() {
    let store = Arc::new(MemoryStore::default());
    let (mut one, mut two) = (sweeper(&store, 1, NOTHING), sweeper(&store, 2, NOTHING));
    let start = Instant::now();
    assert!(one.turn(start).await.unwrap().is_some());
    let mut now = start;
    for round in 0..10 {
        put(&store, round).await;
        assert!(two.turn(now).await.unwrap().is_none(), "round {round}");
        now += Duration::from_mins(10);
        assert_eq!(one.turn(now).await.unwrap().unwrap().blocks_removed, 1);
    }
    // It is seen unchanged for twice its duration.
    assert!(two.turn(now).await.unwrap().is_none());
    let later = now + Duration::from_mins(20);
    assert!(two.turn(later).await.unwrap().is_some());
    assert!(one.turn(later).await.unwrap().is_none(), "it has lost the lease");
}

#[tokio::test]
async fn ages_are_differences_of_the_stores_own_times() {
    let store = Arc::new(MemoryStore::default());
    // The store's clock is decades away from ours, and nothing is a day old by it.
    put(&store, 1).await;
    store.advance(Duration::from_hours(23));
    put(&store, 2).await;
    let mut sweeper = sweeper(&store, 1, aged(1));
    let report = sweeper.turn(Instant::now()).await.unwrap().unwrap();
    assert_eq!((report.blocks, report.blocks_removed), (2, 0));
    store.advance(Duration::from_hours(1));
    let report = sweeper.turn(Instant::now()).await.unwrap().unwrap();
    assert_eq!((report.blocks, report.blocks_removed), (2, 1));
}

#[tokio::test]
async fn the_latest_of_several_records_counts_and_damaged_ones_do_not() {
    let store = Arc::new(MemoryStore::default());
    for number in 1..4 {
        put(&store, number).await;
    }
    touch(&store, 1, 1).await;
    store.advance(Duration::from_hours(36));
    touch(&store, 2, 1).await;
    touch(&store, 3, 2).await;
    let damaged = touched_name(namespace().0.id(), &writer(7), 3);
    assert!(store.tamper(&damaged, |bytes| bytes[20] ^= 1));
    let mut sweeper = sweeper(&store, 1, aged(1));
    let report = sweeper.turn(Instant::now()).await.unwrap().unwrap();
    assert_eq!(
        (report.blocks, report.blocks_removed, report.touched_removed),
        (3, 2, 1)
    );
    let left = store.names();
    assert!(left.contains(&block_name(&key(1))), "{left:?}");
}

#[tokio::test]
async fn a_lease_that_is_lost_in_the_middle_ends_the_sweep() {
    let store = Arc::new(MemoryStore::default());
    for number in 0..3 {
        put(&store, number).await;
    }
    let mut one = sweeper(&store, 1, NOTHING);
    // It slept through its lease: by its own clock it has to renew before it removes anything.
    let long_ago = Instant::now().checked_sub(Duration::from_mins(11)).unwrap();
    let held = one.hold(long_ago).await.unwrap().unwrap();
    let two = sweeper(&store, 2, NOTHING);
    let found = store.get_small(LEASE_NAME, 4096).await.unwrap().unwrap();
    let lease = crate::format::Lease {
        token: 2,
        holder: two.writer,
        duration_ms: 1,
    };
    let replaced = store
        .replace_small(LEASE_NAME, lease.encode().into(), Some(found.version))
        .await;
    assert!(matches!(replaced, Ok(crate::backend::Replaced::Done(_))));
    let backend: Arc<dyn Backend> = store.clone();
    let sweep = Sweep {
        backend: &backend,
        namespace: namespace().0.id(),
        limits: NOTHING,
        temporary_age: Duration::ZERO,
        now: found.modified + Duration::from_hours(1),
        held: Some(held),
        lists_at_once: 3,
        progress: &|_, _| {},
    };
    let (held, swept) = sweep.run().await;
    assert!(held.is_none(), "it is lost");
    let fault = swept.unwrap_err();
    assert_eq!(fault.text, "another node sweeps");
    assert_eq!(store.names().len(), 4, "nothing was removed");
}

#[tokio::test]
async fn who_stops_gives_the_lease_back() {
    let store = Arc::new(MemoryStore::default());
    put(&store, 1).await;
    let mut one = sweeper(&store, 1, NOTHING);
    assert!(one.turn(Instant::now()).await.unwrap().is_some());
    let mut two = sweeper(&store, 2, NOTHING);
    assert!(two.turn(Instant::now()).await.unwrap().is_none());
    let (stop, is_stopped) = tokio::sync::oneshot::channel();
    stop.send(()).unwrap();
    one.run(is_stopped).await;
    assert!(two.turn(Instant::now()).await.unwrap().is_some());
}

#[tokio::test]
async fn who_stops_in_the_middle_of_a_sweep_gives_the_lease_back_as_well() {
    let store = Arc::new(MemoryStore::default());
    let mut one = sweeper(&store, 1, NOTHING);
    // Whatever became of the work under it, it is still there.
    let held = one.hold(Instant::now()).await.unwrap();
    assert!(held.is_some());
    let (stop, is_stopped) = tokio::sync::oneshot::channel();
    stop.send(()).unwrap();
    one.run(is_stopped).await;
    assert!(
        sweeper(&store, 2, NOTHING)
            .turn(Instant::now())
            .await
            .unwrap()
            .is_some()
    );
}

/// Sweeps on demand, without waiting for anybody.
async fn now(sweeper: &mut Sweeper) -> SweepNow {
    sweeper.sweep_now(Instant::now()).await.unwrap()
}

#[tokio::test]
async fn a_dead_nodes_lease_is_shown_and_taken_over_when_it_has_expired() {
    let store = Arc::new(MemoryStore::default());
    put(&store, 1).await;
    let mut dead = sweeper(&store, 1, SweepLimits::default());
    assert!(dead.turn(Instant::now()).await.unwrap().is_some());
    store.advance(Duration::from_mins(3));
    // Each command is another process, and has seen nothing of what was before.
    let command = || sweeper(&store, 2, NOTHING);
    let expected = LeaseHeld {
        holder: Some(writer(1)),
        is_this_node: false,
        renewed_ago: Duration::from_mins(3),
        expires_in: Duration::from_mins(17),
    };
    assert_eq!(now(&mut command()).await, SweepNow::Held(expected));
    store.advance(Duration::from_mins(17));
    let SweepNow::Swept(report) = now(&mut command()).await else {
        panic!("it has expired")
    };
    assert_eq!(report.blocks_removed, 1);
    // It was given back: nobody waits for a command that has ended.
    assert!(
        sweeper(&store, 3, NOTHING)
            .turn(Instant::now())
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_holder_that_lives_keeps_the_lease() {
    let store = Arc::new(MemoryStore::default());
    let mut holder = sweeper(&store, 1, NOTHING);
    for _ in 0..5 {
        assert!(holder.turn(Instant::now()).await.unwrap().is_some());
        store.advance(Duration::from_mins(19));
        assert!(matches!(
            now(&mut sweeper(&store, 2, NOTHING)).await,
            SweepNow::Held(_)
        ));
    }
}

#[tokio::test]
async fn a_sweep_on_demand_that_fails_leaves_no_lease() {
    let store = Arc::new(MemoryStore::default());
    put(&store, 1).await;
    let faults = crate::backend::lying::Faults {
        error: 0.2,
        ..Default::default()
    };
    let (mut failed, mut swept) = (0, 0);
    for seed in 0..40 {
        let lying = crate::backend::lying::Lying::new(store.clone(), seed, faults);
        let mut command = sweeper(&store, 2, NOTHING);
        command.backend = lying.clone();
        match command.sweep_now(Instant::now()).await {
            Ok(_) => swept += 1,
            Err(_) => failed += 1,
        }
        lying.repent();
        // Giving it back may have failed as well; the same process can always do it again.
        command.give_back().await;
        let lease = store.get_small(LEASE_NAME, 1 << 10).await.unwrap();
        if lease.is_some_and(|lease| lease.bytes.is_empty()) {
            // One of the errors was that there is no room: what was written then does not say whose it is, and stands for two minutes.
            let hold: crate::backend::Hold = Arc::new(());
            store.delete(vec![LEASE_NAME.to_owned()], hold).await.unwrap();
            continue;
        }
        assert!(
            sweeper(&store, 3, NOTHING)
                .turn(Instant::now())
                .await
                .unwrap()
                .is_some(),
            "seed {seed}"
        );
        lease::give_back(&*store, writer(3)).await.unwrap();
    }
    assert!(failed > 0 && swept > 0, "{failed} failed, {swept} swept");
}

/// A record that is too long ended all sweeps, for good.
#[tokio::test]
async fn a_record_of_no_use_is_passed_by_and_goes_when_it_is_old() {
    let store = Arc::new(MemoryStore::default());
    put(&store, 1).await;
    let name = touched_name(namespace().0.id(), &writer(7), 1);
    let long = vec![0; usize::try_from(Touched::BYTES_MAX).unwrap() + 1];
    store.put_small(&name, long.into()).await.unwrap();
    let mut sweeper = sweeper(&store, 1, NOTHING);
    let report = sweeper.turn(Instant::now()).await.unwrap().unwrap();
    assert_eq!((report.blocks_removed, report.touched_removed), (1, 0));
    store.advance(Duration::from_hours(24 * 31));
    let report = sweeper.turn(Instant::now()).await.unwrap().unwrap();
    assert_eq!(report.touched_removed, 1);
}

/// What cannot be listed in one namespace kept all those behind it from being swept.
#[tokio::test]
async fn a_namespace_that_cannot_be_swept_is_named_and_the_others_are_swept() {
    let place = tempfile::tempdir().unwrap();
    let spec = crate::backend::mount::tests::spec(place.path());
    let store = Arc::new(crate::backend::mount::tests::start(&spec));
    let hold: crate::backend::Hold = Arc::new(());
    let object = aligned(&object(key(1), 8192, b""));
    let mode = crate::backend::Mode::Create;
    store.put(&block_name(&key(1)), object, mode, hold).await.unwrap();
    // Listing a directory that is a link to itself fails, whoever asks.
    let odd = place.path().join("v1/00000000000000000000000000000000");
    std::fs::create_dir_all(&odd).unwrap();
    std::os::unix::fs::symlink("07", odd.join("07")).unwrap();
    let sweep = SweepSpec {
        limits: NOTHING,
        ..SweepSpec::default()
    };
    let mut sweeper = Sweeper::new(store, writer(1), sweep, Arc::default());
    let fault = sweeper.turn(Instant::now()).await.unwrap_err();
    assert!(
        fault.text.contains("namespace 00000000000000000000000000000000"),
        "{fault}"
    );
    assert!(!place.path().join(block_name(&key(1))).exists(), "it was swept");
    assert_eq!(sweeper.counters.lock().sweep.blocks_removed, 1);
}
