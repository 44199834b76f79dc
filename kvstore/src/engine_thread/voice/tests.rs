//! A start that says more at once than the announcer can take in: what was lost is said again in slices, and what routers
//! end with is what there is. No device is there, only what it would say.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use kvstore_engine::{
    Admission, Effects, Engine, EngineConfig, Event, FoundBlock, NvmeConfig, NvmeEvent, NvmeTuning,
    PolicyKind, SnapshotCursor,
};
use kvstore_events::testing::{Router, Subscriber};
use kvstore_events::{
    Announcer, BookLimits, Encoding, EventsConfig, FEED_ITEMS_MAX, Identity, PublisherConfig, TenantFeed,
    feed,
};
use kvstore_types::{
    AttentionKind, BlockDescriptor, BlockHash, BlockKey, BootEpoch, DeviceIndex, Field, GroupGeometry,
    GroupIndex, NamespaceDescriptor, NamespaceGeometry, SegmentGeneration, SegmentRef,
};

use super::Voice;
use crate::engine_thread::core::Sessions;

/// Blocks of the device that is lost, and of the one that stays. The first are more than the feed holds.
const LOST: u32 = 160_000;
const STAYING: u32 = 40_000;
const PER_SEGMENT: u32 = 1000;
const CHAIN: u32 = 100;
/// Blocks that a device tells at once.
const BATCH: usize = 4096;
/// No wait is longer.
const WATCHDOG: Duration = Duration::from_mins(15);

/// An engine, and what it says into the announcer's feed.
struct Stage {
    engine: Engine,
    effects: Effects,
    voice: Voice,
    announcer: Announcer,
    asked: mpsc::Receiver<u64>,
}

impl Stage {
    fn new() -> Self {
        let bell = Arc::default();
        let (sender, receiver) = feed(FEED_ITEMS_MAX, Arc::clone(&bell));
        let (ask, asked) = mpsc::channel();
        let tenant = TenantFeed {
            feed: receiver,
            ask_snapshot: Box::new(move |number| ask.send(number).unwrap()),
        };
        let announcer = Announcer::start(events(), BootEpoch([0; 16]), bell, vec![tenant]).unwrap();
        Self {
            engine: Engine::new(engine()).unwrap(),
            effects: Effects::default(),
            voice: Voice::new(sender, announcer.counters(), None),
            announcer,
            asked,
        }
    }

    fn tell(&mut self, device: u8, event: NvmeEvent<'_>) {
        self.effects.clear();
        let device = DeviceIndex(device);
        self.engine
            .step(Instant::now(), Event::Nvme { device, event }, &mut self.effects);
        self.voice.hear(&self.effects, &self.engine, &Sessions::new());
    }

    /// A round of the engine thread, as far as the announcer is concerned. False: there was nothing to do.
    fn round(&mut self) -> bool {
        let now = Instant::now();
        let mut is_busy = self.engine.has_work();
        while let Ok(number) = self.asked.try_recv() {
            self.voice.say_all(number, now);
            is_busy = true;
        }
        if self.engine.has_work() {
            self.effects.clear();
            self.engine.step(now, Event::Tick, &mut self.effects);
            self.voice.hear(&self.effects, &self.engine, &Sessions::new());
        }
        is_busy |= self.voice.go_on(&self.engine, now);
        self.voice.flush();
        is_busy
    }

