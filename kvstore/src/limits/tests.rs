//! What fits, what does not, and what is said then.

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
    let text = "[nvme]\ndirectories = [\"/d\"]";
    let bound = check(&config(text), &machine).unwrap();
    assert!(
        bound.remarks[0].contains("may register no more"),
        "{:?}",
        bound.remarks
    );
    let exempt = Machine {
        memlock_exempt: true,
        ..machine
    };
    let free = check(&config(text), &exempt).unwrap();
    assert!(free.remarks[0].contains("not bound by it"), "{:?}", free.remarks);
    assert!(!free.remarks[0].contains("may register"), "{:?}", free.remarks);
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

#[test]
fn the_nvme_tier_takes_memory_and_open_files_too() {
    let text = "[nvme]\ndirectories = [\"/d\", \"/e\"]\ncapacity = \"1TiB\"";
    let with = check(&config(text), &machine(1 << 40, 0)).unwrap();
    assert_eq!(
        with.regions_bytes,
        check(&config(""), &machine(1 << 40, 0)).unwrap().regions_bytes
    );
    // 1 GiB of memory, its rings and the daemon's own would fit into this; the index of 2 TiB does not.
    let tight = machine(15 << 27, 0);
    assert!(check(&config(""), &tight).is_ok());
    assert!(check(&config(text), &tight).is_err());
    assert_eq!(descriptor_warning(&config(""), Some(2000)), None);
    assert!(descriptor_warning(&config(text), Some(2000)).is_some());
}

#[test]
fn the_remote_tier_takes_memory_too() {
    let text = "[remote]\nkind = \"mount\"\ndirectory = \"/d\"\nread-bytes = \"1GiB\"";
    let tight = machine(15 << 27, 0);
    assert!(check(&config(""), &tight).is_ok());
    assert!(check(&config(text), &tight).is_err());
    assert!(check(&config(text), &machine(1 << 40, 0)).is_ok());
}

#[test]
fn a_segment_larger_than_a_file_may_be_is_told() {
    let mut machine = machine(1 << 40, 0);
    machine.file_bytes = Some(3 << 30);
    let config = config("[nvme]\ndirectories = [\"/d\"]\ncapacity = \"40GiB\"\nsegment-bytes = \"4GiB\"");
    let error = check(&config, &machine).unwrap_err().to_string();
    assert!(error.contains("a segment of 4GiB is a file"), "{error}");
}

/// RocksDB aborts where it is refused memory, and the daemon with it.
#[test]
fn what_the_process_may_not_map_or_allocate_is_told() {
    let config = config("[host]\ncapacity = \"1GiB\"\n[nvme]\ndirectories = [\"/d\"]");
    let with = |address_bytes, data_bytes| Machine {
        address_bytes,
        data_bytes,
        ..machine(1 << 40, 0)
    };
    assert!(check(&config, &with(None, None)).is_ok());
    assert!(check(&config, &with(Some(8 << 30), Some(1 << 30))).is_ok());
    let error = check(&config, &with(Some(8 << 30), Some(64 << 20)))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("RLIMIT_DATA allows 64MiB and this configuration needs up to "),
        "{error}"
    );
    // The region is mapped twice.
    let error = check(&config, &with(Some(2 << 30), None))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("RLIMIT_AS allows 2GiB") && error.contains("ulimit -v"),
        "{error}"
    );
}
