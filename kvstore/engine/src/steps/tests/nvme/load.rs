//! What is on a device is found again after a restart.

use super::*;

/// What a device of an earlier run has: a namespace of one group.
fn namespace() -> (NamespaceDescriptor, NamespaceGeometry) {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store(0..1);
    let keep = bed.settle_orders();
    keep.into_iter()
        .find_map(|order| match order {
            NvmeOrder::KeepNamespace { descriptor, geometry } => Some((descriptor, geometry)),
            _ => None,
        })
        .unwrap()
}

impl Bed {
    fn settle_orders(&mut self) -> Vec<NvmeOrder> {
        self.settle();
        self.orders.drain(..).map(|(_, order)| order).collect()
    }

    pub(super) fn tell_namespace(&mut self) -> NamespaceId {
        let (descriptor, geometry) = namespace();
        let (descriptor, geometry) = (&descriptor, &geometry);
        self.tell(0, NvmeEvent::Namespace { descriptor, geometry });
        descriptor.id()
    }

    pub(super) fn tell_blocks(&mut self, found: &[FoundBlock]) -> Vec<Effect> {
        self.tell(0, NvmeEvent::Blocks { blocks: found })
    }
}

pub(super) fn found(namespace: NamespaceId, number: u8, segment: SegmentRef, page: u32) -> FoundBlock {
    FoundBlock {
        key: key(namespace, number),
        segment,
        page,
        pages: 2,
        descriptor: None,
    }
}

#[test]
fn blocks_are_found_as_soon_as_they_are_told() {
    let mut bed = Bed::new(nvme_config());
    bed.tell(
        0,
        NvmeEvent::SegmentFound {
            segment: segment(0, 3),
            tail: 9,
        },
    );
    let id = bed.tell_namespace();
    let blocks: Vec<_> = (0..4)
        .map(|number| found(id, number, segment(0, 3), 1 + 2 * u32::from(number)))
        .collect();
    let effects = bed.tell_blocks(&blocks);
    assert_eq!(effects.len(), 4);
    bed.enter();
    assert_eq!(
        bed.ask(1, &hashes(0..4)),
        Completion::LookupPending { hit_tokens: 64 }
    );
    assert_eq!(answers(&bed.settle()), [(1, 64)]);
    bed.tell(0, NvmeEvent::Loaded);
    bed.settle();
    assert_eq!(bed.engine.occupancy().nvme_segments_total, 4);
    assert_eq!(bed.engine.counters().nvme_blocks_loaded, 4);
}

#[test]
fn what_cannot_be_is_forgotten_and_counted() {
    let mut bed = Bed::new(nvme_config());
    bed.tell(
        0,
        NvmeEvent::SegmentFound {
            segment: segment(0, 3),
            tail: 5,
        },
    );
    let id = bed.tell_namespace();
    let good = found(id, 0, segment(0, 3), 1);
    let bad = [
        found(NamespaceId([9; 16]), 1, segment(0, 3), 3),
        found(id, 2, segment(0, 2), 3),
        found(id, 3, segment(1, 3), 3),
        found(id, 4, segment(0, 3), 0),
        found(id, 5, segment(0, 3), 8),
        found(id, 6, segment(0, 3), u32::MAX),
        FoundBlock {
            pages: 3,
            ..found(id, 7, segment(0, 3), 3)
        },
        FoundBlock {
            key: BlockKey {
                group: GroupIndex(1),
                ..key(id, 8)
            },
            ..good.clone()
        },
    ];
    bed.tell_blocks(&[good]);
    bed.tell_blocks(&bad);
    let forgotten = bed.take_orders(|order| matches!(order, NvmeOrder::Forget { .. }));
    assert_eq!(forgotten.len(), bad.len());
    assert_eq!(bed.engine.counters().nvme_blocks_dropped, bad.len() as u64);
    assert_eq!(bed.engine.occupancy().nvme_blocks, 1);
}

/// A block that had been carried over was lost when its older copy was told first: that one was kept, in the segment that
/// is used again first.
#[test]
fn of_two_copies_the_one_in_the_segment_that_was_opened_last_is_kept() {
    for order in [[0, 1], [1, 0]] {
        let mut bed = Bed::new(nvme_config());
        for (index, generation) in [(0, 3), (1, 7)] {
            let segment = segment(index, generation);
            bed.tell(0, NvmeEvent::SegmentFound { segment, tail: 9 });
        }
        let id = bed.tell_namespace();
        let copies = [found(id, 5, segment(0, 3), 1), found(id, 5, segment(1, 7), 3)];
        let effects: Vec<_> = order
            .into_iter()
            .flat_map(|which| bed.tell_blocks(&copies[which..=which]))
            .collect();
        let stored = effects
            .iter()
            .filter(|effect| matches!(effect, Effect::BlockStored { .. }));
        assert_eq!(stored.count(), 1, "it came once");
        let forgotten = bed.take_orders(|order| matches!(order, NvmeOrder::Forget { .. }));
        let older = Extent {
            segment: segment(0, 3),
            page: 1,
            pages: 2,
        };
        assert!(
            matches!(&forgotten[..], [(_, NvmeOrder::Forget { extent })] if *extent == older),
            "{forgotten:?}"
        );
        let counters = bed.engine.counters();
        assert_eq!(
            (counters.nvme_blocks_superseded, counters.nvme_blocks_dropped),
            (1, 0)
        );
        bed.tell(0, NvmeEvent::Loaded);
        assert_eq!(bed.engine.occupancy().nvme_blocks, 1);
        bed.enter();
        bed.ask(1, &hashes(5..6));
        assert_eq!(answers(&bed.settle()), [(1, 16)]);
    }
}

