//! Orders, and what reaches the catalogue.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use kvstore_types::{IoOutcome, OperationId};

use super::stage::{Place, SEGMENT_PAGES, extent, segment};
use crate::directory::Pages;
use crate::format::SegmentHeader;
use crate::maintenance::MaintenanceOrder;
use crate::maintenance::queue::HINTS_MAX;

#[test]
fn a_segment_is_made_with_all_its_space_and_handed_to_the_io_thread() {
    let place = Place::new();
    let mut stage = place.start();
    stage.load();
    stage.create(3);
    assert!(stage.has_file(3));
    let metadata = fs::metadata(place.segment(3)).unwrap();
    assert!(metadata.blocks() * 512 >= u64::from(SEGMENT_PAGES) * 4096);
    stage.stop();
    assert_eq!(place.told().segments[&3], (0, 1));
}

#[test]
fn a_segment_is_open_before_it_is_said_to_be() {
    let place = Place::new();
    let mut stage = place.start();
    stage.load();
    stage.begin(segment(0, 12));
    let mut page = Pages::new(1);
    stage.file(0).read_at(&mut page, 0).unwrap();
    let header = SegmentHeader::decode(&stage.key, page.page(0)).unwrap();
    assert_eq!(header.segment, segment(0, 12));
    stage.stop();
}

#[test]
fn a_deleted_segment_is_gone_and_its_space_is_free_at_once() {
    let place = Place::new();
    let mut stage = place.start();
    stage.load();
    let gone = segment(0, 1);
    stage.begin(gone);
    stage.fill(gone);
    let file = stage.file(0);
    let deleted = stage.ask(|operation| MaintenanceOrder::DeleteSegment { operation, index: 0 });
    assert_eq!(deleted, IoOutcome::Done);
    assert!(!stage.has_file(0) && !place.segment(0).exists());
    assert_eq!(
        file.pages().unwrap(),
        0,
        "whoever still has it open keeps no space"
    );
    // The same number again.
    stage.create(0);
    stage.stop();
    let told = place.told();
    assert_eq!((told.segments[&0], told.blocks.len()), ((0, 1), 0));
}

#[test]
fn orders_about_a_segment_that_is_not_there_are_answered() {
    let place = Place::new();
    let mut stage = place.start();
    stage.load();
    let opened = stage.ask(|operation| MaintenanceOrder::OpenSegment {
        operation,
        segment: segment(5, 1),
    });
    assert_eq!(opened, IoOutcome::Failed);
    let deleted = stage.ask(|operation| MaintenanceOrder::DeleteSegment { operation, index: 5 });
    assert_eq!(deleted, IoOutcome::Done);
    assert_eq!(stage.handle.stats().orders_failed, 1);
    stage.stop();
}

#[test]
fn a_forgotten_block_of_a_full_segment_is_not_told() {
    let place = Place::new();
    let mut stage = place.start();
    stage.load();
    let full = segment(0, 1);
    stage.begin(full);
    for page in [1, 4, 7] {
        stage.write(extent(full, page));
    }
    stage.handle.submit(MaintenanceOrder::Forget {
        extent: extent(full, 4),
    });
    stage.full(full);
    stage.stop();
    assert_eq!(place.told().pages(0), [1, 7]);
}

#[test]
fn what_was_submitted_before_the_end_is_carried_out() {
    let place = Place::new();
    let mut stage = place.start();
    stage.load();
    let full = segment(0, 1);
    stage.begin(full);
    for page in (1..61).step_by(3) {
        stage.tell(extent(full, page));
    }
    stage.full(full);
    let handle = stage.handle.clone();
    stage.stop();
    assert_eq!(handle.stats().waiting, 0);
    let told = place.told();
    assert_eq!((told.blocks.len(), told.report.segments_scanned), (20, 0));
    // Nothing is taken any more, and nobody is hurt.
    handle.submit(MaintenanceOrder::SegmentFull { segment: full });
}

/// A killed daemon: everything that was answered is in the files, and nothing was written out.
#[test]
fn a_killed_process_loses_no_block() {
    let place = Place::new();
    let image = Place::new();
    let mut stage = place.start();
    stage.load();
    let (full, growing) = (segment(0, 1), segment(1, 2));
    stage.begin(full);
    stage.fill(full);
    stage.full(full);
    stage.begin(growing);
    for page in [1, 10] {
        stage.write(extent(growing, page));
    }
    // What waits in the queue is not in the catalogue.
    stage.write_silently(extent(growing, 20));
    fs::create_dir(image.tier()).unwrap();
    for file in fs::read_dir(place.tier()).unwrap().map(Result::unwrap) {
        if file.file_type().unwrap().is_file() {
            fs::copy(file.path(), image.tier().join(file.file_name())).unwrap();
        }
    }
    super::stage::copy_directory(&place.catalogue(), &image.catalogue());
    let told = image.told();
    assert_eq!(told.pages(0).len(), 21);
    assert_eq!(told.pages(1), [1, 10, 20]);
    assert_eq!(told.report.catalogue_rebuilt, None);
    assert_eq!(told.report.segments_scanned, 1);
    stage.stop();
}

/// More than the queue holds, while the thread is at work elsewhere: the segment is not called full.
#[test]
fn a_segment_of_which_something_was_dropped_is_scanned() {
    let place = Place::new();
    let mut stage = place.start();
    stage.load();
    let lossy = segment(0, 1);
    stage.begin(lossy);
    for page in [1, 4] {
        stage.write_silently(extent(lossy, page));
    }
    let gate = Arc::clone(&stage.gate);
    let held = gate.lock().unwrap();
    let index = 0;
    stage.handle.submit(MaintenanceOrder::CreateSegment {
        operation: OperationId(0),
        index,
    });
    // It has taken that one, and is held up when it answers; these wait.
    while stage.handle.stats().waiting > 0 {
        std::thread::yield_now();
    }
    for _ in 0..HINTS_MAX {
        stage.tell(extent(lossy, 1));
    }
    assert_eq!(stage.handle.stats().changes_dropped, 0);
    stage.tell(extent(lossy, 4));
    assert_eq!(stage.handle.stats().changes_dropped, 1);
    drop(held);
    stage.next();
    stage.full(lossy);
    stage.stop();
    let told = place.told();
    assert_eq!((told.pages(0), told.report.segments_scanned), (vec![1, 4], 1));
    // In its next use nothing is missing any more.
    let mut stage = place.start();
    stage.load();
    stage.open(segment(0, 2));
    stage.write(extent(segment(0, 2), 1));
    stage.full(segment(0, 2));
    stage.stop();
    let told = place.told();
    assert_eq!((told.pages(0), told.report.segments_scanned), (vec![1], 0));
}
