//! What may be written in the file and in the environment, and what is said of what may not.

mod admin;
mod remote;
mod tracing;

use std::path::Path;

use super::*;

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment {
        variables: variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        uid: 1000,
        socket: PathBuf::from("/run/kvtier/kvtier.sock"),
    }
}

fn problems(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    match load(text, &environment(variables)) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn an_empty_file_is_a_configuration() {
    let config = load("", &environment(&[])).unwrap().config;
    assert_eq!(config.host.capacity_bytes, 1 << 30);
    assert_eq!(config.access.uids, [1000, 0]);
    assert_eq!(config.tenants.len(), 1);
    assert_eq!(config.tenants[0].name, "default");
    assert_eq!(config.tenants[0].arena_bytes(&config.host), 64 << 20);
}

/// Each text has exactly the problem beside it.
fn check_each(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        assert_eq!(problems(text, &[]), [*expected], "{text}");
    }
}

#[test]
fn each_problem_of_the_host_table_names_its_key() {
    let cases: &[(&str, &str)] = &[
        (
            "[host]\ncapacty = \"1GiB\"",
            "host.capacty: no such key; did you mean host.capacity?",
        ),
        (
            "[hosts]\ncapacity = \"1GiB\"",
            "hosts: no such key; did you mean host?",
        ),
        ("colour = 1", "colour: no such key"),
        ("host = 3", "host: want a table [host], got 3"),
        (
            "[host]\ncapacity = true",
            "host.capacity: want a size from 8MiB to 3TiB such as \"64GiB\", got true",
        ),
        (
            "[host]\ncapacity = \"1\"",
            "host.capacity: want a size from 8MiB to 3TiB such as \"64GiB\", got \"1\", which has no unit",
        ),
        (
            "[host]\ncapacity = 16777216",
            "host.capacity: want a size from 8MiB to 3TiB such as \"64GiB\", got 16777216, which has no unit",
        ),
        (
            "[host]\ncapacity = 0",
            "host.capacity: want a size from 8MiB to 3TiB such as \"64GiB\", got 0, which has no unit",
        ),
        (
            "[host]\nhuge-pages = \"yes\"",
            "host.huge-pages: want \"never\" or \"try\" or \"require\", got \"yes\"",
        ),
        (
            "[host]\nwatermark-low = 0.95\nwatermark-high = 0.9",
            "host.watermark-low: want 0 < low < high <= 1, got low 0.95 high 0.9",
        ),
        ("pin-share = 0.6", "pin-share: want 0 to 0.5, got 0.6"),
        (
            "[host]\nwatermark-low = \"low\"",
            "host.watermark-low: want a number from 0 to 1 such as 0.95, got \"low\"",
        ),
        (
            "[host]\narena-bytes = \"3MiB\"",
            "host.arena-bytes: want a multiple of 2MiB, got 3MiB",
        ),
        (
            "[host]\narena-bytes = \"1GiB\"",
            "host.arena-bytes: want at most half of the smallest capacity (1GiB of tenant default), got 1GiB",
        ),
    ];
    check_each(cases);
}

#[test]
fn each_problem_of_the_other_tables_names_its_key() {
    let cases: &[(&str, &str)] = &[
        (
            "socket = \"relative\"",
            "socket: want an absolute path of a file, got \"relative\"",
        ),
        (
            "shutdown-deadline = 10",
            "shutdown-deadline: want a duration from 0s to 1h in ms, s, min or h, got 10, which has no unit",
        ),
        (
            "[access]\nuids = [-1]",
            "access.uids: want a list of numeric ids, got [-1]",
        ),
        (
            "[limits]\nsessions = 0",
            "limits.sessions: want a whole number from 1 to 16384, got 0",
        ),
        (
            "[tenant.Blue]",
            "tenant.Blue: want a name of 1 to 64 lower-case letters, digits and hyphens",
        ),
        (
            "[tenant]\nblue = 1",
            "tenant.blue: want a table [tenant.blue], got 1",
        ),
        (
            "[tenant.blue]\nuid = [1]",
            "tenant.blue.uid: no such key; did you mean tenant.blue.uids?",
        ),
        (
            "[tenant.blue]\ngids = []",
            "tenant.blue.uids: want at least one uid or gid, or nobody could attach",
        ),
    ];
    check_each(cases);
}

#[test]
fn a_file_that_is_no_toml_says_where() {
    let found = problems("socket = \"/s\"\n[host\n", &[]);
    assert!(found[0].starts_with("line 2: "), "{found:?}");
}

