//! The page for people, in a real browser, fed by a real daemon. Pictures of it are left in Cargo's folder for tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use connector_shm::Role;
use serde_json::Value;
use support::blocks::{CHAIN, Cache};
use support::browser::Browser;
use support::client::{Client, request};
use support::command::shown;
use support::http::get;
use support::{Daemon, Place, eventually};

fn start(place: &Place) -> (Daemon, SocketAddr) {
    let directory = place.path("nvme").display().to_string();
    let shared = place.path("shared");
    std::fs::create_dir(&shared).unwrap();
    let daemon = place.start_with(&[
        ("KVTIER_REMOTE_KIND", "mount"),
        ("KVTIER_REMOTE_DIRECTORY", shared.to_str().unwrap()),
        ("KVTIER_METRICS_LISTEN", "127.0.0.1:0"),
        ("KVTIER_NVME_DIRECTORIES", &directory),
        ("KVTIER_NVME_CAPACITY", "128MiB"),
        ("KVTIER_NVME_PROMOTION_DEADLINE", "30s"),
        ("KVTIER_HOST_CAPACITY", "8MiB"),
    ]);
    let address = support::http::address(&daemon);
    (daemon, address)
}

fn status(address: SocketAddr) -> Value {
    let (code, text) = get(address, "/api/status", "");
    assert_eq!(code, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn what_feeds_the_page_is_what_the_api_says() {
    let place = Place::new();
    let (daemon, address) = start(&place);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..8);
    assert_eq!(cache.load_all(0..8), 8 * CHAIN);
    let total = |tenant: &Value, name: &str| {
        let counts = tenant[name]["counts"].as_array().unwrap();
        counts.iter().map(|count| count.as_u64().unwrap()).sum::<u64>()
    };
    // A load is over when its lease is back, which nobody answers.
    let status = eventually("the last lease is back", || {
        let status = status(address);
        (total(&status["tenants"][0], "loads") == 8).then_some(status)
    });
    let tenant = &status["tenants"][0];
    assert_eq!(status["ready"], true);
    assert_eq!(tenant["counters"]["published"], 8 * CHAIN);
    let bytes = u64::from(8 * CHAIN) * support::blocks::BLOCK_BYTES;
    assert_eq!(tenant["counters"]["published_bytes"], bytes);
    assert_eq!(tenant["counters"]["load_bytes"], bytes);
    assert_eq!(total(tenant, "stores"), u64::from(8 * CHAIN));
    assert_eq!(tenant["tiers"][1]["tier"], "nvme");
    assert_eq!(tenant["tiers"][1]["blocks"], 8 * CHAIN);
    assert_eq!(tenant["namespaces"][0]["model"], "m");
    assert_eq!(tenant["engines"][0]["sessions"], 2);
    let notices = status["notices"].as_array().unwrap();
    let says = |text: &str| notices.iter().any(|notice| notice["message"] == text);
    assert!(says("client attached") && says("serving"), "{notices:?}");
    let (code, page) = get(address, "/", "");
    assert!(code == 200 && page.starts_with("<!doctype html>"));
}

#[test]
fn the_page_shows_what_the_daemon_does() {
    let Some(mut browser) = Browser::start() else {
        // Past what the test harness would swallow.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: the page was not looked at: there is no Chromium (scripts/setup.sh test installs Debian's)"
        );
        return;
    };
    let place = Place::new();
    let (mut daemon, address) = start(&place);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..40);
    assert_eq!(cache.load_all(0..40), 40 * CHAIN);
    assert_eq!(cache.load(99), 0);
    let hostile = hostile_client(&daemon);
    browser.look(1400, "light");
    browser.open(&format!("http://{address}/"));
    browser.until("document.body?.dataset.samples >= 1");
    check_first_look(&mut browser, &status(address));

    // It goes on by itself.
    let mut chain = 40;
    while browser.value("Number(document.body?.dataset.samples)").as_u64() < Some(5) {
        cache.store(chain..chain + 1);
        cache.load_all(chain.saturating_sub(4)..chain + 1);
        chain += 1;
        std::thread::sleep(std::time::Duration::from_millis(150));
    }
    browser.until("document.querySelectorAll('#chart-throughput path').length > 0");
    let pictures = Path::new(env!("CARGO_TARGET_TMPDIR"));
    browser.screenshot(&pictures.join("page-light.png"));
    let light = browser.value("getComputedStyle(document.body).backgroundColor");
    browser.look(1400, "dark");
    assert_ne!(
        browser.value("getComputedStyle(document.body).backgroundColor"),
        light
    );
    browser.screenshot(&pictures.join("page-dark.png"));
    browser.look(390, "light");
    browser.until("document.documentElement.scrollWidth <= 390");
    browser.screenshot(&pictures.join("page-narrow.png"));
    browser.look(1400, "light");

    shown(&place, &["evict", "--all"]);
    browser.until("document.querySelector('#tier-host .used').textContent === '0 B'");
    browser.until("document.querySelector('#events').textContent.includes('audit: blocks were evicted')");
    shown(&place, &["drain", "--no-wait"]);
    browser.until("document.querySelector('#now').textContent.includes('takes no more stores')");
    assert_eq!(browser.complaints(), Vec::<String>::new());

    // Its last word stays, and is known to be the last.
    drop(hostile);
    cache.close();
    daemon.signal(rustix::process::Signal::KILL);
    daemon.wait();
    browser.until("document.querySelector('#state').textContent === 'not answering'");
    assert!(browser.text("#now").contains("its last answer"));
    assert_eq!(browser.text("#tier-host .used"), "0 B");
}

