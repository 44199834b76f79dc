//! Watching blocks come and go over the admin API.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use kvtier_proto::v1;
use rustix::process::Signal;
use serde_json::Value;
use support::blocks::{CHAIN, Cache, loaded};
use support::client::Pair;
use support::command::{json, kvtier, refused, shown};
use support::{Daemon, Place, eventually};

fn start(place: &Place, more: &[(&str, &str)]) -> Daemon {
    let mut variables = vec![
        ("KVTIER_EVENTS_WATCH", "on"),
        ("KVTIER_EVENTS_BATCH_DELAY", "1ms"),
    ];
    variables.extend(more);
    place.start_with(&variables)
}

fn with_nvme(place: &Place) -> Daemon {
    let directory = place.path("nvme").display().to_string();
    start(
        place,
        &[
            ("KVTIER_NVME_DIRECTORIES", &directory),
            ("KVTIER_NVME_CAPACITY", "128MiB"),
        ],
    )
}

/// What `kvtier events` prints, an object each.
fn events(place: &Place, arguments: &[&str]) -> Vec<Value> {
    let mut all = vec!["events", "--json"];
    all.extend(arguments);
    let text = shown(place, &all);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// How many events say this.
fn count(events: &[Value], what: &str, tier: &str) -> usize {
    let is = |event: &&Value| event["event"] == what && event["tier"] == tier;
    events.iter().filter(is).count()
}

/// A command that goes on until it is dropped.
struct Follower {
    child: Child,
    lines: Receiver<String>,
}

/// Nothing here takes nearly as long; this only ends a test that would hang.
const WATCHDOG: Duration = Duration::from_mins(1);

impl Follower {
    fn start(place: &Place, arguments: &[&str]) -> Self {
        let mut all = vec!["events", "--json"];
        all.extend(arguments);
        Self::spawn(place, &all)
    }

    fn spawn(place: &Place, all: &[&str]) -> Self {
        let mut command = place.kvtier(all);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.recv_timeout(WATCHDOG).unwrap()
    }

    fn next(&mut self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    /// The next one of this kind.
    fn until(&mut self, what: &str) -> Value {
        loop {
            let event = self.next();
            if event["event"] == what {
                return event;
            }
        }
    }

    /// How it ended, and what it complained about.
    fn end(mut self) -> (i32, String) {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut text).unwrap();
        (self.child.wait().unwrap().code().unwrap(), text)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn position(event: &Value) -> String {
    let position = &event["position"];
    format!(
        "{}:{}",
        position["boot_epoch"].as_str().unwrap(),
        position["sequence"]
    )
}

#[test]
fn what_is_there_comes_first_and_then_what_changes() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..1);
    let blocks = usize::try_from(CHAIN).unwrap();
    // The announcer hears of it a moment later.
    eventually("all is told", || {
        let all = events(&place, &[]);
        let is_all = count(&all, "stored", "host") == blocks && count(&all, "stored", "nvme") == blocks;
        is_all.then_some(())
    });
    let all = events(&place, &[]);
    assert_eq!(all.first().unwrap()["event"], "snapshot_begin");
    let last = all.last().unwrap();
    assert_eq!(
        (&last["event"], &last["copies"]),
        (&"snapshot_end".into(), &(2 * blocks).into())
    );
    let mut follower = Follower::start(&place, &["--follow"]);
    let begin = follower.until("snapshot_end");
    cache.store_durably(&daemon, 1..2);
    let stored = follower.until("stored");
    assert_eq!(
        (&stored["tenant"], &stored["tier"]),
        (&"default".into(), &"host".into())
    );
    shown(&place, &["evict", "--all"]);
    let mut told = Vec::new();
    while count(&told, "removed", "host") < 2 * blocks || count(&told, "removed", "nvme") < 2 * blocks {
        told.push(follower.next());
    }
    // Whoever was away goes on where it was, and hears the same.
    let position = position(&begin);
    let mut resumed = Follower::start(&place, &["--since", &position]);
    let following = resumed.next();
    assert_eq!(
        (&following["event"], &following["position"]),
        (&"following".into(), &begin["position"])
    );
    assert_eq!(resumed.next(), stored);
    for event in &told {
        assert_eq!(&resumed.next(), event);
    }
    assert_eq!(events(&place, &[]).len(), 2);
}

/// Keys used to be shown with the namespace's first digits, and refused when they were given back.
#[test]
fn a_key_that_is_shown_can_be_asked_for() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..1);
    let key = eventually("a block is told", || {
        let text = shown(&place, &["events", "--tier", "nvme"]);
        let line = text.lines().find(|line| line.contains("stored"))?;
        Some(
            line.split_whitespace()
                .find(|word| word.contains('/'))?
                .to_owned(),
        )
    });
    let found = json(&place, &["lookup", &key, &key]);
    assert_eq!(found["blocks"].as_array().unwrap().len(), 2);
    let (namespace, rest) = key.split_once('/').unwrap();
    shown(&place, &["lookup", "--namespace", namespace, rest]);
    shown(&place, &["pin", "--prefix", &key]);
    let pins = shown(&place, &["pins"]);
    assert!(pins.contains(&key), "{pins}");
    shown(&place, &["unpin", "--all"]);
    shown(&place, &["evict", "--key", &key, "--tier", "host"]);
    shown(&place, &["evict", "--prefix", &key, "--dry-run"]);
    let (code, error) = refused(&place, &["lookup", &format!("fffffff/{rest}")]);
    assert_eq!(
        (code, error.trim().contains("no namespace begins with fffffff")),
        (64, true),
        "{error}"
    );
}

