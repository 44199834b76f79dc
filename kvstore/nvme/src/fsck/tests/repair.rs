//! What a check says of a stopped directory, and what a repair leaves.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::fixture::{Opened, copy, cut, flip, namespace_file};
use crate::directory::Directory;
use crate::format::PAGE;
use crate::{FsckError, FsckOptions, FsckProgress, FsckReport, fsck};

const FIRST: &str = "segment-00000000.kvt";
const SECOND: &str = "segment-00000001.kvt";

fn check(place: &Path, repair: bool) -> FsckReport {
    let mut progress = FsckProgress::default();
    let report = fsck(
        place,
        FsckOptions {
            repair,
            verify_payloads: true,
            catalogue_bytes_max: 64 << 20,
            progress: &mut |now| progress = now,
        },
    )
    .unwrap();
    assert_eq!(progress.segments_done, progress.segments);
    report
}

/// A good directory with the catalogue that a start has made.
fn catalogued() -> tempfile::TempDir {
    let place = copy("good");
    start(place.path());
    place
}

/// Starts a device, stops it, and says what was told.
fn start(place: &Path) -> Vec<usize> {
    let opened = Opened::new(place).unwrap();
    let told = opened.told.clone();
    opened.shutdown();
    told
}

/// All files but the lock, whose bytes are the last user's number.
fn contents(place: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![place.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.file_name().unwrap() != "lock" {
                files.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    files
}

fn counts(report: &FsckReport) -> BTreeMap<&'static str, u64> {
    report
        .counts
        .list()
        .into_iter()
        .filter(|&(_, value)| value > 0)
        .collect()
}

#[test]
fn a_good_directory_is_clean_and_checking_it_changes_nothing() {
    let place = catalogued();
    let before = contents(place.path());
    let report = check(place.path(), false);
    assert!(report.is_clean(), "{report}");
    let expected = [
        ("segments", 2),
        ("blocks_good", 4),
        ("payload_bytes_good", 9 * PAGE as u64),
        ("entries", 4),
        ("namespaces", 1),
    ];
    assert_eq!(counts(&report), expected.into());
    assert!(contents(place.path()) == before, "checking changed a file");
    assert!(report.to_string().ends_with("clean"), "{report}");
}

#[test]
fn what_is_wrong_is_named_and_a_repair_makes_it_right() {
    type Case = (fn(&Path), &'static str, &'static [usize]);
    let cases: [Case; 7] = [
        (
            |place| flip(&place.join(FIRST), 2 * PAGE),
            "segment 0 page 1: block ",
            &[1, 2, 3],
        ),
        (
            |place| flip(&place.join(FIRST), PAGE + 90),
            "segment 0 page 1: wrong header MAC",
            &[1, 2, 3],
        ),
        (
            |place| flip(&place.join(FIRST), PAGE + 20),
            "segment 0 page 1: another tier's header: of tier ",
            &[1, 2, 3],
        ),
        (
            |place| fs::remove_dir_all(place.join("catalogue")).unwrap(),
            "the catalogue cannot be used: there is none",
            &[0, 1, 2, 3],
        ),
        (
            |place| fs::remove_file(place.join("catalogue/CURRENT")).unwrap(),
            "the catalogue cannot be used",
            &[0, 1, 2, 3],
        ),
        (
            |place| fs::write(place.join("catalogue/CURRENT"), "nonsense").unwrap(),
            "the catalogue cannot be used",
            &[0, 1, 2, 3],
        ),
        (
            |place| {
                fs::remove_dir_all(place.join("catalogue")).unwrap();
                fs::write(place.join("catalogue"), "a file").unwrap();
            },
            "the catalogue cannot be used",
            &[0, 1, 2, 3],
        ),
    ];
    for (harm, problem, told) in cases {
        let place = catalogued();
        harm(place.path());
        let segments = [FIRST, SECOND].map(|name| fs::read(place.path().join(name)).unwrap());
        for repair in [false, true] {
            let report = check(place.path(), repair);
            let named = report.problems.iter().any(|text| text.contains(problem));
            assert!(named, "want {problem:?}\n{report}");
            assert_eq!(report.repairs.is_empty(), !repair, "{report}");
            assert_eq!(report.is_mended(), repair, "{report}");
            let end = if repair { "finds nothing more" } else { "not clean" };
            assert!(report.to_string().ends_with(end), "{report}");
        }
        let report = check(place.path(), false);
        assert!(report.is_clean(), "after the repair of {problem:?}: {report}");
        assert!([FIRST, SECOND].map(|name| fs::read(place.path().join(name)).unwrap()) == segments);
        assert_eq!(start(place.path()), told, "{problem}");
    }
}

#[test]
fn what_only_time_or_an_engine_can_heal_is_said_and_stays() {
    type Case = (fn(&Path), &'static str);
    let cases: [Case; 4] = [
        (
            |place| cut(&place.join(FIRST), 6 * PAGE),
            "segment 0 has been cut off: want 8 pages, got 6; blocks that were there are lost, and its room comes back",
        ),
        (
            |place| flip(&place.join(SECOND), 40),
            "segment 1: wrong header MAC",
        ),
        (
            |place| flip(&place.join(namespace_file()), 30),
            "wrong checksum; its blocks are dropped at the next start",
        ),
        (
            |place| fs::remove_file(place.join(namespace_file())).unwrap(),
            "is not known; its 4 blocks are dropped at the next start",
        ),
    ];
    for (harm, problem) in cases {
        let place = catalogued();
        harm(place.path());
        let mended = check(place.path(), true);
        let report = check(place.path(), false);
        assert_eq!(mended.remaining.as_ref(), Some(&report.problems), "{mended}");
        assert!(mended.to_string().ends_with("not clean"), "{mended}");
        let named = report.problems.iter().any(|text| text.contains(problem));
        assert!(named, "want {problem:?}\n{report}");
    }
}

#[test]
fn what_is_not_ours_or_was_never_finished_is_told_and_not_wrong() {
    let place = catalogued();
    fs::write(place.path().join("notes.txt"), "mine").unwrap();
    fs::write(place.path().join("segment-00000007.kvt.partial"), "half").unwrap();
    let report = check(place.path(), false);
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.counts.files_unknown, report.counts.leftovers), (1, 1));
    assert!(place.path().join("segment-00000007.kvt.partial").exists());
    check(place.path(), true);
    assert!(!place.path().join("segment-00000007.kvt.partial").exists());
    assert!(place.path().join("notes.txt").exists());
}

