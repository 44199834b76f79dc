//! The admin API over TCP: certificates on both sides, and what each may do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use support::command::{json, kvtier, shown};
use support::{Daemon, Place, eventually};

/// A CA with its files in a place: `NAME.pem`, and `LEAF.pem` and `LEAF.key` for each certificate.
struct Authority<'a> {
    place: &'a Place,
    issuer: Issuer<'static, KeyPair>,
}

impl<'a> Authority<'a> {
    fn new(place: &'a Place, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = named(name);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(place.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { place, issuer }
    }

    /// A certificate with these alternative names and this common name.
    fn issue(&self, file: &str, names: Vec<SanType>, common: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.distinguished_name = named(common);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let write = |ending, text| std::fs::write(self.place.path(&format!("{file}.{ending}")), text);
        write("pem", certificate.pem()).unwrap();
        write("key", key.serialize_pem()).unwrap();
    }
}

fn named(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// A CA for both sides, the daemon's certificate, those of a reader and of two administrators, and a stranger's.
fn certificates(place: &Place) {
    let ca = Authority::new(place, "ca");
    let here = SanType::IpAddress("127.0.0.1".parse().unwrap());
    ca.issue("daemon", vec![here], "kvtierd");
    ca.issue("reader", vec![dns("reader.example")], "somebody");
    let uri = SanType::URI("spiffe://example/operator".try_into().unwrap());
    ca.issue("by-uri", vec![uri, dns("pod.example")], "pod");
    ca.issue("by-common-name", Vec::new(), "operator");
    let foreign = Authority::new(place, "foreign");
    foreign.issue("stranger", vec![dns("stranger.example")], "operator");
}

fn variables(place: &Place) -> Vec<(&'static str, String)> {
    let file = |name: &str| place.path(name).display().to_string();
    vec![
        ("KVTIER_ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ("KVTIER_ADMIN_TLS_CERTIFICATE", file("daemon.pem")),
        ("KVTIER_ADMIN_TLS_KEY", file("daemon.key")),
        ("KVTIER_ADMIN_TLS_CLIENT_CA", file("ca.pem")),
        (
            "KVTIER_ADMIN_TLS_ADMINISTRATORS",
            "spiffe://example/operator,operator".to_owned(),
        ),
    ]
}

fn start(place: &Place) -> (Daemon, SocketAddr) {
    certificates(place);
    let variables = variables(place);
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let daemon = place.start_with(&variables);
    let address = eventually("the port is in the log", || {
        let log = daemon.log();
        let line = log
            .lines()
            .find(|line| line.contains("with TLS at a port as well"))?;
        let (_, address) = line.split_once("address=")?;
        address.split_whitespace().next()?.parse().ok()
    });
    (daemon, address)
}

/// The options of somebody who has this certificate.
fn options(place: &Place, address: SocketAddr, who: &str, ca: &str) -> Vec<String> {
    let file = |name: String| place.path(&name).display().to_string();
    let options = [
        ("--address", format!("https://{address}")),
        ("--tls-ca", file(format!("{ca}.pem"))),
        ("--tls-certificate", file(format!("{who}.pem"))),
        ("--tls-key", file(format!("{who}.key"))),
    ];
    options
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
}

#[test]
fn readers_look_and_the_administrators_that_are_named_change_things() {
    let place = Place::new();
    let (daemon, address) = start(&place);
    let call = |who: &str, words: &[&str]| {
        let options = options(&place, address, who, "ca");
        let words: Vec<&str> = words
            .iter()
            .copied()
            .chain(options.iter().map(String::as_str))
            .collect();
        kvtier(&place, &words)
    };
    let own = json(&place, &["tiers"]);
    for who in ["reader", "by-uri", "by-common-name"] {
        let (code, out, error) = call(who, &["tiers", "--json"]);
        assert_eq!(code, 0, "{who}: {error}");
        let tiers: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(tiers["tiers"][0]["tier"], own["tiers"][0]["tier"], "{who}");
    }
    let changes: [&[&str]; 4] = [
        &["set", "host.watermark-low=0.5"],
        &["evict", "--all"],
        &["unpin", "--all"],
        &["drain"],
    ];
    for words in changes {
        let (code, _, error) = call("reader", words);
        assert_eq!(code, 77, "{words:?}: {error}");
        assert!(
            error.contains("certificate reader.example, somebody (serial ")
                && error.contains("may look but not")
                && error.contains("admin.tls-administrators"),
            "{error}"
        );
    }
    assert!(!daemon.log().contains("audit:"), "{}", daemon.log());
    let (code, _, error) = call("by-uri", &["set", "host.watermark-low=0.5"]);
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = call("by-common-name", &["set", "host.watermark-low=0.6"]);
    assert_eq!(code, 0, "{error}");
    assert!(shown(&place, &["status", "--settings"]).contains("0.6"));
    let log = daemon.log();
    let audits: Vec<&str> = log.lines().filter(|line| line.contains("audit:")).collect();
    let [by_uri, by_name] = audits[..] else {
        panic!("want two lines, got {audits:?}")
    };
    assert!(
        by_uri.contains("certificate=\"spiffe://example/operator, pod.example, pod (serial "),
        "{by_uri}"
    );
    assert!(by_name.contains("certificate=\"operator (serial "), "{by_name}");
    assert!(!by_name.contains("uid="), "{by_name}");
}

#[test]
fn who_has_no_certificate_of_the_ca_is_refused_at_the_handshake() {
    let place = Place::new();
    let (daemon, address) = start(&place);
    // The right common name, of the wrong CA.
    let strange = options(&place, address, "stranger", "ca");
    let mut words = vec!["status"];
    words.extend(strange.iter().map(String::as_str));
    let (code, out, error) = kvtier(&place, &words);
    assert_eq!((code, out.as_str()), (1, ""), "{error}");
    assert!(
        error.contains("UnknownCA") || error.contains("unknown certificate authority"),
        "{error}"
    );
    daemon.says("a connection to admin.listen was refused");
    // Nor does a client believe a daemon whose CA is another.
    let other = options(&place, address, "reader", "foreign");
    let mut words = vec!["status"];
    words.extend(other.iter().map(String::as_str));
    let (code, _, error) = kvtier(&place, &words);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("UnknownIssuer"), "{error}");
    // Without any: the daemon's end of the handshake fails, and it says why.
    let mut stream = without_certificate(&place, address);
    let failure = stream.read(&mut [0; 1]).unwrap_err();
    assert!(failure.to_string().contains("CertificateRequired"), "{failure}");
    // Without TLS.
    let mut plain = TcpStream::connect(address).unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // It may be reset as well as closed.
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.windows(4).any(|part| part == b"HTTP"), "{answer:?}");
    // Others are served as before.
    let good = options(&place, address, "reader", "ca");
    let mut words = vec!["status"];
    words.extend(good.iter().map(String::as_str));
    let (code, _, error) = kvtier(&place, &words);
    assert_eq!(code, 0, "{error}");
    shown(&place, &["status"]);
}

