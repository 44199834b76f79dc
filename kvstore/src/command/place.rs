//! Where a daemon's admin API is: a socket of this machine, or a port of any.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::codegen::http::uri::Scheme;

use crate::tls::Files;

/// Where a daemon's admin API is.
#[derive(Debug)]
pub(crate) enum Place {
    /// A unix socket, and who named it.
    Socket(PathBuf, NamedBy),
    /// A port where TLS is spoken.
    Tls(TlsPlace),
}

/// Who named a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NamedBy {
    /// The command line.
    Option,
    /// This variable.
    Variable(&'static str),
    /// Nobody: it is where a daemon that was told nothing else has it.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path, NamedBy::Variable(name)) => write!(f, "{} ({name})", path.display()),
            Self::Socket(path, _) => path.display().fmt(f),
            Self::Tls(place) => place.uri.fmt(f),
        }
    }
}

/// A port where TLS is spoken, and how to speak it there.
#[derive(Clone)]
pub(crate) struct TlsPlace {
    uri: Uri,
    host: String,
    port: u16,
    name: ServerName<'static>,
    connector: TlsConnector,
}

impl fmt::Debug for TlsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsPlace")
            .field("uri", &self.uri)
            .finish_non_exhaustive()
    }
}

impl TlsPlace {
    /// Reads the address and the files. `name`: what the certificate has to name instead of the address's host.
    pub(super) fn new(address: &str, name: Option<&str>, files: &Files<'_>) -> Result<Self, String> {
        let want = || format!("--address: want https://HOST:PORT, got {address:?}");
        let uri: Uri = address.parse().map_err(|_| want())?;
        let (Some("https"), Some(host), Some(port)) = (uri.scheme_str(), uri.host(), uri.port_u16()) else {
            return Err(want());
        };
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(want());
        }
        // An IPv6 address is in brackets there.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = match name {
            None => ServerName::try_from(host.clone()).map_err(|_| want())?,
            Some(name) => ServerName::try_from(name.to_owned())
                .map_err(|_| format!("--tls-name: want a DNS name or an address, got {name:?}"))?,
        };
        let config = files.client().map_err(|error| error.to_string())?;
        Ok(Self {
            host,
            port,
            name,
            connector: TlsConnector::from(Arc::new(config)),
            uri,
        })
    }

    /// The address, as it was given.
    pub(super) fn uri(&self) -> Uri {
        self.uri.clone()
    }

    /// The address as the transport has to see it: told "https", it refuses a connector that does TLS itself.
    pub(super) fn transport_uri(&self) -> Uri {
        let mut parts = self.uri.clone().into_parts();
        parts.scheme = Some(Scheme::HTTP);
        // What was a URI with another scheme is one with this.
        Uri::from_parts(parts).unwrap_or_else(|_| self.uri.clone())
    }

    async fn connect(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        let stream = self.connector.connect(self.name, stream).await?;
        Ok(TokioIo::new(stream))
    }
}

impl Service<Uri> for TlsPlace {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}
