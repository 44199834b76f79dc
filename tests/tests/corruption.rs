//! Everything a disk can do to what was written, and what comes of it: misses that are counted, never a wrong byte, and
//! keys that can be stored again.

#![allow(clippy::unwrap_used, reason = "a failed test is a panic")]

mod support;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::Value;

use support::daemon::Place;
use support::store::{Loaded, Store};

/// Blocks of one prefix.
const COUNT: u64 = 64;
/// A header page and 16 KiB.
const EXTENT_BYTES: u64 = 20 << 10;
/// Where the first block begins: behind the segment's own header.
const FIRST: u64 = 4096;

/// A stopped tier with blocks 0 to 63 in the first segment that was written.
fn prepared() -> Place {
    let mut place = Place::new();
    let daemon = place.start(&[]);
    let mut store = Store::attach(&daemon, "m");
    assert_eq!(store.store(0, COUNT).unwrap().added, COUNT);
    let counters = store.settle().unwrap();
    assert_eq!(counters["occupancy"]["nvme_blocks"], COUNT);
    drop(store);
    daemon.stop();
    place
}

/// The segment file that has the blocks.
fn written(place: &Place) -> std::path::PathBuf {
    place
        .segments()
        .into_iter()
        .find(|path| read(path, FIRST, 4096).iter().any(|&byte| byte != 0))
        .unwrap()
}

fn read(path: &Path, offset: u64, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    fs::File::open(path)
        .unwrap()
        .read_exact_at(&mut buffer, offset)
        .unwrap();
    buffer
}

