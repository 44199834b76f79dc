//! An engine whose blocks follow from their numbers (`tests/c/store.c`), and its answers.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

use super::daemon::Daemon;
use super::{built, eventually, root, succeed};

/// One process of it. Ends with this value.
pub(crate) struct Store {
    child: Child,
    commands: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

/// What became of blocks that were to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) added: u64,
    pub(crate) present: u64,
    pub(crate) dropped: u64,
}

/// What a load found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loaded {
    pub(crate) hit: u64,
    pub(crate) wrong: u64,
    pub(crate) lost: u64,
}

/// The daemon is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone;

impl Store {
    /// Attaches an engine that runs `model`.
    pub(crate) fn attach(daemon: &Daemon, model: &str) -> Self {
        Self::try_attach(daemon, model).unwrap()
    }

    /// The same at a socket.
    pub(crate) fn attach_at(socket: &Path, model: &str) -> Self {
        Self::try_attach_at(socket, model).unwrap()
    }

    /// The same, of a daemon that may be killed meanwhile.
    pub(crate) fn try_attach(daemon: &Daemon, model: &str) -> Result<Self, Gone> {
        Self::try_attach_at(daemon.socket(), model)
    }

    fn try_attach_at(socket: &Path, model: &str) -> Result<Self, Gone> {
        let mut child = Command::new(program())
            .arg(socket)
            .arg(model)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take();
        let replies = BufReader::new(child.stdout.take().unwrap());
        let mut store = Self {
            child,
            commands,
            replies,
        };
        let ready = store.hear()?;
        assert_eq!(ready, "ready");
        Ok(store)
    }

    /// Stores blocks.
    pub(crate) fn store(&mut self, first: u64, count: u64) -> Result<Stored, Gone> {
        let [added, present, dropped] = self.ask(&format!("store {first} {count}"))?;
        Ok(Stored {
            added,
            present,
            dropped,
        })
    }

    /// Loads blocks as one prefix and compares every byte.
    pub(crate) fn load(&mut self, first: u64, count: u64) -> Result<Loaded, Gone> {
        let [hit, wrong, lost] = self.ask(&format!("load {first} {count}"))?;
        Ok(Loaded { hit, wrong, lost })
    }

    /// From here on what is stored and loaded belongs to this request; the second says whether the daemon records traces, and
    /// of which requests.
    pub(crate) fn follow(&mut self, trace: &str, span: &str) -> Result<(bool, u64), Gone> {
        self.say(&format!("follow {trace} {span}"))?;
        let reply = self.hear()?;
        let numbers: Vec<u64> = reply
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        Ok((numbers[0] == 1, numbers[1]))
    }

    /// The request is over; whether the daemon was told.
    pub(crate) fn over(&mut self, parent: &str) -> Result<bool, Gone> {
        self.say(&format!("over {parent}"))?;
        Ok(self.hear()? == "told 1")
    }

    /// What the daemon counts.
    pub(crate) fn counters(&mut self) -> Result<Value, Gone> {
        self.say("counters")?;
        Ok(serde_json::from_str(&self.hear()?).unwrap())
    }

    /// Waits until all that was on NVMe at start is known and all that was stored is on NVMe.
    pub(crate) fn settle(&mut self) -> Result<Value, Gone> {
        eventually("all is loaded and written", || {
            let counters = match self.counters() {
                Ok(counters) => counters,
                Err(Gone) => return Some(Err(Gone)),
            };
            let number = |name: &str| counters["occupancy"][name].as_u64().unwrap();
            let is_loaded = counters["nvme"]
                .as_array()
                .unwrap()
                .iter()
                .all(|device| device["state"] != "loading");
            let is_quiet = number("nvme_queue") == 0 && number("nvme_writes_in_flight") == 0;
            (is_loaded && is_quiet).then_some(Ok(counters))
        })
    }

    /// Says something without waiting for the answer, which must be heard later or never.
    pub(crate) fn say(&mut self, command: &str) -> Result<(), Gone> {
        let commands = self.commands.as_mut().unwrap();
        writeln!(commands, "{command}").map_err(|_| Gone)
    }

    fn ask(&mut self, command: &str) -> Result<[u64; 3], Gone> {
        self.say(command)?;
        let reply = self.hear()?;
        let numbers: Vec<u64> = reply
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        Ok(numbers
            .try_into()
            .unwrap_or_else(|_| panic!("{command}: {reply:?}")))
    }

    fn hear(&mut self) -> Result<String, Gone> {
        let mut line = String::new();
        self.replies.read_line(&mut line).unwrap();
        let line = line.trim_end();
        if line == "gone" {
            return Err(Gone);
        }
        assert!(!line.is_empty(), "the engine ended: {:?}", self.child.wait());
        Ok(line.to_owned())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // The end of its input ends it in good order; a daemon that is gone does, too.
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}

/// The compiled program, beside the library it uses.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, program) = PROGRAM.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("store");
        let library = directory.path().join("libkvtier.so.1");
        std::os::unix::fs::symlink(built().join("libkvtier.so"), &library).unwrap();
        let mut compiler = Command::new("cc");
        compiler
            .args(["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-g", "-O2"])
            .args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-I"])
            .arg(root().join("connector-abi/include"))
            .arg(root().join("tests/c/store.c"))
            .arg(library)
            .args(["-Wl,-rpath,$ORIGIN", "-o"])
            .arg(&program);
        succeed(compiler);
        (directory, program)
    });
    program
}
