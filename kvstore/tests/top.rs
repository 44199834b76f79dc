//! `kvtier top` at a real daemon, in a real terminal.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use support::blocks::{CHAIN, Cache};
use support::command::{refused, with_nvme};
use support::{Place, eventually};

/// Our end of a terminal, and the one for a program.
fn terminal() -> (OwnedFd, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs = rustix::fs::open(&*name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let size = Winsize {
        ws_row: 40,
        ws_col: 120,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&theirs, size).unwrap();
    (ours, theirs)
}

#[test]
fn a_terminal_shows_the_daemon_until_its_user_has_seen_enough() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..4);
    let (ours, theirs) = terminal();
    let end = || Stdio::from(theirs.try_clone().unwrap());
    let mut top = place
        .kvtier(&["top", "--interval", "200ms"])
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    let seen = Arc::new(Mutex::new(String::new()));
    let mut screen = File::from(ours.try_clone().unwrap());
    let shared = Arc::clone(&seen);
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        // A terminal that nobody has open any more says so with an error.
        while let Ok(count @ 1..) = screen.read(&mut bytes) {
            shared
                .lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    });
    let shows = |text: &str| {
        eventually(&format!("the screen shows {text}"), || {
            seen.lock().unwrap().contains(text).then_some(())
        });
    };
    // What was there before is not drawn again, blanks least of all: only words in new places are seen in one piece.
    let words = ["0.1.0", "serving", "host", "throughput", "latencies", "NVMe"];
    for text in words {
        shows(text);
    }
    assert_eq!(cache.load_all(0..4), 4 * CHAIN);
    // Blocks were hit in some interval.
    shows("100.0%");
    File::from(ours).write_all(b"q").unwrap();
    assert!(top.wait().unwrap().success());
    // It leaves the terminal as it was: the other screen, the cursor.
    shows("\u{1b}[?1049l");
    shows("\u{1b}[?25h");
    drop(theirs);
    reader.join().unwrap();
}

#[test]
fn without_a_terminal_it_is_a_line_of_json_for_each_interval() {
    let place = Place::new();
    let daemon = with_nvme(&place);
    let mut cache = Cache::open(&daemon, "");
    cache.store_durably(&daemon, 0..1);
    let (code, error) = refused(&place, &["top"]);
    assert!(code == 64 && error.contains("top needs a terminal"), "{error}");
    let mut top = place
        .kvtier(&["top", "--json", "--interval", "100ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(top.stdout.take().unwrap()).lines();
    let mut next = || -> serde_json::Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let first = next();
    assert_eq!(first["tiers"][1]["tier"], "nvme");
    assert!(first["seconds"].as_f64().unwrap() > 0.0);
    cache.load(0);
    let mut hit = next();
    while hit["hit_ratio"].is_null() {
        hit = next();
    }
    assert_eq!(hit["hit_ratio"], 1.0);
    assert_eq!(hit["queues"]["sessions"], 2);
    assert!(hit["queues"]["waiting_look_ups"].is_u64(), "{hit}");
    drop(lines);
    // Whoever stops reading has seen enough.
    assert!(top.wait().unwrap().success());
}