fn write(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

fn flip(path: &Path, offset: u64) {
    let byte = read(path, offset, 1)[0];
    write(path, offset, &[byte ^ 0x10]);
}

/// Starts again and loads every block by itself: how many were right, and the counters. Afterwards all can be stored again.
fn start_and_load(place: &mut Place) -> (u64, Value) {
    let daemon = place.start(&[]);
    let mut store = Store::attach(&daemon, "m");
    store.settle().unwrap();
    let mut right = 0;
    for block in 0..COUNT {
        let loaded = store.load(block, 1).unwrap();
        assert_eq!(loaded.wrong, 0, "block {block} differs");
        right += loaded.hit;
    }
    let counters = store.counters().unwrap();
    let stored = store.store(0, COUNT).unwrap();
    assert_eq!(
        (stored.added, stored.present),
        (COUNT - right, right),
        "what was lost can be stored again"
    );
    let all = Loaded {
        hit: COUNT,
        wrong: 0,
        lost: 0,
    };
    assert_eq!(store.load(0, COUNT).unwrap(), all);
    store.settle().unwrap();
    drop(store);
    daemon.stop();
    (right, counters)
}

fn counted(counters: &Value, name: &str) -> u64 {
    counters["counters"][name].as_u64().unwrap()
}

#[test]
fn flipped_bits_in_payloads_are_counted_misses() {
    let mut place = prepared();
    let segment = written(&place);
    for block in [0, 7, 63] {
        flip(&segment, FIRST + block * EXTENT_BYTES + 4096 + block * 100);
    }
    let (right, counters) = start_and_load(&mut place);
    assert_eq!(
        (right, counted(&counters, "nvme_corrupt_payload")),
        (COUNT - 3, 3)
    );
}

#[test]
fn flipped_bits_in_headers_are_counted_misses_or_not_found_at_all() {
    let mut place = prepared();
    let segment = written(&place);
    for (block, at) in [(0, 0), (1, 9), (5, 40), (63, 100)] {
        flip(&segment, FIRST + block * EXTENT_BYTES + at);
    }
    let (right, _) = start_and_load(&mut place);
    assert_eq!(right, COUNT - 4);
}

#[test]
fn swapped_extents_are_counted_misses() {
    let mut place = prepared();
    let segment = written(&place);
    let extent = |block: u64| FIRST + block * EXTENT_BYTES;
    let bytes = usize::try_from(EXTENT_BYTES).unwrap();
    let (three, nine) = (read(&segment, extent(3), bytes), read(&segment, extent(9), bytes));
    write(&segment, extent(3), &nine);
    write(&segment, extent(9), &three);
    let (right, _) = start_and_load(&mut place);
    assert_eq!(right, COUNT - 2);
}

#[test]
fn a_truncated_segment_keeps_what_is_left_of_it() {
    let mut place = prepared();
    let segment = written(&place);
    let file = OpenOptions::new().write(true).open(&segment).unwrap();
    file.set_len(FIRST + 10 * EXTENT_BYTES + 5000).unwrap();
    drop(file);
    let (right, _) = start_and_load(&mut place);
    assert_eq!(right, 10);
}

/// Each of its reads used to count as a failure of the device, and sixteen in a row took it out of service.
#[test]
fn a_segment_that_is_cut_off_while_it_is_used_costs_its_own_blocks_and_not_the_device() {
    let mut place = prepared();
    let daemon = place.start(&[]);
    let mut store = Store::attach(&daemon, "m");
    store.settle().unwrap();
    let segment = OpenOptions::new().write(true).open(written(&place)).unwrap();
    segment.set_len(FIRST).unwrap();
    for block in 0..COUNT {
        assert_eq!(store.load(block, 1).unwrap().hit, 0, "block {block}");
    }
    let counters = store.counters().unwrap();
    assert_eq!(counted(&counters, "nvme_corrupt_truncated"), COUNT);
    assert_eq!(counted(&counters, "nvme_read_failed"), 0);
    assert_eq!(store.store(0, COUNT).unwrap().added, COUNT);
    store.settle().unwrap();
    drop(store);
    daemon.stop();
    let (right, _) = start_and_load(&mut place);
    assert_eq!(right, COUNT, "what was stored again is on the device");
}

#[test]
fn a_segment_of_another_directory_is_not_believed() {
    let mut place = prepared();
    let other = prepared();
    fs::copy(written(&other), written(&place)).unwrap();
    let (right, _) = start_and_load(&mut place);
    assert_eq!(right, 0);
}

#[test]
fn zeroed_payload_pages_are_counted_misses() {
    let mut place = prepared();
    let segment = written(&place);
    write(&segment, FIRST + 20 * EXTENT_BYTES + 8192, &[0; 4096]);
    let (right, _) = start_and_load(&mut place);
    assert_eq!(right, COUNT - 1);
}

#[test]
fn without_its_catalogue_a_tier_is_rebuilt_from_headers() {
    let mut place = prepared();
    fs::remove_dir_all(place.tier().join("catalogue")).unwrap();
    let (right, _) = start_and_load(&mut place);
    assert_eq!(right, COUNT);
}

#[test]
fn a_damaged_catalogue_costs_nothing() {
    let mut place = prepared();
    let mut damaged = 0;
    for entry in fs::read_dir(place.tier().join("catalogue")).unwrap() {
        let path = entry.unwrap().path();
        let length = fs::metadata(&path).unwrap().len();
        if path.is_file() && length > 0 {
            for at in (0..length).step_by(97) {
                flip(&path, at);
            }
            damaged += 1;
        }
    }
    assert!(damaged > 2);
    let (right, _) = start_and_load(&mut place);
    assert_eq!(right, COUNT);
}

#[test]
fn a_directory_of_an_unknown_version_is_left_alone_and_the_daemon_serves_without_it() {
    let mut place = prepared();
    let superblock = place.tier().join("tier.kvt");
    let before = fs::read(&superblock).unwrap();
    // The version follows the magic.
    write(&superblock, 8, &999_u32.to_le_bytes());
    let changed = fs::read(&superblock).unwrap();
    let daemon = place.start(&[]);
    let mut store = Store::attach(&daemon, "m");
    assert_eq!(store.load(0, COUNT).unwrap().hit, 0);
    assert_eq!(store.store(0, COUNT).unwrap().added, COUNT);
    assert_eq!(store.load(0, COUNT).unwrap().hit, COUNT);
    assert!(daemon.log().contains("version"), "{}", daemon.log());
    drop(store);
    daemon.stop();
    assert_eq!(fs::read(&superblock).unwrap(), changed);
    fs::write(&superblock, before).unwrap();
    let (right, _) = start_and_load(&mut place);
    assert_eq!(right, COUNT);
}
