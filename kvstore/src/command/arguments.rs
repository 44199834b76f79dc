//! The command line of `kvtier`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, ValueEnum};

use super::events::WatchedTier;
use super::place::{NamedBy, Place, TlsPlace};
use super::remote::RemoteCommand;
use crate::config::{CLI_SOCKET, admin_socket_beside, parse_duration, parse_size};
use crate::tls::{Files, PemFile};

/// Looks after a kvtier daemon.
#[derive(Debug, Parser)]
#[command(name = "kvtier", version, after_help = AFTER_HELP)]
pub struct Arguments {
    #[command(subcommand)]
    pub(super) command: Subcommand,
}

const AFTER_HELP: &str = "\
Exit codes:
   0  done; also if whoever reads the output has gone away
   1  the daemon or the remote store cannot be asked; fsck: something is wrong in a directory (with --repair: a second look
      still finds it)
   2  fsck: a directory could not be checked
   3  lookup: a block is nowhere that this node knows of; drain: not over in time; remote gc: another node has the lease, or a signal came
  64  bad command line or configuration, or what was asked for makes no sense
  71  the output could not be written
  77  this user may not do that: the daemon does not let it, or it may not reach the socket or read the directory

Environment:
  KVTIER_CLI_SOCKET    where the daemon's admin API is, if not beside its other socket
  KVTIER_ADMIN_SOCKET  the same, where it is set for the daemon already
  KVTIER_SOCKET        the daemon's other socket";

#[derive(Debug, clap::Subcommand)]
pub(super) enum Subcommand {
    /// Shows what a running daemon is, holds and counts.
    Status(StatusOptions),
    /// Shows what a daemon does right now: occupancy, hit ratios, throughput, what is under way, latencies; with --json a line for each
    /// interval.
    Top(TopOptions),
    /// Shows how full each tier is and what came, hit and left.
    Tiers(ListOptions),
    /// Shows each NVMe directory and each remote tier: state, room, operations and latencies.
    Devices(ListOptions),
    /// Shows the namespaces: how many blocks each has here, and whether they are hit; with the first digits of one, its model too.
    Namespaces(NamespaceOptions),
    /// Shows who is attached and what each holds.
    Sessions(ListOptions),
    /// Shows in which tiers blocks are, as far as this node knows: exit code 0, or 3 if it knows of none. Neither holds nor warms
    /// anything, and does not ask the remote store: `remote ls` does.
    Lookup(LookupOptions),
    /// Shows which blocks are where, and with --follow every change of it: for people, or as a JSON object a line.
    Events(EventsOptions),
    /// Changes settings while the daemon runs, until it is started again or reads its configuration again.
    Set(SetOptions),
    /// Lets the blocks of a namespace, of a prefix, or all, leave host memory, NVMe or both; with --tier remote the store that all nodes
    /// share, and for all of them.
    Evict(EvictOptions),
    /// Keeps the blocks of a namespace or of a prefix from leaving, as far as pin-share allows.
    Pin(PinOptions),
    /// Shows what is pinned.
    Pins(ListOptions),
    /// Ends a pin. Its blocks stay until their turn comes.
    Unpin(UnpinOptions),
    /// Takes no more stores until the daemon is started again, and waits until nothing is under way: exit code 0, or 3 if that
    /// is not so in time.
    Drain(DrainOptions),
    /// Checks a configuration and touches nothing: exit code 0 if it is sound, 64 if not.
    CheckConfig {
        /// The file; without one, only the environment is checked.
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// It is for another machine: credentials and certificates of the remote tier are not looked for here.
        #[arg(long)]
        elsewhere: bool,
        /// Prints a file that sets everything to its default.
        #[arg(long, conflicts_with_all = ["file", "elsewhere"])]
        print_default: bool,
    },
    /// Checks NVMe directories that no daemon uses: exit code 0 if all is well, 1 if something is wrong, 2 if a directory
    /// could not be checked.
    ///
    /// With --repair what was wrong is looked at again: exit code 0 as well if all of it is mended, 1 if something remains.
    Fsck {
        /// Repairs what can be repaired: writes the catalogue anew from the blocks that are good, deletes half-made
        /// files. Blocks are never changed; those that are not good are misses.
        #[arg(long)]
        repair: bool,
        /// Looks at headers only, which takes a fraction of the time.
        #[arg(long)]
        no_payloads: bool,
        /// An array with an object for each directory.
        #[arg(long)]
        json: bool,
        /// A directory of nvme.directories (all tenants in it), or one tenant's directory in it.
        #[arg(value_name = "DIR", required = true)]
        directories: Vec<PathBuf>,
    },
    /// Looks at what nodes share in the remote tier, and clears it up. No daemon is needed.
    Remote {
        /// What to do.
        #[command(subcommand)]
        command: RemoteCommand,
    },
    /// Computes which tier sizes give which hit ratio for a trace or a mix of requests. Asks no daemon.
    ///
    /// Exact for LRU caches, of all sizes at once. Without --trace the requests are made up: conversations that begin with the same
    /// instructions and go on in turns, in random order, the same each time.
    Plan(PlanOptions),
    /// Prints a script that completes this command's words in a shell.
    Completions {
        /// Which shell.
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Writes the manual pages of kvtier and kvtierd into a directory.
    #[command(hide = true)]
    Man {
        /// Made if it is missing.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

/// How to reach the daemon, and how to show what it says.
#[derive(Debug, Args)]
pub(super) struct DaemonOptions {
    /// The answer as JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// Where the daemon's admin API is.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Where it is on another machine, which has admin.listen set.
    #[arg(
        long,
        value_name = "https://HOST:PORT",
        conflicts_with = "socket",
        requires = "tls_ca",
        requires = "tls_certificate",
        requires = "tls_key"
    )]
    address: Option<String>,
    /// The CA of the daemon's certificate, which has to name HOST (PEM).
    #[arg(long, value_name = "FILE", requires = "address")]
    tls_ca: Option<PathBuf>,
    /// The certificate to show (PEM).
    #[arg(long, value_name = "FILE", requires = "address")]
    tls_certificate: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, value_name = "FILE", requires = "address")]
    tls_key: Option<PathBuf>,
    /// What the daemon's certificate has to name, where that is not HOST: one name for all daemons, say.
    #[arg(long, value_name = "NAME", requires = "address")]
    tls_name: Option<String>,
    /// How long to wait for an answer: "500ms", "10s", "5min".
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub(super) timeout: Duration,
}

