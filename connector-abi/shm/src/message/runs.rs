//! The descriptors of a reservation's blocks: runs, in the order of its keys.

use kvstore_types::{BlockHash, DescriptorRun};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Keys, MessageError};
use crate::Writer;

const HAS_PARENT: u32 = 1;
const HAS_LORA: u32 = 2;

/// What a run consists of, as it lies in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct RunHead {
    blocks: u32,
    tokens_per_block: u32,
    lora_bytes: u32,
    extra_bytes: u32,
    flags: u32,
    zero: u32,
    parent: [u8; 32],
}

const _: () = assert!(size_of::<RunHead>() == 56);

/// Runs that cover all keys of a reservation, none of them keys of two groups: somebody's slices (to be sent) or one
/// run of tokens (as received).
#[derive(Clone, Copy, Debug)]
pub struct Runs<'a>(Form<'a>);

#[derive(Clone, Copy, Debug)]
enum Form<'a> {
    Parts(&'a [DescriptorRun<'a>]),
    Packed {
        heads: &'a [RunHead],
        tokens: &'a [u32],
        texts: &'a [u8],
    },
}

impl<'a> Runs<'a> {
    /// Runs to be sent, which cover the keys they are sent with. They are copied once, into the ring.
    pub const fn new(parts: &'a [DescriptorRun<'a>]) -> Self {
        Self(Form::Parts(parts))
    }

    /// Whether each key lies in exactly one run, and each run in one group.
    pub fn cover(&self, keys: &Keys<'_>) -> bool {
        cover(self.iter().map(|run| run.blocks), keys)
    }

    /// Number of runs.
    pub const fn len(&self) -> usize {
        match self.0 {
            Form::Parts(parts) => parts.len(),
            Form::Packed { heads, .. } => heads.len(),
        }
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The runs in order.
    pub fn iter(&self) -> impl Iterator<Item = DescriptorRun<'a>> + use<'a> {
        let (parts, heads, mut tokens, mut texts) = match self.0 {
            Form::Parts(parts) => (parts, &[][..], &[][..], &[][..]),
            Form::Packed { heads, tokens, texts } => (&[][..], heads, tokens, texts),
        };
        let packed = heads.iter().map(move |head| {
            let name = take(&mut texts, head.lora_bytes as usize);
            DescriptorRun {
                blocks: head.blocks,
                tokens_per_block: head.tokens_per_block,
                parent: (head.flags & HAS_PARENT != 0).then_some(BlockHash(head.parent)),
                tokens: take(
                    &mut tokens,
                    usize::try_from(head.token_count()).unwrap_or(usize::MAX),
                ),
                // Decoding has seen that it is UTF-8.
                lora_name: (head.flags & HAS_LORA != 0).then(|| str::from_utf8(name).unwrap_or_default()),
                extra_keys: take(&mut texts, head.extra_bytes as usize),
            }
        });
        parts.iter().copied().chain(packed)
    }

    /// Bytes in a message.
    pub(super) fn wire_bytes(&self) -> usize {
        let bytes = |run: DescriptorRun<'_>| {
            let name = run.lora_name.unwrap_or_default();
            size_of::<RunHead>() + size_of_val(run.tokens) + name.len() + run.extra_keys.len()
        };
        self.iter().map(bytes).sum()
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        self.iter()
            .for_each(|run| writer.write(RunHead::of(&run).as_bytes()));
        self.iter().for_each(|run| writer.write(run.tokens.as_bytes()));
        for run in self.iter() {
            writer.write(run.lora_name.unwrap_or_default().as_bytes());
            writer.write(run.extra_keys);
        }
    }

    /// Reads what stands behind `keys` in a payload whose length has not been checked: `heads` and the rest behind them.
    /// The number says how many bytes of `rest` there have to be.
    pub(super) fn measure(op: &'static str, heads: &[RunHead], keys: &Keys<'_>) -> Result<u64, MessageError> {
        let field = |field, actual: u32, expected| {
            Err(MessageError::Field {
                op,
                field,
                actual: actual.into(),
                expected,
            })
        };
        let mut bytes = 0_u64;
        for head in heads {
            if head.blocks == 0 {
                return field("the length of a run", 0, "1 or more");
            }
            if head.flags & !(HAS_PARENT | HAS_LORA) != 0 {
                return field("the flags of a run", head.flags, "0 to 3");
            }
            if head.zero != 0 {
                return field("the padding of a run", head.zero, "0");
            }
            if head.flags & HAS_LORA == 0 && head.lora_bytes != 0 {
                return field(
                    "the length of a LoRA name that is not there",
                    head.lora_bytes,
                    "0",
                );
            }
            if head.flags & HAS_PARENT == 0 && head.parent != [0; 32] {
                return field("a parent that is not there", head.parent[0].into(), "32 zeroes");
            }
            let is_empty = head.flags == 0 && head.extra_bytes == 0;
            if head.tokens_per_block == 0 && !is_empty {
                return field("the number of tokens a block of a described run", 0, "1 or more");
            }
            let texts = u64::from(head.lora_bytes) + u64::from(head.extra_bytes);
            let tokens = head.token_count().saturating_mul(size_of::<u32>() as u64);
            bytes = bytes.saturating_add(texts).saturating_add(tokens);
        }
        if !cover(heads.iter().map(|head| head.blocks), keys) {
            let blocks: u64 = heads.iter().map(|head| u64::from(head.blocks)).sum();
            return Err(MessageError::Field {
                op,
                field: "the number of blocks in runs",
                actual: blocks,
                expected: "as many as there are keys, and none in a run across two groups",
            });
        }
        Ok(bytes)
    }

    /// Runs as received, measured before. Where a name is not UTF-8 the answer is none.
    pub(super) fn packed(heads: &'a [RunHead], tokens: &'a [u32], texts: &'a [u8]) -> Option<Self> {
        let mut rest = texts;
        let is_text = heads.iter().all(|head| {
            let name = take(&mut rest, head.lora_bytes as usize);
            take(&mut rest, head.extra_bytes as usize);
            str::from_utf8(name).is_ok()
        });
        is_text.then_some(Self(Form::Packed { heads, tokens, texts }))
    }
}

