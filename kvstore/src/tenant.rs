//! What one tenant is made of: a region, an engine, its NVMe devices and its remote tier.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use connector_shm::{PrefaultError, Region, RegionError, RegionSpec};
use kvstore_engine::{ConfigError, Engine, EngineConfig};
use kvstore_nvme::{OpenError, names_bytes_of};
use kvstore_types::BootEpoch;
use tracing::{info, warn};

use crate::config::{Config, HugePages, NvmeLayout, Prefault, TenantConfig, format_size};
use crate::engine_thread::command::{CommandReceiver, CommandSender, command_queue};
use crate::exit::Exit;
use crate::limits::region_bytes;
use crate::nvme::{Devices, NvmePlan, OpenFailure, PlanError};
use crate::readiness::Readiness;
use crate::remote::{RemoteTier, RemoteTierError};

/// Most bytes of descriptors of namespaces and sessions.
const NAMES_BYTES_MAX: usize = 16 << 20;
/// How often prefaulting says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// A tenant before its thread runs.
#[derive(Debug)]
pub(crate) struct Tenant {
    /// How it is configured.
    pub(crate) config: TenantConfig,
    /// Its memory.
    pub(crate) region: Region,
    /// What decides about it.
    pub(crate) engine: Engine,
    /// How its share of each NVMe directory is divided.
    pub(crate) layout: Option<NvmeLayout>,
    /// Its NVMe devices, which load already.
    pub(crate) devices: Devices,
    /// Its remote tier, if there is one.
    pub(crate) remote: RemoteTier,
    /// The way to its engine thread, and the thread's end of it.
    pub(crate) queue: (CommandSender, CommandReceiver),
}

/// Why a tenant cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TenantError {
    /// There is no region.
    #[error("tenant {tenant}: no region")]
    Region {
        /// Whose.
        tenant: String,
        /// Why not.
        source: RegionError,
    },
    /// Huge pages are required and there are none.
    #[error("tenant {tenant}: host.huge-pages is \"require\" and the region has small pages")]
    HugePages {
        /// Whose.
        tenant: String,
        /// Why.
        source: RegionError,
    },
    /// The memory is not there.
    #[error("tenant {tenant}: could not take all memory; lower its capacity or free memory")]
    Prefault {
        /// Whose.
        tenant: String,
        /// Why not.
        source: PrefaultError,
    },
    /// The engine does not like its configuration.
    #[error("tenant {tenant}: no engine")]
    Engine {
        /// Whose.
        tenant: String,
        /// Why not.
        source: ConfigError,
    },
    /// What is on the NVMe devices does not go together with the configuration.
    #[error("tenant {tenant}")]
    NvmePlan {
        /// Whose.
        tenant: String,
        /// Why not.
        source: PlanError,
    },
    /// An NVMe device cannot be used as it is configured.
    #[error("tenant {tenant}")]
    Nvme {
        /// Whose.
        tenant: String,
        /// Why not.
        source: OpenFailure,
    },
    /// Another daemon has one of its NVMe directories.
    #[error("tenant {tenant}: nvme.directories")]
    InUse {
        /// Whose.
        tenant: String,
        /// Who has it.
        source: OpenError,
    },
    /// The remote tier cannot be used as it is configured.
    #[error("tenant {tenant}")]
    Remote {
        /// Whose.
        tenant: String,
        /// Why not.
        source: RemoteTierError,
    },
    /// The system refused something small.
    #[error("tenant {tenant}: no command queue")]
    Queue {
        /// Whose.
        tenant: String,
        /// Why not.
        source: io::Error,
    },
}

impl TenantError {
    /// What the daemon exits with.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Region { .. }
            | Self::HugePages { .. }
            | Self::Prefault { .. }
            | Self::Engine { .. }
            | Self::Queue { .. } => Exit::System,
            Self::NvmePlan { .. } => Exit::DoesNotFit,
            Self::InUse { .. } | Self::Nvme { .. } | Self::Remote { .. } => Exit::CannotServe,
        }
    }
}