impl DaemonOptions {
    /// Where to look. An error says what is wrong with the address or the files.
    pub(super) fn place(&self) -> Result<Place, String> {
        let (Some(address), Some(ca), Some(certificate), Some(key)) =
            (&self.address, &self.tls_ca, &self.tls_certificate, &self.tls_key)
        else {
            return Ok(self.socket());
        };
        let file = |name, path| PemFile { name, path };
        let files = Files {
            certificate: file("--tls-certificate", certificate),
            key: file("--tls-key", key),
            ca: file("--tls-ca", ca),
        };
        Ok(Place::Tls(TlsPlace::new(
            address,
            self.tls_name.as_deref(),
            &files,
        )?))
    }

    fn socket(&self) -> Place {
        if let Some(path) = &self.socket {
            return Place::Socket(path.clone(), NamedBy::Option);
        }
        // The second is the daemon's own, which whoever starts both has set already; "auto" says there what it is by itself.
        for name in [CLI_SOCKET, "KVTIER_ADMIN_SOCKET"] {
            let value = std::env::var_os(name);
            if let Some(value) = value.filter(|value| !value.is_empty() && value != "auto") {
                return Place::Socket(value.into(), NamedBy::Variable(name));
            }
        }
        let path = admin_socket_beside(&connector_shm::existing_socket_path());
        Place::Socket(path, NamedBy::Default)
    }
}

/// The longest that can be waited for: what is said to a daemon has room for no more than eight digits.
pub(super) const DURATION_MAX: Duration = Duration::from_hours(24 * 365);

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_millis(1)..=DURATION_MAX;
    let found = parse_duration(text).filter(|duration| bounds.contains(duration));
    found.ok_or_else(|| "want a duration of more than 0 and at most 8760h such as \"10s\"".to_owned())
}

#[derive(Debug, Args)]
pub(super) struct StatusOptions {
    #[command(flatten)]
    pub(super) daemon: DaemonOptions,
    /// Only this tenant.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(super) tenant: String,
    /// Every number there is, zeros included; --json has them as well.
    #[arg(long)]
    pub(super) all: bool,
    /// Shows the configuration in effect instead.
    #[arg(long, conflicts_with = "all")]
    pub(super) settings: bool,
}

#[derive(Debug, Args)]
pub(super) struct TopOptions {
    #[command(flatten)]
    pub(super) daemon: DaemonOptions,
    /// How often it looks: "500ms", "2s".
    #[arg(long, value_name = "TIME", value_parser = interval, default_value = "1s")]
    pub(super) interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let bounds = Duration::from_millis(100)..=Duration::from_hours(1);
    let found = parse_duration(text).filter(|duration| bounds.contains(duration));
    found.ok_or_else(|| "want a duration from 100ms to 1h such as \"2s\"".to_owned())
}

