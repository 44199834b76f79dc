//! Starts: what is told, whatever the catalogue and the files look like.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use kvstore_types::Extent;

use super::stage::{Place, SEGMENT_PAGES, Setting, USUAL, copy_directory, extent, header_of, segment};
use crate::DeviceEvent;
use crate::directory::Pages;
use crate::format::PAGE;
use crate::maintenance::MaintenanceOrder;

/// First pages of the blocks of a segment that has been filled.
fn all() -> Vec<u32> {
    (1..SEGMENT_PAGES - 2).step_by(3).collect()
}

/// A tier with a full segment 0 and an open segment 1 with blocks at 1, 4 and 10.
fn usual() -> Place {
    let place = Place::new();
    let mut stage = place.start();
    stage.load();
    let (full, growing) = (segment(0, 1), segment(1, 2));
    stage.begin(full);
    stage.fill(full);
    stage.full(full);
    stage.begin(growing);
    for page in [1, 4, 10] {
        stage.write(extent(growing, page));
    }
    stage.stop();
    place
}

#[test]
fn a_new_directory_has_nothing_to_tell() {
    let place = Place::new();
    for _ in 0..2 {
        let told = place.told();
        assert!(told.segments.is_empty() && told.blocks.is_empty());
        assert_eq!(told.report.catalogue_rebuilt, None);
    }
}

#[test]
fn full_segments_come_from_the_catalogue_and_others_from_their_headers() {
    let place = usual();
    let told = place.told();
    assert_eq!(
        told.segments[&0],
        (1, SEGMENT_PAGES),
        "no room is told in a full segment"
    );
    assert_eq!(told.segments[&1], (2, 13));
    assert_eq!(told.pages(0), all());
    assert_eq!(told.pages(1), [1, 4, 10]);
    assert_eq!((told.report.segments, told.report.segments_scanned), (2, 1));
    assert_eq!(told.report.blocks, told.blocks.len() as u64);
    assert_eq!(
        (told.report.blocks_dropped, told.report.catalogue_rebuilt),
        (0, None)
    );
    assert_eq!(told.namespaces, 1);
}

#[test]
fn blocks_that_the_catalogue_never_heard_of_are_found() {
    let place = usual();
    let mut stage = place.start();
    stage.load();
    stage.write_silently(extent(segment(1, 2), 13));
    // Behind a gap that a write left which did not come to its end.
    stage.write_silently(extent(segment(1, 2), 40));
    stage.stop();
    let told = place.told();
    assert_eq!(told.pages(1), [1, 4, 10, 13, 40]);
    assert_eq!(told.segments[&1].1, 43);
}

/// A daemon was killed within a write, and the block's header was on the device before its payload. The block was told at the
/// next start, an engine that stored it again heard that it was present, and it was gone when it was read.
#[test]
fn a_block_whose_write_was_cut_short_is_not_told_and_its_place_is_not_used_again() {
    let place = usual();
    let mut stage = place.start();
    stage.load();
    stage.write_silently(extent(segment(1, 2), 13));
    stage.write_cut_short(extent(segment(1, 2), 16));
    stage.stop();
    for start in 0..2 {
        let told = place.told();
        assert_eq!(told.pages(1), [1, 4, 10, 13], "start {start}");
        assert_eq!(told.segments[&1].1, 19);
        assert_eq!(
            (told.report.blocks_unfinished, told.report.blocks_dropped),
            (1, 0)
        );
    }
}

#[test]
fn blocks_of_earlier_uses_in_gaps_are_not_told_and_hide_nothing() {
    let place = usual();
    let mut stage = place.start();
    stage.load();
    let again = segment(0, 9);
    stage.open(again);
    // Blocks of the first use lie at 1, 4, 7 and so on: these begin within them.
    for page in [2, 9, 33] {
        stage.write_silently(extent(again, page));
    }
    stage.stop();
    let told = place.told();
    assert_eq!(told.segments[&0], (9, 36));
    assert_eq!(told.pages(0), [2, 9, 33]);
}

#[test]
fn without_its_catalogue_the_same_is_told() {
    let place = usual();
    let before = place.told();
    for round in 0..2 {
        fs::remove_dir_all(place.catalogue()).unwrap();
        let told = place.told();
        assert_eq!(told.blocks, before.blocks, "round {round}");
        assert_eq!(told.report.segments_scanned, 2);
        assert_eq!(told.report.catalogue_rebuilt.as_deref(), Some("there was none"));
        // What was scanned has been entered, and what has no room left is full.
        let told = place.told();
        assert_eq!(
            (told.blocks, told.report.segments_scanned),
            (before.blocks.clone(), 1)
        );
    }
}

#[test]
fn a_file_in_the_catalogues_place_is_no_obstacle() {
    let place = usual();
    fs::remove_dir_all(place.catalogue()).unwrap();
    fs::write(place.catalogue(), "not a directory").unwrap();
    let told = place.told();
    assert_eq!((told.pages(0), told.pages(1)), (all(), vec![1, 4, 10]));
    assert!(place.catalogue().is_dir());
}

