//! Whether what is configured fits the machine, before anything is touched.

mod process;

use tracing::warn;

use crate::config::{
    CAPACITY_BYTES_MIN, Config, HugePages, NvmeLayout, Prefault, RING_BYTES_MIN, RemoteKind, TenantConfig,
    format_size,
};
use crate::machine::{HUGE_PAGE_BYTES, Machine};

/// Memory the daemon itself needs beside the regions and rings: code, threads and log.
const OVERHEAD_BYTES: u64 = 48 << 20;
/// What a tenant's engine keeps of its clients' descriptors, at most.
const TENANT_OVERHEAD_BYTES: u64 = 16 << 20;
/// What the engine keeps of each block, at most.
const INDEX_BYTES_PER_BLOCK: u64 = 160;
/// A guess at the size of a block for the estimate above: real ones are seldom smaller.
const BLOCK_BYTES_GUESS: u64 = 64 << 10;

/// What one NVMe device of one tenant takes: its catalogue's memory and buffers of its own.
const DEVICE_OVERHEAD_BYTES: u64 = 48 << 20;
/// A guess at the size of a block on NVMe, of which there are many more: only an engine with large ones fills a device.
const NVME_BLOCK_BYTES_GUESS: u64 = 512 << 10;
/// What is kept of a block that is in the remote tier and nowhere else, at most.
const REMOTE_RECORD_BYTES: u64 = 200;
/// Open files of one NVMe device of one tenant beside its segments: catalogue, superblock, lock and rings.
const DEVICE_DESCRIPTORS: u64 = 160;

/// Open files of one session: its socket, its process and its doorbell. Its rings are mapped, not open.
const SESSION_DESCRIPTORS: u64 = 3;
/// Open files of one handshake, at most: those of the session to be, the client's, and one that is being passed on.
const HANDSHAKE_DESCRIPTORS: u64 = 8;
/// Open files of one tenant: its region, its thread's doors to sleep at.
const TENANT_DESCRIPTORS: u64 = 4;
/// Open files of the daemon itself, with room to spare.
const OWN_DESCRIPTORS: u64 = 64;

/// Something that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// The regions and rings are larger than the memory that is left.
    #[error(
        "{key}: {wanted} do not fit beside {rings} of rings (limits.ring-bytes) and {overhead} of the daemon's own: \
         {available} available ({source_name}); {advice}{remedy}",
        wanted = format_size(*wanted_bytes),
        rings = format_size(*rings_bytes),
        overhead = format_size(*overhead_bytes),
        available = format_size(*available_bytes)
    )]
    Memory {
        /// The key that decides about most.
        key: String,
        /// What is configured, for all tenants.
        wanted_bytes: u64,
        /// What all tenants' rings may take.
        rings_bytes: u64,
        /// What the daemon itself takes.
        overhead_bytes: u64,
        /// What is left.
        available_bytes: u64,
        /// Where that was found.
        source_name: String,
        /// What could be configured instead, ending in ", or " unless there is nothing.
        advice: String,
        /// What else would help.
        remedy: &'static str,
    },
    /// A region is larger than a file may be.
    #[error(
        "{key}: a region of {wanted} is a file in memory, and RLIMIT_FSIZE allows files of {limit}; raise it \
         (ulimit -f unlimited) or lower {key}",
        wanted = format_size(*wanted_bytes),
        limit = format_size(*limit_bytes)
    )]
    FileSize {
        /// The key that decides about the largest region.
        key: String,
        /// Bytes of that region.
        wanted_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A segment is larger than a file may be.
    #[error(
        "nvme.segment-bytes: a segment of {wanted} is a file, and RLIMIT_FSIZE allows files of {limit}; raise it \
         (ulimit -f unlimited) or lower nvme.segment-bytes",
        wanted = format_size(*wanted_bytes),
        limit = format_size(*limit_bytes)
    )]
    SegmentFile {
        /// Bytes of the segment.
        wanted_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The process may not map or allocate what it will need.
    #[error(
        "{name} allows {limit} and this configuration needs up to {wanted}; raise it (ulimit {option} unlimited, or the service's \
         limit), or lower host.capacity, limits.ring-bytes or nvme.capacity",
        wanted = format_size(*wanted_bytes),
        limit = format_size(*limit_bytes)
    )]
    Process {
        /// The limit's name.
        name: &'static str,
        /// What names it to a shell's `ulimit`.
        option: &'static str,
        /// What is needed at most.
        wanted_bytes: u64,
        /// What is allowed.
        limit_bytes: u64,
    },
    /// There are too few huge pages.
    #[error(
        "host.huge-pages: \"require\" needs {wanted} free huge pages of 2MiB, {free} are free; reserve them \
         (sysctl vm.nr_hugepages, or the container's hugepages-2Mi limit), lower {key}, or set \"try\""
    )]
    HugePages {
        /// The key that would need fewer.
        key: String,
        /// How many are needed.
        wanted: u64,
        /// How many there are.
        free: u64,
    },
}

