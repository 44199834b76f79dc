//! A daemon with somebody who stores and somebody who looks up: what something else costs look-ups is seen beside a second one
//! without it.

use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::client::Client;
use crate::daemon::{Daemon, Shape};
use crate::install::Installation;
use crate::process::{self, Usage};
use crate::scratch::Scratch;
use crate::statistics::Samples;

/// Bytes of each block; they are never written.
const BLOCK_BYTES: u64 = 4096;
/// Blocks of one look-up.
pub(crate) const PROBE_BLOCKS: u64 = 1000;
const PROBE_RESIDENT: u64 = 100_000;
/// How long a thread that works behind the others may take for the last of a round.
const TAIL: Duration = Duration::from_millis(50);

/// What is done in each round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Described blocks that are stored, a second.
    pub(crate) stores_per_second: u64,
    /// How long a round takes; a look-up begins in each millisecond.
    pub(crate) milliseconds: u64,
    /// Rounds that count. One before them does not.
    pub(crate) rounds: u32,
}

impl Load {
    /// Bytes of all blocks together: with these nothing is evicted.
    pub(crate) fn bytes(&self) -> u64 {
        let stored = self.stores_per_second * (self.milliseconds / 1000 + 1) * u64::from(self.rounds + 1);
        (stored + PROBE_RESIDENT) * BLOCK_BYTES
    }
}

/// The daemon and its two clients.
pub(crate) struct Busy {
    storer: Client,
    prober: Client,
    daemon: Daemon,
    /// A thread of the daemon's that is looked at by itself.
    thread: Option<&'static str>,
}

/// What was measured of one, a sample for each round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// The 99th percentile of look-ups, in microseconds.
    pub(crate) p99_us: Samples,
    /// CPU of the daemon, in percent of a core.
    pub(crate) cpu_percent: Samples,
    /// CPU of the thread that is looked at, in microseconds for each block that was stored.
    pub(crate) thread_us_per_block: Samples,
    /// How often it woke, a second.
    pub(crate) thread_wakeups: Samples,
}

impl Measured {
    fn push(&mut self, load: Load, round: &Round) {
        self.p99_us.push(round.p99_us);
        let milliseconds = load.milliseconds as f64;
        self.cpu_percent.push(round.cpu_ns as f64 / (milliseconds * 1e4));
        if let Some(thread) = round.thread {
            let blocks = load.stores_per_second as f64 * milliseconds / 1e3;
            self.thread_us_per_block.push(thread.cpu_ns as f64 / 1e3 / blocks);
            self.thread_wakeups
                .push(thread.wakeups as f64 / (milliseconds / 1e3));
        }
    }
}

/// What one round was like.
struct Round {
    p99_us: f64,
    /// Of the daemon.
    cpu_ns: u64,
    /// What the thread that is looked at has used.
    thread: Option<Usage>,
}

impl Busy {
    /// Starts a daemon of this shape, and stores what is looked up later.
    pub(crate) fn start(
        installation: &Installation,
        scratch: &Scratch,
        shape: &Shape,
    ) -> anyhow::Result<Self> {
        let daemon = Daemon::start(installation, scratch, shape)?;
        let attach = |name: &str| Client::attach(installation, scratch, &daemon, name, BLOCK_BYTES);
        let (storer, mut prober) = (attach("bench-store")?, attach("bench-probe")?);
        prober.command(&format!("fill {PROBE_RESIDENT}"))?;
        Ok(Self {
            storer,
            prober,
            daemon,
            thread: None,
        })
    }

    /// The same, with the daemon's thread of this name looked at by itself.
    pub(crate) fn watching(self, thread: &'static str) -> Self {
        Self {
            thread: Some(thread),
            ..self
        }
    }

    fn round(&mut self, load: Load) -> anyhow::Result<Round> {
        let pid = self.daemon.pid().context("the daemon is not ours")?;
        let thread = |name| process::usage_of_thread(pid, name);
        let before = (process::usage(pid)?, self.thread.map(thread).transpose()?);
        let (rate, milliseconds) = (load.stores_per_second, load.milliseconds);
        self.storer.send(&format!("churn {rate} {milliseconds}"))?;
        let probed = self
            .prober
            .numbers(&format!("probe {PROBE_BLOCKS} {milliseconds}"));
        self.storer.receive()?;
        let cpu_ns = process::usage(pid)?.since(before.0).cpu_ns;
        if self.thread.is_some() {
            thread::sleep(TAIL);
        }
        let after = self.thread.map(thread).transpose()?;
        match probed?[..] {
            [_, p99_ns, _] => Ok(Round {
                p99_us: p99_ns as f64 / 1e3,
                cpu_ns,
                thread: after.zip(before.1).map(|(after, before)| after.since(before)),
            }),
            ref other => anyhow::bail!("want three numbers, got {other:?}"),
        }
    }
}

/// Has them take turns, round by round, and whoever goes first goes later in the next: it meets another machine.
pub(crate) fn take_turns<const N: usize>(all: &mut [Busy; N], load: Load) -> anyhow::Result<[Measured; N]> {
    ensure!(load.milliseconds > 0, "a round takes some time");
    let mut measured = std::array::from_fn(|_| Measured::default());
    for round in 0..=load.rounds as usize {
        for turn in 0..N {
            let index = (turn + round) % N;
            let one = all[index].round(load)?;
            // The first round is not counted.
            if round > 0 {
                measured[index].push(load, &one);
            }
        }
    }
    Ok(measured)
}