    /// Rounds until it is so. With nothing to do it sleeps, as the engine thread does: whoever looks at the router all the
    /// time keeps the router from hearing anything.
    fn rounds_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is_so(self) {
            assert!(began.elapsed() < WATCHDOG, "waited for: {what}");
            if !self.round() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// What there is.
    fn truth(&self) -> BTreeSet<Vec<u8>> {
        let mut hashes = BTreeSet::new();
        let mut tell = |key: BlockKey, residency: kvstore_engine::Residency, _: Option<&_>| {
            assert!(residency.nvme && !residency.host);
            hashes.insert(key.hash.0.to_vec());
        };
        let end = self
            .engine
            .snapshot(SnapshotCursor::default(), u32::MAX, &mut tell);
        assert_eq!(end, None);
        hashes
    }
}

fn events() -> EventsConfig {
    EventsConfig {
        publisher: PublisherConfig {
            connect: Vec::new(),
            bind: vec!["tcp://127.0.0.1:0".parse().unwrap()],
            replay: None,
            media: ["cpu".to_owned(), "storage".to_owned(), "storage".to_owned()],
            encoding: Encoding::Array,
            batch_blocks: 1024,
            announce_rate: 1_000_000,
        },
        identities: vec![Identity::Node("n".to_owned())],
        batch_delay: Duration::from_millis(1),
        limits: BookLimits::default(),
        ledger: None,
    }
}

fn engine() -> EngineConfig {
    EngineConfig {
        region_bytes: 4096 + (64 << 20),
        header_bytes: 4096,
        arena_bytes: 4 << 20,
        policy: PolicyKind::S3Fifo,
        watermark_low: 0.9,
        watermark_high: 1.0,
        seed: 7,
        sessions_max: 4,
        holds_per_session_max: 1 << 10,
        operations_per_session_max: 16,
        descriptor_bytes_max: 1 << 30,
        remote: None,
        keep_share: 0.5,
        nvme: Some(NvmeConfig {
            device_count: 2,
            segment_bytes: 4096 * u64::from(1 + 2 * PER_SEGMENT),
            tuning: NvmeTuning {
                segments_max: 2 * LOST / PER_SEGMENT,
                watermark_low: 0.9,
                watermark_high: 1.0,
                admission: Admission::All,
                write_rate: None,
                scrub_rate: None,
            },
            promotion_deadline: Duration::from_secs(1),
            promotion_bytes_max: 32 << 20,
            write_bytes_max: 16 << 20,
            write_queue_max: 65536,
        }),
    }
}

fn segment(number: u32) -> SegmentRef {
    SegmentRef {
        index: number / PER_SEGMENT,
        generation: SegmentGeneration(1),
    }
}

fn hash(device: u8, number: u32) -> BlockHash {
    let mut hash = [1; 32];
    hash[0] = device;
    hash[28..].copy_from_slice(&number.to_be_bytes());
    BlockHash(hash)
}

fn found(space: &NamespaceDescriptor, device: u8, number: u32) -> FoundBlock {
    let descriptor = BlockDescriptor {
        parent: (!number.is_multiple_of(CHAIN)).then(|| hash(device, number - 1)),
        tokens: vec![number; 16].into(),
        lora_name: None,
        extra_keys: &[],
    };
    FoundBlock {
        key: BlockKey {
            namespace: space.id(),
            group: GroupIndex(0),
            hash: hash(device, number),
        },
        segment: segment(number),
        page: 1 + 2 * (number % PER_SEGMENT),
        pages: 2,
        descriptor: Some(descriptor.encode().unwrap()),
    }
}

/// Both devices say at once what they have; the announcer gets no turn before all of it is said.
fn start(stage: &mut Stage) {
    let group = GroupGeometry {
        kind: AttentionKind::Full,
        tokens_per_block: 16,
        rank_bytes: 4096,
    };
    let geometry = NamespaceGeometry::compose(&[&[group]]).unwrap();
    let model = Field {
        tag: "model.id".to_owned(),
        value: b"m".to_vec(),
    };
    let space = NamespaceDescriptor::new([model]).unwrap();
    for (device, blocks) in [(0, STAYING), (1, LOST)] {
        for first in (0..blocks).step_by(PER_SEGMENT as usize) {
            let (segment, tail) = (segment(first), 1 + 2 * PER_SEGMENT);
            stage.tell(device, NvmeEvent::SegmentFound { segment, tail });
        }
        let (descriptor, geometry) = (&space, &geometry);
        stage.tell(device, NvmeEvent::Namespace { descriptor, geometry });
        stage.voice.namespace(space.id(), Some(&space), &geometry.groups);
        let found: Vec<_> = (0..blocks).map(|number| found(&space, device, number)).collect();
        for blocks in found.chunks(BATCH) {
            stage.tell(device, NvmeEvent::Blocks { blocks });
        }
        stage.tell(device, NvmeEvent::Loaded);
    }
}

#[test]
fn after_a_start_that_was_too_much_at_once_routers_end_with_what_there_is() {
    let mut stage = Stage::new();
    let mut subscriber = Subscriber::connect(stage.announcer.addresses()[0]);
    subscriber.subscribe("kv@");
    let router = Arc::new(Mutex::new(Router::default()));
    let heard = Arc::clone(&router);
    let listening = std::thread::spawn(move || {
        while let Some((topic, _, payload)) = subscriber.receive_whenever() {
            heard.lock().unwrap().hear(&topic, &payload);
        }
    });
    start(&mut stage);
    assert_eq!(stage.truth().len(), (LOST + STAYING) as usize);
    let counters = stage.announcer.counters();
    stage.rounds_until("half of it has been said again", |_| {
        counters.count().blocks >= u64::from(LOST + STAYING) / 2
    });
    // In the middle of it a device goes, and that is too much at once again.
    stage.tell(1, NvmeEvent::Lost);
    stage.rounds_until("all of it has been said again", |stage| {
        stage.voice.saying.is_none() && counters.count().blocks == u64::from(STAYING)
    });
    let truth = stage.truth();
    assert_eq!(truth.len(), STAYING as usize);
    let topic = "kv@node:n@m";
    stage.rounds_until("the router believes in as many", |_| {
        router.lock().unwrap().count(topic, "storage") == truth.len()
    });
    let believed = router.lock().unwrap().blocks();
    assert!(believed.into_iter().map(|(_, _, hash)| hash).eq(truth));
    let counted = counters.count();
    assert!(counted.feed_overflows >= 2, "{counted:?}");
    assert_eq!(router.lock().unwrap().count_max(), 1);
    // Taking all of it back has a deadline, so that an end does not wait for a slow router: how far it came is not asked.
    stage.announcer.stop();
    listening.join().unwrap();
}
