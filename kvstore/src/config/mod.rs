//! The daemon's configuration: one TOML file, environment overrides, defaults that need neither.
//!
//! [`keys`] is the one table of what can be set; the file, the environment, `--help` and
//! `docs/configuration.md` all read it. Checking collects every problem before it answers.

mod admin;
mod change;
mod check;
mod events;
mod keys;
mod lines;
mod load;
mod nvme;
mod read;
mod remote;
mod remote_keys;
mod render;
mod suggest;
mod tenant_keys;
mod tracing;
mod units;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kvstore_engine::PolicyKind;

pub use self::events::{EventsConfig, RelayMode, WatchMode};
pub(crate) use self::nvme::catalogue_bytes_of;
pub use self::nvme::{NvmeConfig, NvmeLayout};
pub use self::remote::{Addressing, CredentialsFrom, RemoteConfig, RemoteKind, SignPayload};
pub use self::tenant_keys::TENANT_KEYS;
pub use self::tracing::{TraceExporter, TracingConfig};
pub(crate) use change::change;
pub use keys::{KEYS, Key};
pub use load::{CLI_SOCKET, Environment, Loaded, Problem, Problems, Source, load, load_file};
pub(crate) use render::effective;
pub use render::{default_toml, help_text, markdown};
pub(crate) use units::{format_duration, parse_duration};
pub use units::{format_size, parse_size};

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients connect.
    pub socket: PathBuf,
    /// Group that owns the socket and its directory; the daemon's own if none.
    pub socket_group: Option<u32>,
    /// How long a drain waits for leases and reservations to end.
    pub shutdown_deadline: Duration,
    /// Part of each tier that pins may keep.
    pub pin_share: f64,
    /// The host tier.
    pub host: HostConfig,
    /// The NVMe tier.
    pub nvme: NvmeConfig,
    /// The remote tier.
    pub remote: RemoteConfig,
    /// What is announced to routers.
    pub events: EventsConfig,
    /// Traces.
    pub tracing: TracingConfig,
    /// Who may attach to a tenant that has no list of its own.
    pub access: AccessList,
    /// The admin API.
    pub admin: AdminConfig,
    /// Metrics and health over HTTP.
    pub metrics: MetricsConfig,
    /// Bounds on what clients may use.
    pub limits: LimitsConfig,
    /// What is logged and how.
    pub log: LogConfig,
    /// The tenants, at least one, sorted by name.
    pub tenants: Vec<TenantConfig>,
}

impl Config {
    /// Where the admin API is served.
    pub fn admin_socket(&self) -> PathBuf {
        let given = self.admin.socket.clone();
        given.unwrap_or_else(|| admin_socket_beside(&self.socket))
    }
}

/// Where the admin API is if nobody says: beside the socket of clients, `kvtier-admin.sock` beside `kvtier.sock`.
pub fn admin_socket_beside(socket: &Path) -> PathBuf {
    let name = socket.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.strip_suffix(".sock").unwrap_or(&name);
    socket.with_file_name(format!("{stem}-admin.sock"))
}

/// The admin API.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AdminConfig {
    /// Where it is served; beside the socket of clients if none.
    pub socket: Option<PathBuf>,
    /// Who may look but not touch, beside root and the daemon's own user, who may do both.
    pub readers: AccessList,
    /// Where it is served with TLS as well; nowhere if none.
    pub listen: Option<SocketAddr>,
    /// Who is who there.
    pub tls: AdminTlsConfig,
}

/// Who is who where the admin API is served with TLS. The files are PEM; the first three are there if and only if it is.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AdminTlsConfig {
    /// The daemon's certificate, and those between it and its CA.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// The CA of clients.
    pub client_ca: Option<PathBuf>,
    /// Names in certificates of clients that may change things.
    pub administrators: Vec<String>,
}

/// Metrics and health over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MetricsConfig {
    /// Where they are served; nowhere if none.
    pub listen: Option<SocketAddr>,
}

