//! The protocol on a TCP connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::{
    COMMAND, FRAMES_MAX, GREETING_BYTES, LONG, MORE, Received, ZmtpError, check_greeting, frame_size,
    greeting, ready, socket_type, split_command,
};

/// How long a handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// How long something that was sent may be neither confirmed nor taken.
const UNCONFIRMED_MS_MAX: u32 = 120_000;

/// What the peer sends.
#[derive(Debug)]
pub(crate) struct Reader {
    half: BufReader<OwnedReadHalf>,
}

/// What is sent to the peer.
#[derive(Debug)]
pub(crate) struct Writer {
    half: OwnedWriteHalf,
}

/// Agrees with the peer: ours is a socket of type `ours`, the peer's must be one of `theirs`.
pub(crate) async fn handshake(
    stream: TcpStream,
    ours: &str,
    theirs: &[&str],
) -> Result<(Reader, Writer), ZmtpError> {
    let agreement = async {
        stream.set_nodelay(true)?;
        keep_alive(&stream)?;
        let (reading, mut writing) = stream.into_split();
        let mut reader = Reader {
            half: BufReader::new(reading),
        };
        writing.write_all(&greeting()).await?;
        let mut bytes = [0; GREETING_BYTES];
        reader.half.read_exact(&mut bytes).await?;
        check_greeting(&bytes)?;
        writing.write_all(&ready(ours)).await?;
        let Received::Command(name, data) = reader.receive().await? else {
            return Err(ZmtpError::Malformed("a message before its READY"));
        };
        let kind = socket_type(&name, &data)?;
        if !theirs.contains(&kind.as_str()) {
            return Err(ZmtpError::SocketType(kind));
        }
        Ok((reader, Writer { half: writing }))
    };
    tokio::time::timeout(HANDSHAKE_DEADLINE, agreement)
        .await
        .map_err(|_| ZmtpError::TimedOut)?
}

/// A peer whose machine is gone says nothing any more: the kernel asks, and gives up after a minute. While something that was
/// sent is not confirmed it does not ask, but send that again for a quarter of an hour; it gives up sooner than that.
fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    sockopt::set_tcp_user_timeout(stream, UNCONFIRMED_MS_MAX)?;
    Ok(())
}

impl Reader {
    /// The next thing the peer has sent.
    pub(crate) async fn receive(&mut self) -> Result<Received, ZmtpError> {
        let mut frames = Vec::new();
        loop {
            let (flags, body) = self.frame().await?;
            if flags & COMMAND != 0 {
                if !frames.is_empty() || flags & MORE != 0 {
                    return Err(ZmtpError::Malformed("a command within a message"));
                }
                let (name, data) = split_command(&body)?;
                return Ok(Received::Command(name, data));
            }
            frames.push(body);
            if flags & MORE == 0 {
                return Ok(Received::Message(frames));
            }
            if frames.len() >= FRAMES_MAX {
                return Err(ZmtpError::Malformed("a message of too many frames"));
            }
        }
    }

    async fn frame(&mut self) -> Result<(u8, Vec<u8>), ZmtpError> {
        let flags = self.half.read_u8().await?;
        let mut size = [0; 8];
        let width = if flags & LONG == 0 { 1 } else { 8 };
        self.half.read_exact(&mut size[..width]).await?;
        let size = frame_size(flags, &size[..width])?;
        let mut body = vec![0; usize::try_from(size).unwrap_or(0)];
        self.half.read_exact(&mut body).await?;
        Ok((flags, body))
    }
}

impl Writer {
    /// Sends bytes; returns when the kernel has taken all of them.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), ZmtpError> {
        Ok(self.half.write_all(bytes).await?)
    }

    /// Says that nothing more comes.
    pub(crate) async fn finish(&mut self) {
        // The peer may have gone first.
        let _ = self.half.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_confirms_nothing_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stream, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (stream, (other, _)) = (stream.unwrap(), accepted.unwrap());
        let handshakes = tokio::join!(
            handshake(stream, "XPUB", &["SUB"]),
            handshake(other, "SUB", &["XPUB"]),
        );
        let (_, writer) = handshakes.0.unwrap();
        let stream: &TcpStream = writer.half.as_ref();
        let timeout = rustix::net::sockopt::tcp_user_timeout(stream).unwrap();
        assert_eq!(timeout, UNCONFIRMED_MS_MAX);
        assert!(rustix::net::sockopt::socket_keepalive(stream).unwrap());
    }
}
