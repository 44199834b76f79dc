//! A client that plays scheduler or worker of an engine with one rank.

use std::path::Path;
use std::time::{Duration, Instant};

use connector_shm::{
    AttachError, AttachRequest, Attachment, Completion, GroupKeys, Keys, MessageBuffer, RankLayout, Request,
    Role, Runs, Sleep,
};
use kvstore_types::{
    AttentionKind, BlockHash, DescriptorRun, EngineGroupId, Field, GroupGeometry, GroupSpan, Rank, SlotRef,
    Tag,
};

const RANK_BYTES: u64 = 4096;
const TOKENS_PER_BLOCK: u32 = 16;

/// What such a client says of itself.
pub(crate) fn request(role: Role, engine_group: u8) -> AttachRequest {
    let rank_bytes = if matches!(role, Role::Worker(_)) {
        RANK_BYTES
    } else {
        0
    };
    let group = GroupGeometry {
        kind: AttentionKind::Full,
        tokens_per_block: TOKENS_PER_BLOCK,
        rank_bytes,
    };
    let is_observer = role == Role::Observer;
    AttachRequest {
        abi_minor: connector_shm::ABI_MINOR,
        tenant: String::new(),
        engine_name: "test".to_owned(),
        role,
        rank_count: u16::from(!is_observer),
        engine_group: EngineGroupId([engine_group; 16]),
        fields: vec![Field {
            tag: "model.id".to_owned(),
            value: b"m".to_vec(),
        }],
        rank_fields: Vec::new(),
        groups: if is_observer { Vec::new() } else { vec![group] },
        request_ring_bytes: 64 << 10,
        completion_ring_bytes: 64 << 10,
        client_version: "test".to_owned(),
        pid: std::process::id(),
        pod: String::new(),
        model: String::new(),
    }
}

/// A hash of its own for each number.
pub(crate) fn hash(number: u32) -> BlockHash {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_le_bytes());
    bytes[4..8].copy_from_slice(&number.to_le_bytes());
    BlockHash(bytes)
}

/// An attached client.
pub(crate) struct Client {
    pub(crate) attachment: Attachment,
    buffer: MessageBuffer,
    next_tag: u64,
    /// The layout of its slots, once it has been told.
    pub(crate) layout: Option<RankLayout>,
}

/// A completion that owns what matters to the tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Lookup(u64),
    /// Blocks of a look-up are on their way.
    Pending,
    Grants(Vec<SlotRef>),
    Sealed {
        published: u32,
        sealed: u32,
    },
    /// A batch of block events; none: there are none to be had.
    Events(Option<Vec<u8>>),
    Other,
    Ready,
    Draining,
    HungUp,
}

impl Client {
    pub(crate) fn open(socket: &Path, role: Role, engine_group: u8) -> Self {
        Self::try_open(socket, &request(role, engine_group)).unwrap()
    }

    pub(crate) fn try_open(socket: &Path, request: &AttachRequest) -> Result<Self, AttachError> {
        let attachment = Attachment::open(socket, request, Instant::now() + Duration::from_secs(30))?;
        Ok(Self {
            attachment,
            buffer: MessageBuffer::new(),
            next_tag: 1,
            layout: None,
        })
    }

    pub(crate) fn send(&mut self, request: &Request<'_>) {
        super::eventually("room in the request ring", || {
            self.attachment.end.send(request).ok()
        });
        // A daemon that is gone shows when the answer is awaited.
        let _ = self.attachment.end.notify();
    }

    pub(crate) fn tag(&mut self) -> Tag {
        self.next_tag += 1;
        Tag(self.next_tag)
    }

    /// The next thing the daemon says, or that it hung up.
    pub(crate) fn hear(&mut self) -> Said {
        super::eventually("the daemon says something", || self.poll())
    }

    /// The next answer, whatever is said unasked before it.
    pub(crate) fn answer(&mut self) -> Said {
        loop {
            match self.hear() {
                Said::Ready | Said::Draining | Said::Pending => {}
                said => return said,
            }
        }
    }

