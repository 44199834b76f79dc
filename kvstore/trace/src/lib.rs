//! Traces: spans from the engine threads, sent to an OpenTelemetry collector.
//!
//! ```text
//!   kvt-engine ──┐ record, at the end of a round
//!   kvt-engine ──┤                                    kvt-trace
//!                └──▶ queue, bounded ──▶ collected for a second ──▶ OTLP ──▶ collector
//! ```
//!
//! What always holds
//! - Recording takes a lock for as long as moving a few spans takes, and never waits for a collector.
//! - The queue has a bound; what does not fit is dropped and counted.
//! - Spans that could not be sent are counted and not sent again: the queue behind them is the memory there is for an outage.
//! - An outage is told once, and its end.
//! - Stopping takes [`STOP_GRACE`] at most.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod client;
mod exporter;
mod ids;
mod otlp;
mod recorder;
mod span;
mod spec;

pub use exporter::{Exporter, STOP_GRACE};
pub use ids::Ids;
pub use recorder::{Recorder, TraceCounters};
pub use span::{Kind, Span, SpanId, TraceId, Value, unix_ns};
pub use spec::{Content, Protocol, StartError, TraceSpec};
