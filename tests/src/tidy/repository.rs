//! The repository as the checks see it: its files, and what Cargo says about its packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// One text file.
#[derive(Clone, Debug)]
pub struct File {
    /// Relative to the top, with `/`.
    pub path: String,
    /// The content.
    pub text: String,
}

impl File {
    /// A file that need not exist; for samples.
    pub fn new(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// The ending of its name, without the dot; empty if there is none.
    pub fn ending(&self) -> &str {
        Path::new(&self.path)
            .extension()
            .and_then(|ending| ending.to_str())
            .unwrap_or_default()
    }
}

/// The top of the repository.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap_or_default()
}

/// All text files that git tracks or would track, sorted by path.
///
/// # Errors
/// When git cannot be run; the text says why.
pub fn files() -> Result<Vec<File>, String> {
    let listed = output(Command::new("git").current_dir(top()).args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]))?;
    let mut paths: Vec<&str> = listed.split('\0').filter(|path| !path.is_empty()).collect();
    paths.sort_unstable();
    paths.dedup();
    // A file that is not text, or was removed and not yet committed so, has nothing to check.
    let text = |path: &&str| std::fs::read_to_string(top().join(path)).ok();
    Ok(paths
        .iter()
        .filter_map(|path| {
            Some(File {
                path: (*path).to_owned(),
                text: text(path)?,
            })
        })
        .collect())
}

/// What `cargo metadata` says about this workspace on Linux.
///
/// # Errors
/// When Cargo cannot be run or does not answer JSON; the text says why.
pub fn metadata() -> Result<Value, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let text = output(Command::new(cargo).current_dir(top()).args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--all-features",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]))?;
    serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))
}

/// What `make TARGET` prints.
///
/// # Errors
/// When make fails; the text says why.
pub fn make(target: &str) -> Result<String, String> {
    output(
        Command::new("make")
            .current_dir(top())
            .args(["--no-print-directory", target]),
    )
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}: {text}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("{command:?}: {error}"))
}
