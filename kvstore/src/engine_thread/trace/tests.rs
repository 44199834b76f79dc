//! What real clients hardly ever do: several requests in one message, blocks that are given back or never written, ends in the
//! middle of everything.

use kvstore_engine::{Grant, GroupKeys, LookupOutcome};
use kvstore_types::{AttentionKind, BlockHash, GroupIndex, SlotRef};

use super::asks::{Answer, Begun};
use super::*;

const SESSION: SessionId = SessionId(1);
const NAMESPACE: NamespaceId = NamespaceId([3; 16]);

fn pen() -> Pen {
    Pen::new("t")
}

fn context(request: u8) -> Context {
    Context {
        trace: TraceId([request; 16]),
        span: SpanId([request; 8]),
    }
}

fn said(request: u8, keys: u32) -> TraceContext {
    TraceContext {
        trace_id: [request; 16],
        span_id: [request; 8],
        keys,
        zero: 0,
    }
}

fn hashes(range: std::ops::Range<u8>) -> Vec<BlockHash> {
    range.map(|number| BlockHash([number; 32])).collect()
}

fn key(number: u8) -> BlockKey {
    BlockKey {
        namespace: NAMESPACE,
        group: GroupIndex(0),
        hash: BlockHash([number; 32]),
    }
}

fn slot(number: u8) -> SlotRef {
    SlotRef {
        page: number.into(),
        generation: 1,
    }
}

fn shapes() -> Shapes {
    let mut shapes = Shapes::default();
    let group = GroupLayout {
        kind: AttentionKind::Full,
        tokens_per_block: 16,
        rank_offsets: vec![0, 100],
        rank_bytes: vec![100, 100],
        slot_bytes: 4096,
    };
    shapes.set(SESSION, NAMESPACE, &[group]);
    shapes
}

/// Reserves blocks from 1 on for these requests, all of them granted.
fn reserve(stores: &mut Stores, contexts: &[TraceContext], blocks: u8, pen: &mut Pen) {
    let hashes = hashes(1..blocks + 1);
    let groups = [GroupKeys {
        group: 0,
        hashes: &hashes,
    }];
    stores.begin(SESSION, NAMESPACE, &groups, contexts);
    let grants: Vec<Grant> = (1..=blocks).map(|number| Grant::Slot(slot(number))).collect();
    stores.grant(SESSION, &grants, None, pen);
    stores.end_reserve();
}

fn names(pen: &Pen) -> Vec<(&'static str, u8)> {
    pen.spans
        .iter()
        .map(|span| (span.name, span.trace.0[0]))
        .collect()
}

fn number(span: &Span, name: &str) -> u64 {
    let found = span.attributes.iter().find(|(other, _)| *other == name);
    match found {
        Some((_, Value::Number(number))) => *number,
        other => panic!("{name} is {other:?} in {span:?}"),
    }
}

#[test]
fn each_request_of_a_reservation_has_a_store_of_its_own() {
    let (mut stores, mut pen, shapes) = (Stores::new([false; 2], true), pen(), shapes());
    // The third and the fourth block are nobody's, and so is the last.
    let contexts = [said(7, 2), said(0, 2), said(8, 1), said(7, 1)];
    reserve(&mut stores, &contexts, 7, &mut pen);
    for number in 1..=7 {
        stores.publish(&key(number), &shapes, &mut pen);
    }
    assert_eq!(names(&pen), [("kvtier.store", 8), ("kvtier.store", 7)]);
    assert_eq!(number(&pen.spans[0], "kvtier.blocks"), 1);
    assert_eq!(number(&pen.spans[1], "kvtier.blocks"), 3);
    assert_eq!(number(&pen.spans[1], "kvtier.bytes"), 600);
    assert_eq!(pen.spans[1].parent, Some(SpanId([7; 8])));
}

