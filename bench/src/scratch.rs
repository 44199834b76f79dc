//! The one temporary directory of a run: sockets, configurations, logs and the client's program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

use crate::interrupt;

const CLIENT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/client"));
const CUDA_STAND_IN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libcuda.so.1"));

/// A temporary directory that goes away with this value, or when the bench is interrupted.
#[derive(Debug)]
pub(crate) struct Scratch {
    directory: TempDir,
}

impl Scratch {
    /// Makes the directory and puts the client's program into it.
    pub(crate) fn make() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("kvtier-bench-")
            .tempdir()
            .context("could not make a temporary directory")?;
        interrupt::remove_when_interrupted(directory.path())?;
        let scratch = Self { directory };
        let client = scratch.client();
        fs::write(&client, CLIENT).with_context(|| format!("could not write {}", client.display()))?;
        fs::set_permissions(&client, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("could not make {} executable", client.display()))?;
        Ok(scratch)
    }

    /// Writes the stand-in for a CUDA driver.
    pub(crate) fn cuda_stand_in(&self) -> anyhow::Result<PathBuf> {
        let path = self.path().join("libcuda.so.1");
        fs::write(&path, CUDA_STAND_IN).with_context(|| format!("could not write {}", path.display()))?;
        Ok(path)
    }

    /// The client's program.
    pub(crate) fn client(&self) -> PathBuf {
        self.path().join("client")
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}