impl Tenant {
    /// Makes the region, takes its memory, makes the engine and opens the NVMe devices. Gives up, with an error that nobody needs to see, soon
    /// after `stop` has become true.
    pub(crate) fn create(
        config: &Config,
        tenant: &TenantConfig,
        boot_epoch: BootEpoch,
        stop: &AtomicBool,
        readiness: &Readiness,
    ) -> Result<Self, TenantError> {
        readiness.wait_for(format!("memory of tenant {}", tenant.name));
        let name = || tenant.name.clone();
        let region = create_region(config, tenant, boot_epoch)?;
        if config.host.prefault == Prefault::Start {
            prefault(&region, &tenant.name, stop, readiness).map_err(|source| TenantError::Prefault {
                tenant: name(),
                source,
            })?;
        }
        let plan = NvmePlan::new(config, tenant).map_err(|source| TenantError::NvmePlan {
            tenant: name(),
            source,
        })?;
        let mut engine_config = engine_config(config, tenant, &region);
        if let Some(plan) = &plan {
            engine_config.nvme = Some(plan.engine.clone());
            // What the engine knows of namespaces, each device has to keep.
            let kept = names_bytes_of(plan.layout.catalogue_bytes_max);
            engine_config.descriptor_bytes_max =
                usize::try_from(kept).map_or(NAMES_BYTES_MAX, |kept| kept.min(NAMES_BYTES_MAX));
        }
        engine_config.remote = crate::remote::engine_config(config, tenant);
        let header_bytes = engine_config.slot_header_bytes();
        let engine = Engine::new(engine_config).map_err(|source| TenantError::Engine {
            tenant: name(),
            source,
        })?;
        let queue = command_queue().map_err(|source| TenantError::Queue {
            tenant: name(),
            source,
        })?;
        if plan.is_some() {
            readiness.wait_for(format!("NVMe directories of tenant {} to be opened", tenant.name));
        }
        let devices = match &plan {
            Some(plan) => Devices::open(config, tenant, plan, (region.file(), region.bytes()), &queue.0)
                .map_err(|source| TenantError::Nvme {
                    tenant: name(),
                    source,
                })?,
            None => Devices::default(),
        };
        let remote = RemoteTier::open(config, tenant, (&region, header_bytes), boot_epoch, &queue.0)
            .map_err(|source| TenantError::Remote {
                tenant: name(),
                source,
            })?;
        Ok(Self {
            remote,
            config: tenant.clone(),
            region,
            engine,
            layout: plan.map(|plan| plan.layout),
            devices,
            queue,
        })
    }
}

fn engine_config(config: &Config, tenant: &TenantConfig, region: &Region) -> EngineConfig {
    EngineConfig {
        region_bytes: region.bytes(),
        header_bytes: region.header_bytes(),
        arena_bytes: tenant.arena_bytes(&config.host),
        policy: config.host.policy,
        watermark_low: config.host.watermark_low,
        watermark_high: config.host.watermark_high,
        // Not the boot epoch: that one clients know.
        seed: RandomState::new().build_hasher().finish(),
        sessions_max: config.limits.sessions,
        holds_per_session_max: config.limits.holds,
        operations_per_session_max: config.limits.operations,
        descriptor_bytes_max: NAMES_BYTES_MAX,
        keep_share: config.pin_share,
        nvme: None,
        remote: None,
    }
}

fn create_region(
    config: &Config,
    tenant: &TenantConfig,
    boot_epoch: BootEpoch,
) -> Result<Region, TenantError> {
    let huge_pages = match config.host.huge_pages {
        HugePages::Never => connector_shm::HugePages::Off,
        HugePages::Try | HugePages::Require => connector_shm::HugePages::Try,
    };
    let spec = RegionSpec {
        bytes: region_bytes(config, tenant),
        huge_pages,
        boot_epoch,
        tenant: &tenant.name,
    };
    let name = || tenant.name.clone();
    let created = Region::create(&spec).map_err(|source| TenantError::Region {
        tenant: name(),
        source,
    })?;
    match created.huge_pages_missing {
        Some(source) if config.host.huge_pages == HugePages::Require => {
            return Err(TenantError::HugePages {
                tenant: name(),
                source,
            });
        }
        Some(source) => {
            let cause = error_chain(&source);
            warn!(
                tenant = tenant.name,
                cause, "no huge pages: the region has pages of 4 KiB"
            );
        }
        None => {}
    }
    Ok(created.region)
}

/// Touches all memory with as many threads as there are processors, up to 16: the kernel clears pages no faster
/// with more.
fn prefault(
    region: &Region,
    tenant: &str,
    stop: &AtomicBool,
    readiness: &Readiness,
) -> Result<(), PrefaultError> {
    let threads = std::thread::available_parallelism()
        .unwrap_or(NonZeroUsize::MIN)
        .min(THREADS_MAX);
    let (bytes, began) = (region.bytes(), Instant::now());
    let said = Mutex::new(began);
    let progress = |touched: u64| {
        // A thread that finds another one talking has nothing to add.
        if let Ok(mut said) = said.try_lock()
            && said.elapsed() >= PROGRESS_EVERY
        {
            *said = Instant::now();
            let percent = touched * 100 / bytes.max(1);
            readiness.wait_for(format!("memory of tenant {tenant}: {percent} % taken"));
            info!(
                tenant,
                percent,
                touched = format_size(touched),
                of = format_size(bytes),
                "taking memory"
            );
        }
        if stop.load(Ordering::Relaxed) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    region.prefault(&connector_shm::Prefault {
        threads,
        progress: &progress,
    })?;
    let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    info!(
        tenant,
        bytes = format_size(bytes),
        page_bytes = region.page_bytes(),
        threads,
        duration_ms,
        "memory taken"
    );
    Ok(())
}

const THREADS_MAX: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// An error with everything that caused it, in one line.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let shown = cause.to_string();
        // A transparent error shows its source's text already.
        if !text.ends_with(&shown) {
            text.push_str(": ");
            text.push_str(&shown);
        }
        next = cause.source();
    }
    text
}
