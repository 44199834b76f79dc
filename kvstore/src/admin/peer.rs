//! Who is at the other end of a connection.

use std::sync::Arc;

use tonic::transport::server::UdsConnectInfo;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) enum Peer {
    /// A process of this machine, as the kernel says.
    Process(UdsConnectInfo),
    /// Whoever has the key of a certificate that `admin.tls-client-ca` vouches for.
    Certificate(Arc<PeerCertificate>),
}

/// What a client's certificate says, once TLS has found it good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PeerCertificate {
    /// DNS names and URIs, then common names.
    names: Vec<String>,
    /// In hexadecimal.
    serial: String,
}

impl PeerCertificate {
    /// Reads it. None if it is no certificate that can be read.
    pub(super) fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let alternative = certificate.subject_alternative_name().ok()?;
        let alternative = alternative.iter().flat_map(|found| &found.value.general_names);
        let mut names: Vec<String> = alternative
            .filter_map(|name| match name {
                GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect();
        let common = certificate.subject().iter_common_name();
        for name in common.filter_map(|name| name.as_str().ok()) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        Some(Self {
            names,
            serial: format!("{:x}", certificate.serial),
        })
    }

    /// Whether one of these is a name of it, letter for letter.
    pub(super) fn is_one_of(&self, names: &[String]) -> bool {
        self.names.iter().any(|name| names.contains(name))
    }

    /// For people and the log: the names and the serial number.
    pub(super) fn label(&self) -> String {
        let names = self.names.join(", ");
        let names = if names.is_empty() {
            "without a name"
        } else {
            &names
        };
        format!("{names} (serial {})", self.serial)
    }
}
