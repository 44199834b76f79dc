//! `kvtier-bench`: load on a real daemon through the real library, and the figures that come of it.
//!
//! ```text
//! main ─ lookup host connector idle footprint events traces device remote   one file for each figure
//!          │ rounds, interleaved
//!        client ──────────────▶ ../client (C) ──▶ libkvtier.so ──▶ kvtierd
//!          a line a command        its own process                   its own process
//! ```
//!
//! The figures of the NVMe tier (`nvme`, `restart`, `mixed`) open a device of `kvstore-nvme` in this process instead, and
//! most of `remote` a tier of `kvstore-remote`.
//!
//! Nothing else here touches the library itself: the clients are processes written in C, because that is what the library
//! is for. What is measured together is interleaved round by round, and a figure is the median of its rounds.
#![forbid(unsafe_code)]
#![allow(clippy::cast_precision_loss, reason = "figures are shown with four digits")]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test is a panic")
)]

mod arguments;
mod busy;
mod client;
mod connector;
mod daemon;
mod device;
mod events;
mod footprint;
mod host;
mod idle;
mod install;
mod interrupt;
mod lookup;
mod machine;
mod mixed;
mod nvme;
mod process;
mod remote;
mod report;
mod restart;
mod scratch;
mod statistics;
mod traces;

use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Figure};
use install::Installation;
use report::Report;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kvtier-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let figures = arguments.figures();
    let found = if figures.iter().any(|figure| figure.needs_installation()) {
        Some(Installation::find(arguments)?)
    } else {
        None
    };
    let mut report = Report::new(arguments.json);
    report.machine(&machine::facts(found.as_ref()));
    for figure in figures {
        match (figure, &found) {
            (Figure::Lookup, Some(found)) => lookup::run(arguments, found, &mut report)?,
            (Figure::Host, Some(found)) => host::run(arguments, found, &mut report)?,
            (Figure::Connector, Some(found)) => connector::run(arguments, found, &mut report),
            (Figure::Idle, Some(found)) => idle::run(arguments, found, &mut report)?,
            (Figure::Footprint, Some(found)) => footprint::run(arguments, found, &mut report),
            (Figure::Events, Some(found)) => events::run(arguments, found, &mut report),
            (Figure::Traces, Some(found)) => traces::run(arguments, found, &mut report),
            (Figure::Device, Some(found)) => device::run(arguments, found, &mut report),
            (Figure::Remote, Some(found)) => remote::run(arguments, found, &mut report)?,
            (Figure::Nvme, _) => nvme::run(arguments, &mut report)?,
            (Figure::Restart, _) => restart::run(arguments, &mut report)?,
            (Figure::Mixed, _) => mixed::run(arguments, &mut report),
            _ => {}
        }
    }
    report.finish();
    Ok(())
}