#[test]
fn all_problems_are_told_at_once() {
    let text = "socket = 1\nsokcet = 2\n[host]\ncapacity = \"x\"\npolicy = \"fifo\"\n[log]\nlevel = 3\n[tenant.a]\nuids = 1";
    let found = problems(
        text,
        &[("KVTIER_LIMITS_HOLDS", "many"), ("KVTIER_LOG_FORMAT", "xml")],
    );
    let keys: Vec<&str> = found
        .iter()
        .map(|problem| problem.split(": ").next().unwrap())
        .collect();
    let expected = [
        "sokcet",
        "socket",
        "host.capacity",
        "host.policy",
        "limits.holds (from KVTIER_LIMITS_HOLDS)",
        "log.level",
        "log.format (from KVTIER_LOG_FORMAT)",
        "tenant.a.uids",
        "tenant.a.uids",
    ];
    assert_eq!(keys, expected, "{found:#?}");
}

#[test]
fn the_environment_overrides_the_file() {
    let text = "[host]\ncapacity = \"1GiB\"\n[tenant.my-team]\nuids = [5]";
    let variables = [
        ("KVTIER_HOST_CAPACITY", "64MiB"),
        ("KVTIER_HOST_WATERMARK_LOW", "0.5"),
        ("KVTIER_HOST_ARENA_BYTES", "auto"),
        ("KVTIER_SOCKET", "/x/s"),
        ("KVTIER_SOCKET_GROUP", "7"),
        ("KVTIER_ACCESS_UIDS", "1, 2"),
        ("KVTIER_LOG_LEVEL", "debug"),
        ("KVTIER_SHUTDOWN_DEADLINE", "500ms"),
        ("KVTIER_TENANT_MY_TEAM_GIDS", "9"),
    ];
    let config = load(text, &environment(&variables)).unwrap().config;
    assert_eq!(config.host.capacity_bytes, 64 << 20);
    assert!((config.host.watermark_low - 0.5).abs() < f64::EPSILON);
    assert_eq!(config.socket, Path::new("/x/s"));
    assert_eq!(config.socket_group, Some(7));
    assert_eq!(config.access.uids, [1, 2]);
    assert_eq!(config.log.level, LogLevel::Debug);
    assert_eq!(config.shutdown_deadline, Duration::from_millis(500));
    let tenant = &config.tenants[0];
    assert_eq!(
        (
            tenant.capacity_bytes,
            &tenant.access.uids[..],
            &tenant.access.gids[..]
        ),
        (64 << 20, &[5][..], &[9][..])
    );
}

#[test]
fn a_size_without_a_unit_is_refused_in_the_environment_too() {
    assert_eq!(
        problems("", &[("KVTIER_HOST_CAPACITY", "16777216")]),
        [
            "host.capacity (from KVTIER_HOST_CAPACITY): want a size from 8MiB to 3TiB such as \"64GiB\", got \
             \"16777216\", which has no unit"
        ]
    );
}

#[test]
fn each_problem_of_the_nvme_table_names_its_key() {
    let cases: &[(&str, &str)] = &[
        (
            "[nvme]\ndirectories = [\"/d\", \"relative\", \"\"]",
            "nvme.directories: want a list of absolute paths without \"..\", got \"relative\", \"\" among them",
        ),
        (
            "[nvme]\ndirectories = \"/d\"",
            "nvme.directories: want a list of absolute paths without \"..\", got \"/d\"",
        ),
        (
            "[nvme]\ndirectories = [\"/a/../d\"]",
            "nvme.directories: want a list of absolute paths without \"..\", got \"/a/../d\" among them",
        ),
        (
            "[nvme]\ndirectories = [\"/d\", \"/d/./\"]",
            "nvme.directories: want each directory once, got /d twice",
        ),
        (
            "[nvme]\ndirectories = [\"/d\", \"/e\", \"/d/f\"]",
            "nvme.directories: want no directory inside another, got /d and /d/f",
        ),
        (
            "[nvme]\ncapacity = \"1MiB\"",
            "nvme.capacity: want a size from 64MiB to 64TiB such as \"64GiB\", got \"1MiB\"",
        ),
        (
            "[nvme]\nsegment-bytes = \"5000001B\"",
            "nvme.segment-bytes: want a multiple of 4KiB, got 5000001B",
        ),
        (
            "[nvme]\ndirectories = [\"/d\"]\nsegment-bytes = \"64MiB\"",
            "nvme.segment-bytes: want at least 67117056B, so that a block as large as an arena of tenant default fits, \
             got 64MiB; or lower host.arena-bytes",
        ),
        (
            "[nvme]\ndirectories = [\"/d\"]\ncapacity = \"256MiB\"",
            "nvme.capacity: want room for at least 4 segments of 64.0MiB beside the catalogue's 20MiB, at least 277MiB for \
             each tenant, got 256MiB",
        ),
        (
            "[nvme]\nio = \"aio\"",
            "nvme.io: want \"auto\" or \"io-uring\" or \"threads\", got \"aio\"",
        ),
        (
            "[nvme]\ndepth = 0",
            "nvme.depth: want a whole number from 1 to 1024, got 0",
        ),
        (
            "[nvme]\nwrite-rate = 5",
            "nvme.write-rate: want \"0\", or bytes per second from 64KiB to 1TiB such as \"200MiB\", got 5, which has no unit",
        ),
        (
            "[nvme]\nwatermark-low = 0.95",
            "nvme.watermark-low: want 0 < low < high <= 1, got low 0.95 high 0.95",
        ),
        ("[nvme]\nsize = 1", "nvme.size: no such key"),
    ];
    check_each(cases);
}

