//! Where a remote tier is measured: a directory, or an S3 server whose objects are files in one.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use kvstore_remote::BackendSpec;
use tempfile::TempDir;

use super::objects::{self, Objects};
use super::raw::{Pages, Pass, Raw};
use super::rig;
use super::server::Server;
use crate::arguments::Arguments;
use crate::interrupt;

/// The kinds of place, as figures name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Mount,
    S3,
}

impl Kind {
    /// For `params`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Mount => "mount",
            Self::S3 => "s3",
        }
    }
}

/// One place; what is in it goes with it.
pub(super) struct Place {
    // Before the directory, so that it ends before its files go.
    server: Option<Server>,
    directory: TempDir,
}

impl Place {
    /// An empty one on the file system to measure.
    pub(super) fn make(arguments: &Arguments, kind: Kind) -> anyhow::Result<Self> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("kvtier-bench-remote-");
        let made = match &arguments.remote_directory {
            Some(parent) => builder.tempdir_in(parent),
            None => builder.tempdir(),
        };
        let directory = made.context("could not make a directory for the remote figures")?;
        interrupt::remove_when_interrupted(directory.path())?;
        let server = match kind {
            Kind::Mount => None,
            Kind::S3 => Some(Server::start(arguments, directory.path())?),
        };
        Ok(Self { server, directory })
    }

    /// A tier at this place.
    pub(super) fn backend(&self) -> BackendSpec {
        match &self.server {
            None => rig::mount(self.directory.path()),
            Some(server) => rig::store(server),
        }
    }

    /// The reference at this place, for blocks of this size.
    pub(super) fn beside(&self, block_bytes: u64) -> anyhow::Result<Beside> {
        Ok(match &self.server {
            None => Beside::Files([
                Raw::make(self.directory.path(), block_bytes, Pages::Small)?,
                Raw::make(self.directory.path(), block_bytes, Pages::Huge)?,
            ]),
            Some(server) => Beside::Objects(Box::new(Objects::make(server, block_bytes)?)),
        })
    }

    fn root(&self) -> PathBuf {
        match &self.server {
            None => self.directory.path().to_owned(),
            Some(server) => server.bucket.clone(),
        }
    }

    /// Removes what the tier and the reference have written; the next round writes other blocks.
    pub(super) fn clear(&self, beside: &Beside) -> anyhow::Result<()> {
        match beside {
            Beside::Files(raws) => raws.iter().try_for_each(Raw::clear)?,
            Beside::Objects(_) => fs::remove_dir_all(self.root().join(objects::PREFIX))?,
        }
        // Directories stay, as they do in life: the reference makes none either while it is timed.
        for namespace in self.root().join(rig::PREFIX).join("v1").read_dir()?.flatten() {
            for directory in namespace.path().read_dir().into_iter().flatten().flatten() {
                if directory.file_name().len() == 2 {
                    for block in directory.path().read_dir()?.flatten() {
                        fs::remove_file(block.path())?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The same bytes with nothing in between.
pub(super) enum Beside {
    /// In small pages and in huge ones.
    Files([Raw; 2]),
    Objects(Box<Objects>),
}

impl Beside {
    /// What it is, for people.
    pub(super) fn variant(&self) -> String {
        match self {
            Self::Files([raw, _]) => raw.variant(),
            Self::Objects(_) => Objects::variant(),
        }
    }

    /// Writes or reads so many: how long it took.
    pub(super) fn pass(&self, pass: Pass, blocks: usize) -> anyhow::Result<Duration> {
        match self {
            Self::Files([raw, _]) => Ok(raw.pass(pass, blocks)?),
            Self::Objects(objects) => objects.pass(pass, blocks),
        }
    }

    /// The same in huge pages; `None`: where it makes no difference.
    pub(super) fn huge_pass(&self, pass: Pass, blocks: usize) -> anyhow::Result<Option<Duration>> {
        match self {
            Self::Files([_, raw]) => Ok(Some(raw.pass(pass, blocks)?)),
            Self::Objects(_) => Ok(None),
        }
    }
}
