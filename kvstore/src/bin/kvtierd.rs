//! The daemon.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::FromArgMatches;
use kvstore::command::DaemonArguments;
use kvstore::config::{Environment, Source};
use kvstore::exit::Exit;
use kvstore::terminal::{self, complain};

fn main() -> ExitCode {
    let parsed = DaemonArguments::with_help()
        .try_get_matches()
        .and_then(|matches| DaemonArguments::from_arg_matches(&matches));
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