/// A connection of a client that believes the daemon and shows nothing.
fn without_certificate(place: &Place, address: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(place.path("ca.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut config = config;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(session, TcpStream::connect(address).unwrap())
}

#[test]
fn files_that_do_not_fit_end_the_start_before_anything_is_there() {
    let place = Place::new();
    certificates(&place);
    std::fs::write(place.path("text"), "no PEM").unwrap();
    let cases = [
        (
            "KVTIER_ADMIN_TLS_CERTIFICATE",
            "missing",
            "admin.tls-certificate: ",
            "could not be read: No such file",
        ),
        (
            "KVTIER_ADMIN_TLS_CERTIFICATE",
            "text",
            "admin.tls-certificate: ",
            "want at least one certificate in PEM",
        ),
        (
            "KVTIER_ADMIN_TLS_KEY",
            "reader.key",
            "admin.tls-key: ",
            "is not the key of the certificate in admin.tls-certificate",
        ),
        (
            "KVTIER_ADMIN_TLS_KEY",
            "daemon.pem",
            "admin.tls-key: ",
            "want a private key in PEM",
        ),
        (
            "KVTIER_ADMIN_TLS_CLIENT_CA",
            "text",
            "admin.tls-client-ca: ",
            "want at least one certificate in PEM",
        ),
    ];
    for (variable, file, key, reason) in cases {
        let mut command = place.command();
        command.envs(variables(&place)).env(variable, place.path(file));
        let (code, said) = support::run(&mut command);
        assert_eq!(code, 64, "{said}");
        assert!(said.contains(key) && said.contains(reason), "{said}");
        assert!(!place.path("run").exists(), "{said}");
    }
    let mut command = place.command();
    command.env("KVTIER_ADMIN_LISTEN", "127.0.0.1:0");
    let (code, said) = support::run(&mut command);
    assert_eq!(code, 64, "{said}");
    for key in ["admin.tls-certificate", "admin.tls-key", "admin.tls-client-ca"] {
        assert!(
            said.contains(&format!("{key}: want a PEM file, because admin.listen is set")),
            "{said}"
        );
    }
}

#[test]
fn an_address_that_makes_no_sense_is_a_mistake_in_the_command_line() {
    let place = Place::new();
    certificates(&place);
    let address = "127.0.0.1:1".parse().unwrap();
    for wrong in [
        "http://127.0.0.1:1",
        "https://127.0.0.1",
        "https://a@127.0.0.1:1",
        "127.0.0.1:1",
    ] {
        let mut words = options(&place, address, "reader", "ca");
        wrong.clone_into(&mut words[1]);
        let mut all = vec!["status"];
        all.extend(words.iter().map(String::as_str));
        let (code, _, error) = kvtier(&place, &all);
        assert_eq!(code, 64, "{error}");
        assert!(error.contains("want https://HOST:PORT"), "{error}");
    }
    let (code, _, error) = kvtier(&place, &["status", "--address", "https://127.0.0.1:1"]);
    assert_eq!(code, 64, "{error}");
    assert!(error.contains("--tls-ca"), "{error}");
}
