//! Batches of events, as vLLM publishes them.
//!
//! ```text
//! batch   = [ seconds since 1970 (float), [ event* ], data parallel rank (nil) ]
//! stored  = [ "BlockStored", [ hash* ], parent hash | nil, [ token* ], tokens per block, LoRA id (nil), medium,
//!             LoRA name | nil, [ extra keys | nil ]* | nil, group, kind of group, window | nil ]
//! removed = [ "BlockRemoved", [ hash* ], medium, group ]
//! cleared = [ "AllBlocksCleared" ]
//! ```
//!
//! A hash is 32 bytes of binary. Group and what follows are left out where there is one group of full attention, because
//! routers index blocks without a group best. With [`Encoding::Map`] an event is a map with the same values under vLLM's
//! names, the tag under `type`, and the locality of the medium beside it.
//!
//! Consecutive blocks of one chain that differ in nothing else are one event: hashes and tokens are lists. A block of ours
//! may be several of the engine's; extra keys have an entry for each of those, because routers deal the entries out evenly
//! over the tokens.

use kvstore_types::{AttentionKind, BlockHash, DescriptorBytes, DescriptorView, GroupIndex, PackedTokens};

use super::media::{Media, Medium};
use super::mix::Mix;
use super::msgpack::Writer;
use crate::feed::NamespaceShape;
use crate::tiers::TierSet;

/// The form of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Encoding {
    /// Values by position: every consumer understands it.
    #[default]
    Array,
    /// Values by name, as vLLM writes them since 0.26.
    Map,
}

/// One thing that is told: a block came into a medium, or left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) medium: Medium,
    pub(crate) group: GroupIndex,
    pub(crate) hash: BlockHash,
    /// What it is about, if it came.
    pub(crate) stored: Option<DescriptorBytes>,
}

/// All that a batch's events have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style<'a> {
    pub(crate) encoding: Encoding,
    pub(crate) media: &'a Media,
    /// The tiers of the identity that speaks.
    pub(crate) tiers: TierSet,
    pub(crate) shape: Option<&'a NamespaceShape>,
    pub(crate) mix: Mix,
}

/// Appends a batch to `out`; returns how many blocks it leaves out because what was said of them does not fit their
/// namespace.
pub(crate) fn encode_batch(seconds: f64, told: &[Told], style: Style<'_>, out: &mut Vec<u8>) -> u64 {
    let mut body = Batch::begin(seconds, out);
    let mut left_out = 0;
    let mut blocks = Vec::new();
    let mut rest = told;
    while let Some(first) = rest.first() {
        if first.stored.is_none() {
            let count = rest.iter().take_while(|other| is_like(first, other)).count();
            let (these, others) = rest.split_at(count);
            style.removed(body.event(), first, these);
            rest = others;
        } else {
            blocks.clear();
            let run = Run::of(rest, style, &mut blocks);
            if let Some(run) = &run {
                style.stored(body.event(), first, run, &blocks);
            }
            left_out += u64::from(run.is_none());
            rest = &rest[blocks.len().max(1)..];
        }
    }
    body.end();
    left_out
}

/// Appends a batch that says that all blocks are gone, from every medium and under every model's name.
pub(crate) fn cleared_batch(seconds: f64, encoding: Encoding, out: &mut Vec<u8>) {
    let mut batch = Batch::begin(seconds, out);
    let body = batch.event();
    match encoding {
        Encoding::Array => body.array(1),
        Encoding::Map => {
            body.map(1);
            body.text("type");
        }
    }
    body.text("AllBlocksCleared");
    batch.end();
}

/// Appends a batch that says nothing.
pub(crate) fn empty_batch(seconds: f64, out: &mut Vec<u8>) {
    Batch::begin(seconds, out).end();
}

/// Most bytes that the number of events takes.
const COUNT_BYTES_MAX: usize = 5;

/// A batch that is being written where it is to be. How many events it has is known last and stands first.
struct Batch<'a> {
    writer: Writer<'a>,
    /// Where the events begin. Before them is room for their number.
    start: usize,
    events: usize,
}

