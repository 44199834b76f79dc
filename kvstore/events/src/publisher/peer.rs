//! One connection to a router.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tracing::info;

use super::places::Seat;
use super::recent::{Stream, Streams, Wish};
use super::subscriptions::Subscriptions;
use super::{Setup, stopped};
use crate::clock::{Pace, seconds};
use crate::speaker::{Outlook, Speaker};
use crate::zmtp::{self, Reader, Request, Writer, ZmtpError, put_message};

/// Requests of a peer that wait; it is not read while there are more.
const REQUESTS_MAX: usize = 64;

/// A connection whose handshake is done.
#[derive(Debug)]
pub(super) struct Connection {
    reader: Reader,
    writer: Writer,
    peer: IpAddr,
    /// The peer has dialled.
    is_bound: bool,
}

/// Makes a connection of a stream.
pub(super) async fn handshake(stream: TcpStream, is_bound: bool) -> Result<Connection, ZmtpError> {
    let peer = stream.peer_addr()?.ip();
    let (reader, writer) = zmtp::handshake(stream, "XPUB", &["SUB", "XSUB"]).await?;
    Ok(Connection {
        reader,
        writer,
        peer,
        is_bound,
    })
}

/// What the peer wants, for as long as it says something.
async fn listen(mut reader: Reader, requests: mpsc::Sender<Request>) -> ZmtpError {
    loop {
        let request = match reader.receive().await.and_then(zmtp::request) {
            Ok(request) => request,
            Err(error) => return error,
        };
        if request != Request::Nothing && requests.send(request).await.is_err() {
            return ZmtpError::Malformed("a request after the end");
        }
    }
}

/// Tells a router everything until its connection ends, or until the publisher stops and has withdrawn everything.
pub(super) async fn serve(
    setup: &Setup,
    connection: Connection,
    speaker: &mut Speaker,
    seat: &Seat,
) -> Result<(), ZmtpError> {
    static CONNECTIONS: AtomicU64 = AtomicU64::new(0);
    let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let (sender, requests) = mpsc::channel(REQUESTS_MAX);
    let stream = if connection.is_bound {
        setup.streams.open(number, connection.peer)
    } else {
        Streams::dialled(connection.peer)
    };
    let mut talk = Talk {
        setup,
        stream,
        seat,
        peer: connection.peer,
        writer: connection.writer,
        subscriptions: Subscriptions::default(),
        sequence: 0,
        pace: Pace::new(setup.config.announce_rate),
        announced: speaker.announcements,
        payload: Vec::new(),
        messages: Vec::new(),
    };
    setup.shared.counters.peers.add(1);
    setup.shared.counters.connections.add(1);
    let ended = tokio::select! {
        error = listen(connection.reader, sender) => Err(error),
        result = talk.run(speaker, requests) => result,
        () = seat.needed() => Err(ZmtpError::Displaced),
    };
    if ended.is_ok() {
        talk.writer.finish().await;
    }
    setup.shared.counters.peers.subtract(1);
    setup.streams.close(number);
    ended
}

/// The sending side of a connection.
struct Talk<'a> {
    setup: &'a Setup,
    stream: Arc<Stream>,
    seat: &'a Seat,
    peer: IpAddr,
    writer: Writer,
    subscriptions: Subscriptions,
    /// Number of the next message.
    sequence: u64,
    pace: Pace,
    /// Announcements from the start that have been counted.
    announced: u64,
    /// Memory for a payload, and for messages that are sent together.
    payload: Vec<u8>,
    messages: Vec<u8>,
}

/// Memory for messages that a connection keeps while there is nothing to send.
const MEMORY_KEPT: usize = 256 << 10;

