//! Reservations that say what their blocks are about.

use kvstore_types::DescriptorRun;

use super::*;

const TOKENS: [u32; 64] = [7; 64];

fn run(blocks: u32) -> DescriptorRun<'static> {
    DescriptorRun {
        blocks,
        tokens_per_block: 16,
        parent: Some(BlockHash([5; 32])),
        tokens: &TOKENS[..16 * blocks as usize],
        lora_name: Some("sql"),
        extra_keys: &[0x90],
    }
}

#[test]
fn what_blocks_are_about_goes_with_the_keys() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    let hashes = [BlockHash([1; 32]); 3];
    let keys = [GroupKeys {
        group: 0,
        hashes: &hashes,
    }];
    let runs = [run(2), DescriptorRun::undescribed(1)];
    session.reserve_described(4, &keys, &runs).unwrap();
    let expected = Request::ReserveDescribed {
        tag: Tag(4),
        keys: connector_shm::Keys::new(&keys),
        runs: connector_shm::Runs::new(&runs),
    };
    assert_eq!(peer.hear(), expected);
    // Where nothing is said there is nothing to send.
    session
        .reserve_described(5, &keys, &[DescriptorRun::undescribed(3)])
        .unwrap();
    assert!(matches!(peer.hear(), Request::Reserve { tag: Tag(5), .. }));
}

#[test]
fn a_daemon_that_is_too_old_hears_the_keys_alone() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    session.pretend_daemon_minor(1);
    let hashes = [BlockHash([1; 32]); 2];
    let keys = [GroupKeys {
        group: 0,
        hashes: &hashes,
    }];
    session.reserve_described(4, &keys, &[run(2)]).unwrap();
    assert!(matches!(peer.hear(), Request::Reserve { tag: Tag(4), keys } if keys.hash_count() == 2));
}

#[test]
fn descriptions_are_dropped_before_stores() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    let hashes = [BlockHash([1; 32])];
    let keys = [GroupKeys {
        group: 0,
        hashes: &hashes,
    }];
    // Larger than the ring ever is; then as large as the ring, of which a part is taken.
    let tokens = vec![1; 64 << 10];
    for (tag, count) in [(4, tokens.len()), (5, 16_340)] {
        let run = DescriptorRun {
            blocks: 1,
            tokens_per_block: u32::try_from(count).unwrap(),
            tokens: &tokens[..count],
            ..DescriptorRun::undescribed(1)
        };
        session.reserve_described(tag, &keys, &[run]).unwrap();
    }
    assert!(matches!(peer.hear(), Request::Reserve { tag: Tag(4), .. }));
    assert!(matches!(peer.hear(), Request::Reserve { tag: Tag(5), .. }));
    assert!(peer.hears_nothing());
}

#[test]
fn runs_that_would_cost_the_session_are_refused_and_named() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    let hashes = [BlockHash([1; 32]); 2];
    let keys = [GroupKeys {
        group: 0,
        hashes: &hashes,
    }];
    let short = DescriptorRun {
        tokens: &TOKENS[..31],
        ..run(2)
    };
    let says = DescriptorRun {
        extra_keys: &[0xc0],
        ..DescriptorRun::undescribed(2)
    };
    for (runs, expected) in [
        (vec![run(1)], "as many blocks as there are keys"),
        (vec![run(3)], "as many blocks as there are keys"),
        (vec![], "as many blocks as there are keys"),
        (
            vec![run(2), DescriptorRun::undescribed(0)],
            "runs[1].blocks: want at least 1, got 0",
        ),
        (vec![short], "runs[0].tokens: want 32, got 31"),
        (vec![says], "runs[0].tokens_per_block: want at least 1"),
    ] {
        let error = session
            .reserve_described(1, &keys, &runs)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
    assert!(peer.hears_nothing());
}

#[test]
fn the_daemon_is_told_where_routers_find_the_engine() {
    let socket = TestSocket::new();
    let daemon = socket.listen(1);
    let options = SessionOptions {
        pod: "10.0.0.1:8000".to_owned(),
        model: "m".to_owned(),
        ..socket.options(Role::Scheduler)
    };
    let client = std::thread::spawn(move || Session::open(options).unwrap());
    let peer = daemon.accept();
    client.join().unwrap();
    assert_eq!(
        (peer.request.pod.as_str(), peer.request.model.as_str()),
        ("10.0.0.1:8000", "m")
    );
}