impl RunHead {
    fn of(run: &DescriptorRun<'_>) -> Self {
        // Lengths beyond 32 bits are larger than any ring, so such a message is refused as too large.
        let length = |bytes: &[u8]| super::count_of(bytes);
        let flags = if run.parent.is_some() { HAS_PARENT } else { 0 }
            | if run.lora_name.is_some() { HAS_LORA } else { 0 };
        Self {
            blocks: run.blocks,
            tokens_per_block: run.tokens_per_block,
            lora_bytes: length(run.lora_name.unwrap_or_default().as_bytes()),
            extra_bytes: length(run.extra_keys),
            flags,
            zero: 0,
            parent: run.parent.map_or([0; 32], |parent| parent.0),
        }
    }

    /// Tokens of all its blocks.
    pub(super) fn token_count(&self) -> u64 {
        u64::from(self.blocks) * u64::from(self.tokens_per_block)
    }
}

/// Whether runs of these lengths cover the keys, none of them keys of two groups.
fn cover(runs: impl Iterator<Item = u32>, keys: &Keys<'_>) -> bool {
    let mut groups = keys.groups().map(|group| group.hashes.len() as u64);
    let mut left = 0;
    for blocks in runs {
        while left == 0 {
            let Some(next) = groups.next() else { return false };
            left = next;
        }
        match left.checked_sub(blocks.into()) {
            Some(rest) => left = rest,
            None => return false,
        }
    }
    left == 0 && groups.all(|hashes| hashes == 0)
}

/// The first `count` of what is left; all of it where that is less.
fn take<'a, T>(rest: &mut &'a [T], count: usize) -> &'a [T] {
    let (taken, tail) = rest.split_at(count.min(rest.len()));
    *rest = tail;
    taken
}

impl PartialEq for Runs<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Runs<'_> {}
