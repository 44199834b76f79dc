//! `kvtier`, the command a person types.
//!
//! Each subcommand of a running daemon is one call of the admin API, shown as a table for people or, with `--json`, as the
//! message itself.

mod arguments;
mod changes;
mod client;
mod daemon;
mod events;
mod lists;
mod lookup;
mod manual;
mod overview;
mod pins;
mod place;
mod plan;
mod progress;
mod remote;
mod remote_list;
mod status;
mod table;
mod top;

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use serde::Serialize;

pub use self::arguments::Arguments;
use self::arguments::Subcommand;
use self::client::{Client, Trouble};
pub use self::daemon::DaemonArguments;
use crate::admin::Certificates;
use crate::config::{Config, Environment, default_toml, load_file};
use crate::exit::Exit;
use crate::fsck::{self, FsckMode};
use crate::tenant::error_chain;
use crate::terminal::{self, complain};

/// The command's own exit codes, beside those of `exit::Exit`.
pub mod code {
    /// The daemon could not be asked, or `fsck` found something wrong.
    pub const UNREACHABLE: u8 = 1;
    /// What was asked for is not so: a block that was looked up is nowhere, a drain was not over in time.
    pub const NOT_SO: u8 = 3;
    /// What was asked for makes no sense, as with a bad command line.
    pub const USAGE: u8 = 64;
    /// The daemon does not let this user do that.
    pub const DENIED: u8 = 77;
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return terminal::explain_usage(&error).into(),
    };
    match arguments.command {
        Subcommand::CheckConfig {
            print_default: true, ..
        } => terminal::print(&default_toml(&Environment::of_process())).into(),
        Subcommand::CheckConfig { file, elsewhere, .. } => check_config(file.as_deref(), elsewhere),
        Subcommand::Fsck {
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
        Subcommand::Remote { command } => remote::run(&command),
        Subcommand::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "kvtier", &mut script);
            terminal::print(&String::from_utf8_lossy(&script)).into()
        }
        Subcommand::Man { directory } => manual::write(&directory),
        Subcommand::Plan(it) => plan::run(&it),
        Subcommand::Status(it) => ask(&it.daemon, async |client| status::show(client, &it).await),
        Subcommand::Top(it) => ask(&it.daemon, async |client| top::show(client, &it).await),
        Subcommand::Tiers(it) => ask(&it.daemon, async |client| lists::tiers(client, &it).await),
        Subcommand::Devices(it) => ask(&it.daemon, async |client| lists::devices(client, &it).await),
        Subcommand::Namespaces(it) => ask(&it.daemon, async |client| lists::namespaces(client, &it).await),
        Subcommand::Sessions(it) => ask(&it.daemon, async |client| lists::sessions(client, &it).await),
        Subcommand::Lookup(it) => ask(&it.daemon, async |client| lookup::show(client, &it).await),
        Subcommand::Events(it) => ask(&it.daemon, async |client| events::show(client, &it).await),
        Subcommand::Set(it) => ask(&it.daemon, async |client| changes::set(client, &it).await),
        Subcommand::Pin(it) => ask(&it.daemon, async |client| pins::pin(client, &it).await),
        Subcommand::Pins(it) => ask(&it.daemon, async |client| pins::list(client, &it).await),
        Subcommand::Unpin(it) => ask(&it.daemon, async |client| pins::unpin(client, &it).await),
        Subcommand::Evict(it) => ask(&it.daemon, async |client| changes::evict(client, &it).await),
        Subcommand::Drain(it) => ask(&it.daemon, async |client| changes::drain(client, &it).await),
    }
}

/// What a subcommand comes to: what is printed, and the exit code if that works.
pub(super) struct Answer {
    text: String,
    code: u8,
}

impl Answer {
    /// A message as JSON, or a table.
    pub(super) fn new<T: Serialize>(
        json: bool,
        message: &T,
        table: impl FnOnce(&T) -> String,
    ) -> Result<Self, Trouble> {
        let text = if json {
            serde_json::to_string(message).map_err(|error| Trouble::Answer(error.to_string()))? + "\n"
        } else {
            table(message)
        };
        Ok(Self { text, code: 0 })
    }

    /// The same with another exit code.
    #[must_use]
    pub(super) fn or_code(self, is_so: bool, code: u8) -> Self {
        let code = if is_so { self.code } else { code };
        Self { code, ..self }
    }
}

/// Asks a daemon and shows the answer.
fn ask(
    daemon: &arguments::DaemonOptions,
    question: impl AsyncFnOnce(&mut Client) -> Result<Answer, Trouble>,
) -> ExitCode {
    let place = match daemon.place() {
        Ok(place) => place,
        Err(text) => {
            complain(&text);
            return ExitCode::from(code::USAGE);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("could not start: {error}"));
            return Exit::System.into();
        }
    };
    let result = runtime.block_on(async {
        let mut client = Client::connect(&place, daemon.timeout).await?;
        question(&mut client).await
    });
    match result {
        Ok(answer) => match terminal::print(&answer.text) {
            Exit::Done => ExitCode::from(answer.code),
            failure => failure.into(),
        },
        Err(trouble) => {
            complain(&trouble.explain(&place));
            ExitCode::from(trouble.code())
        }
    }
}

fn check_config(file: Option<&Path>, is_elsewhere: bool) -> ExitCode {
    let loaded = load_file(file, &Environment::of_process()).map_err(|problems| problems.to_string());
    let checked = loaded.and_then(|loaded| {
        let lacks = if is_elsewhere {
            Vec::new()
        } else {
            lacks(&loaded.config)
        };
        if lacks.is_empty() {
            Ok(loaded)
        } else {
            Err(lacks.join("\n"))
        }
    });
    match checked {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                complain(&format!("warning: {warning}"));
            }
            terminal::print("ok\n").into()
        }
        Err(problems) => {
            complain(&problems);
            Exit::BadConfig.into()
        }
    }
}

/// What the daemon would miss on this machine: the files that it reads before anything else.
fn lacks(config: &Config) -> Vec<String> {
    let tls = Certificates::read(config).err();
    let remote = crate::remote::check_here(config).err();
    let shown = |error: &dyn std::error::Error| error_chain(error);
    let tls = tls.iter().map(|error| shown(error));
    tls.chain(remote.iter().map(|problems| shown(problems))).collect()
}
