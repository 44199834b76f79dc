//! Sessions against a daemon that does what the test says.

use std::time::Duration;

use connector_shm::{AttachStatus, RankLayout, Request};
use kvstore_types::{BlockHash, GroupSpan, NamespaceId, SlotRef, Tag};

use super::*;
use crate::ClientError;
use crate::test_peer::{LAYOUT, REGION_BYTES, TestPeer, TestSocket, WATCHDOG, WORKER, until};

mod described;
mod events;
mod reattach;
mod trace;

const SLOT: SlotRef = SlotRef {
    page: 2,
    generation: 7,
};

#[expect(clippy::needless_pass_by_value, reason = "the result of a call, as it stands")]
fn lost<T>(result: Result<T, ClientError>) -> bool {
    matches!(result, Err(ClientError::Lost(_)))
}

fn poll_until_lost(session: &mut Session) {
    until(|| match session.poll() {
        Ok(completion) => {
            assert_eq!(completion, None);
            None
        }
        Err(ClientError::Lost(_)) => Some(()),
        Err(error) => panic!("{error}"),
    });
}

#[test]
fn a_session_becomes_ready_when_the_daemon_says_so_and_shows_its_part_of_the_slots() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(WORKER, Reattach::Never);
    let info = session.info();
    assert_eq!(
        (info.state, info.attachment, info.namespace),
        (SessionState::Waiting, 1, None)
    );
    assert!(matches!(session.group_layout(0), Err(ClientError::NotReady)));
    peer.say_ready();
    assert_eq!(
        session.poll().unwrap(),
        None,
        "what was not asked for is not an answer"
    );
    let info = session.info();
    assert_eq!((info.state, info.group_count), (SessionState::Ready, 1));
    assert_eq!(
        (info.namespace, info.boot_epoch.0),
        (Some(NamespaceId([3; 16])), [1; 16])
    );
    assert_eq!(session.group_layout(0).unwrap(), LAYOUT);
    let (address, bytes) = session.slot_address(SLOT, 0).unwrap();
    assert_eq!(bytes, LAYOUT.rank_bytes);
    let first = SlotRef { page: 1, ..SLOT };
    assert_eq!(
        address,
        session.slot_address(first, 0).unwrap().0.wrapping_add(4096)
    );
    peer.say(&Completion::Draining);
    assert_eq!(session.info().state, SessionState::Draining);
}

#[test]
fn slots_outside_the_region_have_no_address() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(WORKER, Reattach::Never);
    peer.say_ready();
    session.info();
    let last = u32::try_from(REGION_BYTES / 4096).unwrap() - 2;
    for (page, group, good) in [
        (0, 0, false),
        (last, 0, true),
        (last + 1, 0, false),
        (u32::MAX, 0, false),
        (2, 1, false),
    ] {
        let found = session.slot_address(SlotRef { page, generation: 1 }, group);
        assert_eq!(found.is_ok(), good, "page {page} group {group}");
    }
}

#[test]
fn requests_arrive_as_they_were_sent() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    let hashes: Vec<_> = (0..50).map(|i| BlockHash([i; 32])).collect();
    let keys = [GroupKeys {
        group: 0,
        hashes: &hashes,
    }];
    let spans = [GroupSpan {
        group: 0,
        first: 1,
        count: 2,
    }];
    session.lookup(1, &keys, 800).unwrap();
    session.commit_load(1, 2, &spans).unwrap();
    session.release_lookup(3).unwrap();
    session.release_lease(2).unwrap();
    session.reserve(4, &keys).unwrap();
    session.reset(5).unwrap();
    session.request_counters(6).unwrap();
    let Request::Lookup {
        tag: Tag(1),
        tokens_max: 800,
        keys,
    } = peer.hear()
    else {
        panic!()
    };
    assert!(keys.groups().eq([GroupKeys {
        group: 0,
        hashes: &hashes
    }]));
    assert_eq!(
        peer.hear(),
        Request::LoadCommit {
            tag: Tag(1),
            lease: Tag(2),
            spans: &spans
        }
    );
    assert_eq!(peer.hear(), Request::LookupRelease { tag: Tag(3) });
    assert_eq!(peer.hear(), Request::LeaseRelease { lease: Tag(2) });
    assert!(matches!(peer.hear(), Request::Reserve { tag: Tag(4), .. }));
    assert!(matches!(peer.hear(), Request::Reset { tag: Tag(5), nonce } if nonce != [0; 16]));
    assert_eq!(peer.hear(), Request::Counters { tag: Tag(6) });
}

