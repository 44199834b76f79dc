//! Starting and ending: one daemon for each socket, and no end that leaves anything behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use connector_shm::Role;
use kvstore_types::Rank;
use rustix::process::Signal;
use support::client::{Client, Pair, Said};
use support::{Place, eventually, run};

#[test]
fn a_second_daemon_on_one_socket_is_refused_and_the_first_goes_on() {
    let place = Place::new();
    let mut daemon = place.start();
    let (code, said) = run(&mut place.command());
    assert_eq!(code, 73, "{said}");
    assert!(
        said.contains(&format!("another kvtierd (pid {}) serves", daemon.pid())),
        "{said}"
    );
    assert!(daemon.is_running());
    assert_eq!(daemon.occupancy("sessions"), 1);
}

#[test]
fn a_killed_daemons_socket_is_taken_over() {
    let place = Place::new();
    let mut daemon = place.start();
    daemon.signal(Signal::KILL);
    daemon.wait();
    assert!(place.socket().exists());
    let next = place.start();
    assert!(next.log().contains("taken_over=true"));
    assert_eq!(next.occupancy("sessions"), 1);
}

#[test]
fn an_idle_daemon_ends_at_once_and_removes_its_socket() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        let mut daemon = place.start();
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
        assert!(!place.socket().exists());
        assert!(!place.admin_socket().exists());
    }
}

#[test]
fn a_drain_tells_clients_and_waits_for_leases_and_reservations() {
    let place = Place::new();
    let mut daemon = place.start_with(&[("KVTIER_SHUTDOWN_DEADLINE", "1h")]);
    let mut pair = Pair::open(daemon.socket(), 1);
    assert_eq!(pair.store(0..4), 4);
    let (tokens, lookup) = pair.scheduler.lookup(4);
    assert_eq!(tokens, 64);
    let (_, lease) = pair.scheduler.commit(lookup, 4);
    let slots = pair.scheduler.reserve(10..12);
    daemon.signal(Signal::TERM);
    assert_eq!(pair.scheduler.hear(), Said::Draining);
    assert_eq!(pair.worker.hear(), Said::Draining);
    assert!(!place.socket().exists());
    // Nothing is reserved any more, and what was reserved can still be sealed.
    assert!(pair.scheduler.reserve(20..21).iter().all(|grant| grant.page == 0));
    assert_eq!(
        pair.worker.seal(&slots),
        Said::Sealed {
            published: 2,
            sealed: 2
        }
    );
    assert!(daemon.is_running());
    pair.scheduler
        .send(&connector_shm::Request::LeaseRelease { lease });
    assert_eq!(daemon.wait().code(), Some(0));
    daemon.says("drained");
    // The one that was refused is told of, at the latest now.
    daemon.says("draining=1");
    assert_eq!(pair.scheduler.hear(), Said::HungUp);
    assert_eq!(pair.worker.hear(), Said::HungUp);
}

#[test]
fn a_second_signal_does_not_wait() {
    let place = Place::new();
    let mut daemon = place.start_with(&[("KVTIER_SHUTDOWN_DEADLINE", "1h")]);
    let mut pair = Pair::open(daemon.socket(), 1);
    pair.scheduler.reserve(0..4);
    daemon.signal(Signal::TERM);
    assert_eq!(pair.scheduler.hear(), Said::Draining);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(!place.socket().exists());
}

#[test]
fn a_drain_that_takes_too_long_says_what_it_was_waiting_for() {
    let place = Place::new();
    let mut daemon = place.start_with(&[("KVTIER_SHUTDOWN_DEADLINE", "50ms")]);
    let mut pair = Pair::open(daemon.socket(), 1);
    pair.scheduler.reserve(0..4);
    daemon.signal(Signal::TERM);
    daemon.says("slots_filling=4");
    assert_eq!(daemon.wait().code(), Some(0));
}

/// Taking this much memory takes long enough for a signal to come in between; if it does not, nothing is lost.
#[test]
fn a_signal_before_the_start_is_complete_ends_it_in_good_order() {
    let place = Place::new();
    let log = place.path("log");
    let mut command = place.command();
    command
        .env("KVTIER_HOST_CAPACITY", "512MiB")
        .stderr(std::fs::File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    eventually("the daemon takes its lock", || {
        place.path("run/kvtier.sock.lock").exists().then_some(())
    });
    // Signals are heard from shortly after the lock is taken; before that they end a daemon that has nothing yet.
    let status = eventually("the daemon ends", || {
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM);
        child.try_wait().unwrap()
    });
    assert!(status.code().is_none_or(|code| code == 0), "{status}");
    assert!(!place.socket().exists());
}

#[test]
fn a_bad_configuration_touches_nothing() {
    let place = Place::new();
    let file = place.path("bad.toml");
    std::fs::write(&file, "[host]\ncapacty = \"1GiB\"\nwatermark-low = 2").unwrap();
    let (code, said) = run(place.command().arg("--config").arg(&file));
    assert_eq!(code, 64);
    assert!(
        said.contains("host.capacty: no such key; did you mean host.capacity?"),
        "{said}"
    );
    assert!(
        said.contains("host.watermark-low: want 0 < low < high <= 1, got low 2"),
        "{said}"
    );
    assert!(!place.path("run").exists());
}

#[test]
fn what_does_not_fit_the_machine_touches_nothing() {
    let place = Place::new();
    let (code, said) = run(place.command().env("KVTIER_HOST_CAPACITY", "2TiB"));
    assert_eq!(code, 78);
    assert!(said.contains("host.capacity: 2TiB do not fit"), "{said}");
    assert!(!place.path("run").exists());
}

