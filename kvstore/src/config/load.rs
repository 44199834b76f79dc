//! Puts the configuration together and collects everything that is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::check::cross_check;
use super::keys::{KEYS, Key, TenantKey, variable};
use super::lines::{Lines, hint};
use super::read::Raw;
use super::suggest::closest;
use super::tenant_keys::TENANT_KEYS;
use super::{
    AccessList, AdminConfig, Config, EventsConfig, HostConfig, HugePages, LimitsConfig, LogConfig, LogFormat,
    LogLevel, MetricsConfig, NvmeConfig, Prefault, RemoteConfig, TenantConfig, TracingConfig,
};

/// The variable in which `kvtier` is told where a daemon's admin API is; it says nothing to a daemon.
pub const CLI_SOCKET: &str = "KVTIER_CLI_SOCKET";

/// Most tenants one daemon serves: each has a thread.
const TENANTS_MAX: usize = 64;

/// What the configuration depends on beside the file.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Variables whose names begin with `KVTIER_`.
    pub variables: BTreeMap<String, String>,
    /// The daemon's own user.
    pub uid: u32,
    /// Where the socket is if nobody says.
    pub socket: PathBuf,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name
                .into_string()
                .ok()
                .filter(|name| name.starts_with("KVTIER_"))?;
            // A value that is not UTF-8 is no valid value of any key; it is refused by the key's own check.
            Some((name, value.to_string_lossy().into_owned()))
        });
        Self {
            variables: variables.collect(),
            uid: rustix::process::geteuid().as_raw(),
            socket: service_socket(std::env::var_os("RUNTIME_DIRECTORY"))
                .unwrap_or_else(connector_shm::default_socket_path),
        }
    }
}

/// Where a service's socket is, to whom systemd has given a directory for it: `/run/kvtier` in the unit, which runs as a user of its own and
/// would go below its private `/tmp` otherwise.
fn service_socket(directories: Option<OsString>) -> Option<PathBuf> {
    // Several are separated by colons.
    let directories = directories?.into_string().ok()?;
    let first = directories
        .split(':')
        .next()
        .filter(|first| first.starts_with('/'))?;
    Some(Path::new(first).join("kvtier.sock"))
}

/// A configuration without problems.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What looks like a mistake and could also be somebody else's: for the log.
    pub warnings: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key (and the variable, if it was set there).
    pub key: String,
    /// What was wanted and what was found.
    pub text: String,
    /// File and line, if it stands in a file.
    pub place: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        write!(f, "{}: {}", self.key, self.text)
    }
}

/// Everything that is wrong, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

/// Where a configuration comes from, so that it can be read again.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// What it depends on beside.
    pub environment: Environment,
}

impl Source {
    /// Reads and checks it.
    pub fn load(&self) -> Result<Loaded, Problems> {
        load_file(self.file.as_deref(), &self.environment)
    }
}

/// Reads the file, if there is one, and checks it together with the environment.
pub fn load_file(path: Option<&Path>, environment: &Environment) -> Result<Loaded, Problems> {
    let text = match path {
        Some(path) => std::fs::read_to_string(path).map_err(|error| {
            let text = format!("could not be read: {error}");
            Problems(vec![Problem {
                key: path.display().to_string(),
                text,
                place: None,
            }])
        })?,
        None => String::new(),
    };
    let mut loaded = load(&text, environment);
    if let Some(path) = path {
        let lines = Lines::of(path, &text);
        let problems = match &mut loaded {
            Ok(loaded) => &mut loaded.warnings,
            Err(Problems(problems)) => problems,
        };
        for problem in problems {
            lines.place(problem);
        }
    }
    loaded
}

