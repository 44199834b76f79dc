//! What a directory may hold, what is done about it, and what never is.

mod full;
mod not_files;
mod segments;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use kvstore_types::{SegmentGeneration, SegmentRef};
use tempfile::TempDir;

use super::*;
use crate::format::tests::namespace;

const SEGMENT_BYTES: u64 = 64 << 10;

fn spec(path: &Path) -> DirectorySpec<'_> {
    DirectorySpec {
        path,
        tenant: "default",
        segment_bytes: SEGMENT_BYTES,
        segments_max: 4,
        direct: Direct::Auto,
    }
}

fn open(path: &Path) -> (Directory, Inventory) {
    Directory::open_at(spec(path)).unwrap()
}

fn refused(spec: DirectorySpec<'_>) -> String {
    Directory::open_at(spec).unwrap_err().to_string()
}

fn with_segments(indexes: &[u32]) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(place.path());
    for &index in indexes {
        directory.create_segment(index).unwrap();
        directory.write_segment_header(used(index, 1)).unwrap();
    }
    place
}

fn used(index: u32, generation: u64) -> SegmentRef {
    SegmentRef {
        index,
        generation: SegmentGeneration(generation),
    }
}

/// Names and bytes of all files but the lock's, which has the pid of whoever came last.
fn contents(path: &Path) -> Vec<(String, Vec<u8>)> {
    let names = list(path).unwrap().into_iter().filter(|name| name != names::LOCK);
    names
        .map(|name| {
            let bytes = fs::read(path.join(&name)).unwrap_or_default();
            (name, bytes)
        })
        .collect()
}

#[test]
fn a_new_directory_is_made_for_its_owner_alone_and_opens_again_as_the_same() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("a/default");
    let (directory, inventory) = open(&path);
    assert!(inventory.created);
    let key = directory.key().clone();
    assert_ne!(key.mac, [0; 32]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    for name in ["tier.kvt", "lock"] {
        let mode = fs::metadata(path.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    drop(directory);
    let (directory, inventory) = open(&path);
    assert_eq!(inventory, Inventory::default());
    assert_eq!(*directory.key(), key);
    assert_eq!((directory.tenant(), directory.segment_pages()), ("default", 16));
}

#[test]
fn what_was_half_made_is_collected() {
    let place = with_segments(&[0]);
    for name in [
        "segment-00000001.kvt.partial",
        "tier.kvt.partial",
        "probe.kvt.partial",
    ] {
        fs::write(place.path().join(name), "half").unwrap();
    }
    let (_directory, inventory) = open(place.path());
    assert_eq!(inventory.leftovers.len(), 3);
    assert_eq!(inventory.segments, [0]);
    assert!(
        !list(place.path())
            .unwrap()
            .iter()
            .any(|name| name.ends_with(".partial"))
    );
}

#[test]
fn a_start_that_was_interrupted_before_the_superblock_goes_on() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("lock"), "").unwrap();
    fs::write(place.path().join("tier.kvt.partial"), "half").unwrap();
    let (_directory, inventory) = open(place.path());
    assert!(inventory.created);
}

#[test]
fn strangers_files_are_left_alone_and_named() {
    let place = with_segments(&[0]);
    fs::write(place.path().join("notes.txt"), "mine").unwrap();
    let (_directory, inventory) = open(place.path());
    assert_eq!(inventory.unknown, ["notes.txt"]);
    assert_eq!(fs::read(place.path().join("notes.txt")).unwrap(), b"mine");
}

#[test]
fn a_directory_that_is_not_ours_is_refused_and_untouched() {
    type Harm = fn(&Path);
    let cases: [(Harm, &str); 7] = [
        (
            |path| fs::remove_file(path.join("tier.kvt")).unwrap(),
            "has no tier.kvt and is not empty",
        ),
        (
            |path| fs::write(path.join("tier.kvt"), "hello, world").unwrap(),
            "not a kvtier superblock",
        ),
        (
            |path| fs::write(path.join("tier.kvt"), b"KVTTIER\0\x02\0\0\0and more").unwrap(),
            "format version 2",
        ),
        (
            |path| flip(&path.join("tier.kvt"), 40),
            "it is damaged: wrong checksum",
        ),
        (
            |path| cut(&path.join("tier.kvt"), 4095),
            "it is damaged: want 4096 bytes",
        ),
        (|path| cut(&path.join("tier.kvt"), 0), "not a kvtier superblock"),
        (
            |path| cut(&path.join("tier.kvt"), 4097),
            "it is damaged: want 4096 bytes",
        ),
    ];
    for (harm, expected) in cases {
        let place = with_segments(&[0, 1]);
        fs::write(place.path().join("segment-00000002.kvt.partial"), "half").unwrap();
        harm(place.path());
        let before = contents(place.path());
        let smaller = DirectorySpec {
            segments_max: 1,
            ..spec(place.path())
        };
        let error = refused(smaller);
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
        assert!(error.contains("empty"), "{error:?} should say what to do");
        assert_eq!(contents(place.path()), before, "{expected}");
    }
}

