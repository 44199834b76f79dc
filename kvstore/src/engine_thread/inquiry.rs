//! What the admin API asks of an engine thread, and what it answers.
//!
//! Each question is a bounded piece of work: lists come in pages, evictions piece by piece.

use std::collections::BTreeMap;
use std::time::Instant;

use connector_shm::PeerCredentials;
use kvstore_engine::{
    Chain, Counters, Engine, EvictRange, Evicted, Histogram, KeepAsk, KeepRefusal, KeepView, Kept,
    NamespaceUsage, Occupancy, Residency, SessionUsage,
};
use kvstore_remote::Remover;
use kvstore_types::{BlockKey, NamespaceId, SessionId, Tier};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::nvme::DeviceView;
use crate::remote::RemoteView;

/// Entries of one page.
const PAGE: usize = 512;

/// A question, and the place it takes until it is answered: there are only so many, so the queue of commands stays
/// bounded.
#[derive(Debug)]
pub(crate) struct Ask {
    /// What is asked.
    pub(crate) inquiry: Inquiry,
    /// Given back when it has been answered.
    pub(crate) _place: OwnedSemaphorePermit,
}

/// What is asked. Whoever asked may have stopped waiting for the answer.
#[derive(Debug)]
pub(crate) enum Inquiry {
    /// What the tenant holds and counts.
    Summary(oneshot::Sender<Box<Summary>>),
    /// Its namespaces from this number on.
    Namespaces {
        /// 0, then what the last page said.
        from: u32,
        /// Who asks.
        reply: oneshot::Sender<Page<NamespaceUsage>>,
    },
    /// All that a namespace stands for, values that are no text in hexadecimal.
    Descriptor {
        /// Which.
        namespace: NamespaceId,
        /// Who asks.
        reply: oneshot::Sender<Option<BTreeMap<String, String>>>,
    },
    /// Its sessions behind this one.
    Sessions {
        /// None, then the last one of the last page.
        after: Option<SessionId>,
        /// Who asks.
        reply: oneshot::Sender<Vec<SessionView>>,
    },
    /// Where blocks are.
    Residency {
        /// Which.
        keys: Vec<BlockKey>,
        /// Who asks.
        reply: oneshot::Sender<Vec<Residency>>,
    },
    /// Blocks that are named are to leave.
    EvictBlocks {
        /// Which: a bounded number of them.
        keys: Vec<BlockKey>,
        /// Out of this tier; none: out of all.
        tier: Option<Tier>,
        /// Only counts.
        is_dry_run: bool,
        /// Who asks.
        reply: oneshot::Sender<Evicted>,
    },
    /// The prefix that ends with a block, as far as one step gets.
    Chain {
        /// Its end, then what the last answer said.
        end: BlockKey,
        /// Who asks.
        reply: oneshot::Sender<Chain>,
    },
    /// Blocks are to stay, or not any longer, as far as one step gets.
    Keep {
        /// What.
        wish: Wish,
        /// Who asks.
        reply: oneshot::Sender<Result<Kept, KeepRefusal>>,
    },
    /// The way to the store of the remote tier; none: there is no such tier.
    Remover(oneshot::Sender<Option<Remover>>),
    /// What is to stay.
    Keeps(oneshot::Sender<Vec<KeepView>>),
    /// Blocks are to leave, as far as one step gets.
    Evict {
        /// Which.
        range: EvictRange,
        /// Who asks.
        reply: oneshot::Sender<Evicted>,
    },
}

/// What is to stay: the engine's `KeepAsk` with names of its own.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    /// All of a namespace.
    Namespace(NamespaceId, u32),
    /// These blocks, for a new pin or one there is.
    Blocks(Option<u64>, Vec<BlockKey>),
    /// A pin ends.
    End(u64),
}

impl Wish {
    /// As the engine takes it.
    pub(super) fn ask(&self) -> KeepAsk<'_> {
        match *self {
            Self::Namespace(namespace, cursor) => KeepAsk::Namespace { namespace, cursor },
            Self::Blocks(keep, ref keys) => KeepAsk::Blocks { keep, keys },
            Self::End(keep) => KeepAsk::End { keep },
        }
    }
}

/// Blocks of a prefix that are told at a time.
pub(super) const CHAIN_PAGE: usize = PAGE;

/// Some entries of a list.
#[derive(Clone, Debug)]
pub(crate) struct Page<T> {
    /// The entries.
    pub(crate) entries: Vec<T>,
    /// Where the next page begins, if there is one.
    pub(crate) next: Option<u32>,
}

/// What a tenant holds and counts.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    /// Bytes of its region.
    pub(crate) region_bytes: u64,
    /// Bytes of each arena.
    pub(crate) arena_bytes: u64,
    /// Whether stores are refused.
    pub(crate) draining: bool,
    /// Numbers that only grow.
    pub(crate) counters: Counters,
    /// What is where.
    pub(crate) occupancy: Occupancy,
    /// Each NVMe device.
    pub(crate) devices: Vec<DeviceView>,
    /// The remote tier, if there is one.
    pub(crate) remote: Option<RemoteView>,
    /// How long look-ups took that needed no device.
    pub(crate) lookups: Histogram,
    /// How long look-ups waited for NVMe or the remote tier.
    pub(crate) lookup_waits: Histogram,
    /// How long loads took, from commitment to release.
    pub(crate) loads: Histogram,
    /// How long stores took, from reservation to the last seal.
    pub(crate) stores: Histogram,
    /// When this was true.
    pub(crate) now: Instant,
}

/// One session.
#[derive(Clone, Debug)]
pub(crate) struct SessionView {
    /// What it has.
    pub(crate) usage: SessionUsage,
    /// As its engine calls itself.
    pub(crate) engine_name: String,
    /// Where requests reach its engine; empty if it did not say.
    pub(crate) pod: String,
    /// The name that its engine serves its model under.
    pub(crate) model: String,
    /// Whose process it is.
    pub(crate) credentials: PeerCredentials,
    /// When it attached.
    pub(crate) since: Instant,
    /// When this was true.
    pub(crate) now: Instant,
}

/// A page of namespaces.
pub(super) fn namespaces(engine: &Engine, from: u32) -> Page<NamespaceUsage> {
    let mut rest = engine.namespaces_from(from);
    let mut page = Page {
        entries: Vec::new(),
        next: None,
    };
    for (index, usage) in rest.by_ref() {
        if page.entries.len() == PAGE {
            page.next = Some(index);
            break;
        }
        page.entries.push(usage);
    }
    page
}

/// What a page of sessions may have.
pub(super) const SESSIONS_PAGE: usize = PAGE;

/// All that a namespace stands for.
pub(super) fn descriptor(engine: &Engine, namespace: NamespaceId) -> Option<BTreeMap<String, String>> {
    let fields = engine.descriptor(namespace)?.fields();
    let shown = fields.map(|(tag, value)| (tag.to_owned(), readable(value)));
    Some(shown.collect())
}

fn readable(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if text.chars().all(|letter| !letter.is_control() || letter == '\n') => text.to_owned(),
        _ => value.iter().fold(String::new(), |mut text, byte| {
            use std::fmt::Write;
            let _ = write!(text, "{byte:02x}");
            text
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_no_text_are_shown_in_hexadecimal() {
        assert_eq!(readable(b"full tokens=16\n"), "full tokens=16\n");
        assert_eq!(readable(&[0, 0xff]), "00ff");
        assert_eq!(readable(b"\x1b[2J"), "1b5b324a");
    }
}
