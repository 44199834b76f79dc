//! Follows requests through the engine thread: spans are made of what events, effects and devices say.
//!
//! ```text
//!   kvtier.request                     the client tells of it when it is over
//!     ├─ kvtier.lookup                 from its event to its answer
//!     │    └─ kvtier.promote           one for each tier: from the first read that was ordered to the last that ended
//!     ├─ kvtier.load                   from commitment to release
//!     └─ kvtier.store                  from reservation to the last seal
//!          ├─ kvtier.write_back        from the first write that was ordered to the last that ended
//!          └─ kvtier.remote_write
//! ```
//!
//! What always holds
//! - The engine knows nothing of it: what is followed is remembered here, by session and tag, key, slot or operation.
//! - A span belongs to one request and one phase, never to a block.
//! - What is remembered is bounded: by what sessions may have alive, and by [`stores::BLOCKS_MAX`].
//! - Without a tracer a step pays for one look at an option; with one, for its own messages only what they have to say.

mod asks;
mod pen;
mod stores;

use std::collections::HashMap;
use std::sync::Arc;

use connector_shm::{TraceContext, TracedRequest};
use kvstore_engine::{
    Completion, Effect, Effects, Event, NvmeEvent, NvmeOrder, RemoteEvent, RemoteOrder, RemoteOutcome,
};
use kvstore_nvme::OrderTimes;
use kvstore_trace::{Kind, Recorder, Span, SpanId, TraceId, Value, unix_ns};
use kvstore_types::{
    BlockKey, GroupLayout, GroupSpan, IoOutcome, NamespaceId, OperationId, SessionId, Tag, Tier,
};

use self::asks::Asks;
use self::pen::{Context, Pen};
use self::stores::Stores;
use super::core::Sessions;
use super::request::Said;
use super::session::Session;

/// The tiers below host memory, as indexes.
const NVME: usize = 0;
const REMOTE: usize = 1;
const TIERS: [&str; 2] = ["nvme", "remote"];

/// Follows the requests of one tenant.
#[derive(Debug)]
pub(crate) struct Tracer {
    recorder: Recorder,
    pen: Pen,
    /// What was said of the next look-up or reservation of a session.
    announced: HashMap<SessionId, Announced>,
    shapes: Shapes,
    asks: Asks,
    stores: Stores,
    /// How long the order took whose end is the next event.
    times: OrderTimes,
}

/// Whose a message is.
#[derive(Debug)]
struct Announced {
    tag: Tag,
    sent_ns: u64,
    contexts: Vec<TraceContext>,
}

/// The namespaces of sessions, and the bytes of their blocks.
#[derive(Debug, Default)]
struct Shapes {
    of_sessions: HashMap<SessionId, NamespaceId>,
    bytes: HashMap<NamespaceId, Vec<u64>>,
}

impl Shapes {
    fn set(&mut self, session: SessionId, namespace: NamespaceId, groups: &[GroupLayout]) {
        self.of_sessions.insert(session, namespace);
        let bytes = |group: &GroupLayout| group.rank_bytes.iter().sum();
        self.bytes
            .entry(namespace)
            .or_insert_with(|| groups.iter().map(bytes).collect());
    }

    fn forget(&mut self, session: SessionId) {
        if self.of_sessions.remove(&session).is_some() {
            let used: Vec<NamespaceId> = self.of_sessions.values().copied().collect();
            self.bytes.retain(|namespace, _| used.contains(namespace));
        }
    }

    fn namespace(&self, session: SessionId) -> Option<NamespaceId> {
        self.of_sessions.get(&session).copied()
    }

    /// Bytes of a block, without what a slot begins with.
    fn bytes(&self, namespace: NamespaceId, group: usize) -> u64 {
        let groups = self.bytes.get(&namespace);
        groups.and_then(|groups| groups.get(group)).copied().unwrap_or(0)
    }

    fn bytes_of(&self, key: &BlockKey) -> u64 {
        self.bytes(key.namespace, usize::from(key.group.0))
    }

