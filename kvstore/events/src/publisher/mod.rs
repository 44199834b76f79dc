//! The ZeroMQ publisher: connections to routers, and what each of them is sent.
//!
//! A router is either dialled (`connect`: it listens for publishers) or it dials (`bind`). Each connection is a stream of its
//! own: its sequence numbers begin at 0 with an empty batch and have no gaps, because nothing is ever dropped on it. A router
//! that takes nothing is not sent anything either; what it misses beyond the recent changes is told to it by announcing
//! everything again. So there is no queue for each router, and nothing a slow one can fill.

mod endpoint;
mod peer;
mod places;
mod recent;
mod replay;
mod subscriptions;

use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

pub use self::endpoint::{Address, AddressError};
use self::places::{Notes, Places, Seat};
use self::recent::Streams;
use crate::shared::Shared;
use crate::speaker::Speaker;
use crate::wire::{Encoding, Media};
use crate::zmtp::ZmtpError;

/// How long after a failure the next try comes, at first and at most.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What is published where.
#[derive(Clone, Debug, PartialEq)]
pub struct PublisherConfig {
    /// Routers that listen for publishers.
    pub connect: Vec<Address>,
    /// Where to listen for routers.
    pub bind: Vec<Address>,
    /// Where to listen for requests to replay.
    pub replay: Option<Address>,
    /// What the tiers are called, fastest first.
    pub media: [String; 3],
    /// The form of events.
    pub encoding: Encoding,
    /// Most blocks in a message.
    pub batch_blocks: usize,
    /// Blocks a second of announcements from the start, for each router.
    pub announce_rate: u32,
}

impl PublisherConfig {
    /// Whether anything is published at all.
    pub fn publishes(&self) -> bool {
        !self.connect.is_empty() || !self.bind.is_empty()
    }
}

/// Why the publisher cannot start.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on {address}")]
pub struct BindError {
    /// Where.
    pub address: Address,
    /// Why not.
    pub source: std::io::Error,
}

/// Sockets that are bound before anything else runs, so that what is wrong is known at the start.
#[derive(Debug)]
pub(crate) struct Bound {
    publishers: Vec<(Address, TcpListener)>,
    replay: Option<(Address, TcpListener)>,
}

impl Bound {
    pub(crate) fn new(config: &PublisherConfig) -> Result<Self, BindError> {
        let publishers = config.bind.iter().map(listen).collect::<Result<_, _>>()?;
        let replay = config.replay.as_ref().map(listen).transpose()?;
        Ok(Self { publishers, replay })
    }

    /// The addresses that publishers are bound to: with the ports that the system chose.
    pub(crate) fn addresses(&self) -> Vec<std::net::SocketAddr> {
        let listeners = self.publishers.iter().chain(&self.replay);
        listeners
            .filter_map(|(_, listener)| listener.local_addr().ok())
            .collect()
    }
}

fn listen(address: &Address) -> Result<(Address, TcpListener), BindError> {
    let bound = TcpListener::bind(address.parts()).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    match bound {
        Ok(listener) => Ok((address.clone(), listener)),
        Err(source) => Err(BindError {
            address: address.clone(),
            source,
        }),
    }
}

/// What all connections have in common.
#[derive(Debug)]
struct Setup {
    shared: Arc<Shared>,
    config: PublisherConfig,
    media: Media,
    streams: Streams,
    /// Connections that were refused.
    refused: Mutex<Notes>,
    stop: watch::Receiver<bool>,
}

