//! A remote tier at a mounted directory, and memory with slots.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use connector_shm::{HugePages, Region, RegionBytes, RegionSpec};
use kvstore_remote::{
    BackendSpec, BreakerPolicy, Credentials, Direct, Direction, EventSink, ExistencePolicy, Limits,
    MountCheck, MountIo, MountSpec, Order, Outcome, Presence, Remote, RemoteEvent, RemoteSpec, Reserve,
    RetryPolicy, SlotMemory, StoreKind, StoreSpec, SyncPolicy, Timing, WriterId,
};
use kvstore_types::{
    AttentionKind, BlockHash, BlockKey, BootEpoch, Field, GroupGeometry, GroupIndex, NamespaceDescriptor,
    NamespaceGeometry, OperationId, PAGE_BYTES, ReadClass,
};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

use super::server::{BUCKET, Server};

/// Where the tier keeps its blocks.
pub(super) const PREFIX: &str = "tier";
const WATCHDOG: Duration = Duration::from_mins(2);
/// What no order here may wait for.
const PATIENCE: Duration = Duration::from_mins(1);
/// Orders at a time.
pub(super) const SLOTS: u64 = 32;
/// Calls at the mount that may block at a time.
pub(super) const THREADS: usize = 16;

struct Slots(RegionBytes);

impl SlotMemory for Slots {
    fn copy_out(&self, offset: u64, bytes: &mut [u8]) -> bool {
        self.0.copy_out(offset, bytes)
    }

    fn copy_in(&self, offset: u64, bytes: &[u8]) -> bool {
        self.0.copy_in(offset, bytes)
    }
}

/// An open tier.
pub(super) struct Rig {
    remote: Remote,
    events: Receiver<Vec<RemoteEvent>>,
    rest: VecDeque<RemoteEvent>,
    namespace: NamespaceDescriptor,
    block_bytes: u64,
    slots: u64,
    operation: u64,
    _region: Region,
}

impl Rig {
    /// Opens a tier and waits until it is in service, both ways.
    pub(super) fn open(backend: BackendSpec, block_bytes: u64) -> anyhow::Result<Self> {
        let slots = SLOTS;
        let spec = RegionSpec {
            bytes: PAGE_BYTES + slots * block_bytes,
            huge_pages: HugePages::Off,
            boot_epoch: BootEpoch([1; 16]),
            tenant: "bench",
        };
        let region = Region::create(&spec)?.region;
        let memory = region.map_bytes()?;
        // Bytes that no store and no disk makes fewer of.
        let mut noise = vec![0; usize::try_from(block_bytes)?];
        SmallRng::seed_from_u64(1).fill_bytes(&mut noise);
        for slot in 0..slots {
            ensure!(
                memory.copy_in(PAGE_BYTES + slot * block_bytes, &noise),
                "no such slot"
            );
        }
        let (sender, events) = mpsc::channel();
        let sink: EventSink = Arc::new(move |events| {
            // The end of a round hears no more.
            let _ = sender.send(events);
        });
        let remote = Remote::open(remote_spec(backend, memory), sink)?;
        let (namespace, geometry) = namespace(block_bytes)?;
        let descriptor = namespace.clone();
        remote.submit(vec![Order::KeepNamespace { descriptor, geometry }]);
        let mut rig = Self {
            remote,
            events,
            rest: VecDeque::new(),
            namespace,
            block_bytes,
            slots,
            operation: 0,
            _region: region,
        };
        let mut in_service = [false; 2];
        while in_service != [true; 2] {
            if let RemoteEvent::Service {
                direction, available, ..
            } = rig.next()?
            {
                in_service[usize::from(direction == Direction::Write)] = available;
            }
        }
        Ok(rig)
    }

    fn next(&mut self) -> anyhow::Result<RemoteEvent> {
        while self.rest.is_empty() {
            let events = self.events.recv_timeout(WATCHDOG);
            self.rest.extend(events.context("the remote tier says nothing")?);
        }
        self.rest.pop_front().context("no event")
    }

    fn operation(&mut self) -> OperationId {
        self.operation += 1;
        OperationId(self.operation)
    }

    fn key(&self, number: u64) -> BlockKey {
        let mut hash = [0xA5; 32];
        SmallRng::seed_from_u64(number).fill_bytes(&mut hash[8..]);
        hash[..8].copy_from_slice(&number.to_le_bytes());
        BlockKey {
            namespace: self.namespace.id(),
            group: GroupIndex(0),
            hash: BlockHash(hash),
        }
    }

