//! The command line of `kvtierd`.

use std::path::PathBuf;

use clap::{CommandFactory, Parser};

use crate::config::help_text;

/// Keeps the KV cache of inference engines on this node in tiers.
#[derive(Debug, Parser)]
#[command(name = "kvtierd", version)]
pub struct DaemonArguments {
    /// The configuration; without one the defaults and the environment hold.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl DaemonArguments {
    /// With every key and exit code in its help.
    pub fn with_help() -> clap::Command {
        Self::command().after_help(help_text())
    }
}
