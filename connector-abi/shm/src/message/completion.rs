//! What the daemon answers, and what it says unasked.

use kvstore_types::{GroupSpan, NamespaceGeometry, NamespaceId, SlotRef, Tag};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Header, MessageError, SendError, count_of, encode, reader::Reader};
use crate::{MESSAGE_BYTES_MIN, Producer};

const LOOKUP: u16 = 1;
const LOOKUP_PENDING: u16 = 2;
const LOAD: u16 = 3;
const RESERVE: u16 = 5;
const SEAL: u16 = 6;
const ABORT: u16 = 7;
const RESET: u16 = 8;
const COUNTERS: u16 = 9;
const NAMESPACE_READY: u16 = 32;
const DRAINING: u16 = 33;
const EVENTS: u16 = 34;

/// Whether a look-up could be answered in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookupOutcome {
    /// Yes.
    Complete,
    /// Not all ranks of the engine have attached yet.
    NotReady,
    /// The session holds as much as it may.
    QuotaExceeded,
}

/// Why a grant is no slot. On the wire, a grant is a [`SlotRef`]; page 0 is no slot's, and its generation is one of
/// these numbers then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum GrantReason {
    /// Reserve: the block is in the tier already.
    AlreadyPresent = 1,
    /// Reserve: another reservation of the block is under way.
    Filling = 2,
    /// Reserve: no slot can be had.
    NoSpace = 3,
    /// Reserve: the daemon is shutting down.
    Draining = 4,
    /// Reserve: not all ranks of the engine have attached yet.
    NotReady = 5,
    /// Load: the hold was taken back, or there never was one.
    Lost = 6,
}

impl GrantReason {
    /// The grant as it lies in a message.
    pub const fn to_wire(self) -> SlotRef {
        SlotRef {
            page: 0,
            generation: self as u32,
        }
    }
}

/// Where one group's part of this session's rank lies in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RankLayout {
    /// Bytes of a slot.
    pub slot_bytes: u64,
    /// Where the rank's part begins.
    pub rank_offset: u64,
    /// Bytes of the rank's part.
    pub rank_bytes: u64,
}

const _: () = assert!(size_of::<RankLayout>() == 24);

/// One completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion<'a> {
    /// To `Lookup`.
    Lookup {
        /// The look-up.
        tag: Tag,
        /// Length of the hit.
        hit_tokens: u64,
        /// Whether it was answered in full.
        outcome: LookupOutcome,
        /// What is held.
        spans: &'a [GroupSpan],
    },
    /// To `Lookup`, at most once and before its answer: blocks of the hit are on their way into the region, and the
    /// answer comes when they are there or when the daemon's deadline has passed. Only to clients of minor version 1
    /// or more.
    LookupPending {
        /// The look-up.
        tag: Tag,
        /// Longest the hit can be: its length if all that is wanted is there and arrives.
        hit_tokens: u64,
    },
    /// To `LoadCommit`.
    Load {
        /// The lease.
        lease: Tag,
        /// How many grants are no slots.
        lost: u32,
        /// One for each block in order.
        grants: &'a [SlotRef],
    },
    /// To `Reserve`.
    Reserve {
        /// The operation.
        tag: Tag,
        /// One for each key in order.
        grants: &'a [SlotRef],
    },
    /// To `Seal`.
    Seal {
        /// The operation.
        tag: Tag,
        /// Blocks that can be found from now on.
        published: u32,
        /// Parts that were sealed.
        sealed: u32,
        /// Slots in which there was nothing to seal.
        stale: u32,
    },
    /// To `Abort`.
    Abort {
        /// The operation.
        tag: Tag,
        /// Parts that were given back.
        aborted: u32,
        /// Slots in which there was nothing to give back.
        stale: u32,
    },
    /// To `Reset`.
    Reset {
        /// The operation.
        tag: Tag,
        /// The new namespace, if there is one.
        namespace: Option<NamespaceId>,
    },
    /// To `Counters`.
    Counters {
        /// The operation.
        tag: Tag,
        /// The counters.
        json: &'a str,
    },
    /// All ranks have attached, or the engine was reset: this is its namespace now.
    NamespaceReady {
        /// The namespace.
        namespace: NamespaceId,
        /// One layout for each group, of this session's rank.
        groups: &'a [RankLayout],
    },
    /// The daemon shuts down: it serves loads and reserves nothing.
    Draining,
    /// What has become of blocks, to a session that has asked for it.
    Events {
        /// One batch of events in MessagePack; none: this daemon relays nothing.
        batch: Option<&'a [u8]>,
    },
}

