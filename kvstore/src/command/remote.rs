//! `kvtier remote ls`, `du` and `gc`: what nodes share in the remote tier. No daemon is asked; the store is.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use kvstore_remote::{Admin, LeaseHeld, NamespaceFound, SweepNow, SweepReport, Usage, WriterId};
use serde_json::{Value, json};

use super::arguments::{DURATION_MAX, duration};
use super::code;
use super::progress;
use super::table::Table;
use crate::config::{Config, Environment, TenantConfig, format_size, load_file};
use crate::exit::Exit;
use crate::remote;
use crate::tenant::error_chain;
use crate::terminal::{self, complain};

#[derive(Debug, clap::Subcommand)]
pub(super) enum RemoteCommand {
    /// Shows the namespaces that are there.
    Ls(RemoteOptions),
    /// Shows how much each namespace takes. Lists every block, which takes a while.
    Du(RemoteOptions),
    /// Removes what is too much or too old, as the node that sweeps does. One node at a time may: exit code 3 if another one
    /// has the lease, and says who and until when.
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
    /// How long to wait for each answer of the store: "500ms", "10s", "5min".
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
    /// How long to wait for another node's lease to be given back or to expire: seconds, or "10s", "20min".
    #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "0", conflicts_with = "dry_run")]
    wait: Duration,
}

/// Seconds, or a duration with its unit.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse().map(Duration::from_secs) {
        Ok(seconds) if seconds <= DURATION_MAX => Ok(seconds),
        _ => duration(text),
    }
}

/// Why there is no answer.
enum Trouble {
    /// The configuration or the command line.
    Usage(String),
    /// The store.
    Store(String),
    /// Another node has the lease of sweeping.
    Held(String),
    /// A signal came.
    Stopped,
}

pub(super) fn run(command: &RemoteCommand) -> ExitCode {
    let (result, is_json) = match command {
        RemoteCommand::Ls(options) => (each(options, ls), options.json),
        RemoteCommand::Du(options) => (each(options, du), options.json),
        RemoteCommand::Gc(options) if options.dry_run => {
            (each(&options.remote, gc_dry_run), options.remote.json)
        }
        RemoteCommand::Gc(options) => {
            let collect = |admin: &Admin, config: &Config| gc(admin, config, options.wait);
            (each(&options.remote, collect), options.remote.json)
        }
    };
    match result {
        Ok(Answer { rows, is_whole }) => {
            let text = if is_json { as_json(&rows) } else { as_table(&rows) };
            let printed = terminal::print(&text).into();
            if is_whole {
                printed
            } else {
                ExitCode::from(code::UNREACHABLE)
            }
        }
        Err(Trouble::Usage(text)) => {
            complain(&text);
            Exit::BadConfig.into()
        }
        Err(Trouble::Store(text)) => {
            complain(&text);
            ExitCode::from(code::UNREACHABLE)
        }
        Err(Trouble::Held(text)) => {
            complain(&text);
            ExitCode::from(code::NOT_SO)
        }
        Err(Trouble::Stopped) => {
            complain(
                "stopped by a signal; what was removed until then is gone, and the lease was given back",
            );
            ExitCode::from(code::NOT_SO)
        }
    }
}

