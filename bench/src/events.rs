//! `events_lookup_p99_ratio` and `announce_*`: what it costs to announce blocks to a router.
//!
//! Two daemons do the same: one client stores described blocks at a steady rate, another looks up prefixes. One of the
//! daemons publishes to a router, the other does not. They take turns, round by round, so a round's ratio is what
//! publishing adds to a look-up's 99th percentile. The router is a thread of this process, of the lowest priority, that counts what it
//! takes and looks at nothing: a real one is on another machine.
//!
//! For the announcement of everything, a router connects to a daemon that has many described blocks; timed is until it has
//! been told of the last one, and the daemon's anonymous memory is watched meanwhile.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use kvstore_events::testing::{Event, Subscriber, decode_batch};
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::busy::{Busy, Load, PROBE_BLOCKS, take_turns};
use crate::client::Client;
use crate::daemon::{Daemon, EventsShape, Shape};
use crate::install::Installation;
use crate::process;
use crate::report::{Aim, Reference, Report, Row};
use crate::scratch::Scratch;

const BLOCK_BYTES: u64 = 4096;
/// The daemon's thread that announces.
const ANNOUNCER: &str = "kvt-events";
const AIM_RATIO: f64 = 1.1;
/// A router that has not been told everything by then never will.
const DEADLINE: Duration = Duration::from_mins(10);