#[test]
fn a_look_up_that_is_pending_is_told_and_still_answered() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    assert_eq!(
        peer.request.abi_minor,
        connector_shm::ABI_MINOR,
        "the daemon learns what the client understands"
    );
    let (tag, hit_tokens) = (Tag(4), 800);
    let pending = Completion::LookupPending { tag, hit_tokens };
    let answer = Completion::Lookup {
        tag,
        hit_tokens,
        outcome: LookupOutcome::Complete,
        spans: &[],
    };
    session.lookup(4, &[], 800).unwrap();
    peer.say(&pending);
    assert!(session.wait(WATCHDOG).unwrap(), "it wakes whoever waits");
    assert_eq!(session.poll().unwrap(), Some(pending));
    assert_eq!(session.poll().unwrap(), None);
    peer.say(&answer);
    assert!(session.wait(WATCHDOG).unwrap());
    assert_eq!(session.poll().unwrap(), Some(answer));
    session.lookup(5, &[], 800).unwrap();
    session.release_lookup(5).unwrap();
    assert!(matches!(peer.hear(), Request::Lookup { tag: Tag(4), .. }));
    assert!(matches!(peer.hear(), Request::Lookup { tag: Tag(5), .. }));
    assert_eq!(peer.hear(), Request::LookupRelease { tag: Tag(5) });
}

#[test]
fn an_answer_stays_intact_until_the_next_poll_whatever_else_is_called() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    peer.say(&Completion::Reserve {
        tag: Tag(1),
        grants: &[SLOT; 3],
    });
    let Some(Completion::Reserve { grants, .. }) = session.poll().unwrap() else {
        panic!()
    };
    let grants = grants.as_ptr();
    peer.say_ready();
    peer.say(&Completion::Reserve {
        tag: Tag(2),
        grants: &[SlotRef {
            page: 9,
            generation: 9,
        }; 3],
    });
    assert_eq!(session.info().state, SessionState::Ready);
    assert!(session.wait(WATCHDOG).unwrap());
    session.request_counters(1).unwrap();
    // SAFETY: three grants that stay where they are until the next poll: what this test is about.
    assert_eq!(unsafe { std::slice::from_raw_parts(grants, 3) }, [SLOT; 3]);
    assert!(matches!(
        session.poll(),
        Ok(Some(Completion::Reserve { tag: Tag(2), .. }))
    ));
}

#[test]
fn a_daemon_that_goes_is_noticed_by_polling_waiting_and_sending() {
    let socket = TestSocket::new();
    let (mut session, peer) = socket.attached(Role::Scheduler, Reattach::Never);
    drop(peer);
    poll_until_lost(&mut session);
    assert_eq!(session.info().state, SessionState::Lost);
    assert!(lost(session.request_counters(1)) && lost(session.wait(WATCHDOG)));

    let (mut session, peer) = socket.attached(Role::Scheduler, Reattach::Never);
    let daemon = std::thread::spawn(move || drop(peer));
    assert!(lost(session.wait(WATCHDOG)), "sleeping ends when the daemon does");
    daemon.join().unwrap();

    let (mut session, peer) = socket.attached(Role::Scheduler, Reattach::Never);
    drop(peer);
    until(|| lost(session.release_lease(1)).then_some(()));
}

#[test]
fn a_change_that_something_else_took_in_is_not_waited_for() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    assert_eq!(session.info().state, SessionState::Waiting);
    peer.say_ready();
    assert_eq!(session.poll().unwrap(), None);
    assert!(session.wait(WATCHDOG).unwrap(), "the caller does not know of it");
    assert!(!session.wait(Duration::from_millis(1)).unwrap(), "now it does");
    assert_eq!(session.info().state, SessionState::Ready);
}

#[test]
fn what_the_daemon_said_before_it_went_is_still_heard() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    peer.say(&Completion::Reserve {
        tag: Tag(1),
        grants: &[SLOT],
    });
    drop(peer);
    assert!(session.wait(WATCHDOG).unwrap());
    assert!(matches!(session.poll(), Ok(Some(Completion::Reserve { .. }))));
    poll_until_lost(&mut session);
}

#[test]
fn a_lost_session_gives_its_region_back_and_copies_keep_it_until_they_are_done() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(WORKER, Reattach::Never);
    peer.say_ready();
    session.info();
    let (address, _) = session.slot_address(SLOT, 0).unwrap();
    let window = session.copy_window(0).unwrap();
    // SAFETY: the slot is mapped, and nobody else knows of it.
    unsafe { address.write(77) };
    drop(peer);
    poll_until_lost(&mut session);
    assert!(lost(session.slot_address(SLOT, 0)) && lost(session.copy_window(0)));
    assert!(session.group_layout(0).is_ok(), "layouts are still known");
    drop(session);
    // SAFETY: the window holds a share of the region.
    assert_eq!(unsafe { window.address(SLOT).unwrap().read() }, 77);
}

#[test]
fn a_full_ring_and_a_message_that_never_fits_are_told_apart() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    let hashes = vec![BlockHash([1; 32]); 1000];
    let keys = [GroupKeys {
        group: 0,
        hashes: &hashes,
    }];
    session.reserve(1, &keys).unwrap();
    session.reserve(2, &keys).unwrap();
    let error = session.reserve(3, &keys).unwrap_err();
    assert!(matches!(error, ClientError::QueueFull { .. }), "{error}");
    let hashes = vec![BlockHash([1; 32]); 3000];
    let error = session
        .lookup(
            4,
            &[GroupKeys {
                group: 0,
                hashes: &hashes,
            }],
            0,
        )
        .unwrap_err();
    assert!(matches!(error, ClientError::TooLarge { .. }), "{error}");
    assert!(matches!(peer.hear(), Request::Reserve { tag: Tag(1), .. }));
    session.reserve(3, &keys).unwrap();
}

