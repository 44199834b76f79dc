//! The configuration in the words of the remote room, and of the engine.

use std::sync::Arc;
use std::time::Duration;

use connector_shm::RegionBytes;
use kvstore_remote::{
    BackendSpec, Credentials, Lack, LaneLimits, Limits, MountSpec, RemoteSpec, RemoteTuning, SlotMemory,
    StoreSpec, SweepLimits, SweepSpec, Timing, WriterId,
};
use kvstore_types::BootEpoch;

use crate::config::{
    Addressing, Config, CredentialsFrom, Problem, Problems, RemoteConfig, RemoteKind, SignPayload,
    TenantConfig,
};

/// Blocks that wait to be stored, or for a turn at the store.
const WAITING_MAX: usize = 65_536;
/// Existence is asked for in so many questions at a time.
const QUESTIONS: usize = 16;
/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Least time for a question which blocks there are.
const QUESTION_MIN: Duration = Duration::from_millis(500);

/// What the engine is made with; none: there is no remote tier.
pub(crate) fn engine_config(config: &Config, tenant: &TenantConfig) -> Option<kvstore_engine::RemoteConfig> {
    let remote = &config.remote;
    (remote.kind != RemoteKind::None).then(|| kvstore_engine::RemoteConfig {
        admission: remote.admission,
        promotion_deadline: remote.promotion_deadline,
        promotion_bytes_max: tenant.capacity_bytes / 2,
        write_bytes_max: remote.write_bytes.min(tenant.capacity_bytes / 4),
        write_queue_max: WAITING_MAX,
        known_max: remote.known_blocks,
    })
}

/// A tenant's part of the store; none: there is no remote tier.
pub(crate) fn backend(remote: &RemoteConfig, tenant: &str) -> Option<BackendSpec> {
    let prefix = if remote.prefix.is_empty() {
        tenant.to_owned()
    } else {
        format!("{}/{tenant}", remote.prefix)
    };
    if remote.kind == RemoteKind::Mount {
        return Some(BackendSpec::Mount(MountSpec {
            root: remote.directory.clone().unwrap_or_default(),
            prefix,
            io: remote.io,
            direct: remote.direct,
            sync: remote.sync,
            threads: remote.threads,
            check: remote.mount_check,
            reserve: remote.reserve,
        }));
    }
    let kind = remote.kind.store()?;
    Some(BackendSpec::Store(StoreSpec {
        kind,
        bucket: remote.bucket.clone().unwrap_or_default(),
        account: remote.account.clone(),
        prefix,
        endpoint: remote.endpoint.clone(),
        region: remote.region.clone(),
        virtual_hosted: remote.addressing == Addressing::VirtualHost,
        credentials: credentials(remote),
        ca_file: remote.ca_file.clone(),
        sign_payload: remote.sign_payload == SignPayload::Always,
        connect_timeout: CONNECT_TIMEOUT,
        request_timeout: remote.write_deadline.max(ATTEMPT),
    }))
}

/// What the configuration needs and this machine does not have: credentials and certificates of the remote tier. Looked for
/// before any memory is taken, and by `kvtier check-config`.
pub(crate) fn check_here(config: &Config) -> Result<(), Problems> {
    // All tenants have the same.
    let backend = config
        .tenants
        .first()
        .and_then(|tenant| backend(&config.remote, &tenant.name));
    let lacks = backend.map(|backend| backend.lacks()).unwrap_or_default();
    if lacks.is_empty() {
        return Ok(());
    }
    let problem = |lack| {
        let (key, text) = match lack {
            Lack::Credentials(text) => {
                let from = credentials(&config.remote).name();
                ("credentials", format!("want credentials by {from:?}: {text}"))
            }
            Lack::CredentialsFile(text) => ("credentials-file", text),
            Lack::Ca(text) => ("ca-file", text),
            Lack::Settings(text) => ("kind", text),
        };
        Problem {
            key: format!("remote.{key}"),
            text,
            place: None,
        }
    };
    Err(Problems(lacks.into_iter().map(problem).collect()))
}

fn credentials(remote: &RemoteConfig) -> Credentials {
    match remote.credentials {
        CredentialsFrom::Environment => Credentials::Environment,
        CredentialsFrom::File => Credentials::File {
            path: remote.credentials_file.clone().unwrap_or_default(),
            profile: remote.credentials_profile.clone(),
        },
        CredentialsFrom::Identity => Credentials::Identity,
        CredentialsFrom::Anonymous => Credentials::Anonymous,
    }
}

