//! What the figures were measured on.

use std::fs;
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::install::Installation;

/// Facts about this machine, as it is now.
pub(crate) fn facts(installation: Option<&Installation>) -> Map<String, Value> {
    let mut facts = Map::new();
    let mut add = |name: &str, value: Value| facts.insert(name.to_owned(), value);
    add("cpu", json!(cpu_model()));
    add(
        "cores",
        json!(std::thread::available_parallelism().map_or(0, usize::from)),
    );
    add("memory_bytes", json!(memory_bytes()));
    add("kernel", json!(first_line("/proc/sys/kernel/osrelease")));
    add("page_bytes", json!(page_bytes()));
    add(
        "thp",
        json!(first_line("/sys/kernel/mm/transparent_hugepage/enabled")),
    );
    add("load", json!(load()));
    add("bench", json!(env!("CARGO_PKG_VERSION")));
    if let Some(installation) = installation {
        let daemon = installation.daemon.as_ref();
        add("daemon", json!(daemon.map(|path| path.display().to_string())));
        add("library", json!(installation.library.display().to_string()));
    }
    facts
}

/// Load averages over 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    let line = first_line("/proc/loadavg");
    line.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let model = line.and_then(|line| line.split_once(':'));
    model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.trim().to_owned())
}

fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    kib.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

fn page_bytes() -> u64 {
    let output = Command::new("getconf").arg("PAGESIZE").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