/// What fits, with what is worth a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Bytes of all regions.
    pub regions_bytes: u64,
    /// Bytes the rings of all tenants' sessions may take.
    pub rings_bytes: u64,
    /// Bytes left below the tightest bound, if any is known.
    pub available_bytes: Option<u64>,
    /// What will hurt later.
    pub warnings: Vec<String>,
    /// Remarks for the log.
    pub remarks: Vec<String>,
}

/// Bytes of a tenant's region: whole arenas, with one page for the header in front.
pub fn region_bytes(config: &Config, tenant: &TenantConfig) -> u64 {
    let arenas = tenant.arena_count(&config.host) * tenant.arena_bytes(&config.host);
    arenas + header_bytes(config.host.huge_pages)
}

/// Bytes in front of the first arena. Where huge pages may be used the header has one of its own.
pub fn header_bytes(huge_pages: HugePages) -> u64 {
    match huge_pages {
        HugePages::Never => kvstore_types::PAGE_BYTES,
        HugePages::Try | HugePages::Require => HUGE_PAGE_BYTES,
    }
}

/// Compares the configuration with the machine.
pub fn check(config: &Config, machine: &Machine) -> Result<Fit, LimitError> {
    let regions_bytes: u64 = config
        .tenants
        .iter()
        .map(|tenant| region_bytes(config, tenant))
        .sum();
    check_file_size(config, machine)?;
    let tenant_count = config.tenants.len() as u64;
    let rings_bytes = config.limits.ring_bytes.saturating_mul(tenant_count);
    let overhead_bytes =
        OVERHEAD_BYTES + TENANT_OVERHEAD_BYTES * tenant_count + nvme_bytes(config) + remote_bytes(config);
    let index_bytes = regions_bytes / BLOCK_BYTES_GUESS * INDEX_BYTES_PER_BLOCK;
    let own_bytes = overhead_bytes
        .saturating_add(index_bytes)
        .saturating_add(rings_bytes);
    let needs = process::Needs {
        regions: regions_bytes,
        rings: rings_bytes,
        own: overhead_bytes.saturating_add(index_bytes),
    };
    process::check(config, machine, needs)?;
    let mut remarks = Vec::new();
    let in_huge_pages = fits_huge_pages(config, machine, regions_bytes, &mut remarks)?;
    // Reserved huge pages are not part of the memory that is available otherwise.
    let wanted_bytes = if in_huge_pages {
        own_bytes
    } else {
        regions_bytes.saturating_add(own_bytes)
    };
    let tightest = machine.tightest();
    let mut warnings = Vec::new();
    if let Some(headroom) = tightest.filter(|headroom| headroom.bytes < wanted_bytes) {
        let error = LimitError::Memory {
            key: key(config),
            wanted_bytes: config.tenants.iter().map(|tenant| tenant.capacity_bytes).sum(),
            rings_bytes,
            overhead_bytes,
            available_bytes: headroom.bytes,
            source_name: headroom.source.clone(),
            advice: advice(
                config,
                headroom.bytes.saturating_sub(overhead_bytes),
                in_huge_pages,
            ),
            remedy: headroom.remedy,
        };
        match config.host.prefault {
            Prefault::Start => return Err(error),
            // Whoever takes memory page by page has asked for more than there is now to be allowed.
            Prefault::Lazy => warnings.push(error.to_string()),
        }
    }
    if let Some(memlock) = machine.memlock_bytes.filter(|memlock| *memlock < regions_bytes) {
        let own = if config.nvme.directories.is_empty() {
            "this daemon pins nothing"
        } else if machine.memlock_exempt {
            "this daemon is not bound by it (CAP_IPC_LOCK)"
        } else {
            "this daemon may register no more than that for NVMe, and the rest costs it more processor time"
        };
        remarks.push(format!(
            "RLIMIT_MEMLOCK is {} here: {own}, but a client that pins the region needs {}",
            format_size(memlock),
            format_size(regions_bytes)
        ));
    }
    Ok(Fit {
        warnings,
        regions_bytes,
        rings_bytes,
        available_bytes: tightest.map(|headroom| headroom.bytes),
        remarks,
    })
}