#[test]
fn a_file_that_cannot_be_used_counts_and_its_number_is_not_used() {
    let mut bed = Bed::new(nvme_config());
    bed.tell(0, NvmeEvent::SegmentUnusable { index: 0 });
    bed.tell(0, NvmeEvent::Loaded);
    bed.enter();
    let created = bed.take_orders(|order| matches!(order, NvmeOrder::CreateSegment { .. }));
    assert!(!created.is_empty());
    assert!(
        created
            .iter()
            .all(|(_, order)| !matches!(order, NvmeOrder::CreateSegment { index: 0, .. })),
        "{created:?}"
    );
}

#[test]
fn a_segment_is_written_on_behind_its_tail_without_being_opened() {
    let mut bed = Bed::new(nvme_config());
    bed.tell(
        0,
        NvmeEvent::SegmentFound {
            segment: segment(2, 5),
            tail: 3,
        },
    );
    let id = bed.tell_namespace();
    bed.tell_blocks(&[found(id, 9, segment(2, 5), 1)]);
    bed.tell(0, NvmeEvent::Loaded);
    bed.enter();
    bed.store(0..1);
    let write = bed.order(is_write).unwrap().1;
    let expected = Extent {
        segment: segment(2, 5),
        page: 3,
        pages: 2,
    };
    assert!(
        matches!(write, NvmeOrder::Write { extent, .. } if extent == expected),
        "{write:?}"
    );
    assert!(
        bed.order(|order| matches!(order, NvmeOrder::KeepNamespace { .. }))
            .is_none()
    );
}

#[test]
fn a_block_stored_before_it_is_told_has_one_copy() {
    let mut bed = Bed::new(nvme_config());
    bed.tell(
        0,
        NvmeEvent::SegmentFound {
            segment: segment(0, 1),
            tail: 3,
        },
    );
    let id = bed.tell_namespace();
    bed.enter();
    let slots = bed.slots(SCHEDULER, &hashes(0..2));
    bed.seal(WORKER, &slots[..1]);
    // One is resident, one is being filled.
    bed.tell_blocks(&[found(id, 0, segment(0, 1), 1), found(id, 1, segment(0, 1), 3)]);
    assert_eq!(bed.residency(0), (true, true));
    bed.step(Event::Abort {
        session: WORKER,
        tag: Tag(3),
        slots: &slots[1..],
    });
    assert_eq!(bed.residency(1), (false, true));
    bed.tell(0, NvmeEvent::Loaded);
    bed.settle();
    assert_eq!(bed.engine.counters().nvme_written, 0);
    assert_eq!(bed.look_up_cold(0..2), 32);
}

impl Bed {
    fn look_up_cold(&mut self, numbers: std::ops::Range<u8>) -> u64 {
        self.ask(1, &hashes(numbers));
        answers(&self.settle())[0].1
    }
}

#[test]
fn a_namespace_without_blocks_is_forgotten_when_all_is_told() {
    let mut bed = Bed::new(nvme_config());
    bed.tell_namespace();
    assert_eq!(bed.engine.occupancy().namespaces, 1);
    bed.tell(0, NvmeEvent::Loaded);
    assert_eq!(bed.engine.occupancy().namespaces, 0);
}

#[test]
fn a_namespace_that_does_not_fit_is_dropped_and_said() {
    let mut bed = Bed::new(EngineConfig {
        descriptor_bytes_max: 4000,
        ..nvme_config()
    });
    let (descriptor, geometry) = namespace();
    let (descriptor, geometry) = (&descriptor, &geometry);
    let effects = bed.tell(0, NvmeEvent::Namespace { descriptor, geometry });
    assert!(matches!(notes(&effects)[..], [Note::NvmeNamespaceDropped { .. }]));
    assert_eq!(bed.engine.occupancy().namespaces, 0);
}

#[test]
fn a_namespace_that_makes_room_leaves_nvme_too() {
    let mut bed = Bed::with_nvme(EngineConfig {
        descriptor_bytes_max: 33_000,
        ..nvme_config()
    });
    bed.store_cold(0..2);
    bed.store(2..3);
    bed.settle();
    bed.end(WORKER, SessionEnd::Closed);
    bed.end(SCHEDULER, SessionEnd::Closed);
    let large = |role| SessionProfile {
        fields: vec![field("model.id", &"x".repeat(14_000))],
        ..profile(2, role, 1)
    };
    bed.attach(SCHEDULER, 1, large(Role::Scheduler));
    let effects = bed.attach(WORKER, 2, large(Role::Worker(Rank(0))));
    let gone: Vec<_> = removals(&effects);
    assert_eq!(gone.iter().filter(|gone| gone.1 == Tier::Nvme).count(), 3);
    assert_eq!(gone.iter().filter(|gone| gone.1 == Tier::Host).count(), 1);
    assert_eq!(
        bed.take_orders(|order| matches!(order, NvmeOrder::Forget { .. }))
            .len(),
        3
    );
    assert_eq!(bed.engine.occupancy().nvme_blocks, 0);
}