impl<'a> Batch<'a> {
    fn begin(seconds: f64, out: &'a mut Vec<u8>) -> Self {
        let mut writer = Writer::new(out);
        writer.array(3);
        writer.float(seconds);
        writer.raw(&[0; COUNT_BYTES_MAX]);
        Self {
            start: writer.bytes.len(),
            writer,
            events: 0,
        }
    }

    /// Where the next event is written.
    fn event(&mut self) -> &mut Writer<'a> {
        self.events += 1;
        &mut self.writer
    }

    fn end(mut self) {
        self.writer.nil();
        let mut count = Vec::with_capacity(COUNT_BYTES_MAX);
        Writer::new(&mut count).array(self.events);
        let room = self.start - COUNT_BYTES_MAX;
        self.writer.bytes.splice(room..self.start, count);
    }
}

/// Whether both came or both left, in the same medium and group.
fn is_like(one: &Told, other: &Told) -> bool {
    one.stored.is_some() == other.stored.is_some() && one.medium == other.medium && one.group == other.group
}

/// Blocks of one chain that are told together.
struct Run<'a> {
    parent: Option<BlockHash>,
    lora_name: Option<&'a str>,
    tokens_per_block: usize,
    /// Entries that each block has in the extra keys; 0: no block has any.
    entries: usize,
}

/// A block of a run.
struct RunBlock<'a> {
    hash: &'a BlockHash,
    tokens: PackedTokens<'a>,
    entries: Entries<'a>,
}

impl<'a> Run<'a> {
    /// The longest run from the start on, its blocks appended to `blocks`; none if not even the first block can be told.
    fn of(told: &'a [Told], style: Style<'_>, blocks: &mut Vec<RunBlock<'a>>) -> Option<Self> {
        let first = told.first()?;
        let descriptor = style.descriptor(first)?;
        let mut run = Self {
            parent: descriptor.parent,
            lora_name: descriptor.lora_name,
            tokens_per_block: descriptor.tokens.len(),
            entries: 0,
        };
        blocks.push(run.add(&first.hash, descriptor));
        let mut last = &first.hash;
        for next in told.iter().skip(1).take_while(|next| is_like(first, next)) {
            match style.descriptor(next) {
                Some(descriptor)
                    if descriptor.parent.as_ref() == Some(last)
                        && descriptor.lora_name == run.lora_name
                        && descriptor.tokens.len() == run.tokens_per_block
                        && run.takes(Entries::of(descriptor.extra_keys)) =>
                {
                    blocks.push(run.add(&next.hash, descriptor));
                    last = &next.hash;
                }
                _ => break,
            }
        }
        Some(run)
    }

    /// Whether a block with these entries has as many as the others, or one of the two has none.
    fn takes(&self, entries: Entries<'_>) -> bool {
        self.entries == 0 || entries.count == 0 || entries.count == self.entries
    }

    fn add(&mut self, hash: &'a BlockHash, descriptor: DescriptorView<'a>) -> RunBlock<'a> {
        let entries = Entries::of(descriptor.extra_keys);
        self.entries = self.entries.max(entries.count);
        RunBlock {
            hash,
            tokens: descriptor.tokens,
            entries,
        }
    }
}

/// A block's extra keys: one MessagePack value for each of the engine's blocks in it.
#[derive(Clone, Copy, Debug)]
struct Entries<'a> {
    count: usize,
    bytes: &'a [u8],
}

impl<'a> Entries<'a> {
    /// What is inside of the array that a client has sent, which has been checked.
    fn of(extra_keys: &'a [u8]) -> Self {
        let (count, bytes) = match *extra_keys {
            [kind @ 0x90..=0x9f, ref bytes @ ..] => (usize::from(kind & 0x0f), bytes),
            [0xdc, a, b, ref bytes @ ..] | [0xdd, 0, 0, a, b, ref bytes @ ..] => {
                (usize::from(u16::from_be_bytes([a, b])), bytes)
            }
            // Nothing. A longer array has no room in a description.
            _ => (0, &[][..]),
        };
        Self { count, bytes }
    }
}