/// What a completion is made of on the wire.
struct Parts<'a> {
    header: Header,
    prefix: Option<[u8; 16]>,
    items: &'a [u8],
}

impl<'a> Completion<'a> {
    /// Bytes the completion takes in a ring.
    pub fn wire_bytes(&self) -> usize {
        let Parts { prefix, items, .. } = self.parts();
        (MESSAGE_BYTES_MIN + prefix.map_or(0, |prefix| prefix.len()) + items.len()).next_multiple_of(8)
    }

    /// Writes the completion into a ring.
    pub fn encode(&self, producer: &mut Producer) -> Result<(), SendError> {
        let Parts {
            header,
            prefix,
            items,
        } = self.parts();
        encode(
            producer,
            header,
            &[prefix.as_ref().map_or(&[], |prefix| &prefix[..]), items],
        )
    }

    fn parts(&self) -> Parts<'a> {
        let header = |op, tag: Tag| Header {
            op,
            tag: tag.0,
            ..Header::default()
        };
        match *self {
            Self::Lookup {
                tag,
                hit_tokens,
                outcome,
                spans,
            } => Parts::of(
                Header {
                    arg: hit_tokens,
                    arg32: outcome.code(),
                    ..header(LOOKUP, tag)
                },
                spans,
            ),
            Self::LookupPending { tag, hit_tokens } => Parts::bare(Header {
                arg: hit_tokens,
                ..header(LOOKUP_PENDING, tag)
            }),
            Self::Load { lease, lost, grants } => Parts::of(
                Header {
                    arg32: lost,
                    ..header(LOAD, lease)
                },
                grants,
            ),
            Self::Reserve { tag, grants } => Parts::of(header(RESERVE, tag), grants),
            Self::Seal {
                tag,
                published,
                sealed,
                stale,
            } => {
                let arg = u64::from(published) | u64::from(sealed) << 32;
                Parts::bare(Header {
                    arg,
                    arg32: stale,
                    ..header(SEAL, tag)
                })
            }
            Self::Abort { tag, aborted, stale } => Parts::bare(Header {
                arg: aborted.into(),
                arg32: stale,
                ..header(ABORT, tag)
            }),
            Self::Reset { tag, namespace } => {
                let prefix = namespace.map_or([0; 16], |namespace| namespace.0);
                let header = Header {
                    arg32: namespace.is_some().into(),
                    ..header(RESET, tag)
                };
                Parts {
                    prefix: Some(prefix),
                    ..Parts::bare(header)
                }
            }
            Self::Counters { tag, json } => Parts::of(header(COUNTERS, tag), json.as_bytes()),
            Self::NamespaceReady { namespace, groups } => Parts {
                prefix: Some(namespace.0),
                ..Parts::of(header(NAMESPACE_READY, Tag(0)), groups)
            },
            Self::Draining => Parts::bare(header(DRAINING, Tag(0))),
            Self::Events { batch } => Parts::of_events(batch),
        }
    }

    /// Reads a completion out of private memory that is aligned to 8 bytes.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes)?;
        let Header {
            op, tag, arg32, arg, ..
        } = reader.header;
        let tag = Tag(tag);
        match op {
            LOOKUP => {
                reader.name("lookup")?;
                let outcome = LookupOutcome::from_code(arg32)
                    .ok_or_else(|| reader.out_of_range("outcome", arg32.into(), "0 to 2"))?;
                Ok(Self::Lookup {
                    tag,
                    hit_tokens: arg,
                    outcome,
                    spans: reader.items()?,
                })
            }
            LOOKUP_PENDING => decode_lookup_pending(&mut reader),
            LOAD => {
                reader.name("load")?;
                reader.zero("arg", arg)?;
                Ok(Self::Load {
                    lease: tag,
                    lost: arg32,
                    grants: reader.items()?,
                })
            }
            RESERVE => {
                reader.name("reserve")?;
                reader.no_arguments()?;
                Ok(Self::Reserve {
                    tag,
                    grants: reader.items()?,
                })
            }
            SEAL => {
                reader.name("seal")?;
                reader.empty()?;
                let [published, sealed] = halves(arg);
                Ok(Self::Seal {
                    tag,
                    published,
                    sealed,
                    stale: arg32,
                })
            }
            ABORT => decode_abort(&mut reader),
            RESET => decode_reset(&mut reader),
            COUNTERS => {
                reader.name("counters")?;
                reader.no_arguments()?;
                Ok(Self::Counters {
                    tag,
                    json: reader.text()?,
                })
            }
            NAMESPACE_READY => decode_namespace_ready(&mut reader),
            DRAINING => {
                reader.name("draining")?;
                reader.zero("tag", tag.0)?;
                reader.no_arguments()?;
                reader.empty()?;
                Ok(Self::Draining)
            }
            EVENTS => decode_events(&mut reader),
            op => Err(MessageError::UnknownOp { op }),
        }
    }
}