    fn offset(&self, number: u64) -> u64 {
        PAGE_BYTES + number % self.slots * self.block_bytes
    }

    /// Stores or fetches blocks, as many at a time as there are slots; how long it took.
    pub(super) fn transfer(&mut self, numbers: &[u64], writes: bool) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let (mut next, mut done) = (0, 0);
        while done < numbers.len() {
            while next < numbers.len() && (next - done) < usize::try_from(self.slots)? {
                let (operation, key) = (self.operation(), self.key(numbers[next]));
                let offset = self.offset(next as u64);
                let order = if writes {
                    let descriptor = Vec::new();
                    Order::Store {
                        operation,
                        key,
                        descriptor,
                        offset,
                    }
                } else {
                    let class = ReadClass::Demand;
                    Order::Fetch {
                        operation,
                        key,
                        offset,
                        class,
                    }
                };
                self.remote.submit(vec![order]);
                next += 1;
            }
            match self.next()? {
                RemoteEvent::Done { outcome, .. } | RemoteEvent::Fetched { outcome, .. } => {
                    ensure!(outcome == Outcome::Done, "an order ended with {outcome:?}");
                    done += 1;
                }
                RemoteEvent::Service {
                    available: false,
                    reason,
                    ..
                } => bail!("out of service: {reason}"),
                _ => {}
            }
        }
        Ok(began.elapsed())
    }

    /// How long it takes to hear which of these blocks are there, and how many are.
    pub(super) fn exists(&mut self, numbers: std::ops::Range<u64>) -> anyhow::Result<(Duration, usize)> {
        let (operation, keys) = (self.operation(), numbers.map(|number| self.key(number)).collect());
        let began = Instant::now();
        self.remote.submit(vec![Order::Exists {
            operation,
            keys,
            until_missing: false,
        }]);
        loop {
            if let RemoteEvent::Existence { presence, .. } = self.next()? {
                ensure!(
                    !presence.contains(&Presence::Unknown),
                    "not all blocks were looked for"
                );
                let there = presence.iter().filter(|&&presence| presence == Presence::Present);
                return Ok((began.elapsed(), there.count()));
            }
        }
    }
}

/// A mounted directory.
pub(super) fn mount(directory: &Path) -> BackendSpec {
    BackendSpec::Mount(MountSpec {
        root: directory.to_owned(),
        prefix: PREFIX.to_owned(),
        io: MountIo::Auto,
        direct: Direct::Auto,
        sync: SyncPolicy::None,
        threads: THREADS,
        check: MountCheck::Auto,
        reserve: Reserve::Bytes(0),
    })
}

/// The bucket of a server.
pub(super) fn store(server: &Server) -> BackendSpec {
    BackendSpec::Store(StoreSpec {
        kind: StoreKind::S3,
        bucket: BUCKET.to_owned(),
        account: None,
        prefix: PREFIX.to_owned(),
        endpoint: Some(server.endpoint.clone()),
        region: None,
        virtual_hosted: false,
        credentials: Credentials::File {
            path: server.credentials.clone(),
            profile: None,
        },
        ca_file: None,
        sign_payload: false,
        connect_timeout: PATIENCE,
        request_timeout: PATIENCE,
    })
}

fn remote_spec(backend: BackendSpec, memory: RegionBytes) -> RemoteSpec {
    RemoteSpec {
        name: "bench".to_owned(),
        backend,
        writer: WriterId::new([1; 16], [2; 16]),
        memory: Arc::new(Slots(memory)),
        limits: Limits::default(),
        timing: Timing {
            demand: PATIENCE,
            prefetch: PATIENCE,
            write: PATIENCE,
            lookup: PATIENCE,
            attempt: PATIENCE,
            ..Timing::default()
        },
        breaker: BreakerPolicy::default(),
        retry: RetryPolicy::default(),
        existence: ExistencePolicy::default(),
        sweep: None,
    }
}

fn namespace(block_bytes: u64) -> anyhow::Result<(NamespaceDescriptor, NamespaceGeometry)> {
    let field = Field {
        tag: "model.id".to_owned(),
        value: b"bench".to_vec(),
    };
    let group = GroupGeometry {
        kind: AttentionKind::Full,
        tokens_per_block: 16,
        rank_bytes: block_bytes,
    };
    Ok((
        NamespaceDescriptor::new([field])?,
        NamespaceGeometry::compose(&[&[group]])?,
    ))
}