#[test]
fn whoever_follows_is_told_where_to_go_on() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    let mut follower = Follower::spawn(&place, &["events", "--follow", "--new"]);
    let position = |line: &str| {
        line.rsplit_once("--since ")
            .map(|(_, position)| position.to_owned())
    };
    let begin = position(&follower.line()).expect("where it begins");
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..1);
    let line = follower.line();
    let number = line.split_whitespace().next().unwrap();
    // What a person would type: the beginning's epoch and the last number seen.
    let epoch = begin.split_once(':').unwrap().0;
    let mut resumed = Follower::start(&place, &["--since", &format!("{epoch}:{number}")]);
    assert_eq!(resumed.next()["event"], "following");
    resumed.until("stored");
    let process = rustix::process::Pid::from_child(&follower.child);
    rustix::process::kill_process(process, Signal::INT).unwrap();
    let last = std::iter::from_fn(|| follower.lines.recv_timeout(WATCHDOG).ok()).last();
    let end = last.as_deref().and_then(position).expect("where it ended");
    assert_eq!(follower.end().0, 0);
    let mut resumed = Follower::start(&place, &["--since", &end]);
    assert_eq!(resumed.next()["event"], "following");
}

#[test]
fn a_filter_lets_through_one_tier_or_one_namespace() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..1);
    let blocks = usize::try_from(CHAIN).unwrap();
    eventually("all is told", || {
        (count(&events(&place, &[]), "stored", "nvme") == blocks).then_some(())
    });
    let nvme = events(&place, &["--tier", "nvme"]);
    assert_eq!(
        (count(&nvme, "stored", "nvme"), count(&nvme, "stored", "host")),
        (blocks, 0)
    );
    let namespaces = json(&place, &["namespaces"]);
    let name = namespaces["namespaces"][0]["namespace"].as_str().unwrap();
    assert_eq!(events(&place, &["--namespace", &name[..8]]).len(), 2 + 2 * blocks);
    assert_eq!(events(&place, &["--namespace", &"0".repeat(32)]).len(), 2);
    assert_eq!(events(&place, &["--tenant", "default"]).len(), 2 + 2 * blocks);
    let text = shown(&place, &["events", "--tier", "nvme"]);
    assert!(
        text.starts_with("# what is there:") && text.contains("stored   nvme"),
        "{text}"
    );
    let (code, error) = refused(&place, &["events", "--tenant", "red"]);
    assert_eq!(
        (code, error.trim()),
        (64, "tenant: want one of default, got \"red\"")
    );
}

#[test]
fn a_daemon_that_does_not_answer_or_is_killed_is_said_to_be() {
    let place = Place::new();
    let mut daemon = with_nvme(&place);
    let follower = Follower::start(&place, &["--new"]);
    eventually("it watches", || {
        (json(&place, &["status"])["events"]["watchers"] == 1).then_some(())
    });
    daemon.signal(Signal::STOP);
    let (code, error) = refused(&place, &["events", "--timeout", "200ms"]);
    assert_eq!(code, 1);
    assert!(
        error.contains("no answer in time") || error.contains("timed out"),
        "{error}"
    );
    daemon.signal(Signal::KILL);
    daemon.wait();
    let (code, error) = follower.end();
    assert_eq!(code, 1);
    assert!(error.contains("the daemon has ended"), "{error}");
}

