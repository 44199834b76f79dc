//! The last events and warnings, for people who look at the daemon without its log.
//!
//! What the log says at `info` and above is kept here as well, whatever `log.level` is: so many of the last lines, each of
//! them short. Nothing here is waited for by anybody.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// Notices that are kept.
const NOTICES_MAX: usize = 100;
/// Letters of a message, and of each field.
const LETTERS_MAX: usize = 200;
/// Fields of one notice.
const FIELDS_MAX: usize = 16;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Notice {
    /// When, in milliseconds since 1970.
    pub(crate) unix_ms: u64,
    /// `error`, `warn` or `info`.
    pub(crate) level: &'static str,
    /// What.
    pub(crate) message: String,
    /// About what.
    pub(crate) fields: BTreeMap<&'static str, String>,
}

/// The last ones. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notices {
    kept: Arc<Mutex<VecDeque<Notice>>>,
}

impl Notices {
    /// All that are kept, the oldest first.
    pub(crate) fn all(&self) -> Vec<Notice> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().cloned().collect()
    }

    fn keep(&self, notice: Notice) {
        // A panic elsewhere leaves whole notices.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == NOTICES_MAX {
            kept.pop_front();
        }
        kept.push_back(notice);
    }
}

impl<S: Subscriber> Layer<S> for Notices {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            Level::DEBUG | Level::TRACE => return,
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut notice = Notice {
            unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            level,
            message: String::new(),
            fields: BTreeMap::new(),
        };
        event.record(&mut notice);
        self.keep(notice);
    }
}

impl Notice {
    fn record(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            self.message = value;
        } else if self.fields.len() < FIELDS_MAX {
            self.fields.insert(field.name(), value);
        }
    }
}

impl Visit for Notice {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, shortened(format_args!("{value}")));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.record(field, shortened(format_args!("{value:?}")));
    }
}

/// What there is room for.
fn shortened(value: std::fmt::Arguments<'_>) -> String {
    /// Takes letters until it is full.
    struct Short(String, usize);

    impl Write for Short {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            for letter in text.chars() {
                if self.1 == LETTERS_MAX {
                    self.0.push('…');
                    return Err(std::fmt::Error);
                }
                self.0.push(letter);
                self.1 += 1;
            }
            Ok(())
        }
    }

    let mut short = Short(String::new(), 0);
    // It ends early when there is no more room.
    let _ = short.write_fmt(value);
    short.0
}

#[cfg(test)]
mod tests {
    use tracing::{debug, info, warn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn the_last_notices_are_kept_and_are_short() {
        let notices = Notices::default();
        let subscriber = tracing_subscriber::registry().with(notices.clone());
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..NOTICES_MAX {
                info!(number, "counted");
            }
            debug!("not for people");
            let path = "é".repeat(LETTERS_MAX + 1);
            warn!(path, error = ?Some(7), "something is {}", "odd");
        });
        let kept = notices.all();
        assert_eq!(kept.len(), NOTICES_MAX);
        assert_eq!((kept[0].level, kept[0].fields["number"].as_str()), ("info", "1"));
        let last = kept.last().unwrap();
        assert_eq!((last.level, last.message.as_str()), ("warn", "something is odd"));
        assert_eq!(last.fields["error"], "Some(7)");
        assert_eq!(last.fields["path"], format!("{}…", "é".repeat(LETTERS_MAX)));
    }
}