impl Setup {
    fn speaker(&self) -> Speaker {
        Speaker::new(&mut self.shared.book(), self.media.clone(), self.config.encoding)
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Somebody who connected does not speak as it should. Whoever can connect could fill the log.
    fn refused(&self, from: IpAddr, error: &ZmtpError) {
        let mut notes = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(others) = notes.note(tokio::time::Instant::now()) {
            warn!(%from, %error, others, "refused a connection (said once a minute; others: since then)");
        } else {
            debug!(%from, %error, "refused a connection");
        }
    }
}

/// Publishes until it is told to stop and everything has been withdrawn. Dropping it closes what is still open.
pub(crate) async fn publish(
    shared: Arc<Shared>,
    config: PublisherConfig,
    bound: Bound,
    stop: watch::Receiver<bool>,
) {
    let setup = Arc::new(Setup {
        media: Media::new(&config.media),
        streams: Streams::new(config.replay.is_some()),
        refused: Mutex::default(),
        shared,
        config,
        stop,
    });
    let mut tasks = JoinSet::new();
    for address in setup.config.connect.clone() {
        tasks.spawn(dial(Arc::clone(&setup), address));
    }
    for (address, listener) in bound.publishers {
        tasks.spawn(accept(Arc::clone(&setup), address, listener));
    }
    if let Some((address, listener)) = bound.replay {
        tasks.spawn(replay::serve(Arc::clone(&setup), address, listener));
    }
    while tasks.join_next().await.is_some() {}
}

/// Resolves when it is time to stop.
async fn stopped(setup: &Setup) {
    // An error means that whoever could say it is gone: the same.
    let _ = setup.stop.clone().wait_for(|stop| *stop).await;
}

/// Keeps a connection to a router.
async fn dial(setup: Arc<Setup>, address: Address) {
    let mut speaker = None;
    let mut backoff = BACKOFF_MIN;
    let mut is_known_to_fail = false;
    while !setup.is_stopping() {
        let connecting = TcpStream::connect(address.parts());
        let stream = tokio::select! {
            stream = connecting => stream,
            () = stopped(&setup) => break,
        };
        let failure = match stream {
            Ok(stream) => match peer::handshake(stream, false).await {
                Ok(connection) => {
                    info!(%address, "publishing to a router");
                    (backoff, is_known_to_fail) = (BACKOFF_MIN, false);
                    let speaker = speaker.get_or_insert_with(|| setup.speaker().clearing());
                    let ended = peer::serve(&setup, connection, speaker, &Seat::ours()).await;
                    speaker.disconnected(&mut setup.shared.book());
                    ended.err()
                }
                Err(error) => Some(error),
            },
            Err(error) => Some(error.into()),
        };
        if setup.is_stopping() {
            break;
        }
        if let Some(error) = failure {
            if is_known_to_fail {
                debug!(%address, %error, "no connection to the router");
            } else {
                warn!(%address, %error, "no connection to the router; trying again");
            }
            is_known_to_fail = true;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = stopped(&setup) => break,
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Serves whoever connects.
async fn accept(setup: Arc<Setup>, address: Address, listener: TcpListener) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return warn!(%address, "could not listen");
    };
    let mut places = Places::new(address.clone());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = places.ended() => continue,
            () = stopped(&setup) => break,
        };
        match accepted {
            Ok((stream, from)) => {
                tokio::select! {
                    () = places.room() => {}
                    () = stopped(&setup) => break,
                }
                places.give(|seat| serve_one(Arc::clone(&setup), stream, from.ip(), seat));
            }
            Err(error) => {
                // No descriptors, most likely: they come back when others close.
                warn!(%address, %error, "could not accept a connection");
                tokio::time::sleep(BACKOFF_MAX).await;
            }
        }
    }
    drop(listener);
    places.all_ended().await;
}

async fn serve_one(setup: Arc<Setup>, stream: TcpStream, from: IpAddr, seat: Arc<Seat>) {
    let connection = tokio::select! {
        connection = peer::handshake(stream, true) => connection,
        () = seat.needed() => Err(ZmtpError::Displaced),
    };
    match connection {
        Ok(connection) => {
            let mut speaker = setup.speaker().in_one_voice();
            let ended = peer::serve(&setup, connection, &mut speaker, &seat).await;
            speaker.leave(&mut setup.shared.book());
            match ended {
                // Connections that never asked for anything are nothing to tell of.
                Err(error) if speaker.announcements > 0 => {
                    info!(%from, %error, "a router's connection has ended");
                }
                Err(error) => debug!(%from, %error, "a connection has ended"),
                Ok(()) => {}
            }
        }
        Err(error) => setup.refused(from, &error),
    }
}
