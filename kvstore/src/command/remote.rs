//! `kvtier remote ls`, `du` and `gc`: what nodes share in the remote tier. No daemon is asked; the store is.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use kvstore_remote::{Admin, NamespaceFound, SweepReport, Usage};
use serde_json::{Value, json};

use super::arguments::duration;
use super::code;
use super::table::Table;
use crate::config::{Config, Environment, TenantConfig, format_size, load_file};
use crate::exit::Exit;
use crate::remote;
use crate::tenant::error_chain;
use crate::terminal::{self, complain};

/// Names this command at a store, where a daemon has its boot.
const EPOCH: kvstore_types::BootEpoch = kvstore_types::BootEpoch([0; 16]);

#[derive(Debug, clap::Subcommand)]
pub(super) enum RemoteCommand {
    /// Shows the namespaces that are there.
    Ls(RemoteOptions),
    /// Shows how much each namespace takes. Lists every block, which takes a while.
    Du(RemoteOptions),
    /// Removes what is too much or too old, as the node that sweeps does, unless one is at it.
    Gc(GcOptions),
}

#[derive(Debug, Args)]
pub(super) struct RemoteOptions {
    /// The daemon's configuration, which says where the remote tier is; without one, the environment does.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only of this tenant.
    #[arg(long, value_name = "NAME", default_value = "")]
    tenant: String,
    /// The answer as JSON.
    #[arg(long)]
    json: bool,
    /// How long to wait for an answer of the store: "500ms", "10s", "5min".
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "1min")]
    timeout: Duration,
}

#[derive(Debug, Args)]
pub(super) struct GcOptions {
    #[command(flatten)]
    remote: RemoteOptions,
    /// Only says what would be removed.
    #[arg(long)]
    dry_run: bool,
}

/// Why there is no answer.
enum Trouble {
    /// The configuration or the command line.
    Usage(String),
    /// The store.
    Store(String),
}

pub(super) fn run(command: &RemoteCommand) -> ExitCode {
    let (result, is_json) = match command {
        RemoteCommand::Ls(options) => (each(options, ls), options.json),
        RemoteCommand::Du(options) => (each(options, du), options.json),
        RemoteCommand::Gc(options) if options.dry_run => {
            (each(&options.remote, gc_dry_run), options.remote.json)
        }
        RemoteCommand::Gc(options) => (each(&options.remote, gc), options.remote.json),
    };
    match result {
        Ok(rows) => {
            let text = if is_json { as_json(&rows) } else { as_table(&rows) };
            terminal::print(&text).into()
        }
        Err(Trouble::Usage(text)) => {
            complain(&text);
            Exit::BadConfig.into()
        }
        Err(Trouble::Store(text)) => {
            complain(&text);
            ExitCode::from(code::UNREACHABLE)
        }
    }
}