    fn poll(&mut self) -> Option<Said> {
        let end = &mut self.attachment.end;
        if let Some(completion) = end.receive(&mut self.buffer).unwrap() {
            remember(&mut self.layout, &completion);
            let said = said(&completion);
            let _ = end.notify();
            return Some(said);
        }
        if end.begin_sleep(0).unwrap() == Sleep::Go {
            // A closed bell is not the end yet: what was said before it still counts.
            let _ = end.doorbell().wait(Some(Duration::from_millis(50)));
        }
        end.end_sleep();
        let gone = connector_shm::hung_up(std::os::fd::AsFd::as_fd(&self.attachment.socket)).unwrap();
        match self.attachment.end.receive(&mut self.buffer).unwrap() {
            Some(completion) => {
                remember(&mut self.layout, &completion);
                Some(said(&completion))
            }
            None => gone.then_some(Said::HungUp),
        }
    }

    pub(crate) fn reserve(&mut self, numbers: std::ops::Range<u32>) -> Vec<SlotRef> {
        let hashes: Vec<BlockHash> = numbers.map(hash).collect();
        let tag = self.tag();
        self.send(&Request::Reserve {
            tag,
            keys: Keys::new(&[GroupKeys {
                group: 0,
                hashes: &hashes,
            }]),
        });
        match self.answer() {
            Said::Grants(grants) => grants,
            other => panic!("want grants, got {other:?}"),
        }
    }

    /// The same, and says that they are one sequence.
    pub(crate) fn reserve_described(&mut self, numbers: std::ops::Range<u32>) -> Vec<SlotRef> {
        let tokens: Vec<u32> = numbers
            .clone()
            .flat_map(|number| (0..TOKENS_PER_BLOCK).map(move |at| number + at))
            .collect();
        let run = DescriptorRun {
            blocks: numbers.end - numbers.start,
            tokens_per_block: TOKENS_PER_BLOCK,
            tokens: &tokens,
            ..DescriptorRun::undescribed(0)
        };
        self.send_described(numbers, &[run]);
        match self.answer() {
            Said::Grants(grants) => grants,
            other => panic!("want grants, got {other:?}"),
        }
    }

