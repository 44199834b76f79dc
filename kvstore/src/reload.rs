//! What changes while the daemon runs: when the configuration is read again, and when an administrator sets a value.
//!
//! Everything is checked before anything changes. Of a file that was read again, what can change at run time does; the
//! rest is named, and holds after the next start. A capacity was written for the directories beside it: where those change
//! it waits with them. A value that an administrator sets and that cannot change is refused.
//! What was set holds until the daemon is started again or reads its file again.

mod room;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kvstore_engine::NvmeTuning;
use tokio::sync::watch;
use tracing::{error, warn};

pub(crate) use self::room::Grown;
pub(crate) use self::words::plain;
use crate::config::{Config, NvmeLayout, Problems, Source, change, effective};
use crate::engine_thread::EngineThread;
use crate::engine_thread::command::Command;
use crate::explain::explain;
use crate::logs::Log;
use crate::remote;

/// Keys that can change while the daemon runs, beside `tenant.NAME.nvme-capacity`.
const RELOADABLE: [&str; 15] = [
    "host.watermark-low",
    "host.watermark-high",
    "nvme.capacity",
    "nvme.admission",
    "nvme.write-rate",
    "nvme.watermark-low",
    "nvme.watermark-high",
    "nvme.scrub-rate",
    "remote.capacity",
    "remote.age-max",
    "remote.reserve",
    "remote.reads",
    "remote.writes",
    "remote.write-deadline",
    "log.level",
];

const CAPACITY: &str = "nvme.capacity";
/// What the keys of the tenants' own shares end with.
const SHARE: &str = ".nvme-capacity";

/// What is different in a configuration that was read again.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// What holds from now on.
    pub(crate) config: Config,
    /// How each tenant's share is divided from now on, in the order of the tenants.
    pub(crate) layouts: Vec<Option<NvmeLayout>>,
    /// Keys that change now.
    pub(crate) applied: Vec<Difference>,
    /// Keys that will change with the next start.
    pub(crate) waiting: Vec<Difference>,
}

/// One value that is another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Whose.
    pub(crate) key: String,
    /// As TOML.
    pub(crate) before: String,
    /// As TOML.
    pub(crate) after: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} -> {}",
            self.key,
            plain(&self.before),
            plain(&self.after)
        )
    }
}

/// A value that was set, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    /// What changes.
    pub(crate) difference: Difference,
    /// What follows from it.
    pub(crate) explanation: String,
    /// What may come to use more of its file system.
    pub(crate) grown: Vec<Grown>,
}

/// Why nothing was set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SetError {
    /// The values make no sense.
    #[error(transparent)]
    Problems(#[from] Problems),
    /// They make sense, but not while the daemon runs.
    #[error("{}: cannot change while the daemon runs; set it in the configuration file and start the daemon again. Can \
             change: {}, tenant.NAME.nvme-capacity", .0.join(", "), RELOADABLE.join(", "))]
    NeedsRestart(Vec<String>),
    /// They do not go with what is on disk.
    #[error("{0}")]
    DoesNotFit(String),
}

/// Whether a key can change while the daemon runs.
pub(crate) fn is_live(key: &str) -> bool {
    let of_tenant = key.starts_with("tenant.") && key.ends_with(".nvme-capacity");
    RELOADABLE.contains(&key) || of_tenant
}