/// A group's number and kind.
type GroupSaid = Option<(u8, Option<AttentionKind>)>;

/// The group's number and kind, where they have to be said.
fn group_said(shape: Option<&NamespaceShape>, group: GroupIndex) -> GroupSaid {
    let kind = shape.and_then(|shape| Some(shape.groups.get(usize::from(group.0))?.kind));
    let groups = shape.map_or(1, |shape| shape.groups.len());
    let is_plain = groups == 1 && group.0 == 0 && !matches!(kind, Some(AttentionKind::SlidingWindow { .. }));
    (!is_plain).then_some((group.0, kind))
}

/// Whether routers take this group's blocks of both namespaces for the same: they keep apart blocks with a group from those
/// without.
pub(crate) fn is_one_group(
    one: Option<&NamespaceShape>,
    other: Option<&NamespaceShape>,
    group: GroupIndex,
) -> bool {
    group_said(one, group).is_some() == group_said(other, group).is_some()
}

/// Blocks that came, to be written.
#[derive(Clone, Copy)]
struct Stored<'a> {
    medium: Medium,
    group: GroupSaid,
    has_extra: bool,
    run: &'a Run<'a>,
    blocks: &'a [RunBlock<'a>],
}

impl Style<'_> {
    /// What a block is about, if it fits its namespace.
    fn descriptor<'a>(&self, told: &'a Told) -> Option<DescriptorView<'a>> {
        let descriptor = told.stored.as_ref()?.view().ok()?;
        let expected = self.group(told.group).map(|(_, tokens)| tokens);
        let fits = expected.is_none_or(|tokens| tokens as usize == descriptor.tokens.len());
        fits.then_some(descriptor)
    }

    fn group(&self, group: GroupIndex) -> Option<(AttentionKind, u32)> {
        let shape = self.shape?.groups.get(usize::from(group.0))?;
        Some((shape.kind, shape.tokens_per_block))
    }

    fn group_said(&self, group: GroupIndex) -> GroupSaid {
        group_said(self.shape, group)
    }

    fn stored(&self, out: &mut Writer<'_>, first: &Told, run: &Run<'_>, blocks: &[RunBlock<'_>]) {
        let event = Stored {
            medium: first.medium,
            group: self.group_said(first.group),
            has_extra: run.entries > 0,
            run,
            blocks,
        };
        match self.encoding {
            Encoding::Array => self.stored_array(out, &event),
            Encoding::Map => self.stored_map(out, &event),
        }
    }

    fn stored_array(&self, out: &mut Writer<'_>, event: &Stored<'_>) {
        let Stored {
            medium,
            group,
            has_extra,
            run,
            blocks,
        } = *event;
        // Values that are absent at the end are left out.
        let count = match group {
            Some(_) => 12,
            None => 8 + usize::from(has_extra),
        };
        out.array(count);
        out.text("BlockStored");
        self.hashes(out, blocks.iter().map(|block| block.hash));
        self.parent(out, run.parent);
        tokens(out, blocks);
        out.uint(run.tokens_per_block as u64);
        out.nil();
        out.text(self.media.name(medium));
        optional_text(out, run.lora_name);
        if count > 8 {
            extra_keys(out, event);
        }
        if let Some((index, kind)) = group {
            out.uint(u64::from(index));
            optional_text(out, kind.map(kind_name));
            window(out, kind);
        }
    }

    fn stored_map(&self, out: &mut Writer<'_>, event: &Stored<'_>) {
        let Stored {
            medium,
            group,
            has_extra,
            run,
            blocks,
        } = *event;
        let locality = self.media.locality(medium, self.tiers);
        let kind = group.and_then(|(_, kind)| kind);
        let has_window = matches!(kind, Some(AttentionKind::SlidingWindow { .. }));
        let optional = [
            has_extra,
            group.is_some(),
            kind.is_some(),
            has_window,
            locality.is_some(),
        ];
        out.map(8 + optional.iter().filter(|is_there| **is_there).count());
        out.text("type");
        out.text("BlockStored");
        out.text("block_hashes");
        self.hashes(out, blocks.iter().map(|block| block.hash));
        out.text("parent_block_hash");
        self.parent(out, run.parent);
        out.text("token_ids");
        tokens(out, blocks);
        out.text("block_size");
        out.uint(run.tokens_per_block as u64);
        out.text("lora_id");
        out.nil();
        out.text("medium");
        out.text(self.media.name(medium));
        out.text("lora_name");
        optional_text(out, run.lora_name);
        if has_extra {
            out.text("extra_keys");
            extra_keys(out, event);
        }
        if let Some((index, _)) = group {
            out.text("group_idx");
            out.uint(u64::from(index));
        }
        if let Some(kind) = kind {
            out.text("kv_cache_spec_kind");
            out.text(kind_name(kind));
        }
        if has_window {
            out.text("kv_cache_spec_sliding_window");
            window(out, kind);
        }
        put_locality(out, locality);
    }

    fn hashes<'b>(&self, out: &mut Writer<'_>, hashes: impl ExactSizeIterator<Item = &'b BlockHash>) {
        out.array(hashes.len());
        for hash in hashes {
            out.binary(&self.mix.apply(hash).0);
        }
    }

    fn parent(&self, out: &mut Writer<'_>, parent: Option<BlockHash>) {
        match parent {
            Some(hash) => out.binary(&self.mix.apply(&hash).0),
            None => out.nil(),
        }
    }

    fn removed(&self, out: &mut Writer<'_>, first: &Told, these: &[Told]) {
        let group = self.group_said(first.group).map(|(index, _)| index);
        let medium = self.media.name(first.medium);
        let gone = these.iter().map(|told| &told.hash);
        match self.encoding {
            Encoding::Array => {
                out.array(3 + usize::from(group.is_some()));
                out.text("BlockRemoved");
                self.hashes(out, gone);
                out.text(medium);
                if let Some(index) = group {
                    out.uint(u64::from(index));
                }
            }
            Encoding::Map => {
                let locality = self.media.locality(first.medium, self.tiers);
                out.map(3 + usize::from(group.is_some()) + usize::from(locality.is_some()));
                out.text("type");
                out.text("BlockRemoved");
                out.text("block_hashes");
                self.hashes(out, gone);
                out.text("medium");
                out.text(medium);
                if let Some(index) = group {
                    out.text("group_idx");
                    out.uint(u64::from(index));
                }
                put_locality(out, locality);
            }
        }
    }
}

