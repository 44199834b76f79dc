//! The way to a daemon's admin API, and what to say when it does not work.

use std::fmt;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

use kvtier_proto::v1::admin_client::AdminClient;
use kvtier_proto::v1::watch_client::WatchClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::code;
use super::place::Place;
use crate::config::admin_socket_beside;
use crate::instance::holder_beside;
use crate::tenant::error_chain;

/// How long somebody may take to say what they speak.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to a daemon.
#[derive(Debug)]
pub(crate) struct Client {
    /// `kvtier.v1.Admin`.
    pub(crate) admin: AdminClient<Channel>,
    /// `kvtier.v1.Watch`.
    pub(crate) watch: WatchClient<Channel>,
    timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// Nobody is there, or nobody lets us in.
    Connect(tonic::transport::Error),
    /// The path makes no socket's address.
    Path(String),
    /// Somebody is there who speaks something else.
    OtherProtocol,
    /// The daemon said no, or the call failed.
    Call(Status),
    /// The answer cannot be shown.
    Answer(String),
    /// What was asked for makes no sense.
    Usage(String),
}

impl From<Status> for Trouble {
    fn from(status: Status) -> Self {
        Self::Call(status)
    }
}

impl Client {
    /// How long an answer may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Connects to the daemon at this place, and gives every call so much time.
    pub(crate) async fn connect(place: &Place, timeout: Duration) -> Result<Self, Trouble> {
        let connected = match place {
            Place::Socket(socket, _) => {
                // Only where it may well be: who is asked writes a line into its log.
                if admin_socket_beside(socket).exists() && !speaks_http2(socket).await {
                    return Err(Trouble::OtherProtocol);
                }
                let absolute =
                    std::path::absolute(socket).map_err(|error| Trouble::Path(error.to_string()))?;
                let text = absolute
                    .to_str()
                    .ok_or_else(|| Trouble::Path("is no UTF-8".to_owned()))?;
                let endpoint = Endpoint::from_shared(format!("unix://{text}"))
                    .map_err(|error| Trouble::Path(error_chain(&error)))?;
                endpoint.connect_timeout(timeout).connect().await
            }
            Place::Tls(tls) => {
                let endpoint = Endpoint::from(tls.transport_uri()).origin(tls.uri());
                let endpoint = endpoint.connect_timeout(timeout);
                endpoint.connect_with_connector(tls.clone()).await
            }
        };
        let channel = connected.map_err(Trouble::Connect)?;
        Ok(Self {
            admin: AdminClient::new(channel.clone()),
            watch: WatchClient::new(channel),
            timeout,
        })
    }

    /// A request with its deadline.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

/// An answer's message.
pub(crate) fn message<T>(answer: Result<Response<T>, Status>) -> Result<T, Trouble> {
    Ok(answer?.into_inner())
}

impl Trouble {
    /// What to tell a person, and what they can do.
    pub(super) fn explain(&self, place: &Place) -> String {
        match (self, place) {
            (Self::Connect(error), Place::Socket(path, _)) => match io_kind(error) {
                Some(kind) if let Some(text) = explain_connect(kind, path) => format!("{place}: {text}"),
                Some(_) => format!("{place}: {}", error_chain(error)),
                None => format!("{place}: {}", other_protocol(path)),
            },
            (Self::OtherProtocol, Place::Socket(path, _)) => format!("{place}: {}", other_protocol(path)),
            (Self::OtherProtocol, Place::Tls(_)) => format!("{place}: {}", self.short()),
            (Self::Connect(error), Place::Tls(_)) => format!("{place}: {}", error_chain(error)),
            (Self::Path(text), _) => format!("{place}: {text}"),
            // The daemon's end of the handshake comes after this one's, so its refusal is heard here.
            (Self::Call(status), Place::Tls(_)) => match lost(status) {
                Some(cause) => format!("{place}: {}", error_chain(cause)),
                None => explain_call(status, place),
            },
            (Self::Call(status), Place::Socket(path, _)) => match lost(status) {
                Some(cause) if error_chain(cause).contains("http2 error") => {
                    format!("{place}: {}", other_protocol(path))
                }
                _ => explain_call(status, place),
            },
            (Self::Answer(text), _) => format!("{place}: the answer cannot be shown: {text}"),
            (Self::Usage(text), _) => text.clone(),
        }
    }

