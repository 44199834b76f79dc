//! Joins the engine threads with the room that announces blocks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kvstore_events::{Announcer, BookLimits, FEED_ITEMS_MAX, LedgerConfig, StartError, TenantFeed, feed};
use kvstore_types::BootEpoch;
use tracing::info;

use crate::config::{Config, RelayMode, WatchMode};
use crate::engine_thread::command::{Command, CommandSender};
use crate::engine_thread::voice::{RelayDoor, Voice};

/// How long after the start what a predecessor that was killed had announced is taken back: engines come back within two
/// seconds of the socket, and what is on NVMe is found.
const GRACE: Duration = Duration::from_secs(10);

/// Starts the announcer if anybody is to hear it. One voice for each tenant, in their order.
pub(crate) fn start(
    config: &Config,
    epoch: BootEpoch,
    tenants: &[CommandSender],
) -> Result<(Option<Announcer>, Vec<Option<Voice>>), StartError> {
    if !is_wanted(config) {
        return Ok((None, tenants.iter().map(|_| None).collect()));
    }
    let bell = Arc::default();
    let (mut senders, mut feeds) = (Vec::new(), Vec::new());
    for commands in tenants {
        let (sender, receiver) = feed(FEED_ITEMS_MAX, Arc::clone(&bell));
        let commands = commands.clone();
        senders.push(sender);
        feeds.push(TenantFeed {
            feed: receiver,
            ask_snapshot: Box::new(move |number| commands.send(Command::SayAll(number))),
        });
    }
    let events = kvstore_events::EventsConfig {
        publisher: config.events.publisher.clone(),
        identities: config.events.identities.clone(),
        batch_delay: config.events.batch_delay,
        limits: BookLimits::default(),
        ledger: Some(LedgerConfig {
            path: ledger_path(&config.socket),
            grace: GRACE,
        }),
    };
    let announcer = Announcer::start(events, epoch, bell, feeds)?;
    let addresses: Vec<String> = announcer.addresses().iter().map(ToString::to_string).collect();
    info!(
        connect = config.events.publisher.connect.len(),
        relay = relays(config),
        listening = %addresses.join(" "),
        "announcing blocks"
    );
    let voices = senders.into_iter().zip(tenants).zip(0..);
    let voices = voices.map(|((sender, commands), tenant)| {
        let door = relays(config).then(|| RelayDoor {
            source: announcer.relays(),
            tenant,
            commands: commands.clone(),
        });
        Some(Voice::new(sender, announcer.counters(), door))
    });
    let voices = voices.collect();
    Ok((Some(announcer), voices))
}

/// Where it is written down what is announced: beside the socket, whose lock says that no other daemon does so.
fn ledger_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(".announced");
    PathBuf::from(path)
}

/// Whether anybody is to hear of blocks.
fn is_wanted(config: &Config) -> bool {
    config.events.publisher.publishes() || config.events.watch == WatchMode::On || relays(config)
}

fn relays(config: &Config) -> bool {
    config.events.relay == RelayMode::OnRequest
}