#[test]
fn payloads_are_looked_at_only_if_that_is_wanted() {
    let place = catalogued();
    flip(&place.path().join(FIRST), 2 * PAGE);
    let options = FsckOptions {
        repair: false,
        verify_payloads: false,
        catalogue_bytes_max: 64 << 20,
        progress: &mut |_| {},
    };
    let report = fsck(place.path(), options).unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(check(place.path(), false).counts.payloads_damaged, 1);
}

#[test]
fn a_directory_in_use_or_none_at_all_is_not_checked() {
    let place = catalogued();
    let (directory, _) = Directory::inspect(place.path()).unwrap();
    let attempt = |place: &Path| {
        let options = FsckOptions {
            repair: true,
            verify_payloads: true,
            catalogue_bytes_max: 64 << 20,
            progress: &mut |_| {},
        };
        fsck(place, options).unwrap_err()
    };
    let error = attempt(place.path());
    assert!(matches!(error, FsckError::InUse { .. }), "{error}");
    assert!(
        error.to_string().contains(&std::process::id().to_string()),
        "{error}"
    );
    drop(directory);
    let empty = tempfile::tempdir().unwrap();
    let error = attempt(empty.path()).to_string();
    let superblock = empty.path().join("tier.kvt").display().to_string();
    assert!(error.starts_with(&format!("{superblock} is missing")), "{error}");
    let nowhere = empty.path().join("nowhere");
    let error = attempt(&nowhere).to_string();
    assert_eq!(error, format!("there is no directory {}", nowhere.display()));
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0, "nothing is made");
}

#[test]
fn the_end_of_a_long_list_of_problems_is_a_number() {
    let mut report = FsckReport::default();
    (0..crate::PROBLEMS_MAX + 3).for_each(|number| report.problem(format!("problem {number}")));
    assert_eq!(
        (report.problems.len(), report.problems_more),
        (crate::PROBLEMS_MAX, 3)
    );
    assert!(report.to_string().contains("and 3 problems more"));
}