    /// The same in a few words, for a place where there is no room.
    pub(super) fn short(&self) -> String {
        match self {
            Self::Connect(error) => error_chain(error),
            Self::Call(status) if status.message().is_empty() => status.code().description().to_owned(),
            Self::Call(status) => status.message().to_owned(),
            Self::OtherProtocol => "what answers does not speak the admin API".to_owned(),
            Self::Path(text) | Self::Answer(text) | Self::Usage(text) => text.clone(),
        }
    }

    /// What to exit with.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Connect(error) if io_kind(error) == Some(io::ErrorKind::PermissionDenied) => code::DENIED,
            Self::Connect(_) | Self::Path(_) | Self::OtherProtocol | Self::Answer(_) => code::UNREACHABLE,
            Self::Usage(_) => code::USAGE,
            Self::Call(status) => match status.code() {
                Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::OutOfRange => {
                    code::USAGE
                }
                Code::PermissionDenied | Code::Unauthenticated => code::DENIED,
                _ => code::UNREACHABLE,
            },
        }
    }
}

fn explain_connect(kind: io::ErrorKind, path: &Path) -> Option<String> {
    use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    if kind == ConnectionRefused
        && path
            .metadata()
            .is_ok_and(|metadata| !metadata.file_type().is_socket())
    {
        return Some("is no socket; name the daemon's admin.socket".to_owned());
    }
    if matches!(kind, NotFound | ConnectionRefused)
        && let Some(holder) = holder_beside(path)
    {
        return Some(format!(
            "kvtierd{holder} is starting or ending and does not answer; its log and /readyz (metrics.listen) say what it \
             waits for"
        ));
    }
    let text = match kind {
        NotFound => {
            "no daemon at the socket; start kvtierd, or name its admin.socket with --socket or KVTIER_CLI_SOCKET"
        }
        ConnectionRefused => "no daemon at the socket: one was there and is gone; start kvtierd",
        PermissionDenied => {
            "this user may not connect; use the daemon's user or root, or have the administrator set socket-group and \
             admin.reader-uids or admin.reader-gids"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

/// What to say where somebody answers and it is no admin API: most often that is the socket of engines.
fn other_protocol(path: &Path) -> String {
    let admin = admin_socket_beside(path);
    let hint = if admin.exists() {
        format!("the admin API is at {} (admin.socket)", admin.display())
    } else {
        "the admin API has a socket of its own (admin.socket)".to_owned()
    };
    format!(
        "what answers there does not speak the admin API and looks like the socket of engines (socket): {hint}"
    )
}

/// Whether somebody speaks HTTP/2 at a socket. Where nobody answers it is for the connection that follows to tell.
async fn speaks_http2(path: &Path) -> bool {
    /// How a client begins, with settings that say nothing.
    const BEGINNING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    /// The type of a frame with settings, with which a server begins.
    const SETTINGS: u8 = 4;
    let ask = async {
        let mut stream = UnixStream::connect(path).await?;
        stream.write_all(BEGINNING).await?;
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).await?;
        io::Result::Ok(frame[3] == SETTINGS)
    };
    match tokio::time::timeout(PROBE_TIMEOUT, ask).await {
        Ok(Ok(is_http2)) => is_http2,
        Ok(Err(error)) => !matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ),
        Err(_) => true,
    }
}

/// The system's answer, where there is one below.
fn io_kind(error: &dyn std::error::Error) -> Option<io::ErrorKind> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = cause.source();
    }
    None
}

/// Why the connection was lost, if that is what has happened.
fn lost(status: &Status) -> Option<&dyn std::error::Error> {
    let is_lost = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal);
    std::error::Error::source(status).filter(|_| is_lost)
}

fn explain_call(status: &Status, place: &dyn fmt::Display) -> String {
    let text = status.message();
    match status.code() {
        // What is wrong with the request says all there is.
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::PermissionDenied => {
            text.to_owned()
        }
        Code::Cancelled | Code::DeadlineExceeded => {
            format!(
                "{place}: no answer in time; --timeout gives it more, the daemon's log and /healthz say how it is"
            )
        }
        Code::Unimplemented => format!(
            "{place}: the daemon does not know this; is it older than this command ({})?",
            env!("CARGO_PKG_VERSION")
        ),
        _ if text.is_empty() => format!("{place}: {}", status.code().description()),
        _ => format!("{place}: {text}"),
    }
}