/// Checks the text of a file together with the environment.
pub fn load(text: &str, environment: &Environment) -> Result<Loaded, Problems> {
    let mut loader = Loader {
        environment,
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    let table = match text.parse::<Table>() {
        Ok(table) => table,
        Err(error) => {
            // Without a table there is nothing to check the keys against, but the environment still is.
            let (position, line) = syntax_position(text, &error);
            // Of such a number the parser's message only tells its own types.
            let message = if error.message().contains("i128") {
                format!("want a number below 2^63, got {line}")
            } else {
                hint(line).unwrap_or_else(|| format!("{}, in: {line}", error.message().trim_end()))
            };
            loader.problem(position, message);
            Table::new()
        }
    };
    let mut config = defaults(environment);
    loader.unknown_keys(&table);
    for key in KEYS {
        loader.apply(key, &table, &mut config);
    }
    config.tenants = loader.tenants(&table, &config);
    loader.unknown_variables(&config.tenants);
    loader.problems.extend(cross_check(&config));
    if loader.problems.is_empty() {
        Ok(Loaded {
            config,
            warnings: loader.warnings,
        })
    } else {
        Err(Problems(loader.problems))
    }
}

/// What holds without a file.
pub(super) fn defaults(environment: &Environment) -> Config {
    let mut uids = vec![environment.uid, 0];
    uids.dedup();
    Config {
        socket: environment.socket.clone(),
        socket_group: None,
        shutdown_deadline: std::time::Duration::from_secs(10),
        pin_share: 0.25,
        host: HostConfig {
            capacity_bytes: 1 << 30,
            arena_bytes: None,
            huge_pages: HugePages::Never,
            prefault: Prefault::Start,
            watermark_low: 0.95,
            watermark_high: 0.98,
            policy: kvstore_engine::PolicyKind::S3Fifo,
        },
        nvme: NvmeConfig::default(),
        remote: RemoteConfig::default(),
        events: EventsConfig::default(),
        tracing: TracingConfig::default(),
        access: AccessList {
            uids,
            gids: Vec::new(),
        },
        admin: AdminConfig::default(),
        metrics: MetricsConfig::default(),
        limits: LimitsConfig {
            sessions: 256,
            holds: 1 << 22,
            operations: 1 << 16,
            ring_bytes: 256 << 20,
            handshakes: 64,
            handshake_deadline: std::time::Duration::from_secs(2),
        },
        log: LogConfig {
            level: LogLevel::Info,
            format: LogFormat::Text,
        },
        tenants: Vec::new(),
    }
}

/// The number of the line with the mistake, and the line.
fn syntax_position<'a>(text: &'a str, error: &toml::de::Error) -> (String, &'a str) {
    let index = error
        .span()
        .map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count());
    let line = text.lines().nth(index).unwrap_or("").trim();
    (format!("line {}", 1 + index), line)
}

