//! What is announced to routers: its settings and its keys.

use std::time::Duration;

use kvstore_events::{Address, Encoding, Identity, PublisherConfig};

use super::Config;
use super::keys::{Key, quoted};
use super::read::{self, Choice, Raw};
use super::units::format_duration;

/// Most blocks in one message.
const BATCH_BLOCKS_MAX: usize = 16_384;
/// Most blocks announced per second.
const ANNOUNCE_RATE_MAX: usize = 100_000_000;
/// Longest name of a medium or an identity.
const NAME_BYTES_MAX: usize = 128;

/// What is announced, as whom and to whom.
#[derive(Clone, Debug, PartialEq)]
pub struct EventsConfig {
    /// Where, and how.
    pub publisher: PublisherConfig,
    /// As whom.
    pub identities: Vec<Identity>,
    /// How long changes are collected before they are told.
    pub batch_delay: Duration,
    /// Whether engines are told what becomes of their blocks.
    pub relay: RelayMode,
    /// Whether a record of events is kept for watchers.
    pub watch: WatchMode,
}

/// Whether engines are told what becomes of their blocks, to pass it on to routers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayMode {
    /// No.
    Never,
    /// Those that ask for it.
    OnRequest,
}

impl Choice for RelayMode {
    const NAMES: &'static [(&'static str, Self)] = &[("never", Self::Never), ("on-request", Self::OnRequest)];
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            publisher: PublisherConfig {
                connect: Vec::new(),
                bind: Vec::new(),
                replay: None,
                media: ["cpu", "storage", "storage"].map(str::to_owned),
                encoding: Encoding::Array,
                batch_blocks: 512,
                announce_rate: 50_000,
            },
            identities: vec![Identity::Pods],
            batch_delay: Duration::from_millis(10),
            relay: RelayMode::Never,
            watch: WatchMode::Off,
        }
    }
}

/// Whether a record of events is kept for watchers where nothing is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchMode {
    /// Only while blocks are announced to routers.
    Off,
    /// Always.
    On,
}

impl Choice for WatchMode {
    const NAMES: &'static [(&'static str, Self)] = &[("off", Self::Off), ("on", Self::On)];
}

impl Choice for Encoding {
    const NAMES: &'static [(&'static str, Self)] = &[("array", Self::Array), ("map", Self::Map)];
}

/// The first address that is there more than once.
fn twice<'a>(addresses: impl Iterator<Item = &'a Address>) -> Option<String> {
    let mut addresses: Vec<String> = addresses.map(ToString::to_string).collect();
    addresses.sort();
    let [twice, _] = addresses.array_windows().find(|[one, other]| one == other)?;
    Some(twice.clone())
}

/// What only shows when several keys are seen together, each with the key to blame.
pub(super) fn check(config: &Config) -> Vec<(String, String)> {
    let (events, publisher) = (&config.events, &config.events.publisher);
    let mut problems = Vec::new();
    let mut problem = |key: &str, text: String| problems.push((key.to_owned(), text));
    if let Some(address) = publisher.connect.iter().find(|address| address.is_wildcard()) {
        let text =
            format!("want the addresses of routers, got {address}, which is every interface of this machine");
        problem("events.connect", text);
    }
    if let Some(twice) = twice(publisher.bind.iter().chain(&publisher.replay)) {
        problem("events.bind", format!("{twice} is listened on twice"));
    }
    if let Some(twice) = twice(publisher.connect.iter()) {
        let text = format!("want each router once, got {twice} twice: it would count each block twice");
        problem("events.connect", text);
    }
    if publisher.replay.is_some() && publisher.bind.is_empty() {
        let text = "want events.bind as well: what is replayed is what bound sockets have sent";
        problem("events.replay", text.to_owned());
    }
    let is_pool = |identity: &Identity| matches!(identity, Identity::Pool(_));
    if publisher.publishes() && events.identities.is_empty() {
        let text = "want at least one, or nothing is announced to the routers that are named";
        problem("events.identities", text.to_owned());
    } else if !events.identities.is_empty() && events.identities.iter().all(is_pool) {
        let text = "want \"pods\" or \"node:NAME\" beside a pool: a router learns from them which block follows which";
        problem("events.identities", text.to_owned());
    }
    problems
}