/// Memory that the NVMe tier takes: for each block on a device the engine keeps a record.
fn nvme_bytes(config: &Config) -> u64 {
    let directories = config.nvme.directories.len() as u64;
    let devices = directories * config.tenants.len() as u64;
    let blocks = directories.saturating_mul(config.nvme.capacity_bytes) / NVME_BLOCK_BYTES_GUESS;
    devices * DEVICE_OVERHEAD_BYTES + blocks * INDEX_BYTES_PER_BLOCK
}

/// The remote tier's buffers, as blocks pass through memory of their own, and its records, at most.
fn remote_bytes(config: &Config) -> u64 {
    if config.remote.kind == RemoteKind::None {
        return 0;
    }
    let buffers = config.remote.read_bytes.saturating_add(config.remote.write_bytes);
    let records = config.remote.known_blocks as u64 * REMOTE_RECORD_BYTES;
    buffers
        .saturating_add(records)
        .saturating_mul(config.tenants.len() as u64)
}

/// Open files that the NVMe tier takes, at most.
fn nvme_descriptors(config: &Config) -> u64 {
    let segments: u64 = config
        .tenants
        .iter()
        .map(|tenant| u64::from(NvmeLayout::new(tenant, config, None).segments_max))
        .sum();
    let tenants = config.tenants.len() as u64;
    config.nvme.directories.len() as u64 * (segments + tenants * DEVICE_DESCRIPTORS)
}

fn check_file_size(config: &Config, machine: &Machine) -> Result<(), LimitError> {
    let regions = config.tenants.iter().map(|tenant| region_bytes(config, tenant));
    let (Some(wanted_bytes), Some(limit_bytes)) = (regions.max(), machine.file_bytes) else {
        return Ok(());
    };
    let segments = config
        .tenants
        .iter()
        .map(|tenant| NvmeLayout::new(tenant, config, None).segment_bytes);
    if let Some(segment_bytes) = segments.max().filter(|bytes| *bytes > limit_bytes)
        && !config.nvme.directories.is_empty()
    {
        return Err(LimitError::SegmentFile {
            wanted_bytes: segment_bytes,
            limit_bytes,
        });
    }
    if wanted_bytes <= limit_bytes {
        return Ok(());
    }
    Err(LimitError::FileSize {
        key: key(config),
        wanted_bytes,
        limit_bytes,
    })
}

/// Whether the regions will be made of reserved huge pages.
fn fits_huge_pages(
    config: &Config,
    machine: &Machine,
    regions_bytes: u64,
    remarks: &mut Vec<String>,
) -> Result<bool, LimitError> {
    let fits = machine.huge_pages_free * HUGE_PAGE_BYTES >= regions_bytes;
    let (wanted, free) = (regions_bytes / HUGE_PAGE_BYTES, machine.huge_pages_free);
    match config.host.huge_pages {
        HugePages::Never => Ok(false),
        HugePages::Try => {
            if !fits {
                remarks.push(format!(
                    "host.huge-pages: {free} huge pages are free, {wanted} are needed for all regions"
                ));
            }
            Ok(fits)
        }
        HugePages::Require if fits => Ok(true),
        HugePages::Require => Err(LimitError::HugePages {
            key: key(config),
            wanted,
            free,
        }),
    }
}

