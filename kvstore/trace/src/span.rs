//! One span, as engine threads make it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Names a trace, as W3C Trace Context has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(pub [u8; 16]);

/// Names a span within its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId(pub [u8; 8]);

impl TraceId {
    /// Whether it names a trace: zeroes do not.
    pub fn is_valid(&self) -> bool {
        self.0 != [0; 16]
    }
}

impl SpanId {
    /// The id, unless it is none: zeroes.
    pub fn some(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }
}

/// What a span is to the one around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A part of it.
    Internal,
    /// The answer to a request of another process.
    Server,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A count, bytes or microseconds: the attribute's name says which.
    Number(u64),
    /// One of a few names.
    Name(&'static str),
    /// Any text.
    Text(Arc<str>),
}

/// One span.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its trace.
    pub trace: TraceId,
    /// Its own name.
    pub id: SpanId,
    /// The span around it; none: it begins its trace.
    pub parent: Option<SpanId>,
    /// Whether that one is another process's.
    pub is_parent_remote: bool,
    /// What happened.
    pub name: &'static str,
    /// What it is to the span around it.
    pub kind: Kind,
    /// When it began, in nanoseconds since 1970.
    pub start_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// What else there is to know.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it came to nothing, if it did: the value of `error.type`.
    pub error: Option<&'static str>,
}

/// Now, in nanoseconds since 1970.
pub fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Until the year 2554.
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