/// The catalogue of a backup: it calls a segment full in a use that is long over.
#[test]
fn a_stale_catalogue_hides_nothing() {
    let place = usual();
    let stale = place.keep(&place.catalogue(), "stale");
    let mut stage = place.start();
    stage.load();
    let again = segment(0, 7);
    stage.open(again);
    for page in [1, 20] {
        stage.write(extent(again, page));
    }
    stage.begin(segment(2, 8));
    stage.write(extent(segment(2, 8), 1));
    stage.stop();
    let told = place.told();
    copy_directory(&stale, &place.catalogue());
    let told_stale = place.told();
    assert_eq!(told_stale.blocks, told.blocks);
    assert_eq!(told_stale.pages(0), [1, 20]);
    assert_eq!(told_stale.pages(2), [1]);
    assert_eq!(told_stale.segments, told.segments);
}

/// Damage that shows only while the blocks are read: what was told before is not told again, and nothing is missing.
#[test]
fn a_catalogue_that_breaks_while_it_is_read_changes_nothing_that_is_told() {
    let place = Place::new();
    let mut stage = place.start();
    stage.load();
    for index in 0..40 {
        let full = segment(index, u64::from(index) + 1);
        stage.begin(full);
        stage.fill(full);
        stage.full(full);
    }
    stage.stop();
    let good = place.keep(&place.catalogue(), "good");
    let before = place.told();
    assert_eq!(before.report.segments_scanned, 0);
    let mut rebuilt = 0;
    for part in 1..10 {
        copy_directory(&good, &place.catalogue());
        for file in fs::read_dir(place.catalogue())
            .unwrap()
            .map(|file| file.unwrap().path())
        {
            let length = fs::metadata(&file).unwrap().len();
            if file.extension().is_some_and(|extension| extension == "sst") && length > 20_000 {
                let file = OpenOptions::new().write(true).open(&file).unwrap();
                file.write_all_at(&[0xEE; 64], length * part / 10).unwrap();
            }
        }
        let told = place.told();
        assert_eq!(told.blocks, before.blocks, "damage at {part} tenths");
        assert_eq!(told.segments.len(), 40);
        rebuilt += usize::from(told.report.catalogue_rebuilt.is_some());
        // And the new catalogue is whole.
        let again = place.told();
        assert_eq!(
            (again.blocks, again.report.segments_scanned),
            (before.blocks.clone(), 0)
        );
    }
    assert!(rebuilt > 3, "the damage was met {rebuilt} times");
}

#[test]
fn a_segment_with_a_damaged_header_keeps_its_blocks_and_its_generation() {
    for is_catalogue_lost in [false, true] {
        let place = usual();
        let before = place.told();
        for index in [0, 1] {
            let file = OpenOptions::new().write(true).open(place.segment(index)).unwrap();
            file.write_all_at(&[0xFF; 16], 30).unwrap();
        }
        if is_catalogue_lost {
            fs::remove_dir_all(place.catalogue()).unwrap();
        }
        let told = place.told();
        assert_eq!(told.blocks, before.blocks);
        assert_eq!((told.segments[&0].0, told.segments[&1].0), (1, 2));
        // The header was written again.
        assert_eq!(place.told().report.segments_scanned, 1);
    }
}

#[test]
fn of_a_file_that_was_cut_off_the_whole_blocks_are_told() {
    for is_catalogue_lost in [false, true] {
        let place = usual();
        let file = OpenOptions::new().write(true).open(place.segment(0)).unwrap();
        file.set_len(12 * PAGE as u64 + 100).unwrap();
        if is_catalogue_lost {
            fs::remove_dir_all(place.catalogue()).unwrap();
        }
        let told = place.told();
        assert_eq!(told.pages(0), [1, 4, 7]);
        assert_eq!(told.pages(1), [1, 4, 10]);
        assert!(told.report.blocks_dropped > 0);
    }
}

#[test]
fn blocks_of_unknown_namespaces_are_dropped_and_counted() {
    let place = usual();
    for file in fs::read_dir(place.tier())
        .unwrap()
        .map(|file| file.unwrap().path())
    {
        if file.to_string_lossy().contains("namespace-") {
            fs::write(file, "damaged").unwrap();
        }
    }
    let told = place.told();
    assert_eq!((told.blocks.len(), told.namespaces), (0, 0));
    assert_eq!(told.report.blocks_dropped, all().len() as u64 + 3);
    assert_eq!(told.segments.len(), 2);
}

#[test]
fn a_namespace_without_blocks_is_dropped() {
    let place = usual();
    let count = || {
        let names = fs::read_dir(place.tier())
            .unwrap()
            .map(|file| file.unwrap().file_name());
        names
            .filter(|name| name.to_string_lossy().contains("namespace-"))
            .count()
    };
    assert_eq!(count(), 1);
    let mut stage = place.start();
    stage.load();
    stage.open(segment(0, 5));
    stage.open(segment(1, 6));
    stage.stop();
    assert_eq!((place.told().namespaces, count()), (0, 0));
}

