//! The conformance suite: what every store does, whatever it is.

mod elsewhere;

use std::sync::Arc;
use std::time::Duration;

use super::mount::tests::mounts;
use super::store::tests::Server;
use super::*;
use crate::MemoryStore;
use crate::format::PAGE;
use crate::testing::{WATCHDOG, aligned};

fn hold() -> Hold {
    Arc::new(())
}

/// A page that is easily told from others.
fn page(number: u8) -> Bytes {
    aligned(&[number; PAGE])
}

async fn read(store: &dyn Backend, name: &str, range: Range<u64>) -> Option<(Vec<u8>, u64)> {
    let body = store.get(name, range, hold()).await.unwrap()?;
    Some((body.pieces.concat(), body.object_bytes))
}

async fn objects_are_written_once_and_read_in_parts(store: &dyn Backend) {
    let object: Vec<u8> = (0..3 * PAGE).map(|at| at.to_le_bytes()[at % 2]).collect();
    let bytes = object.len() as u64;
    let name = "v1/aa/00/object";
    assert!(read(store, name, 0..bytes).await.is_none());
    let put = |content: &[u8], mode| store.put(name, aligned(content), mode, hold());
    assert_eq!(put(&object, Mode::Create).await, Ok(Written::New));
    let (found, whole) = read(store, name, 0..bytes).await.unwrap();
    assert!(found == object && whole == bytes);
    for range in [0..4096, 4096..8192, 4096..12_288, 8192..1 << 20] {
        let (found, whole) = read(store, name, range.clone()).await.unwrap();
        let start = usize::try_from(range.start).unwrap();
        let end = usize::try_from(range.end.min(bytes)).unwrap();
        assert!(found == object[start..end] && whole == bytes, "{range:?}");
    }
    // What is there stays, and no reader ever sees another content.
    let other = vec![0xff; 3 * PAGE];
    assert_eq!(put(&other, Mode::Create).await, Ok(Written::AlreadyPresent));
    assert!(read(store, name, 0..bytes).await.unwrap().0 == object);
    assert_eq!(put(&other, Mode::Replace).await, Ok(Written::New));
    assert!(read(store, name, 0..bytes).await.unwrap().0 == other);
}

async fn reading_behind_the_end_gives_what_there_is(store: &dyn Backend) {
    let name = "v1/aa/01/short";
    store.put(name, page(1), Mode::Create, hold()).await.unwrap();
    let (found, whole) = read(store, name, 0..8192).await.unwrap();
    assert_eq!((found, whole), (vec![1; PAGE], PAGE as u64));
    let (found, whole) = read(store, name, 8192..12_288).await.unwrap();
    assert!(found.is_empty() && whole < 8192, "{whole}");
}

async fn existence_comes_in_the_order_of_the_names(store: &dyn Backend) {
    let names: Vec<String> = (0..70).map(|number| format!("v1/aa/02/{number:04}")).collect();
    for name in names.iter().step_by(3) {
        store.put(name, page(2), Mode::Create, hold()).await.unwrap();
    }
    let found = store.exist(&names, hold()).await;
    let expected: Vec<_> = (0..70).map(|number| Ok(number % 3 == 0)).collect();
    assert_eq!(found, expected);
    assert_eq!(store.exist(&[], hold()).await, []);
}

async fn what_is_removed_is_gone_and_may_be_gone_already(store: &dyn Backend) {
    let names: Vec<String> = (0..5).map(|number| format!("v1/aa/03/{number}")).collect();
    for name in &names {
        store.put(name, page(3), Mode::Create, hold()).await.unwrap();
    }
    assert!(store.delete(names[1..].to_vec(), hold()).await.unwrap() >= 4);
    store.delete(names[3..].to_vec(), hold()).await.unwrap();
    let left = store.exist(&names, hold()).await;
    assert_eq!(left, [Ok(true), Ok(false), Ok(false), Ok(false), Ok(false)]);
    store.put(&names[2], page(4), Mode::Create, hold()).await.unwrap();
    assert_eq!(
        read(store, &names[2], 0..4096).await.map(|found| found.1),
        Some(4096)
    );
}

async fn directories_are_listed_in_pages(store: &dyn Backend) {
    for number in 0..7 {
        let name = format!("v1/bb/00/{number}");
        store.put(&name, page(5), Mode::Create, hold()).await.unwrap();
    }
    store
        .put("v1/bb/00/inner/x", page(5), Mode::Create, hold())
        .await
        .unwrap();
    store
        .put("v1/bb/01/y", page(5), Mode::Create, hold())
        .await
        .unwrap();
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = store.list("v1/bb/00", after.as_deref(), 3).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3);
        assert!(page.iter().all(|meta| meta.bytes == 4096));
        after = Some(last.name.clone());
        names.extend(page.into_iter().map(|meta| meta.name));
    }
    assert_eq!(names, ["0", "1", "2", "3", "4", "5", "6"]);
    assert_eq!(store.list("v1/bb/09", None, 10).await, Ok(vec![]));
    let mut directories = store.directories("v1/bb").await.unwrap();
    // Where a mount writes first.
    directories.retain(|name| name != "temporary");
    directories.sort();
    assert_eq!(directories, ["00", "01"]);
    assert_eq!(store.directories("v1/nothing").await, Ok(vec![]));
}

