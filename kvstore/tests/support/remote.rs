//! A daemon with a remote tier that is made unwell, and what it tells of that.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;

use kvstore_remote::unwell::{BUCKET, Server};

use super::blocks::{CHAIN, Cache};
use super::{Daemon, Place, command, eventually, http};

/// Settings of every daemon here: small memory, and deadlines that a busy machine does not miss.
const SETTINGS: [(&str, &str); 4] = [
    ("KVTIER_HOST_CAPACITY", "8MiB"),
    ("KVTIER_METRICS_LISTEN", "127.0.0.1:0"),
    ("KVTIER_REMOTE_PROMOTION_DEADLINE", "20s"),
    ("KVTIER_REMOTE_WRITE_DEADLINE", "30s"),
];

/// Deadlines that pass soon, where nothing is answered.
pub(crate) const SOON: [(&str, &str); 2] = [
    ("KVTIER_REMOTE_PROMOTION_DEADLINE", "1s"),
    ("KVTIER_REMOTE_WRITE_DEADLINE", "1s"),
];

/// Settings of a tier at a directory.
pub(crate) fn mount(directory: &Path) -> Vec<(&'static str, &str)> {
    vec![
        ("KVTIER_REMOTE_KIND", "mount"),
        ("KVTIER_REMOTE_DIRECTORY", directory.to_str().unwrap()),
        ("KVTIER_REMOTE_RESERVE", "none"),
    ]
}

/// Settings of a tier at a server's bucket.
pub(crate) fn bucket(server: &Server) -> Vec<(&'static str, &'static str)> {
    // Leaked: few, and only in tests.
    let text = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    vec![
        ("KVTIER_REMOTE_KIND", "s3"),
        ("KVTIER_REMOTE_BUCKET", BUCKET),
        ("KVTIER_REMOTE_ENDPOINT", text(server.endpoint())),
        ("KVTIER_REMOTE_CREDENTIALS", "file"),
        (
            "KVTIER_REMOTE_CREDENTIALS_FILE",
            text(server.credentials().display().to_string()),
        ),
    ]
}

/// What a cause may be called at first: the answer to a HEAD says that something is denied, and no more.
fn causes(cause: &'static str) -> [&'static str; 2] {
    let at_first = if cause == "credentials" { "denied" } else { cause };
    [cause, at_first]
}

/// The names in a directory.
pub(crate) fn below(directory: &Path) -> Vec<String> {
    let entries = directory.read_dir().unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect()
}

/// A daemon whose remote tier is watched.
pub(crate) struct Watched<'p> {
    place: &'p Place,
    pub(crate) daemon: Daemon,
    metrics: SocketAddr,
}

impl<'p> Watched<'p> {
    pub(crate) fn start(place: &'p Place, settings: &[(&str, &str)]) -> Self {
        let daemon = place.start_with(&[&SETTINGS, settings].concat());
        let metrics = http::address(&daemon);
        Self {
            place,
            daemon,
            metrics,
        }
    }

