//! A store behind a network that is unwell. Whatever happens costs misses, is counted and said once, and passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kvstore_types::{Corruption, OperationId, ReadClass};
use object_store::client::{DnsError, DnsFuture, DnsResolver};

use super::rig::{Rig, log_of, whole_log};
use crate::backend::store::Surroundings;
use crate::backend::store::tests::{NO_BUCKET, SECRET, Server, Trouble};
use crate::testing::{key, large_key, wait_until};
use crate::{
    BackendSpec, Direction, FaultKind, OperationKind, Order, Outcome, Presence, RemoteSpec, StoreSpec,
};

const DENIED: Trouble = Trouble::Answer("403 Forbidden", "", "<Error><Code>AccessDenied</Code></Error>");
const BROKEN: Trouble = Trouble::Answer("500 Internal Server Error", "", "");

fn rig(server: &Server, change: impl FnOnce(&mut RemoteSpec)) -> Rig {
    Rig::new(BackendSpec::Store(server.spec()), 1, change)
}

fn out_of_service() -> Outcome {
    Outcome::Unavailable(FaultKind::OutOfService)
}

#[test]
fn a_storm_of_errors_takes_the_store_out_of_service_and_it_comes_back() {
    let server = Server::start();
    let mut rig = rig(&server, |spec| spec.name = "stormy".into());
    assert_eq!(rig.store(key(1)), Outcome::Done);
    server.talk.trouble("", "v1/", BROKEN);
    for _ in 0..3 {
        rig.fetch(key(1));
    }
    rig.wait_for_service(Direction::Read, false);
    let asked = || {
        server
            .talk
            .requests("v1/")
            .iter()
            .filter(|path| !path.contains("probe"))
            .count()
    };
    let before = asked();
    for number in 0..200 {
        assert_eq!(rig.fetch(key(number)), out_of_service());
    }
    assert_eq!(asked(), before, "a store in need is left alone");
    server.talk.calm();
    rig.wait_for_service(Direction::Read, true);
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
    let stats = rig.stats();
    assert!(stats.fault(FaultKind::Server) >= 3 && stats.outages[0] == 1 && stats.outages[1] == 0);
    assert_eq!(
        stats.operation(OperationKind::Demand).unavailable,
        203 - stats.operation(OperationKind::Demand).timed_out
    );
    let told = log_of("stormy");
    let count = |what: &str| told.iter().filter(|line| line.contains(what)).count();
    assert_eq!(
        (count("is out of service"), count("the remote store failed")),
        (1, 1),
        "{told:#?}"
    );
    assert!(count("is in service") >= 2, "{told:#?}");
}

#[test]
fn one_failure_is_repeated_within_the_deadline() {
    let server = Server::start();
    let mut rig = rig(&server, |_| {});
    assert_eq!(rig.store(large_key(1)), Outcome::Done);
    for (number, trouble) in [
        Trouble::Reset,
        Trouble::Close,
        BROKEN,
        Trouble::Truncate(500_000),
        Trouble::ResetAfter(500_000),
    ]
    .into_iter()
    .enumerate()
    {
        server.talk.trouble_times("GET", "v1/", trouble.clone(), 1);
        assert_eq!(rig.fetch(large_key(1)), Outcome::Done, "{trouble:?}");
        assert_eq!(rig.stats().retries, number as u64 + 1);
    }
    server.talk.trouble_times("PUT", "v1/", Trouble::Swallow, 1);
    assert_eq!(
        rig.store(key(2)),
        Outcome::AlreadyPresent,
        "its first attempt was carried out"
    );
    assert_eq!(rig.fetch(key(2)), Outcome::Done);
}

#[test]
fn a_store_that_asks_for_time_gets_it() {
    let server = Server::start();
    let mut rig = rig(&server, |_| {});
    assert_eq!(rig.store(key(1)), Outcome::Done);
    let busy = Trouble::Answer("503 Slow Down", "retry-after: 1\r\n", "<Code>SlowDown</Code>");
    server.talk.trouble_times("GET", "v1/", busy, 1);
    let start = Instant::now();
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
    assert!(start.elapsed() >= Duration::from_secs(1));
    let stats = rig.stats();
    assert_eq!((stats.fault(FaultKind::Throttled), stats.retries), (1, 1));
}

