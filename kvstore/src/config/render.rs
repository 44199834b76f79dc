//! Writes the table of keys for people: `--help`, a file of defaults, the manual.

use std::fmt::Write;

use super::keys::KEYS;
use super::load::{Environment, defaults};
use super::tenant_keys::TENANT_KEYS;
use super::{Config, TenantConfig};

/// The effective values, one `key = value` each, in TOML's syntax.
pub(crate) fn effective(config: &Config) -> Vec<(String, String)> {
    let mut values: Vec<(String, String)> = KEYS
        .iter()
        .filter_map(|key| Some((key.name.to_owned(), (key.show)(config)?)))
        .collect();
    for tenant in &config.tenants {
        values.extend(TENANT_KEYS.iter().filter_map(|key| {
            Some((
                format!("tenant.{}.{}", tenant.name, key.name),
                (key.show)(tenant)?,
            ))
        }));
    }
    values
}

/// A file that sets everything to its default, with each key's meaning above it.
pub fn default_toml(environment: &Environment) -> String {
    let config = defaults(environment);
    let mut text = String::from("# The configuration of kvtierd. Every value below is the default.\n");
    let mut section = "";
    for key in KEYS {
        let (table, name) = key.name.split_once('.').unwrap_or(("", key.name));
        if table != section {
            let _ = write!(text, "\n[{table}]");
            text.push('\n');
            section = table;
        }
        let _ = write!(
            text,
            "\n{}# Want {}. Environment: {}\n",
            comment(key.doc),
            key.bounds,
            key.variable()
        );
        match (key.show)(&config) {
            Some(value) => {
                let _ = writeln!(text, "{name} = {value}");
            }
            None => {
                let _ = writeln!(text, "# {name} =    (default: {})", key.default);
            }
        }
    }
    let tenant = TenantConfig {
        name: "NAME".to_owned(),
        capacity_bytes: config.host.capacity_bytes,
        nvme_capacity_bytes: None,
        access: config.access.clone(),
    };
    text.push_str(
        "\n# Any number of tenants; without any there is one called \"default\".\n# [tenant.NAME]\n",
    );
    for key in TENANT_KEYS {
        let value = (key.show)(&tenant).unwrap_or_else(|| format!("   (default: {})", key.default));
        let _ = write!(text, "#\n{}# {} = {value}\n", comment(key.doc), key.name);
    }
    text
}

/// The keys for `kvtierd --help`.
pub fn help_text() -> String {
    let mut text = String::from("Configuration keys (file, or environment variable):\n");
    for key in KEYS {
        let _ = write!(
            text,
            "\n  {} ({})\n      {}\n      default: {}\n      want: {}\n",
            key.name,
            key.variable(),
            key.doc,
            key.default,
            key.bounds
        );
    }
    text.push_str("\n  In each [tenant.NAME] table:\n");
    for key in TENANT_KEYS {
        let _ = write!(
            text,
            "\n  {}\n      {}\n      default: {}\n",
            key.name, key.doc, key.default
        );
    }
    text.push_str("\nExit codes:\n");
    for exit in crate::exit::ALL {
        let _ = writeln!(text, "  {:>2}  {}", exit.code(), exit.meaning());
    }
    text
}

/// `docs/configuration.md`.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         `kvtierd --config FILE` reads one TOML file; without one the defaults hold. Each key can be overridden by an\n\
         environment variable. Sizes have units (`\"64GiB\"`, `\"500MB\"`), durations too (`\"10s\"`, `\"500ms\"`).\n\
         `kvtier check-config FILE` checks a file and touches nothing; all problems are reported together. The\n\
         effective configuration is logged once at start.\n\n\
         This page is generated from the table of keys (`kvstore/src/config/keys.rs`); a test compares them, and\n\
         `KVTIER_BLESS=1 cargo test -p kvstore --lib config` writes it anew.\n\n\
         | key | default | may be | meaning |\n|---|---|---|---|\n",
    );
    for key in KEYS {
        let _ = writeln!(
            text,
            "| `{}`<br>`{}` | {} | {} | {} |",
            key.name,
            key.variable(),
            cell(key.default),
            cell(key.bounds),
            cell(key.doc)
        );
    }
    text.push_str(
        "\n## Tenants\n\nEach `[tenant.NAME]` table makes a tenant: a region, an engine and an allow-list of its own.\n\
         Without any there is one called `default`. A client that names no tenant gets the first, by name, that lets\n\
         it in.\n\n| key | default | may be | meaning |\n|---|---|---|---|\n",
    );
    for key in TENANT_KEYS {
        let _ = writeln!(
            text,
            "| `tenant.NAME.{}`<br>`KVTIER_TENANT_<NAME>_{}` | {} | {} | {} |",
            key.name,
            key.name.to_ascii_uppercase().replace('-', "_"),
            cell(key.default),
            cell(key.bounds),
            cell(key.doc)
        );
    }
    text.push_str("\n## Exit codes of kvtierd\n\n| code | meaning |\n|---|---|\n");
    for exit in crate::exit::ALL {
        let _ = writeln!(text, "| {} | {} |", exit.code(), cell(exit.meaning()));
    }
    text.push_str(AFTER_EXIT_CODES);
    text
}