    pub(crate) fn send_described(&mut self, numbers: std::ops::Range<u32>, runs: &[DescriptorRun<'_>]) {
        let hashes: Vec<BlockHash> = numbers.map(hash).collect();
        let tag = self.tag();
        self.send(&Request::ReserveDescribed {
            tag,
            keys: Keys::new(&[GroupKeys {
                group: 0,
                hashes: &hashes,
            }]),
            runs: Runs::new(runs),
        });
    }

    pub(crate) fn seal(&mut self, slots: &[SlotRef]) -> Said {
        let tag = self.tag();
        self.send(&Request::Seal { tag, slots });
        self.answer()
    }

    /// Looks up the first `count` blocks; the answer is the hit and the look-up's tag.
    pub(crate) fn lookup(&mut self, count: u32) -> (u64, Tag) {
        let tag = self.tag();
        self.lookup_submit(tag, count);
        match self.answer() {
            Said::Lookup(tokens) => (tokens, tag),
            other => panic!("want a look-up's answer, got {other:?}"),
        }
    }

    pub(crate) fn lookup_submit(&mut self, tag: Tag, count: u32) {
        let hashes: Vec<BlockHash> = (0..count).map(hash).collect();
        let keys = [GroupKeys {
            group: 0,
            hashes: &hashes,
        }];
        self.send(&Request::Lookup {
            tag,
            tokens_max: u64::MAX,
            keys: Keys::new(&keys),
        });
    }

    /// Leases the first `count` blocks of a look-up.
    pub(crate) fn commit(&mut self, lookup: Tag, count: u32) -> (Vec<SlotRef>, Tag) {
        let lease = self.tag();
        let spans = [GroupSpan {
            group: 0,
            first: 0,
            count,
        }];
        self.send(&Request::LoadCommit {
            tag: lookup,
            lease,
            spans: &spans,
        });
        match self.answer() {
            Said::Grants(grants) => (grants, lease),
            other => panic!("want grants, got {other:?}"),
        }
    }

    /// Says good-bye.
    pub(crate) fn close(mut self) {
        self.send(&Request::Close);
    }
}

/// Keeps what a namespace says of the first group's slots.
fn remember(layout: &mut Option<RankLayout>, completion: &Completion<'_>) {
    if let Completion::NamespaceReady { groups, .. } = completion {
        *layout = groups.first().copied();
    }
}

fn said(completion: &Completion<'_>) -> Said {
    match completion {
        Completion::Lookup { hit_tokens, .. } => Said::Lookup(*hit_tokens),
        Completion::Load { grants, .. } | Completion::Reserve { grants, .. } => Said::Grants(grants.to_vec()),
        Completion::Seal {
            published, sealed, ..
        } => Said::Sealed {
            published: *published,
            sealed: *sealed,
        },
        Completion::NamespaceReady { .. } => Said::Ready,
        Completion::Draining => Said::Draining,
        Completion::Events { batch } => Said::Events(batch.map(<[u8]>::to_vec)),
        Completion::LookupPending { .. } => Said::Pending,
        Completion::Abort { .. } | Completion::Reset { .. } | Completion::Counters { .. } => Said::Other,
    }
}

/// A whole engine: its scheduler and its one worker, both told their namespace.
pub(crate) struct Pair {
    pub(crate) scheduler: Client,
    pub(crate) worker: Client,
}

impl Pair {
    pub(crate) fn open(socket: &Path, engine_group: u8) -> Self {
        let mut scheduler = Client::open(socket, Role::Scheduler, engine_group);
        let mut worker = Client::open(socket, Role::Worker(Rank(0)), engine_group);
        assert_eq!(scheduler.hear(), Said::Ready);
        assert_eq!(worker.hear(), Said::Ready);
        Self { scheduler, worker }
    }

    /// An engine of a tenant, with blocks of this size.
    pub(crate) fn open_with(socket: &Path, engine_group: u8, tenant: &str, block_bytes: u64) -> Self {
        Self::open_model(socket, engine_group, tenant, block_bytes, "m")
    }

    /// The same of another model.
    pub(crate) fn open_model(
        socket: &Path,
        engine_group: u8,
        tenant: &str,
        block_bytes: u64,
        model: &str,
    ) -> Self {
        Self::open_changed(socket, engine_group, |request| {
            tenant.clone_into(&mut request.tenant);
            request.fields[0].value = model.into();
            if matches!(request.role, Role::Worker(_)) {
                request.groups[0].rank_bytes = block_bytes;
            }
        })
    }

    /// An engine whose two requests are changed before they are sent.
    pub(crate) fn open_changed(socket: &Path, engine_group: u8, change: impl Fn(&mut AttachRequest)) -> Self {
        let open = |role| {
            let mut request = request(role, engine_group);
            change(&mut request);
            Client::try_open(socket, &request).unwrap()
        };
        let (mut scheduler, mut worker) = (open(Role::Scheduler), open(Role::Worker(Rank(0))));
        assert_eq!(scheduler.hear(), Said::Ready);
        assert_eq!(worker.hear(), Said::Ready);
        Self { scheduler, worker }
    }

    /// Stores blocks; says how many were published.
    pub(crate) fn store(&mut self, numbers: std::ops::Range<u32>) -> u32 {
        let slots = self.scheduler.reserve(numbers);
        let slots: Vec<SlotRef> = slots.into_iter().filter(|slot| slot.page != 0).collect();
        match self.worker.seal(&slots) {
            Said::Sealed { published, .. } => published,
            other => panic!("want a seal's answer, got {other:?}"),
        }
    }

    pub(crate) fn close(self) {
        self.scheduler.close();
        self.worker.close();
    }
}