/// One line of an answer: titles, what machines read, and what people do.
type Row = Vec<(&'static str, Value, String)>;

/// Does something at the part of each tenant.
fn each(
    options: &RemoteOptions,
    act: impl Fn(&Admin, &Config) -> Result<Vec<Row>, String>,
) -> Result<Vec<Row>, Trouble> {
    let loaded = load_file(options.config.as_deref(), &Environment::of_process());
    let config = loaded
        .map_err(|problems| Trouble::Usage(problems.to_string()))?
        .config;
    let is_wanted = |tenant: &&TenantConfig| options.tenant.is_empty() || tenant.name == options.tenant;
    let tenants: Vec<&TenantConfig> = config.tenants.iter().filter(is_wanted).collect();
    if tenants.is_empty() {
        return Err(Trouble::Usage(format!(
            "no tenant is called {:?}",
            options.tenant
        )));
    }
    let mut rows = Vec::new();
    for tenant in tenants {
        let Some(backend) = remote::backend(&config.remote, &tenant.name) else {
            let text =
                "there is no remote tier; remote.kind makes one, and --config names the file that says so";
            return Err(Trouble::Usage(text.to_owned()));
        };
        let admin = Admin::open(&backend, remote::writer(EPOCH), options.timeout);
        let admin = admin.map_err(|error| Trouble::Usage(error_chain(&error)))?;
        let of_tenant = act(&admin, &config).map_err(Trouble::Store)?;
        rows.extend(of_tenant.into_iter().map(|row| {
            let mut all = vec![text("tenant", &tenant.name)];
            all.extend(row);
            all
        }));
    }
    Ok(rows)
}

fn text(title: &'static str, text: &str) -> (&'static str, Value, String) {
    (title, text.into(), text.to_owned())
}

fn number(title: &'static str, number: u64) -> (&'static str, Value, String) {
    (title, number.into(), number.to_string())
}

fn size(title: &'static str, bytes: u64) -> (&'static str, Value, String) {
    (title, bytes.into(), format_size(bytes))
}

/// How long ago something was, by the store's clock and this machine's: not more exact than they agree.
fn age(title: &'static str, moment: Option<SystemTime>) -> (&'static str, Value, String) {
    let age = moment.map(|moment| moment.elapsed().unwrap_or_default());
    let shown = age.map_or_else(String::new, |age| super::table::time(age.as_secs_f64()));
    (title, age.map(|age| age.as_secs()).into(), shown)
}

fn ls(admin: &Admin, _: &Config) -> Result<Vec<Row>, String> {
    let row = |found: NamespaceFound| {
        let (model, engine, problem) = match &found.described {
            Ok((descriptor, _)) => {
                let field = |tag| {
                    let value = descriptor.get(tag).unwrap_or_default();
                    String::from_utf8_lossy(value).into_owned()
                };
                (field("model.id"), field("engine"), String::new())
            }
            Err(problem) => (String::new(), String::new(), problem.clone()),
        };
        vec![
            text("namespace", &found.id.to_string()),
            text("model", &model),
            text("engine", &engine),
            text("problem", &problem),
        ]
    };
    Ok(admin.ls()?.into_iter().map(row).collect())
}

fn du(admin: &Admin, _: &Config) -> Result<Vec<Row>, String> {
    let row = |found: NamespaceFound| {
        let usage: Usage = admin.du(found.id)?;
        Ok(vec![
            text("namespace", &found.id.to_string()),
            number("blocks", usage.blocks),
            size("bytes", usage.bytes),
            number("half-written", usage.temporaries),
            number("unknown", usage.unknown),
            age("oldest", usage.oldest),
            age("newest", usage.newest),
        ])
    };
    admin.ls()?.into_iter().map(row).collect()
}

fn gc_dry_run(admin: &Admin, config: &Config) -> Result<Vec<Row>, String> {
    let sweep = remote::sweep(&config.remote);
    let row = |found: NamespaceFound| {
        let report = admin.gc_dry_run(found.id, &sweep, SystemTime::now())?;
        let mut row = vec![text("namespace", &found.id.to_string())];
        row.extend(swept(&report));
        Ok(row)
    };
    admin.ls()?.into_iter().map(row).collect()
}

fn gc(admin: &Admin, config: &Config) -> Result<Vec<Row>, String> {
    let report = admin.gc(&remote::sweep(&config.remote))?;
    Ok(vec![swept(&report)])
}

fn swept(report: &SweepReport) -> Row {
    vec![
        number("blocks", report.blocks),
        size("bytes", report.bytes),
        number("removed", report.blocks_removed),
        size("removed bytes", report.bytes_removed),
        number("half-written", report.temporaries_removed),
    ]
}

fn as_table(rows: &[Row]) -> String {
    let titles: Vec<&'static str> = rows
        .first()
        .map(|row| row.iter().map(|(title, ..)| *title).collect())
        .unwrap_or_default();
    let mut table = Table::new(&titles, "there is nothing in the remote tier");
    for row in rows {
        table.row(row.iter().map(|(_, _, shown)| shown.clone()));
    }
    table.text()
}

fn as_json(rows: &[Row]) -> String {
    let object = |row: &Row| {
        let entries = row.iter();
        Value::Object(
            entries
                .map(|(title, value, _)| (title.replace([' ', '-'], "_"), value.clone()))
                .collect(),
        )
    };
    json!(rows.iter().map(object).collect::<Vec<_>>()).to_string() + "\n"
}
