//! A real daemon, and clients that speak to it through shared memory.
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod blocks;
pub(crate) mod browser;
pub(crate) mod client;
pub(crate) mod command;
pub(crate) mod http;
pub(crate) mod raw;
pub(crate) mod remote;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Nothing here takes nearly as long; this only ends a test that would hang.
const WATCHDOG: Duration = Duration::from_mins(1);

/// Waits until `look` finds something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A place of its own for each test.
pub(crate) struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Others must be able to reach the socket's directory, which has a mode of its own.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { directory }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("run/kvtier.sock")
    }

    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.path("run/kvtier-admin.sock")
    }

    /// A copy of a program, for users to whom the build directory is closed. Another process writes it: a child that another
    /// thread starts meanwhile would keep it open here, and nobody could run it.
    pub(crate) fn copy_of(&self, program: &Path) -> PathBuf {
        let copy = self.path("program");
        let copied = Command::new("cp").arg(program).arg(&copy).status().unwrap();
        assert!(copied.success());
        copy
    }

    /// The admin command, for the daemon of this place.
    pub(crate) fn kvtier(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvtier"));
        command
            .args(arguments)
            .env("KVTIER_ADMIN_SOCKET", self.admin_socket())
            .stdin(Stdio::null());
        command
    }

    /// A daemon's command, with a small host tier.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvtierd"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KVTIER_") {
                command.env_remove(name);
            }
        }
        command
            .env("KVTIER_SOCKET", self.socket())
            .env("KVTIER_HOST_CAPACITY", "16MiB")
            .stdin(Stdio::null());
        command
    }

    /// Starts a daemon and waits until it serves.
    pub(crate) fn start(&self) -> Daemon {
        self.start_with(&[])
    }

    pub(crate) fn start_with(&self, variables: &[(&str, &str)]) -> Daemon {
        let mut command = self.command();
        command.envs(variables.iter().copied());
        self.start_command(command)
    }

    /// Starts a daemon with a file.
    pub(crate) fn start_file(&self, file: &Path, variables: &[(&str, String)]) -> Daemon {
        let mut command = self.command();
        command
            .arg("--config")
            .arg(file)
            .envs(variables.iter().map(|(name, value)| (*name, value)));
        self.start_command(command)
    }

    fn start_command(&self, mut command: Command) -> Daemon {
        let log = self.path(&format!(
            "log.{}",
            std::fs::read_dir(self.directory.path()).unwrap().count()
        ));
        command.stderr(std::fs::File::create(&log).unwrap());
        let daemon = Daemon {
            child: command.spawn().unwrap(),
            socket: self.socket(),
            log,
        };
        eventually("the daemon serves", || {
            daemon.log().contains("serving").then_some(())
        });
        daemon
    }
}

/// Runs a daemon that is expected to end by itself: its exit code and its log.
pub(crate) fn run(command: &mut Command) -> (i32, String) {
    let output = command
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .output()
        .unwrap();
    (
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// A running daemon.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log says this.
    pub(crate) fn says(&self, text: &str) {
        eventually(
            &format!("the log says {text:?}, but it says {}", self.log()),
            || self.log().contains(text).then_some(()),
        );
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// After `STOP` it stands still when this returns: its threads stop one by one, when each is next scheduled.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        if signal == Signal::STOP {
            eventually("the daemon stands still", || self.stands_still().then_some(()));
        }
    }

    fn stands_still(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let mut stats = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap());
        // The state follows the name, which is in brackets and may have any characters.
        stats.all(|stat| {
            stat.rsplit(')')
                .next()
                .is_some_and(|rest| rest.trim_start().starts_with('T'))
        })
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("the daemon ends", || self.child.try_wait().unwrap())
    }

    /// Open files and threads.
    pub(crate) fn resources(&self) -> (usize, usize) {
        let count = |what: &str| {
            std::fs::read_dir(format!("/proc/{}/{what}", self.pid()))
                .unwrap()
                .count()
        };
        (count("fd"), count("task"))
    }

    /// How often its threads went to sleep and woke.
    pub(crate) fn wake_ups(&self) -> u64 {
        self.wake_ups_of(|_| true)
    }

    /// The same without the threads of the catalogue's library, which look at the clock now and then.
    pub(crate) fn own_wake_ups(&self) -> u64 {
        self.wake_ups_of(|name| !name.starts_with("rocksdb"))
    }

    fn wake_ups_of(&self, counts: impl Fn(&str) -> bool) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        tasks
            .map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).unwrap())
            .filter(|status| {
                let name = status.lines().next().and_then(|line| line.strip_prefix("Name:"));
                counts(name.unwrap_or_default().trim())
            })
            .map(|status| {
                let line = status
                    .lines()
                    .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
                line.unwrap().trim().parse::<u64>().unwrap()
            })
            .sum()
    }

    /// What the daemon counts.
    pub(crate) fn status(&self) -> serde_json::Value {
        kvstore::status::fetch(&self.socket, "").unwrap()
    }

    /// One number of what is where.
    pub(crate) fn occupancy(&self, name: &str) -> u64 {
        self.status()["occupancy"][name].as_u64().unwrap()
    }

    /// One of the numbers that only grow.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.status()["counters"][name].as_u64().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.log());
        }
    }
}
