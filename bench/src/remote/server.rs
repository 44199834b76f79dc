//! An S3 server on this machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::arguments::Arguments;

/// Its one bucket.
pub(super) const BUCKET: &str = "bucket";
/// The keys it knows.
pub(super) const KEY: &str = "kvtier";
/// The secret that belongs to it.
pub(super) const SECRET: &str = "kvtier-secret";

/// The S3 server of the remote room's tests.
pub(super) struct Server {
    child: Child,
    /// `http://` and where it listens.
    pub(super) endpoint: String,
    /// A file with the keys it knows.
    pub(super) credentials: PathBuf,
    /// Where it keeps the objects of its one bucket, as files.
    pub(super) bucket: PathBuf,
}

impl Server {
    /// Starts it with all of its files in a directory.
    pub(super) fn start(arguments: &Arguments, directory: &Path) -> anyhow::Result<Self> {
        let (store, credentials) = (directory.join("store"), directory.join("credentials"));
        fs::write(
            &credentials,
            format!("[default]\naws_access_key_id = {KEY}\naws_secret_access_key = {SECRET}\n"),
        )?;
        let mut child = Command::new(program(arguments)?)
            .arg(&store)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start the S3 server")?;
        let mut endpoint = String::new();
        let output = child.stdout.take().context("the S3 server has no output")?;
        BufReader::new(output).read_line(&mut endpoint)?;
        Ok(Self {
            child,
            endpoint: endpoint.trim().to_owned(),
            credentials,
            bucket: store.join(BUCKET),
        })
    }

    /// Sends it a signal.
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("the S3 server has no process")?, signal)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program(arguments: &Arguments) -> anyhow::Result<PathBuf> {
    let beside = || {
        let own = std::env::current_exe().ok()?;
        Some(own.with_file_name("examples").join("s3_server"))
    };
    let found = arguments.remote_s3_server.clone().or_else(beside);
    let found = found.filter(|program| program.exists());
    found.context("no S3 server: cargo build --release -p kvstore-remote --example s3_server")
}