#[test]
fn a_write_back_is_one_span_that_waits_for_every_block_that_can_still_come() {
    let (mut stores, mut pen, shapes) = (Stores::new([true, false], true), pen(), shapes());
    reserve(&mut stores, &[said(7, 3)], 3, &mut pen);
    for number in 1..=3 {
        stores.publish(&key(number), &shapes, &mut pen);
    }
    let times = OrderTimes {
        waited: std::time::Duration::from_micros(5),
        served: std::time::Duration::from_micros(9),
    };
    stores.order(NVME, OperationId(1), &key(1), 4096);
    stores.done(OperationId(1), true, times, &mut pen);
    stores.order(NVME, OperationId(2), &key(2), 4096);
    stores.done(OperationId(2), false, times, &mut pen);
    assert_eq!(names(&pen), [("kvtier.store", 7)]);
    // It left host memory before its turn came.
    stores.leave(&key(3), &mut pen);
    assert_eq!(names(&pen), [("kvtier.store", 7), ("kvtier.write_back", 7)]);
    let (store, write_back) = (&pen.spans[0], &pen.spans[1]);
    assert_eq!(write_back.parent, Some(store.id));
    let counted = [
        "kvtier.blocks",
        "kvtier.blocks.done",
        "kvtier.blocks.failed",
        "kvtier.bytes",
    ];
    assert_eq!(counted.map(|name| number(write_back, name)), [2, 1, 1, 4096]);
    assert_eq!(number(write_back, "kvtier.queue_wait_max_us"), 5);
    assert_eq!(number(write_back, "kvtier.device_time_sum_us"), 18);
}

#[test]
fn where_writes_come_when_they_like_each_burst_is_a_span() {
    let (mut stores, mut pen, shapes) = (Stores::new([false; 2], true), pen(), shapes());
    reserve(&mut stores, &[said(7, 2)], 2, &mut pen);
    for number in 1..=2_u8 {
        stores.publish(&key(number), &shapes, &mut pen);
    }
    for operation in [1, 2] {
        stores.order(REMOTE, OperationId(operation), &key(1), 10);
        stores.order(REMOTE, OperationId(operation + 10), &key(2), 10);
        stores.done(OperationId(operation), true, OrderTimes::default(), &mut pen);
        stores.done(OperationId(operation + 10), true, OrderTimes::default(), &mut pen);
    }
    let expected = [
        ("kvtier.store", 7),
        ("kvtier.remote_write", 7),
        ("kvtier.remote_write", 7),
    ];
    assert_eq!(names(&pen), expected);
}

#[test]
fn what_is_given_back_or_lost_ends_a_store() {
    let (mut stores, mut pen, shapes) = (Stores::new([true; 2], true), pen(), shapes());
    reserve(&mut stores, &[said(7, 2), said(8, 2)], 4, &mut pen);
    stores.publish(&key(1), &shapes, &mut pen);
    stores.abort(&[slot(2), slot(99)], &mut pen);
    assert_eq!(names(&pen), [("kvtier.store", 7)]);
    assert_eq!(number(&pen.spans[0], "kvtier.blocks.aborted"), 1);
    stores.lose(SESSION, "reset", &mut pen);
    assert_eq!(names(&pen), [("kvtier.store", 7), ("kvtier.store", 8)]);
    assert_eq!(pen.spans[1].error, Some("reset"));
    // The slots may be somebody else's by now.
    stores.publish(&key(3), &shapes, &mut pen);
    stores.abort(&[slot(3)], &mut pen);
    assert_eq!(pen.spans.len(), 2);
}

#[test]
fn the_end_of_the_thread_tells_of_everything_as_far_as_it_came() {
    let (mut stores, mut pen, shapes) = (Stores::new([true; 2], true), pen(), shapes());
    reserve(&mut stores, &[said(7, 1), said(8, 1)], 2, &mut pen);
    stores.publish(&key(1), &shapes, &mut pen);
    stores.order(NVME, OperationId(1), &key(1), 4096);
    stores.end(&mut pen);
    let expected = [("kvtier.store", 7), ("kvtier.write_back", 7), ("kvtier.store", 8)];
    assert_eq!(names(&pen), expected);
    assert_eq!(pen.spans[2].error, Some("not_followed_to_its_end"));
    // What still comes finds nothing.
    stores.done(OperationId(1), true, OrderTimes::default(), &mut pen);
    stores.leave(&key(1), &mut pen);
    assert_eq!(pen.spans.len(), 3);
}

