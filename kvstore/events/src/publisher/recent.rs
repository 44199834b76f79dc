//! Messages that were sent lately, for those who ask for them again.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Messages that are kept of each connection.
const MESSAGES_MAX: usize = 10_000;
/// Bytes that are kept of each connection.
const BYTES_MAX: usize = 16 << 20;

/// A message as it was sent: topic, sequence number, payload.
pub(super) type Message = (Arc<[u8]>, u64, Arc<[u8]>);

/// What was sent on one connection.
#[derive(Debug)]
pub(super) struct Stream {
    peer: IpAddr,
    recent: Mutex<Recent>,
    /// Rung when everything is to be announced again.
    pub(super) again: Notify,
}

#[derive(Debug, Default)]
struct Recent {
    messages: VecDeque<Message>,
    bytes: usize,
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
    fn new(peer: IpAddr) -> Self {
        Self {
            peer,
            recent: Mutex::default(),
            again: Notify::new(),
        }
    }

    /// Keeps a message; the oldest make room for it.
    fn keep(&self, message: Message) {
        let mut recent = lock(&self.recent);
        recent.bytes += message.0.len() + message.2.len();
        recent.messages.push_back(message);
        while recent.messages.len() > MESSAGES_MAX || recent.bytes > BYTES_MAX {
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
}

impl Streams {
    /// `is_kept`: somebody may ask.
    pub(super) fn new(is_kept: bool) -> Self {
        Self {
            is_kept,
            streams: Mutex::default(),
        }
    }

    /// A connection begins.
    pub(super) fn open(&self, number: u64, peer: IpAddr) -> Arc<Stream> {
        let stream = Arc::new(Stream::new(peer));
        lock(&self.streams).insert(number, Arc::clone(&stream));
        stream
    }

    /// A connection has ended.
    pub(super) fn close(&self, number: u64) {
        lock(&self.streams).remove(&number);
    }

    /// A message was sent on it.
    pub(super) fn sent(&self, stream: &Stream, topic: &[u8], sequence: u64, payload: &[u8]) {
        if self.is_kept {
            stream.keep((topic.into(), sequence, payload.into()));
        }
    }

    /// What a peer asks for: nothing if it is no longer kept, or if it is not clear which connection it means. Then its
    /// connections are announced everything again, unless it asked for the beginning, which it gets in any case.
    pub(super) fn replay(&self, peer: IpAddr, sequence: u64) -> Vec<Message> {
        let streams = lock(&self.streams);
        let mine: Vec<_> = streams.values().filter(|stream| stream.peer == peer).collect();
        let kept = match mine.as_slice() {
            [stream] => stream.since(sequence),
            _ => None,
        };
        if kept.is_none() && sequence > 0 {
            for stream in mine {
                stream.again.notify_one();
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
        assert!(streams.replay(HERE, 5).is_empty());
    }

    #[tokio::test]
    async fn what_is_no_longer_kept_is_announced_again() {
        let streams = Streams::new(true);
        let stream = streams.open(1, HERE);
        for number in 0..=MESSAGES_MAX as u64 {
            streams.sent(&stream, b"kv@", number, b"");
        }
        assert!(streams.replay(HERE, 0).is_empty(), "number 0 has made room");
        assert_eq!(streams.replay(HERE, 1).len(), MESSAGES_MAX);
        streams.sent(&stream, b"kv@", MESSAGES_MAX as u64 + 1, b"");
        assert!(streams.replay(HERE, 1).is_empty());
        stream.again.notified().await;
    }

    #[test]
    fn nobody_is_given_the_messages_of_another() {
        let streams = Streams::new(true);
        let stream = streams.open(1, HERE);
        streams.sent(&stream, b"kv@", 0, b"");
        assert!(streams.replay("10.0.0.1".parse().unwrap(), 0).is_empty());
        streams.open(2, HERE);
        assert!(streams.replay(HERE, 0).is_empty(), "which of the two?");
        streams.close(2);
        assert_eq!(streams.replay(HERE, 0).len(), 1);
    }
}