/// What the manual says of signals and of the admin command.
const AFTER_EXIT_CODES: &str = "
What is wrong in an NVMe directory itself does not end the daemon: a damaged or foreign `tier.kvt`, files without one,
errors of the device, at start or later. That directory is out of service until the next start, with one line of the level
`error` in the log and `lost` in `kvtier status`; memory and the other directories serve. Nothing in it is deleted.
Once it is mended, a restart of the daemon brings it back.

## Signals

`SIGTERM` and `SIGINT` end the daemon in good order: the socket is removed, clients are told, loads and stores under way
and blocks that are still to be written to NVMe have until `shutdown-deadline`, and the exit code is 0, also if the
deadline passed. A second of these signals does not wait for clients, a third one not for devices either; the exit code
is 0 as well. `SIGXFSZ` is ignored: a file beyond `RLIMIT_FSIZE` is an error that is told.

`SIGHUP` makes the daemon read its file again. If anything in it is wrong nothing changes, and one line in the log says
what. Otherwise `host.watermark-low`, `host.watermark-high`, `nvme.capacity`, `tenant.NAME.nvme-capacity`,
`nvme.admission`, `nvme.write-rate`, `nvme.watermark-low`, `nvme.watermark-high`, `nvme.scrub-rate`, `remote.capacity`,\n`remote.age-max`, `remote.reserve`, `remote.reads`, `remote.writes`, `remote.write-deadline` and `log.level`
change at once; one line in the log says what changed and what waits for the next start, or that nothing did. The files of
`admin.tls-certificate`, `admin.tls-key` and `admin.tls-client-ca` are read again as well. Where `nvme.directories` has
changed the capacities wait for it as well. A capacity that became smaller is reached by reclaiming segments, which takes
a moment.

`kvtier set KEY=VALUE` changes the same keys without a file, until the daemon starts again or reads its file again
([admin.md](admin.md)). `kvtier status` reaches a daemon also while it drains, and says what it waits for.

## Exit codes of kvtier

| code | meaning |
|---|---|
| 0 | done; `fsck`: nothing is wrong, or `--repair` has mended everything that was; also if whoever reads the output has gone away, as in `kvtier status \\| head` |
| 1 | the daemon cannot be asked, or does not answer in time; `fsck`: something is wrong in a directory (with `--repair`: a second look still finds it) |
| 2 | `fsck`: a directory could not be checked, because it is in use or is none of ours, for example |
| 3 | `lookup`: a block is nowhere that this node knows of; `drain`: not over in time; `remote gc`: another node has the lease, or a signal came |
| 64 | bad command line, what was asked for makes no sense, or `check-config` found problems |
| 71 | the output could not be written |
| 77 | this user may not do that: the daemon does not let it, it may not connect to the socket, or `fsck` may not read the directory |

`kvtier` asks at `--socket`, else at `KVTIER_CLI_SOCKET`, else at `KVTIER_ADMIN_SOCKET` where that is set for the daemon already, else
beside the daemon's other socket. A problem of a file is told with file and line.
";

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

/// Breaks a sentence into comment lines.
fn comment(doc: &str) -> String {
    let mut text = String::new();
    let mut line = String::new();
    for word in doc.split_whitespace() {
        if line.len() + word.len() > 96 {
            let _ = writeln!(text, "# {}", line.trim_end());
            line.clear();
        }
        line.push_str(word);
        line.push(' ');
    }
    let _ = writeln!(text, "# {}", line.trim_end());
    text
}