    /// Blocks of spans, and their bytes.
    fn count(&self, session: SessionId, spans: &[GroupSpan]) -> (u64, u64) {
        let namespace = self.namespace(session);
        spans.iter().fold((0, 0), |(blocks, bytes), span| {
            let each = namespace.map_or(0, |namespace| self.bytes(namespace, span.group as usize));
            let count = u64::from(span.count);
            (blocks + count, bytes + count.saturating_mul(each))
        })
    }
}

impl Tracer {
    /// Follows the requests of this tenant. `waits_for`: whether every block that is stored is to be written to NVMe, and to
    /// the remote tier, soon. `has_lower`: whether there is one of these tiers.
    pub(crate) fn new(tenant: &str, recorder: Recorder, waits_for: [bool; 2], has_lower: bool) -> Self {
        Self {
            recorder,
            pen: Pen::new(tenant),
            announced: HashMap::new(),
            shapes: Shapes::default(),
            asks: Asks::default(),
            stores: Stores::new(waits_for, has_lower),
            times: OrderTimes::default(),
        }
    }

    /// A client has told of a request that is over.
    fn request_over(&mut self, session: Option<&Session>, request: &TracedRequest<'_>) {
        let Some(id) = SpanId::some(request.span_id) else {
            return;
        };
        let parent = SpanId::some(request.parent_span_id);
        let mut attributes = self.pen.attributes(session);
        attributes.extend([
            ("kvtier.request.id", Value::Text(Arc::from(request.name))),
            ("kvtier.prompt.tokens", Value::Number(request.prompt_tokens)),
            ("kvtier.hit.tokens", Value::Number(request.hit_tokens)),
            ("kvtier.load.tokens", Value::Number(request.loaded_tokens)),
        ]);
        self.pen.write(Span {
            trace: TraceId(request.trace_id),
            id,
            parent,
            is_parent_remote: parent.is_some(),
            name: "kvtier.request",
            kind: Kind::Internal,
            start_ns: request.start_ns,
            end_ns: request.end_ns,
            attributes,
            error: None,
        });
    }

    /// How long the order took whose end the next event tells.
    pub(super) fn took(&mut self, times: OrderTimes) {
        self.times = times;
    }

    /// An event is about to be stepped.
    pub(super) fn before(&mut self, event: &Event<'_>) {
        match *event {
            Event::Lookup {
                session,
                tag,
                groups,
                tokens_max,
            } => {
                let blocks = groups.iter().map(|group| group.hashes.len() as u64).sum();
                if let Some(said) = self.announced(session, tag)
                    && let Some(context) = said.contexts.iter().find_map(Context::of)
                {
                    let begun = asks::Begun {
                        context,
                        sent_ns: said.sent_ns,
                        blocks,
                        tokens_max,
                    };
                    self.asks.begin((session, tag), &begun, &mut self.pen);
                }
            }
            Event::LookupRelease { session, tag } => self.asks.release((session, tag)),
            Event::LoadCommit {
                session,
                tag,
                lease,
                spans,
            } => {
                let what = || self.shapes.count(session, spans);
                self.asks.commit((session, tag), lease, what, &mut self.pen);
            }
            Event::LeaseRelease { session, lease } => {
                self.asks.end_load((session, lease), None, &mut self.pen);
            }
            Event::Reserve {
                session, tag, groups, ..
            } => {
                let said = self.announced(session, tag);
                if let (Some(said), Some(namespace)) = (said, self.shapes.namespace(session)) {
                    self.stores.begin(session, namespace, groups, &said.contexts);
                }
            }
            Event::Abort { slots, .. } => self.stores.abort(slots, &mut self.pen),
            Event::Reset { session, .. } => self.stores.lose(session, "reset", &mut self.pen),
            Event::SessionEnded { session, .. } => self.forget(session),
            Event::Nvme {
                event: NvmeEvent::Done { operation, outcome },
                ..
            } => self.done(operation, outcome == IoOutcome::Done),
            Event::NvmeTuned { ref tuning } => {
                let soon = tuning.admission == kvstore_engine::Admission::All;
                self.stores.set_soon(NVME, soon);
            }
            Event::Remote(ref event) => self.before_remote(event),
            _ => {}
        }
    }

