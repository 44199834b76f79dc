//! A tier with slots, and somebody who hears its events.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use kvstore_types::{BlockKey, OperationId, ReadClass};

use crate::backend::store::Surroundings;
use crate::testing::{PAYLOAD, Slots, WATCHDOG, namespace, payload, writer};
use crate::{
    BackendSpec, BreakerPolicy, Direction, ExistencePolicy, LaneLimits, Limits, MemoryStore, Order, Outcome,
    Presence, Remote, RemoteEvent, RemoteSpec, RemoteStats, RetryPolicy, SlotMemory, Timing,
};

/// Bytes between two slots: the largest payload there is.
const SLOT: usize = 1 << 20;
const SLOTS: usize = 16;

pub(super) struct Rig {
    /// `None` once it was closed.
    pub(super) tier: Option<Remote>,
    pub(super) slots: Arc<Slots>,
    events: Receiver<RemoteEvent>,
    answers: HashMap<OperationId, RemoteEvent>,
    pub(super) taken: Vec<OperationId>,
    pub(super) service: HashMap<Direction, bool>,
    next: u64,
}

/// A spec with short times and small bounds.
pub(super) fn spec(backend: BackendSpec, node: u8, slots: Arc<Slots>) -> RemoteSpec {
    let lane = |under_way_max| LaneLimits {
        under_way_max,
        bytes_max: 64 << 20,
        waiting_max: 1000,
    };
    RemoteSpec {
        name: format!("node {node}"),
        backend,
        writer: writer(node),
        memory: slots,
        limits: Limits {
            reads: lane(4),
            writes: lane(4),
            lookups: lane(2),
            orders_max: 1000,
            lookup_batch: 16,
            range_bytes: None,
            buffer_bytes_kept: 4 << 20,
        },
        timing: Timing {
            demand: Duration::from_secs(20),
            prefetch: Duration::from_secs(20),
            write: Duration::from_secs(20),
            lookup: Duration::from_secs(20),
            attempt: Duration::from_secs(10),
            hedge_after: None,
            touch_every: Duration::from_hours(1),
            close: Duration::from_secs(1),
        },
        breaker: BreakerPolicy {
            failures: 3,
            open_min: Duration::from_millis(20),
            open_max: Duration::from_millis(100),
        },
        retry: RetryPolicy {
            attempts: 2,
            wait_min: Duration::from_millis(1),
            wait_max: Duration::from_millis(5),
        },
        existence: ExistencePolicy {
            missing_for: Duration::ZERO,
            ..ExistencePolicy::default()
        },
        sweep: None,
    }
}

impl Rig {
    /// A tier that is in service.
    pub(super) fn new(backend: BackendSpec, node: u8, change: impl FnOnce(&mut RemoteSpec)) -> Self {
        let mut rig = Self::closed(backend, node, change);
        rig.wait_for_service(Direction::Read, true);
        rig.wait_for_service(Direction::Write, true);
        rig
    }

    /// A tier whose store may not answer.
    pub(super) fn closed(backend: BackendSpec, node: u8, change: impl FnOnce(&mut RemoteSpec)) -> Self {
        Self::closed_in(backend, node, change, &Surroundings::real())
    }

    pub(super) fn closed_in(
        backend: BackendSpec,
        node: u8,
        change: impl FnOnce(&mut RemoteSpec),
        surroundings: &Surroundings<'_>,
    ) -> Self {
        LazyLock::force(&LOG);
        let slots = Slots::new(SLOT * SLOTS);
        let mut spec = spec(backend, node, slots.clone());
        change(&mut spec);
        let (sender, events) = mpsc::channel();
        let sender = Mutex::new(sender);
        let sink = Arc::new(move |events: Vec<RemoteEvent>| {
            let sender = sender.lock().unwrap();
            // Nobody listens to the last ones.
            for event in events {
                drop(sender.send(event));
            }
        });
        let rig = Self {
            tier: Some(Remote::open_in(spec, sink, surroundings).unwrap()),
            slots,
            events,
            answers: HashMap::new(),
            taken: Vec::new(),
            service: HashMap::new(),
            next: 0,
        };
        let (descriptor, geometry) = namespace();
        rig.submit(Order::KeepNamespace { descriptor, geometry });
        rig
    }

    pub(super) fn over_memory(store: &Arc<MemoryStore>, node: u8) -> Self {
        Self::new(BackendSpec::Memory(store.clone()), node, |_| {})
    }

    pub(super) fn submit(&self, order: Order) {
        self.tier.as_ref().unwrap().submit(vec![order]);
    }

    pub(super) fn stats(&self) -> RemoteStats {
        self.tier.as_ref().unwrap().stats()
    }

    pub(super) fn next(&mut self) -> OperationId {
        self.next += 1;
        OperationId(self.next)
    }

    /// Where a slot begins.
    pub(super) fn slot(slot: usize) -> usize {
        slot * SLOT
    }

    pub(super) fn bytes_of(key: BlockKey) -> usize {
        if key.group.0 == 0 { PAYLOAD } else { 1 << 20 }
    }

