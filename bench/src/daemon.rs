//! A daemon of our own for one figure, or the one we were told of.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, bail};

use crate::arguments::Arguments;
use crate::install::Installation;
use crate::scratch::Scratch;

const START_DEADLINE: Duration = Duration::from_mins(2);

/// What the daemon is started with.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Names its files; unique within a scratch directory.
    pub(crate) name: String,
    /// Bytes of its host tier.
    pub(crate) capacity_bytes: u64,
    /// Whether it touches all pages at start.
    pub(crate) prefault: bool,
    /// What it publishes; none: nothing.
    pub(crate) events: Option<EventsShape>,
    /// Its remote tier, as it stands in the configuration; none: there is none.
    pub(crate) remote: Option<String>,
    /// Its traces; none: they are off.
    pub(crate) traces: Option<TracesShape>,
}

/// What a daemon publishes.
#[derive(Clone, Debug)]
pub(crate) struct EventsShape {
    /// Address of the router.
    pub(crate) connect: String,
    /// Blocks a second of announcements from the start.
    pub(crate) announce_rate: u64,
}

/// Where a daemon sends traces.
#[derive(Clone, Debug)]
pub(crate) struct TracesShape {
    /// Address of the collector, which speaks gRPC.
    pub(crate) endpoint: String,
    /// Which part of requests is followed.
    pub(crate) sample_ratio: f64,
}

impl Shape {
    /// A host tier that holds `bytes` of blocks with room to spare, so that nothing is evicted while we measure
    /// something else.
    pub(crate) fn holding(name: &str, bytes: u64, prefault: bool) -> Self {
        let capacity_bytes = (bytes + bytes / 64 + (64 << 20)).next_multiple_of(1 << 20);
        Self {
            name: name.to_owned(),
            capacity_bytes,
            prefault,
            events: None,
            remote: None,
            traces: None,
        }
    }
}

/// A running daemon. If we started it, it ends with this value.
#[derive(Debug)]
pub(crate) struct Daemon {
    socket: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    /// The daemon that was named on the command line, else one of our own.
    pub(crate) fn given_or_started(
        arguments: &Arguments,
        installation: &Installation,
        scratch: &Scratch,
        shape: &Shape,
    ) -> anyhow::Result<Self> {
        match &arguments.socket {
            Some(socket) => Ok(Self {
                socket: socket.clone(),
                child: None,
            }),
            None => Self::start(installation, scratch, shape),
        }
    }

    /// Starts a daemon and waits until it listens. The error tells what the daemon said if it refused to start.
    pub(crate) fn start(
        installation: &Installation,
        scratch: &Scratch,
        shape: &Shape,
    ) -> anyhow::Result<Self> {
        let file = |suffix: &str| scratch.path().join(format!("{}.{suffix}", shape.name));
        let (socket, config, log) = (file("sock"), file("toml"), file("log"));
        fs::write(&config, config_text(&socket, shape))
            .context("could not write the daemon's configuration")?;
        // The guard has the kernel end the daemon with us, however we end.
        let mut command = Command::new(scratch.client());
        command
            .arg("guard")
            .arg(installation.daemon()?)
            .arg("--config")
            .arg(&config);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        let speaks_to_it = |name: &str| name.starts_with("KVTIER_") || name.starts_with("OTEL_");
        for (name, _) in env::vars().filter(|(name, _)| speaks_to_it(name)) {
            command.env_remove(name);
        }
        let child = command.spawn().context("could not start the daemon")?;
        let mut daemon = Self {
            socket,
            child: Some(child),
        };
        daemon.wait_until_listening(&log)?;
        Ok(daemon)
    }

    fn wait_until_listening(&mut self, log: &Path) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        while std::os::unix::net::UnixStream::connect(&self.socket).is_err() {
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                bail!("the daemon ended at its start ({status}): {}", last_line(log));
            }
            if Instant::now() > deadline {
                bail!("the daemon does not listen: {}", last_line(log));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its process, if we started it.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It has no clients that matter any more; if it is gone already, that is as well.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn config_text(socket: &Path, shape: &Shape) -> String {
    let events = shape.events.as_ref().map_or_else(String::new, |events| {
        format!(
            "[events]\nconnect = [\"{}\"]\nidentities = [\"node:bench\"]\nannounce-rate = {}\n",
            events.connect, events.announce_rate
        )
    });
    let traces = shape.traces.as_ref().map_or_else(String::new, |traces| {
        format!(
            "[tracing]\nexporter = \"otlp\"\nprotocol = \"grpc\"\nendpoint = \"{}\"\nsample-ratio = {}\n",
            traces.endpoint, traces.sample_ratio
        )
    });
    let remote = shape.remote.as_deref().unwrap_or_default();
    // With a high watermark of 1 nothing is evicted before its place is wanted.
    format!(
        "socket = \"{}\"\n[host]\ncapacity = \"{}MiB\"\nprefault = \"{}\"\n\
         watermark-low = 0.99\nwatermark-high = 1.0\n{events}{traces}{remote}",
        socket.display(),
        shape.capacity_bytes >> 20,
        if shape.prefault { "start" } else { "lazy" },
    )
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let line = text.lines().rev().find(|line| !line.trim().is_empty());
    line.unwrap_or("it said nothing").trim().to_owned()
}
