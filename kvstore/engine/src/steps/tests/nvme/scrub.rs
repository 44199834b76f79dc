//! The scrubber.

use kvstore_types::Corruption;

use super::*;

fn is_verify(order: &NvmeOrder) -> bool {
    matches!(order, NvmeOrder::Verify { .. })
}

#[test]
fn the_scrubber_goes_round_at_its_rate_and_drops_what_is_bad() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store(0..3);
    bed.settle();
    let tuning = NvmeTuning {
        scrub_rate: Some(8192),
        ..tuning()
    };
    bed.step(Event::NvmeTuned { tuning });
    let verified = |bed: &mut Bed, outcome| {
        let (device, order) = bed.order(is_verify).expect("a verification");
        let NvmeOrder::Verify { key, .. } = &order else {
            panic!("{order:?}")
        };
        let number = key.hash.0[0];
        (number, bed.done(device, &order, outcome))
    };
    let mut seen = Vec::new();
    for _ in 0..6 {
        let (number, _) = verified(&mut bed, IoOutcome::Done);
        seen.push(number);
        assert!(
            bed.order(is_verify).is_none(),
            "one at a time, and not before its time"
        );
        assert_eq!(bed.engine.wakes_at(), Some(bed.now + Duration::from_secs(1)));
        bed.later(Duration::from_secs(1));
    }
    assert_eq!(seen, [0, 1, 2, 0, 1, 2]);
    let (number, effects) = verified(&mut bed, IoOutcome::Corrupt(Corruption::Header));
    assert_eq!(
        removals(&effects)[..],
        [(number, Tier::Nvme, RemovalCause::Corrupt)]
    );
    assert_eq!(bed.engine.counters().nvme_scrub_corrupt, 1);
    // It is still in host memory, so it is written again.
    bed.settle_but(is_verify);
    assert_eq!(bed.residency(number), (true, true));
    let tuning = super::tuning();
    bed.settle();
    bed.step(Event::NvmeTuned { tuning });
    bed.later(Duration::from_secs(10));
    bed.take_orders(is_verify);
    assert_eq!(bed.engine.wakes_at(), None);
}
