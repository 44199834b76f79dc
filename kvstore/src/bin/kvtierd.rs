//! The daemon.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser};
use kvstore::config::{Environment, Source, help_text};
use kvstore::exit::Exit;
use kvstore::terminal::{self, complain};

/// Keeps the KV cache of inference engines on this node in tiers.
#[derive(Debug, Parser)]
#[command(name = "kvtierd", version)]
struct Arguments {
    /// The configuration; without one the defaults and the environment hold.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let command = Arguments::command().after_help(help_text());
    let parsed = command
        .try_get_matches()
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => return terminal::explain_usage(&error).into(),
    };
    let source = Source {
        file: arguments.config,
        environment: Environment::of_process(),
    };
    match source.load() {
        Ok(loaded) => match kvstore::logs::start(loaded.config.log) {
            Ok(log) => kvstore::app::run(&loaded, &source, &log).into(),
            Err(error) => {
                complain(&format!("could not start the log's thread: {error}"));
                Exit::System.into()
            }
        },
        Err(problems) => {
            complain(&problems.to_string());
            Exit::BadConfig.into()
        }
    }
}
