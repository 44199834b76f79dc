//! What came back, as C sees it.

use connector_shm::{Completion, LookupOutcome};

use super::kvt_status::{KVT_NOT_READY, KVT_OK, KVT_QUOTA_EXCEEDED};
use super::types::{kvt_completion, kvt_op};

/// A completion's pointers point into the session's buffer, and a reset's to `namespace_id`.
pub(super) fn to_c(completion: Completion<'_>, namespace_id: &mut [u8; 16]) -> kvt_completion {
    let mut out = nothing();
    let (tag, op) = match completion {
        Completion::Lookup {
            tag,
            hit_tokens,
            outcome,
            spans,
        } => {
            out.status = status_of(outcome);
            out.value = hit_tokens;
            (out.spans, out.span_count) = (spans.as_ptr().cast(), spans.len());
            (tag, kvt_op::KVT_OP_LOOKUP)
        }
        Completion::LookupPending { tag, hit_tokens } => {
            out.value = hit_tokens;
            (tag, kvt_op::KVT_OP_LOOKUP_PENDING)
        }
        Completion::Load { lease, lost, grants } => {
            out.value = lost.into();
            (out.slots, out.slot_count) = (grants.as_ptr().cast(), grants.len());
            (lease, kvt_op::KVT_OP_LOAD)
        }
        Completion::Reserve { tag, grants } => {
            (out.slots, out.slot_count) = (grants.as_ptr().cast(), grants.len());
            (tag, kvt_op::KVT_OP_RESERVE)
        }
        Completion::Seal {
            tag,
            published,
            sealed,
            stale,
        } => {
            (out.value, out.value2, out.value3) = (published.into(), sealed.into(), stale.into());
            (tag, kvt_op::KVT_OP_SEAL)
        }
        Completion::Abort { tag, aborted, stale } => {
            (out.value, out.value3) = (aborted.into(), stale.into());
            (tag, kvt_op::KVT_OP_ABORT)
        }
        Completion::Reset { tag, namespace } => {
            out.value = namespace.is_some().into();
            if let Some(namespace) = namespace {
                *namespace_id = namespace.0;
                (out.bytes, out.byte_count) = (namespace_id.as_ptr(), namespace_id.len());
            }
            (tag, kvt_op::KVT_OP_RESET)
        }
        Completion::Counters { tag, json } => {
            (out.bytes, out.byte_count) = (json.as_ptr(), json.len());
            (tag, kvt_op::KVT_OP_COUNTERS)
        }
        Completion::Events { batch } => {
            out.value = batch.is_none().into();
            let batch = batch.unwrap_or_default();
            (out.bytes, out.byte_count) = (batch.as_ptr(), batch.len());
            (kvstore_types::Tag(0), kvt_op::KVT_OP_EVENTS)
        }
        Completion::NamespaceReady { .. } | Completion::Draining => {
            unreachable!("the session keeps these to itself")
        }
    };
    (out.tag, out.op) = (tag.0, op as u32);
    out
}

/// A completion that says nothing yet.
fn nothing() -> kvt_completion {
    kvt_completion {
        tag: 0,
        op: 0,
        status: KVT_OK,
        value: 0,
        value2: 0,
        value3: 0,
        spans: std::ptr::null(),
        span_count: 0,
        slots: std::ptr::null(),
        slot_count: 0,
        bytes: std::ptr::null(),
        byte_count: 0,
    }
}

fn status_of(outcome: LookupOutcome) -> super::kvt_status {
    match outcome {
        LookupOutcome::Complete => KVT_OK,
        LookupOutcome::NotReady => KVT_NOT_READY,
        LookupOutcome::QuotaExceeded => KVT_QUOTA_EXCEEDED,
    }
}

/// The C structs of these arrays are the ones that lie in a message.
const _: () = {
    use super::types::{kvt_slot, kvt_span};
    use kvstore_types::{GroupSpan, SlotRef};
    use std::mem::offset_of;
    assert!(size_of::<kvt_span>() == size_of::<GroupSpan>());
    assert!(offset_of!(kvt_span, first) == offset_of!(GroupSpan, first));
    assert!(offset_of!(kvt_span, count) == offset_of!(GroupSpan, count));
    assert!(align_of::<kvt_span>() == align_of::<GroupSpan>());
    assert!(size_of::<kvt_slot>() == size_of::<SlotRef>());
    assert!(offset_of!(kvt_slot, generation) == offset_of!(SlotRef, generation));
    assert!(align_of::<kvt_slot>() == align_of::<SlotRef>());
};