impl Change {
    /// Compares what runs with what was read. An error: it cannot run with what it has on disk.
    pub(crate) fn between(
        running: &Config,
        layouts: &[Option<NvmeLayout>],
        wanted: &Config,
    ) -> Result<Self, String> {
        let config = merged(running, wanted);
        let mut problems = Vec::new();
        let layouts = config
            .tenants
            .iter()
            .zip(layouts)
            .map(|(tenant, layout)| {
                let layout = layout.as_ref()?.resized(tenant.nvme_share_bytes(&config));
                problems.extend(
                    layout
                        .problem()
                        .map(|text| format!("nvme.capacity (tenant {}): {text}", tenant.name)),
                );
                Some(layout)
            })
            .collect();
        if !problems.is_empty() {
            return Err(problems.join("; "));
        }
        let (mut applied, mut waiting) = (Vec::new(), Vec::new());
        let (old, new) = (values(running), values(wanted));
        for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
            let (before, after) = (old.get(key), new.get(key));
            if before == after {
                continue;
            }
            let shown = |value: Option<&String>| value.cloned().unwrap_or_else(|| "(not set)".to_owned());
            let difference = Difference {
                key: key.clone(),
                before: shown(before),
                after: shown(after),
            };
            let tenant_runs = |key: &str| {
                running
                    .tenants
                    .iter()
                    .any(|tenant| *key == share_key(&tenant.name))
            };
            let waits = is_share(key) && running.nvme.directories != wanted.nvme.directories;
            if !waits && (RELOADABLE.contains(&key.as_str()) || tenant_runs(key)) {
                applied.push(difference);
            } else {
                waiting.push(difference);
            }
        }
        Ok(Self {
            config,
            layouts,
            applied,
            waiting,
        })
    }

    /// The new settings of one tenant's NVMe tier, if it has one.
    pub(crate) fn tuning(&self, tenant: usize) -> Option<NvmeTuning> {
        let layout = self.layouts.get(tenant)?.as_ref()?;
        Some(self.config.nvme.tuning(layout))
    }
}

/// Reads the configuration again when it is told to.
pub(crate) struct Reloader<'a> {
    source: &'a Source,
    log: &'a Log,
    running: Config,
    layouts: Vec<Option<NvmeLayout>>,
    shown: watch::Sender<Arc<Config>>,
}

impl<'a> Reloader<'a> {
    /// `config` is what runs, and `shown` hears what does after each change.
    pub(crate) fn new(
        source: &'a Source,
        log: &'a Log,
        config: &Config,
        layouts: Vec<Option<NvmeLayout>>,
        shown: watch::Sender<Arc<Config>>,
    ) -> Self {
        Self {
            source,
            log,
            running: config.clone(),
            layouts,
            shown,
        }
    }

    /// Reads, checks and applies; says what became of it. `threads` are the tenants' in the order of the configuration.
    pub(crate) fn reload(&mut self, threads: &[EngineThread]) {
        let bad = |problems: String| {
            error!(
                problems,
                "the configuration was read again and cannot be used: nothing changes"
            );
        };
        let loaded = match self.source.load() {
            Ok(loaded) => loaded,
            Err(problems) => return bad(problems.to_string().replace('\n', "; ")),
        };
        for warning in &loaded.warnings {
            warn!(key = warning.key, "{}", warning.text);
        }
        let change = match Change::between(&self.running, &self.layouts, &loaded.config) {
            Ok(change) => change,
            Err(problems) => return bad(problems),
        };
        words::tell(&change);
        self.apply(change, threads);
    }

    /// Sets values, keys as in the file; or says what that would do.
    pub(crate) fn set(
        &mut self,
        settings: &BTreeMap<String, String>,
        is_dry_run: bool,
        threads: &[EngineThread],
    ) -> Result<Vec<Set>, SetError> {
        let wanted = change(&self.running, settings)?;
        let change = Change::between(&self.running, &self.layouts, &wanted).map_err(SetError::DoesNotFit)?;
        if !change.waiting.is_empty() {
            let keys = change.waiting.into_iter().map(|difference| difference.key);
            return Err(SetError::NeedsRestart(keys.collect()));
        }
        let shown = change.applied.iter().map(|difference| Set {
            difference: difference.clone(),
            explanation: explain(&difference.key, &self.layouts, &change),
            grown: if is_share(&difference.key) {
                room::grown(&self.layouts, &change)
            } else {
                Vec::new()
            },
        });
        let shown = shown.collect();
        if !is_dry_run {
            self.apply(change, threads);
        }
        Ok(shown)
    }

    fn apply(&mut self, change: Change, threads: &[EngineThread]) {
        self.log.set_level(change.config.log.level);
        if !change.applied.is_empty() {
            let host = &change.config.host;
            for (index, thread) in threads.iter().enumerate() {
                thread.commands.send(Command::TuneHost {
                    watermark_low: host.watermark_low,
                    watermark_high: host.watermark_high,
                });
                thread
                    .commands
                    .send(Command::TuneRemote(remote::tuning(&change.config.remote)));
                if let Some(tuning) = change.tuning(index) {
                    thread.commands.send(Command::Tune(tuning));
                }
            }
            room::compare(room::grown(&self.layouts, &change));
        }
        (self.running, self.layouts) = (change.config, change.layouts);
        self.shown.send_replace(Arc::new(self.running.clone()));
    }
}