#[test]
fn tenants_share_a_directory_within_its_capacity() {
    let text = "[nvme]\ndirectories = [\"/d\"]\ncapacity = \"10GiB\"\n[tenant.a]\nnvme-capacity = \"4GiB\"\n\
                [tenant.b]\n[tenant.c]";
    let config = load(text, &environment(&[])).unwrap().config;
    let shares: Vec<u64> = config
        .tenants
        .iter()
        .map(|tenant| tenant.nvme_share_bytes(&config) >> 30)
        .collect();
    assert_eq!(shares, [4, 3, 3]);
    for tenant in &config.tenants {
        let layout = NvmeLayout::new(tenant, &config, None);
        let bytes = u64::from(layout.segments_max) * layout.segment_bytes + layout.catalogue_bytes_max;
        assert!(bytes <= layout.share_bytes && layout.segment_bytes.is_multiple_of(4096));
    }
    let text = "[nvme]\ndirectories = [\"/d\"]\n[tenant.a]\nnvme-capacity = \"9GiB\"\n[tenant.b]\nnvme-capacity = \
                \"9GiB\"";
    assert_eq!(
        problems(text, &[]),
        ["nvme.capacity: want at least 18GiB, which the tenants' nvme-capacity come to, got 10GiB"]
    );
}

#[test]
fn directories_come_from_the_environment_too_and_have_one_name() {
    let variables = [
        ("KVTIER_NVME_DIRECTORIES", "/d/one/, /d/./two"),
        ("KVTIER_NVME_WRITE_RATE", "100MB"),
        ("KVTIER_NVME_SCRUB_RATE", "0"),
        ("KVTIER_NVME_DIRECT", "never"),
    ];
    let nvme = load("", &environment(&variables)).unwrap().config.nvme;
    let shown: Vec<String> = nvme
        .directories
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    assert_eq!(shown, ["/d/one", "/d/two"]);
    assert_eq!((nvme.write_rate, nvme.scrub_rate), (Some(100_000_000), None));
    assert_eq!(nvme.direct, kvstore_nvme::Direct::Never);
    assert!(
        load("", &environment(&[]))
            .unwrap()
            .config
            .nvme
            .directories
            .is_empty()
    );
}

/// A tiny host tier has small arenas, and then small segments do.
#[test]
fn segments_follow_the_share_and_the_largest_block() {
    let layout = |text: &str| {
        let config = load(text, &environment(&[])).unwrap().config;
        NvmeLayout::new(&config.tenants[0], &config, None)
    };
    let small = layout("[host]\ncapacity = \"8MiB\"\n[nvme]\ndirectories = [\"/d\"]\ncapacity = \"64MiB\"");
    assert_eq!((small.segment_bytes, small.segments_max), (4 << 20, 11));
    let large = layout("[host]\ncapacity = \"8MiB\"\n[nvme]\ndirectories = [\"/d\"]\ncapacity = \"10GiB\"");
    assert_eq!(large.segment_bytes, 160 << 20);
    let blocks = layout("[host]\ncapacity = \"4GiB\"\n[nvme]\ndirectories = [\"/d\"]\ncapacity = \"10GiB\"");
    assert_eq!(blocks.segment_bytes, (256 << 20) + 8192);
    let config = load("[nvme]\ndirectories = [\"/d\"]", &environment(&[]))
        .unwrap()
        .config;
    let existing = NvmeLayout::new(&config.tenants[0], &config, Some(1 << 30));
    assert_eq!((existing.segment_bytes, existing.segments_max), (1 << 30, 9));
}

/// The parser knows no larger numbers, and its message names neither key nor value.
#[test]
fn a_number_beyond_all_bounds_is_told_with_its_line_and_key() {
    let found = problems("[limits]\nholds = 5000\nsessions = 99999999999999999999\n", &[]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("line 3: ") && found[0].contains("sessions = 99999999999999999999"),
        "{found:?}"
    );
}

#[test]
fn a_bad_value_in_the_file_is_told_even_if_it_is_overridden() {
    let found = problems("[host]\ncapacity = \"x\"", &[("KVTIER_HOST_CAPACITY", "64MiB")]);
    assert_eq!(found.len(), 1);
}

