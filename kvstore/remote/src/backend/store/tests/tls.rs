//! TLS is verified: by the certificates that the spec names, and by nobody's else.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::Server;
use crate::backend::Hold;
use crate::{FaultKind, StoreSpec};

/// Something that speaks TLS in front of a server: where, and the file with its certificate.
async fn front(server: &Server) -> (u16, PathBuf) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let file = server.place.path().join("ca.pem");
    std::fs::write(&file, cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (port, upstream) = (listener.local_addr().unwrap().port(), server.port);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut client = acceptor.accept(socket).await?;
                let mut inner = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await?;
                copy_bidirectional(&mut client, &mut inner).await
            });
        }
    });
    (port, file)
}

#[tokio::test]
async fn a_certificate_is_trusted_only_if_it_is_named() {
    let server = Server::start();
    let (port, file) = front(&server).await;
    let spec = StoreSpec {
        endpoint: Some(format!("https://localhost:{port}")),
        ca_file: Some(file),
        ..server.spec()
    };
    let stranger = StoreSpec {
        ca_file: None,
        ..spec.clone()
    };
    let get = async |spec| {
        let hold: Hold = Arc::new(());
        let body = server.backend(&spec).get("v1/aa/00/x", 0..4096, hold).await;
        body.map(|body| body.is_some())
    };
    assert_eq!(get(spec).await, Ok(false));
    let fault = get(stranger).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Connection);
    assert!(fault.text.contains("certificate"), "{fault}");
}