fn is_share(key: &str) -> bool {
    key == CAPACITY || key.ends_with(SHARE)
}

fn share_key(tenant: &str) -> String {
    format!("tenant.{tenant}{SHARE}")
}

fn values(config: &Config) -> BTreeMap<String, String> {
    effective(config).into_iter().collect()
}

/// What runs, with everything that can change taken from what is wanted.
fn merged(running: &Config, wanted: &Config) -> Config {
    let mut config = running.clone();
    config.host.watermark_low = wanted.host.watermark_low;
    config.host.watermark_high = wanted.host.watermark_high;
    config.nvme.admission = wanted.nvme.admission;
    config.nvme.write_rate = wanted.nvme.write_rate;
    config.nvme.watermark_low = wanted.nvme.watermark_low;
    config.nvme.watermark_high = wanted.nvme.watermark_high;
    config.nvme.scrub_rate = wanted.nvme.scrub_rate;
    config.remote.capacity_bytes = wanted.remote.capacity_bytes;
    config.remote.age_max = wanted.remote.age_max;
    config.remote.reserve = wanted.remote.reserve;
    config.remote.reads = wanted.remote.reads;
    config.remote.writes = wanted.remote.writes;
    config.remote.write_deadline = wanted.remote.write_deadline;
    config.log.level = wanted.log.level;
    if running.nvme.directories != wanted.nvme.directories {
        return config;
    }
    config.nvme.capacity_bytes = wanted.nvme.capacity_bytes;
    for tenant in &mut config.tenants {
        if let Some(same) = wanted.tenants.iter().find(|wanted| wanted.name == tenant.name) {
            tenant.nvme_capacity_bytes = same.nvme_capacity_bytes;
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::words::joined;
    use super::*;
    use crate::config::{Environment, load};

    fn config(text: &str) -> Config {
        let text = format!("socket = \"/s\"\n{text}");
        load(&text, &Environment::default()).unwrap().config
    }

    fn layouts(config: &Config) -> Vec<Option<NvmeLayout>> {
        let layout = |tenant| Some(NvmeLayout::new(tenant, config, None));
        config.tenants.iter().map(layout).collect()
    }

    #[test]
    fn what_can_change_changes_and_the_rest_is_named() {
        let running = config("[nvme]\ndirectories = [\"/d\"]\nwrite-rate = \"1MiB\"");
        let wanted = config(
            "[nvme]\ndirectories = [\"/d\"]\ncapacity = \"5GiB\"\ndepth = 8\nadmission = \"second-touch\"\n[host]\n\
             capacity = \"2GiB\"",
        );
        let change = Change::between(&running, &layouts(&running), &wanted).unwrap();
        let shown: Vec<String> = change.applied.iter().map(Difference::to_string).collect();
        assert_eq!(
            shown,
            [
                "nvme.admission: all -> second-touch",
                "nvme.capacity: 10GiB -> 5GiB",
                "nvme.write-rate: 1MiB -> 0",
            ]
        );
        let keys: Vec<&str> = change
            .waiting
            .iter()
            .map(|difference| difference.key.as_str())
            .collect();
        assert_eq!(keys, ["host.capacity", "nvme.depth", "tenant.default.capacity"]);
        assert_eq!(change.config.nvme.depth, running.nvme.depth);
        let tuning = change.tuning(0).unwrap();
        assert_eq!(tuning.write_rate, None);
        let before = layouts(&running)[0].unwrap();
        let after = change.layouts[0].unwrap();
        assert_eq!(after.segment_bytes, before.segment_bytes);
        // What the catalogue may have was said when it was opened, and is part of the bound.
        let bytes = u64::from(tuning.segments_max) * before.segment_bytes + before.catalogue_bytes_max;
        assert!(bytes <= 5 << 30 && bytes + before.segment_bytes > 5 << 30);
    }

    #[test]
    fn nothing_changes_if_too_few_segments_would_be_left() {
        let running = config("[nvme]\ndirectories = [\"/d\"]");
        let wanted =
            config("[nvme]\ndirectories = [\"/d\"]\ncapacity = \"600MiB\"\n[host]\ncapacity = \"64MiB\"");
        let error = Change::between(&running, &layouts(&running), &wanted).unwrap_err();
        assert!(
            error.contains("want room for at least 4 segments of 160MiB"),
            "{error}"
        );
    }

    /// A file that was half written, with other directories and the default capacity, used to grow the tier at once.
    #[test]
    fn a_capacity_waits_for_the_next_start_with_the_directories_beside_it() {
        let running = config(
            "[nvme]\ndirectories = [\"/d\"]\ncapacity = \"5GiB\"\n[tenant.a]\nnvme-capacity = \"1GiB\"",
        );
        let wanted = config(
            "[nvme]\ndirectories = [\"/e\"]\nadmission = \"second-touch\"\n[tenant.a]\nnvme-capacity = \"3GiB\"",
        );
        let change = Change::between(&running, &layouts(&running), &wanted).unwrap();
        assert_eq!(joined(&change.applied), "nvme.admission: all -> second-touch");
        assert_eq!(change.waiting.len(), 3, "{:?}", change.waiting);
        assert_eq!(change.layouts, layouts(&running));
        assert_eq!(change.config.nvme.capacity_bytes, 5 << 30);
        // With the directories that run it would have changed.
        let wanted = Config {
            nvme: crate::config::NvmeConfig {
                directories: running.nvme.directories.clone(),
                ..wanted.nvme
            },
            ..wanted
        };
        let change = Change::between(&running, &layouts(&running), &wanted).unwrap();
        assert_eq!(
            (change.applied.len(), change.config.nvme.capacity_bytes),
            (3, 10 << 30)
        );
    }

    #[test]
    fn tenants_that_come_or_go_wait_for_the_next_start() {
        let running = config("[nvme]\ndirectories = [\"/d\"]\n[tenant.a]\n[tenant.b]");
        let wanted =
            config("[nvme]\ndirectories = [\"/d\"]\n[tenant.a]\nnvme-capacity = \"2GiB\"\n[tenant.c]");
        let change = Change::between(&running, &layouts(&running), &wanted).unwrap();
        assert_eq!(
            joined(&change.applied),
            "tenant.a.nvme-capacity: (not set) -> 2GiB"
        );
        assert!(
            change
                .waiting
                .iter()
                .all(|difference| difference.key.starts_with("tenant.b.")
                    || difference.key.starts_with("tenant.c."))
        );
        assert_eq!(change.layouts[1].unwrap().share_bytes, 8 << 30);
    }

    #[test]
    fn bounds_of_the_remote_tier_change_and_where_it_is_does_not() {
        let running = config("[remote]\nkind = \"mount\"\ndirectory = \"/d\"");
        let wanted = config(
            "[remote]\nkind = \"mount\"\ndirectory = \"/e\"\ncapacity = \"1TiB\"\nage-max = \"1h\"\nreserve = \"5%\"\nreads = 8\n\
             writes = 4\nwrite-deadline = \"5s\"\nio = \"threads\"",
        );
        let change = Change::between(&running, &[None], &wanted).unwrap();
        assert_eq!(change.applied.len(), 6, "{:?}", change.applied);
        let keys = change.waiting.iter().map(|difference| difference.key.as_str());
        assert_eq!(keys.collect::<Vec<_>>(), ["remote.directory", "remote.io"]);
        assert_eq!(
            remote::tuning(&change.config.remote),
            remote::tuning(&wanted.remote)
        );
        assert_eq!(change.config.remote.directory, running.remote.directory);
    }

    #[test]
    fn the_same_configuration_changes_nothing() {
        let running = config("");
        let change = Change::between(&running, &[None], &running).unwrap();
        assert_eq!((change.applied.len(), change.waiting.len()), (0, 0));
        assert_eq!(change.tuning(0), None);
    }
}
