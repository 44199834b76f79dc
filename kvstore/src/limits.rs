//! Whether what is configured fits the machine, before anything is touched.

use crate::config::{Config, HugePages, Prefault, TenantConfig, format_size};
use crate::machine::{HUGE_PAGE_BYTES, Machine};

/// Memory the daemon itself needs beside the regions: code, threads, rings and log.
const OVERHEAD_BYTES: u64 = 32 << 20;
/// What the engine keeps of each block, at most.
const INDEX_BYTES_PER_BLOCK: u64 = 160;
/// A guess at the size of a block for the estimate above: real ones are seldom smaller.
const BLOCK_BYTES_GUESS: u64 = 64 << 10;

/// Something that does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// The regions are larger than the memory that is left.
    #[error(
        "{key}: {wanted} do not fit: {available} available ({source_name}); lower {key} to at most {possible} or \
         {remedy}",
        wanted = format_size(*wanted_bytes),
        available = format_size(*available_bytes),
        possible = format_size(*possible_bytes)
    )]
    Memory {
        /// The key to change.
        key: String,
        /// What is configured, for all tenants.
        wanted_bytes: u64,
        /// What is left.
        available_bytes: u64,
        /// Where that was found.
        source_name: String,
        /// What could be configured.
        possible_bytes: u64,
        /// What else would help.
        remedy: &'static str,
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
    let own_bytes = OVERHEAD_BYTES + regions_bytes / BLOCK_BYTES_GUESS * INDEX_BYTES_PER_BLOCK;
    let huge_bytes = machine.huge_pages_free * HUGE_PAGE_BYTES;
    let mut remarks = Vec::new();
    let in_huge_pages = match config.host.huge_pages {
        HugePages::Never => false,
        HugePages::Try => {
            if huge_bytes < regions_bytes {
                remarks.push(format!(
                    "host.huge-pages: {} huge pages are free, {} are needed for all regions",
                    machine.huge_pages_free,
                    regions_bytes / HUGE_PAGE_BYTES
                ));
            }
            huge_bytes >= regions_bytes
        }
        HugePages::Require => {
            if huge_bytes < regions_bytes {
                let (wanted, free) = (regions_bytes / HUGE_PAGE_BYTES, machine.huge_pages_free);
                return Err(LimitError::HugePages {
                    key: key(config),
                    wanted,
                    free,
                });
            }
            true
        }
    };
    // Reserved huge pages are not part of the memory that is available otherwise.
    let wanted_bytes = if in_huge_pages {
        own_bytes
    } else {
        regions_bytes + own_bytes
    };
    let tightest = machine.tightest();
    let mut warnings = Vec::new();
    if let Some(headroom) = tightest.filter(|headroom| headroom.bytes < wanted_bytes) {
        let error = LimitError::Memory {
            key: key(config),
            wanted_bytes: config.tenants.iter().map(|tenant| tenant.capacity_bytes).sum(),
            available_bytes: headroom.bytes,
            source_name: headroom.source.clone(),
            possible_bytes: possible(headroom.bytes),
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
        available_bytes: tightest.map(|headroom| headroom.bytes),
        remarks,
    })
}

/// What could be configured with this much memory, rounded down to something people would write.
fn possible(available_bytes: u64) -> u64 {
    let left = available_bytes.saturating_sub(OVERHEAD_BYTES);
    let left = left - left / (BLOCK_BYTES_GUESS / INDEX_BYTES_PER_BLOCK);
    let unit = if left >= 4 << 30 { 1 << 30 } else { 1 << 20 };
    left / unit * unit
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
            memlock_bytes: None,
        }
    }

    #[test]
    fn what_does_not_fit_says_what_to_change() {
        let error = check(&config("host.capacity = \"64GiB\""), &machine(24_588_061_081, 0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "host.capacity: 64GiB do not fit: 22.8GiB available (MemAvailable); lower host.capacity to at most \
             22GiB or free memory on the node"
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
}
