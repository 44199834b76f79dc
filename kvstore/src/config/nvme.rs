//! The NVMe tier's settings, and how a directory's capacity becomes segments.

use std::path::PathBuf;
use std::time::Duration;

use kvstore_engine::{Admission, NvmeTuning};
use kvstore_nvme::{Direct, IoEngine};
use kvstore_types::PAGE_BYTES;

use super::units::format_size;
use super::{Config, TenantConfig};

/// Least bytes of a tenant in a directory.
pub(super) const NVME_CAPACITY_BYTES_MIN: u64 = 64 << 20;
/// Most bytes in a directory.
pub(super) const NVME_CAPACITY_BYTES_MAX: u64 = 64 << 40;
/// Smallest segment that can be asked for; the arenas usually ask for more.
pub(super) const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// Largest segment: one of the largest arena's blocks fits.
pub(super) const SEGMENT_BYTES_MAX: u64 = 32 << 30;
/// Least bytes per second that a rate may be.
pub(super) const RATE_MIN: u64 = 64 << 10;
/// Most bytes per second that a rate may be.
pub(super) const RATE_MAX: u64 = 1 << 40;

/// Directories of one daemon: each has two threads for each tenant.
const DIRECTORIES_MAX: usize = 32;
/// Fewer could not be written, reclaimed and carried over at the same time.
const SEGMENTS_MIN: u64 = 4;
/// Each is a file.
const SEGMENTS_MAX: u64 = 1 << 16;
/// Beside a segment's own header a block has one.
const HEADERS_BYTES: u64 = 2 * PAGE_BYTES;
/// What a catalogue needs to be of use: 16 MiB, and 4 MiB for the files of namespaces.
const CATALOGUE_BYTES_MIN: u64 = 20 << 20;

/// The NVMe tier.
#[derive(Clone, Debug, PartialEq)]
pub struct NvmeConfig {
    /// One for each device; none: there is no NVMe tier.
    pub directories: Vec<PathBuf>,
    /// Bytes on disk in each directory, of all tenants together.
    pub capacity_bytes: u64,
    /// Bytes of each segment; none: what the directories have, or chosen from the capacity.
    pub segment_bytes: Option<u64>,
    /// How to read and write.
    pub io: IoEngine,
    /// Whether to pass the page cache by.
    pub direct: Direct,
    /// Reads and writes under way at a time.
    pub depth: u32,
    /// Which blocks are written.
    pub admission: Admission,
    /// Most bytes written per second, tenant and directory; none: no limit.
    pub write_rate: Option<u64>,
    /// Reclaiming stops here (fraction of the segments).
    pub watermark_low: f64,
    /// Reclaiming starts here (fraction of the segments).
    pub watermark_high: f64,
    /// How long a look-up waits for blocks on their way into memory.
    pub promotion_deadline: Duration,
    /// Bytes verified per second, tenant and directory; none: no scrubbing.
    pub scrub_rate: Option<u64>,
}

impl Default for NvmeConfig {
    fn default() -> Self {
        Self {
            directories: Vec::new(),
            capacity_bytes: 10 << 30,
            segment_bytes: None,
            io: IoEngine::Auto,
            direct: Direct::Auto,
            depth: 32,
            admission: Admission::All,
            write_rate: None,
            watermark_low: 0.9,
            watermark_high: 0.95,
            promotion_deadline: Duration::from_secs(1),
            scrub_rate: None,
        }
    }
}

/// How one tenant's share of a directory is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NvmeLayout {
    /// The share.
    pub share_bytes: u64,
    /// Most bytes of everything that is not a segment.
    pub catalogue_bytes_max: u64,
    /// Size of each segment.
    pub segment_bytes: u64,
    /// Most segments.
    pub segments_max: u32,
}

impl NvmeLayout {
    /// Divides a share. `segment_bytes`: what they are already, if anything.
    pub fn new(tenant: &TenantConfig, config: &Config, segment_bytes: Option<u64>) -> Self {
        let share_bytes = tenant.nvme_share_bytes(config);
        let segment_bytes = segment_bytes
            .or(config.nvme.segment_bytes)
            .unwrap_or_else(|| chosen_segment_bytes(share_bytes, tenant.arena_bytes(&config.host)));
        Self::with_catalogue(share_bytes, catalogue_bytes_of(share_bytes), segment_bytes)
    }

    /// The same segments and catalogue in a share of another size.
    #[must_use]
    pub fn resized(&self, share_bytes: u64) -> Self {
        Self::with_catalogue(share_bytes, self.catalogue_bytes_max, self.segment_bytes)
    }

    fn with_catalogue(share_bytes: u64, catalogue_bytes_max: u64, segment_bytes: u64) -> Self {
        let segments = share_bytes.saturating_sub(catalogue_bytes_max) / segment_bytes.max(1);
        Self {
            share_bytes,
            catalogue_bytes_max,
            segment_bytes,
            segments_max: u32::try_from(segments).unwrap_or(u32::MAX),
        }
    }

