//! The I/O thread over real files, by every engine and with and without the page cache.

mod crash;
mod device;
mod faults;
mod rig;
mod turns;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use kvstore_types::{Corruption, IoOutcome, ReadClass};

use self::rig::{PAGE, Rig, SEGMENT_PAGES, Setting, change_file, extent, key, open_files_of};
use crate::{OperationKind, Order};

/// Blocks of 1 to 40 pages of payload.
fn sizes() -> Vec<u32> {
    (0..24).map(|index| 2 + index * index % 40).collect()
}

#[test]
fn blocks_that_were_written_are_read_back_by_every_engine() {
    for setting in Setting::all() {
        let mut rig = Rig::new(setting, 8);
        let blocks = rig.write_all(&sizes());
        let reads: Vec<_> = blocks
            .iter()
            .map(|&(key, extent)| rig.read(key, extent, ReadClass::Demand))
            .collect();
        rig.submit();
        for ((key, extent), (operation, slot)) in blocks.into_iter().zip(reads) {
            assert_eq!(rig.outcome(operation), IoOutcome::Done, "{setting:?}");
            assert!(rig.slot_has(slot, extent, key), "{setting:?}: another payload");
        }
    }
}

#[test]
fn a_moved_block_is_good_at_its_new_place_and_told_with_its_descriptor() {
    for setting in Setting::all() {
        let mut rig = Rig::new(setting, 8);
        let (key, from) = rig.write_all(&[9])[0];
        let to = extent(2, 100, 9);
        let moved = rig.order(|operation| Order::Move {
            operation,
            from,
            to,
            key,
        });
        rig.submit();
        assert_eq!(rig.outcome(moved), IoOutcome::Done, "{setting:?}");
        let (read, slot) = rig.read(key, to, ReadClass::Prefetch);
        let verified = rig.order(|operation| Order::Verify {
            operation,
            extent: to,
            key,
        });
        rig.submit();
        assert_eq!(rig.outcome(read), IoOutcome::Done, "{setting:?}");
        assert_eq!(rig.outcome(verified), IoOutcome::Done, "{setting:?}");
        assert!(rig.slot_has(slot, to, key));
        let written = rig.written();
        let places: Vec<_> = written.iter().map(|written| written.extent).collect();
        assert_eq!(places, [from, to]);
        assert_eq!(written[0].descriptor, written[1].descriptor, "{setting:?}");
        assert!(!written[1].descriptor.is_empty());
    }
}

#[test]
fn everything_that_is_not_the_block_is_told_apart() {
    for setting in Setting::all() {
        let mut rig = Rig::new(setting, 8);
        let blocks = rig.write_all(&[3, 3, 3, 3, 3]);
        let path = rig.segment_path(1);
        let at = |index: usize| blocks[index].1.byte_offset();
        change_file(&path, |file| {
            let mut page = vec![0; PAGE];
            // Block 1: a bit of the header. Block 2: a bit of the last page. Block 3: all of block 0.
            file.read_exact_at(&mut page[..1], at(1) + 70).unwrap();
            file.write_all_at(&[page[0] ^ 4], at(1) + 70).unwrap();
            file.read_exact_at(&mut page[..1], at(2) + 3 * PAGE as u64 - 1)
                .unwrap();
            file.write_all_at(&[page[0] ^ 128], at(2) + 3 * PAGE as u64 - 1)
                .unwrap();
            let mut block = vec![0; 3 * PAGE];
            file.read_exact_at(&mut block, at(0)).unwrap();
            file.write_all_at(&block, at(3)).unwrap();
        });
        let (other, mut older) = (key(999), blocks[4].1);
        older.segment.generation.0 += 1;
        let cases = [
            (blocks[0].0, blocks[0].1, IoOutcome::Done),
            (blocks[1].0, blocks[1].1, IoOutcome::Corrupt(Corruption::Header)),
            (blocks[2].0, blocks[2].1, IoOutcome::Corrupt(Corruption::Payload)),
            (blocks[3].0, blocks[3].1, IoOutcome::Corrupt(Corruption::Place)),
            (other, blocks[4].1, IoOutcome::Corrupt(Corruption::Key)),
            (blocks[4].0, older, IoOutcome::Corrupt(Corruption::Place)),
        ];
        for (key, extent, expected) in cases {
            let (read, _) = rig.read(key, extent, ReadClass::Demand);
            let verified = rig.order(|operation| Order::Verify {
                operation,
                extent,
                key,
            });
            let to = rig::extent(2, 300, extent.pages);
            let moved = rig.order(|operation| Order::Move {
                operation,
                from: extent,
                to,
                key,
            });
            rig.submit();
            for operation in [read, verified, moved] {
                assert_eq!(rig.outcome(operation), expected, "{setting:?} {extent:?}");
            }
        }
        assert_eq!(rig.counters.corrupt(), [3, 0, 6, 3, 3, 0]);
    }
}

