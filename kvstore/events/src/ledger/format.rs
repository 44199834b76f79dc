//! The bytes of the ledger (`LEDGER.md`). No I/O.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use kvstore_types::{AttentionKind, BlockHash, GroupIndex, NamespaceId};
use xxhash_rust::xxh3::xxh3_64;

use crate::book::{INHERITED, Inheritance, InheritedSpace, Topic, is_topic};
use crate::feed::{GroupShape, NamespaceShape};
use crate::tiers::TierSet;

const MAGIC: [u8; 8] = *b"KVTLEDGR";
const VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 16;
pub(super) const BATCH_HEADER_BYTES: usize = 32;
/// Groups of a namespace of which nobody has said what it looks like.
const GROUPS_UNKNOWN: u16 = u16::MAX;

const MEDIA: u8 = 1;
const SPACE: u8 = 2;
const NAME: u8 = 3;
const NAME_GONE: u8 = 4;
const CAME: u8 = 5;
const WENT: u8 = 6;
const OWED: u8 = 7;

/// What a file begins with.
pub(super) fn header() -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header
}

/// What is said of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum BlockNote {
    /// It is announced.
    Came = CAME,
    /// It no longer is.
    Went = WENT,
    /// It is not, and somebody may believe in it.
    Owed = OWED,
}

/// A batch that is being made.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Records in it.
    pub(super) records: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; BATCH_HEADER_BYTES],
            records: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.truncate(BATCH_HEADER_BYTES);
        self.bytes.shrink_to(1 << 20);
        self.records = 0;
    }

    /// Bytes so far, those of its header counted.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn media(&mut self, names: &[String; 3]) {
        self.begin(MEDIA);
        for name in names {
            self.text(name);
        }
    }

    pub(super) fn space(
        &mut self,
        number: u32,
        tenant: u16,
        id: NamespaceId,
        shape: Option<&NamespaceShape>,
    ) {
        self.begin(SPACE);
        self.put(&number.to_le_bytes());
        self.put(&tenant.to_le_bytes());
        self.put(&id.0);
        let groups = shape.map(|shape| shape.groups.as_slice());
        let count = groups.map_or(GROUPS_UNKNOWN, |groups| {
            // There are 256 at most.
            u16::try_from(groups.len()).unwrap_or(GROUPS_UNKNOWN - 1)
        });
        self.put(&count.to_le_bytes());
        for group in groups.unwrap_or_default().iter().take(usize::from(count)) {
            let window = match group.kind {
                AttentionKind::Full => 0,
                AttentionKind::SlidingWindow { window_tokens } => window_tokens,
            };
            self.put(&group.tokens_per_block.to_le_bytes());
            self.put(&window.to_le_bytes());
        }
    }

    /// `is_told`: something is announced under it; else everything has been taken back.
    pub(super) fn name(&mut self, number: u32, topic: &Topic, is_told: bool) {
        self.begin(if is_told { NAME } else { NAME_GONE });
        self.put(&number.to_le_bytes());
        self.put(&[topic.tiers.bits()]);
        self.text(&topic.name);
    }

    pub(super) fn block(&mut self, note: BlockNote, number: u32, group: GroupIndex, hash: &BlockHash) {
        self.begin(note as u8);
        self.put(&number.to_le_bytes());
        self.put(&[group.0]);
        self.put(&hash.0);
    }

    /// The whole batch. `end`: the number of the change behind its last; `heard`: those before it have arrived.
    pub(super) fn seal(&mut self, end: u64, heard: u64) -> &[u8] {
        let body = u32::try_from(self.bytes.len() - BATCH_HEADER_BYTES).unwrap_or(u32::MAX);
        self.bytes[8..12].copy_from_slice(&body.to_le_bytes());
        self.bytes[16..24].copy_from_slice(&end.to_le_bytes());
        self.bytes[24..32].copy_from_slice(&heard.to_le_bytes());
        let checksum = xxh3_64(&self.bytes[8..]);
        self.bytes[..8].copy_from_slice(&checksum.to_le_bytes());
        &self.bytes
    }

    fn begin(&mut self, kind: u8) {
        self.records += 1;
        self.bytes.push(kind);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        // Names are checked: 512 bytes for each part at most.
        let bytes = &text.as_bytes()[..text.len().min(usize::from(u16::MAX))];
        self.put(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes());
        self.put(bytes);
    }
}

/// Why nothing can be made of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it is no ledger")]
    NotALedger,
    #[error("its version is {0}, want {VERSION}")]
    Version(u32),
    #[error("the media had other names then")]
    Media,
}

/// What a ledger says.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) inheritance: Inheritance,
    /// Bytes at the end that are no complete batch.
    pub(super) torn_bytes: usize,
}

/// Reads a ledger. `media`: what the tiers are called now.
pub(super) fn read(bytes: &[u8], media: &[String; 3]) -> Result<Contents, Unusable> {
    let mut fields = Fields(bytes);
    if fields.take(8) != Some(&MAGIC[..]) {
        return Err(Unusable::NotALedger);
    }
    match (fields.u32(), fields.u32()) {
        (Some(VERSION), Some(0)) => {}
        (Some(VERSION) | None, _) => return Err(Unusable::NotALedger),
        (Some(other), _) => return Err(Unusable::Version(other)),
    }
    let mut replay = Replay::default();
    let mut rest = fields.0;
    while let Some((batch, behind)) = next_batch(rest) {
        match replay.take(&batch, media) {
            Ok(()) => rest = behind,
            Err(Nonsense::Media) => return Err(Unusable::Media),
            Err(Nonsense::Record) => break,
        }
    }
    Ok(Contents {
        inheritance: replay.inheritance(),
        torn_bytes: rest.len(),
    })
}