async fn small_objects_are_created_once_and_replaced_by_the_first(store: &dyn Backend) {
    let name = "v1/cc/small";
    assert_eq!(store.get_small(name, 100).await, Ok(None));
    assert_eq!(store.put_small(name, Bytes::from("one")).await, Ok(Written::New));
    let again = store.put_small(name, Bytes::from("two")).await;
    assert_eq!(again, Ok(Written::AlreadyPresent));
    assert_eq!(store.get_small(name, 100).await.unwrap().unwrap().bytes, "one");
    let large = store.get_small(name, 2).await.unwrap_err();
    assert_eq!(large.kind, FaultKind::NameTaken);

    let lease = "v1/lease";
    let replace = |text: &'static str, expected| store.replace_small(lease, Bytes::from(text), expected);
    let Replaced::Done(first) = replace("a", None).await.unwrap() else {
        panic!("nobody has it")
    };
    assert_eq!(replace("b", None).await, Ok(Replaced::Lost));
    let Replaced::Done(second) = replace("c", Some(first.clone())).await.unwrap() else {
        panic!("it is as it was")
    };
    assert_eq!(replace("d", Some(first)).await, Ok(Replaced::Lost));
    let found = store.get_small(lease, 100).await.unwrap().unwrap();
    assert_eq!((&found.bytes[..], &found.version), (&b"c"[..], &second));
    // Many at once: one of them.
    let tries = (0..8).map(|_| replace("e", Some(second.clone())));
    let won = futures_util::future::join_all(tries).await;
    let won = won.iter().filter(|won| matches!(won, Ok(Replaced::Done(_))));
    assert_eq!(won.count(), 1);
}

async fn of_many_that_write_one_object_all_leave_it_whole(store: &dyn Backend) {
    let name = "v1/dd/00/raced";
    let object = vec![7; 64 * PAGE];
    let writes = (0..6).map(|number| {
        let mode = if number % 2 == 0 {
            Mode::Create
        } else {
            Mode::Replace
        };
        store.put(name, aligned(&object), mode, hold())
    });
    let reads = (0..6).map(|_| read(store, name, 0..64 * 4096));
    let (written, seen) = futures_util::future::join(
        futures_util::future::join_all(writes),
        futures_util::future::join_all(reads),
    )
    .await;
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    assert!(seen.iter().flatten().all(|(found, _)| *found == object));
    assert!(read(store, name, 0..64 * 4096).await.unwrap().0 == object);
}

async fn both_directions_answer_probes(store: &dyn Backend) {
    for direction in Direction::ALL {
        assert_eq!(store.probe(direction).await, Ok(()), "{direction:?}");
    }
}

/// The suite.
async fn conforms(what: &str, store: Arc<dyn Backend>) {
    let store = &*store;
    let suite = async {
        both_directions_answer_probes(store).await;
        objects_are_written_once_and_read_in_parts(store).await;
        reading_behind_the_end_gives_what_there_is(store).await;
        existence_comes_in_the_order_of_the_names(store).await;
        what_is_removed_is_gone_and_may_be_gone_already(store).await;
        directories_are_listed_in_pages(store).await;
        small_objects_are_created_once_and_replaced_by_the_first(store).await;
        of_many_that_write_one_object_all_leave_it_whole(store).await;
    };
    let done = tokio::time::timeout(WATCHDOG, suite).await;
    assert!(done.is_ok(), "{what}: {} did not end", store.describe());
}

#[tokio::test]
async fn the_twin_conforms() {
    conforms("the twin", Arc::new(MemoryStore::default())).await;
}

#[tokio::test]
async fn mounts_conform() {
    for mount in mounts() {
        conforms(&mount.what, mount.backend.clone()).await;
    }
}

#[tokio::test]
async fn a_store_that_speaks_s3_conforms() {
    let server = Server::start();
    conforms("S3", server.backend(&server.spec())).await;
}

#[tokio::test]
async fn a_hold_is_dropped_when_the_store_is_done() {
    let server = Server::start();
    let mut stores: Vec<Arc<dyn Backend>> = vec![server.backend(&server.spec())];
    let mounts = mounts();
    stores.extend(
        mounts
            .iter()
            .map(|mount| mount.backend.clone() as Arc<dyn Backend>),
    );
    for store in stores {
        let hold: Hold = Arc::new(());
        let put = store.put("v1/ee/00/x", page(1), Mode::Create, hold.clone());
        put.await.unwrap();
        let got = store.get("v1/ee/00/x", 0..4096, hold.clone()).await.unwrap();
        assert!(got.is_some());
        let waiting = async {
            while Arc::strong_count(&hold) > 1 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(WATCHDOG, waiting).await.unwrap();
    }
}