#[test]
fn what_the_daemon_would_cut_the_session_off_for_is_refused_before() {
    let socket = TestSocket::new();
    let (mut scheduler, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    let key = |group| GroupKeys { group, hashes: &[] };
    let none = SlotRef {
        page: 0,
        generation: 3,
    };
    let span = GroupSpan {
        group: 1,
        first: 0,
        count: 1,
    };
    let cases = [
        (
            scheduler.lookup(1, &[key(1)], 0),
            "groups[0].group: want below 1, got 1",
        ),
        (scheduler.reserve(1, &[key(0), key(0)]), "group 0 is named twice"),
        (
            scheduler.commit_load(1, 2, &[span]),
            "span 0: group: want below 1, got 1",
        ),
        (scheduler.abort(1, &[SLOT, none]), "slots[1] is no slot"),
        (scheduler.seal(1, &[SLOT]), "sealing, except by a worker"),
    ];
    for (result, expected) in cases {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} should contain {expected:?}");
    }
    assert!(peer.hears_nothing());
    let (mut worker, mut peer) = socket.attached(WORKER, Reattach::Never);
    assert!(matches!(
        worker.lookup(1, &[], 0),
        Err(ClientError::Unsupported(_))
    ));
    assert!(matches!(
        scheduler.copy_window(0),
        Err(ClientError::Unsupported(_))
    ));
    assert!(peer.hears_nothing());
}

#[test]
fn a_daemon_that_makes_no_sense_costs_the_session_and_nothing_else() {
    let layout = |rank_offset, rank_bytes, slot_bytes| RankLayout {
        slot_bytes,
        rank_offset,
        rank_bytes,
    };
    let lies = [
        vec![LAYOUT, LAYOUT],
        vec![],
        vec![layout(4096, 4097, 8192)],
        vec![layout(u64::MAX, 2, 8192)],
        vec![layout(0, 4096, REGION_BYTES + 4096)],
    ];
    let misbehave = |lie: &dyn Fn(&mut TestPeer)| {
        let socket = TestSocket::new();
        let (mut session, mut peer) = socket.attached(WORKER, Reattach::Never);
        lie(&mut peer);
        let error = session.poll().unwrap_err();
        assert!(matches!(error, ClientError::PeerMisbehaved(_)), "{error}");
        assert!(lost(session.poll()));
        assert_eq!(session.info().state, SessionState::Lost);
    };
    for groups in &lies {
        misbehave(&|peer| {
            peer.say(&Completion::NamespaceReady {
                namespace: NamespaceId([3; 16]),
                groups,
            });
        });
    }
    misbehave(&|peer| {
        let mut message = peer.end.completions().begin(64).unwrap();
        message.write(&[0xff; 64]);
        message.commit();
    });
}

#[test]
fn closing_says_good_bye_and_dropping_only_hangs_up() {
    let socket = TestSocket::new();
    let (session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    session.close();
    assert_eq!(peer.hear(), Request::Close);
    let (session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    drop(session);
    assert!(peer.hears_nothing());
    assert!(connector_shm::hung_up(std::os::fd::AsFd::as_fd(&peer.socket)).unwrap());
}

#[test]
fn no_answer_is_slept_through() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Never);
    let daemon = std::thread::spawn(move || {
        for tag in 0..2000_u64 {
            until(|| (!peer.end.requests().is_empty().unwrap()).then_some(()));
            assert_eq!(peer.hear(), Request::Counters { tag: Tag(tag) });
            // Now and then the client has gone to sleep by the time the answer comes.
            if tag % 100 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            peer.say(&Completion::Counters {
                tag: Tag(tag),
                json: "{}",
            });
        }
        peer
    });
    for tag in 0..2000 {
        session.request_counters(tag).unwrap();
        assert!(session.wait(WATCHDOG).unwrap());
        let answer = session.poll().unwrap();
        assert_eq!(
            answer,
            Some(Completion::Counters {
                tag: Tag(tag),
                json: "{}"
            })
        );
    }
    daemon.join().unwrap();
}

#[test]
fn waiting_ends_at_the_timeout_when_nothing_comes() {
    let socket = TestSocket::new();
    let (mut session, _peer) = socket.attached(Role::Scheduler, Reattach::Never);
    for timeout in [Duration::ZERO, Duration::from_micros(5), Duration::from_millis(3)] {
        assert!(!session.wait(timeout).unwrap());
    }
}

#[test]
fn the_request_carries_what_the_options_say() {
    let socket = TestSocket::new();
    let (session, peer) = socket.attached(WORKER, Reattach::Never);
    assert_eq!(peer.request.role, WORKER);
    assert_eq!(peer.request.groups, session.options().groups);
    assert_eq!(peer.request.pid, std::process::id());
    assert!(peer.region.bytes() == REGION_BYTES);
}
