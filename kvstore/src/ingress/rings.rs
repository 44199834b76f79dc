//! The rings of a new session, within what a tenant may have.

use std::cell::Cell;
use std::rc::Rc;

use connector_shm::{AttachRequest, Role};

use crate::config::format_size;

/// Rings of a scheduler, unless it asks for others: its messages carry whole prefixes.
const SCHEDULER_RINGS: (u64, u64) = (8 << 20, 4 << 20);
/// Rings of everybody else.
const OTHER_RINGS: (u64, u64) = (256 << 10, 256 << 10);

/// A session's share of its tenant's ring bytes. Dropping it gives the share back.
#[derive(Debug)]
pub(super) struct RingShare {
    /// Capacity of the request ring.
    pub(super) request_bytes: u64,
    /// Capacity of the completion ring.
    pub(super) completion_bytes: u64,
    used: Rc<Cell<u64>>,
}

/// The tenant has no room for these rings.
#[derive(Debug, thiserror::Error)]
#[error(
    "rings of {wanted} do not fit: the tenant's sessions have {used} of {max}; ask for smaller rings, or have \
     limits.ring-bytes raised",
    wanted = format_size(*wanted), used = format_size(*used), max = format_size(*max)
)]
pub(super) struct RingsExhausted {
    wanted: u64,
    used: u64,
    max: u64,
}

impl RingShare {
    /// Takes what the client asks for, or the default where it asks for nothing.
    pub(super) fn take(
        request: &AttachRequest,
        used: &Rc<Cell<u64>>,
        max: u64,
    ) -> Result<Self, RingsExhausted> {
        let default = match request.role {
            Role::Scheduler => SCHEDULER_RINGS,
            Role::Worker(_) | Role::Observer => OTHER_RINGS,
        };
        let or_default = |wanted: u64, default| if wanted == 0 { default } else { wanted };
        let request_bytes = or_default(request.request_ring_bytes, default.0);
        let completion_bytes = or_default(request.completion_ring_bytes, default.1);
        let wanted = request_bytes.saturating_add(completion_bytes);
        let sum = used.get().saturating_add(wanted);
        if sum > max {
            return Err(RingsExhausted {
                wanted,
                used: used.get(),
                max,
            });
        }
        used.set(sum);
        Ok(Self {
            request_bytes,
            completion_bytes,
            used: Rc::clone(used),
        })
    }
}

impl Drop for RingShare {
    fn drop(&mut self) {
        let share = self.request_bytes.saturating_add(self.completion_bytes);
        self.used.set(self.used.get().saturating_sub(share));
    }
}
