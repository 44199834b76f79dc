//! The admin command.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use kvstore::config::{Environment, default_toml, load_file};
use kvstore::exit::Exit;
use kvstore::fsck::{self, FsckMode};
use kvstore::status;
use kvstore::terminal::{self, complain};

/// Looks after a kvtier daemon.
#[derive(Debug, Parser)]
#[command(name = "kvtier", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks a configuration and touches nothing: exit code 0 if it is sound, 64 if not.
    CheckConfig {
        /// The file; without one, only the environment is checked.
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
        /// Prints a file that sets everything to its default.
        #[arg(long, conflicts_with = "file")]
        print_default: bool,
    },
    /// Checks NVMe directories that no daemon uses: exit code 0 if all is well, 1 if something is wrong, 2 if a directory
    /// could not be checked.
    ///
    /// With --repair what was wrong is looked at again: exit code 0 as well if all of it is mended, 1 if something remains.
    Fsck {
        /// Repairs what can be repaired: writes the catalogue anew from the blocks that are good, deletes half-made
        /// files. Blocks are never changed; those that are not good are misses.
        #[arg(long)]
        repair: bool,
        /// Looks at headers only, which takes a fraction of the time.
        #[arg(long)]
        no_payloads: bool,
        /// An array with an object for each directory.
        #[arg(long)]
        json: bool,
        /// A directory of nvme.directories (all tenants in it), or one tenant's directory in it.
        #[arg(value_name = "DIR", required = true)]
        directories: Vec<PathBuf>,
    },
    /// Shows what a running daemon holds and counts: exit code 0, or 1 if it cannot be asked. A daemon that drains has
    /// removed its socket and cannot be asked any more.
    Status {
        /// The daemon's answer as it is.
        #[arg(long)]
        json: bool,
        /// Where the daemon listens.
        #[arg(long, value_name = "PATH")]
        socket: Option<PathBuf>,
        /// The tenant, if you may see more than one.
        #[arg(long, value_name = "NAME", default_value = "")]
        tenant: String,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return terminal::explain_usage(&error).into(),
    };
    match arguments.command {
        Command::CheckConfig {
            print_default: true, ..
        } => terminal::print(&default_toml(&Environment::of_process())).into(),
        Command::CheckConfig { file, .. } => check_config(file.as_deref()),
        Command::Fsck {
            repair,
            no_payloads,
            json,
            directories,
        } => {
            let mode = FsckMode {
                repair,
                verify_payloads: !no_payloads,
                json,
            };
            fsck::run(&directories, mode)
        }
        Command::Status { json, socket, tenant } => show_status(json, socket, &tenant),
    }
}

fn check_config(file: Option<&std::path::Path>) -> ExitCode {
    match load_file(file, &Environment::of_process()) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                complain(&format!("warning: {warning}"));
            }
            terminal::print("ok\n").into()
        }
        Err(problems) => {
            complain(&problems.to_string());
            Exit::BadConfig.into()
        }
    }
}

fn show_status(json: bool, socket: Option<PathBuf>, tenant: &str) -> ExitCode {
    let socket = socket.unwrap_or_else(connector_shm::existing_socket_path);
    match status::fetch(&socket, tenant) {
        Ok(answer) if json => terminal::print(&format!("{answer}\n")).into(),
        Ok(answer) => terminal::print(&status::table(&answer)).into(),
        Err(error) => {
            complain(&format!("{}: {}", socket.display(), status::explain(&error)));
            ExitCode::FAILURE
        }
    }
}
