//! What a remote tier is made of, as the daemon orders it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::memory::MemoryStore;
use crate::backend::store::{Surroundings, lacks};
use crate::state::{BreakerPolicy, ExistencePolicy, LaneLimits, RetryPolicy};
use crate::{Lack, SlotMemory, WriterId};

/// One remote tier of one tenant.
pub struct RemoteSpec {
    /// For people: `default`.
    pub name: String,
    /// Where blocks are kept.
    pub backend: BackendSpec,
    /// Who writes.
    pub writer: WriterId,
    /// Where slots lie.
    pub memory: Arc<dyn SlotMemory>,
    /// How much at a time.
    pub limits: Limits,
    /// How long.
    pub timing: Timing,
    /// When the store is left alone.
    pub breaker: BreakerPolicy,
    /// How attempts are repeated.
    pub retry: RetryPolicy,
    /// How much is remembered.
    pub existence: ExistencePolicy,
    /// What is removed; `None`: this node removes nothing.
    pub sweep: Option<SweepSpec>,
}

/// Where blocks are kept.
#[derive(Clone)]
pub enum BackendSpec {
    /// A mounted directory.
    Mount(MountSpec),
    /// An object store.
    Store(StoreSpec),
    /// Memory of this process.
    Memory(Arc<MemoryStore>),
}

impl BackendSpec {
    /// What kind it is, for people: `mount`, or the language of a store.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Mount(_) => "mount",
            Self::Store(store) => store.kind.name(),
            Self::Memory(_) => "memory",
        }
    }

    /// What this machine lacks for it: credentials, certificates. Nobody is asked, so it is told at once.
    pub fn lacks(&self) -> Vec<Lack> {
        match self {
            Self::Store(store) => lacks(store, &Surroundings::real()),
            Self::Mount(_) | Self::Memory(_) => Vec::new(),
        }
    }
}

/// A mounted directory that several nodes share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// The directory. It has to be there; what is in it is made.
    pub root: PathBuf,
    /// Where below it: directories that are made, such as `blue`. Empty: the root itself.
    pub prefix: String,
    /// How reads and writes are given to the kernel.
    pub io: MountIo,
    /// Whether to pass the page cache by.
    pub direct: Direct,
    /// What is made safe before a block gets its name.
    pub sync: SyncPolicy,
    /// Most threads for calls that may block: 1 to 256.
    pub threads: usize,
    /// How it is known that the root is what it was: nothing is to be written below a mount that is gone.
    pub check: MountCheck,
    /// How much of the file system stays free.
    pub reserve: Reserve,
}

/// How it is known that a directory is what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum MountCheck {
    /// It is held open, and another place under its name has to have the store's identity.
    #[default]
    Auto,
    /// The same, and something has to be mounted at the directory itself.
    Required,
    /// Whatever has its name is taken.
    Off,
}

/// How much of a file system stays free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// So many bytes.
    Bytes(u64),
    /// So many thousandths of all of it.
    Permille(u16),
}

impl Reserve {
    /// The same in bytes, of a file system of so many.
    pub fn bytes_of(self, all: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Permille(parts) => all / 1000 * u64::from(parts),
        }
    }
}

/// How reads and writes are given to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum MountIo {
    /// io_uring where it is to be had, else threads.
    #[default]
    Auto,
    /// io_uring, or the tier cannot be opened.
    IoUring,
    /// Threads.
    Threads,
}

/// Whether the page cache is passed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Direct {
    /// O_DIRECT where the mount takes it.
    #[default]
    Auto,
    /// O_DIRECT, or the tier is out of service.
    Always,
    /// The page cache.
    Never,
}

/// What is made safe before a block gets its name. Truth never depends on it: every read proves what it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum SyncPolicy {
    /// Nothing: a power cut of the server may lose blocks.
    #[default]
    None,
    /// The block's bytes.
    Data,
    /// Its bytes and its name.
    Full,
}