#[test]
fn what_is_changed_on_its_way_is_read_again_and_what_stays_changed_is_a_miss() {
    let server = Server::start();
    let mut rig = rig(&server, |_| {});
    assert_eq!(rig.store(key(1)), Outcome::Done);
    server.talk.trouble_times("GET", "v1/", Trouble::Flip(7000), 1);
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
    assert_eq!(rig.stats().corrupt_in_flight, 1);
    server.talk.trouble("GET", "v1/", Trouble::Flip(7000));
    assert_eq!(rig.fetch(key(1)), Outcome::Corrupt(Corruption::Payload));
    server.talk.calm();
    server.talk.trouble("GET", "v1/", Trouble::Truncate(6000));
    assert_eq!(rig.fetch(key(1)), Outcome::Missing, "it is known to be spoiled");
    assert_eq!(rig.store(key(1)), Outcome::Done);
    assert_eq!(rig.fetch(key(1)), Outcome::Unavailable(FaultKind::Truncated));
    server.talk.calm();
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
}

#[test]
fn answers_that_never_come_or_drip_end_at_the_deadline() {
    let server = Server::start();
    let mut rig = rig(&server, |spec| {
        spec.timing.demand = Duration::from_millis(150);
        spec.timing.lookup = Duration::from_millis(150);
        spec.breaker.failures = 1_000_000;
    });
    assert_eq!(rig.store(key(1)), Outcome::Done);
    for trouble in [Trouble::Stall, Trouble::Drip(16, Duration::from_millis(20))] {
        server.talk.trouble("", "v1/", trouble.clone());
        for _ in 0..5 {
            assert_eq!(rig.fetch(key(1)), Outcome::TimedOut, "{trouble:?}");
        }
        assert_eq!(rig.exists(vec![key(9)], false), [Presence::Unknown]);
        server.talk.calm();
        wait_until("nothing is under way", || rig.stats().under_way == [0, 0, 0]);
        assert_eq!(rig.fetch(key(1)), Outcome::Done, "after {trouble:?}");
    }
    let stats = rig.stats();
    assert_eq!(stats.operation(OperationKind::Demand).timed_out, 10);
    assert!(stats.fault(FaultKind::Stalled) >= 10);
}

#[test]
fn a_look_up_that_runs_out_of_time_tells_what_it_knows() {
    let server = Server::start();
    let mut rig = rig(&server, |spec| {
        spec.timing.lookup = Duration::from_millis(400);
        spec.existence.missing_for = Duration::from_mins(1);
    });
    for number in 0..20 {
        assert_eq!(rig.store(key(number)), Outcome::Done);
    }
    let mut fresh = Rig::new(BackendSpec::Store(server.spec()), 2, |spec| {
        spec.timing.lookup = Duration::from_millis(400);
        spec.breaker.failures = 1_000_000;
    });
    // The second batch of 16 hangs.
    server.talk.trouble("HEAD", "/11/", Trouble::Stall);
    let found = fresh.exists((0..20).map(key).collect(), false);
    assert!(
        found[..16].iter().all(|presence| *presence == Presence::Present),
        "{found:?}"
    );
    assert!(
        found[16..].iter().all(|presence| *presence == Presence::Unknown),
        "{found:?}"
    );
}

#[test]
fn a_block_that_goes_between_look_up_and_fetch_is_a_miss() {
    let server = Server::start();
    let (mut one, mut two) = (rig(&server, |_| {}), rig(&server, |_| {}));
    assert_eq!(one.store(key(1)), Outcome::Done);
    assert_eq!(two.exists(vec![key(1)], false), [Presence::Present]);
    assert_eq!(one.delete(key(1)), Outcome::Done);
    assert_eq!(
        two.exists(vec![key(1)], false),
        [Presence::Present],
        "as far as it knows"
    );
    assert_eq!(two.fetch(key(1)), Outcome::Missing);
    assert_eq!(two.exists(vec![key(1)], false), [Presence::Missing]);
    assert_eq!(two.stats().outages, [0, 0]);
    assert_eq!(two.store(key(1)), Outcome::Done);
}

