//! What the process may map and allocate, by `RLIMIT_AS` and `RLIMIT_DATA`. Where the catalogue's library is refused memory it aborts, so
//! a limit that is too low has to be told before.

use super::LimitError;
use crate::config::{Config, RemoteKind};
use crate::machine::Machine;

/// Addresses of code, libraries, stacks, and what the allocator sets aside for each thread.
const RESERVED_BYTES: u64 = 512 << 20;

/// What all tenants need, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Needs {
    /// Their regions.
    pub(super) regions: u64,
    /// Their sessions' rings.
    pub(super) rings: u64,
    /// What the daemon allocates itself: records of blocks, catalogues, buffers.
    pub(super) own: u64,
}

/// Compares both.
pub(super) fn check(config: &Config, machine: &Machine, needs: Needs) -> Result<(), LimitError> {
    let is_over = |limit: &u64, wanted: u64| *limit < wanted;
    if let Some(limit_bytes) = machine.data_bytes.filter(|limit| is_over(limit, needs.own)) {
        return Err(LimitError::Process {
            name: "RLIMIT_DATA",
            option: "-d",
            wanted_bytes: needs.own,
            limit_bytes,
        });
    }
    // Each of these maps the region for itself.
    let mappings = 1
        + u64::from(!config.nvme.directories.is_empty())
        + u64::from(config.remote.kind != RemoteKind::None);
    let wanted_bytes = needs
        .regions
        .saturating_mul(mappings)
        .saturating_add(needs.rings)
        .saturating_add(needs.own)
        .saturating_add(RESERVED_BYTES);
    if let Some(limit_bytes) = machine.address_bytes.filter(|limit| is_over(limit, wanted_bytes)) {
        return Err(LimitError::Process {
            name: "RLIMIT_AS",
            option: "-v",
            wanted_bytes,
            limit_bytes,
        });
    }
    Ok(())
}
