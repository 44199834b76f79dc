//! Google's and Azure's stores under a real daemon: what one node has stored another finds, and nothing secret is told.
//!
//! The stores are emulators, which `scripts/emulators.sh` starts; a test without one says so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and what cannot be had is said"
)]

mod support;

use std::io::{Read, Write};
use std::path::Path;

use support::blocks::{CHAIN, Cache};
use support::command::{json, shown};
use support::remote::Watched;
use support::{Place, eventually, run};

/// Twice as much as the host tier holds.
const CHAINS: u32 = 32;

/// A store, as the variable says it: an endpoint and a bucket, perhaps an account (`-`: none) and a file of credentials.
struct Cloud {
    kind: &'static str,
    words: Vec<String>,
}

impl Cloud {
    fn of(kind: &'static str, variable: &str) -> Option<Self> {
        let Ok(place) = std::env::var(variable) else {
            println!("SKIPPED: {variable} names no store; scripts/emulators.sh starts one");
            return None;
        };
        let words = place.split(' ').map(str::to_owned).collect();
        Some(Self { kind, words })
    }

    fn file(&self) -> Option<&str> {
        self.words.get(3).map(String::as_str)
    }

    /// Settings of a tier in a part of its own, whose credentials come from this file or from nobody.
    fn settings<'s>(&'s self, part: &'s str, file: Option<&'s str>) -> Vec<(&'s str, &'s str)> {
        let mut settings = vec![
            ("KVTIER_REMOTE_KIND", self.kind),
            ("KVTIER_REMOTE_ENDPOINT", &self.words[0]),
            ("KVTIER_REMOTE_BUCKET", &self.words[1]),
            ("KVTIER_REMOTE_PREFIX", part),
        ];
        if let Some(account) = self.words.get(2).filter(|account| *account != "-") {
            settings.push(("KVTIER_REMOTE_ACCOUNT", account));
        }
        match file {
            Some(file) => settings.extend([
                ("KVTIER_REMOTE_CREDENTIALS", "file"),
                ("KVTIER_REMOTE_CREDENTIALS_FILE", file),
            ]),
            None => settings.push(("KVTIER_REMOTE_CREDENTIALS", "anonymous")),
        }
        settings
    }
}

/// A part that no other test and no earlier run has used.
fn part(of: &str, place: &Place) -> String {
    let own = place.path("x");
    let own = own.parent().and_then(Path::file_name).unwrap();
    format!("{of}/{}", own.to_string_lossy().trim_start_matches('.'))
}

fn is_shared(cloud: &Cloud) {
    let (one, other) = (Place::new(), Place::new());
    let part = part("shared", &one);
    let settings = cloud.settings(&part, cloud.file());
    let watched = Watched::start(&one, &settings);
    watched.is_serving();
    let mut cache = Cache::open(&watched.daemon, "");
    watched.store_durably(&mut cache, 0..CHAINS);
    let stored = watched.daemon.counter("remote_stored");
    assert_eq!(stored, u64::from(CHAINS * CHAIN));
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN);
    drop(cache);
    let told = [watched.daemon.log(), watched.scrape()].concat();
    drop(watched);

    let watched = Watched::start(&other, &settings);
    watched.is_serving();
    let mut cache = Cache::open(&watched.daemon, "");
    assert_eq!(cache.load_all(0..CHAINS), CHAINS * CHAIN);
    assert_eq!(watched.daemon.counter("remote_stored"), 0);
    assert_eq!(cache.load(1000), 0, "nobody has ever stored it");
    let store = watched.daemon.status()["remote"]["store"].to_string();
    assert!(store.contains(&format!("{} ", cloud.kind)), "{store}");

    // The command sweeps under a lease, which is an object that is replaced on a condition. It gives it back.
    let gc = |arguments: &[&str], capacity: &str| {
        let mut command = other.kvtier(&[&["remote", "gc"], arguments].concat());
        command.envs(settings.iter().copied());
        let (code, said) = run(command.env("KVTIER_REMOTE_CAPACITY", capacity));
        assert_eq!(code, 0, "{said}");
        said
    };
    gc(&["--dry-run"], "none");
    gc(&[], "1MiB");
    gc(&[], "1MiB");
    let left = cache.load_all(0..CHAINS);
    assert!(left < CHAINS * CHAIN, "swept blocks are misses");
    let told = [
        told,
        watched.daemon.log(),
        watched.scrape(),
        watched.daemon.status().to_string(),
        shown(&other, &["devices"]),
        json(&other, &["status"]).to_string(),
    ]
    .concat();
    if let Some(file) = cloud.file() {
        // A key of an account, or of Google the lines of a key.
        let secret = std::fs::read_to_string(file).unwrap();
        let lines = secret.split(['\n', '"']).flat_map(|text| text.split("\\n"));
        for line in lines.filter(|line| line.len() > 40) {
            assert!(!told.contains(line.trim()), "{told}");
        }
    }
}

