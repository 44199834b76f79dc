//! An engine that does what it is told: for tests in other languages (`tests/llmd`), through `kvt-drive`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use kvstore_types::{
    AttentionKind, BlockHash, DescriptorRun, EngineGroupId, Field, GroupGeometry, NamespaceId, Rank, SlotRef,
};
use kvtier::client::{Completion, GroupKeys, Reattach, Role, Session, SessionOptions, SessionState};
use kvtier::hash::BlockHashes;
use serde::{Deserialize, Serialize};

/// Nothing here takes nearly as long; this only ends a test that would hang.
const WATCHDOG: Duration = Duration::from_mins(1);

/// What went wrong, for people.
pub type Problem = Box<dyn std::error::Error>;

/// What an engine is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Model, and the name it is served under; engines of one model find each other's blocks.
    pub model: String,
    /// Where routers find the engine: `127.0.0.1:8000`.
    pub pod: String,
    /// Tokens of one block.
    pub tokens_per_block: NonZeroUsize,
    /// Bytes of one block.
    pub block_bytes: u64,
    /// Groups: 0 attends to everything, any other number is the window in tokens.
    pub windows: Vec<u32>,
}

/// A sequence of tokens: `first`, `first + 1` and so on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequence {
    /// The first token.
    pub first: u32,
    /// How many there are.
    pub count: u32,
    /// The adapter.
    pub lora: Option<String>,
}

/// What became of blocks that were to be stored.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Stored {
    /// Found from now on because of this.
    pub published: u32,
    /// There already.
    pub present: u32,
    /// Without room.
    pub dropped: u32,
}

/// What a load found.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Loaded {
    /// Length of the hit.
    pub hit_tokens: u64,
    /// Blocks of it that were leased and given back.
    pub leased: u32,
    /// Blocks of it that were gone before they could be.
    pub lost: u32,
}

/// An engine of one worker, attached.
#[derive(Debug)]
pub struct Attached {
    engine: Engine,
    scheduler: Session,
    worker: Session,
    tag: u64,
}

impl Attached {
    /// Attaches scheduler and worker, and waits until the namespace is known.
    pub fn new(engine: Engine) -> Result<Self, Problem> {
        let mut group = [0; 16];
        group[..4].copy_from_slice(&std::process::id().to_le_bytes());
        let session = |role| Session::open(options(&engine, role, EngineGroupId(group)));
        let (mut scheduler, mut worker) = (session(Role::Scheduler)?, session(Role::Worker(Rank(0)))?);
        for session in [&mut scheduler, &mut worker] {
            while session.info().state != SessionState::Ready {
                if !session.wait(WATCHDOG)? {
                    return Err("the session was not ready in time".into());
                }
            }
        }
        Ok(Self {
            engine,
            scheduler,
            worker,
            tag: 0,
        })
    }

    /// Stores all whole blocks of a sequence in every group, and says what they are about. Their bytes are what the slots
    /// held before.
    pub fn store(&mut self, sequence: &Sequence) -> Result<Stored, Problem> {
        let hashes = self.hashes(sequence)?;
        let tag = self.next_tag();
        let tokens = sequence.tokens()?;
        let run = self.describe(sequence, &tokens);
        if run.blocks == 0 {
            return Ok(Stored::default());
        }
        self.scheduler
            .reserve_described(tag, &groups(&hashes), &vec![run; hashes.len()])?;
        let mut stored = Stored::default();
        let slots = answer(&mut self.scheduler, |completion| match completion {
            Completion::Reserve { tag: got, grants } if got.0 == tag => Some(grants.to_vec()),
            _ => None,
        })?;
        let slots: Vec<SlotRef> = slots.into_iter().filter(|slot| stored.count(*slot)).collect();
        if slots.is_empty() {
            return Ok(stored);
        }
        self.worker.seal(tag, &slots)?;
        stored.published = answer(&mut self.worker, |completion| match completion {
            Completion::Seal {
                tag: got, published, ..
            } if got.0 == tag => Some(published),
            _ => None,
        })?;
        Ok(stored)
    }

    /// Looks a sequence up, leases what is there and gives it back at once.
    pub fn load(&mut self, sequence: &Sequence) -> Result<Loaded, Problem> {
        let hashes = self.hashes(sequence)?;
        let tag = self.next_tag();
        self.scheduler
            .lookup(tag, &groups(&hashes), u64::from(sequence.count))?;
        let (hit_tokens, spans) = answer(&mut self.scheduler, |completion| match completion {
            Completion::Lookup {
                tag: got,
                hit_tokens,
                spans,
                ..
            } if got.0 == tag => Some((hit_tokens, spans.to_vec())),
            _ => None,
        })?;
        if spans.is_empty() {
            self.scheduler.release_lookup(tag)?;
            return Ok(Loaded {
                hit_tokens,
                leased: 0,
                lost: 0,
            });
        }
        let lease = self.next_tag();
        self.scheduler.commit_load(tag, lease, &spans)?;
        let (granted, lost) = answer(&mut self.scheduler, |completion| match completion {
            Completion::Load {
                lease: got,
                lost,
                grants,
            } if got.0 == lease => Some((grants.len(), lost)),
            _ => None,
        })?;
        self.scheduler.release_lease(lease)?;
        Ok(Loaded {
            hit_tokens,
            leased: u32::try_from(granted)? - lost,
            lost,
        })
    }

