//! What a tenant's NVMe tier will be, before anything is opened.

use std::path::PathBuf;

use kvstore_engine::NvmeConfig;
use kvstore_nvme::segment_bytes_of;
use tracing::{info, warn};

use crate::config::{Config, NvmeLayout, TenantConfig, format_size};

/// Least bytes of writes under way at a device, if memory is not short.
const WRITE_BYTES: u64 = 64 << 20;
/// Blocks that may wait to be written.
const WRITE_QUEUE_MAX: usize = 65_536;

/// One tenant's NVMe tier.
#[derive(Clone, Debug)]
pub(crate) struct NvmePlan {
    /// The tenant's own directory on each device.
    pub(crate) directories: Vec<PathBuf>,
    /// How its share of each is divided.
    pub(crate) layout: NvmeLayout,
    /// What its engine has to know.
    pub(crate) engine: NvmeConfig,
}

/// Why there cannot be one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// What is on disk and what is configured do not go together.
    #[error("nvme.capacity: with the segments that the directories have, {0}")]
    Layout(String),
    /// A directory has segments of another size than the one that is configured.
    #[error(
        "nvme.segment-bytes: {} has segments of {found}B, got {wanted}B; set it to \"{found}B\" or \"auto\", or empty the \
         directory",
        directory.display()
    )]
    SegmentBytes {
        /// The tenant's directory.
        directory: PathBuf,
        /// The size they have.
        found: u64,
        /// The size in the configuration.
        wanted: u64,
    },
}

impl NvmePlan {
    /// Looks at what the directories have and divides the tenant's share; none if there are no directories.
    pub(crate) fn new(config: &Config, tenant: &TenantConfig) -> Result<Option<Self>, PlanError> {
        let nvme = &config.nvme;
        if nvme.directories.is_empty() {
            return Ok(None);
        }
        let directories: Vec<PathBuf> = nvme
            .directories
            .iter()
            .map(|path| path.join(&tenant.name))
            .collect();
        let existing = match nvme.segment_bytes {
            Some(wanted) => {
                check_segment_bytes(&directories, wanted)?;
                None
            }
            None => existing_segment_bytes(&directories),
        };
        let layout = NvmeLayout::new(tenant, config, existing);
        if let Some(text) = layout.problem() {
            return Err(PlanError::Layout(text));
        }
        say(tenant, config, &layout);
        let block_bytes_max = tenant.arena_bytes(&config.host);
        let engine = NvmeConfig {
            device_count: u8::try_from(directories.len()).unwrap_or(u8::MAX),
            segment_bytes: layout.segment_bytes,
            tuning: nvme.tuning(&layout),
            promotion_deadline: nvme.promotion_deadline,
            promotion_bytes_max: tenant.capacity_bytes / 2,
            write_bytes_max: WRITE_BYTES
                .max(2 * block_bytes_max)
                .min(tenant.capacity_bytes / 4),
            write_queue_max: WRITE_QUEUE_MAX,
        };
        Ok(Some(Self {
            directories,
            layout,
            engine,
        }))
    }
}

/// The size of the segments that most of the directories have already.
fn existing_segment_bytes(directories: &[PathBuf]) -> Option<u64> {
    let sizes: Vec<u64> = directories
        .iter()
        .filter_map(|path| segment_bytes_of(path))
        .collect();
    let count = |size: &u64| sizes.iter().filter(|other| *other == size).count();
    sizes.iter().max_by_key(|size| (count(size), **size)).copied()
}

fn check_segment_bytes(directories: &[PathBuf], wanted: u64) -> Result<(), PlanError> {
    for directory in directories {
        if let Some(found) = segment_bytes_of(directory).filter(|found| *found != wanted) {
            return Err(PlanError::SegmentBytes {
                directory: directory.clone(),
                found,
                wanted,
            });
        }
    }
    Ok(())
}

fn say(tenant: &TenantConfig, config: &Config, layout: &NvmeLayout) {
    let arena_bytes = tenant.arena_bytes(&config.host);
    let block_bytes_max = layout.segment_bytes.saturating_sub(2 * kvstore_types::PAGE_BYTES);
    if block_bytes_max < arena_bytes {
        warn!(
            tenant = tenant.name,
            segment = format_size(layout.segment_bytes),
            arena = format_size(arena_bytes),
            "the segments that the directories have are smaller than the largest blocks, which will not be written"
        );
    }
    info!(
        tenant = tenant.name,
        directories = config.nvme.directories.len(),
        share = format_size(layout.share_bytes),
        segment_bytes = layout.segment_bytes,
        segments_max = layout.segments_max,
        catalogue = format_size(layout.catalogue_bytes_max),
        "NVMe tier"
    );
}
