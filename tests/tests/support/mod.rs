//! What the tests share: the programs under test, a daemon, and an engine that stores and loads.
#![allow(dead_code, reason = "each test file uses its own part")]

pub(crate) mod collector;
pub(crate) mod daemon;
pub(crate) mod store;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nothing here takes nearly as long; this only ends a test that would hang.
pub(crate) const WATCHDOG: Duration = Duration::from_mins(2);

/// Waits until `look` finds something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The clone.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The folder that holds libkvtier and kvtierd, built like this test was. Built once, by the first test that asks.
pub(crate) fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().unwrap().parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root()).args([
            "build",
            "--quiet",
            "--locked",
            "-p",
            "connector-abi",
            "-p",
            "kvstore",
        ]);
        cargo.env("CARGO_TARGET_DIR", profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        succeed(cargo);
        profile.to_owned()
    })
}

/// Runs a command that has to succeed.
pub(crate) fn succeed(mut command: Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed:\n{text}");
}