#[test]
fn a_block_of_another_directory_is_foreign() {
    let setting = Setting::all()[0];
    let (mut rig, mut other) = (Rig::new(setting, 4), Rig::new(setting, 4));
    let (key, extent) = rig.write_all(&[4])[0];
    other.write_all(&[4]);
    std::fs::copy(other.segment_path(1), rig.segment_path(1)).unwrap();
    let (read, _) = rig.read(key, extent, ReadClass::Demand);
    rig.submit();
    assert_eq!(rig.outcome(read), IoOutcome::Corrupt(Corruption::Foreign));
}

#[test]
fn impossible_orders_fail_and_leave_the_thread_alone() {
    for setting in Setting::all() {
        let mut rig = Rig::new(setting, 4);
        let (good, place) = rig.write_all(&[4])[0];
        let cases = [
            (extent(77, 1, 4), 0, "no file"),
            (extent(1, 0, 4), 0, "the header page"),
            (extent(1, 5, 1), 0, "no payload"),
            (extent(1, SEGMENT_PAGES - 3, 4), 0, "beyond the segment"),
            (extent(1, u32::MAX, u32::MAX), 0, "far beyond it"),
            (extent(1, 5, 4), rig.memory_bytes() - 4096, "beyond the memory"),
            (extent(1, 5, 4), u64::MAX - 4095, "far beyond it"),
            (extent(1, 5, 4), 100, "not at a page"),
        ];
        for (extent, offset, what) in cases {
            let key = key(5);
            let read = rig.order(|operation| Order::Read {
                operation,
                extent,
                offset,
                key,
                class: ReadClass::Demand,
            });
            let descriptor = Vec::new();
            let write = rig.order(|operation| Order::Write {
                operation,
                extent,
                offset,
                key,
                descriptor,
            });
            rig.submit();
            assert_eq!(rig.outcome(read), IoOutcome::Failed, "{what}");
            assert_eq!(rig.outcome(write), IoOutcome::Failed, "{what}");
        }
        let (from, to) = (place, extent(2, 7, 5));
        let moved = rig.order(|operation| Order::Move {
            operation,
            from,
            to,
            key: good,
        });
        rig.submit();
        assert_eq!(rig.outcome(moved), IoOutcome::Failed, "two sizes");
        let (read, _) = rig.read(good, place, ReadClass::Demand);
        rig.submit();
        assert_eq!(rig.outcome(read), IoOutcome::Done);
    }
}

#[test]
fn reads_behind_the_end_of_a_file_that_was_cut_off_say_so() {
    for setting in Setting::all() {
        let mut rig = Rig::new(setting, 4);
        let blocks = rig.write_all(&[4, 4, 4]);
        let file = OpenOptions::new().write(true).open(rig.segment_path(1)).unwrap();
        file.set_len(blocks[1].1.byte_offset() + 2 * PAGE as u64).unwrap();
        let cut = IoOutcome::Corrupt(Corruption::Truncated);
        let expected = [IoOutcome::Done, cut, cut];
        for ((key, extent), expected) in blocks.into_iter().zip(expected) {
            let (read, _) = rig.read(key, extent, ReadClass::Demand);
            rig.submit();
            assert_eq!(rig.outcome(read), expected, "{setting:?}");
        }
    }
}

