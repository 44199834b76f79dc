//! Segment files: whole or not there, and never more of them than may be.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use kvstore_types::IoOutcome;

use super::*;
use crate::format::{HeaderError, SegmentHeader};

/// Bytes that the segments take on disk, half-made ones included.
fn segment_bytes_on_disk(path: &Path) -> u64 {
    let names = list(path).unwrap();
    let segments = names.iter().filter(|name| name.starts_with("segment-"));
    segments
        .map(|name| fs::metadata(path.join(name)).unwrap().blocks() * 512)
        .sum()
}

#[test]
fn segments_are_whole_empty_and_found_again() {
    let place = tempfile::tempdir().unwrap();
    let (mut directory, _) = open(place.path());
    let file = directory.create_segment(3).unwrap();
    assert_eq!(file.pages().unwrap(), 16);
    let metadata = fs::metadata(place.path().join("segment-00000003.kvt")).unwrap();
    assert!(metadata.blocks() * 512 >= SEGMENT_BYTES, "its space is taken");
    let unused = directory.read_segment_header(3).unwrap_err();
    assert!(
        matches!(unused, SegmentHeaderError::Header(HeaderError::Magic)),
        "{unused}"
    );
    directory.write_segment_header(used(3, 7)).unwrap();
    drop((file, directory));

    let (directory, inventory) = open(place.path());
    assert_eq!(inventory.segments, [3]);
    let header = SegmentHeader {
        segment: used(3, 7),
        pages: 16,
    };
    assert_eq!(directory.read_segment_header(3).unwrap(), header);
    assert!(matches!(
        directory.read_segment_header(4),
        Err(SegmentHeaderError::Absent(4))
    ));
}

#[test]
fn making_a_segment_twice_keeps_what_is_in_it() {
    let place = with_segments(&[0]);
    let (mut directory, _) = open(place.path());
    directory.create_segment(0).unwrap();
    assert_eq!(directory.read_segment_header(0).unwrap().segment, used(0, 1));
}

#[test]
fn a_deleted_segment_is_gone() {
    let place = with_segments(&[0, 1]);
    let (mut directory, _) = open(place.path());
    directory.delete_segment(0).unwrap();
    assert!(directory.segment(0).is_none());
    directory.delete_segment(0).unwrap();
    drop(directory);
    assert_eq!(open(place.path()).1.segments, [1]);
}

#[test]
fn more_segments_than_may_be_are_deleted_from_the_end() {
    let place = with_segments(&[0, 2, 5, 9]);
    let smaller = DirectorySpec {
        segments_max: 2,
        ..spec(place.path())
    };
    let (directory, inventory) = Directory::open_at(smaller).unwrap();
    assert_eq!(inventory.segments, [0, 2]);
    assert_eq!(inventory.surplus, [5, 9]);
    assert_eq!(directory.segments().len(), 2);
    assert!(segment_bytes_on_disk(place.path()) <= 2 * SEGMENT_BYTES);
}

#[test]
fn bytes_on_disk_stay_within_the_bound_whatever_comes_and_goes() {
    let place = tempfile::tempdir().unwrap();
    let mut random = 1_u64;
    for round in 0..6 {
        let segments_max = [4, 2, 3, 1, 4, 0][round];
        let spec = DirectorySpec {
            segments_max,
            ..spec(place.path())
        };
        let (mut directory, inventory) = Directory::open_at(spec).unwrap();
        let bound = u64::from(segments_max) * SEGMENT_BYTES;
        assert!(
            segment_bytes_on_disk(place.path()) <= bound,
            "at the start of round {round}"
        );
        let mut present = inventory.segments;
        for _ in 0..30 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let index = (random >> 33) as u32 % 8;
            if let Some(at) = present.iter().position(|&other| other == index) {
                directory.delete_segment(index).unwrap();
                present.remove(at);
            } else if present.len() < segments_max as usize {
                directory.create_segment(index).unwrap();
                present.push(index);
            }
            assert!(segment_bytes_on_disk(place.path()) <= bound, "in round {round}");
        }
    }
}

#[test]
fn a_segment_that_was_cut_off_is_whole_again_at_its_next_use() {
    let place = with_segments(&[0]);
    cut(&place.path().join("segment-00000000.kvt"), 3 * 4096 + 100);
    let (directory, _) = open(place.path());
    let file = directory.segment(0).unwrap();
    assert_eq!(file.pages().unwrap(), 3);
    assert_eq!(directory.read_segment_header(0).unwrap().segment, used(0, 1));
    let mut pages = Pages::new(4);
    assert_eq!(
        file.read_at(&mut pages, 1).unwrap() / 4096,
        2,
        "what is whole is read"
    );
    directory.write_segment_header(used(0, 2)).unwrap();
    assert_eq!(file.pages().unwrap(), 16);
}

#[test]
fn a_segment_that_has_grown_is_cut_to_its_size() {
    let place = with_segments(&[0]);
    let path = place.path().join("segment-00000000.kvt");
    cut(&path, SEGMENT_BYTES + 5000);
    let (directory, _) = open(place.path());
    assert_eq!(fs::metadata(&path).unwrap().len(), SEGMENT_BYTES);
    assert_eq!(directory.read_segment_header(0).unwrap().segment, used(0, 1));
}

#[test]
fn a_segment_that_cannot_be_opened_counts_as_not_there_and_the_others_are() {
    let place = with_segments(&[0]);
    fs::create_dir(place.path().join("segment-00000001.kvt")).unwrap();
    let (directory, inventory) = open(place.path());
    assert_eq!(inventory.segments, [0]);
    assert_eq!(inventory.unusable[0].0, 1);
    assert!(directory.segment(1).is_none());
}

#[test]
fn a_segments_header_under_another_name_is_not_its_own() {
    let place = with_segments(&[0, 1]);
    let path = |index| place.path().join(names::segment_name(index));
    fs::copy(path(0), path(1)).unwrap();
    let (directory, _) = open(place.path());
    let error = directory.read_segment_header(1).unwrap_err();
    assert!(
        matches!(error, SegmentHeaderError::Place { index: 0, pages: 16 }),
        "{error}"
    );
}

#[test]
fn without_room_nothing_of_a_segment_is_left() {
    let place = with_segments(&[]);
    // A file system that is certainly too small: the largest file there can be.
    let huge = (u64::from(u32::MAX) - 1) * 4096;
    let path = place.path().join("huge");
    let (mut directory, _) = Directory::open_at(DirectorySpec {
        segment_bytes: huge,
        ..spec(&path)
    })
    .unwrap();
    let error = directory.create_segment(0).unwrap_err();
    let too_large = error.source.raw_os_error() == Some(libc::EFBIG);
    assert!(error.outcome() == IoOutcome::NoSpace || too_large, "{error}");
    assert!(
        !list(&path)
            .unwrap()
            .iter()
            .any(|name| name.starts_with("segment"))
    );
    assert!(directory.segment(0).is_none());
}
