//! Messages that were sent lately, for those who ask for them again.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Messages that are kept of each connection.
const MESSAGES_MAX: usize = 10_000;
/// Bytes that are kept of each connection, and of all of them: each has its share.
const BYTES_MAX: usize = 16 << 20;
const BYTES_MAX_OF_ALL: usize = 64 << 20;

/// A message as it was sent: topic, sequence number, payload.
pub(super) type Message = (Arc<[u8]>, u64, Arc<[u8]>);

/// What was sent on one connection.
#[derive(Debug)]
pub(super) struct Stream {
    peer: IpAddr,
    /// What was sent may be asked for again.
    is_bound: bool,
    recent: Mutex<Recent>,
    /// Rung when something is wished for.
    pub(super) bell: Notify,
}

/// What whoever asks for more than there is makes of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    /// Everything is announced again: to whoever asks for the beginning, and goes on from the message that comes next.
    Again,
    /// Numbers begin at 0 again, and everything is announced. Whoever asks for something later and does not get it gives
    /// up what it knew and takes nothing for a while, unless it is a number 0.
    Anew,
}

#[derive(Debug, Default)]
struct Recent {
    messages: VecDeque<Message>,
    bytes: usize,
    /// Something was sent: there is something to miss.
    has_begun: bool,
    wish: Option<Wish>,
}

/// The streams of all connections.
#[derive(Debug)]
pub(super) struct Streams {
    is_kept: bool,
    streams: Mutex<BTreeMap<u64, Arc<Stream>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    fn new(peer: IpAddr, is_bound: bool) -> Self {
        Self {
            peer,
            is_bound,
            recent: Mutex::default(),
            bell: Notify::new(),
        }
    }

    /// Keeps a message; the oldest make room for it.
    fn keep(&self, message: Message, bytes_max: usize) {
        let mut recent = lock(&self.recent);
        recent.has_begun = true;
        recent.bytes += message.0.len() + message.2.len();
        recent.messages.push_back(message);
        while recent.messages.len() > MESSAGES_MAX || recent.bytes > bytes_max {
            let Some((topic, _, payload)) = recent.messages.pop_front() else {
                break;
            };
            recent.bytes -= topic.len() + payload.len();
        }
    }

    /// Everything from a sequence number on, if all of it is kept.
    fn since(&self, sequence: u64) -> Option<Vec<Message>> {
        let recent = lock(&self.recent);
        let (_, oldest, _) = recent.messages.front()?;
        (*oldest <= sequence).then(|| {
            recent
                .messages
                .iter()
                .filter(|(_, number, _)| *number >= sequence)
                .cloned()
                .collect()
        })
    }

    /// Nothing of what was sent counts any more: numbers begin at 0 again.
    pub(super) fn forget(&self) {
        let mut recent = lock(&self.recent);
        recent.messages.clear();
        recent.bytes = 0;
    }

    /// What is wished for; asked once.
    pub(super) fn take_wish(&self) -> Option<Wish> {
        lock(&self.recent).wish.take()
    }

    fn wish(&self, wish: Wish) {
        let mut recent = lock(&self.recent);
        if recent.has_begun {
            recent.wish = recent.wish.max(Some(wish));
            self.bell.notify_one();
        }
    }
}

impl Streams {
    /// `is_kept`: somebody may ask.
    pub(super) fn new(is_kept: bool) -> Self {
        Self {
            is_kept,
            streams: Mutex::default(),
        }
    }

    /// A connection of a bound socket begins.
    pub(super) fn open(&self, number: u64, peer: IpAddr) -> Arc<Stream> {
        let stream = Arc::new(Stream::new(peer, true));
        lock(&self.streams).insert(number, Arc::clone(&stream));
        stream
    }

    /// One that was dialled: nobody there asks for anything again.
    pub(super) fn dialled(peer: IpAddr) -> Arc<Stream> {
        Arc::new(Stream::new(peer, false))
    }

    /// A connection has ended.
    pub(super) fn close(&self, number: u64) {
        lock(&self.streams).remove(&number);
    }

    /// A message was sent on it.
    pub(super) fn sent(&self, stream: &Stream, topic: &[u8], sequence: u64, payload: &[u8]) {
        if self.is_kept && stream.is_bound {
            let connections = lock(&self.streams).len().max(1);
            let share = (BYTES_MAX_OF_ALL / connections).min(BYTES_MAX);
            stream.keep((topic.into(), sequence, payload.into()), share);
        }
    }