#[derive(Debug, Args)]
pub(super) struct ListOptions {
    #[command(flatten)]
    pub(super) daemon: DaemonOptions,
    /// Only of this tenant.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(super) tenant: String,
}

#[derive(Debug, Args)]
pub(super) struct NamespaceOptions {
    #[command(flatten)]
    pub(super) list: ListOptions,
    /// Only the one whose name begins like this, with all that it stands for.
    #[arg(value_name = "NAMESPACE", default_value = "", hide_default_value = true)]
    pub(super) namespace: String,
}

impl std::ops::Deref for NamespaceOptions {
    type Target = ListOptions;

    fn deref(&self) -> &ListOptions {
        &self.list
    }
}

#[derive(Debug, Args)]
pub(super) struct LookupOptions {
    #[command(flatten)]
    pub(super) daemon: DaemonOptions,
    /// The tenant, if there are several.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(super) tenant: String,
    /// The namespace of hashes, or its first digits.
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// The KV cache group of hashes.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(super) group: u32,
    /// Keys as `kvtier events` shows them, NAMESPACE/GROUP/HASH (of the namespace the first digits will do), or hashes
    /// with --namespace; in hexadecimal.
    #[arg(value_name = "KEY", required = true)]
    pub(super) keys: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct EventsOptions {
    #[command(flatten)]
    pub(super) daemon: DaemonOptions,
    /// Goes on with what changes.
    #[arg(long)]
    pub(super) follow: bool,
    /// Only of this tenant.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(super) tenant: String,
    /// Only of this namespace, named by its first digits.
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// Only of this tier.
    #[arg(long, value_name = "TIER")]
    pub(super) tier: Option<WatchedTier>,
    /// Leaves out what is there, and follows what changes from now on.
    #[arg(long, conflicts_with = "since")]
    pub(super) new: bool,
    /// Follows what changed after this position, EPOCH:NUMBER, as an earlier call has shown it.
    #[arg(long, value_name = "POSITION", value_parser = position)]
    pub(super) since: Option<(String, u64)>,
}

fn position(text: &str) -> Result<(String, u64), String> {
    let parts = text.split_once(':');
    let found = parts.and_then(|(epoch, number)| Some((epoch.to_owned(), number.parse().ok()?)));
    found.ok_or_else(|| "want EPOCH:NUMBER".to_owned())
}

#[derive(Debug, Args)]
pub(super) struct SetOptions {
    #[command(flatten)]
    pub(super) daemon: DaemonOptions,
    /// Only says what would happen.
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Keys as in the configuration file: nvme.capacity=500GiB.
    #[arg(value_name = "KEY=VALUE", required = true, value_parser = assignment)]
    pub(super) settings: Vec<(String, String)>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = parts.ok_or("want KEY=VALUE, such as nvme.capacity=500GiB")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// A tier on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum TierName {
    /// Memory shared with the engines.
    Host,
    /// Segments on NVMe.
    Nvme,
    /// The store that nodes share: for all of them.
    Remote,
}

impl From<TierName> for kvtier_proto::v1::Tier {
    fn from(name: TierName) -> Self {
        match name {
            TierName::Host => Self::Host,
            TierName::Nvme => Self::Nvme,
            TierName::Remote => Self::Remote,
        }
    }
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["namespace", "all", "key", "prefix"]))]
pub(super) struct EvictOptions {
    #[command(flatten)]
    pub(super) daemon: DaemonOptions,
    /// The tenant, if there are several.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(super) tenant: String,
    /// The blocks of this namespace, named by its first digits.
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// All blocks of the tenant.
    #[arg(long)]
    pub(super) all: bool,
    /// This block, NAMESPACE/GROUP/HASH as `kvtier events` shows it; can be given several times.
    #[arg(long, value_name = "KEY")]
    pub(super) key: Vec<String>,
    /// The prefix that ends with this block: the block and all before it.
    #[arg(long, value_name = "KEY")]
    pub(super) prefix: Option<String>,
    /// Out of this tier only; else out of host memory and NVMe. What leaves host memory stays on NVMe if it is there. "remote" removes
    /// the blocks from the store, whoever wrote them: every node misses them from then on.
    #[arg(long, value_name = "TIER")]
    pub(super) tier: Option<TierName>,
    /// Only counts.
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["namespace", "prefix"]))]
pub(super) struct PinOptions {
    #[command(flatten)]
    pub(super) daemon: DaemonOptions,
    /// The tenant, if there are several.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(super) tenant: String,
    /// All blocks of this namespace, named by its first digits; those that come later included.
    #[arg(long, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// The prefix that ends with this block, NAMESPACE/GROUP/HASH: the block and all before it.
    #[arg(long, value_name = "KEY")]
    pub(super) prefix: Option<String>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["pin", "all"]))]