/// An object store. There is no place for a secret in it: see [`Credentials`].
#[derive(Clone, PartialEq, Eq)]
pub struct StoreSpec {
    /// Which language it speaks.
    pub kind: StoreKind,
    /// The bucket, which Azure calls a container. It has to be there.
    pub bucket: String,
    /// Azure's storage account that has the container.
    pub account: Option<String>,
    /// What all names begin with; may be empty.
    pub prefix: String,
    /// Where it is, if not where its kind usually is: `https://host[:port]`, for Azure with the account in it.
    pub endpoint: Option<String>,
    /// Its region. S3's default: us-east-1.
    pub region: Option<String>,
    /// Whether the bucket is part of the host's name.
    pub virtual_hosted: bool,
    /// Who we are.
    pub credentials: Credentials,
    /// Certificates to trust beside the system's, in PEM.
    pub ca_file: Option<PathBuf>,
    /// Whether payloads are part of the request's signature. Costs a SHA-256 of each.
    pub sign_payload: bool,
    /// How long making a connection may take.
    pub connect_timeout: Duration,
    /// How long one request may take, whoever waits for it.
    pub request_timeout: Duration,
}

/// Which language a store speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreKind {
    /// S3's.
    S3,
    /// Google Cloud Storage's.
    Gcs,
    /// Azure Blob Storage's.
    Azure,
}

/// Where credentials come from, and from nowhere else. They are never part of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// Variables of the environment, read once. S3: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`. GCS:
    /// `GOOGLE_APPLICATION_CREDENTIALS`, a file as below. Azure, one of: `AZURE_STORAGE_KEY`, `AZURE_STORAGE_SAS_TOKEN`, or
    /// `AZURE_CLIENT_SECRET` with `AZURE_TENANT_ID` and `AZURE_CLIENT_ID`.
    Environment,
    /// A file, read again when it changes. S3: in the form of AWS's shared credentials. GCS: JSON of a service account or an
    /// authorised user. Azure: the account's key or a SAS token.
    File {
        /// The file.
        path: PathBuf,
        /// Its section, for S3; `None`: `default`.
        profile: Option<String>,
    },
    /// Whatever the machine, pod or workload is known as. S3: instance metadata, container credentials, web identity tokens.
    /// GCS: the metadata server. Azure: a federated token where the environment names one, else managed identity.
    Identity,
    /// Nobody.
    Anonymous,
}

/// How much at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Fetches.
    pub reads: LaneLimits,
    /// Stores and deletions.
    pub writes: LaneLimits,
    /// Look-ups.
    pub lookups: LaneLimits,
    /// Most orders that have not been answered. More are refused.
    pub orders_max: usize,
    /// Blocks of one look-up that are asked for together.
    pub lookup_batch: usize,
    /// Blocks are read in ranges of so many bytes at the same time; `None`: whole.
    pub range_bytes: Option<u64>,
    /// Bytes of buffers that are kept to be used again.
    pub buffer_bytes_kept: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let lane = |under_way_max, bytes_max| LaneLimits {
            under_way_max,
            bytes_max,
            waiting_max: 65_536,
        };
        Self {
            reads: lane(64, 256 << 20),
            writes: lane(32, 128 << 20),
            lookups: lane(8, 1 << 20),
            orders_max: 262_144,
            lookup_batch: 256,
            range_bytes: None,
            buffer_bytes_kept: 64 << 20,
        }
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From the order of a demand fetch to its answer.
    pub demand: Duration,
    /// From the order of a prefetch to its answer.
    pub prefetch: Duration,
    /// From the order of a store or deletion to its answer.
    pub write: Duration,
    /// From the order of a look-up to its answer.
    pub lookup: Duration,
    /// One attempt at most.
    pub attempt: Duration,
    /// A fetch without an answer for so long is asked for a second time, and whichever comes first is taken.
    pub hedge_after: Option<Duration>,
    /// How long accesses are collected before they are told to the store.
    pub touch_every: Duration,
    /// How long closing waits for writes that are under way.
    pub close: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            demand: Duration::from_secs(1),
            prefetch: Duration::from_secs(10),
            write: Duration::from_secs(30),
            lookup: Duration::from_millis(500),
            attempt: Duration::from_secs(10),
            hedge_after: None,
            touch_every: Duration::from_mins(10),
            close: Duration::from_secs(2),
        }
    }
}

