//! The table of what can be set: name, default, bounds, meaning.

use std::time::Duration;

use super::read::{self, Choice, Raw};
use super::units::{format_duration, format_size};
use super::{
    ARENA_BYTES_MAX, ARENA_UNIT_BYTES, CAPACITY_BYTES_MAX, CAPACITY_BYTES_MIN, Config, RING_BYTES_MIN,
    TenantConfig,
};

/// One thing that can be set.
pub struct Key {
    /// Its place in the file, dotted: `host.capacity`.
    pub name: &'static str,
    /// What holds if it is not set, for people.
    pub default: &'static str,
    /// What it may be.
    pub bounds: &'static str,
    /// What it means.
    pub doc: &'static str,
    pub(super) set: fn(&mut Config, Raw<'_>) -> Result<(), String>,
    /// Its value as TOML; none if it is left to be chosen.
    pub(super) show: fn(&Config) -> Option<String>,
}

/// One thing that can be set in each `[tenant.NAME]` table.
pub struct TenantKey {
    /// Its name within the table.
    pub name: &'static str,
    /// What holds if it is not set.
    pub default: &'static str,
    /// What it may be.
    pub bounds: &'static str,
    /// What it means.
    pub doc: &'static str,
    pub(super) set: fn(&mut TenantConfig, Raw<'_>) -> Result<(), String>,
    pub(super) show: fn(&TenantConfig) -> String,
}

impl Key {
    /// The environment variable that overrides it.
    pub fn variable(&self) -> String {
        variable(self.name)
    }
}

/// `host.watermark-low` becomes `KVTIER_HOST_WATERMARK_LOW`.
pub(super) fn variable(name: &str) -> String {
    format!("KVTIER_{}", name.to_ascii_uppercase().replace(['.', '-'], "_"))
}

fn quoted(text: impl std::fmt::Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

/// Everything but the tenants' own keys, in the order of the file.
pub const KEYS: &[Key] = &[
    Key {
        name: "socket",
        default: "/run/kvtier/kvtier.sock for root, else $XDG_RUNTIME_DIR/kvtier/kvtier.sock, else \
                  /tmp/kvtier-<uid>/kvtier.sock",
        bounds: "an absolute path of at most 107 bytes",
        doc: "Where clients connect. A directory that is missing is made with mode 0750; the socket has mode 0660.",
        set: |config, raw| read::socket_path(raw).map(|path| config.socket = path),
        show: |config| Some(quoted(config.socket.display())),
    },
    Key {
        name: "socket-group",
        default: "the daemon's own group",
        bounds: "a numeric group id",
        doc: "Group of the socket, and of its directory if the daemon makes it. Clients of other users need it to \
              reach the socket at all; access.uids and access.gids then decide who is let in.",
        set: |config, raw| read::id(raw).map(|gid| config.socket_group = Some(gid)),
        show: |config| config.socket_group.map(|gid| gid.to_string()),
    },
    Key {
        name: "shutdown-deadline",
        default: "10s",
        bounds: "0s to 1h",
        doc: "How long SIGTERM waits for loads and stores under way. Sessions that are still busy then are closed. \
              A second signal does not wait.",
        set: |config, raw| {
            let max = Duration::from_hours(1);
            read::duration(raw, Duration::ZERO, max).map(|deadline| config.shutdown_deadline = deadline)
        },
        show: |config| Some(quoted(format_duration(config.shutdown_deadline))),
    },
    Key {
        name: "host.capacity",
        default: "1GiB",
        bounds: "8MiB to 3TiB",
        doc: "Bytes of blocks kept in memory, for each tenant that has no capacity of its own. It is rounded down \
              to whole arenas; one page for the region's header comes on top.",
        set: |config, raw| {
            read::size(raw, CAPACITY_BYTES_MIN, CAPACITY_BYTES_MAX)
                .map(|bytes| config.host.capacity_bytes = bytes)
        },
        show: |config| Some(quoted(format_size(config.host.capacity_bytes))),
    },
    Key {
        name: "host.arena-bytes",
        default: "auto: a sixteenth of the tenant's capacity, from 2MiB to 256MiB",
        bounds: "\"auto\", or a multiple of 2MiB up to half of the smallest tenant's capacity",
        doc: "The unit in which memory moves between blocks of different sizes. No block can be larger.",
        set: |config, raw| {
            if matches!(raw, Raw::Toml(toml::Value::String(text)) if text == "auto")
                || matches!(raw, Raw::Text("auto"))
            {
                config.host.arena_bytes = None;
                return Ok(());
            }
            read::size(raw, ARENA_UNIT_BYTES, ARENA_BYTES_MAX)
                .map(|bytes| config.host.arena_bytes = Some(bytes))
        },
        show: |config| {
            Some(quoted(
                config.host.arena_bytes.map_or("auto".to_owned(), format_size),
            ))
        },
    },
    Key {
        name: "host.huge-pages",
        default: "never",
        bounds: "\"never\", \"try\" or \"require\"",
        doc: "Whether the region is made of 2 MiB pages. They make attaching, pinning and the death of a client 10 \
              to 500 times cheaper, and have to be reserved first (vm.nr_hugepages), usually for something else than \
              this daemon: so they are taken only when asked for. \"try\" falls back to 4 KiB pages with a warning, \
              \"require\" refuses to start without them.",
        set: |config, raw| read::choice(raw).map(|mode| config.host.huge_pages = mode),
        show: |config| Some(quoted(config.host.huge_pages.name())),
    },
    Key {
        name: "host.prefault",
        default: "start",
        bounds: "\"start\" or \"lazy\"",
        doc: "Whether all memory is taken before the socket is bound, or page by page as blocks are first stored. \
              \"lazy\" starts at once, also with more capacity than memory is free now (with a warning); first stores \
              are slower, and memory that is missing then ends the process that stores.",
        set: |config, raw| read::choice(raw).map(|mode| config.host.prefault = mode),
        show: |config| Some(quoted(config.host.prefault.name())),
    },
    Key {
        name: "host.watermark-low",
        default: "0.95",
        bounds: "0 < watermark-low < watermark-high <= 1",
        doc: "Eviction that began at watermark-high stops when no more than this fraction of the slots is in use.",
        set: |config, raw| read::fraction(raw).map(|fraction| config.host.watermark_low = fraction),
        show: |config| Some(format!("{:?}", config.host.watermark_low)),
    },
    Key {
        name: "host.watermark-high",
        default: "0.98",
        bounds: "0 < watermark-low < watermark-high <= 1",
        doc: "Eviction begins when more than this fraction of the slots is in use, so that a burst of stores finds \
              room. With 1 blocks are only evicted when their place is wanted.",
        set: |config, raw| read::fraction(raw).map(|fraction| config.host.watermark_high = fraction),
        show: |config| Some(format!("{:?}", config.host.watermark_high)),
    },
    Key {
        name: "host.policy",
        default: "s3-fifo",
        bounds: "\"s3-fifo\" or \"lru\"",
        doc: "Which block is evicted. \"s3-fifo\" keeps blocks that are used again through a scan of blocks that are \
              not; \"lru\" evicts what was not used for the longest time.",
        set: |config, raw| read::choice(raw).map(|policy| config.host.policy = policy),
        show: |config| Some(quoted(config.host.policy.name())),
    },
    Key {
        name: "access.uids",
        default: "[the daemon's own uid, 0]",
        bounds: "a list of numeric ids (comma-separated in the environment)",
        doc: "Users whose processes may attach to a tenant that has no lists of its own.",
        set: |config, raw| read::ids(raw).map(|ids| config.access.uids = ids),
        show: |config| Some(format!("{:?}", config.access.uids)),
    },
    Key {
        name: "access.gids",
        default: "[]",
        bounds: "a list of numeric ids (comma-separated in the environment)",
        doc: "Groups whose processes may attach as well. Only a process's primary group counts.",
        set: |config, raw| read::ids(raw).map(|ids| config.access.gids = ids),
        show: |config| Some(format!("{:?}", config.access.gids)),
    },
    Key {
        name: "limits.sessions",
        default: "256",
        bounds: "1 to 16384",
        doc: "Sessions of one tenant at one time. An engine has one for its scheduler and one for each worker. As many \
              processes of the tenant may be watched: those that are attached, and those that hung up without a \
              good-bye and still live.",
        set: |config, raw| read::count(raw, 1, 16_384).map(|count| config.limits.sessions = count),
        show: |config| Some(config.limits.sessions.to_string()),
    },
    Key {
        name: "limits.holds",
        default: "4194304",
        bounds: "1024 to 268435456",
        doc: "Blocks one session's look-ups may hold. A look-up beyond it is answered as a miss.",
        set: |config, raw| read::count(raw, 1024, 1 << 28).map(|count| config.limits.holds = count),
        show: |config| Some(config.limits.holds.to_string()),
    },
    Key {
        name: "limits.operations",
        default: "65536",
        bounds: "16 to 16777216",
        doc: "Look-ups and leases one session may have alive. A client beyond it is cut off.",
        set: |config, raw| read::count(raw, 16, 1 << 24).map(|count| config.limits.operations = count),
        show: |config| Some(config.limits.operations.to_string()),
    },
    Key {
        name: "limits.ring-bytes",
        default: "256MiB",
        bounds: "1MiB to 1TiB",
        doc: "Bytes of the rings of all sessions of one tenant. A scheduler's have 12MiB and a worker's 512KiB unless \
              the client asks for others; their memory is taken when the client attaches, not as it is first used. \
              At start this much has to be free for each tenant beside the regions.",
        set: |config, raw| {
            read::size(raw, RING_BYTES_MIN, 1 << 40).map(|bytes| config.limits.ring_bytes = bytes)
        },
        show: |config| Some(quoted(format_size(config.limits.ring_bytes))),
    },
    Key {
        name: "limits.handshakes",
        default: "64",
        bounds: "1 to 4096",
        doc: "Handshakes under way at one time; more wait in the socket's queue. At most an eighth of them (at least \
              one) may wait for one process's words; further connections of that process are refused.",
        set: |config, raw| read::count(raw, 1, 4096).map(|count| config.limits.handshakes = count),
        show: |config| Some(config.limits.handshakes.to_string()),
    },
    Key {
        name: "limits.handshake-deadline",
        default: "2s",
        bounds: "10ms to 1min",
        doc: "How long one handshake may take before its connection is closed.",
        set: |config, raw| {
            read::duration(raw, Duration::from_millis(10), Duration::from_mins(1))
                .map(|deadline| config.limits.handshake_deadline = deadline)
        },
        show: |config| Some(quoted(format_duration(config.limits.handshake_deadline))),
    },
    Key {
        name: "log.level",
        default: "info",
        bounds: "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"",
        doc: "The least important level that is still written.",
        set: |config, raw| read::choice(raw).map(|level| config.log.level = level),
        show: |config| Some(quoted(config.log.level.name())),
    },
    Key {
        name: "log.format",
        default: "text",
        bounds: "\"text\" or \"json\"",
        doc: "One line of text or one JSON object for each event, on standard error.",
        set: |config, raw| read::choice(raw).map(|format| config.log.format = format),
        show: |config| Some(quoted(config.log.format.name())),
    },
];

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
        show: |tenant| quoted(format_size(tenant.capacity_bytes)),
    },
    TenantKey {
        name: "uids",
        default: "access.uids; [] if the tenant has gids",
        bounds: "a list of numeric ids",
        doc: "Users whose processes may attach to this tenant.",
        set: |tenant, raw| read::ids(raw).map(|ids| tenant.access.uids = ids),
        show: |tenant| format!("{:?}", tenant.access.uids),
    },
    TenantKey {
        name: "gids",
        default: "access.gids; [] if the tenant has uids",
        bounds: "a list of numeric ids",
        doc: "Primary groups whose processes may attach to this tenant.",
        set: |tenant, raw| read::ids(raw).map(|ids| tenant.access.gids = ids),
        show: |tenant| format!("{:?}", tenant.access.gids),
    },
];