    pub(crate) fn state(&self) -> String {
        self.daemon.status()["remote"]["state"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) fn state_says(&self, text: &str) {
        eventually(&format!("the state says {text:?}"), || {
            self.state().contains(text).then_some(())
        });
        // People ask by another way, and hear the same.
        let shown = command::shown(self.place, &["tiers"]);
        assert!(shown.contains(text) || self.state() == "serving", "{shown}");
    }

    pub(crate) fn is_serving(&self) {
        eventually("the remote tier is in service", || {
            (self.state() == "serving").then_some(())
        });
    }

    /// All is well again, and that was told.
    pub(crate) fn comes_back(&self) {
        self.is_serving();
        self.daemon.says("the remote store is in service again");
        for way in ["read", "write"] {
            self.is_counted("kvtier_remote_in_service", &[("direction", way)], 1);
        }
        let begun = self.daemon.log().matches("until it answers again").count()
            + self
                .daemon
                .log()
                .matches("nothing is stored until it has")
                .count();
        let ended = self.daemon.log().matches("in service again").count();
        assert_eq!(
            begun, ended,
            "each outage is told when it begins and when it ends"
        );
    }

    pub(crate) fn scrape(&self) -> String {
        http::get(self.metrics, "/metrics", "").1
    }

    /// The value of the one sample that has these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let text = self.scrape();
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        let mut found = text.lines().filter(|line| {
            let is_named = line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{'));
            is_named && labels.iter().all(|label| line.contains(label.as_str()))
        });
        let line = found
            .next()
            .unwrap_or_else(|| panic!("no {name} {labels:?} in {text}"));
        assert_eq!(found.next(), None, "{name} {labels:?}");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    pub(crate) fn is_counted(&self, name: &str, labels: &[(&str, &str)], value: u64) {
        eventually(&format!("{name} {labels:?} is {value}"), || {
            (self.metric(name, labels) == value).then_some(())
        });
    }

    /// Stores prefixes, each time waiting until the remote tier has them.
    pub(crate) fn store_durably(&self, cache: &mut Cache, chains: Range<u32>) {
        for chain in chains {
            assert_eq!(cache.store(chain..chain + 1), CHAIN);
            self.is_stored();
        }
    }

    pub(crate) fn is_stored(&self) {
        eventually("everything is stored", || {
            let waiting =
                self.daemon.occupancy("remote_queue") + self.daemon.occupancy("remote_stores_in_flight");
            (waiting == 0).then_some(())
        });
    }

    fn outages(&self, way: &str) -> u64 {
        self.daemon.status()["remote"]["outages"][way].as_u64().unwrap()
    }

    /// Uses the tier until reading from it has failed so often that it is out of service for this cause. All the while
    /// look-ups are answered, and what is in memory is found.
    pub(crate) fn reads_fail(&self, cache: &mut Cache, cause: &'static str) {
        let before = self.outages("read");
        let mut chain = 10_000;
        eventually("reads are out of service", || {
            chain += 1;
            assert_eq!(cache.store(chain..chain + 1), CHAIN);
            assert_eq!(cache.load(chain), CHAIN, "memory goes on");
            assert_eq!(cache.load(chain + 10_000), 0, "nobody has ever stored it");
            for old in 0..4 {
                assert!(cache.load(old) <= CHAIN);
            }
            (self.outages("read") > before).then_some(())
        });
        self.was_told("read", cause);
    }

    /// The same in both directions.
    pub(crate) fn goes_out_of_service(&self, cache: &mut Cache, [read, write]: [&'static str; 2]) {
        let before = self.outages("write");
        self.reads_fail(cache, read);
        let mut chain = 30_000;
        eventually("writes are out of service", || {
            chain += 1;
            assert_eq!(cache.store(chain..chain + 1), CHAIN, "memory takes it");
            (self.outages("write") > before).then_some(())
        });
        self.was_told("write", write);
    }

    /// The log, the metrics and the counters say what it was.
    fn was_told(&self, way: &str, cause: &'static str) {
        eventually(&format!("{cause} is counted"), || {
            let kinds = causes(cause).into_iter();
            let counted = kinds.map(|kind| self.metric("kvtier_remote_faults_total", &[("kind", kind)]));
            (counted.sum::<u64>() > 0).then_some(())
        });
        let log = self.daemon.log();
        let told = log.lines().rev().find(|line| {
            line.contains("the remote store is out of service")
                && line.contains(&format!("direction=\"{way}\""))
        });
        let told = told.unwrap_or_else(|| panic!("{way} {cause} is not told"));
        let is_named = |cause: &&str| told.contains(&format!("cause=\"{cause}\""));
        assert!(causes(cause).iter().any(is_named), "{told}");
        // It may have answered a probe since.
        let status = self.daemon.status();
        let outage = &status["remote"]["outage"][way];
        let is_named = causes(cause).iter().any(|cause| outage["cause"] == *cause);
        assert!(outage.is_null() || is_named, "{outage}");
    }
}
