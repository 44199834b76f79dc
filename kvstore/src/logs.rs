//! The log: one line of text or one JSON object for each event, on standard error.
//!
//! Lines are written by a thread of their own, because whoever reads them may stop reading, and the threads that
//! serve clients must not wait for that. Its queue holds [`LINES_MAX`] lines; beyond that lines are dropped, counted,
//! and told of as soon as there is room again.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, channel, sync_channel};
use std::time::Duration;

use tracing_subscriber::Layer;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::notices::Notices;

/// The target of lines that are written whatever the level is: who changed what.
pub(crate) const AUDIT: &str = "kvtier_audit";

/// Lines that wait to be written.
const LINES_MAX: usize = 4096;
/// How long the end of the daemon waits for somebody to read its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A running log. Dropping it waits a moment for the last lines.
#[derive(Debug)]
pub struct Log {
    queue: Queue,
    written: Receiver<()>,
    filter: Filter,
    notices: Notices,
}

/// Changes the level of a running log; it may have none, where somebody else started the log.
struct Filter(Option<Box<dyn Fn(LogLevel)>>);

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Filter").field(&self.0.is_some()).finish()
    }
}

/// The way to the thread that writes.
#[derive(Clone, Debug)]
struct Queue {
    sender: SyncSender<Option<Vec<u8>>>,
    dropped: Arc<AtomicU64>,
}

/// Starts the log.
pub fn start(config: LogConfig) -> io::Result<Log> {
    let (sender, lines) = sync_channel(LINES_MAX);
    let queue = Queue {
        sender,
        dropped: Arc::default(),
    };
    let dropped = Arc::clone(&queue.dropped);
    let (done, written) = channel();
    std::thread::Builder::new()
        .name("kvt-log".to_owned())
        .spawn(move || {
            write_lines(&lines, &dropped, &mut io::stderr());
            // Nobody may wait for it any more.
            let _ = done.send(());
        })?;
    let (filter_now, handle) = reload::Layer::new(filter(config.level));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(queue.clone())
        .with_target(false)
        // It would complain on standard error, which is what cannot be written to.
        .log_internal_errors(false);
    let lines = match config.format {
        LogFormat::Text => lines
            .with_ansi(io::stderr().is_terminal())
            .with_filter(filter_now)
            .boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter_now).boxed(),
    };
    let notices = Notices::default();
    let subscriber = tracing_subscriber::registry()
        .with(lines)
        .with(notices.clone().with_filter(LevelFilter::INFO));
    // A log that somebody else has started already (in a test, say) is as good.
    let started = subscriber.try_init().is_ok();
    let filter = changing(started, move |level| drop(handle.reload(filter(level))));
    Ok(Log {
        queue,
        written,
        filter,
        notices,
    })
}

fn changing(started: bool, change: impl Fn(LogLevel) + 'static) -> Filter {
    Filter(started.then(|| Box::new(change) as Box<dyn Fn(LogLevel)>))
}

impl Log {
    /// What it said last.
    pub(crate) fn notices(&self) -> &Notices {
        &self.notices
    }

    /// Writes from this level on.
    pub fn set_level(&self, new: LogLevel) {
        if let Some(change) = &self.filter.0 {
            change(new);
        }
    }
}

fn write_lines(lines: &Receiver<Option<Vec<u8>>>, dropped: &AtomicU64, out: &mut impl Write) {
    while let Ok(Some(line)) = lines.recv() {
        // If nobody can read the log there is nobody to tell.
        let _ = out.write_all(&line);
        let count = dropped.swap(0, Ordering::Relaxed);
        if count > 0 {
            let _ = writeln!(
                out,
                "{count} lines of the log were dropped: they came faster than they were read"
            );
        }
    }
}

/// A filter that can be exchanged while the log runs.
fn filter(level: LogLevel) -> EnvFilter {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let filter = EnvFilter::default().add_directive(level.into());
    match format!("{AUDIT}=info").parse() {
        Ok(directive) => filter.add_directive(directive),
        // It always can be read; a log without those lines would be better than none.
        Err(_) => filter,
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.queue.sender.try_send(None).is_ok() {
            match self.written.recv_timeout(LAST_LINES) {
                Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }
}

impl<'a> MakeWriter<'a> for Queue {
    type Writer = &'a Queue;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Queue {
    /// Takes one whole line: the formatter hands over each event in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.sender.try_send(Some(line.to_vec())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_queue_are_dropped_and_told_of() {
        let (sender, lines) = sync_channel(2);
        let queue = Queue {
            sender,
            dropped: Arc::default(),
        };
        for line in ["one\n", "two\n", "three\n"] {
            (&queue).write_all(line.as_bytes()).unwrap();
        }
        let dropped = Arc::clone(&queue.dropped);
        drop(queue);
        let mut written = Vec::new();
        write_lines(&lines, &dropped, &mut written);
        let text = String::from_utf8(written).unwrap();
        let expected = "one\n1 lines of the log were dropped: they came faster than they were read\ntwo\n";
        assert_eq!(text, expected);
    }
}
