//! A daemon with a small host tier and an NVMe directory.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{built, eventually};

/// Blocks the host tier has room for: 8 MiB of slots of 20 KiB.
pub(crate) const HOST_BLOCKS: u64 = 409;

/// A place for one test: sockets, logs and NVMe directories.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    starts: usize,
}

impl Place {
    /// A new one, on the file system of the build: `/tmp` may be memory, which is no device.
    pub(crate) fn new() -> Self {
        let base = built().join("tmp");
        fs::create_dir_all(&base).unwrap();
        Self {
            directory: tempfile::tempdir_in(base).unwrap(),
            starts: 0,
        }
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The NVMe directory that [`start`](Self::start) configures.
    pub(crate) fn nvme(&self) -> PathBuf {
        self.path("nvme")
    }

    /// The one tenant's part of it.
    pub(crate) fn tier(&self) -> PathBuf {
        self.nvme().join("default")
    }

    /// The segment files, in order.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let mut segments: Vec<PathBuf> = fs::read_dir(self.tier())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| {
                path.file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with("segment-")
            })
            .collect();
        segments.sort();
        segments
    }

    /// Starts a daemon and waits until it serves. `settings` come on top of a tier of 96 MiB.
    pub(crate) fn start(&mut self, settings: &[(&str, &str)]) -> Daemon {
        self.starts += 1;
        let log = self.path(&format!("log.{}", self.starts));
        let mut command = Command::new(built().join("kvtierd"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KVTIER_") {
                command.env_remove(name);
            }
        }
        command
            .env("KVTIER_SOCKET", self.path("kvtier.sock"))
            .env("KVTIER_HOST_CAPACITY", "8MiB")
            .env("KVTIER_NVME_DIRECTORIES", self.nvme())
            .env("KVTIER_NVME_CAPACITY", "96MiB")
            .env("KVTIER_NVME_SEGMENT_BYTES", "4MiB")
            // A busy machine must not make a miss of what is there.
            .env("KVTIER_NVME_PROMOTION_DEADLINE", "30s")
            // Where requests are followed, all are.
            .env("KVTIER_TRACING_SAMPLE_RATIO", "1")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap());
        let mut daemon = Daemon {
            child: command.spawn().unwrap(),
            socket: self.path("kvtier.sock"),
            log,
        };
        eventually("the daemon serves", || {
            assert_eq!(
                daemon.child.try_wait().unwrap(),
                None,
                "the daemon ended: {}",
                daemon.log()
            );
            daemon.log().contains("serving").then_some(())
        });
        daemon
    }
}

impl Drop for Place {
    /// Of a test that fails, logs and segments are kept.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.directory.disable_cleanup(true);
            eprintln!("kept {}", self.directory.path().display());
        }
    }
}

/// A running daemon. Killed when it is dropped.
pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Where it listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its metrics, if it was told to serve them.
    pub(crate) fn metrics(&self) -> String {
        let address: SocketAddr = eventually("the port is known", || {
            let log = self.log();
            let line = log
                .lines()
                .find(|line| line.contains("metrics and probes are served"))?;
            line.split("address=").nth(1)?.trim().parse().ok()
        });
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// One number of them.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let text = self.metrics();
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let Some(number) = found else {
            panic!("no {series} in {text}")
        };
        number.trim().parse().unwrap()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and it ends well.
    pub(crate) fn stop(mut self) {
        super::succeed({
            let mut kill = Command::new("kill");
            kill.arg(self.child.id().to_string());
            kill
        });
        let status = eventually("the daemon ends", || self.child.try_wait().unwrap());
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