#[test]
fn a_position_of_another_life_is_refused_and_what_survived_is_told_anew() {
    let place = Place::new();
    let mut daemon = with_nvme(&place);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..1);
    let end = events(&place, &[]).pop().unwrap();
    let before = position(&end);
    let (epoch, number) = before.split_once(':').unwrap();
    let beyond = format!("{epoch}:{}", number.parse::<u64>().unwrap() + 1000);
    let (code, error) = refused(&place, &["events", "--since", &beyond]);
    assert_eq!(code, 64);
    assert!(error.contains("which is the last change there was"), "{error}");
    let follower = Follower::start(&place, &["--since", &before]);
    eventually("it watches", || {
        (json(&place, &["status"])["events"]["watchers"] == 1).then_some(())
    });
    daemon.signal(Signal::TERM);
    daemon.wait();
    let (code, error) = follower.end();
    assert_eq!(code, 1);
    assert!(error.contains("the daemon is ending"), "{error}");
    let daemon = with_nvme(&place);
    loaded(&daemon, 1);
    let (code, error) = refused(&place, &["events", "--since", &before]);
    assert_eq!(code, 64);
    assert!(error.contains("from another start of the daemon"), "{error}");
    assert!(error.contains("begin anew without a position"), "{error}");
    let blocks = usize::try_from(CHAIN).unwrap();
    eventually("what survived is told", || {
        (count(&events(&place, &[]), "stored", "nvme") == blocks).then_some(())
    });
}

#[test]
fn nothing_is_kept_unless_it_is_asked_for() {
    let place = Place::new();
    let _daemon = place.start();
    let (code, error) = refused(&place, &["events"]);
    assert_eq!(code, 64);
    assert!(error.contains("set events.watch = \"on\""), "{error}");
}

#[test]
fn watchers_are_bounded_and_one_that_ends_makes_room() {
    let place = Place::new();
    let _daemon = start(&place, &[]);
    let mut followers: Vec<Follower> = (0..16).map(|_| Follower::start(&place, &["--follow"])).collect();
    for follower in &mut followers {
        follower.until("snapshot_end");
    }
    let (code, error) = refused(&place, &["events"]);
    assert_eq!(code, 1);
    assert!(error.contains("there are 16 watchers already"), "{error}");
    followers.pop();
    eventually("its place is free", || {
        (kvtier(&place, &["events"]).0 == 0).then_some(())
    });
}

/// A watcher that reads nothing while far more happens than is kept.
#[test]
fn a_watcher_that_reads_too_slowly_is_told_and_holds_up_nobody() {
    let place = Place::new();
    let daemon = start(&place, &[]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let address = format!("unix://{}", place.admin_socket().display());
    let mut slow = runtime.block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(address).unwrap();
        // Little fits into the window, and nobody reads it.
        let endpoint = endpoint.initial_stream_window_size(65_535);
        let channel = endpoint.connect().await.unwrap();
        let mut client = v1::watch_client::WatchClient::new(channel);
        client
            .events(v1::EventsRequest::default())
            .await
            .unwrap()
            .into_inner()
    });
    let mut pair = Pair::open(daemon.socket(), 1);
    let mut fast = Follower::start(&place, &["--follow"]);
    fast.until("snapshot_end");
    let mut changes = 0;
    while changes < 3 * CHANGES_KEPT {
        for batch in 0..4 {
            assert_eq!(pair.store(batch * 1000..(batch + 1) * 1000), 1000);
        }
        shown(&place, &["evict", "--all"]);
        // The other one keeps up.
        for _ in 0..4000 {
            fast.until("removed");
        }
        changes += 8000;
    }
    // That it is over does not wait for it to read.
    let watchers = |name: &str| json(&place, &["status"])["events"][name].as_u64().unwrap();
    eventually("its place is free", || {
        (watchers("watchers_lagged") == 1 && watchers("watchers") == 1).then_some(())
    });
    assert!(shown(&place, &["status"]).contains("watchers_lagged"));
    let status = runtime.block_on(async {
        loop {
            match slow.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a reason"),
                Err(status) => break status,
            }
        }
    });
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    let text = status.message();
    assert!(
        text.contains("reads more slowly") && text.contains("Begin anew"),
        "{text}"
    );
}

/// Changes that a daemon keeps for watchers.
const CHANGES_KEPT: usize = 1 << 16;