#[test]
fn another_tenants_directory_or_other_segments_are_refused_and_untouched() {
    let place = with_segments(&[0, 1]);
    let before = contents(place.path());
    let tenant = refused(DirectorySpec {
        tenant: "other",
        segments_max: 0,
        ..spec(place.path())
    });
    assert!(
        tenant.contains("belongs to tenant \"default\", want \"other\""),
        "{tenant}"
    );
    let size = refused(DirectorySpec {
        segment_bytes: 2 * SEGMENT_BYTES,
        segments_max: 0,
        ..spec(place.path())
    });
    assert!(
        size.contains("has segments of 65536 bytes, want 131072"),
        "{size}"
    );
    assert_eq!(contents(place.path()), before);
}

#[test]
fn a_size_or_a_name_that_cannot_be_is_refused_before_anything_is_made() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("default");
    for segment_bytes in [0, 4096, 65537, u64::MAX / 4096 * 4096] {
        let error = refused(DirectorySpec {
            segment_bytes,
            ..spec(&path)
        });
        assert!(error.contains("want segments of 2 pages or more"), "{error}");
    }
    let tenant = "x".repeat(TENANT_BYTES_MAX + 1);
    let error = refused(DirectorySpec {
        tenant: &tenant,
        ..spec(&path)
    });
    assert!(error.contains("at most 4000 bytes"), "{error}");
    assert!(!path.exists());
}

#[test]
fn only_one_at_a_time_has_a_directory_open() {
    let place = with_segments(&[]);
    let (directory, _) = open(place.path());
    let error = Directory::inspect(place.path()).unwrap_err().to_string();
    assert!(
        error.contains(&format!("in use by process {}", std::process::id())),
        "{error}"
    );
    drop(directory);
    assert!(Directory::inspect(place.path()).is_ok());
}

#[test]
fn a_lock_that_a_dying_predecessor_holds_is_waited_for() {
    let place = with_segments(&[]);
    let held = lock::take(place.path(), Duration::ZERO).unwrap();
    let path = place.path().to_owned();
    let successor = std::thread::spawn(move || Directory::open_at(spec(&path)).map(|_| ()));
    while !successor.is_finished() && !is_waited_for() {
        std::thread::yield_now();
    }
    drop(held);
    successor.join().unwrap().unwrap();
}

/// Whether a while has passed in which the successor may have met the lock. Either way it has to get it.
fn is_waited_for() -> bool {
    use std::sync::OnceLock;
    use std::time::Instant;
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    BEGUN.get_or_init(Instant::now).elapsed() > Duration::from_millis(60)
}

#[test]
fn looking_at_a_directory_changes_nothing() {
    let place = with_segments(&[0]);
    fs::write(place.path().join("segment-00000001.kvt.partial"), "half").unwrap();
    let before = contents(place.path());
    let (directory, inventory) = Directory::inspect(place.path()).unwrap();
    assert_eq!(inventory.leftovers, ["segment-00000001.kvt.partial"]);
    assert_eq!(directory.read_segment_header(0).unwrap().segment, used(0, 1));
    drop(directory);
    assert_eq!(contents(place.path()), before);
    let absent = Directory::inspect(&place.path().join("absent")).unwrap_err();
    assert!(matches!(absent, OpenError::Io { .. }), "{absent}");
}

