//! Bytes that are somewhere else in memory than the kernel has them registered, and transfers that move too little.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvstore_types::{Corruption, IoOutcome, ReadClass};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::rig::{PAGE, memory, spec};
use super::turns::{Stage, read, write};
use crate::directory::Directory;
use crate::io::backend::{Backend, Direction, Place, Transfer};
use crate::io::lying::Faults;
use crate::io::uring::Uring;
use crate::io::wake::Wake;
use crate::{Direct, IoEngine};

#[test]
fn transfers_are_equal_in_registered_memory_beside_it_and_across_its_pieces() {
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let memory = memory(64 * PAGE);
    let spec = spec(
        &place.path().join("tier"),
        memory.clone(),
        IoEngine::IoUring,
        Direct::Auto,
    );
    let (mut directory, _) = Directory::open(&spec).unwrap();
    let wake = Arc::new(Wake::new().unwrap());
    let mut ring = Uring::with_piece_bytes(8, 8, memory.clone(), wake, 8 * PAGE).unwrap();
    ring.add_file(1, directory.create_segment(1).unwrap());
    // A segment that the table of files has no place for.
    ring.add_file(4000, directory.create_segment(2).unwrap());
    for registered in 0..=8_u8 {
        assert_eq!(ring.registered_bytes(), u64::from(registered) * 8 * PAGE as u64);
        for (number, file) in (0_u8..10).zip([1, 4000].into_iter().cycle()) {
            let offset = usize::from(number) * 6 * PAGE;
            let bytes = 4 * PAGE;
            let pattern = vec![number ^ (registered << 4); bytes];
            super::rig::fill(&memory, offset, &pattern);
            let mut transfer = |direction, memory_offset: usize| {
                let transfer = Transfer {
                    token: 1,
                    direction,
                    file,
                    offset: PAGE as u64 * (1 + u64::from(number) * 4),
                    place: Place(memory.at(memory_offset as u64, bytes as u64).unwrap()),
                    bytes: u32::try_from(bytes).unwrap(),
                };
                // SAFETY: the memory is mapped until the ring is dropped, and nobody else looks at it meanwhile.
                unsafe { ring.push(transfer) };
                let mut completions = Vec::new();
                while completions.is_empty() {
                    ring.enter(true);
                    ring.reap(&mut completions);
                }
                assert_eq!(completions.remove(0).result.unwrap(), transfer.bytes);
            };
            transfer(Direction::Write, offset);
            super::rig::fill(&memory, offset, &vec![0; bytes]);
            transfer(Direction::Read, (offset + 3 * PAGE) % (60 * PAGE));
            assert_eq!(
                super::rig::take(&memory, (offset + 3 * PAGE) % (60 * PAGE), bytes),
                pattern
            );
        }
        assert_eq!(ring.prepare_memory(), registered < 8);
    }
}

/// Of a killed process nothing is left but what the kernel still does for it; then the ring is all that holds the lock.
#[test]
fn the_directory_is_locked_as_long_as_the_ring_lives() {
    let place = tempfile::tempdir_in("/tmp").unwrap();
    let memory = memory(64 * PAGE);
    let tier = place.path().join("tier");
    let spec = spec(&tier, memory.clone(), IoEngine::IoUring, Direct::Auto);
    let (directory, _) = Directory::open(&spec).unwrap();
    let mut ring = Uring::start(8, 8, memory, Arc::new(Wake::new().unwrap())).unwrap();
    ring.hold(directory.lock().unwrap().as_fd());
    drop(directory);
    let other = File::open(tier.join("lock")).unwrap();
    let lock = || flock(&other, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(lock(), Err(Errno::WOULDBLOCK));
    drop(ring);
    let deadline = Instant::now() + Duration::from_mins(1);
    while lock() == Err(Errno::WOULDBLOCK) {
        assert!(Instant::now() < deadline, "the lock is held for ever");
        std::thread::yield_now();
    }
}

#[test]
fn a_transfer_that_moves_too_little_is_continued() {
    let mut continued = 0;
    for seed in 0..40 {
        let faults = Faults {
            short: 0.3,
            ..Faults::default()
        };
        let mut stage = Stage::new(4, seed, faults);
        (0..12).for_each(|number| stage.carrier.accept(write(number)));
        stage.finish();
        let written: Vec<_> = stage.outcomes();
        for (operation, outcome) in &written {
            if *outcome == IoOutcome::Done {
                stage
                    .carrier
                    .accept(read(operation.0, 100 + operation.0, ReadClass::Demand));
            }
        }
        stage.finish();
        for (operation, outcome) in stage.outcomes() {
            // A write that never got to the end of a page has failed, and a read met what looks like the end of the
            // file; none has other bytes.
            let cut = IoOutcome::Corrupt(Corruption::Truncated);
            assert!(
                matches!(outcome, IoOutcome::Done | IoOutcome::Failed) || outcome == cut,
                "{seed} {operation:?} {outcome:?}"
            );
        }
        continued += stage.counters.short_transfers();
    }
    assert!(continued > 100);
}
