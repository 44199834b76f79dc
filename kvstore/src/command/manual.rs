//! The manual pages.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;

use super::arguments::Arguments;
use super::daemon::DaemonArguments;
use crate::exit::Exit;
use crate::terminal::complain;

/// Writes one page for each program and each subcommand.
pub(super) fn write(directory: &Path) -> ExitCode {
    let pages = || -> io::Result<()> {
        std::fs::create_dir_all(directory)?;
        clap_mangen::generate_to(Arguments::command(), directory)?;
        clap_mangen::generate_to(DaemonArguments::with_help(), directory)
    };
    match pages() {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            complain(&format!("{}: {error}", directory.display()));
            Exit::System.into()
        }
    }
}