/// A batch that is whole.
struct WholeBatch<'a> {
    end: u64,
    heard: u64,
    records: &'a [u8],
}

fn next_batch(bytes: &[u8]) -> Option<(WholeBatch<'_>, &[u8])> {
    let mut fields = Fields(bytes);
    let checksum = fields.u64()?;
    let checked = fields.0;
    let (body, zero, end, heard) = (fields.u32()?, fields.u32()?, fields.u64()?, fields.u64()?);
    let records = fields.take(usize::try_from(body).ok()?)?;
    let covered = checked.get(..BATCH_HEADER_BYTES - 8 + records.len())?;
    let batch = WholeBatch { end, heard, records };
    (zero == 0 && xxh3_64(covered) == checksum).then_some((batch, fields.0))
}

/// Why a batch that is whole says nothing.
enum Nonsense {
    Media,
    Record,
}

/// Number of the namespace, group, hash.
type Block = (u32, GroupIndex, BlockHash);

/// What has been said so far.
#[derive(Debug, Default)]
struct Replay {
    spaces: HashMap<u32, (NamespaceId, Option<Arc<NamespaceShape>>)>,
    names: HashSet<(u32, TierSet, String)>,
    announced: HashSet<Block>,
    owed: HashSet<Block>,
    /// Those that went, by the ends of their batches; not certain to have arrived.
    went: VecDeque<(u64, Vec<Block>)>,
}

impl Replay {
    fn take(&mut self, batch: &WholeBatch<'_>, media: &[String; 3]) -> Result<(), Nonsense> {
        let mut fields = Fields(batch.records);
        let mut went = Vec::new();
        while let Some(kind) = fields.u8() {
            if kind == MEDIA {
                let is_same =
                    |name: &String| fields.text().is_some_and(|then| then.eq_ignore_ascii_case(name));
                if !media.iter().all(is_same) {
                    return Err(Nonsense::Media);
                }
                continue;
            }
            self.record(kind, &mut fields, &mut went)
                .ok_or(Nonsense::Record)?;
        }
        if !went.is_empty() {
            self.went.push_back((batch.end, went));
        }
        while self.went.front().is_some_and(|(end, _)| *end <= batch.heard) {
            self.went.pop_front();
        }
        Ok(())
    }

    fn record(&mut self, kind: u8, fields: &mut Fields<'_>, went: &mut Vec<Block>) -> Option<()> {
        let number = fields.u32()?;
        match kind {
            SPACE => {
                fields.u16()?;
                let id = NamespaceId(fields.array()?);
                let shape = match fields.u16()? {
                    GROUPS_UNKNOWN => None,
                    count => Some(fields.shape(id, count)?),
                };
                self.spaces.insert(number, (id, shape));
            }
            NAME | NAME_GONE => {
                let tiers = TierSet::from_bits(fields.u8()?)?;
                let name = (number, tiers, fields.text()?.to_owned());
                if !is_topic(&name.2) || !self.spaces.contains_key(&number) {
                    return None;
                }
                if kind == NAME {
                    self.names.insert(name);
                } else {
                    self.names.remove(&name);
                }
            }
            CAME | WENT | OWED => {
                let block = (number, GroupIndex(fields.u8()?), BlockHash(fields.array()?));
                match kind {
                    CAME => drop(self.announced.insert(block)),
                    OWED => drop(self.owed.insert(block)),
                    _ => {
                        self.announced.remove(&block);
                        went.push(block);
                    }
                }
            }
            _ => return None,
        }
        Some(())
    }

    /// Everything that somebody may believe in.
    fn inheritance(self) -> Inheritance {
        let mut names = BTreeSet::new();
        let mut spaces: HashMap<NamespaceId, InheritedSpace> = HashMap::new();
        let mut named: HashMap<u32, NamespaceId> = HashMap::new();
        for (number, tiers, name) in self.names {
            let Some((id, shape)) = self.spaces.get(&number) else {
                continue;
            };
            names.insert(Topic {
                is_partial: tiers != TierSet::ALL,
                name: name.into(),
                tenant: INHERITED,
                namespace: *id,
                tiers,
            });
            named.insert(number, *id);
            let space = spaces.entry(*id).or_default();
            space.shape = space.shape.take().or_else(|| shape.clone());
        }
        let went = self.went.into_iter().flat_map(|(_, blocks)| blocks);
        for (number, group, hash) in self.announced.into_iter().chain(self.owed).chain(went) {
            let space = named.get(&number).and_then(|id| spaces.get_mut(id));
            if let Some(space) = space {
                space.blocks.push((group, hash));
            }
        }
        Inheritance::new(names, spaces)
    }
}

/// Bytes that are read from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let count = self.u16()?;
        std::str::from_utf8(self.take(usize::from(count))?).ok()
    }

    fn shape(&mut self, namespace: NamespaceId, groups: u16) -> Option<Arc<NamespaceShape>> {
        let group = |_| {
            let (tokens_per_block, window_tokens) = (self.u32()?, self.u32()?);
            let kind = match window_tokens {
                0 => AttentionKind::Full,
                window_tokens => AttentionKind::SlidingWindow { window_tokens },
            };
            Some(GroupShape {
                kind,
                tokens_per_block,
            })
        };
        let groups = (0..groups).map(group).collect::<Option<Vec<_>>>()?;
        Some(Arc::new(NamespaceShape {
            namespace,
            model: None,
            groups,
        }))
    }
}
