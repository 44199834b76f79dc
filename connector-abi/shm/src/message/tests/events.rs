//! Block events and the credit for them.

use super::*;

#[test]
fn events_and_their_credit_are_golden_bytes() {
    let request = Request::Events { credit: 8 };
    let bytes = wire(|producer| request.encode(producer));
    assert_eq!(bytes, words(&[32, 12, 0, 0, 0, 8, 0, 0]));
    aligned(&bytes, |bytes| assert_eq!(Request::decode(bytes), Ok(request)));
    let cases = [
        (
            Some(&[0x93, 1, 0x90, 0xc0, 5][..]),
            vec![40, 34, 0, 0, 5, 0, 0, 0, 0xc090_0193, 5],
        ),
        (Some(&[][..]), vec![32, 34, 0, 0, 0, 0, 0, 0]),
        (None, vec![32, 34, 0, 0, 0, 1, 0, 0]),
    ];
    for (batch, expected) in cases {
        let completion = Completion::Events { batch };
        let bytes = wire(|producer| completion.encode(producer));
        assert_eq!(bytes, words(&expected));
        assert_eq!(bytes.len(), completion.wire_bytes());
        aligned(&bytes, |bytes| {
            assert_eq!(Completion::decode(bytes), Ok(completion));
        });
    }
}

#[test]
fn what_is_wrong_with_events_is_named() {
    let requests: [(&[u32], &str); 3] = [
        (
            &[32, 12, 0, 0, 0, 0, 0, 0],
            "events: credit is 0, want at least 1",
        ),
        (&[32, 12, 1, 0, 0, 1, 0, 0], "events: tag is 0x1, want 0"),
        (&[32, 12, 0, 0, 0, 1, 1, 0], "events: arg is 0x1, want 0"),
    ];
    for (message, expected) in requests {
        let error = aligned(&words(message), |bytes| {
            Request::decode(bytes).unwrap_err().to_string()
        });
        assert_eq!(error, expected);
    }
    let completions: [(&[u32], &str); 3] = [
        (&[32, 34, 0, 0, 0, 2, 0, 0], "events: arg32 is 2, want 0 or 1"),
        (&[32, 34, 0, 0, 1, 1, 0, 0], "events: count is 0x1, want 0"),
        (
            &[32, 34, 0, 0, 9, 0, 0, 0],
            "events: 16 bytes of payload follow from its counts, got 0",
        ),
    ];
    for (message, expected) in completions {
        let error = aligned(&words(message), |bytes| {
            Completion::decode(bytes).unwrap_err().to_string()
        });
        assert_eq!(error, expected);
    }
}

#[test]
fn all_events_that_can_be_under_way_fill_a_quarter_of_the_ring() {
    for ring in [64 << 10, 256 << 10, 4 << 20, 64 << 20] {
        let batch = vec![0; events_batch_bytes_max(ring)];
        let message = Completion::Events { batch: Some(&batch) };
        assert!(message.wire_bytes() * EVENTS_CREDIT_MAX as usize <= ring / 4);
        assert!(message.wire_bytes() <= 32 << 10);
    }
}

proptest! {
    #[test]
    fn batches_come_out_as_they_went_in(batch in prop::collection::vec(any::<u8>(), 0..100), credit in 1..u32::MAX) {
        round_trip(Request::Events { credit });
        complete_round_trip(Completion::Events { batch: Some(&batch) });
    }
}