    fn before_remote(&mut self, event: &RemoteEvent<'_>) {
        let good = |outcome| matches!(outcome, RemoteOutcome::Done | RemoteOutcome::AlreadyPresent);
        match *event {
            RemoteEvent::Existence { operation, .. } => self.asks.go_on(operation),
            RemoteEvent::Fetched {
                operation, outcome, ..
            }
            | RemoteEvent::Stored { operation, outcome } => {
                self.times = OrderTimes::default();
                self.done(operation, good(outcome));
            }
            RemoteEvent::Taken { .. } | RemoteEvent::Service { .. } => {}
        }
    }

    /// An event has been stepped.
    pub(super) fn hear(&mut self, effects: &Effects, sessions: &Sessions) {
        for effect in &effects.list {
            match effect {
                Effect::Complete {
                    session,
                    tag,
                    completion,
                } => self.answered((*session, *tag), completion, effects, sessions),
                Effect::NamespaceReady {
                    session,
                    namespace,
                    groups,
                } => self.shapes.set(*session, *namespace, groups),
                Effect::CutOff { session, .. } => self.forget(*session),
                Effect::Nvme { order, .. } => self.ordered(order),
                Effect::Remote(order) => self.ordered_remote(order),
                Effect::BlockStored {
                    key,
                    tier: Tier::Host,
                    ..
                } => self.stores.publish(key, &self.shapes, &mut self.pen),
                Effect::BlockRemoved {
                    key,
                    tier: Tier::Host,
                    ..
                } => self.stores.leave(key, &mut self.pen),
                _ => {}
            }
        }
        self.asks.current = None;
        self.stores.end_reserve();
    }

    /// Hands over what has been written.
    pub(super) fn flush(&mut self) {
        if !self.pen.spans.is_empty() {
            self.recorder.record(&mut self.pen.spans);
        }
    }

    /// The thread ends: what is still open is told as far as it came.
    pub(super) fn stop(&mut self) {
        self.stores.end(&mut self.pen);
        self.flush();
    }

    fn announced(&mut self, session: SessionId, tag: Tag) -> Option<Announced> {
        if self.announced.is_empty() {
            return None;
        }
        self.announced.remove(&session).filter(|said| said.tag == tag)
    }

    fn answered(
        &mut self,
        name: (SessionId, Tag),
        completion: &Completion,
        effects: &Effects,
        sessions: &Sessions,
    ) {
        let session = sessions.get(&name.0);
        match completion {
            Completion::LookupPending { .. } => self.asks.pend(name),
            Completion::Lookup {
                hit_tokens,
                spans,
                arrived,
                outcome,
            } => {
                let range = spans.start as usize..spans.end as usize;
                let spans = effects.spans.get(range).unwrap_or_default();
                let answer = asks::Answer {
                    hit_tokens: *hit_tokens,
                    hit_blocks: spans.iter().map(|span| u64::from(span.count)).sum(),
                    arrived: *arrived,
                    outcome: *outcome,
                };
                self.asks.answer(name, &answer, session, &mut self.pen);
            }
            Completion::Load { grants, lost } => {
                let leased = grants.end - grants.start - lost;
                self.asks.grant(name, leased, *lost, &mut self.pen);
            }
            Completion::Reserve { grants } => {
                let range = grants.start as usize..grants.end as usize;
                let grants = effects.grants.get(range).unwrap_or_default();
                self.stores.grant(name.0, grants, session, &mut self.pen);
            }
            Completion::Seal { .. } | Completion::Abort { .. } | Completion::Reset { .. } => {}
        }
    }

    fn ordered(&mut self, order: &NvmeOrder) {
        match order {
            NvmeOrder::Read {
                operation, extent, ..
            } => self.asks.order(NVME, *operation, extent.bytes(), &mut self.pen),
            NvmeOrder::Write {
                operation,
                extent,
                key,
                ..
            } => self.stores.order(NVME, *operation, key, extent.bytes()),
            _ => {}
        }
    }