/// The daemon under a limit that only a shell can set for it.
fn limited(place: &Place, limit: &str) -> std::process::Command {
    let daemon = place.command();
    let mut command = std::process::Command::new("sh");
    for (name, value) in daemon.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .arg("-c")
        .arg(format!("ulimit {limit}; exec \"$0\""))
        .arg(daemon.get_program());
    command
}

/// A file that grew beyond the limit killed the daemon by a signal, without a word.
#[test]
fn a_limit_on_the_size_of_files_is_told() {
    let place = Place::new();
    let (code, said) = run(&mut limited(&place, "-f 1024"));
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("RLIMIT_FSIZE"), "{said}");
    // Rings that do not fit are refused, and the daemon goes on.
    let mut child = limited(&place, "-f 40000")
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("the socket is there", || place.socket().exists().then_some(()));
    let mut wanted = support::client::request(Role::Observer, 2);
    wanted.request_ring_bytes = 64 << 20;
    assert!(Client::try_open(&place.socket(), &wanted).is_err());
    assert!(kvstore::status::fetch(&place.socket(), "").is_ok());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_socket_path_that_cannot_be_used_is_told_before_any_memory_is_taken() {
    let place = Place::new();
    std::fs::create_dir_all(place.socket()).unwrap();
    let (code, said) = run(&mut place.command());
    assert_eq!(code, 73, "{said}");
    assert!(
        said.contains("exists and is not a socket") && !said.contains("memory taken"),
        "{said}"
    );
}

#[test]
fn huge_pages_are_tried_or_required() {
    let place = Place::new();
    let mut daemon = place.start_with(&[("KVTIER_HOST_HUGE_PAGES", "try")]);
    assert_eq!(daemon.occupancy("sessions"), 1);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
    // The rest can only be seen where there are none.
    let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    if free.is_ok_and(|free| free.trim() == "0") {
        daemon.says("no huge pages: the region has pages of 4 KiB");
        let (code, said) = run(place.command().env("KVTIER_HOST_HUGE_PAGES", "require"));
        assert_eq!(code, 78, "{said}");
        assert!(
            said.contains("needs 9 free huge pages of 2MiB, 0 are free"),
            "{said}"
        );
    }
}

/// A pipe that nobody reads fills up after some hundred lines.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let place = Place::new();
    let mut child = place
        .command()
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    eventually("the socket is there", || place.socket().exists().then_some(()));
    for _ in 0..2000 {
        // Each is refused with a line in the log.
        let mut client = eventually("a connection", || {
            std::os::unix::net::UnixStream::connect(place.socket()).ok()
        });
        std::io::Write::write_all(&mut client, &[0; 24]).unwrap();
    }
    assert_eq!(
        kvstore::status::fetch(&place.socket(), "").unwrap()["occupancy"]["sessions"],
        1
    );
    // Now nobody can read it any more.
    drop(child.stderr.take());
    assert_eq!(
        kvstore::status::fetch(&place.socket(), "").unwrap()["occupancy"]["sessions"],
        1
    );
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_effective_configuration_is_logged_once() {
    let place = Place::new();
    let daemon = place.start_with(&[("KVTIER_LOG_FORMAT", "json")]);
    let lines: Vec<serde_json::Value> = daemon
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let starting: Vec<_> = lines
        .iter()
        .filter(|line| line["message"] == "starting")
        .collect();
    assert_eq!(starting.len(), 1);
    assert!(
        starting[0]["config"]
            .as_str()
            .unwrap()
            .contains("host.capacity=\"16MiB\"")
    );
}

#[test]
fn each_tenant_has_memory_and_clients_of_its_own() {
    let place = Place::new();
    let file = place.path("two.toml");
    let uid = rustix::process::geteuid().as_raw();
    let other = uid + 1;
    std::fs::write(
        &file,
        format!("[tenant.blue]\nuids = [{uid}]\n[tenant.red]\nuids = [{other}]\n[tenant.white]"),
    )
    .unwrap();
    let mut command = place.command();
    let log = place.path("log");
    let mut child = command
        .arg("--config")
        .arg(&file)
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let log = || std::fs::read_to_string(&log).unwrap();
    eventually("the daemon serves", || log().contains("serving").then_some(()));
    let status = |tenant: &str| kvstore::status::fetch(&place.socket(), tenant);
    assert_eq!(status("").unwrap()["tenant"], "blue");
    assert_eq!(status("white").unwrap()["tenant"], "white");
    for stranger in ["red", "nobody"] {
        let refusal = status(stranger).unwrap_err().to_string();
        assert!(
            refusal.contains(&format!("there is no tenant \"{stranger}\" for uid {uid}")),
            "{refusal}"
        );
    }
    let mut one = Pair::open(&place.socket(), 1);
    assert_eq!(one.store(0..3), 3);
    assert_eq!(status("blue").unwrap()["occupancy"]["slots_resident"], 3);
    assert_eq!(status("white").unwrap()["occupancy"]["slots_resident"], 0);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn clients_of_a_daemon_that_was_killed_see_it_hang_up() {
    let place = Place::new();
    let mut daemon = place.start();
    let mut client = Client::open(daemon.socket(), Role::Worker(Rank(0)), 1);
    daemon.signal(Signal::KILL);
    daemon.wait();
    assert_eq!(client.answer(), Said::HungUp);
}