/// Somebody's directories under our names used to take the device out of service.
#[test]
fn directories_with_names_of_ours_are_left_alone() {
    let place = with_segments(&[0]);
    for name in ["segment-00000001.kvt.partial", "segment-00000009.kvt"] {
        fs::create_dir(place.path().join(name)).unwrap();
    }
    let one = DirectorySpec {
        segments_max: 1,
        ..spec(place.path())
    };
    let (directory, inventory) = Directory::open_at(one).unwrap();
    assert_eq!(inventory.unknown, ["segment-00000001.kvt.partial"]);
    assert_eq!(inventory.segments, [0]);
    assert!(inventory.leftovers.is_empty() && inventory.surplus.is_empty());
    assert_eq!(inventory.unusable, [(9, "it is a directory".to_owned())]);
    drop(directory);
    assert!(place.path().join("segment-00000009.kvt").is_dir());
}

#[test]
fn namespaces_are_kept_and_dropped() {
    let place = with_segments(&[]);
    let (directory, _) = open(place.path());
    let (descriptor, geometry) = namespace();
    for _ in 0..2 {
        directory.keep_namespace(&descriptor, &geometry, 1 << 20).unwrap();
    }
    let found = directory.namespaces().unwrap();
    assert_eq!(found.good, [(descriptor.clone(), geometry.clone())]);
    assert!(found.damaged.is_empty());
    directory.drop_namespace(descriptor.id()).unwrap();
    assert!(directory.namespaces().unwrap().good.is_empty());
}

#[test]
fn namespaces_never_take_more_than_they_may() {
    let place = with_segments(&[]);
    let (directory, _) = open(place.path());
    let geometry = namespace().1;
    let named = |name: &str| {
        let field = kvstore_types::Field {
            tag: "model.id".to_owned(),
            value: name.into(),
        };
        kvstore_types::NamespaceDescriptor::new(vec![field]).unwrap()
    };
    let keep = |name: &str| directory.keep_namespace(&named(name), &geometry, 3 * 4096);
    keep("one").unwrap();
    // Two pages.
    keep(&"x".repeat(4096)).unwrap();
    let full = keep("two").unwrap_err();
    assert_eq!(full.outcome(), kvstore_types::IoOutcome::NoSpace);
    assert!(
        full.to_string()
            .contains("take 12288 of the 12288 bytes they may"),
        "{full}"
    );
    // What is there costs nothing again, and what is dropped makes room.
    keep("one").unwrap();
    directory.drop_namespace(named("one").id()).unwrap();
    keep("two").unwrap();
    assert_eq!(directory.namespaces().unwrap().good.len(), 2);
}

#[test]
fn a_damaged_namespace_is_named_and_made_good_by_keeping_it_again() {
    let place = with_segments(&[]);
    let (directory, _) = open(place.path());
    let (descriptor, geometry) = namespace();
    directory.keep_namespace(&descriptor, &geometry, 1 << 20).unwrap();
    let name = names::namespace_name(descriptor.id());
    let good = fs::read(place.path().join(&name)).unwrap();
    flip(&place.path().join(&name), 30);
    let found = directory.namespaces().unwrap();
    assert_eq!(found.damaged, [(name.clone(), "wrong checksum".to_owned())]);
    directory.keep_namespace(&descriptor, &geometry, 1 << 20).unwrap();
    assert_eq!(directory.namespaces().unwrap().good.len(), 1);

    let other = names::namespace_name(kvstore_types::NamespaceId([1; 16]));
    fs::write(place.path().join(&other), good).unwrap();
    let found = directory.namespaces().unwrap();
    assert_eq!(found.damaged.len(), 1);
    assert!(
        found.damaged[0].1.contains("it describes namespace"),
        "{:?}",
        found.damaged
    );
}

#[test]
fn direct_io_is_not_used_where_it_is_not_wanted_and_demanded_only_where_it_is_there() {
    let place = with_segments(&[]);
    let never = DirectorySpec {
        direct: Direct::Never,
        ..spec(place.path())
    };
    let (directory, _) = Directory::open_at(never).unwrap();
    assert!(!directory.mode().direct);
    drop(directory);
    let always = DirectorySpec {
        direct: Direct::Always,
        ..spec(place.path())
    };
    match Directory::open_at(always) {
        Ok((directory, _)) => assert!(directory.mode().direct, "{:?}", directory.mode()),
        Err(error) => assert!(matches!(error, OpenError::Direct { .. }), "{error}"),
    }
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn cut(path: &Path, bytes: u64) {
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(bytes)
        .unwrap();
}
