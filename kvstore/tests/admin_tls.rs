//! The admin API over TCP: certificates on both sides, and what each may do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType};
use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use support::command::{json, kvtier, shown};
use support::{Daemon, Place, eventually, http};

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
        self.issue_until(file, names, common, 2045);
    }

    /// The same, good until this year begins.
    fn issue_until(&self, file: &str, names: Vec<SanType>, common: &str, year: i32) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
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
    start_with(place, &variables(place))
}

fn start_with(place: &Place, variables: &[(&str, String)]) -> (Daemon, SocketAddr) {
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
        for mut command in [place.command(), place.kvtier(&["check-config"])] {
            command.envs(variables(&place)).env(variable, place.path(file));
            let (code, said) = support::run(&mut command);
            assert_eq!(code, 64, "{said}");
            assert!(said.contains(key) && said.contains(reason), "{said}");
            assert!(!place.path("run").exists(), "{said}");
        }
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

/// A directory as a Secret is mounted: names are links into `..data`, which is a link to the files of one version and is exchanged
/// as a whole.
struct Secret<'a> {
    place: &'a Place,
    versions: u32,
}

impl Secret<'_> {
    const FILES: [&'static str; 3] = ["tls.crt", "tls.key", "ca.crt"];

    fn path(&self, name: &str) -> PathBuf {
        self.place.path("secret").join(name)
    }

    /// Puts copies of these files of the place there, in one step.
    fn put(&mut self, sources: [&str; 3]) {
        self.versions += 1;
        let version = format!("..version-{}", self.versions);
        std::fs::create_dir_all(self.path(&version)).unwrap();
        for (name, source) in Self::FILES.into_iter().zip(sources) {
            std::fs::copy(self.place.path(source), self.path(&version).join(name)).unwrap();
            if self.versions == 1 {
                std::os::unix::fs::symlink(format!("..data/{name}"), self.path(name)).unwrap();
            }
        }
        std::os::unix::fs::symlink(version, self.path("..next")).unwrap();
        std::fs::rename(self.path("..next"), self.path("..data")).unwrap();
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let keys = [
            "KVTIER_ADMIN_TLS_CERTIFICATE",
            "KVTIER_ADMIN_TLS_KEY",
            "KVTIER_ADMIN_TLS_CLIENT_CA",
        ];
        let files = Self::FILES.map(|name| self.path(name).display().to_string());
        let mut variables: Vec<_> = keys.into_iter().zip(files).collect();
        variables.push(("KVTIER_ADMIN_LISTEN", "127.0.0.1:0".to_owned()));
        variables.push(("KVTIER_METRICS_LISTEN", "127.0.0.1:0".to_owned()));
        variables
    }
}

/// The numbers of one sample each.
fn metrics(daemon: &Daemon, names: &[&str]) -> Vec<u64> {
    let (_, text) = http::get(http::address(daemon), "/metrics", "");
    let number = |name: &&str| {
        let found = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("kvtier_admin_tls_{name} ")));
        found
            .unwrap_or_else(|| panic!("{name} in {text}"))
            .parse()
            .unwrap()
    };
    names.iter().map(number).collect()
}

