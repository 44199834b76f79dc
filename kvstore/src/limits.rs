//! Whether what is configured fits the machine, before anything is touched.

use crate::config::{
    CAPACITY_BYTES_MIN, Config, HugePages, Prefault, RING_BYTES_MIN, TenantConfig, format_size,
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
    let overhead_bytes = OVERHEAD_BYTES + TENANT_OVERHEAD_BYTES * tenant_count;
    let index_bytes = regions_bytes / BLOCK_BYTES_GUESS * INDEX_BYTES_PER_BLOCK;
    let own_bytes = overhead_bytes
        .saturating_add(index_bytes)
        .saturating_add(rings_bytes);
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
        remarks.push(format!(
            "RLIMIT_MEMLOCK is {} here: this daemon pins nothing, but a client that pins the region needs {}",
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

fn check_file_size(config: &Config, machine: &Machine) -> Result<(), LimitError> {
    let regions = config.tenants.iter().map(|tenant| region_bytes(config, tenant));
    let (Some(wanted_bytes), Some(limit_bytes)) = (regions.max(), machine.file_bytes) else {
        return Ok(());
    };
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

/// What to say if clients within their limits could exhaust the open files, of which there may be `limit`.
pub fn descriptor_warning(config: &Config, limit: Option<u64>) -> Option<String> {
    let tenants = config.tenants.len() as u64;
    let handshakes = config.limits.handshakes as u64 * HANDSHAKE_DESCRIPTORS;
    // A process that hung up costs one as well, and there may be as many as sessions.
    let per_session = SESSION_DESCRIPTORS + 1;
    let fixed = tenants * TENANT_DESCRIPTORS + handshakes + OWN_DESCRIPTORS;
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
mod tests {
    use super::*;
    use crate::config::{Environment, load};
    use crate::machine::Headroom;

    fn config(text: &str) -> Config {
        load(
            text,
            &Environment {
                socket: "/run/s".into(),
                ..Environment::default()
            },
        )
        .unwrap()
        .config
    }

    fn machine(bytes: u64, huge_pages_free: u64) -> Machine {
        let headroom = Headroom {
            bytes,
            source: "MemAvailable".to_owned(),
            remedy: "free memory on the node",
        };
        Machine {
            headrooms: vec![headroom],
            huge_pages_free,
            ..Machine::default()
        }
    }

    #[test]
    fn what_does_not_fit_says_what_to_change() {
        let error = check(&config("host.capacity = \"64GiB\""), &machine(24_588_061_081, 0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "host.capacity: 64GiB do not fit beside 256MiB of rings (limits.ring-bytes) and 64MiB of the daemon's \
             own: 22.8GiB available (MemAvailable); lower host.capacity to at most 22GiB, or free memory on the node"
        );
    }

    /// Rings were not counted: a few clients that attached had the daemon killed at the capacity it recommended.
    #[test]
    fn rings_count_and_what_is_recommended_fits() {
        let text = |capacity: &str, rings: &str| {
            config(&format!(
                "host.capacity = \"{capacity}\"\nlimits.ring-bytes = \"{rings}\""
            ))
        };
        let (small, large) = (machine(256 << 20, 0), machine(512 << 20, 0));
        let cases = [
            (
                ("220MiB", "256MiB"),
                &large,
                "lower host.capacity to at most 191MiB, or limits.ring-bytes to at most 231MiB, or free",
            ),
            (
                ("64MiB", "256MiB"),
                &small,
                "; lower limits.ring-bytes to at most 127MiB, or free",
            ),
            (
                ("220MiB", "256MiB"),
                &small,
                "; lower host.capacity to at most 143MiB and limits.ring-bytes to at most 48MiB, or free",
            ),
            (
                ("8MiB", "1MiB"),
                &machine(64 << 20, 0),
                "(MemAvailable); free memory on the node",
            ),
        ];
        for ((capacity, rings), machine, advice) in cases {
            let error = check(&text(capacity, rings), machine).unwrap_err().to_string();
            assert!(error.contains(advice), "{error}");
        }
        for ((capacity, rings), machine) in [
            (("191MiB", "256MiB"), &large),
            (("220MiB", "231MiB"), &large),
            (("64MiB", "127MiB"), &small),
            (("143MiB", "48MiB"), &small),
        ] {
            check(&text(capacity, rings), machine).unwrap();
        }
    }

    #[test]
    fn every_tenant_has_rings_of_its_own() {
        let config = config("host.capacity = \"8MiB\"\n[tenant.a]\n[tenant.b]\n[tenant.c]");
        let error = check(&config, &machine(512 << 20, 0)).unwrap_err().to_string();
        assert!(
            error.contains("24MiB do not fit beside 768MiB of rings")
                && error.contains("limits.ring-bytes to at most 130MiB"),
            "{error}"
        );
    }

    #[test]
    fn the_tenant_that_wants_most_is_named() {
        let config = config("[tenant.a]\n[tenant.b]\ncapacity = \"64GiB\"");
        let error = check(&config, &machine(8 << 30, 0)).unwrap_err().to_string();
        assert!(error.starts_with("tenant.b.capacity: 65GiB"), "{error}");
    }

    #[test]
    fn required_huge_pages_must_be_free_and_do_not_count_as_other_memory() {
        let config = config("host.capacity = \"1GiB\"\nhost.huge-pages = \"require\"");
        let error = check(&config, &machine(1 << 40, 100)).unwrap_err().to_string();
        assert!(
            error.contains("needs 513 free huge pages of 2MiB, 100 are free"),
            "{error}"
        );
        assert!(check(&config, &machine(1 << 29, 513)).is_ok());
    }

    #[test]
    fn wished_for_huge_pages_are_only_remarked_upon() {
        let config = config("host.capacity = \"1GiB\"\nhost.huge-pages = \"try\"");
        let fit = check(&config, &machine(4 << 30, 100)).unwrap();
        assert!(
            fit.remarks[0].contains("100 huge pages are free, 513 are needed"),
            "{:?}",
            fit.remarks
        );
        assert!(check(&config, &machine(1 << 29, 100)).is_err());
    }

    #[test]
    fn memory_that_is_taken_lazily_may_be_missing_at_start_and_is_warned_of() {
        let config = config("host.capacity = \"64GiB\"\nhost.prefault = \"lazy\"");
        let fit = check(&config, &machine(8 << 30, 0)).unwrap();
        assert!(
            fit.warnings[0].starts_with("host.capacity: 64GiB do not fit"),
            "{:?}",
            fit.warnings
        );
    }

    #[test]
    fn a_small_memlock_limit_only_informs() {
        let machine = Machine {
            memlock_bytes: Some(65536),
            ..machine(4 << 30, 0)
        };
        let fit = check(&config(""), &machine).unwrap();
        assert!(
            fit.remarks[0].contains("RLIMIT_MEMLOCK is 64KiB here"),
            "{:?}",
            fit.remarks
        );
    }

    #[test]
    fn a_region_is_whole_arenas_and_a_header() {
        let config = config("host.capacity = \"65MiB\"");
        assert_eq!(region_bytes(&config, &config.tenants[0]), (64 << 20) + 4096);
    }

    #[test]
    fn too_few_open_files_are_warned_of_with_the_key_and_the_number() {
        let config = config("limits.sessions = 100\n[tenant.a]\n[tenant.b]");
        let warning = descriptor_warning(&config, Some(1024)).unwrap();
        assert_eq!(
            warning,
            "limits.sessions: 100 sessions of each tenant may need 1384 open files, RLIMIT_NOFILE allows 1024; lower \
             limits.sessions to at most 55 or raise the hard limit to 1384"
        );
        assert_eq!(descriptor_warning(&config, Some(1384)), None);
        assert_eq!(descriptor_warning(&config, None), None);
        assert!(
            descriptor_warning(&config, Some(100))
                .unwrap()
                .contains("allows 100; raise the hard limit")
        );
    }
}