/// vLLM's name of a kind of group.
fn kind_name(kind: AttentionKind) -> &'static str {
    match kind {
        AttentionKind::Full => "full_attention",
        AttentionKind::SlidingWindow { .. } => "sliding_window",
    }
}

fn window(out: &mut Writer<'_>, kind: Option<AttentionKind>) {
    match kind {
        Some(AttentionKind::SlidingWindow { window_tokens }) => out.uint(u64::from(window_tokens)),
        Some(AttentionKind::Full) | None => out.nil(),
    }
}

fn tokens(out: &mut Writer<'_>, blocks: &[RunBlock<'_>]) {
    out.array(blocks.iter().map(|block| block.tokens.len()).sum());
    for block in blocks {
        out.uints(block.tokens.iter());
    }
}

fn extra_keys(out: &mut Writer<'_>, event: &Stored<'_>) {
    if !event.has_extra {
        return out.nil();
    }
    let entries = event.run.entries;
    out.array(event.blocks.len() * entries);
    for block in event.blocks {
        if block.entries.count == 0 {
            for _ in 0..entries {
                out.nil();
            }
        } else {
            out.raw(block.entries.bytes);
        }
    }
}

fn put_locality(out: &mut Writer<'_>, locality: Option<&str>) {
    if let Some(locality) = locality {
        out.text("locality");
        out.text(locality);
    }
}

fn optional_text(out: &mut Writer<'_>, text: Option<&str>) {
    match text {
        Some(text) => out.text(text),
        None => out.nil(),
    }
}
