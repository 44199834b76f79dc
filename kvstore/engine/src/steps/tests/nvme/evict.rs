//! Blocks leave because somebody asked for it.

use super::*;
use crate::event::EvictRange;
use crate::steps::Evicted;

impl Bed {
    fn evict(&mut self, ask: EvictRange) -> (Evicted, Vec<Effect>) {
        let effects = self.step(Event::EvictRange(ask)).to_vec();
        let answer = effects.iter().find_map(|effect| match effect {
            Effect::RangeEvicted(evicted) => Some(*evicted),
            _ => None,
        });
        (answer.expect("an answer"), effects)
    }

    fn namespace(&self) -> NamespaceId {
        self.engine.namespaces().next().unwrap().namespace
    }
}

const ALL: EvictRange = EvictRange {
    namespace: None,
    tier: None,
    cursor: 0,
    is_dry_run: false,
};

fn count(host_blocks: u64, nvme_blocks: u64, busy_blocks: u64) -> Evicted {
    Evicted {
        next: None,
        host_blocks,
        nvme_blocks,
        remote_blocks: 0,
        busy_blocks,
        pinned_blocks: 0,
    }
}

#[test]
fn blocks_leave_every_tier_or_one_and_each_copy_is_announced() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store(0..3);
    bed.settle();
    let ask = EvictRange {
        namespace: Some(bed.namespace()),
        ..ALL
    };
    let dry = EvictRange {
        is_dry_run: true,
        ..ask
    };
    assert_eq!(bed.evict(dry).0, count(3, 3, 0));
    assert_eq!(bed.residency(0), (true, true));
    let of_host = EvictRange {
        tier: Some(Tier::Host),
        ..ask
    };
    let (evicted, effects) = bed.evict(of_host);
    assert_eq!(evicted, count(3, 0, 0));
    let told = |tier| move |number| (number, tier, RemovalCause::Requested);
    let expected: Vec<_> = (0..3).map(told(Tier::Host)).collect();
    assert_eq!(removals(&effects), expected);
    assert_eq!(bed.residency(0), (false, true));
    let (evicted, effects) = bed.evict(ask);
    assert_eq!(evicted, count(0, 3, 0));
    let expected: Vec<_> = (0..3).map(told(Tier::Nvme)).collect();
    assert_eq!(removals(&effects), expected);
    // Where they were is forgotten by the device, so that they do not come back with a restart.
    let forgotten = bed.take_orders(|order| matches!(order, NvmeOrder::Forget { .. }));
    assert_eq!(forgotten.len(), 3);
    assert_eq!(bed.look_up(SCHEDULER, 1, &hashes(0..3)).0, 0);
    let counters = bed.engine.counters();
    assert_eq!(
        (counters.removed_on_request, counters.nvme_removed_on_request),
        (3, 3)
    );
    let usage = bed.engine.namespaces().next().unwrap();
    assert_eq!((usage.blocks, usage.host_blocks, usage.nvme_blocks), (0, 0, 0));
}

#[test]
fn what_is_in_use_stays_and_is_counted() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store(0..2);
    bed.settle_but(is_write);
    // One is leased; the other is being written, and so is the first.
    assert_eq!(bed.look_up(SCHEDULER, 1, &hashes(0..1)).0, 16);
    bed.commit(1, 2, 0, 1);
    bed.slots(SCHEDULER, &hashes(5..6));
    let (evicted, effects) = bed.evict(ALL);
    assert_eq!((evicted, removals(&effects)), (count(0, 0, 3), vec![]));
    bed.settle();
    // Its copy on NVMe is nobody's to read.
    let (evicted, effects) = bed.evict(ALL);
    assert_eq!(evicted, count(1, 2, 2));
    assert_eq!(removals(&effects).len(), 3);
    bed.step(Event::LeaseRelease {
        session: SCHEDULER,
        lease: Tag(2),
    });
    assert_eq!(bed.evict(ALL).0, count(1, 0, 1));
}

#[test]
fn a_block_on_its_way_into_memory_stays() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store_cold(0..1);
    assert!(matches!(
        bed.ask(1, &hashes(0..1)),
        Completion::LookupPending { .. }
    ));
    assert_eq!(bed.evict(ALL).0.busy_blocks, 1);
    let effects = bed.answer(is_read, IoOutcome::Done);
    assert_eq!(answers(&effects), [(1, 16)]);
}