#[test]
fn blocks_that_are_followed_are_bounded() {
    let (mut stores, mut pen, shapes) = (Stores::new([true; 2], true), pen(), shapes());
    let per_store = 1_u32 << 13;
    for store in 0_u8..10 {
        let hash = |number: u32| {
            let mut bytes = [store; 32];
            bytes[..4].copy_from_slice(&number.to_le_bytes());
            BlockHash(bytes)
        };
        let hashes: Vec<BlockHash> = (0..per_store).map(hash).collect();
        let groups = [GroupKeys {
            group: 0,
            hashes: &hashes,
        }];
        stores.begin(SESSION, NAMESPACE, &groups, &[said(store + 1, per_store)]);
        let slot = |number: u32| {
            Grant::Slot(SlotRef {
                page: 1 + number + u32::from(store) * per_store,
                generation: 1,
            })
        };
        let grants: Vec<Grant> = (0..per_store).map(slot).collect();
        stores.grant(SESSION, &grants, None, &mut pen);
        for hash in hashes {
            let key = BlockKey {
                namespace: NAMESPACE,
                group: GroupIndex(0),
                hash,
            };
            stores.publish(&key, &shapes, &mut pen);
        }
    }
    assert!(stores.remembered()[0] <= stores::BLOCKS_MAX);
    assert_eq!(pen.spans.len(), 10, "each was told of when it was sealed");
}

#[test]
fn without_lower_tiers_a_block_is_followed_until_it_can_be_found() {
    let (mut stores, mut pen, shapes) = (Stores::new([false; 2], false), pen(), shapes());
    reserve(&mut stores, &[said(7, 3)], 3, &mut pen);
    assert_eq!(stores.remembered()[0], 3);
    for number in 1..=3 {
        stores.publish(&key(number), &shapes, &mut pen);
    }
    assert_eq!(stores.remembered()[0], 0);
    assert_eq!(names(&pen), [("kvtier.store", 7)]);
    assert_eq!(number(&pen.spans[0], "kvtier.blocks.published"), 3);
    // What leaves memory or is stored anew is nobody's any more.
    stores.leave(&key(1), &mut pen);
    reserve(&mut stores, &[said(8, 1)], 1, &mut pen);
    stores.abort(&[slot(1)], &mut pen);
    assert_eq!(names(&pen), [("kvtier.store", 7), ("kvtier.store", 8)]);
    assert_eq!(stores.remembered()[0], 0);
}

/// The names of stores were given up only from the first on, so one whose blocks stayed in memory kept those of all that came later.
#[test]
fn a_store_that_lives_long_keeps_no_others() {
    let (mut stores, mut pen, shapes) = (Stores::new([false; 2], true), pen(), shapes());
    reserve(&mut stores, &[said(7, 1)], 1, &mut pen);
    stores.publish(&key(1), &shapes, &mut pen);
    let present = hashes(1..2);
    let groups = [GroupKeys {
        group: 0,
        hashes: &present,
    }];
    for _ in 0..1000 {
        stores.begin(SESSION, NAMESPACE, &groups, &[said(8, 1)]);
        stores.grant(SESSION, &[Grant::AlreadyPresent], None, &mut pen);
        stores.end_reserve();
    }
    assert_eq!(pen.spans.len(), 1001, "each is told of");
    let [blocks, names] = stores.remembered();
    assert_eq!(blocks, 1);
    assert!(names < 100, "{names}");
}

fn begin(asks: &mut Asks, tag: u64, pen: &mut Pen) {
    let begun = Begun {
        context: context(7),
        sent_ns: 0,
        blocks: 4,
        tokens_max: 64,
    };
    asks.begin((SESSION, Tag(tag)), &begun, pen);
}

fn answer(hit_blocks: u64, arrived: [u64; 2]) -> Answer {
    Answer {
        hit_tokens: hit_blocks * 16,
        hit_blocks,
        arrived,
        outcome: LookupOutcome::Complete,
    }
}

#[test]
fn a_promotion_outlives_a_look_up_that_could_not_wait() {
    let (mut asks, mut pen) = (Asks::default(), pen());
    let name = (SESSION, Tag(1));
    begin(&mut asks, 1, &mut pen);
    asks.order(NVME, OperationId(1), 100, &mut pen);
    asks.order(NVME, OperationId(2), 100, &mut pen);
    asks.order(REMOTE, OperationId(3), 50, &mut pen);
    asks.pend(name);
    asks.current = None;
    assert!(asks.done(OperationId(3), true, OrderTimes::default(), &mut pen));
    assert!(asks.done(OperationId(1), true, OrderTimes::default(), &mut pen));
    asks.answer(name, &answer(2, [1, 1]), None, &mut pen);
    assert_eq!(names(&pen), [("kvtier.promote", 7), ("kvtier.lookup", 7)]);
    assert!(asks.done(OperationId(2), false, OrderTimes::default(), &mut pen));
    assert!(!asks.done(OperationId(4), true, OrderTimes::default(), &mut pen));
    let (lookup, nvme) = (&pen.spans[1], &pen.spans[2]);
    assert_eq!((nvme.name, nvme.parent), ("kvtier.promote", Some(lookup.id)));
    let counted = ["kvtier.blocks.done", "kvtier.blocks.failed", "kvtier.bytes"];
    assert_eq!(counted.map(|name| number(nvme, name)), [1, 1, 100]);
    let hits = [
        "kvtier.hit.blocks.host",
        "kvtier.hit.blocks.nvme",
        "kvtier.hit.blocks.remote",
    ];
    assert_eq!(hits.map(|name| number(lookup, name)), [0, 1, 1]);
}

