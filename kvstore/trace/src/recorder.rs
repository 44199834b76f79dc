//! The queue between engine threads and the exporter, and what is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::Span;

/// What engine threads record into. Clones share one queue.
#[derive(Clone, Debug)]
pub struct Recorder(pub(crate) Arc<Shared>);

/// What has been counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceCounters {
    /// Spans that a collector has taken.
    pub exported: u64,
    /// Spans that found the queue full.
    pub dropped_queue_full: u64,
    /// Spans that could not be sent.
    pub dropped_export_failed: u64,
    /// Spans that were left when the daemon ended.
    pub dropped_shutdown: u64,
    /// Batches that could not be sent.
    pub exports_failed: u64,
    /// Spans that wait now.
    pub queued: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Numbers {
    pub(crate) exported: AtomicU64,
    pub(crate) queue_full: AtomicU64,
    pub(crate) export_failed: AtomicU64,
    pub(crate) shutdown: AtomicU64,
    pub(crate) exports_failed: AtomicU64,
    /// Spans that are being sent.
    pub(crate) in_flight: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Shared {
    queue: Mutex<Vec<Span>>,
    spans_max: usize,
    /// Rung when the queue is empty no more.
    pub(crate) bell: Notify,
    pub(crate) numbers: Numbers,
}

impl Recorder {
    /// Takes all of these spans, as far as there is room.
    pub fn record(&self, spans: &mut Vec<Span>) {
        let mut queue = self.0.lock();
        let room = self.0.spans_max.saturating_sub(queue.len());
        let (was_empty, dropped) = (queue.is_empty(), spans.len().saturating_sub(room));
        queue.extend(spans.drain(..).take(room));
        let is_empty = queue.is_empty();
        drop(queue);
        add(&self.0.numbers.queue_full, dropped);
        if was_empty && !is_empty {
            self.0.bell.notify_one();
        }
    }

    /// What has been counted so far.
    pub fn counters(&self) -> TraceCounters {
        let numbers = &self.0.numbers;
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        TraceCounters {
            exported: read(&numbers.exported),
            dropped_queue_full: read(&numbers.queue_full),
            dropped_export_failed: read(&numbers.export_failed),
            dropped_shutdown: read(&numbers.shutdown),
            exports_failed: read(&numbers.exports_failed),
            queued: self.0.len() as u64,
        }
    }
}

impl Shared {
    pub(crate) fn new(spans_max: usize) -> Self {
        Self {
            queue: Mutex::new(Vec::new()),
            spans_max,
            bell: Notify::new(),
            numbers: Numbers::default(),
        }
    }

    /// Spans that wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// The oldest of them, so many at most.
    pub(crate) fn take(&self, most: usize) -> Vec<Span> {
        let mut queue = self.lock();
        let count = queue.len().min(most);
        queue.drain(..count).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Span>> {
        // Every change above is whole before the lock is given up.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts.
pub(crate) fn add(number: &AtomicU64, count: usize) {
    number.fetch_add(count as u64, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, SpanId, TraceId};

    fn spans(count: usize) -> Vec<Span> {
        let span = |number: usize| Span {
            trace: TraceId([1; 16]),
            id: SpanId([2; 8]),
            parent: None,
            is_parent_remote: false,
            name: "test",
            kind: Kind::Internal,
            start_ns: number as u64,
            end_ns: number as u64,
            attributes: Vec::new(),
            error: None,
        };
        (0..count).map(span).collect()
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let recorder = Recorder(Arc::new(Shared::new(5)));
        recorder.record(&mut spans(3));
        let mut more = spans(4);
        recorder.record(&mut more);
        assert!(more.is_empty(), "the caller's memory is free again");
        let counted = recorder.counters();
        assert_eq!((counted.queued, counted.dropped_queue_full), (5, 2));
        let starts: Vec<u64> = recorder.0.take(4).iter().map(|span| span.start_ns).collect();
        assert_eq!(starts, [0, 1, 2, 0], "the oldest go first");
        recorder.record(&mut spans(9));
        assert_eq!(recorder.counters().queued, 5);
    }
}
