//! Every kind of damage: which blocks are still told at a start, and what reading each of them yields.

use std::fs;
use std::path::Path;

use kvstore_types::Corruption;
use kvstore_types::IoOutcome::{self, Corrupt, Done, Failed};

use super::fixture::{Opened, copy, cut, flip, namespace_file, segment_file};
use crate::format::tests::KEY;
use crate::format::{PAGE, TierKey};

/// What is done to a good directory, what is told then, and what reading A, B, C and D yields.
type Case = (&'static str, fn(&Path), &'static [usize], [IoOutcome; 4]);

const FIRST: &str = "segment-00000000.kvt";
const SECOND: &str = "segment-00000001.kvt";

#[expect(
    clippy::too_many_lines,
    reason = "a table with one case for each kind of damage"
)]
fn cases() -> Vec<Case> {
    use Corruption::{Foreign, Header, Payload, Place, Truncated};
    vec![
        ("nothing", |_| {}, &[0, 1, 2, 3], [Done; 4]),
        (
            "a bit of A's payload",
            |place| flip(&place.join(FIRST), 2 * PAGE + 5),
            &[0, 1, 2, 3],
            [Corrupt(Payload), Done, Done, Done],
        ),
        (
            "a bit of A's key",
            |place| flip(&place.join(FIRST), PAGE + 90),
            &[1, 2, 3],
            [Corrupt(Header), Done, Done, Done],
        ),
        (
            "a bit of A's descriptor",
            |place| flip(&place.join(FIRST), PAGE + 260),
            &[1, 2, 3],
            [Corrupt(Header), Done, Done, Done],
        ),
        (
            "the tier in A's header",
            |place| flip(&place.join(FIRST), PAGE + 20),
            &[1, 2, 3],
            [Corrupt(Foreign), Done, Done, Done],
        ),
        (
            "the version of A's header",
            |place| flip(&place.join(FIRST), PAGE + 9),
            &[1, 2, 3],
            [Corrupt(Header), Done, Done, Done],
        ),
        (
            "a lost page of B",
            |place| change(&place.join(FIRST), |bytes| bytes[6 * PAGE..7 * PAGE].fill(0)),
            &[0, 1, 2, 3],
            [Done, Corrupt(Payload), Done, Done],
        ),
        (
            "the end of the first segment",
            |place| cut(&place.join(FIRST), 5 * PAGE + 100),
            &[0, 2, 3],
            [Done, Corrupt(Truncated), Done, Done],
        ),
        (
            "all of the first segment",
            |place| cut(&place.join(FIRST), 0),
            &[2, 3],
            [Corrupt(Truncated), Corrupt(Truncated), Done, Done],
        ),
        (
            "A and D swapped",
            swap,
            &[1, 2],
            [Corrupt(Place), Done, Done, Corrupt(Place)],
        ),
        (
            "C over D",
            |place| {
                change(&place.join(SECOND), |bytes| {
                    bytes.copy_within(PAGE..4 * PAGE, 4 * PAGE);
                });
            },
            &[0, 1, 2],
            [Done, Done, Done, Corrupt(Place)],
        ),
        (
            "the second segment of another directory",
            |place| {
                let other = TierKey {
                    id: [7; 16],
                    mac: [8; 32],
                };
                fs::write(place.join(SECOND), segment_file(&other, 1, 1)).unwrap();
            },
            &[0, 1],
            [Done, Done, Corrupt(Foreign), Corrupt(Foreign)],
        ),
        (
            "the second segment in its next use",
            |place| fs::write(place.join(SECOND), segment_file(&KEY, 1, 2)).unwrap(),
            &[0, 1],
            [Done, Done, Corrupt(Place), Corrupt(Place)],
        ),
        (
            "the first segment under the second's name",
            |place| {
                assert_eq!(
                    fs::copy(place.join(FIRST), place.join(SECOND)).unwrap(),
                    8 * PAGE as u64
                );
            },
            &[0, 1],
            [Done, Done, Corrupt(Place), Corrupt(Place)],
        ),
        (
            "the second segment's header",
            |place| flip(&place.join(SECOND), 40),
            &[0, 1, 2, 3],
            [Done; 4],
        ),
        (
            "a lost header page of the second segment",
            |place| change(&place.join(SECOND), |bytes| bytes[..PAGE].fill(0)),
            &[0, 1, 2, 3],
            [Done; 4],
        ),
        (
            "the namespace",
            |place| flip(&place.join(namespace_file()), 30),
            &[],
            [Done; 4],
        ),
        (
            "no second segment",
            |place| fs::remove_file(place.join(SECOND)).unwrap(),
            &[0, 1],
            [Done, Done, Failed, Failed],
        ),
    ]
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn swap(place: &Path) {
    let (mut first, mut second) = (
        fs::read(place.join(FIRST)).unwrap(),
        fs::read(place.join(SECOND)).unwrap(),
    );
    first[PAGE..4 * PAGE].swap_with_slice(&mut second[4 * PAGE..7 * PAGE]);
    fs::write(place.join(FIRST), first).unwrap();
    fs::write(place.join(SECOND), second).unwrap();
}

#[test]
fn every_harm_costs_the_blocks_it_meets_and_no_others() {
    for (harm, inflict, told, expected) in cases() {
        let place = copy("good");
        inflict(place.path());
        // With no catalogue, and with the one that the first start has made.
        for start in ["first", "second"] {
            let opened = Opened::new(place.path()).unwrap();
            assert_eq!(opened.told, told, "{harm}, {start} start");
            let read: Vec<IoOutcome> = (0..4).map(|number| opened.read(number)).collect();
            assert_eq!(read, expected, "{harm}, {start} start");
            opened.shutdown();
        }
    }
}

#[test]
fn the_damaged_fixture_yields_its_one_good_block() {
    let place = copy("damaged");
    let opened = Opened::new(place.path()).unwrap();
    // B's file ends before B does, so it is not even told.
    assert_eq!(opened.told, [0, 3]);
    let read: Vec<IoOutcome> = (0..4).map(|number| opened.read(number)).collect();
    assert_eq!(
        read,
        [
            Corrupt(Corruption::Payload),
            Corrupt(Corruption::Truncated),
            Corrupt(Corruption::Header),
            Done
        ]
    );
    assert_eq!(opened.report.catalogue_rebuilt.as_deref(), Some("there was none"));
    opened.shutdown();
}

#[test]
fn a_directory_of_another_format_version_is_refused_and_untouched() {
    let place = copy("good");
    change(&place.path().join("tier.kvt"), |bytes| bytes[8] = 9);
    let before: Vec<Vec<u8>> = [FIRST, SECOND]
        .map(|name| fs::read(place.path().join(name)).unwrap())
        .into();
    let error = Opened::new(place.path()).err().unwrap().to_string();
    assert!(error.contains("format version 9, want 1"), "{error}");
    let after: Vec<Vec<u8>> = [FIRST, SECOND]
        .map(|name| fs::read(place.path().join(name)).unwrap())
        .into();
    assert!(before == after);
}
