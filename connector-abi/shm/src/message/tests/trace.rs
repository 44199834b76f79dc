//! Whose the next message is, and requests that are over.

use super::*;

fn context(byte: u8, keys: u32) -> TraceContext {
    TraceContext {
        trace_id: [byte; 16],
        span_id: [byte; 8],
        keys,
        zero: 0,
    }
}

const REQUEST: TracedRequest<'_> = TracedRequest {
    trace_id: [1; 16],
    span_id: [2; 8],
    parent_span_id: [3; 8],
    start_ns: 4,
    end_ns: 5,
    prompt_tokens: 6,
    hit_tokens: 7,
    loaded_tokens: 8,
    name: "a-b",
};

#[test]
fn traces_are_golden_bytes() {
    let contexts = [context(1, 7), context(0, 9)];
    let trace = Request::Trace {
        tag: Tag(4),
        sent_ns: 1 << 32,
        contexts: &contexts,
    };
    let one = 0x101_0101;
    let expected = [
        96, 13, 4, 0, 2, 0, 0, 1, one, one, one, one, one, one, 7, 0, 0, 0, 0, 0, 0, 0, 9, 0,
    ];
    let bytes = wire(|producer| trace.encode(producer));
    assert_eq!(bytes, words(&expected));
    aligned(&bytes, |bytes| assert_eq!(Request::decode(bytes), Ok(trace)));

    let over = Request::TracedRequest(REQUEST);
    let (two, three) = (2 * one, 3 * one);
    let expected = [
        112, 14, 0, 0, 3, 0, 0, 0, one, one, one, one, two, two, three, three, 4, 0, 5, 0, 6, 0, 7, 0, 8, 0,
        0x62_2d61, 0,
    ];
    let bytes = wire(|producer| over.encode(producer));
    assert_eq!(bytes, words(&expected));
    aligned(&bytes, |bytes| assert_eq!(Request::decode(bytes), Ok(over)));
}

#[test]
fn what_is_wrong_with_a_trace_is_named() {
    let mut padded = words(&[64, 13, 0, 0, 1, 0, 0, 0]);
    padded.extend(words(&[1, 1, 1, 1, 1, 1, 7, 5]));
    let mut no_text = words(&[112, 14, 0, 0, 1, 0, 0, 0]);
    no_text.extend(words(&[0; 18]));
    no_text.extend(words(&[0xff, 0]));
    let cases = [
        (
            words(&[32, 13, 0, 0, 0, 0, 0, 0]),
            "trace: the number of contexts is 0, want at least 1",
        ),
        (
            words(&[32, 13, 0, 0, 257, 0, 0, 0]),
            "trace: the number of contexts is 257, at most 256 are allowed",
        ),
        (padded, "trace: the padding of a context is 0x5, want 0"),
        (
            words(&[32, 14, 0, 0, 0, 0, 0, 0]),
            "traced request: 72 bytes of payload follow from its counts, got 0",
        ),
        (
            words(&[32, 14, 0, 0, 257, 0, 0, 0]),
            "traced request: the number of bytes is 257, at most 256 are allowed",
        ),
        (no_text, "traced request: the payload is not UTF-8"),
    ];
    for (message, expected) in cases {
        let error = aligned(&message, |bytes| Request::decode(bytes).unwrap_err().to_string());
        assert_eq!(error, expected);
    }
}

proptest! {
    #[test]
    fn traces_come_out_as_they_went_in(
        keys in prop::collection::vec(any::<u32>(), 1..TRACE_CONTEXTS_MAX),
        sent_ns: u64,
        name in "\\PC{0,60}",
    ) {
        let contexts: Vec<TraceContext> = keys.iter().map(|&keys| context(9, keys)).collect();
        round_trip(Request::Trace { tag: Tag(3), sent_ns, contexts: &contexts });
        round_trip(Request::TracedRequest(TracedRequest { name: &name, start_ns: sent_ns, ..REQUEST }));
    }
}
