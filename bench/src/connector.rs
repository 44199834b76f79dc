//! `connector_us_per_key` and `connector_wait_us_per_step`: what the connector costs vLLM's scheduler thread.
//!
//! A Python script drives the connector with vLLM's own classes against a daemon of ours and prints the figures.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context, bail, ensure};
use serde_json::{Map, Value, json};

use crate::arguments::Arguments;
use crate::daemon::{Daemon, Shape};
use crate::install::{Installation, find_above};
use crate::report::Report;
use crate::scratch::Scratch;

const SCRIPT: &str = "bench/python/connector_bench.py";
const PACKAGE: &str = "python-shim";
const CAPACITY_BYTES: u64 = 1 << 30;
const DEADLINE: Duration = Duration::from_mins(5);
const AIMS: [(&str, f64); 2] = [
    ("connector_us_per_key", 0.2),
    ("connector_wait_us_per_step", 20.0),
];

/// Runs the script, or says why not.
pub(crate) fn run(arguments: &Arguments, installation: &Installation, report: &mut Report) {
    eprintln!("connector: {} keys", arguments.keys);
    if let Err(error) = measure(arguments, installation, report) {
        for (name, _) in AIMS {
            report.skip(name, &json!({"keys": arguments.keys}), &format!("{error:#}"));
        }
    }
}

fn measure(arguments: &Arguments, installation: &Installation, report: &mut Report) -> anyhow::Result<()> {
    let python = python(arguments)?;
    let script =
        find_above(SCRIPT).with_context(|| format!("{SCRIPT} is not here; run in the source tree"))?;
    let package = find_above(PACKAGE).with_context(|| format!("{PACKAGE} is not here"))?;
    let scratch = Scratch::make()?;
    let shape = Shape {
        name: "connector".to_owned(),
        capacity_bytes: CAPACITY_BYTES,
        prefault: false,
        events: None,
        remote: None,
        traces: None,
    };
    let daemon = Daemon::given_or_started(arguments, installation, &scratch, &shape)?;
    let printed = scratch.path().join("connector.out");
    let mut command = Command::new(&python);
    command
        .arg(&script)
        .args([
            "--keys",
            &arguments.keys.to_string(),
            "--rounds",
            &arguments.rounds.to_string(),
        ])
        .env("PYTHONPATH", &package)
        .env("KVTIER_LIBRARY", &installation.library)
        .env("KVTIER_SOCKET", daemon.socket())
        .stdin(Stdio::null())
        .stdout(File::create(&printed)?);
    finish(command)?;
    let figures = figures(&fs::read_to_string(&printed)?);
    if figures.is_empty() {
        bail!("{} printed no figures", script.display());
    }
    for figure in figures {
        let name = figure.get("name").and_then(Value::as_str).unwrap_or_default();
        let aim = AIMS.iter().find(|(known, _)| *known == name).map(|(_, aim)| *aim);
        report.add_foreign(figure, aim);
    }
    Ok(())
}

/// Runs the script to its end, or for as long as is reasonable.
fn finish(mut command: Command) -> anyhow::Result<()> {
    let mut child = command
        .spawn()
        .with_context(|| format!("could not run {command:?}"))?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "{SCRIPT} ended with {status}");
            return Ok(());
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("{SCRIPT} did not end within {} s", DEADLINE.as_secs());
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// The Python that was named, or the one of the virtual environment that the Makefile makes; it must have vLLM.
fn python(arguments: &Arguments) -> anyhow::Result<PathBuf> {
    let python = match &arguments.python {
        Some(path) => path.clone(),
        None => default_python().context("there is no virtual environment; name a Python with --python")?,
    };
    let probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)";
    let status = Command::new(&python).args(["-c", probe]).status();
    match status {
        Ok(status) if status.success() => Ok(python),
        Ok(_) => bail!("{} has no vLLM; name another with --python", python.display()),
        Err(error) => bail!("could not run {}: {error}", python.display()),
    }
}

fn default_python() -> Option<PathBuf> {
    let cache = env::var_os("KVTIER_CACHE")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache/kvtier")))?;
    let python = cache.join("venv/bin/python");
    python.exists().then_some(python)
}

/// The lines that are JSON objects with a name; libraries print other things too.
fn figures(output: &str) -> Vec<Map<String, Value>> {
    output
        .lines()
        .filter_map(|line| match serde_json::from_str(line.trim()) {
            Ok(Value::Object(object)) if object.contains_key("name") => Some(object),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_objects_are_figures() {
        let output = "INFO loading\n{\"name\":\"a\",\"value\":1}\n[1]\n{\"value\":2}\n  {\"name\":\"b\"}\n";
        let names: Vec<_> = figures(output)
            .iter()
            .map(|figure| figure["name"].clone())
            .collect();
        assert_eq!(names, ["a", "b"]);
    }
}