    /// Orders a block to be stored from a slot.
    pub(super) fn order_store(&mut self, key: BlockKey, slot: usize) -> OperationId {
        let operation = self.next();
        let at = Self::slot(slot) as u64;
        assert!(self.slots.copy_in(at, &payload(key, Self::bytes_of(key))));
        self.submit(Order::Store {
            operation,
            key,
            descriptor: b"descriptor".to_vec(),
            offset: at,
        });
        operation
    }

    pub(super) fn store(&mut self, key: BlockKey) -> Outcome {
        let operation = self.order_store(key, 0);
        self.done(operation)
    }

    /// Orders a block to be fetched into a slot.
    pub(super) fn order_fetch(&mut self, key: BlockKey, slot: usize, class: ReadClass) -> OperationId {
        let operation = self.next();
        let at = Self::slot(slot);
        assert!(self.slots.copy_in(at as u64, &vec![0xee; Self::bytes_of(key)]));
        self.submit(Order::Fetch {
            operation,
            key,
            offset: at as u64,
            class,
        });
        operation
    }

    /// Fetches a block. Whatever comes of it, the slot has the block or was not touched.
    pub(super) fn fetch(&mut self, key: BlockKey) -> Outcome {
        let operation = self.order_fetch(key, 1, ReadClass::Demand);
        self.fetched(operation, key, 1)
    }

    pub(super) fn fetched(&mut self, operation: OperationId, key: BlockKey, slot: usize) -> Outcome {
        let RemoteEvent::Fetched {
            outcome, descriptor, ..
        } = self.answer(operation)
        else {
            panic!("not the answer to a fetch")
        };
        let bytes = Self::bytes_of(key);
        let found = self.slots.read(Self::slot(slot), bytes);
        if outcome == Outcome::Done {
            assert!(found == payload(key, bytes), "another block's bytes");
            assert_eq!(descriptor, b"descriptor");
        } else {
            assert!(found.iter().all(|&byte| byte == 0xee), "a slot was touched");
            assert!(descriptor.is_empty());
        }
        outcome
    }

    pub(super) fn exists(&mut self, keys: Vec<BlockKey>, until_missing: bool) -> Vec<Presence> {
        let operation = self.next();
        self.submit(Order::Exists {
            operation,
            keys,
            until_missing,
        });
        let RemoteEvent::Existence { presence, .. } = self.answer(operation) else {
            panic!("not the answer to a look-up")
        };
        presence
    }

    pub(super) fn delete(&mut self, key: BlockKey) -> Outcome {
        let operation = self.next();
        self.submit(Order::Delete { operation, key });
        self.done(operation)
    }

    pub(super) fn done(&mut self, operation: OperationId) -> Outcome {
        let RemoteEvent::Done { outcome, .. } = self.answer(operation) else {
            panic!("not the answer to a store or deletion")
        };
        outcome
    }

    /// The one answer to an order.
    pub(super) fn answer(&mut self, operation: OperationId) -> RemoteEvent {
        self.hear_until(&format!("{operation:?} is answered"), |rig| {
            rig.answers.contains_key(&operation)
        });
        self.answers.remove(&operation).unwrap()
    }

    /// Whether an answer is there, without waiting.
    pub(super) fn is_answered(&mut self, operation: OperationId) -> bool {
        while let Ok(event) = self.events.try_recv() {
            self.hear(event);
        }
        self.answers.contains_key(&operation)
    }

    pub(super) fn wait_for_service(&mut self, direction: Direction, available: bool) {
        self.hear_until(&format!("{direction:?} is available: {available}"), |rig| {
            rig.service.get(&direction) == Some(&available)
        });
    }

    pub(super) fn hear_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < WATCHDOG, "waited in vain until {what}");
            match self.events.recv_timeout(Duration::from_millis(20)) {
                Ok(event) => self.hear(event),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => panic!("the tier ended before {what}"),
            }
        }
    }

    fn hear(&mut self, event: RemoteEvent) {
        let operation = match &event {
            RemoteEvent::Taken { operation } => {
                assert!(!self.answers.contains_key(operation), "taken after the answer");
                return self.taken.push(*operation);
            }
            RemoteEvent::Service {
                direction, available, ..
            } => {
                self.service.insert(*direction, *available);
                return;
            }
            RemoteEvent::Done { operation, .. }
            | RemoteEvent::Fetched { operation, .. }
            | RemoteEvent::Existence { operation, .. } => *operation,
        };
        let before = self.answers.insert(operation, event);
        assert!(before.is_none(), "{operation:?} was answered twice");
    }

    /// Closes the tier and hears what it says last.
    pub(super) fn close(&mut self) {
        self.tier.take().unwrap().shutdown();
        while let Ok(event) = self.events.try_recv() {
            self.hear(event);
        }
    }
}

/// The lines that were logged about a tier, which has a name of its own.
pub(super) fn log_of(tier: &str) -> Vec<String> {
    let bytes = LOG.0.lock().unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().filter(|line| line.contains(tier));
    lines.map(str::to_owned).collect()
}

/// Everything that is logged, by all tests.
pub(super) fn whole_log() -> String {
    String::from_utf8_lossy(&LOG.0.lock().unwrap()).into_owned()
}

static LOG: LazyLock<Lines> = LazyLock::new(|| {
    let lines = Lines(Arc::default());
    let writer = lines.clone();
    // All levels, also of the libraries: nothing secret may be in any of them.
    let _ = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .try_init();
    lines
});

#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
