//! The table of what each tenant's own table may hold.

use super::keys::{TenantKey, quoted};
use super::nvme::{NVME_CAPACITY_BYTES_MAX, NVME_CAPACITY_BYTES_MIN};
use super::read;
use super::units::format_size;
use super::{CAPACITY_BYTES_MAX, CAPACITY_BYTES_MIN};

/// What each `[tenant.NAME]` table may hold.
pub const TENANT_KEYS: &[TenantKey] = &[
    TenantKey {
        name: "capacity",
        default: "host.capacity",
        bounds: "8MiB to 3TiB",
        doc: "Bytes of blocks this tenant may keep in memory.",
        set: |tenant, raw| {
            read::size(raw, CAPACITY_BYTES_MIN, CAPACITY_BYTES_MAX).map(|bytes| tenant.capacity_bytes = bytes)
        },
        show: |tenant| Some(quoted(format_size(tenant.capacity_bytes))),
    },
    TenantKey {
        name: "nvme-capacity",
        default: "an equal share of what nvme.capacity leaves for the tenants that have none of their own",
        bounds: "64MiB to 64TiB; all tenants together at most nvme.capacity",
        doc: "Bytes on disk of this tenant in each directory. Can be changed while the daemon runs (SIGHUP, `kvtier set`).",
        set: |tenant, raw| {
            read::size(raw, NVME_CAPACITY_BYTES_MIN, NVME_CAPACITY_BYTES_MAX)
                .map(|bytes| tenant.nvme_capacity_bytes = Some(bytes))
        },
        show: |tenant| tenant.nvme_capacity_bytes.map(|bytes| quoted(format_size(bytes))),
    },
    TenantKey {
        name: "uids",
        default: "access.uids; [] if the tenant has gids",
        bounds: "a list of numeric ids",
        doc: "Users whose processes may attach to this tenant.",
        set: |tenant, raw| read::ids(raw).map(|ids| tenant.access.uids = ids),
        show: |tenant| Some(format!("{:?}", tenant.access.uids)),
    },
    TenantKey {
        name: "gids",
        default: "access.gids; [] if the tenant has uids",
        bounds: "a list of numeric ids",
        doc: "Primary groups whose processes may attach to this tenant.",
        set: |tenant, raw| read::ids(raw).map(|ids| tenant.access.gids = ids),
        show: |tenant| Some(format!("{:?}", tenant.access.gids)),
    },
];