pub(super) struct UnpinOptions {
    #[command(flatten)]
    pub(super) daemon: DaemonOptions,
    /// The tenant, if there are several.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub(super) tenant: String,
    /// Every pin of the tenant.
    #[arg(long)]
    pub(super) all: bool,
    /// The number that `kvtier pins` shows.
    #[arg(value_name = "PIN", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) pin: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct PlanOptions {
    /// The plan as JSON.
    #[arg(long)]
    pub(super) json: bool,
    /// Writes the curve as a picture, too.
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
    /// Memory of the engine's GPUs that is left for KV cache.
    #[arg(long, value_name = "SIZE", value_parser = bytes, default_value = "0B")]
    pub(super) gpu_memory: u64,
    /// Sizes of the largest tier that are told, comma-separated; else each twice the one before, until all is held.
    #[arg(long, value_name = "SIZE", value_parser = bytes, value_delimiter = ',')]
    pub(super) sizes: Vec<u64>,
    /// Layers of the model.
    #[arg(long, value_name = "NUMBER", value_parser = count(), default_value_t = 32)]
    pub(super) layers: u64,
    /// KV heads of a layer, of all ranks together.
    #[arg(long, value_name = "NUMBER", value_parser = count(), default_value_t = 8)]
    pub(super) kv_heads: u64,
    /// Values of a head.
    #[arg(long, value_name = "NUMBER", value_parser = count(), default_value_t = 128)]
    pub(super) head_size: u64,
    /// Bytes of a value: 2 for bfloat16, 1 for fp8.
    #[arg(long, value_name = "NUMBER", value_parser = count(), default_value_t = 2)]
    pub(super) value_bytes: u64,
    /// Bytes of a token's KV cache, instead of the model's shape.
    #[arg(long, value_name = "NUMBER", value_parser = count(),
          conflicts_with_all = ["layers", "kv_heads", "head_size", "value_bytes"])]
    pub(super) bytes_per_token: Option<u64>,
    /// Tokens of a block: what is stored and looked up as one. Of a trace, what its ids stand for.
    #[arg(long, value_name = "NUMBER", value_parser = count(), default_value_t = 512)]
    pub(super) tokens_per_block: u64,
    /// Requests that were served, a JSON object a line: {"hash_ids": [...]}, one id for each block of the prompt, each standing for the
    /// whole prefix.
    #[arg(long, value_name = "FILE")]
    pub(super) trace: Option<PathBuf>,
    /// Conversations at a time.
    #[arg(long, value_name = "NUMBER", value_parser = count(), default_value_t = 200, conflicts_with = "trace")]
    pub(super) conversations: u64,
    /// Requests of a conversation.
    #[arg(long, value_name = "NUMBER", value_parser = count(), default_value_t = 6, conflicts_with = "trace")]
    pub(super) turns: u64,
    /// Tokens that all conversations begin with.
    #[arg(long, value_name = "NUMBER", default_value_t = 1024, conflicts_with = "trace",
          value_parser = clap::value_parser!(u64).range(0..=COUNT_MAX))]
    pub(super) shared_tokens: u64,
    /// Tokens of each question.
    #[arg(long, value_name = "NUMBER", value_parser = count(), default_value_t = 1024, conflicts_with = "trace")]
    pub(super) question_tokens: u64,
    /// Tokens of each answer.
    #[arg(long, value_name = "NUMBER", value_parser = count(), default_value_t = 512, conflicts_with = "trace")]
    pub(super) answer_tokens: u64,
    /// Requests to make up.
    #[arg(long, value_name = "NUMBER", value_parser = count(), default_value_t = 20_000, conflicts_with = "trace")]
    pub(super) requests: u64,
}

/// Largest number in a plan, so that no product of them goes beyond 64 bits and no list beyond memory.
const COUNT_MAX: u64 = 1 << 20;

fn count() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=COUNT_MAX)
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "want a size such as \"64GiB\"".to_owned())
}

#[derive(Debug, Args)]
pub(super) struct DrainOptions {
    #[command(flatten)]
    pub(super) daemon: DaemonOptions,
    /// Does not wait.
    #[arg(long)]
    pub(super) no_wait: bool,
}
