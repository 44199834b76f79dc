//! A daemon with somebody who stores and somebody who looks up: what something else costs look-ups is seen beside a second one
//! without it.

use anyhow::{Context, ensure};

use crate::client::Client;
use crate::daemon::{Daemon, Shape};
use crate::install::Installation;
use crate::process;
use crate::scratch::Scratch;
use crate::statistics::Samples;

/// Bytes of each block; they are never written.
const BLOCK_BYTES: u64 = 4096;
/// Blocks of one look-up.
pub(crate) const PROBE_BLOCKS: u64 = 1000;
const PROBE_RESIDENT: u64 = 100_000;

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
}

/// What was measured of one, a sample for each round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// The 99th percentile of look-ups, in microseconds.
    pub(crate) p99_us: Samples,
    /// CPU of the daemon, in percent of a core.
    pub(crate) cpu_percent: Samples,
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
        })
    }

    /// One round: the 99th percentile in microseconds, and the daemon's CPU in percent of a core.
    fn round(&mut self, load: Load) -> anyhow::Result<(f64, f64)> {
        let pid = self.daemon.pid().context("the daemon is not ours")?;
        let before = process::usage(pid)?;
        let (rate, milliseconds) = (load.stores_per_second, load.milliseconds);
        self.storer.send(&format!("churn {rate} {milliseconds}"))?;
        let probed = self
            .prober
            .numbers(&format!("probe {PROBE_BLOCKS} {milliseconds}"));
        self.storer.receive()?;
        let used_ns = process::usage(pid)?.cpu_ns.saturating_sub(before.cpu_ns);
        match probed?[..] {
            [_, p99_ns, _] => Ok((
                p99_ns as f64 / 1e3,
                used_ns as f64 / (milliseconds * 10_000) as f64,
            )),
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
            let (p99_us, cpu_percent) = all[index].round(load)?;
            // The first round is not counted.
            if round > 0 {
                measured[index].p99_us.push(p99_us);
                measured[index].cpu_percent.push(cpu_percent);
            }
        }
    }
    Ok(measured)
}