#[test]
fn a_misspelt_variable_is_a_warning_and_a_strangers_is_nothing() {
    let variables = [
        ("KVTIER_HOST_CAPACTIY", "1GiB"),
        ("KVTIER_PORT", "tcp://10.0.0.1"),
        ("KVTIER_HOST_PORT", "1"),
    ];
    let loaded = load("", &environment(&variables)).unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "KVTIER_HOST_CAPACTIY: no such key; did you mean KVTIER_HOST_CAPACITY?",
            "KVTIER_HOST_PORT: no such key"
        ]
    );
}

#[test]
fn tenants_inherit_what_they_do_not_set() {
    let text = "[access]\nuids = [7]\n[tenant.b]\ncapacity = \"16MiB\"\n[tenant.a]\ngids = [3]";
    let tenants = load(text, &environment(&[])).unwrap().config.tenants;
    let names: Vec<&str> = tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert!(tenants[0].access.allows(0, 3) && !tenants[0].access.allows(7, 0));
    assert!(tenants[1].access.allows(7, 0) && tenants[1].capacity_bytes == 16 << 20);
}

#[test]
fn the_printed_defaults_are_the_defaults() {
    let environment = environment(&[]);
    let printed = load(&default_toml(&environment), &environment).unwrap();
    assert_eq!(printed, load("", &environment).unwrap());
}

#[test]
fn every_key_is_set_by_its_own_variable() {
    for key in KEYS {
        let variable = key.variable();
        let found = problems("", &[(&variable, "\u{fffd}")]);
        assert!(
            found.iter().any(|problem| problem.contains(&variable)),
            "{variable}: {found:?}"
        );
    }
}

#[test]
fn the_manual_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    if std::env::var_os("KVTIER_BLESS").is_some() {
        std::fs::write(&path, markdown()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == markdown(),
        "docs/configuration.md is out of date: KVTIER_BLESS=1 writes it anew"
    );
}

#[test]
fn what_is_wrong_with_events_is_said() {
    check_each(&[
        (
            "[events]\nconnect = [\"router:5557\"]",
            "events.connect: want an address such as \"tcp://router.example:5557\" (\"tcp://*:5557\" to listen on every \
             interface), got \"router:5557\"",
        ),
        (
            "[events]\nconnect = [\"tcp://*:5557\"]",
            "events.connect: want the addresses of routers, got tcp://*:5557, which is every interface of this machine",
        ),
        (
            "[events]\nidentities = [\"pod\"]",
            "events.identities: want a list of \"pods\", \"node:NAME\" and \"pool:NAME\", each once, NAME of letters, digits and \"-_.:/\", got \"pod\"",
        ),
        (
            "[events]\nidentities = [\"node:a@b\"]",
            "events.identities: want a list of \"pods\", \"node:NAME\" and \"pool:NAME\", each once, NAME of letters, digits and \"-_.:/\", got \"node:a@b\"",
        ),
        (
            "[events]\nidentities = [\"pool:x\"]",
            "events.identities: want \"pods\" or \"node:NAME\" beside a pool: a router learns from them which block follows \
             which",
        ),
        (
            "[events]\nbind = [\"tcp://*:5557\"]\nidentities = []",
            "events.identities: want at least one, or nothing is announced to the routers that are named",
        ),
        (
            "[events]\nreplay = \"tcp://*:5558\"",
            "events.replay: want events.bind as well: what is replayed is what bound sockets have sent",
        ),
        (
            "[events]\nbind = [\"tcp://*:5557\"]\nreplay = \"tcp://*:5557\"",
            "events.bind: tcp://*:5557 is listened on twice",
        ),
        (
            "[events]\nconnect = [\"tcp://10.0.0.1:5557\", \"tcp://router:5557\", \"tcp://10.0.0.1:5557\"]",
            "events.connect: want each router once, got tcp://10.0.0.1:5557 twice: it would count each block twice",
        ),
        (
            "[events]\nencoding = \"json\"",
            "events.encoding: want \"array\" or \"map\", got \"json\"",
        ),
        (
            "[events]\nhost-medium = \"\"",
            "events.host-medium: want a name of letters, digits and \"-_.:/\", of 1 to 128 bytes, got \"\"",
        ),
    ]);
}

#[test]
fn events_come_from_the_environment_as_well() {
    let variables = [
        ("KVTIER_EVENTS_CONNECT", "tcp://a:1, tcp://b:2"),
        ("KVTIER_EVENTS_IDENTITIES", "pods,node:n1"),
        ("KVTIER_EVENTS_REPLAY", "none"),
    ];
    let events = load("", &environment(&variables)).unwrap().config.events;
    assert_eq!(events.publisher.connect.len(), 2);
    assert_eq!(events.identities.len(), 2);
    assert_eq!(events.publisher.replay, None);
}