struct Loader<'a> {
    environment: &'a Environment,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Loader<'_> {
    fn problem(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.problems.push(Problem {
            key: key.into(),
            text: text.into(),
            place: None,
        });
    }

    /// Names every key of the file that means nothing.
    fn unknown_keys(&mut self, table: &Table) {
        let sections: BTreeSet<&str> = KEYS
            .iter()
            .filter_map(|key| Some(key.name.split_once('.')?.0))
            .chain(["tenant"])
            .collect();
        let top: Vec<&str> = KEYS
            .iter()
            .map(|key| key.name)
            .filter(|name| !name.contains('.'))
            .collect();
        for (name, value) in table {
            match value {
                // The tenants' own tables are looked at one by one.
                Value::Table(_) if name == "tenant" => {}
                Value::Table(inner) if sections.contains(name.as_str()) => {
                    let known: Vec<&str> = KEYS
                        .iter()
                        .filter_map(|key| key.name.strip_prefix(name.as_str())?.strip_prefix('.'))
                        .collect();
                    self.unknown_in(inner, &known, &format!("{name}."));
                }
                _ if sections.contains(name.as_str()) => {
                    self.problem(name, format!("want a table [{name}], got {value}"));
                }
                _ if top.contains(&name.as_str()) => {}
                _ => self.unknown(name, name, top.iter().copied().chain(sections.iter().copied())),
            }
        }
    }

    fn unknown_in(&mut self, table: &Table, known: &[&str], prefix: &str) {
        for name in table.keys().filter(|name| !known.contains(&name.as_str())) {
            self.unknown(&format!("{prefix}{name}"), name, known.iter().copied());
        }
    }

    fn unknown<'b>(&mut self, key: &str, name: &str, known: impl Iterator<Item = &'b str>) {
        let text = match closest(name, known) {
            Some(candidate) => {
                let prefix = key.strip_suffix(name).unwrap_or("");
                format!("no such key; did you mean {prefix}{candidate}?")
            }
            None => "no such key".to_owned(),
        };
        self.problem(key, text);
    }

    /// Sets one key from the file, then from the environment. Both are checked, also where one overrides the other.
    fn apply(&mut self, key: &Key, table: &Table, config: &mut Config) {
        if let Some(value) = find(table, key.name)
            && let Err(text) = (key.set)(config, Raw::Toml(value))
        {
            self.problem(key.name, text);
        }
        let variable = key.variable();
        if let Some(value) = self.environment.variables.get(&variable)
            && let Err(text) = (key.set)(config, Raw::Text(value))
        {
            self.problem(format!("{} (from {variable})", key.name), text);
        }
    }

    fn tenants(&mut self, table: &Table, config: &Config) -> Vec<TenantConfig> {
        let own = match table.get("tenant") {
            Some(Value::Table(own)) => own.clone(),
            _ => Table::new(),
        };
        let mut tenants: Vec<TenantConfig> = own
            .iter()
            .filter_map(|(name, value)| self.tenant(name, value, config))
            .collect();
        if own.is_empty() {
            tenants.push(TenantConfig {
                name: "default".to_owned(),
                capacity_bytes: config.host.capacity_bytes,
                nvme_capacity_bytes: None,
                access: config.access.clone(),
            });
        }
        if tenants.len() > TENANTS_MAX {
            self.problem(
                "tenant",
                format!("want at most {TENANTS_MAX} tenants, got {}", tenants.len()),
            );
        }
        tenants.sort_by(|one, two| one.name.cmp(&two.name));
        tenants
    }

    fn tenant(&mut self, name: &str, value: &Value, config: &Config) -> Option<TenantConfig> {
        let key = format!("tenant.{name}");
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(legal) {
            self.problem(
                &key,
                "want a name of 1 to 64 lower-case letters, digits and hyphens",
            );
        }
        let Value::Table(table) = value else {
            self.problem(&key, format!("want a table [{key}], got {value}"));
            return None;
        };
        let known: Vec<&str> = TENANT_KEYS.iter().map(|key| key.name).collect();
        self.unknown_in(table, &known, &format!("{key}."));
        let listed = |list: &str| {
            table.contains_key(list)
                || self
                    .environment
                    .variables
                    .contains_key(&variable(&format!("{key}.{list}")))
        };
        let access = if listed("uids") || listed("gids") {
            AccessList::default()
        } else {
            config.access.clone()
        };
        let mut tenant = TenantConfig {
            name: name.to_owned(),
            capacity_bytes: config.host.capacity_bytes,
            nvme_capacity_bytes: None,
            access,
        };
        for tenant_key in TENANT_KEYS {
            self.apply_tenant(tenant_key, &key, table, &mut tenant);
        }
        Some(tenant)
    }

    fn apply_tenant(&mut self, key: &TenantKey, prefix: &str, table: &Table, tenant: &mut TenantConfig) {
        let name = format!("{prefix}.{}", key.name);
        if let Some(value) = table.get(key.name)
            && let Err(text) = (key.set)(tenant, Raw::Toml(value))
        {
            self.problem(&name, text);
        }
        let variable = variable(&name);
        if let Some(value) = self.environment.variables.get(&variable)
            && let Err(text) = (key.set)(tenant, Raw::Text(value))
        {
            self.problem(format!("{name} (from {variable})"), text);
        }
    }

    /// A variable of one of our sections that means nothing is told, but refuses nothing: container platforms put
    /// variables of their own making into every process.
    fn unknown_variables(&mut self, tenants: &[TenantConfig]) {
        let mut known: BTreeSet<String> = KEYS.iter().map(Key::variable).collect();
        for tenant in tenants {
            known.extend(
                TENANT_KEYS
                    .iter()
                    .map(|key| variable(&format!("tenant.{}.{}", tenant.name, key.name))),
            );
        }
        // The command's own, which a shell or a container may well have set for it.
        known.insert(CLI_SOCKET.to_owned());
        for name in self
            .environment
            .variables
            .keys()
            .filter(|name| !known.contains(*name))
        {
            let ours = [
                "HOST_",
                "NVME_",
                "ACCESS_",
                "ADMIN_",
                "METRICS_",
                "LIMITS_",
                "LOG_",
                "TENANT_",
                "SHUTDOWN_",
            ];
            if let Some(candidate) = closest(name, known.iter().map(String::as_str)) {
                let text = format!("no such key; did you mean {candidate}?");
                self.warnings.push(Problem {
                    key: name.clone(),
                    text,
                    place: None,
                });
            } else if ours
                .iter()
                .any(|section| name["KVTIER_".len()..].starts_with(section))
            {
                self.warnings.push(Problem {
                    key: name.clone(),
                    text: "no such key".to_owned(),
                    place: None,
                });
            }
        }
    }
}

fn find<'a>(table: &'a Table, name: &str) -> Option<&'a Value> {
    match name.split_once('.') {
        Some((section, name)) => table.get(section)?.as_table()?.get(name),
        None => table.get(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The unit's daemon used to listen in its private `/tmp`, where nobody found it.
    #[test]
    fn a_service_listens_in_the_directory_that_it_was_given() {
        let cases = [
            (Some("/run/kvtier"), Some("/run/kvtier/kvtier.sock")),
            (Some("/run/a:/run/b"), Some("/run/a/kvtier.sock")),
            (Some("relative"), None),
            (Some(""), None),
            (None, None),
        ];
        for (directories, socket) in cases {
            assert_eq!(
                service_socket(directories.map(OsString::from)),
                socket.map(PathBuf::from)
            );
        }
    }
}
