//! `kvtier-bench`: load on a real daemon through the real library, and the figures that come of it.
//!
//! ```text
//! main ─ lookup host connector idle footprint     one file for each figure
//!          │ rounds, interleaved
//!        client ──────────────▶ ../client (C) ──▶ libkvtier.so ──▶ kvtierd
//!          a line a command        its own process                   its own process
//! ```
//!
//! Nothing here touches the library itself: the clients are processes written in C, because that is what the library
//! is for. What is measured together is interleaved round by round, and a figure is the median of its rounds.
#![forbid(unsafe_code)]
#![allow(clippy::cast_precision_loss, reason = "figures are shown with four digits")]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed test is a panic")
)]

mod arguments;
mod client;
mod connector;
mod daemon;
mod footprint;
mod host;
mod idle;
mod install;
mod interrupt;
mod lookup;
mod machine;
mod process;
mod report;
mod scratch;
mod statistics;

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
    let installation = Installation::find(arguments)?;
    let mut report = Report::new(arguments.json);
    report.machine(&machine::facts(&installation));
    for figure in arguments.figures() {
        match figure {
            Figure::Lookup => lookup::run(arguments, &installation, &mut report)?,
            Figure::Host => host::run(arguments, &installation, &mut report)?,
            Figure::Connector => connector::run(arguments, &installation, &mut report),
            Figure::Idle => idle::run(arguments, &installation, &mut report)?,
            Figure::Footprint => footprint::run(arguments, &installation, &mut report),
            Figure::All => {}
        }
    }
    report.finish();
    Ok(())
}
