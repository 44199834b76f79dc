//! The remote tier's settings.

use std::path::PathBuf;
use std::time::Duration;

use kvstore_engine::RemoteAdmission;
use kvstore_remote::{Direct, Endpoint, MountCheck, MountIo, Reserve, StoreKind, SyncPolicy};

use super::Config;
use super::read::Choice;

/// The remote tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteConfig {
    /// What it is.
    pub kind: RemoteKind,
    /// Below which name everything lies, in the directory or the bucket; may be empty.
    pub prefix: String,
    /// The mounted directory.
    pub directory: Option<PathBuf>,
    /// How it is known that it is what it was.
    pub mount_check: MountCheck,
    /// How much of its file system stays free.
    pub reserve: Reserve,
    /// How to read and write there.
    pub io: MountIo,
    /// Whether to pass the page cache by.
    pub direct: Direct,
    /// What is made safe before a block gets its name.
    pub sync: SyncPolicy,
    /// Most threads for calls that may block.
    pub threads: usize,
    /// The bucket, which Azure calls a container.
    pub bucket: Option<String>,
    /// Azure's storage account that has it.
    pub account: Option<String>,
    /// Where the store is, if not where its kind usually is.
    pub endpoint: Option<String>,
    /// Its region.
    pub region: Option<String>,
    /// Where the bucket's name stands.
    pub addressing: Addressing,
    /// Where credentials come from.
    pub credentials: CredentialsFrom,
    /// The file, if they come from one.
    pub credentials_file: Option<PathBuf>,
    /// The section of that file.
    pub credentials_profile: Option<String>,
    /// Certificates to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether payloads are signed.
    pub sign_payload: SignPayload,
    /// Which blocks are written.
    pub admission: RemoteAdmission,
    /// How long a look-up waits.
    pub promotion_deadline: Duration,
    /// How long a store may take.
    pub write_deadline: Duration,
    /// Fetches at a time.
    pub reads: usize,
    /// Bytes of buffers of fetches at a time.
    pub read_bytes: u64,
    /// Stores at a time.
    pub writes: usize,
    /// Bytes of buffers of stores at a time.
    pub write_bytes: u64,
    /// Blocks that are remembered though they are nowhere else.
    pub known_blocks: usize,
    /// Most bytes of a namespace; none: no limit.
    pub capacity_bytes: Option<u64>,
    /// How long a block stays that nobody uses; none: no limit.
    pub age_max: Option<Duration>,
    /// How often somebody sweeps.
    pub sweep_every: Duration,
}

/// What the remote tier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoteKind {
    /// There is none.
    None,
    /// A mounted directory that several nodes share.
    Mount,
    /// An object store that speaks S3.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl RemoteKind {
    /// The language of the store, if it is one.
    pub const fn store(self) -> Option<StoreKind> {
        match self {
            Self::None | Self::Mount => None,
            Self::S3 => Some(StoreKind::S3),
            Self::Gcs => Some(StoreKind::Gcs),
            Self::Azure => Some(StoreKind::Azure),
        }
    }
}

impl Choice for RemoteKind {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("none", Self::None),
        ("mount", Self::Mount),
        ("s3", Self::S3),
        ("gcs", Self::Gcs),
        ("azure", Self::Azure),
    ];
}

impl Choice for MountCheck {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("required", Self::Required),
        ("off", Self::Off),
    ];
}

/// Where the bucket's name stands in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// In the path.
    Path,
    /// In the name of the host.
    VirtualHost,
}

impl Choice for Addressing {
    const NAMES: &'static [(&'static str, Self)] =
        &[("path", Self::Path), ("virtual-host", Self::VirtualHost)];
}

/// Where credentials come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialsFrom {
    /// Variables of the environment.
    Environment,
    /// A file.
    File,
    /// Whatever the machine, pod or workload is known as.
    Identity,
    /// Nobody.
    Anonymous,
}

impl Choice for CredentialsFrom {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("environment", Self::Environment),
        ("file", Self::File),
        ("identity", Self::Identity),
        ("anonymous", Self::Anonymous),
    ];
}

/// Whether payloads are part of a request's signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignPayload {
    /// Yes.
    Always,
    /// No.
    Never,
}

impl Choice for SignPayload {
    const NAMES: &'static [(&'static str, Self)] = &[("always", Self::Always), ("never", Self::Never)];
}

impl Choice for RemoteAdmission {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("everything", Self::Everything),
        ("second-touch", Self::SecondTouch),
        ("on-eviction", Self::OnEviction),
    ];
}

impl Choice for MountIo {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("io-uring", Self::IoUring),
        ("threads", Self::Threads),
    ];
}

impl Choice for Direct {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("always", Self::Always),
        ("never", Self::Never),
    ];
}

