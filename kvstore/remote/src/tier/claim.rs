//! Who may touch an order's slot.
//!
//! ```text
//!          begin                    end
//!   Free ─────────▶ Copying ──────────────▶ Free
//!    │ abandon          (abandon: not now)
//!    ▼
//!   Abandoned       begin: no
//! ```
//!
//! An order is answered as timed out only after its claim was abandoned, so no byte of its slot is read or written once
//! the engine has heard the answer. A copy takes a moment, so waiting for its end does not make an answer late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const FREE: u8 = 0;
const COPYING: u8 = 1;
const ABANDONED: u8 = 2;

/// Shared by an order's task and the dispatcher.
#[derive(Clone, Debug, Default)]
pub(super) struct Claim(Arc<AtomicU8>);

impl Claim {
    /// The task is about to touch the slot; `false`: it must not any more.
    #[must_use]
    pub(super) fn begin(&self) -> bool {
        self.change(FREE, COPYING)
    }

    /// The task has touched the slot, and does not touch it at this moment.
    pub(super) fn end(&self) {
        let is_ended = self.change(COPYING, FREE);
        debug_assert!(is_ended, "only the task that copies ends it");
    }

    /// The order is about to be answered without its task; `false`: the task is touching the slot, and will say when not.
    #[must_use]
    pub(super) fn abandon(&self) -> bool {
        self.change(FREE, ABANDONED)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        // SYNC(slot handed over): whoever comes second sees everything that the first one did to the slot.
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_touched_or_given_up_never_both() {
        let claim = Claim::default();
        assert!(claim.begin());
        assert!(!claim.abandon() && !claim.begin());
        claim.end();
        assert!(claim.begin());
        claim.end();
        assert!(claim.abandon());
        assert!(!claim.begin() && !claim.abandon());
    }
}
