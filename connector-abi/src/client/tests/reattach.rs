//! Sessions that lose their daemon and find another.

use super::*;

#[test]
fn an_idle_session_gives_its_region_back_and_attaches_again_without_being_called() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(WORKER, Reattach::Background);
    peer.say_ready();
    session.info();
    drop(peer);
    // Nobody calls the session from here on.
    let daemon = socket.listen(2);
    let _peer = daemon.accept();
    until(|| {
        session
            .guardian()
            .is_some_and(|guardian| guardian.wait(WATCHDOG))
            .then_some(())
    });
    assert!(matches!(session.copy_window(0), Err(ClientError::Lost(_))));
    assert_eq!(session.info().attachment, 2);
}

fn reattached(session: &mut Session) -> SessionInfo {
    until(|| {
        assert!(session.wait(WATCHDOG).is_ok());
        Some(session.info()).filter(|info| info.state != SessionState::Lost)
    })
}

#[test]
fn a_reset_is_repeated_before_anything_else_when_the_session_is_attached_again() {
    let socket = TestSocket::new();
    let (mut session, peer) = socket.attached(Role::Scheduler, Reattach::Background);
    drop(peer);
    poll_until_lost(&mut session);
    assert!(
        lost(session.reset(1)),
        "also one that was asked for while nobody was there"
    );
    let daemon = socket.listen(2);
    let mut peer = daemon.accept();
    assert_eq!(reattached(&mut session).attachment, 2);
    session.request_counters(2).unwrap();
    let Request::Reset { tag, .. } = peer.hear() else {
        panic!("want the reset first")
    };
    peer.say(&Completion::Reset { tag, namespace: None });
    assert!(matches!(peer.hear(), Request::Counters { tag: Tag(2) }));
    assert_eq!(session.poll().unwrap(), None, "its answer is nobody's");
}

#[test]
fn a_new_daemon_is_found_in_the_background_and_adopted_by_info_alone() {
    let socket = TestSocket::new();
    let (mut session, mut peer) = socket.attached(Role::Scheduler, Reattach::Background);
    peer.say_ready();
    session.info();
    session.request_counters(1).unwrap();
    drop(peer);
    poll_until_lost(&mut session);
    let daemon = socket.listen(2);
    let mut peer = daemon.accept();
    assert!(
        session.wait(WATCHDOG).unwrap(),
        "waiting ends when there is something to adopt"
    );
    assert!(lost(session.poll()) && lost(session.request_counters(1)));
    let info = session.info();
    assert_eq!(
        (info.state, info.attachment, info.boot_epoch.0),
        (SessionState::Waiting, 2, [2; 16])
    );
    assert_eq!((info.namespace, info.group_count), (None, 0));
    assert!(
        peer.hears_nothing(),
        "nothing of the old attachment is sent again"
    );
    session.request_counters(2).unwrap();
    assert_eq!(peer.hear(), Request::Counters { tag: Tag(2) });
}

#[test]
fn a_session_can_begin_without_a_daemon() {
    let socket = TestSocket::new();
    let error = Session::open(socket.options(Role::Scheduler)).unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error}");
    let options = SessionOptions {
        reattach: Reattach::Background,
        ..socket.options(Role::Scheduler)
    };
    let mut session = Session::open(options).unwrap();
    let info = session.info();
    assert_eq!(
        (info.state, info.attachment, info.region_bytes),
        (SessionState::Lost, 0, 0)
    );
    assert!(lost(session.poll()) && lost(session.slot_address(SLOT, 0)));
    let daemon = socket.listen(1);
    let _peer = daemon.accept();
    assert_eq!(reattached(&mut session).attachment, 1);
}

#[test]
fn a_refusal_fails_at_once_and_carries_the_daemons_words() {
    let socket = TestSocket::new();
    let daemon = socket.listen(1);
    let options = SessionOptions {
        reattach: Reattach::Background,
        ..socket.options(Role::Scheduler)
    };
    let client = std::thread::spawn(move || Session::open(options).unwrap_err());
    daemon.refuse(AttachStatus::TenantRefused, "uid 7 is not on the list");
    let error = client.join().unwrap();
    assert!(
        matches!(&error, ClientError::Refused(text) if text == "uid 7 is not on the list"),
        "{error}"
    );
}

/// It used to be called "no daemon".
#[test]
fn a_daemon_that_drains_is_there_and_lets_nobody_in() {
    let socket = TestSocket::new();
    let daemon = socket.listen(1);
    let options = SessionOptions {
        reattach: Reattach::Never,
        ..socket.options(Role::Scheduler)
    };
    let client = std::thread::spawn(move || Session::open(options).unwrap_err());
    daemon.refuse(AttachStatus::Draining, "it is draining");
    let error = client.join().unwrap();
    assert!(matches!(error, ClientError::Ending { .. }), "{error}");
    assert!(
        error.to_string().ends_with("lets nobody in: it is draining"),
        "{error}"
    );
}

#[test]
fn a_refusal_while_reattaching_is_tried_again_and_told_meanwhile() {
    let socket = TestSocket::new();
    let daemon = socket.listen(1);
    let options = SessionOptions {
        reattach: Reattach::Background,
        ..socket.options(Role::Scheduler)
    };
    let client = std::thread::spawn(move || Session::open(options).unwrap());
    daemon.refuse(AttachStatus::Draining, "shutting down");
    let mut session = client.join().unwrap();
    daemon.refuse(AttachStatus::SessionRefused, "the role is taken");
    let text = until(|| {
        session
            .poll()
            .err()
            .map(|error| error.to_string())
            .filter(|text| text.contains("taken"))
    });
    assert!(
        text.contains("attaching again: the daemon refused: the role is taken"),
        "{text}"
    );
    let _peer = daemon.accept();
    assert_eq!(reattached(&mut session).attachment, 1);
}
