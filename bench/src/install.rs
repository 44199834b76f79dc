//! Where the parts of kvtier lie: the daemon, the library, the Python side.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::arguments::Arguments;

/// The parts that are measured.
#[derive(Debug)]
pub(crate) struct Installation {
    /// The daemon's program; none if a running daemon was named and no program was found.
    pub(crate) daemon: Option<PathBuf>,
    /// The library that clients load.
    pub(crate) library: PathBuf,
}

impl Installation {
    /// Finds the parts, beside this program if they are not named.
    pub(crate) fn find(arguments: &Arguments) -> anyhow::Result<Self> {
        let beside = program_directory()?;
        let daemon = match &arguments.daemon {
            Some(path) => Some(existing(path, "--daemon")?),
            None => first_existing(&beside, &["kvtierd"]).or_else(|| on_path("kvtierd")),
        };
        if daemon.is_none() && arguments.socket.is_none() {
            bail!("found no kvtierd beside this program or on the PATH; build it, or name it with --daemon");
        }
        let library = match &arguments.library {
            Some(path) => existing(path, "--library")?,
            None => first_existing(
                &beside,
                &["libkvtier.so", "deps/libkvtier.so", "../lib/libkvtier.so"],
            )
            .context("found no libkvtier.so beside this program; build it, or name it with --library")?,
        };
        Ok(Self { daemon, library })
    }

    /// The daemon's program, for a figure that must start its own.
    pub(crate) fn daemon(&self) -> anyhow::Result<&Path> {
        self.daemon
            .as_deref()
            .context("found no kvtierd; name it with --daemon")
    }
}

/// Looks for `relative` in this directory and all above it.
pub(crate) fn find_above(relative: &str) -> Option<PathBuf> {
    let here = env::current_dir().ok()?;
    here.ancestors()
        .map(|directory| directory.join(relative))
        .find(|path| path.exists())
}

fn program_directory() -> anyhow::Result<PathBuf> {
    let program = env::current_exe().context("this program does not know where it lies")?;
    Ok(program.parent().map(Path::to_path_buf).unwrap_or_default())
}

fn existing(path: &Path, option: &str) -> anyhow::Result<PathBuf> {
    path.canonicalize()
        .with_context(|| format!("{option} {}: no such file", path.display()))
}

fn first_existing(directory: &Path, names: &[&str]) -> Option<PathBuf> {
    names
        .iter()
        .map(|name| directory.join(name))
        .find(|path| path.is_file())
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}