    /// What a peer asks for: nothing if it is no longer kept, or if it is not clear which connection it means. Then all of
    /// its connections are announced everything again, unless nothing was sent on them yet: then everything is to come.
    pub(super) fn replay(&self, peer: IpAddr, sequence: u64) -> Vec<Message> {
        let streams = lock(&self.streams);
        let mine: Vec<_> = streams.values().filter(|stream| stream.peer == peer).collect();
        let kept = match mine.as_slice() {
            [stream] => stream.since(sequence),
            _ => None,
        };
        // No answer at all is one to whoever asks for the beginning, and to others a failure.
        let is_answer = kept
            .as_ref()
            .is_some_and(|kept| sequence == 0 || !kept.is_empty());
        if !is_answer {
            let wish = if sequence == 0 { Wish::Again } else { Wish::Anew };
            for stream in mine {
                stream.wish(wish);
            }
        }
        kept.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn numbers(messages: &[Message]) -> Vec<u64> {
        messages.iter().map(|(_, number, _)| *number).collect()
    }

    #[test]
    fn what_is_kept_is_replayed_from_any_number_on() {
        let streams = Streams::new(true);
        let stream = streams.open(1, HERE);
        for number in 0..5 {
            streams.sent(&stream, b"kv@", number, b"payload");
        }
        assert_eq!(numbers(&streams.replay(HERE, 3)), [3, 4]);
        assert_eq!(numbers(&streams.replay(HERE, 0)), [0, 1, 2, 3, 4]);
        assert_eq!(stream.take_wish(), None);
        assert!(streams.replay(HERE, 5).is_empty(), "there is no such number yet");
        assert_eq!(stream.take_wish(), Some(Wish::Anew));
        stream.forget();
        streams.sent(&stream, b"kv@", 0, b"payload");
        assert_eq!(numbers(&streams.replay(HERE, 0)), [0]);
    }

    #[tokio::test]
    async fn what_is_no_longer_kept_is_announced_again() {
        let streams = Streams::new(true);
        let stream = streams.open(1, HERE);
        for number in 0..=MESSAGES_MAX as u64 {
            streams.sent(&stream, b"kv@", number, b"");
        }
        assert!(streams.replay(HERE, 0).is_empty(), "number 0 has made room");
        assert_eq!(stream.take_wish(), Some(Wish::Again));
        assert_eq!(streams.replay(HERE, 1).len(), MESSAGES_MAX);
        streams.sent(&stream, b"kv@", MESSAGES_MAX as u64 + 1, b"");
        assert!(streams.replay(HERE, 1).is_empty());
        assert!(streams.replay(HERE, 0).is_empty());
        stream.bell.notified().await;
        assert_eq!(stream.take_wish(), Some(Wish::Anew), "the one that does more");
        assert_eq!(stream.take_wish(), None);
    }

    #[test]
    fn many_connections_share_what_is_kept() {
        let streams = Streams::new(true);
        let connections: Vec<_> = (0..64).map(|number| streams.open(number, HERE)).collect();
        let payload = vec![0; 100_000];
        for number in 0..20 {
            for stream in &connections {
                streams.sent(stream, b"kv@", number, &payload);
            }
        }
        let kept: usize = connections.iter().map(|stream| lock(&stream.recent).bytes).sum();
        assert!(kept <= BYTES_MAX_OF_ALL, "{kept}");
        assert!(kept > BYTES_MAX_OF_ALL / 2, "{kept}");
    }

    #[test]
    fn who_asks_before_anything_was_sent_is_owed_nothing() {
        let streams = Streams::new(true);
        let stream = streams.open(1, HERE);
        assert!(streams.replay(HERE, 0).is_empty());
        assert_eq!(stream.take_wish(), None);
    }

    #[test]
    fn nobody_is_given_the_messages_of_another() {
        let streams = Streams::new(true);
        let stream = streams.open(1, HERE);
        streams.sent(&stream, b"kv@", 0, b"");
        assert!(streams.replay("10.0.0.1".parse().unwrap(), 0).is_empty());
        assert_eq!(stream.take_wish(), None);
        let other = streams.open(2, HERE);
        streams.sent(&other, b"kv@", 0, b"");
        assert!(streams.replay(HERE, 0).is_empty(), "which of the two?");
        for stream in [&stream, &other] {
            assert_eq!(stream.take_wish(), Some(Wish::Again));
        }
        streams.close(2);
        assert_eq!(streams.replay(HERE, 0).len(), 1);
        // A connection that was dialled to the same address is none that could be meant.
        let dialled = Streams::dialled(HERE);
        streams.sent(&dialled, b"kv@", 0, b"");
        assert_eq!(streams.replay(HERE, 0).len(), 1);
        assert!(streams.replay(HERE, 7).is_empty());
        assert_eq!(dialled.take_wish(), None);
    }
}
