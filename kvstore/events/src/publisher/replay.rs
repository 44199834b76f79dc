//! The replay socket, as vLLM's publisher has it: a ROUTER that is asked with `["", sequence]` and answers with
//! `["", topic, sequence, payload]` for each message from that number on, and `["", "", -1, ""]` at the end.
//!
//! Numbers are those of the asker's own connection to the publisher, which is found by the asker's address.

use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use tracing::{debug, warn};

use super::places::{Places, Seat};
use super::{Address, BACKOFF_MAX, Setup, stopped};
use crate::zmtp::{self, Received, ZmtpError, put_message};

/// Number of the message that ends an answer.
const END: u64 = u64::MAX;
/// Bytes of an answer that are sent at once.
const CHUNK_BYTES: usize = 1 << 18;

/// Answers whoever connects.
pub(super) async fn serve(setup: Arc<Setup>, address: Address, listener: TcpListener) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else {
        return warn!(%address, "could not listen");
    };
    let mut places = Places::new(address.clone());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = places.ended() => continue,
            () = stopped(&setup) => return,
        };
        match accepted {
            Ok((stream, from)) => {
                tokio::select! {
                    () = places.room() => {}
                    () = stopped(&setup) => return,
                }
                let setup = Arc::clone(&setup);
                places.give(|seat| async move {
                    let error = tokio::select! {
                        Err(error) = answer(&setup, stream, from.ip(), &seat) => error,
                        () = seat.needed() => ZmtpError::Displaced,
                    };
                    debug!(%from, %error, "a replay connection has ended");
                });
            }
            Err(error) => {
                warn!(%address, %error, "could not accept a connection");
                tokio::time::sleep(BACKOFF_MAX).await;
            }
        }
    }
}

async fn answer(
    setup: &Setup,
    stream: tokio::net::TcpStream,
    from: IpAddr,
    seat: &Seat,
) -> Result<std::convert::Infallible, ZmtpError> {
    let (mut reader, mut writer) = zmtp::handshake(stream, "ROUTER", &["REQ", "DEALER"]).await?;
    loop {
        let frames = match reader.receive().await? {
            Received::Message(frames) => frames,
            Received::Command(name, data) => {
                if name == b"PING" {
                    writer
                        .send(&zmtp::pong(data.get(2..).unwrap_or_default()))
                        .await?;
                }
                continue;
            }
        };
        let asked = match frames.as_slice() {
            [delimiter, number] if delimiter.is_empty() => number,
            [number] => number,
            _ => return Err(ZmtpError::Malformed("a request that is not a sequence number")),
        };
        let number = <[u8; 8]>::try_from(asked.as_slice())
            .map_err(|_| ZmtpError::Malformed("a sequence number that has not 8 bytes"))?;
        seat.set_used(true);
        setup.shared.counters.replays.add(1);
        let messages = setup.streams.replay(from, u64::from_be_bytes(number));
        let mut bytes = Vec::new();
        for (topic, sequence, payload) in messages {
            put_message(&mut bytes, &[b"", &topic, &sequence.to_be_bytes(), &payload]);
            if bytes.len() >= CHUNK_BYTES {
                writer.send(&bytes).await?;
                bytes.clear();
            }
        }
        put_message(&mut bytes, &[b"", b"", &END.to_be_bytes(), b""]);
        writer.send(&bytes).await?;
        seat.set_used(false);
    }
}