#[test]
fn what_the_remote_tier_answers_belongs_to_who_asked() {
    let (mut asks, mut pen) = (Asks::default(), pen());
    begin(&mut asks, 1, &mut pen);
    asks.ask(OperationId(9));
    asks.current = None;
    // Reads that nobody who is followed has asked for.
    asks.order(REMOTE, OperationId(1), 50, &mut pen);
    asks.go_on(OperationId(9));
    asks.order(REMOTE, OperationId(2), 50, &mut pen);
    asks.current = None;
    assert!(!asks.done(OperationId(1), true, OrderTimes::default(), &mut pen));
    assert!(asks.done(OperationId(2), true, OrderTimes::default(), &mut pen));
    asks.answer((SESSION, Tag(1)), &answer(1, [0, 1]), None, &mut pen);
    assert_eq!(number(&pen.spans[0], "kvtier.blocks"), 1);
}

#[test]
fn a_load_ends_with_its_release_its_loss_or_its_session() {
    let (mut asks, mut pen) = (Asks::default(), pen());
    for tag in 1..=3 {
        begin(&mut asks, tag, &mut pen);
        asks.answer((SESSION, Tag(tag)), &answer(4, [0; 2]), None, &mut pen);
        asks.commit((SESSION, Tag(tag)), Tag(10 + tag), || (4, 800), &mut pen);
    }
    pen.spans.clear();
    asks.grant((SESSION, Tag(11)), 0, 4, &mut pen);
    asks.grant((SESSION, Tag(12)), 3, 1, &mut pen);
    asks.grant((SESSION, Tag(13)), 4, 0, &mut pen);
    asks.end_load((SESSION, Tag(12)), None, &mut pen);
    asks.forget(SESSION, &mut pen);
    let ends: Vec<_> = pen
        .spans
        .iter()
        .map(|span| (span.error, number(span, "kvtier.blocks.lost")))
        .collect();
    assert_eq!(
        ends,
        [(Some("blocks_lost"), 4), (None, 1), (Some("session_ended"), 0)]
    );
    // A look-up that was given up leads to no load.
    begin(&mut asks, 4, &mut pen);
    asks.answer((SESSION, Tag(4)), &answer(4, [0; 2]), None, &mut pen);
    asks.release((SESSION, Tag(4)));
    asks.commit((SESSION, Tag(4)), Tag(14), || (4, 800), &mut pen);
    asks.end_load((SESSION, Tag(14)), None, &mut pen);
    assert_eq!(pen.spans.len(), 4);
}

#[test]
fn a_look_up_that_is_given_up_says_so() {
    let (mut asks, mut pen) = (Asks::default(), pen());
    begin(&mut asks, 1, &mut pen);
    asks.release((SESSION, Tag(1)));
    asks.answer((SESSION, Tag(1)), &answer(0, [0; 2]), None, &mut pen);
    begin(&mut asks, 2, &mut pen);
    asks.forget(SESSION, &mut pen);
    let outcome = pen.spans[0]
        .attributes
        .iter()
        .find(|(name, _)| *name == "kvtier.lookup.outcome");
    assert_eq!(outcome, Some(&("kvtier.lookup.outcome", Value::Name("released"))));
    assert_eq!(pen.spans[1].error, Some("session_ended"));
}

#[test]
fn a_span_never_ends_before_it_began() {
    let mut pen = pen();
    let open = pen.open(context(1));
    pen.close(
        open,
        pen::Close {
            name: "x",
            kind: Kind::Internal,
            end_ns: 0,
            attributes: Vec::new(),
            error: None,
        },
    );
    assert_eq!(pen.spans[0].end_ns, pen.spans[0].start_ns);
    assert_eq!(Context::of(&said(0, 1)), None);
    assert_eq!(Context::of(&said(1, 1)), Some(context(1)));
}
