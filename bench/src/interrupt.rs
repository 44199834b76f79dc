//! Leaves nothing behind when the bench is interrupted.
//!
//! Daemons and clients need no help: the kernel ends the daemons with us (see `guard` in ../client/main.c) and clients
//! end with their standard input. What remains is the temporary directory.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::{fs, process, thread};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

static DIRECTORIES: OnceLock<Mutex<Vec<PathBuf>>> = OnceLock::new();

/// Removes the directory if an interrupt or a termination signal arrives.
pub(crate) fn remove_when_interrupted(directory: &Path) -> anyhow::Result<()> {
    if DIRECTORIES.get().is_none() {
        watch()?;
    }
    let directories = DIRECTORIES.get_or_init(Mutex::default);
    directories
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(directory.to_path_buf());
    Ok(())
}

fn watch() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("could not set up the signal handlers")?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::Builder::new()
        .name("kvt-signals".to_owned())
        .spawn(move || {
            let code = runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => 130,
                    _ = terminate.recv() => 143,
                }
            });
            if let Some(directories) = DIRECTORIES.get() {
                for directory in directories.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                    // Whatever cannot be removed now is only a temporary file.
                    let _ = fs::remove_dir_all(directory);
                }
            }
            process::exit(code);
        })
        .context("could not start the signal thread")?;
    Ok(())
}
