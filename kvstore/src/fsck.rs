//! `kvtier fsck`: checks NVMe directories that no daemon uses, and repairs what can be repaired.

use std::fs::DirEntry;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use kvstore_nvme::{FsckError, FsckOptions, FsckReport, OpenError, fsck, names_bytes_of};
use serde_json::{Map, Value, json};

use crate::command::code;
use crate::config::catalogue_bytes_of;
use crate::exit::Exit;
use crate::tenant::error_chain;
use crate::terminal::{self, complain};

/// What a directory that the daemon has made always has.
pub(crate) const SUPERBLOCK: &str = "tier.kvt";

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsckMode {
    /// Repair what can be repaired.
    pub repair: bool,
    /// Read and verify every block's payload, which takes as long as reading the device.
    pub verify_payloads: bool,
    /// For machines.
    pub json: bool,
}

/// How it went, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    /// Or mended.
    Clean,
    /// They remain.
    Problems,
    Failed,
    /// This user may not look.
    Denied,
}

impl From<Verdict> for ExitCode {
    fn from(verdict: Verdict) -> Self {
        Self::from(match verdict {
            Verdict::Clean => 0,
            Verdict::Problems => 1,
            Verdict::Failed => 2,
            Verdict::Denied => code::DENIED,
        })
    }
}

/// Checks directories one after another: each a tenant's, or one of the configuration with all tenants in it.
pub fn run(directories: &[PathBuf], mode: FsckMode) -> ExitCode {
    let mut verdict = Verdict::Clean;
    let mut shown = Vec::new();
    for directory in directories.iter().flat_map(|directory| of_tenants(directory)) {
        let (one, value) = check(&directory, mode);
        verdict = verdict.max(one);
        if !mode.json {
            // What is known is said before the next directory is read.
            let Value::String(text) = value else {
                continue;
            };
            if let failure @ (Exit::System | Exit::Internal) = terminal::print(&text) {
                return failure.into();
            }
        } else if !value.is_null() {
            shown.push(value);
        }
    }
    if mode.json
        && let failure @ (Exit::System | Exit::Internal) =
            terminal::print(&format!("{}\n", Value::Array(shown)))
    {
        return failure.into();
    }
    verdict.into()
}

/// The tenants' directories in a directory of the configuration, or the directory itself.
fn of_tenants(directory: &Path) -> Vec<PathBuf> {
    let itself = vec![directory.to_owned()];
    if directory.join(SUPERBLOCK).exists() {
        return itself;
    }
    let Ok(entries) = directory.read_dir() else {
        // What is wrong with it is said when it is opened.
        return itself;
    };
    let mut tenants: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join(SUPERBLOCK).exists() || has_segments(path))
        .collect();
    if tenants.is_empty() {
        return itself;
    }
    tenants.sort();
    tenants
}

/// Whether there are segments, as in a tenant's directory that has lost its superblock.
fn has_segments(directory: &Path) -> bool {
    segments(directory).next().is_some()
}

fn segments(directory: &Path) -> impl Iterator<Item = DirEntry> {
    let entries = directory.read_dir().into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("segment-"))
}

/// What the daemon would let the catalogue have: its part of a thirty-second of the tenant's share, whose rest is segments.
fn catalogue_bytes(directory: &Path) -> u64 {
    let bytes = segments(directory).filter_map(|entry| Some(entry.metadata().ok()?.len()));
    let rest = catalogue_bytes_of(bytes.sum::<u64>() / 31 * 32);
    rest - names_bytes_of(rest)
}

/// Checks one; what is to be shown of it is text or an object.
fn check(directory: &Path, mode: FsckMode) -> (Verdict, Value) {
    let mut progress = Progress::new(directory);
    let options = FsckOptions {
        repair: mode.repair,
        verify_payloads: mode.verify_payloads,
        catalogue_bytes_max: catalogue_bytes(directory),
        progress: &mut |now| progress.show(now.segments_done as u64, now.segments as u64),
    };
    let result = fsck(directory, options);
    progress.end();
    match result {
        Ok(report) => {
            let verdict = if report.is_clean() || report.is_mended() {
                Verdict::Clean
            } else {
                Verdict::Problems
            };
            let value = if mode.json {
                to_json(&report)
            } else {
                format!("{report}\n").into()
            };
            (verdict, value)
        }
        Err(error) => {
            let text = error_chain(&error);
            complain(&text);
            let verdict = match &error {
                FsckError::Open(OpenError::Io { source, .. })
                    if source.kind() == io::ErrorKind::PermissionDenied =>
                {
                    Verdict::Denied
                }
                _ => Verdict::Failed,
            };
            let value = if mode.json {
                json!({ "directory": directory.display().to_string(), "error": text })
            } else {
                Value::Null
            };
            (verdict, value)
        }
    }
}

fn to_json(report: &FsckReport) -> Value {
    let counts: Map<String, Value> = report
        .counts
        .list()
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect();
    json!({
        "directory": report.directory.display().to_string(),
        "tenant": report.tenant,
        "clean": report.is_clean(),
        "mended": report.is_mended(),
        "counts": counts,
        "problems": report.problems,
        "problems_more": report.problems_more,
        "notes": report.notes,
        "repairs": report.repairs,
        "remaining": report.remaining,
    })
}

/// One line on a terminal that says how far the check is.
struct Progress {
    name: String,
    shown: Option<u64>,
    is_terminal: bool,
}

impl Progress {
    fn new(directory: &Path) -> Self {
        Self {
            name: directory.display().to_string(),
            shown: None,
            is_terminal: io::stderr().is_terminal(),
        }
    }

    fn show(&mut self, done: u64, total: u64) {
        let percent = done.saturating_mul(100) / total.max(1);
        if self.is_terminal && self.shown != Some(percent) {
            self.shown = Some(percent);
            // A terminal that is gone needs no progress.
            let _ = write!(io::stderr().lock(), "\r{}: {percent}%", self.name);
        }
    }

    fn end(&self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr().lock(), "\r\u{1b}[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_the_configuration_stands_for_its_tenants() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        for name in ["b", "a", "lost+found"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        assert_eq!(of_tenants(top.path()), [top.path().to_owned()]);
        for name in ["b", "a"] {
            std::fs::write(path(name).join(SUPERBLOCK), "").unwrap();
        }
        assert_eq!(of_tenants(top.path()), [path("a"), path("b")]);
        assert_eq!(of_tenants(&path("a")), [path("a")]);
        // One without a superblock is still a tenant's, and what is wrong with it is said.
        std::fs::remove_file(path("a").join(SUPERBLOCK)).unwrap();
        std::fs::write(path("a").join("segment-00000000.kvt"), "").unwrap();
        assert_eq!(of_tenants(top.path()), [path("a"), path("b")]);
        assert_eq!(of_tenants(Path::new("/nowhere")), [PathBuf::from("/nowhere")]);
    }
}
