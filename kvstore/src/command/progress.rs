//! How far a listing of a store is, for people who wait for it.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kvstore_remote::Progress;

/// Directories of a namespace.
const DIRECTORIES: usize = 256;
/// How often the line is written anew.
const EVERY: Duration = Duration::from_millis(200);

/// A line at the bottom of the terminal that standard error is, while so many namespaces are listed; elsewhere nothing is said.
pub(super) fn line(namespaces: usize) -> Arc<Progress> {
    if !io::stderr().is_terminal() {
        return Arc::new(|_, _| {});
    }
    let state = Mutex::new(Line::new(namespaces * DIRECTORIES));
    Arc::new(move |objects, is_done| {
        let mut line = state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = line.hear(Instant::now(), objects, is_done) {
            // Nobody is left to tell if that fails.
            let _ = write!(io::stderr().lock(), "{text}");
        }
    })
}

/// What the line says.
#[derive(Debug)]
struct Line {
    directories: usize,
    done: usize,
    objects: usize,
    written: Option<Instant>,
}

impl Line {
    fn new(directories: usize) -> Self {
        Self {
            directories,
            done: 0,
            objects: 0,
            written: None,
        }
    }

    /// More is known. The answer is what is to be written, if it is time; at the end the line is wiped.
    fn hear(&mut self, now: Instant, objects: usize, is_done: bool) -> Option<String> {
        self.objects += objects;
        self.done += usize::from(is_done);
        if self.done >= self.directories {
            return self.written.take().map(|_| "\r\x1b[K".to_owned());
        }
        if self
            .written
            .is_some_and(|written| now.saturating_duration_since(written) < EVERY)
        {
            return None;
        }
        self.written = Some(now);
        let percent = self.done * 100 / self.directories.max(1);
        Some(format!("\r\x1b[Klisted {percent} %, {} objects", self.objects))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_written_now_and_then_and_wiped_at_the_end() {
        let (mut line, now) = (Line::new(4), Instant::now());
        let said = line.hear(now, 1000, false);
        assert_eq!(said.as_deref(), Some("\r\x1b[Klisted 0 %, 1000 objects"));
        assert_eq!(line.hear(now, 5, true), None, "not for every page");
        let said = line.hear(now + EVERY, 0, true);
        assert_eq!(said.as_deref(), Some("\r\x1b[Klisted 50 %, 1005 objects"));
        assert_eq!(line.hear(now + EVERY, 0, true), None);
        assert_eq!(line.hear(now + EVERY, 0, true).as_deref(), Some("\r\x1b[K"));
    }
}
