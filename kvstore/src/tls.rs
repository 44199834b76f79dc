//! TLS with certificates on both sides, for the admin API over TCP: both ends of it.
//!
//! Only TLS 1.3, without tickets: each connection shows its certificate anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvstore_remote::read_small_file;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// Most bytes of a file: a whole system's certificates are a few hundred KiB.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// What HTTP/2 is called when two ends agree on it.
const HTTP2: &[u8] = b"h2";

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {}: {text}", .path.display())]
pub(crate) struct TlsError {
    name: &'static str,
    path: PathBuf,
    text: String,
}

/// A PEM file, and what a person calls it: a key of the configuration or an option.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PemFile<'a> {
    /// The key or option.
    pub(crate) name: &'static str,
    /// Where it is.
    pub(crate) path: &'a Path,
}

/// Who one is, and whom one believes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files<'a> {
    /// One's certificate, followed by those between it and its CA.
    pub(crate) certificate: PemFile<'a>,
    /// Its private key.
    pub(crate) key: PemFile<'a>,
    /// The CA (or several) of the other side.
    pub(crate) ca: PemFile<'a>,
}

impl PemFile<'_> {
    fn error(&self, text: impl Into<String>) -> TlsError {
        TlsError {
            name: self.name,
            path: self.path.to_owned(),
            text: text.into(),
        }
    }

    fn read(&self) -> Result<Vec<u8>, TlsError> {
        read_small_file(self.path, FILE_BYTES_MAX)
            .map_err(|error| self.error(format!("could not be read: {error}")))
    }

    fn certificates(&self, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        match found {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            Ok(_) => Err(self.error("want at least one certificate in PEM")),
            Err(error) => Err(self.error(format!("want certificates in PEM: {error}"))),
        }
    }

    /// What is wrong is told without a byte of the file.
    fn private_key(&self, text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(text).map_err(|_| self.error("want a private key in PEM"))
    }
}

/// What is in the files.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

/// How a server speaks TLS, and until when its files are good, in seconds since 1970.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// For handshakes.
    pub(crate) config: Arc<ServerConfig>,
    /// The first end among its certificate and those between it and its CA.
    pub(crate) certificate_end_s: i64,
    /// The last end among the CAs of clients.
    pub(crate) client_ca_end_s: i64,
}

impl Files<'_> {
    /// Reads the files, without looking at what is in them.
    pub(crate) fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            certificate: self.certificate.read()?,
            key: self.key.read()?,
            ca: self.ca.read()?,
        })
    }

    fn roots(&self, certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            let added = roots.add(certificate);
            added.map_err(|error| self.ca.error(format!("want certificates of a CA: {error}")))?;
        }
        Ok(roots)
    }

    fn mismatch(&self, error: &Error) -> TlsError {
        match error {
            Error::InconsistentKeys(_) => self.key.error(format!(
                "is not the key of the certificate in {} ({})",
                self.certificate.name,
                self.certificate.path.display()
            )),
            Error::InvalidCertificate(_) => self.certificate.error(error.to_string()),
            _ => self.key.error(error.to_string()),
        }
    }

    /// A server whose clients have to show a certificate, with these contents of the files.
    pub(crate) fn server(&self, contents: &Contents) -> Result<Server, TlsError> {
        let provider = provider();
        let certificates = self.certificate.certificates(&contents.certificate)?;
        let key = self.key.private_key(&contents.key)?;
        let authorities = self.ca.certificates(&contents.ca)?;
        let certificate_end_s = ends(&certificates).min().unwrap_or(i64::MAX);
        let client_ca_end_s = ends(&authorities).max().unwrap_or(i64::MAX);
        let roots = Arc::new(self.roots(authorities)?);
        let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let clients = clients.map_err(|error| self.ca.error(error.to_string()))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| self.key.error(error.to_string()))?
            .with_client_cert_verifier(clients)
            .with_single_cert(certificates, key);
        let mut config = config.map_err(|error| self.mismatch(&error))?;
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Server {
            config: Arc::new(config),
            certificate_end_s,
            client_ca_end_s,
        })
    }

    /// Reads the files of a client that shows a certificate.
    pub(crate) fn client(&self) -> Result<ClientConfig, TlsError> {
        let contents = self.read()?;
        let roots = self.roots(self.ca.certificates(&contents.ca)?)?;
        let certificates = self.certificate.certificates(&contents.certificate)?;
        let key = self.key.private_key(&contents.key)?;
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| self.key.error(error.to_string()))?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates, key);
        let mut config = config.map_err(|error| self.mismatch(&error))?;
        config.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(config)
    }
}

/// Until when certificates are good. One that cannot be read is not counted: TLS has its own opinion of it.
fn ends(certificates: &[CertificateDer<'_>]) -> impl Iterator<Item = i64> {
    let read = certificates
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok());
    read.map(|(_, certificate)| certificate.validity().not_after.timestamp())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
