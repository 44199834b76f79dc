//! What the kernel knows of a process: CPU time, memory, wake-ups.

use std::fs;

use anyhow::Context;

/// What all threads of a process have used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Nanoseconds on a CPU, from the scheduler's own books.
    pub(crate) cpu_ns: u64,
    /// How often a thread went to sleep by itself, and so was woken.
    pub(crate) wakeups: u64,
}

impl Usage {
    /// What was used between the two.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns.saturating_sub(before.cpu_ns),
            wakeups: self.wakeups.saturating_sub(before.wakeups),
        }
    }
}

/// Reads the usage of a running process.
pub(crate) fn usage(pid: u32) -> anyhow::Result<Usage> {
    usage_of(pid, |_| true)
}

/// The same of its threads of this name.
pub(crate) fn usage_of_thread(pid: u32, name: &str) -> anyhow::Result<Usage> {
    usage_of(pid, |comm| comm.trim_end() == name)
}

fn usage_of(pid: u32, counts: impl Fn(&str) -> bool) -> anyhow::Result<Usage> {
    let tasks = format!("/proc/{pid}/task");
    let mut total = Usage::default();
    for task in fs::read_dir(&tasks).with_context(|| format!("could not read {tasks}"))? {
        let task = task?.path();
        // A thread may end while we look; it then counts no more.
        let (Ok(comm), Ok(schedstat), Ok(status)) = (
            fs::read_to_string(task.join("comm")),
            fs::read_to_string(task.join("schedstat")),
            fs::read_to_string(task.join("status")),
        ) else {
            continue;
        };
        if !counts(&comm) {
            continue;
        }
        total.cpu_ns += parse_schedstat(&schedstat).context("schedstat has another form than known")?;
        total.wakeups += parse_field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
    }
    Ok(total)
}

/// Bytes of anonymous memory of a process: its own books, without the region, which is shared memory.
pub(crate) fn anonymous_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    let kib = parse_field(&status, "RssAnon:").with_context(|| format!("{path} has no RssAnon"))?;
    Ok(kib * 1024)
}

fn parse_schedstat(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

fn parse_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line[name.len()..].split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let status = "RssAnon:\t    2048 kB\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t9\n";
        assert_eq!(parse_field(status, "RssAnon:"), Some(2048));
        assert_eq!(parse_field(status, "voluntary_ctxt_switches:"), Some(7));
        assert_eq!(parse_field(status, "RssFile:"), None);
        assert_eq!(parse_schedstat("4093 12 5\n"), Some(4093));
    }

    #[test]
    fn this_process_has_used_memory() {
        assert!(anonymous_bytes(std::process::id()).unwrap() > 0);
        usage(std::process::id()).unwrap();
    }
}
