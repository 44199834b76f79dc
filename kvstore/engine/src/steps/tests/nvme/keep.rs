//! Blocks stay because somebody wants it.

use kvstore_types::DescriptorRun;

use super::*;
use crate::event::{EvictBlocks, EvictRange, KeepAsk};
use crate::steps::{Evicted, KeepRefusal, Kept};

impl Bed {
    fn keep(&mut self, ask: KeepAsk<'_>) -> Result<Kept, KeepRefusal> {
        let effects = self.step(Event::Keep(ask)).to_vec();
        let answer = effects.iter().find_map(|effect| match effect {
            Effect::Kept(kept) => Some(*kept),
            _ => None,
        });
        answer.expect("an answer")
    }

    fn keep_all(&mut self) -> Kept {
        let namespace = self.engine.namespaces().next().unwrap().namespace;
        self.keep(KeepAsk::Namespace { namespace, cursor: 0 }).unwrap()
    }

    fn key(&self, number: u8) -> BlockKey {
        BlockKey {
            namespace: self.engine.namespaces().next().unwrap().namespace,
            group: GroupIndex(0),
            hash: hashes(number..number + 1)[0],
        }
    }

    /// Stores the blocks from 0 on, each the next one's parent.
    fn store_chain(&mut self, blocks: u8) {
        let tokens: Vec<u32> = (0..16 * u32::from(blocks)).collect();
        let run = DescriptorRun {
            blocks: u32::from(blocks),
            tokens_per_block: 16,
            tokens: &tokens,
            ..DescriptorRun::undescribed(u32::from(blocks))
        };
        self.step(Event::Reserve {
            session: SCHEDULER,
            tag: Tag(1),
            groups: &[GroupKeys {
                group: 0,
                hashes: &hashes(0..blocks),
            }],
            runs: &[run],
        });
        let slots = self.effects.grants.iter().map(|grant| match grant {
            Grant::Slot(slot) => *slot,
            other => panic!("{other:?} is no slot"),
        });
        let slots: Vec<SlotRef> = slots.collect();
        self.seal(WORKER, &slots);
        self.settle();
    }

    fn evict_blocks(&mut self, keys: &[BlockKey]) -> Evicted {
        let ask = EvictBlocks {
            keys,
            tier: None,
            is_dry_run: false,
        };
        let effects = self.step(Event::EvictBlocks(ask)).to_vec();
        let answer = effects.iter().find_map(|effect| match effect {
            Effect::RangeEvicted(evicted) => Some(*evicted),
            _ => None,
        });
        answer.expect("an answer")
    }
}

fn kept(host_blocks: u64, nvme_blocks: u64, over_share_blocks: u64) -> Kept {
    Kept {
        keep: 1,
        next: None,
        host_blocks,
        nvme_blocks,
        over_share_blocks,
    }
}

#[test]
fn kept_blocks_are_no_victims_and_others_are() {
    for policy in [PolicyKind::Lru, PolicyKind::S3Fifo] {
        let mut bed = Bed::with_nvme(EngineConfig {
            policy,
            ..nvme_config()
        });
        bed.store(0..3);
        bed.settle();
        let keys = [bed.key(0), bed.key(2)];
        let ask = KeepAsk::Blocks {
            keep: None,
            keys: &keys,
        };
        assert_eq!(bed.keep(ask), Ok(kept(2, 2, 0)));
        // More than the region and the device hold together.
        for first in (3..60).step_by(3) {
            bed.store(first..first + 3);
            bed.settle();
        }
        assert_eq!(bed.residency(0), (true, true), "{policy:?}");
        assert_eq!(bed.residency(2), (true, true), "{policy:?}");
        assert_eq!(bed.residency(1), (false, false), "{policy:?}");
        let counters = bed.engine.counters();
        assert!(counters.nvme_carried_over > 0 && counters.kept_copies_lost == 0);
    }
}

#[test]
fn no_more_is_kept_than_the_share_and_what_leaves_makes_room() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store(0..6);
    bed.settle();
    // Half of eight slots; 0.3 (half of the low watermark) of 36 pages, five blocks.
    assert_eq!(bed.keep_all(), kept(4, 5, 2));
    let occupancy = bed.engine.occupancy();
    assert_eq!((occupancy.kept_host_blocks, occupancy.kept_nvme_blocks), (4, 5));
    assert_eq!(occupancy.kept_host_bytes, occupancy.kept_host_bytes_max);
    assert_eq!(bed.keep(KeepAsk::End { keep: 1 }), Ok(kept(0, 0, 0)));
    let occupancy = bed.engine.occupancy();
    assert_eq!((occupancy.kept_host_blocks, occupancy.kept_nvme_blocks), (0, 0));
    assert_eq!(bed.engine.keeps().count(), 0);
}