    /// Leaves the namespace, as an engine does whose weights changed.
    pub fn reset(&mut self) -> Result<(), Problem> {
        let tag = self.next_tag();
        self.scheduler.reset(tag)?;
        answer(&mut self.scheduler, |completion| {
            matches!(completion, Completion::Reset { tag: got, .. } if got.0 == tag).then_some(())
        })
    }

    /// The daemon's counters.
    pub fn counters(&mut self) -> Result<serde_json::Value, Problem> {
        let tag = self.next_tag();
        self.scheduler.request_counters(tag)?;
        let json = answer(&mut self.scheduler, |completion| match completion {
            Completion::Counters { tag: got, json } if got.0 == tag => Some(json.to_owned()),
            _ => None,
        })?;
        Ok(serde_json::from_str(&json)?)
    }

    /// Says good-bye.
    pub fn detach(self) {
        self.scheduler.close();
        self.worker.close();
    }

    /// All whole blocks of a sequence from its start on, as one run.
    fn describe<'a>(&self, sequence: &'a Sequence, tokens: &'a [u32]) -> DescriptorRun<'a> {
        let size = self.engine.tokens_per_block.get();
        let blocks = tokens.len() / size;
        let count = |number| u32::try_from(number).unwrap_or(u32::MAX);
        DescriptorRun {
            blocks: count(blocks),
            tokens_per_block: count(size),
            parent: None,
            tokens: &tokens[..blocks * size],
            lora_name: sequence.lora.as_deref(),
            extra_keys: &[],
        }
    }

    fn next_tag(&mut self) -> u64 {
        self.tag += 1;
        self.tag
    }

    /// The chain of hashes for each group. It does not depend on the namespace, so that engines of another session find
    /// what this one has stored; the daemon's keys do.
    fn hashes(&self, sequence: &Sequence) -> Result<Vec<Vec<BlockHash>>, Problem> {
        let tokens = sequence.tokens()?;
        let extra = sequence.lora.as_deref().unwrap_or("").as_bytes();
        let root = BlockHash([0; 32]);
        let size = self.engine.tokens_per_block;
        let chain: Vec<BlockHash> =
            BlockHashes::new(NamespaceId([0; 16]), root, &tokens, size, extra).collect();
        Ok(vec![chain; self.engine.windows.len()])
    }
}

impl Sequence {
    fn tokens(&self) -> Result<Vec<u32>, Problem> {
        let end = self.first.checked_add(self.count);
        Ok((self.first..end.ok_or("the sequence has tokens beyond 32 bits")?).collect())
    }
}

impl Stored {
    /// Whether a grant is a slot; counts what it is else.
    fn count(&mut self, grant: SlotRef) -> bool {
        use kvtier::client::GrantReason;
        if grant.page != 0 {
            return true;
        }
        let is_there = [GrantReason::AlreadyPresent, GrantReason::Filling]
            .iter()
            .any(|reason| grant == reason.to_wire());
        *if is_there {
            &mut self.present
        } else {
            &mut self.dropped
        } += 1;
        false
    }
}

fn options(engine: &Engine, role: Role, group: EngineGroupId) -> SessionOptions {
    let geometry = |window: &u32| GroupGeometry {
        kind: match *window {
            0 => AttentionKind::Full,
            window_tokens => AttentionKind::SlidingWindow { window_tokens },
        },
        tokens_per_block: u32::try_from(engine.tokens_per_block.get()).unwrap_or(u32::MAX),
        rank_bytes: if role == Role::Scheduler {
            0
        } else {
            engine.block_bytes
        },
    };
    SessionOptions {
        socket_path: Some(engine.socket.clone()),
        reattach: Reattach::Never,
        fields: vec![Field {
            tag: "model.id".into(),
            value: engine.model.clone().into_bytes(),
        }],
        groups: engine.windows.iter().map(geometry).collect(),
        pod: engine.pod.clone(),
        model: engine.model.clone(),
        ..SessionOptions::engine("kvt-drive 1", role, 1, group)
    }
}

fn groups(hashes: &[Vec<BlockHash>]) -> Vec<GroupKeys<'_>> {
    (0..)
        .zip(hashes)
        .map(|(group, hashes)| GroupKeys { group, hashes })
        .collect()
}

/// Waits for the one answer that is wanted.
fn answer<T>(
    session: &mut Session,
    mut wanted: impl FnMut(Completion<'_>) -> Option<T>,
) -> Result<T, Problem> {
    loop {
        if let Some(completion) = session.poll()? {
            if let Some(answer) = wanted(completion) {
                return Ok(answer);
            }
        } else if !session.wait(WATCHDOG)? {
            return Err("the daemon did not answer in time".into());
        }
    }
}