/// The host tier.
#[derive(Clone, Debug, PartialEq)]
pub struct HostConfig {
    /// Bytes of blocks a tenant may keep in memory, unless it has a capacity of its own.
    pub capacity_bytes: u64,
    /// Bytes of an arena; chosen from the capacity if none.
    pub arena_bytes: Option<u64>,
    /// Whether 2 MiB pages are used.
    pub huge_pages: HugePages,
    /// When memory is taken from the system.
    pub prefault: Prefault,
    /// Eviction at the watermark stops here (fraction of the slots).
    pub watermark_low: f64,
    /// Eviction ahead of need starts here (fraction of the slots).
    pub watermark_high: f64,
    /// Who is evicted.
    pub policy: PolicyKind,
}

/// Whether the region is made of 2 MiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// 4 KiB pages.
    Never,
    /// 2 MiB pages if the system has enough of them, else 4 KiB and a warning.
    Try,
    /// 2 MiB pages, or the daemon does not start.
    Require,
}

/// When the region's memory is taken from the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefault {
    /// All of it before the socket is bound.
    Start,
    /// Page by page as blocks are first stored.
    Lazy,
}

/// Users and groups that may attach. A process is let in if either list names it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AccessList {
    /// User ids.
    pub uids: Vec<u32>,
    /// Primary group ids.
    pub gids: Vec<u32>,
}

impl AccessList {
    /// Whether a process with this user and primary group may attach.
    pub fn allows(&self, uid: u32, gid: u32) -> bool {
        self.uids.contains(&uid) || self.gids.contains(&gid)
    }
}

/// Bounds on what clients may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Sessions of one tenant.
    pub sessions: usize,
    /// Blocks one session may hold.
    pub holds: usize,
    /// Look-ups and leases one session may have alive.
    pub operations: usize,
    /// Bytes of the rings of all sessions of one tenant.
    pub ring_bytes: u64,
    /// Handshakes under way at one time.
    pub handshakes: usize,
    /// How long one handshake may take.
    pub handshake_deadline: Duration,
}

/// What is logged and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The least important level that is still written.
    pub level: LogLevel,
    /// One line of text or one JSON object for each event.
    pub format: LogFormat,
}

/// The least important level that is still written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the five levels say all there is")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// One tenant: a region and an engine of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantConfig {
    /// Its name.
    pub name: String,
    /// Bytes of blocks it may keep in memory.
    pub capacity_bytes: u64,
    /// Bytes it may use in each NVMe directory; none: an equal share of what the others leave.
    pub nvme_capacity_bytes: Option<u64>,
    /// Who may attach.
    pub access: AccessList,
}

/// The unit arenas come in, so that each can be made of whole 2 MiB pages.
pub const ARENA_UNIT_BYTES: u64 = 2 << 20;
/// Smallest capacity of a tenant.
pub const CAPACITY_BYTES_MIN: u64 = 8 << 20;
/// Least bytes for the rings of a tenant's sessions.
pub const RING_BYTES_MIN: u64 = 1 << 20;
/// Largest capacity of a tenant: what an engine can name, with room for the header.
pub const CAPACITY_BYTES_MAX: u64 = 3 << 40;
/// Largest arena.
pub const ARENA_BYTES_MAX: u64 = 16 << 30;

impl TenantConfig {
    /// Bytes of each of this tenant's arenas.
    ///
    /// Unless it is set it is a sixteenth of the capacity, from 2 to 256 MiB: many arenas let block sizes share
    /// the region fairly, large arenas waste less behind their last slot.
    pub fn arena_bytes(&self, host: &HostConfig) -> u64 {
        host.arena_bytes.unwrap_or_else(|| {
            let sixteenth = (self.capacity_bytes / 16).clamp(ARENA_UNIT_BYTES, 256 << 20);
            // The largest power of two that is not above it.
            1 << sixteenth.ilog2()
        })
    }

    /// Number of whole arenas that fit the capacity.
    pub fn arena_count(&self, host: &HostConfig) -> u64 {
        self.capacity_bytes / self.arena_bytes(host)
    }
}

#[cfg(test)]
mod tests;