impl Choice for SyncPolicy {
    const NAMES: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("data", Self::Data), ("full", Self::Full)];
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self {
            kind: RemoteKind::None,
            prefix: "kvtier".to_owned(),
            directory: None,
            mount_check: MountCheck::Auto,
            reserve: Reserve::Permille(10),
            io: MountIo::Auto,
            direct: Direct::Auto,
            sync: SyncPolicy::None,
            threads: 16,
            bucket: None,
            account: None,
            endpoint: None,
            region: None,
            addressing: Addressing::Path,
            credentials: CredentialsFrom::Environment,
            credentials_file: None,
            credentials_profile: None,
            ca_file: None,
            sign_payload: SignPayload::Always,
            admission: RemoteAdmission::Everything,
            promotion_deadline: Duration::from_secs(1),
            write_deadline: Duration::from_secs(30),
            reads: 64,
            read_bytes: 256 << 20,
            writes: 32,
            write_bytes: 128 << 20,
            known_blocks: 131_072,
            capacity_bytes: None,
            age_max: None,
            sweep_every: Duration::from_mins(10),
        }
    }
}

/// What only shows when several keys are seen together: keys and what is wrong.
pub(super) fn check(config: &Config) -> Vec<(String, String)> {
    let remote = &config.remote;
    let mut problems = Vec::new();
    let mut problem = |key: &str, text: String| problems.push((format!("remote.{key}"), text));
    for (key, what) in missing(remote) {
        let kind = remote.kind.name();
        problem(key, format!("want {what}, because remote.kind is \"{kind}\""));
    }
    for (key, kinds) in misplaced(remote) {
        problem(key, format!("want remote.kind = {kinds} with it"));
    }
    let is_address = |text: &String| Endpoint::parse(text).is_ok_and(|endpoint| !endpoint.has_name());
    if remote.addressing == Addressing::VirtualHost && remote.endpoint.as_ref().is_some_and(is_address) {
        problem(
            "endpoint",
            "want a host with a name, not an address, because remote.addressing is \"virtual-host\""
                .to_owned(),
        );
    }
    if let (Some(directory), RemoteKind::Mount) = (&remote.directory, remote.kind) {
        let is_around = |other: &PathBuf| other.starts_with(directory) || directory.starts_with(other);
        if config.nvme.directories.iter().any(is_around) {
            problem(
                "directory",
                "want a directory beside those of nvme.directories, not the same, inside or around"
                    .to_owned(),
            );
        }
    }
    let is_of_file = remote.credentials == CredentialsFrom::File;
    if is_of_file && remote.credentials_file.is_none() {
        problem(
            "credentials-file",
            "want the file, because remote.credentials is \"file\"".to_owned(),
        );
    }
    if !is_of_file && remote.credentials_file.is_some() {
        problem(
            "credentials-file",
            "want remote.credentials = \"file\" with it".to_owned(),
        );
    }
    if remote.credentials_profile.is_some() && remote.credentials_file.is_none() {
        problem(
            "credentials-profile",
            "want remote.credentials-file with it".to_owned(),
        );
    }
    problems
}

/// Keys that the kind needs and that are not set, and what they are.
fn missing(remote: &RemoteConfig) -> Vec<(&'static str, &'static str)> {
    let mut missing = Vec::new();
    if remote.kind == RemoteKind::Mount && remote.directory.is_none() {
        missing.push(("directory", "the directory where it is mounted"));
    }
    if remote.kind.store().is_some() && remote.bucket.is_none() {
        let what = match remote.kind {
            RemoteKind::Azure => "the name of a container",
            _ => "the name of a bucket",
        };
        missing.push(("bucket", what));
    }
    if remote.kind == RemoteKind::Azure && remote.account.is_none() {
        missing.push(("account", "the storage account that has the container"));
    }
    missing
}

/// Keys that are set and mean nothing to the kind, and to which kinds they would.
fn misplaced(remote: &RemoteConfig) -> Vec<(&'static str, &'static str)> {
    const STORES: &str = "\"s3\", \"gcs\" or \"azure\"";
    const S3: &str = "\"s3\"";
    let is_store = remote.kind.store().is_some();
    let is_s3 = remote.kind == RemoteKind::S3;
    [
        ("bucket", STORES, is_store, remote.bucket.is_some()),
        ("endpoint", STORES, is_store, remote.endpoint.is_some()),
        (
            "credentials-file",
            STORES,
            is_store,
            remote.credentials_file.is_some(),
        ),
        ("ca-file", STORES, is_store, remote.ca_file.is_some()),
        (
            "account",
            "\"azure\"",
            remote.kind == RemoteKind::Azure,
            remote.account.is_some(),
        ),
        ("region", S3, is_s3, remote.region.is_some()),
        (
            "credentials-profile",
            S3,
            is_s3,
            remote.credentials_profile.is_some(),
        ),
        // Where there is no store at all these two say nothing that could be meant.
        (
            "addressing",
            S3,
            is_s3 || !is_store,
            remote.addressing != Addressing::Path,
        ),
        (
            "sign-payload",
            S3,
            is_s3 || !is_store,
            remote.sign_payload != SignPayload::Always,
        ),
        (
            "directory",
            "\"mount\"",
            remote.kind == RemoteKind::Mount,
            remote.directory.is_some(),
        ),
    ]
    .into_iter()
    .filter(|(_, _, is_right, is_set)| !is_right && *is_set)
    .map(|(key, kinds, _, _)| (key, kinds))
    .collect()
}