/// A list of texts.
pub(super) fn texts(raw: Raw<'_>) -> Option<Vec<String>> {
    match raw {
        Raw::Toml(toml::Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect(),
        Raw::Toml(_) => None,
        Raw::Text(text) => Some(
            text.split(',')
                .map(str::trim)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
                .collect(),
        ),
    }
}

fn addresses(raw: Raw<'_>) -> Result<Vec<Address>, String> {
    let texts = texts(raw).ok_or("want a list of addresses such as [\"tcp://router.example:5557\"]")?;
    let read = |text: String| -> Result<Address, String> {
        text.parse().map_err(|error| format!("{error}, got {text:?}"))
    };
    texts.into_iter().map(read).collect()
}

fn replay(raw: Raw<'_>) -> Result<Option<Address>, String> {
    let text = read::text(raw).unwrap_or_default();
    if text == "none" {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|error| format!("{error}, or \"none\", got {text:?}"))
}

fn is_name(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/');
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.chars().all(is_plain)
}

fn identities(raw: Raw<'_>) -> Result<Vec<Identity>, String> {
    let want = "want a list of \"pods\", \"node:NAME\" and \"pool:NAME\", each once, NAME of letters, digits and \"-_.:/\"";
    let mut identities = Vec::new();
    for text in texts(raw).ok_or(want)? {
        let identity = match text.split_once(':') {
            None if text == "pods" => Identity::Pods,
            Some(("node", name)) if is_name(name) => Identity::Node(name.to_owned()),
            Some(("pool", name)) if is_name(name) => Identity::Pool(name.to_owned()),
            _ => return Err(format!("{want}, got {text:?}")),
        };
        if identities.contains(&identity) {
            return Err(format!("{want}, got {text:?} twice"));
        }
        identities.push(identity);
    }
    Ok(identities)
}

fn show_identity(identity: &Identity) -> String {
    match identity {
        Identity::Pods => "pods".to_owned(),
        Identity::Node(name) => format!("node:{name}"),
        Identity::Pool(name) => format!("pool:{name}"),
    }
}

fn medium(raw: Raw<'_>) -> Result<String, String> {
    let text = read::text(raw).unwrap_or_default();
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "want a name of letters, digits and \"-_.:/\", of 1 to {NAME_BYTES_MAX} bytes, got {text:?}"
        ))
    }
}

pub(super) fn show_list(items: impl Iterator<Item = String>) -> String {
    toml::Value::Array(items.map(toml::Value::String).collect()).to_string()
}

const MEDIUM_BOUNDS: &str = "a name of letters, digits and \"-_.:/\"";

