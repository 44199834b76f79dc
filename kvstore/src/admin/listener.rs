//! Connections to the admin socket and, with TLS, to a port: so many at a time of each.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tracing::{debug, error, warn};

use super::certificates::Certificates;
use super::peer::{Peer, PeerCertificate};

/// Connections at one time to the socket, and to the port; more wait in its queue.
const CONNECTIONS: usize = 64;
/// How long to let things be when the system has no descriptors or memory for another one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a TLS handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// How long one that is refused has to hear why.
const FAREWELL: Duration = Duration::from_secs(1);
/// A machine that has said nothing for so long is asked whether it is still there.
const SILENCE: Duration = Duration::from_mins(1);
/// How long until it is asked again.
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// How often, before it is given up.
const PROBES: u32 = 3;

/// A connection and its place.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

/// Bytes both ways.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where accepted connections go.
type Accepted = mpsc::Sender<io::Result<Connection>>;

/// A port, and how TLS is spoken there.
#[derive(Debug)]
pub(super) struct TlsPort {
    /// Where connections come in; it does not block.
    pub(super) listener: std::net::TcpListener,
    /// Certificate, key, and who is believed.
    pub(super) certificates: Arc<Certificates>,
}

/// Accepts until nobody takes connections any more.
pub(super) fn incoming(
    listener: UnixListener,
    port: Option<TlsPort>,
) -> io::Result<ReceiverStream<io::Result<Connection>>> {
    let (sender, receiver) = mpsc::channel(1);
    if let Some(port) = port {
        let listener = TcpListener::from_std(port.listener)?;
        tokio::spawn(accept_tls(listener, port.certificates, sender.clone()));
    }
    tokio::spawn(accept_processes(listener, sender));
    Ok(ReceiverStream::new(receiver))
}

async fn accept_processes(listener: UnixListener, sender: Accepted) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Some(place) = free_place(&places, &sender).await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = Connection {
                    peer: Peer::Process(stream.connect_info()),
                    stream: Box::new(stream),
                    _place: place,
                };
                if sender.send(Ok(connection)).await.is_err() {
                    return;
                }
            }
            Err(cause) => {
                error!(%cause, "could not accept a connection to the admin socket");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept_tls(listener: TcpListener, certificates: Arc<Certificates>, sender: Accepted) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    while let Some(place) = free_place(&places, &sender).await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = sender.closed() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                // Nobody waits for another's handshake.
                tokio::spawn(shake_hands(
                    stream,
                    address,
                    TlsAcceptor::from(certificates.config()),
                    place,
                    sender.clone(),
                ));
            }
            Err(cause) => {
                error!(%cause, "could not accept a connection to admin.listen");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// None when nobody takes connections any more.
async fn free_place(places: &Arc<Semaphore>, sender: &Accepted) -> Option<OwnedSemaphorePermit> {
    tokio::select! {
        place = Arc::clone(places).acquire_owned() => place.ok(),
        () = sender.closed() => None,
    }
}

async fn shake_hands(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    place: OwnedSemaphorePermit,
    sender: Accepted,
) {
    if let Err(cause) = tune(&stream) {
        return debug!(%address, %cause, "a connection to admin.listen was gone at once");
    }
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(stream).into_fallible()) => shaken,
        () = sender.closed() => return,
    };
    let stream = match shaken {
        Ok(Ok(stream)) => stream,
        // What TLS refuses has this kind; others hang up, as whoever only asks whether the port is open.
        Ok(Err((cause, stream))) if cause.kind() == io::ErrorKind::InvalidData => {
            warn!(%address, %cause, "a connection to admin.listen was refused");
            let _ = tokio::time::timeout(FAREWELL, hear_out(stream)).await;
            return;
        }
        Ok(Err((cause, _))) => return debug!(%address, %cause, "a connection to admin.listen ended early"),
        Err(_) => {
            return debug!(%address, "a connection to admin.listen was closed: its handshake took too long");
        }
    };
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(|chain| chain.first());
    let Some(certificate) = shown.and_then(|shown| PeerCertificate::read(shown)) else {
        return warn!(%address, "a connection to admin.listen was refused: its certificate cannot be read");
    };
    let connection = Connection {
        peer: Peer::Certificate(Arc::new(certificate)),
        stream: Box::new(stream),
        _place: place,
    };
    // Nobody takes it when the daemon ends.
    let _ = sender.send(Ok(connection)).await;
}

/// Takes what the other end has sent already: what is left unread would make the system reset the connection, and the reason
/// would be lost with it.
async fn hear_out(mut stream: TcpStream) {
    let mut unread = [0; 4096];
    if stream.shutdown().await.is_ok() {
        while stream.read(&mut unread).await.is_ok_and(|bytes| bytes > 0) {}
    }
}

/// Answers go out at once, and the place of a machine that is gone becomes free.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE)?;
    sockopt::set_tcp_keepintvl(stream, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    Ok(())
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