#[test]
fn what_one_node_has_stored_at_google_another_finds() {
    if let Some(cloud) = Cloud::of("gcs", "KVTIER_TEST_GCS") {
        is_shared(&cloud);
    }
}

/// A service of the machine that gives tokens, as Google's has them.
fn metadata_service() -> (String, std::thread::JoinHandle<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut asked, mut piece) = (Vec::new(), [0; 4096]);
        while !asked.ends_with(b"\r\n\r\n") {
            let count = stream.read(&mut piece).unwrap();
            assert!(count > 0, "it broke off");
            asked.extend_from_slice(&piece[..count]);
        }
        let body =
            "{\"access_token\": \"token-of-the-machine\", \"expires_in\": 3600, \"token_type\": \"Bearer\"}";
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
        write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len()).unwrap();
        String::from_utf8(asked).unwrap()
    });
    (host, answering)
}

/// One token is asked for, and does for all that follows.
#[test]
fn a_machine_at_google_is_known_by_its_metadata_service() {
    let Some(cloud) = Cloud::of("gcs", "KVTIER_TEST_GCS") else {
        return;
    };
    let place = Place::new();
    let (part, home) = (part("machine", &place), place.path("home").display().to_string());
    let (host, answering) = metadata_service();
    let settings = [
        cloud.settings(&part, None),
        vec![
            ("KVTIER_REMOTE_CREDENTIALS", "identity"),
            ("GCE_METADATA_HOST", &host),
            ("HOME", &home),
        ],
    ];
    let watched = Watched::start(&place, &settings.concat());
    watched.is_serving();
    let mut cache = Cache::open(&watched.daemon, "");
    watched.store_durably(&mut cache, 0..1);
    let asked = answering.join().unwrap().to_lowercase();
    let path = "get /computemetadata/v1/instance/service-accounts/default/token";
    assert!(
        asked.starts_with(path) && asked.contains("metadata-flavor: google"),
        "{asked}"
    );
    assert!(!watched.daemon.log().contains("token-of-the-machine"));
}

#[test]
fn what_one_node_has_stored_at_azure_another_finds() {
    if let Some(cloud) = Cloud::of("azure", "KVTIER_TEST_AZURE") {
        is_shared(&cloud);
    }
}

/// A key is renewed by replacing the file; the daemon goes on.
#[test]
fn a_key_of_azure_that_is_wrong_is_told_and_its_file_is_read_again() {
    let Some(cloud) = Cloud::of("azure", "KVTIER_TEST_AZURE") else {
        return;
    };
    let place = Place::new();
    let (file, part) = (place.path("key"), part("renewed", &place));
    let key = std::fs::read_to_string(cloud.file().unwrap()).unwrap();
    std::fs::write(&file, "b3RoZXI=").unwrap();
    let file_name = file.display().to_string();
    let watched = Watched::start(&place, &cloud.settings(&part, Some(&file_name)));
    watched.state_says("out of service");
    // Azure says AuthenticationFailed, the emulator AuthorizationFailure.
    eventually("the cause is counted", || {
        let counted = ["credentials", "denied"].map(|cause| {
            let labels = [("direction", "write"), ("cause", cause)];
            watched.metric("kvtier_remote_outage", &labels)
        });
        (counted[0] + counted[1] == 1).then_some(())
    });
    // Its time is what tells that it changed.
    std::fs::write(&file, &key).unwrap();
    watched.is_serving();
    let mut cache = Cache::open(&watched.daemon, "");
    watched.store_durably(&mut cache, 0..1);
    let log = watched.daemon.log();
    assert!(!log.contains(key.trim()) && !log.contains("b3RoZXI="), "{log}");
}