/// One line of an answer: titles, what machines read, and what people do.
type Row = Vec<(&'static str, Value, String)>;

/// What was found.
struct Answer {
    rows: Vec<Row>,
    /// Whether everything could be read. What could not was complained about.
    is_whole: bool,
}

impl Answer {
    fn whole(rows: Vec<Row>) -> Self {
        let is_whole = true;
        Self { rows, is_whole }
    }
}

/// Does something at the part of each tenant.
fn each(
    options: &RemoteOptions,
    act: impl Fn(&Admin, &Config) -> Result<Answer, Trouble>,
) -> Result<Answer, Trouble> {
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
    let mut all = Answer::whole(Vec::new());
    for tenant in tenants {
        let Some(backend) = remote::backend(&config.remote, &tenant.name) else {
            let text =
                "there is no remote tier; remote.kind makes one, and --config names the file that says so";
            return Err(Trouble::Usage(text.to_owned()));
        };
        let writer = writer().map_err(|error| Trouble::Store(format!("no random bytes: {error}")))?;
        let admin = Admin::open(&backend, writer, options.timeout);
        let admin = admin.map_err(|error| Trouble::Usage(error_chain(&error)))?;
        let of_tenant = act(&admin, &config)?;
        all.is_whole &= of_tenant.is_whole;
        all.rows.extend(of_tenant.rows.into_iter().map(|row| {
            let mut whole = vec![text("tenant", &tenant.name)];
            whole.extend(row);
            whole
        }));
    }
    Ok(all)
}

/// Names this command at a store: no daemon, and no other command, is the same.
fn writer() -> std::io::Result<WriterId> {
    crate::machine::draw_boot_epoch().map(remote::writer)
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

fn ls(admin: &Admin, _: &Config) -> Result<Answer, Trouble> {
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
    let (found, is_whole) = namespaces(admin)?;
    let rows = found.into_iter().map(row).collect();
    Ok(Answer { rows, is_whole })
}

/// The namespaces there are, and whether each can be read. Those that cannot are named.
fn namespaces(admin: &Admin) -> Result<(Vec<NamespaceFound>, bool), Trouble> {
    let found = admin.ls().map_err(Trouble::Store)?;
    let mut is_whole = true;
    for one in found.iter().filter(|one| !one.is_readable) {
        is_whole = false;
        let problem = one.described.as_ref().err().map_or("", String::as_str);
        complain(&format!("namespace {}: {problem}", one.id));
    }
    Ok((found, is_whole))
}

fn du(admin: &Admin, _: &Config) -> Result<Answer, Trouble> {
    let (found, is_whole) = namespaces(admin)?;
    let progress = progress::line(found.len());
    let row = |found: NamespaceFound| {
        let usage: Usage = admin.du(found.id, &*progress).map_err(Trouble::Store)?;
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
    let rows: Result<_, Trouble> = found.into_iter().map(row).collect();
    Ok(Answer {
        rows: rows?,
        is_whole,
    })
}

fn gc_dry_run(admin: &Admin, config: &Config) -> Result<Answer, Trouble> {
    let sweep = remote::sweep(&config.remote);
    let (found, _) = namespaces(admin)?;
    let progress = progress::line(found.len());
    let row = |found: NamespaceFound| {
        let report = admin.gc_dry_run(found.id, &sweep, SystemTime::now(), &*progress);
        let report = report.map_err(Trouble::Store)?;
        let mut row = vec![text("namespace", &found.id.to_string())];
        row.extend(swept(&report));
        Ok(row)
    };
    let rows: Result<_, Trouble> = found.into_iter().map(row).collect();
    rows.map(Answer::whole)
}

fn gc(admin: &Admin, config: &Config, wait: Duration) -> Result<Answer, Trouble> {
    let progress = progress::line(namespaces(admin)?.0.len());
    let ended = admin.gc(&remote::sweep(&config.remote), wait, asked_to_end(), progress);
    match ended.map_err(Trouble::Store)? {
        Some(SweepNow::Swept(report)) => Ok(Answer::whole(vec![swept(&report)])),
        Some(SweepNow::Held(held)) => Err(Trouble::Held(explain(&held))),
        None => Err(Trouble::Stopped),
    }
}

/// Who has the lease, since when, and what to do about it.
fn explain(held: &LeaseHeld) -> String {
    let time = |duration: Duration| super::table::time(duration.as_secs_f64());
    let who = match (held.holder, held.is_this_node) {
        (Some(holder), is_this_node) => {
            let here = if is_this_node { ", this machine" } else { "" };
            format!("node {}{here}", remote::node_name(&holder))
        }
        (None, _) => "something that is no lease of ours".to_owned(),
    };
    let (renewed, expires) = (time(held.renewed_ago), time(held.expires_in));
    format!(
        "nothing was removed: {who} has the lease of sweeping. It was renewed {renewed} ago by the store's clock, and can be taken \
         over in {expires} if it is not renewed until then; --wait waits for that. A daemon that lives sweeps by itself, every \
         remote.sweep-every; `kvtier status` shows which node it is"
    )
}

/// Resolves when a signal asks this process to end.
async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    match (interrupt, terminate) {
        (Ok(mut interrupt), Ok(mut terminate)) => tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        },
        // Then signals end it without a word, as they do by default.
        _ => std::future::pending().await,
    }
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
