//! The harness's end of a client process: a line out, a line back.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};

use crate::daemon::Daemon;
use crate::install::Installation;
use crate::scratch::Scratch;

/// How far ahead clients are told to begin together.
const START_AHEAD_NS: u64 = 1_000_000;

/// A client process with one attached engine: a scheduler's session and a worker's.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    commands: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

/// When a timed command ran and where its time went, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// When it began, on the clock that all processes share.
    pub(crate) start: u64,
    /// When it ended.
    pub(crate) end: u64,
    /// Spent before the copy.
    pub(crate) before: u64,
    /// Spent in the copy.
    pub(crate) copy: u64,
    /// Spent after it.
    pub(crate) after: u64,
}

impl Client {
    /// Starts a client and attaches it to the daemon.
    pub(crate) fn attach(
        installation: &Installation,
        scratch: &Scratch,
        daemon: &Daemon,
        namespace: &str,
        block_bytes: u64,
    ) -> anyhow::Result<Self> {
        let mut child = Command::new(scratch.client())
            .arg("serve")
            .arg(&installation.library)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start a client")?;
        let commands = child.stdin.take();
        let replies = child.stdout.take().context("the client has no standard output")?;
        let mut client = Self {
            child,
            commands,
            replies: BufReader::new(replies),
        };
        client.command(&format!(
            "open {} {namespace} {block_bytes}",
            daemon.socket().display()
        ))?;
        Ok(client)
    }

    /// Sends a command and waits for its answer.
    pub(crate) fn command(&mut self, line: &str) -> anyhow::Result<Vec<String>> {
        self.send(line)?;
        self.receive()
            .with_context(|| format!("the client could not {line}"))
    }

    /// Sends a command whose answer is numbers.
    pub(crate) fn numbers(&mut self, line: &str) -> anyhow::Result<Vec<u64>> {
        numbers(&self.command(line)?)
    }

    /// Has all clients run `line` at the same moment. `{start}` in the line stands for that moment.
    pub(crate) fn together(clients: &mut [Self], line: &str) -> anyhow::Result<Vec<Timing>> {
        let clock = clients.first_mut().context("no clients")?.numbers("clock")?;
        let start = clock.first().context("the client's clock gave no answer")? + START_AHEAD_NS;
        let line = line.replace("{start}", &start.to_string());
        for client in clients.iter_mut() {
            client.send(&line)?;
        }
        clients
            .iter_mut()
            .map(Self::receive_timing)
            .collect::<anyhow::Result<_>>()
            .context(line)
    }

    fn receive_timing(&mut self) -> anyhow::Result<Timing> {
        match numbers(&self.receive()?)?[..] {
            [start, end, before, copy, after] => Ok(Timing {
                start,
                end,
                before,
                copy,
                after,
            }),
            ref other => bail!("want five numbers, got {other:?}"),
        }
    }

    /// Sends a command whose answer is received later.
    pub(crate) fn send(&mut self, line: &str) -> anyhow::Result<()> {
        let commands = self.commands.as_mut().context("the client is closed")?;
        writeln!(commands, "{line}").context("the client does not listen")?;
        commands.flush().context("the client does not listen")
    }

    /// Waits for the answer to the command that was sent.
    pub(crate) fn receive(&mut self) -> anyhow::Result<Vec<String>> {
        let mut line = String::new();
        if self.replies.read_line(&mut line)? == 0 {
            bail!("the client ended: {}", self.child.wait()?);
        }
        match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
            ("ok", values) => Ok(values.split_whitespace().map(str::to_owned).collect()),
            (_, message) => bail!("{message}"),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The end of its standard input ends the client, which closes its sessions.
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}

fn numbers(words: &[String]) -> anyhow::Result<Vec<u64>> {
    words
        .iter()
        .map(|word| word.parse().with_context(|| format!("want a number, got {word}")))
        .collect()
}