impl<'a> Parts<'a> {
    fn of<T: IntoBytes + Immutable>(header: Header, items: &'a [T]) -> Self {
        Self {
            header: Header {
                count: count_of(items),
                ..header
            },
            prefix: None,
            items: items.as_bytes(),
        }
    }

    fn of_events(batch: Option<&'a [u8]>) -> Self {
        let header = Header {
            op: EVENTS,
            arg32: batch.is_none().into(),
            ..Header::default()
        };
        Self::of(header, batch.unwrap_or_default())
    }

    fn bare(header: Header) -> Self {
        Self {
            header,
            prefix: None,
            items: &[],
        }
    }
}

fn decode_lookup_pending<'a>(reader: &mut Reader<'a>) -> Result<Completion<'a>, MessageError> {
    reader.name("lookup pending")?;
    reader.zero("arg32", reader.header.arg32)?;
    reader.empty()?;
    Ok(Completion::LookupPending {
        tag: Tag(reader.header.tag),
        hit_tokens: reader.header.arg,
    })
}

fn decode_abort<'a>(reader: &mut Reader<'a>) -> Result<Completion<'a>, MessageError> {
    reader.name("abort")?;
    reader.empty()?;
    let [aborted, upper] = halves(reader.header.arg);
    reader.zero("the upper half of arg", upper)?;
    Ok(Completion::Abort {
        tag: Tag(reader.header.tag),
        aborted,
        stale: reader.header.arg32,
    })
}

fn decode_reset<'a>(reader: &mut Reader<'a>) -> Result<Completion<'a>, MessageError> {
    reader.name("reset")?;
    reader.zero("arg", reader.header.arg)?;
    reader.zero("count", reader.header.count)?;
    let (id, _) = reader.prefixed::<16, u8>()?;
    let namespace = match (reader.header.arg32, id) {
        (1, id) => Some(NamespaceId(id)),
        (0, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => None,
        (0, _) => return Err(reader.out_of_range("namespace", 1, "0 where there is none")),
        (other, _) => return Err(reader.out_of_range("arg32", other.into(), "0 or 1")),
    };
    Ok(Completion::Reset {
        tag: Tag(reader.header.tag),
        namespace,
    })
}

fn decode_namespace_ready<'a>(reader: &mut Reader<'a>) -> Result<Completion<'a>, MessageError> {
    reader.name("namespace ready")?;
    reader.zero("tag", reader.header.tag)?;
    reader.no_arguments()?;
    reader.at_most(
        "groups",
        u32::try_from(NamespaceGeometry::GROUPS_MAX).unwrap_or(u32::MAX),
    )?;
    let (id, groups) = reader.prefixed::<16, RankLayout>()?;
    Ok(Completion::NamespaceReady {
        namespace: NamespaceId(id),
        groups,
    })
}

fn decode_events<'a>(reader: &mut Reader<'a>) -> Result<Completion<'a>, MessageError> {
    reader.name("events")?;
    reader.zero("tag", reader.header.tag)?;
    reader.zero("arg", reader.header.arg)?;
    let batch = match reader.header.arg32 {
        0 => Some(reader.items()?),
        1 => {
            reader.empty()?;
            None
        }
        other => return Err(reader.out_of_range("arg32", other.into(), "0 or 1")),
    };
    Ok(Completion::Events { batch })
}

#[expect(clippy::cast_possible_truncation, reason = "taking both halves is the point")]
fn halves(arg: u64) -> [u32; 2] {
    [arg as u32, (arg >> 32) as u32]
}

impl LookupOutcome {
    const fn code(self) -> u32 {
        match self {
            Self::Complete => 0,
            Self::NotReady => 1,
            Self::QuotaExceeded => 2,
        }
    }

    const fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Complete),
            1 => Some(Self::NotReady),
            2 => Some(Self::QuotaExceeded),
            _ => None,
        }
    }
}
