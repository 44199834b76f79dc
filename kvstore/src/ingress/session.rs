//! Watches a session's socket, which carries nothing any more but its end.

use std::os::fd::AsFd;
use std::rc::Rc;

use connector_shm::hung_up;
use kvstore_engine::SessionEnd;
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::Ingress;
use super::handshake::Attached;
use crate::engine_thread::command::Command;

/// How a socket stopped being quiet.
enum Noise {
    HungUp,
    Bytes,
}

impl Ingress {
    /// Returns when the session is over; dropping the stream then tells the client.
    pub(super) async fn watch(self: Rc<Self>, stream: UnixStream, attached: Attached) {
        let Attached {
            session,
            door,
            ticket,
            mut ended,
            share,
        } = attached;
        self.watch_process(ticket);
        let commands = &self.doors[door].commands;
        let end = tokio::select! {
            noise = noise(&stream) => {
                commands.send(match noise {
                    Noise::HungUp => Command::HungUp(session),
                    Noise::Bytes => Command::Misbehaved(session, "it sent bytes over its socket after the handshake"),
                });
                // The engine thread still reads what came before, which may be a good-bye.
                ended.await
            }
            end = &mut ended => end,
        };
        // A thread that has ended says nothing: then nothing is promised either.
        let end = end.unwrap_or(SessionEnd::HungUp);
        self.processes.borrow_mut().leave(ticket, end);
        drop(share);
    }
}

async fn noise(stream: &UnixStream) -> Noise {
    loop {
        if stream.ready(Interest::READABLE | Interest::ERROR).await.is_err() {
            return Noise::HungUp;
        }
        let looked = stream.try_io(Interest::READABLE, || match hung_up(stream.as_fd()) {
            Ok(true) | Err(_) => Ok(Noise::HungUp),
            Ok(false) if has_bytes(stream) => Ok(Noise::Bytes),
            Ok(false) => Err(std::io::ErrorKind::WouldBlock.into()),
        });
        if let Ok(noise) = looked {
            return noise;
        }
    }
}

fn has_bytes(stream: &UnixStream) -> bool {
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    matches!(rustix::net::recv(stream, &mut [0_u8; 1], flags), Ok((_, count)) if count > 0)
}