    fn ordered_remote(&mut self, order: &RemoteOrder) {
        match order {
            RemoteOrder::Fetch { operation, key, .. } => {
                let bytes = self.shapes.bytes_of(key);
                self.asks.order(REMOTE, *operation, bytes, &mut self.pen);
            }
            RemoteOrder::Store { operation, key, .. } => {
                let bytes = self.shapes.bytes_of(key);
                self.stores.order(REMOTE, *operation, key, bytes);
            }
            RemoteOrder::Exists { operation, .. } => self.asks.ask(*operation),
            _ => {}
        }
    }

    fn done(&mut self, operation: OperationId, is_good: bool) {
        let times = std::mem::take(&mut self.times);
        if !self.asks.done(operation, is_good, times, &mut self.pen) {
            self.stores.done(operation, is_good, times, &mut self.pen);
        }
    }

    fn forget(&mut self, session: SessionId) {
        self.announced.remove(&session);
        self.shapes.forget(session);
        self.asks.forget(session, &mut self.pen);
        self.stores.lose(session, "session_ended", &mut self.pen);
    }
}

/// What a client said of its requests; where nobody follows them it is ignored.
pub(super) fn take(tracer: Option<&mut Tracer>, id: SessionId, session: Option<&Session>, said: &Said<'_>) {
    let Some(tracer) = tracer else {
        return;
    };
    match *said {
        Said::Next {
            tag,
            sent_ns,
            contexts,
        } => {
            let contexts = contexts.to_vec();
            let said = Announced {
                tag,
                sent_ns,
                contexts,
            };
            tracer.announced.insert(id, said);
        }
        Said::Over(ref request) => tracer.request_over(session, request),
    }
}

/// Microseconds of a time.
fn microseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// What orders to a tier came to.
#[derive(Clone, Copy, Debug, Default)]
struct Transfers {
    ordered: u64,
    done: u64,
    failed: u64,
    bytes: u64,
    under_way: u64,
    waited_us_max: u64,
    served_us_max: u64,
    served_us_sum: u64,
    first_ns: u64,
    last_ns: u64,
}

impl Transfers {
    fn order(&mut self) {
        if self.ordered == 0 {
            self.first_ns = unix_ns();
        }
        self.ordered += 1;
        self.under_way += 1;
    }

    fn end(&mut self, is_good: bool, bytes: u64, times: OrderTimes) {
        self.under_way -= 1;
        if is_good {
            self.done += 1;
            self.bytes += bytes;
        } else {
            self.failed += 1;
        }
        let served_us = microseconds(times.served);
        self.waited_us_max = self.waited_us_max.max(microseconds(times.waited));
        self.served_us_max = self.served_us_max.max(served_us);
        self.served_us_sum += served_us;
        self.last_ns = unix_ns();
    }

    /// What there is to say of it. Times are a device's own: nobody knows them of the remote tier.
    fn attributes(&self, tier: usize) -> Vec<(&'static str, Value)> {
        let mut attributes = vec![
            ("kvtier.tier", Value::Name(TIERS[tier])),
            ("kvtier.blocks", Value::Number(self.ordered)),
            ("kvtier.blocks.done", Value::Number(self.done)),
            ("kvtier.blocks.failed", Value::Number(self.failed)),
            ("kvtier.bytes", Value::Number(self.bytes)),
        ];
        if tier == NVME {
            attributes.extend([
                ("kvtier.queue_wait_max_us", Value::Number(self.waited_us_max)),
                ("kvtier.device_time_max_us", Value::Number(self.served_us_max)),
                ("kvtier.device_time_sum_us", Value::Number(self.served_us_sum)),
            ]);
        }
        attributes
    }

    fn error(&self) -> Option<&'static str> {
        (self.failed > 0 && self.done == 0).then_some("blocks_failed")
    }
}

#[cfg(test)]
mod tests;
