//! What spans are written with.

use std::sync::Arc;

use connector_shm::TraceContext;
use kvstore_trace::{Ids, Kind, Span, SpanId, TraceId, Value, unix_ns};

use crate::engine_thread::session::Session;

/// The span around others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
}

impl Context {
    /// What a client said; none: nobody follows it.
    pub(super) fn of(context: &TraceContext) -> Option<Self> {
        let trace = TraceId(context.trace_id);
        let span = SpanId::some(context.span_id)?;
        trace.is_valid().then_some(Self { trace, span })
    }
}

/// A span that has begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) around: Context,
    pub(super) id: SpanId,
    pub(super) start_ns: u64,
}

impl Open {
    /// For spans within it.
    pub(super) fn context(&self) -> Context {
        Context {
            trace: self.around.trace,
            span: self.id,
        }
    }
}

/// How a span ends.
pub(super) struct Close {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) end_ns: u64,
    pub(super) attributes: Vec<(&'static str, Value)>,
    pub(super) error: Option<&'static str>,
}

/// Writes spans.
#[derive(Debug)]
pub(super) struct Pen {
    tenant: Arc<str>,
    ids: Ids,
    pub(super) spans: Vec<Span>,
}

impl Pen {
    pub(super) fn new(tenant: &str) -> Self {
        Self {
            tenant: Arc::from(tenant),
            ids: Ids::new(),
            spans: Vec::new(),
        }
    }

    /// Begins a span now.
    pub(super) fn open(&mut self, around: Context) -> Open {
        Open {
            around,
            id: self.ids.span(),
            start_ns: unix_ns(),
        }
    }

    /// Ends a span.
    pub(super) fn close(&mut self, open: Open, close: Close) {
        self.write(Span {
            trace: open.around.trace,
            id: open.id,
            parent: Some(open.around.span),
            is_parent_remote: false,
            name: close.name,
            kind: close.kind,
            start_ns: open.start_ns,
            end_ns: close.end_ns,
            attributes: close.attributes,
            error: close.error,
        });
    }

    /// Writes a whole span; a clock that was set back makes none that ends before it began.
    pub(super) fn write(&mut self, span: Span) {
        let end_ns = span.end_ns.max(span.start_ns);
        self.spans.push(Span { end_ns, ..span });
    }

    /// Whose it is.
    pub(super) fn attributes(&self, session: Option<&Session>) -> Vec<(&'static str, Value)> {
        let mut attributes = vec![("kvtier.tenant", Value::Text(Arc::clone(&self.tenant)))];
        if let Some(session) = session {
            attributes.push(("kvtier.engine", Value::Text(session.engine_name.as_str().into())));
            if !session.model.is_empty() {
                attributes.push(("gen_ai.request.model", Value::Text(session.model.as_str().into())));
            }
        }
        attributes
    }
}