/// Certificates used to be read once, so that a renewed one needed a restart, and with it everything that is in memory only.
#[test]
fn renewed_certificates_are_taken_and_connections_stay() {
    let place = Place::new();
    let here = || vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
    for (ca, year) in [("ca", 2030), ("later", 2031)] {
        let authority = Authority::new(&place, ca);
        authority.issue_until(&format!("{ca}-daemon"), here(), "kvtierd", year);
        authority.issue(&format!("{ca}-reader"), vec![dns("reader.example")], "somebody");
    }
    let mut secret = Secret {
        place: &place,
        versions: 0,
    };
    secret.put(["ca-daemon.pem", "ca-daemon.key", "ca.pem"]);
    let (daemon, address) = start_with(&place, &secret.variables());
    let ends = |year| u64::try_from(rcgen::date_time_ymd(year, 1, 1).unix_timestamp()).unwrap();
    let names = [
        "end_timestamp_seconds{file=\"certificate\"}",
        "reads_total{outcome=\"taken\"}",
        "reads_total{outcome=\"refused\"}",
        "out_of_date",
    ];
    assert_eq!(metrics(&daemon, &names), [ends(2030), 0, 0, 0]);
    let status = |ca: &str| {
        let options = options(&place, address, &format!("{ca}-reader"), ca);
        let mut words = vec!["status"];
        words.extend(options.iter().map(String::as_str));
        let (code, _, error) = kvtier(&place, &words);
        (code, error)
    };
    assert_eq!(status("ca").0, 0);
    let top = options(&place, address, "ca-reader", "ca");
    let mut words = vec!["top", "--json", "--interval", "100ms"];
    words.extend(top.iter().map(String::as_str));
    let mut top = place.kvtier(&words).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(top.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();

    secret.put(["later-daemon.pem", "later-daemon.key", "later.pem"]);
    daemon.says("new connections use what is in them now");
    assert_eq!(metrics(&daemon, &names), [ends(2031), 1, 0, 0]);
    // Who has the old CA's certificate cannot come any more, in both directions; who is there stays.
    let (code, error) = status("ca");
    assert!(code == 1 && error.contains("UnknownIssuer"), "{code} {error}");
    assert_eq!(status("later"), (0, String::new()));
    for _ in 0..5 {
        lines.next().unwrap().unwrap();
    }
    top.kill().unwrap();
    top.wait().unwrap();

    // What does not belong together, what is no PEM, and what is not there.
    secret.put(["ca-daemon.pem", "later-daemon.key", "later.pem"]);
    daemon.signal(Signal::HUP);
    daemon.says("is not the key of the certificate in admin.tls-certificate");
    assert_eq!(metrics(&daemon, &names), [ends(2031), 1, 1, 1]);
    assert_eq!(status("later"), (0, String::new()));
    std::fs::write(place.path("text"), "no PEM").unwrap();
    secret.put(["later-daemon.pem", "later-daemon.key", "text"]);
    daemon.signal(Signal::HUP);
    daemon.says("want at least one certificate in PEM");
    std::fs::remove_file(secret.path("..data")).unwrap();
    daemon.signal(Signal::HUP);
    daemon.says("could not be read: No such file");
    daemon.signal(Signal::HUP);
    assert_eq!(status("later"), (0, String::new()));
    secret.put(["later-daemon.pem", "later-daemon.key", "later.pem"]);
    daemon.signal(Signal::HUP);
    eventually("the files are good again", || {
        (metrics(&daemon, &names) == [ends(2031), 2, 3, 0]).then_some(())
    });
    assert_eq!(
        daemon.log().matches("what was read before stays in use").count(),
        3,
        "each is told once"
    );
}

/// One name for the daemons of all pods, whose addresses no certificate can know.
#[test]
fn a_daemons_certificate_may_have_another_name_than_its_address() {
    let place = Place::new();
    let ca = Authority::new(&place, "ca");
    ca.issue("daemon", vec![dns("kvtier.kvtier.svc")], "kvtierd");
    ca.issue("reader", Vec::new(), "somebody");
    let (_daemon, address) = start_with(&place, &variables(&place));
    let call = |name: &[&str]| {
        let options = options(&place, address, "reader", "ca");
        let mut words = vec!["status"];
        words.extend(options.iter().map(String::as_str));
        words.extend(name);
        kvtier(&place, &words)
    };
    let (code, _, error) = call(&[]);
    assert!(code == 1 && error.contains("not valid for name"), "{error}");
    let (code, _, error) = call(&["--tls-name", "kvtier.kvtier.svc"]);
    assert_eq!(code, 0, "{error}");
    let (code, _, error) = call(&["--tls-name", "no name"]);
    assert!(
        code == 64 && error.contains("--tls-name: want a DNS name"),
        "{error}"
    );
}