/// What is removed from a store.
pub(crate) fn sweep(remote: &RemoteConfig) -> SweepSpec {
    SweepSpec {
        every: remote.sweep_every,
        limits: SweepLimits {
            bytes_max: remote.capacity_bytes,
            age_max: remote.age_max,
        },
        ..SweepSpec::default()
    }
}

/// What of it may change while the daemon runs.
pub(crate) fn tuning(remote: &RemoteConfig) -> RemoteTuning {
    RemoteTuning {
        limits: sweep(remote).limits,
        reserve: remote.reserve,
        reads: remote.reads,
        writes: remote.writes,
        write: remote.write_deadline,
    }
}

/// Names this daemon at a store: its machine, the same at each start, and its boot.
pub(crate) fn writer(boot_epoch: BootEpoch) -> WriterId {
    let mut node = blake3::Hasher::new_derive_key("kvtier 2026 node of a remote writer");
    for path in ["/etc/machine-id", "/proc/sys/kernel/hostname"] {
        // What cannot be read tells machines apart no less than nothing.
        node.update(&std::fs::read(path).unwrap_or_default());
    }
    let mut half = [0; 16];
    half.copy_from_slice(&node.finalize().as_bytes()[..16]);
    WriterId::new(half, boot_epoch.0)
}

/// What a node is called where people compare names: the beginning of what it is called at a store.
pub(crate) fn node_name(writer: &WriterId) -> String {
    writer.to_string().chars().take(8).collect()
}

/// A tenant's region, as the remote room copies into it and out of it.
struct Slots(RegionBytes);

impl SlotMemory for Slots {
    fn copy_out(&self, offset: u64, bytes: &mut [u8]) -> bool {
        self.0.copy_out(offset, bytes)
    }

    fn copy_in(&self, offset: u64, bytes: &[u8]) -> bool {
        self.0.copy_in(offset, bytes)
    }
}

/// All that a tenant's tier is opened with.
pub(super) fn tier(
    remote: &RemoteConfig,
    tenant: &str,
    backend: BackendSpec,
    region: RegionBytes,
    boot_epoch: BootEpoch,
) -> RemoteSpec {
    let lane = |under_way_max, bytes_max| LaneLimits {
        under_way_max,
        bytes_max,
        waiting_max: WAITING_MAX,
    };
    let limits = Limits {
        reads: lane(remote.reads, remote.read_bytes),
        writes: lane(remote.writes, remote.write_bytes),
        lookups: LaneLimits {
            under_way_max: QUESTIONS,
            ..Limits::default().lookups
        },
        ..Limits::default()
    };
    let deadline = remote.promotion_deadline.max(Duration::from_millis(1));
    let timing = Timing {
        demand: deadline,
        // Some of the time is left for the blocks themselves.
        lookup: deadline.min(QUESTION_MIN.max(deadline / 2)),
        write: remote.write_deadline,
        attempt: ATTEMPT,
        ..Timing::default()
    };
    RemoteSpec {
        name: tenant.to_owned(),
        backend,
        writer: writer(boot_epoch),
        memory: Arc::new(Slots(region)),
        limits,
        timing,
        breaker: kvstore_remote::BreakerPolicy::default(),
        retry: kvstore_remote::RetryPolicy::default(),
        existence: kvstore_remote::ExistencePolicy::default(),
        sweep: Some(sweep(remote)),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn each_tenant_has_a_part_of_the_store_of_its_own() {
        let mut remote = RemoteConfig {
            kind: RemoteKind::Mount,
            directory: Some(PathBuf::from("/mnt/cache")),
            ..RemoteConfig::default()
        };
        let prefix = |remote: &RemoteConfig| match backend(remote, "blue") {
            Some(BackendSpec::Mount(mount)) => mount.prefix,
            Some(BackendSpec::Store(store)) => store.prefix,
            other => panic!("{other:?}"),
        };
        assert_eq!(prefix(&remote), "kvtier/blue");
        remote.prefix = String::new();
        assert_eq!(prefix(&remote), "blue");
        remote.kind = RemoteKind::S3;
        assert_eq!(prefix(&remote), "blue");
        remote.kind = RemoteKind::None;
        assert!(backend(&remote, "blue").is_none());
    }

    #[test]
    fn a_machine_has_one_name_and_each_boot_another() {
        let (one, other) = (writer(BootEpoch([1; 16])), writer(BootEpoch([2; 16])));
        assert_eq!(one.node(), other.node());
        assert_ne!(one, other);
    }
}
