//! What the log says of changes.

use tracing::info;

use super::{Change, Difference};

/// Says what a changed file came to.
pub(super) fn tell(change: &Change) {
    let (changed, needs_restart) = (joined(&change.applied), joined(&change.waiting));
    match (changed.is_empty(), needs_restart.is_empty()) {
        (true, true) => info!("the configuration was read again: nothing changed"),
        (false, true) => info!(changed, "the configuration was read again"),
        (true, false) => info!(
            needs_restart,
            "the configuration was read again: what changed waits for the next start"
        ),
        (false, false) => info!(changed, needs_restart, "the configuration was read again"),
    }
}

/// A value for the log, which puts quotes around it by itself: those in it would be hidden behind backslashes.
pub(crate) fn plain(toml: &str) -> String {
    if toml.contains('\\') {
        return toml.to_owned();
    }
    toml.replace('"', "")
}

/// Differences on one line.
pub(super) fn joined(differences: &[Difference]) -> String {
    let shown: Vec<String> = differences.iter().map(Difference::to_string).collect();
    shown.join(", ")
}