#[test]
fn a_segment_that_was_removed_is_let_go_at_once() {
    for setting in Setting::all() {
        let mut rig = Rig::new(setting, 4);
        let (key, place) = rig.write_all(&[4])[0];
        rig.remove_file(1);
        let (read, _) = rig.read(key, place, ReadClass::Demand);
        rig.submit();
        assert_eq!(rig.outcome(read), IoOutcome::Failed);
        assert_eq!(
            open_files_of(&rig.segment_path(1)),
            0,
            "{setting:?}: the thread holds the file"
        );
    }
}

#[test]
fn at_the_end_everything_is_answered() {
    for setting in Setting::all() {
        let mut rig = Rig::new(setting, 4);
        let blocks = rig.write_all(&[40; 8]);
        let operations: Vec<_> = (0..10)
            .flat_map(|_| blocks.clone())
            .map(|(key, extent)| rig.read(key, extent, ReadClass::Demand).0)
            .collect();
        rig.submit();
        // The first one is answered, so others are at the device.
        assert_eq!(rig.outcome(operations[0]), IoOutcome::Done);
        rig.io.shutdown();
        for &operation in &operations[1..] {
            assert!(matches!(
                rig.outcome(operation),
                IoOutcome::Done | IoOutcome::Failed
            ));
        }
    }
}

#[test]
fn a_panic_answers_everything_and_takes_the_device_out_of_service() {
    for setting in Setting::all() {
        let mut rig = Rig::new(setting, 4);
        let mut operations = vec![rig.write_and_panic()];
        let blocks = (0..20).map(|number| (key(number), extent(2, 1, 40)));
        let reads = blocks.map(|(key, extent)| rig.read(key, extent, ReadClass::Prefetch).0);
        operations.extend(reads.collect::<Vec<_>>());
        rig.submit();
        rig.wait_until_lost();
        assert_eq!(rig.outcome(operations[0]), IoOutcome::Failed, "{setting:?}");
        for &operation in &operations[1..] {
            rig.outcome(operation);
        }
    }
}

#[test]
fn what_was_done_is_counted() {
    let mut rig = Rig::new(Setting::all()[0], 4);
    let blocks = rig.write_all(&[5, 6]);
    let (demand, _) = rig.read(blocks[0].0, blocks[0].1, ReadClass::Demand);
    let (prefetch, _) = rig.read(blocks[1].0, blocks[1].1, ReadClass::Prefetch);
    let (wrong, _) = rig.read(blocks[0].0, blocks[1].1, ReadClass::Demand);
    rig.submit();
    for operation in [demand, prefetch, wrong] {
        rig.outcome(operation);
    }
    rig.io.shutdown();
    let operations = rig.counters.operations();
    let of = |kind: OperationKind| operations[kind as usize];
    assert_eq!(
        (of(OperationKind::Write).done, of(OperationKind::Write).bytes),
        (2, 11 * PAGE as u64)
    );
    assert_eq!(
        (of(OperationKind::Demand).done, of(OperationKind::Demand).corrupt),
        (1, 1)
    );
    assert_eq!(
        (
            of(OperationKind::Prefetch).done,
            of(OperationKind::Prefetch).bytes
        ),
        (1, 6 * PAGE as u64)
    );
    let counted: u64 = of(OperationKind::Demand).latency_counts.iter().sum();
    assert_eq!(counted, 2);
    assert_eq!(
        (
            of(OperationKind::Demand).waiting,
            of(OperationKind::Demand).under_way
        ),
        (0, 0)
    );
}