#[test]
fn what_is_wanted_is_a_name_so_a_block_that_comes_later_is_kept() {
    let mut bed = Bed::with_nvme(nvme_config());
    let keys = [bed.key(7)];
    let ask = KeepAsk::Blocks {
        keep: None,
        keys: &keys,
    };
    assert_eq!(bed.keep(ask), Ok(kept(0, 0, 0)));
    bed.store(7..8);
    bed.settle();
    let occupancy = bed.engine.occupancy();
    assert_eq!((occupancy.kept_host_blocks, occupancy.kept_nvme_blocks), (1, 1));
    // Two wishes for one block: it stays until both have ended.
    assert_eq!(bed.keep_all().keep, 2);
    bed.keep(KeepAsk::End { keep: 1 }).unwrap();
    assert_eq!(bed.engine.occupancy().kept_host_blocks, 1);
    bed.keep(KeepAsk::End { keep: 2 }).unwrap();
    assert_eq!(bed.engine.occupancy().kept_host_blocks, 0);
    assert_eq!(
        bed.keep(KeepAsk::End { keep: 2 }),
        Err(KeepRefusal::Unknown { keep: 2 })
    );
}

#[test]
fn an_eviction_leaves_what_is_kept_and_says_so() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store(0..3);
    bed.settle();
    let keys = [bed.key(1)];
    let ask = KeepAsk::Blocks {
        keep: None,
        keys: &keys,
    };
    bed.keep(ask).unwrap();
    let all = EvictRange {
        namespace: None,
        tier: None,
        cursor: 0,
        is_dry_run: false,
    };
    let effects = bed.step(Event::EvictRange(all)).to_vec();
    let evicted = Evicted {
        host_blocks: 2,
        nvme_blocks: 2,
        pinned_blocks: 1,
        ..Evicted::default()
    };
    assert!(effects.contains(&Effect::RangeEvicted(evicted)), "{effects:?}");
    assert_eq!(bed.residency(1), (true, true));
}

#[test]
fn blocks_leave_by_name_and_once() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store(0..3);
    bed.settle();
    let keys = [bed.key(1), bed.key(1), bed.key(99)];
    let evicted = Evicted {
        host_blocks: 1,
        nvme_blocks: 1,
        ..Evicted::default()
    };
    assert_eq!(bed.evict_blocks(&keys), evicted);
    assert_eq!(bed.residency(1), (false, false));
    assert_eq!((bed.residency(0), bed.residency(2)), ((true, true), (true, true)));
    assert_eq!(bed.evict_blocks(&keys), Evicted::default());
}

#[test]
fn a_prefix_is_told_from_its_end_as_far_as_descriptors_go() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store_chain(4);
    let end = bed.key(3);
    let chain = bed.engine.chain(&end, 100);
    let numbers = [3, 2, 1, 0].map(|number| bed.key(number));
    assert_eq!(
        (chain.keys.as_slice(), chain.next, chain.is_whole),
        (&numbers[..], None, true)
    );
    let some = bed.engine.chain(&end, 3);
    assert_eq!(
        (some.keys.as_slice(), some.next),
        (&numbers[..3], Some(numbers[3]))
    );
    bed.evict_blocks(&[bed.key(1)]);
    let broken = bed.engine.chain(&end, 100);
    assert_eq!(
        (broken.keys.len(), broken.next, broken.is_whole),
        (2, None, false)
    );
}

#[test]
fn there_are_only_so_many_wishes() {
    let mut bed = Bed::with_nvme(nvme_config());
    let key = bed.key(0);
    let new = KeepAsk::Blocks {
        keep: None,
        keys: &[key],
    };
    for number in 1..=64 {
        assert_eq!(bed.keep(new).unwrap().keep, number);
    }
    assert_eq!(bed.keep(new), Err(KeepRefusal::TooMany { max: 64 }));
    let many = vec![key; 16_384];
    let more = KeepAsk::Blocks {
        keep: Some(1),
        keys: &many,
    };
    assert_eq!(bed.keep(more), Err(KeepRefusal::TooManyBlocks { max: 16_384 }));
    let more = KeepAsk::Blocks {
        keep: Some(1),
        keys: &many[1..],
    };
    bed.keep(more).unwrap();
    // It takes several steps to end, and stays listed meanwhile.
    let mut steps = 0;
    while bed.keep(KeepAsk::End { keep: 1 }).unwrap().next.is_some() {
        assert!(bed.engine.keeps().any(|keep| keep.keep == 1));
        steps += 1;
    }
    assert_eq!((steps, bed.engine.keeps().count()), (7, 63));
}
