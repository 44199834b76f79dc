//! The table of what can be set: name, default, bounds, meaning.

use std::time::Duration;

use super::admin;
use super::events;
use super::nvme::{
    NVME_CAPACITY_BYTES_MAX, NVME_CAPACITY_BYTES_MIN, RATE_MAX, RATE_MIN, SEGMENT_BYTES_MAX,
    SEGMENT_BYTES_MIN,
};
use super::read::{self, Choice, Raw};
use super::remote_keys as remote;
use super::tracing;
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
    pub(super) show: fn(&TenantConfig) -> Option<String>,
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

pub(super) fn quoted(text: impl std::fmt::Display) -> String {
    toml::Value::String(text.to_string()).to_string()
}

/// A number of bytes, or what stands for none of it.
fn size_or(bytes: Option<u64>, none: &str) -> String {
    quoted(bytes.map_or_else(|| none.to_owned(), format_size))
}

/// Everything but the tenants' own keys, in the order of the file.
pub const KEYS: &[Key] = &[
    Key {
        name: "socket",
        default: "$RUNTIME_DIRECTORY/kvtier.sock for a service of systemd's, else /run/kvtier/kvtier.sock for root, else \
                  $XDG_RUNTIME_DIR/kvtier/kvtier.sock, else /tmp/kvtier-<uid>/kvtier.sock",
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
        name: "pin-share",
        default: "0.25",
        bounds: "0 to 0.5",
        doc: "The part of each tier that `kvtier pin` may keep from leaving, in each tenant; on NVMe no more than half of \
              nvme.watermark-low. What is pinned beyond it is treated like anything else.",
        set: |config, raw| read::fraction(raw).map(|fraction| config.pin_share = fraction),
        show: |config| Some(format!("{:?}", config.pin_share)),
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
            read::size_or_auto(raw, ARENA_UNIT_BYTES, ARENA_BYTES_MAX)
                .map(|bytes| config.host.arena_bytes = bytes)
        },
        show: |config| Some(size_or(config.host.arena_bytes, "auto")),
    },
    Key {
        name: "host.huge-pages",
        default: "never",
        bounds: "\"never\", \"try\" or \"require\"",
        doc: "Whether the region is made of 2 MiB pages. They make attaching, pinning and the death of a client 10 \
              to 500 times cheaper and NVMe transfers up to twice as fast, and have to be reserved first (vm.nr_hugepages), usually for something else than \
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
        doc: "Eviction that began at watermark-high stops when no more than this fraction of the slots is in use. Can be \
              changed while the daemon runs (SIGHUP, `kvtier set`).",
        set: |config, raw| read::fraction(raw).map(|fraction| config.host.watermark_low = fraction),
        show: |config| Some(format!("{:?}", config.host.watermark_low)),
    },
    Key {
        name: "host.watermark-high",
        default: "0.98",
        bounds: "0 < watermark-low < watermark-high <= 1",
        doc: "Eviction begins when more than this fraction of the slots is in use, so that a burst of stores finds \
              room. With 1 blocks are only evicted when their place is wanted. Can be changed while the daemon runs \
              (SIGHUP, `kvtier set`).",
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
        name: "nvme.directories",
        default: "[]",
        bounds: "a list of absolute paths (comma-separated in the environment), none inside another",
        doc: "Where blocks that leave memory are kept, one directory for each device; blocks spread over them. None: \
              there is no NVMe tier. Each tenant has a subdirectory of its own, which is made with mode 0700. A \
              directory that is taken out of the list keeps its files, for when it comes back or is removed by hand.",
        set: |config, raw| read::directories(raw).map(|paths| config.nvme.directories = paths),
        show: |config| {
            let paths = config.nvme.directories.iter();
            let paths = paths.map(|path| toml::Value::String(path.display().to_string()));
            Some(toml::Value::Array(paths.collect()).to_string())
        },
    },
    Key {
        name: "nvme.capacity",
        default: "10GiB",
        bounds: "64MiB to 64TiB, and at least four segments for each tenant",
        doc: "Bytes on disk in each directory, of all tenants together: segments and catalogue. A bound that holds at \
              every moment; the space of a segment is taken when its file is made. With more than the file system \
              has, the tier uses what there is: no segment is made that would leave users other than root less than \
              1 % of the file system. Can be changed while the daemon runs (SIGHUP, `kvtier set`).",
        set: |config, raw| {
            read::size(raw, NVME_CAPACITY_BYTES_MIN, NVME_CAPACITY_BYTES_MAX)
                .map(|bytes| config.nvme.capacity_bytes = bytes)
        },
        show: |config| Some(quoted(format_size(config.nvme.capacity_bytes))),
    },
    Key {
        name: "nvme.segment-bytes",
        default: "auto: what the directories have; for new ones 1/64 of the tenant's share, from 4MiB to 1GiB, and at \
                  least the tenant's largest block",
        bounds: "\"auto\", or a multiple of 4KiB that holds the largest block (host.arena-bytes and 8KiB), up to 32GiB",
        doc: "Size of each segment file: what is reclaimed at a time. A directory keeps the size it was made with: \
              another one ends the start, and of directories with several sizes \"auto\" serves those with the most common.",
        set: |config, raw| {
            read::size_or_auto(raw, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
                .map(|bytes| config.nvme.segment_bytes = bytes)
        },
        show: |config| Some(size_or(config.nvme.segment_bytes, "auto")),
    },
    Key {
        name: "nvme.io",
        default: "auto",
        bounds: "\"auto\", \"io-uring\" or \"threads\"",
        doc: "How blocks are read and written. \"auto\" takes io_uring where it is to be had (container runtimes often \
              forbid it), else a pool of threads that cost more processor time; the log says which.",
        set: |config, raw| read::choice(raw).map(|io| config.nvme.io = io),
        show: |config| Some(quoted(config.nvme.io.name())),
    },
    Key {
        name: "nvme.direct",
        default: "auto",
        bounds: "\"auto\", \"always\" or \"never\"",
        doc: "Whether the page cache is passed by (O_DIRECT). \"auto\" does it where the file system can; the log says \
              where it cannot.",
        set: |config, raw| read::choice(raw).map(|direct| config.nvme.direct = direct),
        show: |config| Some(quoted(config.nvme.direct.name())),
    },
    Key {
        name: "nvme.depth",
        default: "32",
        bounds: "1 to 1024",
        doc: "Reads and writes under way at a time, for each tenant and directory. At most half of them are writes.",
        set: |config, raw| {
            read::count(raw, 1, 1024).map(|depth| config.nvme.depth = u32::try_from(depth).unwrap_or(1024))
        },
        show: |config| Some(config.nvme.depth.to_string()),
    },
    Key {
        name: "nvme.admission",
        default: "all",
        bounds: "\"all\" or \"second-touch\"",
        doc: "Which blocks are written. \"all\": every one when it is stored. \"second-touch\": those that a look-up has \
              found in memory, which saves a device from what is never asked for again. Can be changed while the daemon \
              runs (SIGHUP, `kvtier set`).",
        set: |config, raw| read::choice(raw).map(|admission| config.nvme.admission = admission),
        show: |config| Some(quoted(config.nvme.admission.name())),
    },
    Key {
        name: "nvme.write-rate",
        default: "0: no limit",
        bounds: "\"0\", or bytes per second from 64KiB to 1TiB",
        doc: "Most bytes written per second to each directory, for each tenant: devices wear out. What comes faster waits. \
              Beyond 65536 blocks it is not written, nor is a block that leaves memory before its turn (`nvme_write_stale`). Blocks that are carried over when a segment is reclaimed count, but \
              do not wait: while that lasts more may be written, and new blocks then wait for it two seconds at most. \
              Can be changed while the daemon runs (SIGHUP, `kvtier set`).",
        set: |config, raw| read::rate(raw, RATE_MIN, RATE_MAX).map(|rate| config.nvme.write_rate = rate),
        show: |config| Some(size_or(config.nvme.write_rate, "0")),
    },
    Key {
        name: "nvme.watermark-low",
        default: "0.9",
        bounds: "0 < watermark-low < watermark-high <= 1",
        doc: "Reclaiming that began at watermark-high stops when no more than this fraction of the segments is in use. \
              Can be changed while the daemon runs (SIGHUP, `kvtier set`).",
        set: |config, raw| read::fraction(raw).map(|fraction| config.nvme.watermark_low = fraction),
        show: |config| Some(format!("{:?}", config.nvme.watermark_low)),
    },
    Key {
        name: "nvme.watermark-high",
        default: "0.95",
        bounds: "0 < watermark-low < watermark-high <= 1",
        doc: "The segments that were written first are reclaimed when more than this fraction is in use; blocks of them that \
              were used since are carried over. Can be changed while the daemon runs (SIGHUP, `kvtier set`).",
        set: |config, raw| read::fraction(raw).map(|fraction| config.nvme.watermark_high = fraction),
        show: |config| Some(format!("{:?}", config.nvme.watermark_high)),
    },
    Key {
        name: "nvme.promotion-deadline",
        default: "1s",
        bounds: "0s to 1min",
        doc: "How long a look-up waits for blocks on their way from a device into memory; what is not there then is a \
              miss. With 0s no look-up waits, and only what is in memory is a hit.",
        set: |config, raw| {
            read::duration(raw, Duration::ZERO, Duration::from_mins(1))
                .map(|deadline| config.nvme.promotion_deadline = deadline)
        },
        show: |config| Some(quoted(format_duration(config.nvme.promotion_deadline))),
    },
    Key {
        name: "nvme.scrub-rate",
        default: "0: off",
        bounds: "\"0\", or bytes per second from 64KiB to 1TiB",
        doc: "Bytes read per second in each directory, for each tenant, to find damaged blocks before somebody asks for \
              them. Can be changed while the daemon runs (SIGHUP, `kvtier set`).",
        set: |config, raw| read::rate(raw, RATE_MIN, RATE_MAX).map(|rate| config.nvme.scrub_rate = rate),
        show: |config| Some(size_or(config.nvme.scrub_rate, "0")),
    },
    remote::KIND,
    remote::PREFIX,
    remote::DIRECTORY,
    remote::MOUNT_CHECK,
    remote::RESERVE,
    remote::IO,
    remote::DIRECT,
    remote::SYNC,
    remote::THREADS,
    remote::BUCKET,
    remote::ACCOUNT,
    remote::ENDPOINT,
    remote::REGION,
    remote::ADDRESSING,
    remote::CREDENTIALS,
    remote::CREDENTIALS_FILE,
    remote::CREDENTIALS_PROFILE,
    remote::CA_FILE,
    remote::SIGN_PAYLOAD,
    remote::ADMISSION,
    remote::PROMOTION_DEADLINE,
    remote::WRITE_DEADLINE,
    remote::READS,
    remote::READ_BYTES,
    remote::WRITES,
    remote::WRITE_BYTES,
    remote::KNOWN_BLOCKS,
    remote::CAPACITY,
    remote::AGE_MAX_KEY,
    remote::SWEEP_EVERY,
    events::CONNECT,
    events::BIND,
    events::REPLAY,
    events::RELAY,
    events::IDENTITIES,
    events::HOST_MEDIUM,
    events::NVME_MEDIUM,
    events::REMOTE_MEDIUM,
    events::WATCH,
    events::ENCODING,
    events::BATCH_BLOCKS,
    events::BATCH_DELAY,
    events::ANNOUNCE_RATE,
    tracing::EXPORTER,
    tracing::ENDPOINT,
    tracing::PROTOCOL,
    tracing::SAMPLE_RATIO,
    tracing::HEADERS_FILE,
    tracing::CA_FILE,
    tracing::TIMEOUT,
    tracing::SERVICE_NAME,
    tracing::RESOURCE_ATTRIBUTES,
    tracing::QUEUE_SPANS,
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
    admin::SOCKET,
    admin::READER_UIDS,
    admin::READER_GIDS,
    admin::LISTEN,
    admin::TLS_CERTIFICATE,
    admin::TLS_KEY,
    admin::TLS_CLIENT_CA,
    admin::TLS_ADMINISTRATORS,
    Key {
        name: "metrics.listen",
        default: "none",
        bounds: "\"none\", or an address and a port such as \"127.0.0.1:9470\"",
        doc: "Where a page for people, /metrics, /healthz and /readyz are served over plain HTTP, to anybody who can reach \
              it. They tell names of models, engines and directories and what the log says, and change nothing.",
        set: |config, raw| read::listen(raw).map(|address| config.metrics.listen = address),
        show: |config| {
            let address = config.metrics.listen;
            Some(quoted(
                address.map_or_else(|| "none".to_owned(), |address| address.to_string()),
            ))
        },
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
        doc: "The least important level that is still written. What an administrator changes over the admin API is written at \
              every level. Can be changed while the daemon runs (SIGHUP, `kvtier set`).",
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
