//! From a request, as it came out of a ring, to an event.

use connector_shm::{Completion, Keys, Request, TraceContext, TracedRequest};
use kvstore_engine::{Event, GroupKeys};
use kvstore_types::{DescriptorRun, GroupSpan, NamespaceGeometry, SessionId, SlotRef, Tag};

/// What a client says of the requests behind its messages.
#[derive(Debug)]
pub(super) enum Said<'a> {
    /// Whose its next message is.
    Next {
        /// That message.
        tag: Tag,
        /// When this was sent, in nanoseconds since 1970.
        sent_ns: u64,
        /// Whose its keys are.
        contexts: &'a [TraceContext],
    },
    /// A request is over.
    Over(TracedRequest<'a>),
}

const GROUPS_MAX: usize = NamespaceGeometry::GROUPS_MAX;

/// Room for a message's groups, so that turning it into an event allocates nothing.
pub(super) type GroupRoom<'a> = [GroupKeys<'a>; GROUPS_MAX];

/// Empty room.
pub(super) const fn group_room<'a>() -> GroupRoom<'a> {
    [GroupKeys {
        group: 0,
        hashes: &[],
    }; GROUPS_MAX]
}

/// What to do with a request.
#[derive(Debug)]
pub(super) enum Todo<'a> {
    /// Give it to the engine.
    Step(Event<'a>),
    /// Answer it with the counters.
    Counters(Tag),
    /// Let so many messages of events more be under way.
    Events(u32),
    /// Whose other messages are.
    Trace(Said<'a>),
    /// End the session.
    Close,
    /// It names more groups than there can be.
    TooManyGroups,
}

/// Turns a request into what is to be done.
pub(super) fn todo<'a>(
    session: SessionId,
    request: &Request<'a>,
    room: &'a mut GroupRoom<'a>,
    run_room: &'a mut Vec<DescriptorRun<'a>>,
) -> Todo<'a> {
    let event = match *request {
        Request::Lookup {
            tag,
            tokens_max,
            keys,
        } => match group_keys(keys, room) {
            Some(groups) => Event::Lookup {
                session,
                tag,
                groups,
                tokens_max,
            },
            None => return Todo::TooManyGroups,
        },
        Request::Reserve { tag, keys } => match group_keys(keys, room) {
            Some(groups) => Event::Reserve {
                session,
                tag,
                groups,
                runs: &[],
            },
            None => return Todo::TooManyGroups,
        },
        Request::ReserveDescribed { tag, keys, runs } => match group_keys(keys, room) {
            Some(groups) => {
                // Decoding has seen that they cover the keys.
                run_room.extend(runs.iter());
                Event::Reserve {
                    session,
                    tag,
                    groups,
                    runs: run_room,
                }
            }
            None => return Todo::TooManyGroups,
        },
        Request::LookupRelease { tag } => Event::LookupRelease { session, tag },
        Request::LoadCommit { tag, lease, spans } => Event::LoadCommit {
            session,
            tag,
            lease,
            spans,
        },
        Request::LeaseRelease { lease } => Event::LeaseRelease { session, lease },
        Request::Seal { tag, slots } => Event::Seal { session, tag, slots },
        Request::Abort { tag, slots } => Event::Abort { session, tag, slots },
        Request::Reset { tag, nonce } => Event::Reset { session, tag, nonce },
        Request::Counters { tag } => return Todo::Counters(tag),
        Request::Close => return Todo::Close,
        Request::Events { credit } => return Todo::Events(credit),
        Request::Trace {
            tag,
            sent_ns,
            contexts,
        } => {
            return Todo::Trace(Said::Next {
                tag,
                sent_ns,
                contexts,
            });
        }
        Request::TracedRequest(request) => return Todo::Trace(Said::Over(request)),
    };
    Todo::Step(event)
}

fn group_keys<'a>(keys: Keys<'a>, room: &'a mut GroupRoom<'a>) -> Option<&'a [GroupKeys<'a>]> {
    let count = keys.group_count();
    let groups = room.get_mut(..count)?;
    for (place, group) in groups.iter_mut().zip(keys.groups()) {
        *place = GroupKeys {
            group: group.group,
            hashes: group.hashes,
        };
    }
    Some(groups)
}

/// Bytes the answer may take at most.
pub(super) fn answer_bytes_max(request: &Request<'_>) -> usize {
    let grants = match request {
        Request::Lookup { keys, .. } => return bare() + keys.group_count() * size_of::<GroupSpan>() + 8,
        Request::Reserve { keys, .. } | Request::ReserveDescribed { keys, .. } => keys.hash_count(),
        Request::LoadCommit { spans, .. } => spans
            .iter()
            .fold(0_usize, |sum, span| sum.saturating_add(span.count as usize)),
        _ => return bare(),
    };
    grants.saturating_mul(size_of::<SlotRef>()).saturating_add(bare())
}

/// Whether a request still means something when nobody waits for its answer: what is given back is, what is asked
/// for is not.
pub(super) fn matters_afterwards(request: &Request<'_>) -> bool {
    match request {
        Request::LookupRelease { .. }
        | Request::LeaseRelease { .. }
        | Request::Seal { .. }
        | Request::Abort { .. }
        | Request::TracedRequest(_)
        | Request::Close => true,
        Request::Lookup { .. }
        | Request::LoadCommit { .. }
        | Request::Reserve { .. }
        | Request::ReserveDescribed { .. }
        | Request::Reset { .. }
        | Request::Counters { .. }
        | Request::Events { .. }
        | Request::Trace { .. } => false,
    }
}

fn bare() -> usize {
    // No answer without an array is larger than that to `Reset`, whose namespace has 16 bytes.
    Completion::Draining.wire_bytes() + 16
}
