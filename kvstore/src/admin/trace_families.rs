//! The metrics of traces. Where none are recorded there are the families and no numbers.

use kvstore_trace::TraceCounters;

use super::exposition::{Kind, Writer};

pub(super) fn write(writer: &mut Writer, counters: Option<&TraceCounters>) {
    let exported = writer.family(
        "kvtier_trace_exported_spans",
        Kind::Counter,
        "Spans that a collector has taken.",
    );
    if let Some(counters) = counters {
        exported.number(&[], counters.exported);
    }
    let dropped = writer.family(
        "kvtier_trace_dropped_spans",
        Kind::Counter,
        "Spans that were lost.",
    );
    if let Some(counters) = counters {
        let causes = [
            ("queue-full", counters.dropped_queue_full),
            ("export-failed", counters.dropped_export_failed),
            ("shutdown", counters.dropped_shutdown),
        ];
        for (cause, number) in causes {
            dropped.number(&[("cause", cause)], number);
        }
    }
    let failed = writer.family(
        "kvtier_trace_failed_exports",
        Kind::Counter,
        "Batches of spans that could not be sent.",
    );
    if let Some(counters) = counters {
        failed.number(&[], counters.exports_failed);
    }
    let queued = writer.family(
        "kvtier_trace_queued_spans",
        Kind::Gauge,
        "Spans that wait to be sent.",
    );
    if let Some(counters) = counters {
        queued.number(&[], counters.queued);
    }
}
