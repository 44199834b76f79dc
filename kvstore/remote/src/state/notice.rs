//! What is said in the log: a fault once, not once for each operation that meets it.

use std::time::{Duration, Instant};

use crate::FaultKind;

/// How long a kind of fault that was said is not said again.
const QUIET: Duration = Duration::from_mins(5);

/// What was said when.
#[derive(Debug)]
pub(crate) struct Notices {
    said: [Option<Instant>; FaultKind::ALL.len()],
    unsaid: [u64; FaultKind::ALL.len()],
}

impl Default for Notices {
    fn default() -> Self {
        Self {
            said: [None; FaultKind::ALL.len()],
            unsaid: [0; FaultKind::ALL.len()],
        }
    }
}

impl Notices {
    /// Whether to say it now, and how many were not said since it was last.
    pub(crate) fn should_say(&mut self, now: Instant, kind: FaultKind) -> Option<u64> {
        let at = kind as usize;
        if self.said[at].is_some_and(|said| now.saturating_duration_since(said) < QUIET) {
            self.unsaid[at] += 1;
            return None;
        }
        self.said[at] = Some(now);
        Some(std::mem::take(&mut self.unsaid[at]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_said_once_in_a_while_with_how_many_there_were() {
        let (mut notices, now) = (Notices::default(), Instant::now());
        assert_eq!(notices.should_say(now, FaultKind::Server), Some(0));
        for _ in 0..7 {
            assert_eq!(notices.should_say(now + QUIET / 2, FaultKind::Server), None);
        }
        assert_eq!(notices.should_say(now, FaultKind::Denied), Some(0));
        assert_eq!(notices.should_say(now + QUIET, FaultKind::Server), Some(7));
        assert_eq!(notices.should_say(now + QUIET * 2, FaultKind::Server), Some(0));
    }
}
