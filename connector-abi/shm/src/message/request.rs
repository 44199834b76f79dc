//! What a client asks.

use kvstore_types::{GroupSpan, SlotRef, Tag};
use zerocopy::IntoBytes;

use super::{
    Header, Keys, MessageError, Runs, SendError, TraceContext, TracedRequest, count_of, encode, encode_with,
    reader::Reader, trace,
};
use crate::Producer;

const LOOKUP: u16 = 1;
const LOOKUP_RELEASE: u16 = 2;
const LOAD_COMMIT: u16 = 3;
const LEASE_RELEASE: u16 = 4;
const RESERVE: u16 = 5;
const SEAL: u16 = 6;
const ABORT: u16 = 7;
const RESET: u16 = 8;
const COUNTERS: u16 = 9;
const CLOSE: u16 = 10;
const RESERVE_DESCRIBED: u16 = 11;
const EVENTS: u16 = 12;
const TRACE: u16 = 13;
const TRACED_REQUEST: u16 = 14;

/// One request. All but the releases, `Close`, `Events` and those about traces are answered by exactly one
/// [`Completion`](crate::Completion).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// How long a prefix is cached?
    Lookup {
        /// Names the look-up and its holds.
        tag: Tag,
        /// The hit may not be longer than this many tokens.
        tokens_max: u64,
        /// The keys.
        keys: Keys<'a>,
    },
    /// Gives up a look-up's holds.
    LookupRelease {
        /// The look-up.
        tag: Tag,
    },
    /// Turns holds into a lease.
    LoadCommit {
        /// The look-up.
        tag: Tag,
        /// The new lease.
        lease: Tag,
        /// The blocks, counted as in the look-up's keys.
        spans: &'a [GroupSpan],
    },
    /// Ends a lease.
    LeaseRelease {
        /// The lease.
        lease: Tag,
    },
    /// Asks for slots to fill.
    Reserve {
        /// Names the operation.
        tag: Tag,
        /// The keys.
        keys: Keys<'a>,
    },
    /// Asks for slots to fill, and says what the blocks are about. Only to a daemon of minor version
    /// [`DESCRIBED_MINOR`](crate::DESCRIBED_MINOR) or later.
    ReserveDescribed {
        /// Names the operation.
        tag: Tag,
        /// The keys.
        keys: Keys<'a>,
        /// What they are about: runs that [cover](Runs::cover) the keys.
        runs: Runs<'a>,
    },
    /// This worker's part of these slots is final.
    Seal {
        /// Names the operation.
        tag: Tag,
        /// The slots.
        slots: &'a [SlotRef],
    },
    /// These slots are given back.
    Abort {
        /// Names the operation.
        tag: Tag,
        /// The slots.
        slots: &'a [SlotRef],
    },
    /// The engine group moves to a new namespace.
    Reset {
        /// Names the operation.
        tag: Tag,
        /// Random bytes that make the namespace unique.
        nonce: [u8; 16],
    },
    /// Asks for the tenant's counters.
    Counters {
        /// Names the operation.
        tag: Tag,
    },
    /// A clean good-bye: no copy of this session is under way.
    Close,
    /// Asks for block events, and for so many messages of them more. Only to a daemon of minor version
    /// [`EVENTS_MINOR`](crate::EVENTS_MINOR) or later.
    Events {
        /// Messages, at least 1; what goes beyond [`EVENTS_CREDIT_MAX`](crate::EVENTS_CREDIT_MAX) in all is forgotten.
        credit: u32,
    },
    /// The next message belongs to requests that are followed. Only to a daemon of minor version
    /// [`TRACE_MINOR`](crate::TRACE_MINOR) or later that records traces.
    Trace {
        /// The tag of that message.
        tag: Tag,
        /// When this was sent, in nanoseconds since 1970.
        sent_ns: u64,
        /// Whose its keys are, in order; at least one and at most [`TRACE_CONTEXTS_MAX`](crate::TRACE_CONTEXTS_MAX). Keys
        /// beyond them are nobody's.
        contexts: &'a [TraceContext],
    },
    /// A request that was followed is over. Only to a daemon as above.
    TracedRequest(TracedRequest<'a>),
}

