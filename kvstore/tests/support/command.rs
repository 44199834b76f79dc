//! The admin command, and what it says.

use std::process::Output;

use serde_json::Value;

use super::{Daemon, Place};

/// Runs `kvtier`; its exit code and what it said.
pub(crate) fn kvtier(place: &Place, arguments: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = place.kvtier(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// The same where it has to work: what it printed.
pub(crate) fn shown(place: &Place, arguments: &[&str]) -> String {
    let (code, out, error) = kvtier(place, arguments);
    assert_eq!(code, 0, "{arguments:?}: {error}");
    out
}

pub(crate) fn json(place: &Place, arguments: &[&str]) -> Value {
    let mut arguments = arguments.to_vec();
    arguments.push("--json");
    serde_json::from_str(&shown(place, &arguments)).unwrap()
}

/// The same where it has to be refused: exit code and reason.
pub(crate) fn refused(place: &Place, arguments: &[&str]) -> (i32, String) {
    let (code, out, error) = kvtier(place, arguments);
    assert_eq!(out, "", "{arguments:?}");
    (code, error)
}

pub(crate) fn with_nvme(place: &Place) -> Daemon {
    let directory = place.path("nvme").display().to_string();
    place.start_with(&[
        ("KVTIER_NVME_DIRECTORIES", &directory),
        ("KVTIER_NVME_CAPACITY", "128MiB"),
        ("KVTIER_NVME_PROMOTION_DEADLINE", "30s"),
    ])
}