#[test]
fn a_namespace_that_is_dropped_is_gone_and_can_be_kept_again() {
    let place = usual();
    let mut stage = place.start();
    stage.load();
    let namespace = crate::format::tests::namespace().0.id();
    stage.handle.submit(MaintenanceOrder::DropNamespace { namespace });
    stage.open(segment(0, 5));
    stage.stop();
    let mut stage = place.start();
    assert_eq!(stage.load().namespaces, 0);
    stage.keep_namespace();
    stage.open(segment(1, 6));
    stage.write(extent(segment(1, 6), 1));
    stage.stop();
    assert_eq!(place.told().namespaces, 1);
}

/// Blocks behind pages that could not be read this time may be found next time.
#[test]
fn a_namespace_stays_while_there_are_segments_that_cannot_be_used() {
    let place = usual();
    let unusable = place.tier().join("segment-00000007.kvt");
    fs::create_dir(&unusable).unwrap();
    let mut stage = place.start();
    assert_eq!(stage.load().unusable, [7]);
    let namespace = crate::format::tests::namespace().0.id();
    stage.handle.submit(MaintenanceOrder::DropNamespace { namespace });
    stage.stop();
    fs::remove_dir(&unusable).unwrap();
    assert_eq!(place.told().namespaces, 1);
}

/// A client that writes a header page, as it sees it in its slot, into its payload.
#[test]
fn a_header_in_a_payload_is_no_block() {
    let place = usual();
    let mut stage = place.start();
    stage.load();
    let (growing, file) = (segment(1, 2), stage.file(1));
    let mut pages = Pages::new(3);
    // Headers of another place, and of another use of this one, in a gap that is searched page by page.
    header_of(extent(growing, 10)).encode(&stage.key, &[], pages.page_mut(0));
    header_of(extent(segment(0, 2), 31)).encode(&stage.key, &[], pages.page_mut(1));
    header_of(extent(segment(1, 3), 32)).encode(&stage.key, &[], pages.page_mut(2));
    file.write_at(&pages, 30).unwrap();
    stage.stop();
    let told = place.told();
    assert_eq!(told.pages(1), [1, 4, 10]);
    assert_eq!(told.segments[&1].1, 13);
}

#[test]
fn a_tiny_catalogue_costs_scans_and_no_blocks() {
    let place = Place::new();
    let setting = Setting {
        catalogue_bytes_max: 1 << 20,
        ..USUAL
    };
    let mut stage = place.start_with(setting);
    stage.load();
    for index in 0..10 {
        let full = segment(index, 1);
        stage.begin(full);
        stage.fill(full);
        stage.full(full);
    }
    let handle = stage.handle.clone();
    stage.stop();
    assert!(handle.stats().changes_dropped > 0);
    assert!(handle.stats().has_catalogue);
    let mut stage = place.start_with(setting);
    let told = stage.load();
    stage.stop();
    assert_eq!(told.blocks.len(), 10 * all().len());
    assert_eq!(told.report.segments_scanned, 10);
}

const LARGE: Setting = Setting {
    segment_pages: 20_001,
    segments_max: 8,
    ..USUAL
};

/// Five full segments with 10,000 blocks each, as far as the catalogue knows.
fn large() -> Place {
    let place = Place::new();
    let mut stage = place.start_with(LARGE);
    stage.load();
    for index in 0..5 {
        let full = segment(index, 1);
        stage.begin(full);
        for page in (1..20_001).step_by(2) {
            let pages = 2;
            stage.tell(Extent {
                pages,
                ..extent(full, page)
            });
        }
        stage.full(full);
        // Answered when all of that is done, so that the queue is never full.
        stage.create(index);
    }
    stage.stop();
    place
}

#[test]
fn blocks_are_told_no_faster_than_they_are_taken_in() {
    let place = large();
    let stage = place.start_with(LARGE);
    let (mut credits, mut blocks) = (Vec::new(), 0);
    let mut is_loaded = false;
    while !is_loaded {
        for event in stage.next() {
            match event {
                DeviceEvent::Blocks { blocks: more, credit } => {
                    credits.push(credit);
                    blocks += more.len();
                    assert!(credits.len() <= 8);
                    if credits.len() == 8 {
                        // None comes while all are out: the next one would have been counted above.
                        credits.truncate(4);
                    }
                }
                DeviceEvent::Loaded(report) => is_loaded = report.blocks == blocks as u64,
                _ => {}
            }
        }
    }
    assert_eq!(blocks, 50_000);
    stage.stop();
}

#[test]
fn a_loader_that_waits_for_the_engine_can_be_shut_down() {
    let place = large();
    let stage = place.start_with(LARGE);
    let mut credits = Vec::new();
    while credits.len() < 8 {
        for event in stage.next() {
            if let DeviceEvent::Blocks { credit, .. } = event {
                credits.push(credit);
            }
        }
    }
    stage.stop();
}