#[test]
fn credentials_that_expire_are_replaced_while_it_runs() {
    let server = Server::start();
    let mut rig = rig(&server, |spec| spec.name = "expiring".into());
    assert_eq!(rig.store(key(1)), Outcome::Done);
    server.keys.set("second", "another-secret");
    assert_eq!(rig.fetch(key(1)), Outcome::Unavailable(FaultKind::Credentials));
    rig.wait_for_service(Direction::Read, false);
    assert_eq!(rig.fetch(key(1)), out_of_service());
    server.write_credentials("second", "another-secret");
    rig.wait_for_service(Direction::Read, true);
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
    let told = log_of("expiring");
    assert!(
        told.iter().any(|line| line.contains("InvalidAccessKeyId")),
        "{told:#?}"
    );
}

#[test]
fn a_token_that_expired_and_a_clock_that_is_wrong_are_called_by_their_names() {
    for (code, name) in [("ExpiredToken", "token"), ("RequestTimeTooSkewed", "skewed")] {
        let server = Server::start();
        let mut rig = rig(&server, |spec| spec.name = name.into());
        let body = Box::leak(format!("<Error><Code>{code}</Code></Error>").into_boxed_str());
        server
            .talk
            .trouble("GET", "v1/", Trouble::Answer("403 Forbidden", "", body));
        assert_eq!(rig.fetch(key(1)), Outcome::Unavailable(FaultKind::Credentials));
        rig.wait_for_service(Direction::Read, false);
        server.talk.calm();
        rig.wait_for_service(Direction::Read, true);
        assert_eq!(rig.fetch(key(1)), Outcome::Missing);
        let told = log_of(name);
        assert!(told.iter().any(|line| line.contains(code)), "{told:#?}");
    }
}

#[test]
fn a_bucket_that_is_not_there_is_waited_for() {
    let server = Server::start();
    let spec = StoreSpec {
        bucket: "later".into(),
        ..server.spec()
    };
    server.talk.trouble("", "/later/", NO_BUCKET);
    let mut rig = Rig::closed(BackendSpec::Store(spec), 1, |spec| {
        spec.name = "bucketless".into();
    });
    wait_until("a probe has failed", || rig.stats().probes_failed[0] > 0);
    assert_eq!(rig.fetch(key(1)), out_of_service());
    assert_eq!(rig.store(key(1)), out_of_service());
    std::fs::create_dir(server.place.path().join("store/later")).unwrap();
    server.talk.calm();
    rig.wait_for_service(Direction::Read, true);
    rig.wait_for_service(Direction::Write, true);
    assert_eq!(rig.store(key(1)), Outcome::Done);
    let told = log_of("bucketless");
    let named = told
        .iter()
        .filter(|line| line.contains("NoSuchBucket") && line.contains("read"));
    assert_eq!(named.count(), 1, "{told:#?}");
}

#[test]
fn what_may_not_be_written_is_still_read() {
    let server = Server::start();
    let mut rig = rig(&server, |_| {});
    assert_eq!(rig.store(key(1)), Outcome::Done);
    server.talk.trouble("PUT", "v1/", DENIED);
    assert_eq!(rig.store(key(2)), Outcome::Unavailable(FaultKind::Denied));
    rig.wait_for_service(Direction::Write, false);
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
    assert_eq!(rig.stats().in_service, [true, false]);
    server.talk.calm();
    rig.wait_for_service(Direction::Write, true);
    assert_eq!(rig.store(key(2)), Outcome::Done);
    server.talk.trouble("GET", "v1/", DENIED);
    assert_eq!(rig.fetch(key(1)), Outcome::Unavailable(FaultKind::Denied));
    rig.wait_for_service(Direction::Read, false);
    assert_eq!(rig.exists(vec![key(7)], false), [Presence::Unknown]);
    server.talk.calm();
    rig.wait_for_service(Direction::Read, true);
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
}