impl Talk<'_> {
    async fn run(
        &mut self,
        speaker: &mut Speaker,
        mut requests: mpsc::Receiver<Request>,
    ) -> Result<(), ZmtpError> {
        let mut changed = self.setup.shared.hear_changes();
        loop {
            changed.mark_unchanged();
            self.grant(speaker).await?;
            while let Ok(request) = requests.try_recv() {
                self.obey(speaker, request).await?;
            }
            // Before it is told: what is withdrawn at the end may come while a message is being sent.
            let is_stopping = self.setup.is_stopping();
            let outlook = self.tell(speaker).await?;
            match outlook {
                Outlook::Now => tokio::task::yield_now().await,
                Outlook::Paced if is_stopping => tokio::task::yield_now().await,
                Outlook::Nothing if is_stopping => return Ok(()),
                _ => {
                    let asked = tokio::select! {
                        request = requests.recv() => request,
                        _ = changed.changed() => None,
                        () = self.pace.wait(), if outlook == Outlook::Paced => None,
                        () = self.stream.bell.notified() => None,
                        () = stopped(self.setup) => None,
                    };
                    if let Some(request) = asked {
                        self.obey(speaker, request).await?;
                    }
                }
            }
        }
    }

    /// Somebody has asked for more than there is.
    async fn grant(&mut self, speaker: &mut Speaker) -> Result<(), ZmtpError> {
        let Some(wish) = self.stream.take_wish() else {
            return Ok(());
        };
        if wish == Wish::Anew {
            self.sequence = 0;
            self.stream.forget();
            self.greet().await?;
        }
        self.again(speaker);
        Ok(())
    }

    async fn obey(&mut self, speaker: &mut Speaker, request: Request) -> Result<(), ZmtpError> {
        match request {
            Request::Subscribe(prefix) => {
                if !self.subscriptions.add(prefix) {
                    return Err(ZmtpError::Malformed("too many subscriptions"));
                }
                let hears = self.subscriptions.own_topic().is_some();
                if hears && self.seat.set_used(true) && speaker.announcements == 0 {
                    info!(from = %self.peer, "publishing to a router that has connected");
                }
                self.greet().await?;
                self.again(speaker);
            }
            Request::Cancel(prefix) => {
                self.subscriptions.remove(&prefix);
                self.seat.set_used(self.subscriptions.own_topic().is_some());
                speaker.unsubscribed(|topic| self.subscriptions.hear(topic));
            }
            Request::Ping(context) => self.writer.send(&zmtp::pong(&context)).await?,
            Request::Nothing => {}
        }
        Ok(())
    }

    /// Number 0 says nothing. A router that was connected before takes a number that is not higher than its last for a
    /// repetition or for a new beginning, depending on the number; after this one it can only be a new beginning.
    async fn greet(&mut self) -> Result<(), ZmtpError> {
        if self.sequence > 0 {
            return Ok(());
        }
        let Some(topic) = self.subscriptions.own_topic() else {
            return Ok(());
        };
        let topic = topic.to_vec();
        self.payload.clear();
        crate::wire::empty_batch(seconds(), &mut self.payload);
        self.put(&topic);
        self.send().await
    }

    /// Everything from the start.
    fn again(&mut self, speaker: &mut Speaker) {
        let mut book = self.setup.shared.book();
        speaker.subscribed(&mut book, |topic| self.subscriptions.hear(topic));
    }

    /// Sends what there is to send now.
    async fn tell(&mut self, speaker: &mut Speaker) -> Result<Outlook, ZmtpError> {
        let blocks_max = self.setup.config.batch_blocks;
        let may_walk = self.pace.allows() || self.setup.is_stopping();
        let (parts, outlook) = {
            let mut book = self.setup.shared.book();
            let hears = |topic: &str| self.subscriptions.hear(topic);
            let parts = speaker.next(&mut book, hears, blocks_max, may_walk);
            (parts, speaker.outlook(&book))
        };
        self.pace.walked(parts.paced);
        let counters = &self.setup.shared.counters;
        counters.announcements.add(speaker.announcements - self.announced);
        self.announced = speaker.announcements;
        for part in &parts.list {
            self.setup.shared.counters.told(&part.told);
            self.payload.clear();
            let left_out = speaker.encode(seconds(), part, &part.told, &mut self.payload);
            self.setup.shared.counters.blocks_left_out.add(left_out);
            self.put(part.topic.name.as_bytes());
        }
        speaker.reuse(parts);
        self.send().await?;
        Ok(outlook)
    }

    /// Makes a message of the payload.
    fn put(&mut self, topic: &[u8]) {
        let (sequence, payload) = (self.sequence, self.payload.as_slice());
        put_message(&mut self.messages, &[topic, &sequence.to_be_bytes(), payload]);
        self.setup.streams.sent(&self.stream, topic, sequence, payload);
        self.sequence += 1;
        let counters = &self.setup.shared.counters;
        counters.messages.add(1);
        counters.bytes.add((topic.len() + payload.len()) as u64);
    }

    /// Sends the messages that were made.
    async fn send(&mut self) -> Result<(), ZmtpError> {
        if !self.messages.is_empty() {
            self.writer.send(&self.messages).await?;
            for memory in [&mut self.payload, &mut self.messages] {
                memory.clear();
                memory.shrink_to(MEMORY_KEPT);
            }
        }
        Ok(())
    }
}