    /// What is wrong with it, if anything, with what would help.
    pub fn problem(&self) -> Option<String> {
        let (segments, segment_bytes) = (u64::from(self.segments_max), self.segment_bytes);
        if segments < SEGMENTS_MIN {
            let needed = SEGMENTS_MIN * segment_bytes + self.catalogue_bytes_max;
            return Some(format!(
                "want room for at least {SEGMENTS_MIN} segments of {} beside the catalogue's {}, at least {} for each \
                 tenant, got {}",
                format_size(segment_bytes),
                format_size(self.catalogue_bytes_max),
                format_size(needed.next_multiple_of(1 << 20)),
                format_size(self.share_bytes)
            ));
        }
        (segments > SEGMENTS_MAX).then(|| {
            format!(
                "want at most {SEGMENTS_MAX} segments for each tenant, got {segments} of {}; set nvme.segment-bytes to \
                 at least {}",
                format_size(segment_bytes),
                format_size((self.share_bytes / SEGMENTS_MAX).next_multiple_of(1 << 20))
            )
        })
    }
}

/// What of a share is not for segments.
pub(crate) fn catalogue_bytes_of(share_bytes: u64) -> u64 {
    (share_bytes / 32).max(CATALOGUE_BYTES_MIN)
}

fn chosen_segment_bytes(share_bytes: u64, arena_bytes: u64) -> u64 {
    let part = (share_bytes / 64).clamp(4 << 20, 1 << 30);
    part.max(least_segment_bytes(arena_bytes)) / PAGE_BYTES * PAGE_BYTES
}

/// No block is larger than an arena.
fn least_segment_bytes(arena_bytes: u64) -> u64 {
    arena_bytes + HEADERS_BYTES
}

impl NvmeConfig {
    /// The settings that can change while the tier runs.
    pub fn tuning(&self, layout: &NvmeLayout) -> NvmeTuning {
        NvmeTuning {
            segments_max: layout.segments_max,
            watermark_low: self.watermark_low,
            watermark_high: self.watermark_high,
            admission: self.admission,
            write_rate: self.write_rate,
            scrub_rate: self.scrub_rate,
        }
    }
}

impl TenantConfig {
    /// Bytes it may use in each NVMe directory.
    pub fn nvme_share_bytes(&self, config: &Config) -> u64 {
        self.nvme_capacity_bytes.unwrap_or_else(|| {
            let own: u64 = config
                .tenants
                .iter()
                .filter_map(|tenant| tenant.nvme_capacity_bytes)
                .sum();
            let others = config
                .tenants
                .iter()
                .filter(|tenant| tenant.nvme_capacity_bytes.is_none())
                .count();
            let left = config.nvme.capacity_bytes.saturating_sub(own) / others.max(1) as u64;
            left / PAGE_BYTES * PAGE_BYTES
        })
    }
}

/// What only shows when several keys are seen together: keys and what is wrong.
pub(super) fn check(config: &Config) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    let mut problem = |key: &str, text: String| problems.push((key.to_owned(), text));
    let nvme = &config.nvme;
    let (low, high) = (nvme.watermark_low, nvme.watermark_high);
    if !(0.0 < low && low < high && high <= 1.0) {
        problem(
            "nvme.watermark-low",
            format!("want 0 < low < high <= 1, got low {low} high {high}"),
        );
    }
    if let Some(bytes) = nvme
        .segment_bytes
        .filter(|bytes| !bytes.is_multiple_of(PAGE_BYTES))
    {
        problem(
            "nvme.segment-bytes",
            format!("want a multiple of 4KiB, got {bytes}B"),
        );
    }
    if nvme.directories.is_empty() {
        return problems;
    }
    if nvme.directories.len() > DIRECTORIES_MAX {
        let text = format!(
            "want at most {DIRECTORIES_MAX} directories, got {}",
            nvme.directories.len()
        );
        problem("nvme.directories", text);
    }
    for (index, one) in nvme.directories.iter().enumerate() {
        for other in &nvme.directories[index + 1..] {
            if one == other {
                problem(
                    "nvme.directories",
                    format!("want each directory once, got {} twice", one.display()),
                );
            } else if one.starts_with(other) || other.starts_with(one) {
                let text = format!(
                    "want no directory inside another, got {} and {}",
                    one.display(),
                    other.display()
                );
                problem("nvme.directories", text);
            }
        }
    }
    check_shares(config, &mut problem);
    // Tenants with equal shares have equal problems.
    problems.dedup();
    problems
}

fn check_shares(config: &Config, problem: &mut impl FnMut(&str, String)) {
    let own: u64 = config
        .tenants
        .iter()
        .filter_map(|tenant| tenant.nvme_capacity_bytes)
        .sum();
    if own > config.nvme.capacity_bytes {
        let text = format!(
            "want at least {}, which the tenants' nvme-capacity come to, got {}",
            format_size(own),
            format_size(config.nvme.capacity_bytes)
        );
        // Whatever the others would say follows from this.
        return problem("nvme.capacity", text);
    }
    for tenant in &config.tenants {
        let key = match tenant.nvme_capacity_bytes {
            Some(_) => format!("tenant.{}.nvme-capacity", tenant.name),
            None => "nvme.capacity".to_owned(),
        };
        let least = least_segment_bytes(tenant.arena_bytes(&config.host));
        if let Some(bytes) = config.nvme.segment_bytes.filter(|bytes| *bytes < least) {
            let text = format!(
                "want at least {least}B, so that a block as large as an arena of tenant {} fits, got {}; or lower \
                 host.arena-bytes",
                tenant.name,
                format_size(bytes)
            );
            problem("nvme.segment-bytes", text);
        }
        if let Some(text) = NvmeLayout::new(tenant, config, None).problem() {
            problem(&key, text);
        }
    }
}