#[test]
fn writes_that_hang_take_nothing_from_reads() {
    let server = Server::start();
    let mut rig = rig(&server, |_| {});
    assert_eq!(rig.store(key(1)), Outcome::Done);
    server.talk.trouble("PUT", "v1/", Trouble::Stall);
    let writes: Vec<_> = (10..20).map(|number| rig.order_store(key(number), 2)).collect();
    rig.hear_until("as many as may are under way", |rig| rig.taken.len() >= 5);
    wait_until("the others wait", || rig.stats().waiting[1] == 6);
    assert_eq!(rig.stats().under_way[1], 4);
    for _ in 0..20 {
        assert_eq!(rig.fetch(key(1)), Outcome::Done);
    }
    server.talk.calm();
    rig.close();
    for write in writes {
        let outcome = rig.done(write);
        assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    }
}

#[derive(Debug)]
struct Names {
    are_known: AtomicBool,
}

impl DnsResolver for Names {
    fn resolve(&self, _host: &str) -> DnsFuture {
        let are_known = self.are_known.load(Ordering::SeqCst);
        Box::pin(async move {
            if are_known {
                Ok(vec![std::net::Ipv4Addr::LOCALHOST.into()])
            } else {
                Err(DnsError::from("no such host"))
            }
        })
    }
}

#[test]
fn a_host_without_a_name_is_out_of_service_until_it_has_one() {
    let server = Server::start();
    let names = Arc::new(Names {
        are_known: AtomicBool::new(false),
    });
    let spec = StoreSpec {
        endpoint: Some(format!("http://store.invalid:{}", server.port)),
        ..server.spec()
    };
    let surroundings = Surroundings {
        resolver: Some(names.clone()),
        ..Surroundings::real()
    };
    let mut rig = Rig::closed_in(
        BackendSpec::Store(spec),
        1,
        |spec| spec.name = "nameless".into(),
        &surroundings,
    );
    wait_until("a probe has failed", || rig.stats().probes_failed[0] > 0);
    names.are_known.store(true, Ordering::SeqCst);
    rig.wait_for_service(Direction::Read, true);
    rig.wait_for_service(Direction::Write, true);
    assert_eq!(rig.store(key(1)), Outcome::Done);
    let told = log_of("nameless");
    assert!(
        told.iter().any(|line| line.contains("cannot be resolved")),
        "{told:#?}"
    );
}

#[derive(Debug)]
struct Panics(AtomicBool);

impl DnsResolver for Panics {
    fn resolve(&self, _host: &str) -> DnsFuture {
        assert!(!self.0.load(Ordering::SeqCst), "no names today");
        Box::pin(async { Ok(vec![std::net::Ipv4Addr::LOCALHOST.into()]) })
    }
}

#[test]
fn a_call_that_panics_has_failed_and_the_next_one_is_made() {
    let server = Server::start();
    let names = Arc::new(Panics(AtomicBool::new(true)));
    let spec = StoreSpec {
        endpoint: Some(format!("http://store.invalid:{}", server.port)),
        ..server.spec()
    };
    let surroundings = Surroundings {
        resolver: Some(names.clone()),
        ..Surroundings::real()
    };
    let mut rig = Rig::closed_in(BackendSpec::Store(spec), 1, |_| {}, &surroundings);
    wait_until("two probes have failed", || {
        rig.stats().probes_failed.iter().all(|failed| *failed >= 2)
    });
    let outage = rig.stats().outage[0].clone().unwrap();
    assert_eq!(
        (outage.cause, &*outage.text),
        (FaultKind::Server, "a probe panicked")
    );
    names.0.store(false, Ordering::SeqCst);
    rig.wait_for_service(Direction::Read, true);
    rig.wait_for_service(Direction::Write, true);
    assert_eq!(rig.store(key(1)), Outcome::Done);
    names.0.store(true, Ordering::SeqCst);
    assert_eq!(rig.fetch(key(1)), Outcome::Unavailable(FaultKind::Server));
    assert!(rig.stats().fault(FaultKind::Server) >= 2, "each attempt counts");
    rig.fetch(key(1));
    rig.wait_for_service(Direction::Read, false);
    names.0.store(false, Ordering::SeqCst);
    rig.wait_for_service(Direction::Read, true);
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
}