#[test]
fn it_goes_on_where_it_stopped() {
    let mut config = nvme_config();
    config.region_bytes = 4096 * (1 + 4 * 512);
    config.holds_per_session_max = 10_000;
    let mut bed = Bed::with_nvme(config);
    let names: Vec<BlockHash> = (0..600_u16)
        .map(|number| {
            let mut hash = [0; 32];
            hash[..2].copy_from_slice(&number.to_le_bytes());
            BlockHash(hash)
        })
        .collect();
    let slots = bed.slots(SCHEDULER, &names);
    bed.seal(WORKER, &slots);
    let ask = EvictRange {
        tier: Some(Tier::Host),
        ..ALL
    };
    bed.settle();
    let first = bed.evict(ask).0;
    assert_eq!(first.host_blocks, 512);
    let cursor = first.next.expect("more");
    let second = bed.evict(EvictRange { cursor, ..ask }).0;
    assert_eq!((second.host_blocks, second.next), (88, None));
}

#[test]
fn a_namespace_that_nobody_knows_has_nothing() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store(0..1);
    let ask = EvictRange {
        namespace: Some(NamespaceId([9; 16])),
        ..ALL
    };
    assert_eq!(bed.evict(ask).0, Evicted::default());
    let beyond = EvictRange {
        cursor: u32::MAX,
        ..ALL
    };
    assert_eq!(bed.evict(beyond).0, Evicted::default());
}

#[test]
fn watermarks_move_unless_they_are_nonsense() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store(0..6);
    bed.settle();
    bed.step(Event::HostTuned {
        watermark_low: 0.9,
        watermark_high: 0.1,
    });
    assert!(!bed.engine.has_work());
    bed.step(Event::HostTuned {
        watermark_low: 0.3,
        watermark_high: 0.5,
    });
    let effects = bed.settle();
    assert!(!removals(&effects).is_empty() && bed.engine.counters().evicted_for_watermark > 0);
}

#[test]
fn namespaces_and_sessions_show_what_they_have() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store(0..2);
    bed.settle();
    bed.look_up(SCHEDULER, 1, &hashes(0..2));
    bed.look_up(SCHEDULER, 2, &hashes(7..8));
    bed.commit(1, 3, 0, 1);
    let usage = bed.engine.namespaces().next().unwrap();
    assert_eq!(
        (usage.host_blocks, usage.nvme_blocks, usage.engine_groups),
        (2, 2, 1)
    );
    let traffic = usage.traffic;
    assert_eq!(
        (traffic.lookups, traffic.lookups_missed, traffic.hit_blocks),
        (2, 1, 2)
    );
    assert_eq!((traffic.published, traffic.nvme_hit_blocks), (2, 0));
    let sessions: Vec<_> = bed.engine.sessions_after(None).collect();
    assert_eq!(sessions.len(), 2);
    assert_eq!((sessions[0].leases, sessions[0].leased_blocks), (1, 1));
    assert_eq!(sessions[0].namespace, Some(usage.namespace));
    assert_eq!(bed.engine.sessions_after(Some(SCHEDULER)).count(), 1);
}

#[test]
fn a_hit_that_waited_counts_what_nvme_brought_for_it() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store_cold(0..2);
    bed.ask(1, &hashes(0..2));
    bed.answer(is_read, IoOutcome::Done);
    bed.answer(is_read, IoOutcome::Done);
    assert_eq!(bed.engine.counters().nvme_hit_blocks, 2);
    assert_eq!(bed.engine.namespaces().next().unwrap().traffic.nvme_hit_blocks, 2);
    assert_eq!(bed.engine.lookup_waits().counts.iter().sum::<u64>(), 1);
}

fn is_drop(order: &NvmeOrder) -> bool {
    matches!(order, NvmeOrder::DropNamespace { .. })
}

#[test]
fn a_device_hears_of_a_namespace_that_is_gone_and_is_told_it_again_before_a_write() {
    let mut bed = Bed::with_nvme(nvme_config());
    bed.store(0..2);
    bed.settle();
    let namespace = bed.namespace();
    bed.end(WORKER, SessionEnd::Closed);
    bed.end(SCHEDULER, SessionEnd::Closed);
    assert_eq!(bed.take_orders(is_drop), [], "blocks of it are there");
    bed.evict(ALL);
    assert_eq!(
        bed.take_orders(is_drop),
        [(0, NvmeOrder::DropNamespace { namespace })]
    );
    bed.take_orders(|_| true);
    bed.enter();
    bed.store(0..1);
    bed.settle_but(is_write);
    let keeps = bed.take_orders(|order| matches!(order, NvmeOrder::KeepNamespace { .. }));
    assert_eq!(keeps.len(), 1);
    assert_eq!(bed.take_orders(is_drop), []);
}
