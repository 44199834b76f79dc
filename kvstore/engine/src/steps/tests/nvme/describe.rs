//! What blocks are about travels with them, is said once, and is announced whenever it becomes known.

use kvstore_types::{DescriptorBytes, DescriptorRun};

use super::*;

const TOKENS: [u32; 64] = [5; 64];

fn run(blocks: u32, parent: Option<BlockHash>) -> DescriptorRun<'static> {
    DescriptorRun {
        blocks,
        tokens_per_block: 16,
        parent,
        tokens: &TOKENS[..16 * blocks as usize],
        ..DescriptorRun::undescribed(blocks)
    }
}

impl Bed {
    fn reserve_described(&mut self, hashes: &[BlockHash], runs: &[DescriptorRun<'_>]) -> Vec<Grant> {
        self.step(Event::Reserve {
            session: SCHEDULER,
            tag: Tag(1),
            groups: &[GroupKeys { group: 0, hashes }],
            runs,
        });
        self.effects.grants.clone()
    }

    fn store_described(&mut self, hashes: &[BlockHash], runs: &[DescriptorRun<'_>]) {
        let grants = self.reserve_described(hashes, runs);
        let slots = grants.iter().map(|grant| match grant {
            Grant::Slot(slot) => *slot,
            other => panic!("{other:?} is no slot"),
        });
        let slots: Vec<SlotRef> = slots.collect();
        self.seal(WORKER, &slots);
    }
}

/// Each announcement: number of the block, tier, number of its parent (0: none, 255: no descriptor).
fn announced(effects: &[Effect]) -> Vec<(u8, Tier, u8)> {
    let parent = |descriptor: &Option<DescriptorBytes>| {
        descriptor.as_ref().map_or(255, |descriptor| {
            let descriptor = descriptor.decode().unwrap();
            assert_eq!(descriptor.tokens.as_ref(), &TOKENS[..16]);
            descriptor.parent.map_or(0, |parent| parent.0[0])
        })
    };
    let stored = effects.iter().filter_map(|effect| match effect {
        Effect::BlockStored {
            key,
            tier,
            descriptor,
        } => Some((key.hash.0[0], *tier, parent(descriptor))),
        _ => None,
    });
    stored.collect()
}

fn described(effects: &[Effect]) -> Vec<u8> {
    let described = effects.iter().filter_map(|effect| match effect {
        Effect::BlockDescribed { key, .. } => Some(key.hash.0[0]),
        _ => None,
    });
    described.collect()
}

#[test]
fn a_descriptor_goes_with_its_block_through_every_tier() {
    let mut bed = Bed::with_nvme(config_with(|config| config.tuning.segments_max = 10));
    bed.store_described(&hashes(1..4), &[run(2, None), run(1, Some(BlockHash([2; 32])))]);
    assert_eq!(
        announced(&bed.effects.list),
        [(1, Tier::Host, 0), (2, Tier::Host, 1), (3, Tier::Host, 2)]
    );
    bed.settle_but(is_write);
    let mut effects = Vec::new();
    for (device, write) in bed.take_orders(is_write) {
        let NvmeOrder::Write { descriptor, .. } = &write else {
            panic!("{write:?}")
        };
        assert!(descriptor.is_some(), "{write:?}");
        effects.extend(bed.done(device, &write, IoOutcome::Done));
    }
    assert_eq!(
        announced(&effects),
        [(1, Tier::Nvme, 0), (2, Tier::Nvme, 1), (3, Tier::Nvme, 2)]
    );
    let occupancy = bed.engine.occupancy();
    assert_eq!((occupancy.blocks, occupancy.blocks_described), (3, 3));
    // The others push them out of host memory; then they are promoted.
    bed.store(10..18);
    assert_eq!(
        (bed.residency(1), bed.residency(3)),
        ((false, true), (false, true))
    );
    bed.settle();
    bed.ask(1, &hashes(1..4));
    let back = announced(&bed.settle());
    assert_eq!(
        back.iter()
            .filter(|(number, ..)| *number < 10)
            .collect::<Vec<_>>(),
        [&(1, Tier::Host, 0), &(2, Tier::Host, 1), &(3, Tier::Host, 2)]
    );
}

#[test]
fn blocks_of_one_seal_are_announced_in_the_order_of_their_reservation() {
    let mut bed = Bed::attached();
    let mut slots = bed.slots(SCHEDULER, &hashes(1..5));
    slots.reverse();
    bed.seal(WORKER, &slots);
    let order: Vec<u8> = announced(&bed.effects.list).iter().map(|one| one.0).collect();
    assert_eq!(order, [1, 2, 3, 4]);
}

#[test]
fn a_block_that_is_there_without_a_descriptor_gets_one_and_that_is_announced() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store(1..3);
    let grants = bed.reserve_described(&hashes(1..3), &[run(2, None)]);
    assert_eq!(grants, [Grant::AlreadyPresent; 2]);
    assert_eq!(described(&bed.effects.list), [1, 2]);
    // The first one is believed, and said once.
    let other = run(2, Some(BlockHash([9; 32])));
    bed.reserve_described(&hashes(1..3), &[other]);
    assert_eq!(described(&bed.effects.list), []);
    assert_eq!(bed.engine.counters().descriptors_late, 2);
    let parents: Vec<u8> = announced(&bed.settle()).iter().map(|one| one.2).collect();
    assert_eq!(parents, [0, 1]);
}

#[test]
fn a_block_that_is_being_filled_gets_its_descriptor_from_whoever_knows_it() {
    let mut bed = Bed::attached();
    let slots = bed.slots(SCHEDULER, &hashes(1..2));
    assert_eq!(
        bed.reserve_described(&hashes(1..2), &[run(1, None)]),
        [Grant::Filling]
    );
    assert_eq!(described(&bed.effects.list), [], "nothing was announced yet");
    bed.seal(WORKER, &slots);
    assert_eq!(announced(&bed.effects.list), [(1, Tier::Host, 0)]);
}

#[test]
fn a_found_block_is_announced_with_what_was_written_with_it() {
    let mut bed = Bed::new(nvme_config());
    let segment = segment(0, 3);
    bed.tell(0, NvmeEvent::SegmentFound { segment, tail: 5 });
    let id = bed.tell_namespace();
    let descriptor = run(1, None).descriptor(0, None).unwrap();
    let mut blocks = [
        super::load::found(id, 1, segment, 1),
        super::load::found(id, 2, segment, 3),
    ];
    blocks[0].descriptor.clone_from(&descriptor);
    let effects = bed.tell_blocks(&blocks);
    assert_eq!(announced(&effects), [(1, Tier::Nvme, 0), (2, Tier::Nvme, 255)]);
    bed.enter();
    bed.reserve_described(&hashes(1..3), &[run(2, None)]);
    assert_eq!(described(&bed.effects.list), [2]);
}

#[test]
fn a_descriptor_that_is_too_long_costs_its_block_the_descriptor_and_is_counted() {
    let mut bed = Bed::attached();
    let extra_keys = [0xc0; DescriptorBytes::BYTES_MAX];
    let long = DescriptorRun {
        extra_keys: &extra_keys,
        ..run(1, None)
    };
    bed.store_described(&hashes(1..2), &[long]);
    assert_eq!(announced(&bed.effects.list), [(1, Tier::Host, 255)]);
    assert_eq!(bed.engine.counters().descriptors_too_long, 1);
}

#[test]
fn a_run_that_does_not_fit_its_group_costs_the_session() {
    for run in [
        DescriptorRun {
            tokens_per_block: 8,
            tokens: &TOKENS[..8],
            ..run(1, None)
        },
        run(2, None),
    ] {
        let mut bed = Bed::attached();
        bed.reserve_described(&hashes(1..2), &[run]);
        assert!(matches!(bed.violation(), Violation::BadRun { expected: 16, .. }));
    }
}
