//! Figures, for people: `cargo test --release -p kvstore-nvme measure -- --ignored --nocapture --test-threads 1`.
#![expect(clippy::print_stdout, reason = "figures are for people")]

use std::fs;
use std::time::Instant;

use kvstore_types::Extent;

use super::stage::{Place, Setting, Stage, USUAL, extent, key_of, segment};
use crate::DeviceEvent;
use crate::catalogue::{Catalogue, Change};

const MILLION: u32 = 1_000_000;
const BYTES_MAX: u64 = 1 << 30;

#[test]
#[ignore = "figures, for people"]
fn measure_the_catalogue() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("catalogue");
    let (mut catalogue, _) = Catalogue::open(&path, [1; 16], BYTES_MAX).unwrap();
    let blocks_per_segment = 250;
    let (start, mut changes) = (Instant::now(), Vec::new());
    for number in 0..MILLION {
        let (index, place) = (number / blocks_per_segment, number % blocks_per_segment);
        let using = segment(index, 1);
        if place == 0 {
            changes.push(Change::OpenSegment(using));
        }
        let extent = extent(using, 1 + 3 * place);
        let (key, descriptor) = (key_of(extent), Vec::new());
        changes.push(Change::Block {
            extent,
            key,
            descriptor,
        });
        if changes.len() >= 256 {
            catalogue.write(&changes).unwrap();
            changes.clear();
        }
    }
    catalogue.write(&changes).unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "write 1 M blocks: {seconds:.2} s, {:.0} k/s",
        f64::from(MILLION) / seconds / 1e3
    );
    let start = Instant::now();
    for index in 0..MILLION / blocks_per_segment {
        catalogue
            .write(&[Change::SegmentFull(segment(index, 1))])
            .unwrap();
    }
    println!("mark 4,000 full: {:.3} s", start.elapsed().as_secs_f64());
    drop(catalogue);
    println!("bytes on disk, killed: {}", crate::catalogue::bytes_of(&path));
    for kind in ["after a kill", "clean"] {
        let start = Instant::now();
        let (catalogue, _) = Catalogue::open(&path, [1; 16], BYTES_MAX).unwrap();
        println!("open, {kind}: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        let segments = catalogue.segments().unwrap().len();
        let mut cursor = catalogue.blocks().unwrap();
        let mut count = 0;
        for index in 0..MILLION / blocks_per_segment {
            count += cursor.of(segment(index, 1)).map(Result::unwrap).count();
        }
        let seconds = start.elapsed().as_secs_f64();
        println!("read {count} blocks of {segments} segments: {seconds:.3} s");
        drop(cursor);
        catalogue.flush().unwrap();
    }
    println!("bytes on disk, flushed: {}", crate::catalogue::bytes_of(&path));
}

fn count(stage: &Stage) -> (u64, f64) {
    let start = Instant::now();
    let mut count = 0;
    loop {
        for event in stage.next() {
            match event {
                DeviceEvent::Blocks { blocks, .. } => count += blocks.len() as u64,
                DeviceEvent::Loaded(report) => {
                    println!("  {report:?}");
                    return (count, start.elapsed().as_secs_f64());
                }
                _ => {}
            }
        }
    }
}

#[test]
#[ignore = "figures, for people; 8 GB of disk"]
fn measure_a_start_with_a_million_blocks() {
    let place = Place::new();
    let setting = Setting {
        segment_pages: 501,
        segments_max: 4000,
        catalogue_bytes_max: BYTES_MAX,
        names_bytes_max: 16 << 20,
    };
    let mut stage = place.start_with(setting);
    stage.load();
    stage.keep_namespace();
    let start = Instant::now();
    for index in 0..4000 {
        let full = segment(index, 1);
        stage.create(index);
        stage.open(full);
        for page in (1..501).step_by(2) {
            stage.tell(Extent {
                pages: 2,
                ..extent(full, page)
            });
        }
        stage.full(full);
    }
    println!("made 4,000 segments: {:.1} s", start.elapsed().as_secs_f64());
    stage.stop();
    for _ in 0..3 {
        let start = Instant::now();
        let stage = place.start_with(setting);
        let opened = start.elapsed().as_secs_f64();
        let (blocks, seconds) = count(&stage);
        println!("told {blocks} blocks: open {opened:.3} s, loaded after {seconds:.3} s");
        stage.stop();
    }
}

#[test]
#[ignore = "figures, for people; 13 GB of disk"]
fn measure_a_rebuild_of_100_000_blocks() {
    let place = Place::new();
    let setting = Setting {
        segment_pages: 400 * 33 + 1,
        segments_max: 250,
        ..USUAL
    };
    let mut stage = place.start_with(setting);
    stage.load();
    stage.keep_namespace();
    for index in 0..250 {
        stage.create(index);
        stage.open(segment(index, 1));
        for place in 0..400 {
            let full = extent(segment(index, 1), 1 + 33 * place);
            stage.write_header(Extent { pages: 33, ..full });
        }
    }
    stage.stop();
    for _ in 0..2 {
        fs::remove_dir_all(place.catalogue()).unwrap();
        let stage = place.start_with(setting);
        let (blocks, seconds) = count(&stage);
        println!("rebuilt {blocks} blocks of 128 KiB in {seconds:.3} s");
        stage.stop();
    }
    let stage = place.start_with(setting);
    let (blocks, seconds) = count(&stage);
    println!("and then {blocks} from the catalogue in {seconds:.3} s");
    stage.stop();
}
