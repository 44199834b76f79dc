//! An object store behind a network that is unwell, under a real daemon: it costs misses, it is told, and it passes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::time::Duration;

use kvstore_remote::unwell::{NO_BUCKET, SECRET, Server, Trouble};
use support::blocks::{CHAIN, Cache};
use support::remote::{SOON, Watched, bucket};
use support::{Place, eventually};

/// More than the host tier holds.
const CHAINS: u32 = 24;

/// A daemon, with more in its bucket than in its memory.
struct Scene<'p> {
    server: &'p Server,
    watched: Watched<'p>,
    cache: Cache,
}

impl<'p> Scene<'p> {
    fn new(server: &'p Server, place: &'p Place) -> Self {
        Self::with(server, place, &[])
    }

    fn with(server: &'p Server, place: &'p Place, more: &[(&str, &str)]) -> Self {
        let watched = Watched::start(place, &[&bucket(server), more].concat());
        watched.is_serving();
        let mut cache = Cache::open(&watched.daemon, "");
        watched.store_durably(&mut cache, 0..CHAINS);
        Self {
            server,
            watched,
            cache,
        }
    }

    /// Trouble of a kind, then peace.
    fn rides_out(&mut self, trouble: Trouble, kinds: [&'static str; 2]) {
        self.server.talk.trouble("", "v1/", trouble);
        self.watched.goes_out_of_service(&mut self.cache, kinds);
        self.server.talk.calm();
        self.is_well();
    }

    fn is_well(&mut self) {
        self.watched.comes_back();
        assert_eq!(self.cache.load_all(0..CHAINS), CHAINS * CHAIN);
        assert!(!self.watched.daemon.log().contains(SECRET));
    }
}

#[test]
fn a_store_that_asks_for_fewer_requests_is_left_alone_until_it_does_not() {
    let (server, place) = (Server::start(), Place::new());
    let mut scene = Scene::new(&server, &place);
    let many = Trouble::Answer("429 Too Many Requests", "retry-after: 1\r\n", "");
    scene.rides_out(many, ["throttled", "throttled"]);
    let slow = Trouble::Answer(
        "503 Slow Down",
        "retry-after: 1\r\n",
        "<Error><Code>SlowDown</Code></Error>",
    );
    scene.rides_out(slow, ["throttled", "throttled"]);
}

#[test]
fn a_storm_of_errors_and_broken_connections_pass() {
    let (server, place) = (Server::start(), Place::new());
    let mut scene = Scene::new(&server, &place);
    let broken = Trouble::Answer("500 Internal Server Error", "", "");
    scene.rides_out(broken, ["server", "server"]);
    scene.rides_out(Trouble::Reset, ["connection", "connection"]);
}

#[test]
fn bodies_that_break_off_are_misses() {
    let (server, place) = (Server::start(), Place::new());
    let mut scene = Scene::new(&server, &place);
    server.talk.trouble("GET", "v1/", Trouble::Truncate(5000));
    scene.watched.reads_fail(&mut scene.cache, "truncated");
    server.talk.calm();
    scene.is_well();
}

#[test]
fn answers_that_drip_are_misses() {
    let (server, place) = (Server::start(), Place::new());
    let mut scene = Scene::with(&server, &place, &SOON);
    scene.rides_out(
        Trouble::Drip(4, Duration::from_millis(50)),
        ["stalled", "stalled"],
    );
}

#[test]
fn bits_that_are_turned_on_the_way_are_misses_and_never_wrong_bytes() {
    let (server, place) = (Server::start(), Place::new());
    let mut scene = Scene::new(&server, &place);
    server.talk.trouble("GET", "v1/", Trouble::Flip(9000));
    // Each block that is loaded is compared by the test.
    assert!(scene.cache.load_all(0..CHAINS) < CHAINS * CHAIN);
    let corrupt = scene
        .watched
        .metric("kvtier_remote_corrupt_blocks_total", &[("kind", "payload")]);
    assert!(corrupt > 0);
    assert_eq!(scene.watched.state(), "serving", "damage is no outage");
    server.talk.calm();
    for chain in 0..CHAINS {
        if scene.cache.load(chain) < CHAIN {
            scene.cache.store(chain..chain + 1);
            scene.watched.is_stored();
        }
    }
    assert_eq!(scene.cache.load_all(0..CHAINS), CHAINS * CHAIN);
}

#[test]
fn a_bucket_that_goes_and_credentials_that_expire_are_told_and_waited_for() {
    let (server, place) = (Server::start(), Place::new());
    let mut scene = Scene::new(&server, &place);
    scene.rides_out(NO_BUCKET, ["not-there", "not-there"]);
    server.keys.set("second", "another-secret");
    scene
        .watched
        .goes_out_of_service(&mut scene.cache, ["credentials", "credentials"]);
    for way in ["read", "write"] {
        let labels = [("direction", way), ("cause", "credentials")];
        scene.watched.is_counted("kvtier_remote_outage", &labels, 1);
    }
    assert!(scene.watched.daemon.log().contains("InvalidAccessKeyId"));
    server.write_credentials("second", "another-secret");
    scene.is_well();
    assert!(!scene.watched.daemon.log().contains("another-secret"));
}

/// The answer to a HEAD has no body, so a bucket that was deleted used to look like one that is empty as long as nothing but
/// questions was asked: the tier stayed in service, and everything missed.
#[test]
fn a_bucket_that_vanishes_is_noticed_though_only_questions_are_asked() {
    let (server, place) = (Server::start(), Place::new());
    let watched = Watched::start(&place, &bucket(&server));
    watched.is_serving();
    let mut cache = Cache::open(&watched.daemon, "");
    // From now on the namespace is known, and nobody reads what says so.
    watched.store_durably(&mut cache, 0..1);
    server.talk.trouble("", "v1/", NO_BUCKET);
    let mut chain = 1000;
    eventually("it is noticed", || {
        chain += 1;
        assert_eq!(cache.load(chain), 0);
        watched.state().contains("reads out of service").then_some(())
    });
    let labels = [("direction", "read"), ("cause", "not-there")];
    watched.is_counted("kvtier_remote_outage", &labels, 1);
    assert!(watched.daemon.log().contains("NoSuchBucket"));
    let begun = watched.daemon.log().matches("until it answers again").count();
    assert_eq!(begun, 1, "one line says so");
    server.talk.calm();
    watched.comes_back();
    assert_eq!(cache.load(0), CHAIN);
}

#[test]
fn a_store_is_called_by_its_name_and_nothing_of_it_is_secret() {
    let (server, place) = (Server::start(), Place::new());
    let watched = Watched::start(&place, &bucket(&server));
    watched.is_serving();
    let shown = watched.daemon.status()["remote"]["store"]
        .as_str()
        .unwrap()
        .to_owned();
    let expected = format!(
        "s3 bucket bucket, below kvtier/default, at {}, credentials: file",
        server.endpoint()
    );
    assert_eq!(shown, expected);
    let label = ("store", expected.as_str());
    watched.is_counted("kvtier_remote_info", &[label], 1);
    for text in [
        watched.daemon.log(),
        watched.scrape(),
        watched.daemon.status().to_string(),
    ] {
        assert!(!text.contains(SECRET) && !text.contains("StoreSpec"), "{text}");
    }
}