/// What is removed. One node at a time does it, for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SweepSpec {
    /// How often somebody looks.
    pub every: Duration,
    /// How long the lease of whoever does it is good for without being renewed.
    pub lease: Duration,
    /// Files that were begun so long ago and have no name yet are removed.
    pub temporary_age: Duration,
    /// Bounds of each namespace that no exception names.
    pub limits: SweepLimits,
    /// Bounds of namespaces whose descriptor has a field with a value: `("tenant", "blue")`. The first that fits counts.
    pub exceptions: Vec<(String, Vec<u8>, SweepLimits)>,
}

impl Default for SweepSpec {
    fn default() -> Self {
        Self {
            every: Duration::from_mins(10),
            lease: Duration::from_mins(2),
            temporary_age: Duration::from_hours(1),
            limits: SweepLimits::default(),
            exceptions: Vec::new(),
        }
    }
}

/// What may change while a tier is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteTuning {
    /// Bounds of each namespace that no exception names, for the sweeps of this node.
    pub limits: SweepLimits,
    /// How much of a mount's file system stays free.
    pub reserve: Reserve,
    /// Fetches at a time. Those that are more already stay.
    pub reads: usize,
    /// Stores and deletions at a time.
    pub writes: usize,
    /// From the order of a store or deletion to its answer, for orders to come.
    pub write: Duration,
}

/// Bounds of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SweepLimits {
    /// Most bytes of blocks. When there are more, those not read for longest go, until a tenth is free.
    pub bytes_max: Option<u64>,
    /// Blocks that nobody has written or read for so long go.
    pub age_max: Option<Duration>,
}

/// Why a tier cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The mount's settings are wrong.
    #[error("remote mount: {0}")]
    Mount(String),
    /// The store's settings are wrong.
    #[error("remote store: {0}")]
    Store(String),
    /// io_uring was asked for and cannot be had.
    #[error("remote tier {0}: io_uring was asked for and cannot be had")]
    Uring(String, #[source] std::io::Error),
    /// Threads cannot be started.
    #[error("start the threads of remote tier {0}")]
    Threads(String, #[source] std::io::Error),
}

impl StoreKind {
    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gcs",
            Self::Azure => "azure",
        }
    }
}

impl StoreSpec {
    /// Where it is, without what may be secret: an endpoint with a password is refused, but this may be shown before.
    fn shown_endpoint(&self) -> Option<String> {
        self.endpoint.as_ref().map(|endpoint| {
            let (_, after) = endpoint.rsplit_once('@').unwrap_or(("", endpoint));
            after.split(['?', '#']).next().unwrap_or_default().to_owned()
        })
    }
}

impl fmt::Display for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.account {
            Some(account) => write!(f, "{} container {} of {account}", self.kind.name(), self.bucket)?,
            None => write!(f, "{} bucket {}", self.kind.name(), self.bucket)?,
        }
        if !self.prefix.is_empty() {
            write!(f, ", below {}", self.prefix)?;
        }
        match (self.shown_endpoint(), &self.region) {
            (Some(endpoint), _) => write!(f, ", at {endpoint}")?,
            (None, Some(region)) => write!(f, ", in {region}")?,
            (None, None) => {}
        }
        write!(f, ", credentials: {}", self.credentials.name())
    }
}

impl Credentials {
    /// Which kind they are.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::File { .. } => "file",
            Self::Identity => "identity",
            Self::Anonymous => "anonymous",
        }
    }
}

impl fmt::Debug for StoreSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = self.shown_endpoint();
        f.debug_struct("StoreSpec")
            .field("kind", &self.kind)
            .field("bucket", &self.bucket)
            .field("account", &self.account)
            .field("prefix", &self.prefix)
            .field("endpoint", &endpoint)
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for BackendSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mount(mount) => mount.fmt(f),
            Self::Store(store) => store.fmt(f),
            Self::Memory(_) => f.write_str("Memory"),
        }
    }
}

impl fmt::Debug for RemoteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSpec")
            .field("name", &self.name)
            .field("backend", &self.backend)
            .field("limits", &self.limits)
            .field("timing", &self.timing)
            .field("sweep", &self.sweep)
            .finish_non_exhaustive()
    }
}