#[test]
fn a_late_answer_is_asked_for_twice_and_the_first_to_come_counts() {
    let server = Server::start();
    let mut rig = rig(&server, |spec| {
        spec.timing.hedge_after = Some(Duration::from_millis(50));
    });
    assert_eq!(rig.store(key(1)), Outcome::Done);
    server.talk.trouble_times("GET", "v1/", Trouble::Stall, 1);
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
    let stats = rig.stats();
    assert_eq!((stats.hedges, stats.hedges_won, stats.retries), (1, 1, 0));
}

#[test]
fn large_blocks_are_read_in_ranges_if_that_is_asked_for() {
    let server = Server::start();
    let mut rig = rig(&server, |spec| spec.limits.range_bytes = Some(300_000));
    assert_eq!(rig.store(large_key(1)), Outcome::Done);
    assert_eq!(rig.store(key(1)), Outcome::Done);
    let gets = || {
        server
            .talk
            .requests("GET")
            .iter()
            .filter(|get| get.contains("/01/"))
            .count()
    };
    assert_eq!(rig.fetch(key(1)), Outcome::Done);
    assert_eq!(gets(), 1);
    assert_eq!(rig.fetch(large_key(1)), Outcome::Done);
    assert_eq!(gets(), 1 + 4);
    server
        .talk
        .trouble_times("GET", "/01/", Trouble::Truncate(1000), 1);
    assert_eq!(rig.fetch(large_key(1)), Outcome::Done);
    assert_eq!(rig.fetch(large_key(2)), Outcome::Missing);
}

#[test]
fn a_fetch_that_somebody_begins_to_wait_for_ends_sooner() {
    let server = Server::start();
    let mut rig = rig(&server, |spec| {
        spec.timing.prefetch = Duration::from_hours(1);
        spec.timing.attempt = Duration::from_hours(1);
        spec.timing.demand = Duration::from_millis(100);
        spec.breaker.failures = 1_000_000;
    });
    server.talk.trouble("GET", "v1/", Trouble::Stall);
    let orders: Vec<OperationId> = (0..6)
        .map(|number| rig.order_fetch(key(number), 1, ReadClass::Prefetch))
        .collect();
    // Under way, and waiting.
    for operation in [orders[0], orders[5]] {
        rig.submit(Order::SetClass {
            operation,
            class: ReadClass::Demand,
        });
    }
    assert_eq!(rig.fetched(orders[0], key(0), 1), Outcome::TimedOut);
    let last = rig.fetched(orders[5], key(5), 1);
    assert_eq!(last, Outcome::TimedOut);
    assert!(!rig.is_answered(orders[1]));
}

#[test]
fn nothing_secret_is_said_anywhere() {
    let server = Server::start();
    let mut rig = rig(&server, |spec| spec.name = "secretive".into());
    assert_eq!(rig.store(key(1)), Outcome::Done);
    server.keys.set("other", "unknown");
    rig.fetch(key(1));
    rig.store(key(2));
    rig.wait_for_service(Direction::Read, false);
    let ours = |line: &&str| line.contains("kvstore_remote") || line.contains("object_store");
    let log = whole_log();
    let lines: Vec<&str> = log.lines().filter(ours).collect();
    assert!(lines.iter().any(|line| line.contains("secretive")));
    for line in lines {
        assert!(!line.contains(SECRET), "{line}");
    }
    let shown = format!("{:?} {:?} {:?}", rig.tier, rig.stats(), server.spec());
    assert!(
        !shown.contains(SECRET) && shown.contains("credentials"),
        "{shown}"
    );
}