/// A router that listens, takes everything and believes nothing.
struct Ears {
    address: String,
    heard: Arc<Heard>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Heard {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Ears {
    fn open() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = format!("tcp://{}", listener.local_addr()?);
        let heard = Arc::<Heard>::default();
        let ours = Arc::clone(&heard);
        let listening = thread::Builder::new().name("router".to_owned()).spawn(move || {
            // On Linux this is the calling thread's own niceness. Whoever may not lower it is measured as it is.
            let _ = rustix::process::setpriority_process(None, 19);
            // It interrupts nobody when something has come for it: it would on another machine.
            let _ = kvstore_threads::stand_back();
            let mut subscriber = Subscriber::accept(&listener);
            subscriber.subscribe("kv@");
            subscriber.count_whenever(|messages, bytes| {
                ours.messages.fetch_add(messages, Ordering::Relaxed);
                ours.bytes.fetch_add(bytes, Ordering::Relaxed);
            });
        })?;
        Ok(Self {
            address,
            heard,
            listening: Some(listening),
        })
    }

    /// What a daemon that publishes to it is started with.
    fn shape(&self, shape: Shape, announce_rate: u64) -> Shape {
        Shape {
            events: Some(EventsShape {
                connect: self.address.clone(),
                announce_rate,
            }),
            ..shape
        }
    }

    /// Its publisher is gone.
    fn close(&mut self) {
        if let Some(listening) = self.listening.take() {
            // What it would say in a panic has been said.
            let _ = listening.join();
        }
    }
}

/// Blocks that a message tells as stored.
fn stored(payload: &[u8]) -> u64 {
    let count = |event: &Event| match event {
        Event::Stored { hashes, .. } => hashes.len() as u64,
        Event::Removed { .. } | Event::Cleared => 0,
    };
    decode_batch(payload).iter().map(count).sum()
}

/// Measures both.
pub(crate) fn run(arguments: &Arguments, installation: &Installation, report: &mut Report) {
    if arguments.socket.is_some() {
        report.skip("events_lookup_p99_ratio", &json!({}), "needs daemons of its own");
        return;
    }
    let params = json!({"events_per_second": arguments.events_rate, "blocks": PROBE_BLOCKS});
    if let Err(error) = publishing(arguments, installation, report, &params) {
        report.skip("events_lookup_p99_ratio", &params, &format!("{error:#}"));
    }
    for &rate in &arguments.announce_rate {
        let params = json!({"blocks": arguments.announce_blocks, "rate": rate});
        if let Err(error) = announcing(arguments, installation, report, (rate, &params)) {
            report.skip("announce_blocks_per_second", &params, &format!("{error:#}"));
        }
    }
}

fn publishing(
    arguments: &Arguments,
    installation: &Installation,
    report: &mut Report,
    params: &Value,
) -> anyhow::Result<()> {
    let scratch = Scratch::make()?;
    let mut ears = Ears::open()?;
    let load = Load {
        stores_per_second: arguments.events_rate,
        milliseconds: arguments.events_seconds * 1000,
        rounds: arguments.rounds,
    };
    eprintln!(
        "events: two daemons, {} blocks stored a second",
        load.stores_per_second
    );
    // Nothing is evicted, so every store is one event.
    let shape = |name| Shape::holding(name, load.bytes(), false);
    let mut daemons = [
        Busy::start(installation, &scratch, &shape("quiet"))?,
        Busy::start(installation, &scratch, &ears.shape(shape("loud"), 50_000))?.watching(ANNOUNCER),
    ];
    let [quiet, loud] = take_turns(&mut daemons, load)?;
    let messages = ears.heard.messages.load(Ordering::Relaxed);
    ensure!(messages > 1, "the router was told nothing");
    let context = json!({"messages": messages, "bytes": ears.heard.bytes.load(Ordering::Relaxed)});
    drop(daemons);
    ears.close();
    let (with, without) = (loud.p99_us, quiet.p99_us);
    let ratios = with.ratios(&without);
    report.add(&Row {
        name: "events_lookup_p99_us",
        unit: "µs",
        params: params.clone(),
        context,
        samples: with,
        reference: Some(Reference {
            name: "lookup_p99_us",
            variant: "no events".to_owned(),
            samples: without,
        }),
        aim: None,
    });
    report.add(&Row {
        name: "events_lookup_p99_ratio",
        unit: "×",
        params: params.clone(),
        context: Value::Null,
        samples: ratios,
        reference: None,
        aim: Some(Aim::AtMost(AIM_RATIO)),
    });
    report.add(&Row {
        name: "events_cpu_us_per_block",
        unit: "µs",
        params: params.clone(),
        context: json!({"wakeups_per_second": loud.thread_wakeups.median()}),
        samples: loud.thread_us_per_block,
        reference: None,
        aim: None,
    });
    Ok(())
}

fn announcing(
    arguments: &Arguments,
    installation: &Installation,
    report: &mut Report,
    (rate, params): (u64, &Value),
) -> anyhow::Result<()> {
    let blocks = arguments.announce_blocks;
    let scratch = Scratch::make()?;
    eprintln!("events: {blocks} blocks announced, {rate} a second");
    // The daemon dials as soon as it runs, so the router opens its ears only when everything is there.
    let place = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let address = format!("tcp://{place}");
    let shape = Shape {
        events: Some(EventsShape {
            connect: address,
            announce_rate: rate,
        }),
        ..Shape::holding("announce", blocks * BLOCK_BYTES, false)
    };
    let daemon = Daemon::start(installation, &scratch, &shape)?;
    let pid = daemon.pid().context("the daemon is not ours")?;
    let mut client = Client::attach(installation, &scratch, &daemon, "bench-announce", BLOCK_BYTES)?;
    client.command(&format!("describe {blocks}"))?;
    thread::sleep(Duration::from_millis(200));
    let before = process::anonymous_bytes(pid)?;
    let (mut most, waiting_since) = (before, Instant::now());
    let listener = TcpListener::bind(place).context("the router's port is taken")?;
    let listening = thread::Builder::new().name("router".to_owned()).spawn(move || {
        let mut subscriber = Subscriber::accept(&listener);
        let began = Instant::now();
        subscriber.subscribe("kv@");
        let mut told = 0;
        while told < blocks {
            let Some((_, _, payload)) = subscriber.receive_whenever() else {
                break;
            };
            told += stored(&payload);
        }
        (told, began.elapsed())
    })?;
    while !listening.is_finished() {
        ensure!(
            waiting_since.elapsed() < DEADLINE,
            "not everything was announced in {DEADLINE:?}"
        );
        thread::sleep(Duration::from_millis(5));
        most = most.max(process::anonymous_bytes(pid)?);
    }
    let (told, took) = listening
        .join()
        .ok()
        .context("the router did not understand what it was told")?;
    let seconds = took.as_secs_f64();
    ensure!(told >= blocks, "{told} of {blocks} blocks were announced");
    report.add(&Row {
        name: "announce_blocks_per_second",
        unit: "blocks/s",
        params: params.clone(),
        context: json!({"seconds": seconds}),
        samples: std::iter::once(told as f64 / seconds).collect(),
        reference: None,
        aim: None,
    });
    report.add(&Row {
        name: "announce_memory_growth_mib",
        unit: "MiB",
        params: params.clone(),
        context: json!({"before_mib": before >> 20}),
        samples: std::iter::once(most.saturating_sub(before) as f64 / f64::from(1 << 20)).collect(),
        reference: None,
        aim: None,
    });
    Ok(())
}