/// What each of the two keys would have to be for everything to fit into `left_bytes`: one of them alone if that
/// helps, else both.
fn advice(config: &Config, left_bytes: u64, in_huge_pages: bool) -> String {
    let (capacity_key, tenant_count) = (key(config), config.tenants.len() as u64);
    let rings_bytes = config.limits.ring_bytes.saturating_mul(tenant_count);
    let regions_bytes: u64 = config
        .tenants
        .iter()
        .map(|tenant| region_bytes(config, tenant))
        .sum();
    let index_bytes = regions_bytes / BLOCK_BYTES_GUESS * INDEX_BYTES_PER_BLOCK;
    // Memory of the huge pages is not part of what is left.
    let fixed_bytes = if in_huge_pages {
        index_bytes
    } else {
        regions_bytes + index_bytes
    };
    let capacity = |left| possible_capacity(config, left).filter(|_| !in_huge_pages);
    let rings = |left: u64| Some(round(left / tenant_count)).filter(|bytes| *bytes >= RING_BYTES_MIN);
    let say = |key: &str, bytes: u64| format!("{key} to at most {}", format_size(bytes));
    let alone: Vec<String> = [
        capacity(left_bytes.saturating_sub(rings_bytes)).map(|bytes| say(&capacity_key, bytes)),
        rings(left_bytes.saturating_sub(fixed_bytes)).map(|bytes| say("limits.ring-bytes", bytes)),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !alone.is_empty() {
        return format!("lower {}, or ", alone.join(", or "));
    }
    // A quarter for the rings leaves room for a few engines beside a region that is worth having.
    let quarter = (left_bytes / 4).min(rings_bytes);
    match (capacity(left_bytes - quarter), rings(quarter)) {
        (Some(bytes), Some(ring_bytes)) => format!(
            "lower {} and {}, or ",
            say(&capacity_key, bytes),
            say("limits.ring-bytes", ring_bytes)
        ),
        _ => String::new(),
    }
}

/// The most that the key of [`key`] could be if all regions may have this much memory and the other tenants keep what
/// they have; none if it would have to be less than a tenant may have.
fn possible_capacity(config: &Config, left_bytes: u64) -> Option<u64> {
    let index = left_bytes / (BLOCK_BYTES_GUESS / INDEX_BYTES_PER_BLOCK);
    let headers = header_bytes(config.host.huge_pages) * config.tenants.len() as u64;
    let changed = |tenant: &&TenantConfig| match key(config).strip_prefix("tenant.") {
        Some(name) => name.strip_suffix(".capacity") == Some(tenant.name.as_str()),
        None => tenant.capacity_bytes == config.host.capacity_bytes,
    };
    let others: u64 = config
        .tenants
        .iter()
        .filter(|tenant| !changed(tenant))
        .map(|tenant| tenant.capacity_bytes)
        .sum();
    let count = config.tenants.iter().filter(changed).count().max(1) as u64;
    let each = left_bytes.checked_sub(index + headers + others)? / count;
    Some(round(each)).filter(|bytes| *bytes >= CAPACITY_BYTES_MIN)
}

/// The usual soft limit is low for historical reasons only: it is raised to the hard one, and that is compared with
/// what all clients together may take.
pub(crate) fn check_descriptors(config: &Config) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(cause) = setrlimit(Resource::Nofile, limit) {
            warn!(%cause, "could not raise the limit on open files");
        }
    }
    if let Some(warning) = descriptor_warning(config, getrlimit(Resource::Nofile).current) {
        warn!("{warning}");
    }
}

/// What to say if clients within their limits could exhaust the open files, of which there may be `limit`.
pub fn descriptor_warning(config: &Config, limit: Option<u64>) -> Option<String> {
    let tenants = config.tenants.len() as u64;
    let handshakes = config.limits.handshakes as u64 * HANDSHAKE_DESCRIPTORS;
    // A process that hung up costs one as well, and there may be as many as sessions.
    let per_session = SESSION_DESCRIPTORS + 1;
    let fixed = tenants * TENANT_DESCRIPTORS + handshakes + OWN_DESCRIPTORS + nvme_descriptors(config);
    let wanted = tenants * config.limits.sessions as u64 * per_session + fixed;
    let limit = limit.filter(|limit| *limit < wanted)?;
    let possible = limit.saturating_sub(fixed) / (tenants * per_session);
    let advice = match possible {
        0 => String::new(),
        possible => format!("lower limits.sessions to at most {possible} or "),
    };
    Some(format!(
        "limits.sessions: {} sessions of each tenant may need {wanted} open files, RLIMIT_NOFILE allows {limit}; \
         {advice}raise the hard limit to {wanted}",
        config.limits.sessions
    ))
}

/// Rounds down to something people would write.
fn round(bytes: u64) -> u64 {
    let unit = if bytes >= 4 << 30 { 1 << 30 } else { 1 << 20 };
    bytes / unit * unit
}

/// The key that decides about most of the memory.
fn key(config: &Config) -> String {
    let own = config
        .tenants
        .iter()
        .filter(|tenant| tenant.capacity_bytes != config.host.capacity_bytes);
    match own.max_by_key(|tenant| tenant.capacity_bytes) {
        Some(tenant) if config.tenants.len() == 1 || tenant.capacity_bytes > config.host.capacity_bytes => {
            format!("tenant.{}.capacity", tenant.name)
        }
        _ => "host.capacity".to_owned(),
    }
}

#[cfg(test)]
mod tests;