/// A client whose name would do something if it were not text.
fn hostile_client(daemon: &Daemon) -> Client {
    let mut hostile = request(Role::Scheduler, 9);
    "<img src=x onerror=console.error(1)>".clone_into(&mut hostile.pod);
    "<script>console.error(2)</script>".clone_into(&mut hostile.engine_name);
    Client::try_open(daemon.socket(), &hostile).unwrap()
}

fn check_first_look(browser: &mut Browser, status: &Value) {
    let tenant = &status["tenants"][0];
    let number = |value: &Value| value.as_u64().unwrap();
    // 40 prefixes were there and one was not.
    assert_eq!(browser.text("#state"), "serving");
    assert_eq!(browser.text("#hit-ratio b"), "97.6 %");
    assert_eq!(browser.text("#tokens b"), "5,120");
    assert_eq!(browser.text("#sessions b"), "3");
    assert!(browser.text("#lookups").contains("41 since the start"));
    assert!(browser.text("#stored").contains("320 blocks since the start"));
    assert!(browser.text("#loaded").contains("320 blocks since the start"));
    for tier in tenant["tiers"].as_array().unwrap() {
        let name = tier["tier"].as_str().unwrap();
        let of = |class: &str| format!("#tier-{name} .{class}");
        if name == "remote" {
            // Nobody knows how full it is: it used to be "0 B of 0 B".
            assert_eq!(browser.text(&of("used")), "shared");
            assert!(browser.text(&of("blocks")).ends_with(" blocks"));
            assert!(!browser.text("#tier-remote").contains("0 B"));
            continue;
        }
        #[expect(clippy::cast_precision_loss, reason = "it is shown with one digit")]
        let mib = |value: &Value| number(value) as f64 / f64::from(1 << 20);
        let used = browser.text(&of("used"));
        let shown: f64 = used.strip_suffix(" MiB").unwrap().parse().unwrap();
        assert!((shown - mib(&tier["used_bytes"])).abs() < 0.06, "{used}: {tier}");
        assert_eq!(
            browser.text(&of("blocks")),
            format!("{} blocks", number(&tier["blocks"]))
        );
        let full = 100.0 * mib(&tier["used_bytes"]) / mib(&tier["capacity_bytes"]);
        let shown = browser.value(&format!(
            "document.querySelector('#tier-{name} .bar').ariaValueNow ?? document.querySelector('#tier-{name} .bar').getAttribute('aria-valuenow')"
        ));
        assert_eq!(shown, format!("{full:.1}"));
    }
    let namespace = browser.text("#namespaces tbody tr");
    assert!(
        namespace.starts_with('m') && namespace.contains("41"),
        "{namespace}"
    );
    let device = browser.text("#devices tbody tr");
    assert!(
        device.starts_with(tenant["devices"][0]["directory"].as_str().unwrap()),
        "{device}"
    );
    let engines = browser.text("#engines tbody");
    assert!(
        engines.contains("<img src=x onerror=console.error(1)>") && engines.contains("<script>"),
        "{engines}"
    );
    assert!(browser.text("#events").contains("client attached"));
    assert_eq!(browser.complaints(), Vec::<String>::new());
}