impl<'a> Request<'a> {
    /// Writes the request into a ring.
    pub fn encode(&self, producer: &mut Producer) -> Result<(), SendError> {
        let header = |op, tag: Tag| Header {
            op,
            tag: tag.0,
            ..Header::default()
        };
        match *self {
            Self::Lookup {
                tag,
                tokens_max,
                keys,
            } => encode_keys(
                producer,
                Header {
                    arg: tokens_max,
                    ..header(LOOKUP, tag)
                },
                keys,
            ),
            Self::LookupRelease { tag } => encode(producer, header(LOOKUP_RELEASE, tag), &[]),
            Self::LoadCommit { tag, lease, spans } => {
                let header = Header {
                    arg: lease.0,
                    count: count_of(spans),
                    ..header(LOAD_COMMIT, tag)
                };
                encode(producer, header, &[spans.as_bytes()])
            }
            Self::LeaseRelease { lease } => encode(producer, header(LEASE_RELEASE, lease), &[]),
            Self::Reserve { tag, keys } => encode_keys(producer, header(RESERVE, tag), keys),
            Self::ReserveDescribed { tag, keys, runs } => {
                let header = Header {
                    count: u32::try_from(keys.group_count()).unwrap_or(u32::MAX),
                    arg32: u32::try_from(runs.len()).unwrap_or(u32::MAX),
                    ..header(RESERVE_DESCRIBED, tag)
                };
                encode_with(
                    producer,
                    header,
                    keys.wire_bytes() + runs.wire_bytes(),
                    |writer| {
                        keys.write(writer);
                        runs.write(writer);
                    },
                )
            }
            Self::Seal { tag, slots } => encode_slots(producer, header(SEAL, tag), slots),
            Self::Abort { tag, slots } => encode_slots(producer, header(ABORT, tag), slots),
            Self::Reset { tag, nonce } => encode(producer, header(RESET, tag), &[&nonce]),
            Self::Counters { tag } => encode(producer, header(COUNTERS, tag), &[]),
            Self::Close => encode(producer, header(CLOSE, Tag(0)), &[]),
            Self::Events { credit } => {
                let header = Header {
                    arg32: credit,
                    ..header(EVENTS, Tag(0))
                };
                encode(producer, header, &[])
            }
            Self::Trace {
                tag,
                sent_ns,
                contexts,
            } => trace::encode_contexts(producer, header(TRACE, tag), sent_ns, contexts),
            Self::TracedRequest(request) => {
                trace::encode_request(producer, header(TRACED_REQUEST, Tag(0)), &request)
            }
        }
    }

    /// Reads a request out of private memory that is aligned to 8 bytes.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes)?;
        let tag = Tag(reader.header.tag);
        match reader.header.op {
            LOOKUP => {
                reader.name("lookup")?;
                reader.zero("arg32", reader.header.arg32)?;
                Ok(Self::Lookup {
                    tag,
                    tokens_max: reader.header.arg,
                    keys: reader.keys()?,
                })
            }
            LOOKUP_RELEASE => bare(&mut reader, "lookup release").map(|()| Self::LookupRelease { tag }),
            LOAD_COMMIT => {
                reader.name("load commit")?;
                reader.zero("arg32", reader.header.arg32)?;
                Ok(Self::LoadCommit {
                    tag,
                    lease: Tag(reader.header.arg),
                    spans: reader.items()?,
                })
            }
            LEASE_RELEASE => bare(&mut reader, "lease release").map(|()| Self::LeaseRelease { lease: tag }),
            RESERVE => {
                reader.name("reserve")?;
                reader.no_arguments()?;
                Ok(Self::Reserve {
                    tag,
                    keys: reader.keys()?,
                })
            }
            RESERVE_DESCRIBED => {
                reader.name("described reserve")?;
                reader.zero("arg", reader.header.arg)?;
                let (keys, runs) = reader.described_keys()?;
                Ok(Self::ReserveDescribed { tag, keys, runs })
            }
            SEAL => Ok(Self::Seal {
                tag,
                slots: slots(&mut reader, "seal")?,
            }),
            ABORT => Ok(Self::Abort {
                tag,
                slots: slots(&mut reader, "abort")?,
            }),
            RESET => {
                reader.name("reset")?;
                reader.no_arguments()?;
                reader.zero("count", reader.header.count)?;
                let (nonce, []) = reader.prefixed::<16, u8>()? else {
                    return Err(reader.out_of_range("count", reader.header.count.into(), "0"));
                };
                Ok(Self::Reset { tag, nonce })
            }
            COUNTERS => bare(&mut reader, "counters").map(|()| Self::Counters { tag }),
            CLOSE => {
                bare(&mut reader, "close")?;
                reader.zero("tag", tag.0)?;
                Ok(Self::Close)
            }
            EVENTS => events(&mut reader),
            TRACE => trace::contexts(&mut reader),
            TRACED_REQUEST => trace::request(&mut reader),
            op => Err(MessageError::UnknownOp { op }),
        }
    }
}

fn events<'a>(reader: &mut Reader<'a>) -> Result<Request<'a>, MessageError> {
    reader.name("events")?;
    reader.zero("tag", reader.header.tag)?;
    reader.zero("arg", reader.header.arg)?;
    reader.empty()?;
    match reader.header.arg32 {
        0 => Err(reader.out_of_range("credit", 0, "at least 1")),
        credit => Ok(Request::Events { credit }),
    }
}

fn encode_keys(producer: &mut Producer, header: Header, keys: Keys<'_>) -> Result<(), SendError> {
    let count = u32::try_from(keys.group_count()).unwrap_or(u32::MAX);
    encode_with(
        producer,
        Header { count, ..header },
        keys.wire_bytes(),
        |writer| keys.write(writer),
    )
}

fn encode_slots(producer: &mut Producer, header: Header, slots: &[SlotRef]) -> Result<(), SendError> {
    encode(
        producer,
        Header {
            count: count_of(slots),
            ..header
        },
        &[slots.as_bytes()],
    )
}

fn slots<'a>(reader: &mut Reader<'a>, op: &'static str) -> Result<&'a [SlotRef], MessageError> {
    reader.name(op)?;
    reader.no_arguments()?;
    reader.items()
}

fn bare(reader: &mut Reader<'_>, op: &'static str) -> Result<(), MessageError> {
    reader.name(op)?;
    reader.no_arguments()?;
    reader.empty()
}