pub(super) const CONNECT: Key = Key {
    name: "events.connect",
    default: "[]",
    bounds: "a list of addresses such as \"tcp://router.example:5557\" (comma-separated in the environment)",
    doc: "Routers that listen for publishers (llm-d's zmqEndpoint), each told everything by itself. See docs/events.md.",
    set: |config, raw| addresses(raw).map(|list| config.events.publisher.connect = list),
    show: |config| {
        Some(show_list(
            config.events.publisher.connect.iter().map(ToString::to_string),
        ))
    },
};
pub(super) const BIND: Key = Key {
    name: "events.bind",
    default: "[]",
    bounds: "a list of addresses such as \"tcp://*:5557\" (comma-separated in the environment)",
    doc: "Where to listen for routers that dial. Whoever can reach the port can read which blocks there are and of which \
          tokens: let only routers reach it.",
    set: |config, raw| addresses(raw).map(|list| config.events.publisher.bind = list),
    show: |config| {
        Some(show_list(
            config.events.publisher.bind.iter().map(ToString::to_string),
        ))
    },
};
pub(super) const REPLAY: Key = Key {
    name: "events.replay",
    default: "none",
    bounds: "\"none\", or an address such as \"tcp://*:5558\"",
    doc: "Where to listen for requests to send messages of a bound socket again, as vLLM's replay socket does.",
    set: |config, raw| replay(raw).map(|address| config.events.publisher.replay = address),
    show: |config| {
        let replay = config.events.publisher.replay.as_ref();
        Some(quoted(
            replay.map_or_else(|| "none".to_owned(), ToString::to_string),
        ))
    },
};
pub(super) const RELAY: Key = Key {
    name: "events.relay",
    default: "never",
    bounds: "\"never\" or \"on-request\"",
    doc: "Whether an engine that asks for it (connector setting relay_events) is told what becomes of its blocks, so that \
          its own publisher passes it on, for routers that only dial engines. Such an engine is not announced as one of \
          the \"pods\" beside it.",
    set: |config, raw| read::choice(raw).map(|relay| config.events.relay = relay),
    show: |config| Some(quoted(config.events.relay.name())),
};
pub(super) const IDENTITIES: Key = Key {
    name: "events.identities",
    default: "[\"pods\"]",
    bounds: "a list of \"pods\", \"node:NAME\" and \"pool:NAME\" (comma-separated in the environment)",
    doc: "As whom blocks are announced. \"pods\": as each attached engine, by the address it gave; every router understands \
          it. \"node:NAME\" and \"pool:NAME\": as this node, and as the remote tier's pool, for routers that know such names.",
    set: |config, raw| identities(raw).map(|list| config.events.identities = list),
    show: |config| Some(show_list(config.events.identities.iter().map(show_identity))),
};
pub(super) const HOST_MEDIUM: Key = Key {
    name: "events.host-medium",
    default: "cpu",
    bounds: MEDIUM_BOUNDS,
    doc: "What routers are told of blocks in memory. A router weighs media by their names; tiers with one name are one \
          medium.",
    set: |config, raw| medium(raw).map(|name| config.events.publisher.media[0] = name),
    show: |config| Some(quoted(&config.events.publisher.media[0])),
};
pub(super) const NVME_MEDIUM: Key = Key {
    name: "events.nvme-medium",
    default: "storage",
    bounds: MEDIUM_BOUNDS,
    doc: "What routers are told of blocks on NVMe.",
    set: |config, raw| medium(raw).map(|name| config.events.publisher.media[1] = name),
    show: |config| Some(quoted(&config.events.publisher.media[1])),
};
pub(super) const REMOTE_MEDIUM: Key = Key {
    name: "events.remote-medium",
    default: "storage",
    bounds: MEDIUM_BOUNDS,
    doc: "What routers are told of blocks in the remote tier.",
    set: |config, raw| medium(raw).map(|name| config.events.publisher.media[2] = name),
    show: |config| Some(quoted(&config.events.publisher.media[2])),
};
pub(super) const ENCODING: Key = Key {
    name: "events.encoding",
    default: "array",
    bounds: "\"array\" or \"map\"",
    doc: "The form of events: values by position, which every router reads, or by name as vLLM writes them since 0.26, \
          with the locality of the medium.",
    set: |config, raw| read::choice(raw).map(|encoding| config.events.publisher.encoding = encoding),
    show: |config| Some(quoted(config.events.publisher.encoding.name())),
};
pub(super) const BATCH_BLOCKS: Key = Key {
    name: "events.batch-blocks",
    default: "512",
    bounds: "1 to 16384",
    doc: "Most changes told in one message.",
    set: |config, raw| {
        read::count(raw, 1, BATCH_BLOCKS_MAX).map(|count| config.events.publisher.batch_blocks = count)
    },
    show: |config| Some(config.events.publisher.batch_blocks.to_string()),
};
pub(super) const BATCH_DELAY: Key = Key {
    name: "events.batch-delay",
    default: "10ms",
    bounds: "0s to 10s",
    doc: "How long changes are collected before they are told.",
    set: |config, raw| {
        read::duration(raw, Duration::ZERO, Duration::from_secs(10))
            .map(|delay| config.events.batch_delay = delay)
    },
    show: |config| Some(quoted(format_duration(config.events.batch_delay))),
};
pub(super) const WATCH: Key = Key {
    name: "events.watch",
    default: "off",
    bounds: "\"off\" or \"on\"",
    doc: "Whether a record of all blocks is kept for `kvtier events` and others who watch over the admin API, which takes memory \
          for each block. While blocks are announced to routers it is kept in any case.",
    set: |config, raw| read::choice(raw).map(|mode| config.events.watch = mode),
    show: |config| Some(quoted(config.events.watch.name())),
};
pub(super) const ANNOUNCE_RATE: Key = Key {
    name: "events.announce-rate",
    default: "50000",
    bounds: "100 to 100000000",
    doc: "Blocks per second when everything is announced to a router, which happens when it subscribes and when it has missed \
          something. Changes are told beside it as they come.",
    set: |config, raw| {
        read::count(raw, 100, ANNOUNCE_RATE_MAX)
            .map(|rate| config.events.publisher.announce_rate = u32::try_from(rate).unwrap_or(u32::MAX))
    },
    show: |config| Some(config.events.publisher.announce_rate.to_string()),
};
